/**
 * The fault laboratory: `npm run chaos [-- 5 7 --short]`. Runs the experiments of packages/server/test/chaos, all or
 * those named by number, in full unless told otherwise; prints a table and writes a report with a chart of the answers
 * per second and the faults among them. The exit code is 1 when a rule was broken or a control went unnoticed.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { isCaught, reportPage } from './report.mjs';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const root = here('../../');

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    short: { type: 'boolean', default: false },
    out: { type: 'string', default: here('../../chaos-results') },
  },
});
const numbers = positionals.map((each) => each.padStart(2, '0'));
const folder = 'packages/server/test/chaos';
const files = readdirSync(join(root, folder))
  .filter((name) => name.endsWith('.test.ts'))
  .filter((name) => numbers.length === 0 || numbers.includes(name.slice(0, 2)));
const unknown = numbers.filter((each) => !files.some((name) => name.startsWith(each)));
if (unknown.length > 0) {
  console.error(`no experiment has the number ${unknown.join(', ')}: docs/chaos.md lists them`);
  process.exit(2);
}

const resultsDir = join(options.out, 'results');
rmSync(resultsDir, { recursive: true, force: true });
mkdirSync(resultsDir, { recursive: true });
const child = spawn(
  process.execPath,
  [
    join(root, 'node_modules/vitest/vitest.mjs'),
    ...['run', '--root', join(root, 'packages/server'), '--reporter=verbose'],
    ...files.map((name) => `test/chaos/${name}`),
  ],
  {
    stdio: 'inherit',
    env: { ...process.env, CHAOS_SIZE: options.short ? 'short' : 'full', CHAOS_OUT: resultsDir },
  },
);
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => child.kill(signal));
const [code] = await once(child, 'exit');

const results = readdirSync(resultsDir)
  .sort()
  .map((name) => JSON.parse(readFileSync(join(resultsDir, name), 'utf8')));
print(results);
const page = join(options.out, 'report.html');
writeFileSync(page, reportPage(results, { short: options.short, node: process.version }));
console.log(`\nreport: ${page}`);
process.exitCode = code === 0 ? 0 : 1;

function print(results) {
  const lines = results.map((each) => [
    each.kind === 'rules' ? String(each.number) : '',
    each.kind === 'rules' ? each.name : `  control: ${each.name}`,
    verdict(each),
    `${each.seconds} s`,
    each.skipped ?? each.error ?? figures(each),
  ]);
  const widths = [0, 1, 2, 3].map((column) => Math.max(...lines.map((line) => line[column].length)));
  console.log('');
  for (const line of lines) {
    console.log(line.map((cell, index) => (index < 4 ? cell.padEnd(widths[index]) : cell)).join('  '));
    const each = results[lines.indexOf(line)];
    for (const { rule, object, found } of (each.violations ?? []).slice(0, 5))
      console.log(`      ${rule}: ${object}: ${found}`);
  }
}

function verdict(each) {
  if (each.skipped !== undefined) return 'NOT RUN';
  if (each.kind === 'control') return isCaught(each) ? 'caught' : 'NOT CAUGHT';
  return each.error === undefined && each.violations.length === 0 ? 'held' : 'BROKEN';
}

function figures(each) {
  return Object.entries(each.figures ?? {})
    .map(([name, value]) => `${name} ${value}`)
    .join(' · ');
}
