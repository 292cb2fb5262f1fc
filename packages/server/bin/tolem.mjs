#!/usr/bin/env node
// The tolem command. In a clone: npx tolem, after npm start or npm run build.
import { existsSync } from 'node:fs';

const cli = new URL('../dist/cli.js', import.meta.url);
if (!existsSync(cli)) {
  console.error('tolem is not built yet: run "npm run build" in the clone');
  process.exit(1);
}
const { run } = await import(cli.href);
process.exitCode = await run(process.argv.slice(2), process.env, process);
