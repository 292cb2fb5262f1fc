/** Programs that experiments need and that are no npm packages. */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';

/**
 * Sees to a file of a Debian package: installs the package where this user may. Answers why it cannot be had, in one
 * line; null when it is there.
 */
export function missingFile(path: string, debianPackage: string): string | null {
  if (existsSync(path)) return null;
  const wanted = `${path} is missing: it comes with the Debian package ${debianPackage}`;
  if (!existsSync('/usr/bin/apt-get') || process.getuid?.() !== 0) return wanted;
  console.log(`installing the Debian package ${debianPackage}`);
  const apt = (...args: string[]) =>
    execFileSync('apt-get', ['-qq', ...args], {
      stdio: 'ignore',
      timeout: 120_000,
      // A package may bring a service, which is not wanted here.
      env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' },
    });
  const install = () => apt('install', '-y', '--no-install-recommends', debianPackage);
  try {
    try {
      install();
    } catch {
      apt('update');
      install();
    }
  } catch {
    return `${wanted}, and apt-get could not install it`;
  }
  return existsSync(path) ? null : wanted;
}
