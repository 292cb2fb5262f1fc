// Behind npm start, test, build, bench and chaos: installs and builds what is missing or out of date, then goes on in
// this same process, so that signals and exit codes are the program's own. Plain JavaScript, for a clone with nothing
// in it.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  accessSync,
  chmodSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const at = (...names) => join(root, ...names);
const commands = { start, test, bench, chaos, build: async () => {}, schema };

const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  leave(`Node.js ${process.versions.node} is too old: install 20.19 or newer`);
}
process.chdir(root);
const [name, ...args] = process.argv.slice(2);
if (!Object.hasOwn(commands, name ?? '')) {
  leave(`usage: node tools/bootstrap.mjs ${Object.keys(commands).join('|')}`);
}
if (!isReady()) await alone(setUp);
await commands[name](args);

// ── What comes after ───────────────────────────────────────────────────────────────────────────────────────────────

async function start(rest) {
  if (rest.length > 0)
    leave(`npm start takes no arguments: settings are variables, "npx tolem config" lists them`);
  const { main } = await import('../packages/server/dist/main.js');
  await main({ demo: true });
}

/** The last line is "N passed, N failed", and ", N skipped" when there are any. */
async function test(rest) {
  const reports = mkdtempSync(join(tmpdir(), 'tolem-report-'));
  const total = { passed: 0, failed: 0, skipped: 0 };
  for (const each of packages().filter((each) => existsSync(at('packages', each, 'vitest.config.ts')))) {
    const report = join(reports, `${each}.json`);
    const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
    const vitest = [
      at('node_modules/vitest/vitest.mjs'),
      'run',
      '--root',
      at('packages', each),
      ...reporters,
      ...rest,
    ];
    const { code } = await run(process.execPath, vitest, { stdio: 'inherit' });
    const counted = existsSync(report) ? JSON.parse(readFileSync(report, 'utf8')) : { testResults: [] };
    sayLaboratory(counted.testResults);
    const tests = counted.testResults.flatMap((file) => file.assertionResults);
    const isFailed = ({ status }) => status === 'failed';
    const broken = counted.testResults.filter(
      (file) => isFailed(file) && !file.assertionResults.some(isFailed),
    );
    const failed = tests.filter(isFailed).length + broken.length;
    total.passed += tests.filter(({ status }) => status === 'passed').length;
    total.skipped += tests.filter(({ status }) => status !== 'failed' && status !== 'passed').length;
    // An error outside of tests fails none of them, and yet the run.
    total.failed += code === 0 ? failed : Math.max(failed, 1);
  }
  rmSync(reports, { recursive: true });
  const skipped = total.skipped > 0 ? `, ${total.skipped} skipped` : '';
  console.log(`${total.passed} passed, ${total.failed} failed${skipped}`);
  process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;
}

/** The fault laboratory's short forms are to take at most 15 minutes together on 2 cores. */
function sayLaboratory(files) {
  const experiments = files.filter(({ name }) => name.includes('/test/chaos/'));
  if (experiments.length === 0) return;
  const minutes = experiments.reduce((sum, file) => sum + file.endTime - file.startTime, 0) / 60_000;
  console.log(`${experiments.length} experiments took ${minutes.toFixed(1)} of 15 minutes`);
}

async function bench(rest) {
  process.argv = [process.execPath, at('tools/bench/run.mjs'), ...rest];
  await import('./bench/run.mjs');
}

async function chaos(rest) {
  process.argv = [process.execPath, at('tools/chaos/run.mjs'), ...rest];
  await import('./chaos/run.mjs');
}

/** Writes sql/schema.sql anew from a database that the migrations have just made. */
async function schema() {
  const [{ ensurePostgres }, { connectOptions, openClient }, { migrate }, { dumpSchema }] = await Promise.all(
    ['embedded', 'connect', 'migrate', 'dump'].map((each) => import(`../packages/server/dist/db/${each}.js`)),
  );
  const dataDir = mkdtempSync('/tmp/tolem-schema-');
  chmodSync(dataDir, 0o711);
  const server = await ensurePostgres({ dataDir });
  try {
    const options = connectOptions(server.connection, { name: 'schema', role: 'owner' });
    await migrate(options, { directory: at('packages/server/sql') });
    const client = await openClient(options);
    writeFileSync(at('packages/server/sql/schema.sql'), await dumpSchema(client));
    await client.end();
  } finally {
    await server.stop();
    rmSync(server.home, { recursive: true });
    rmSync(dataDir, { recursive: true, force: true });
  }
  console.log('packages/server/sql/schema.sql is written');
}

// ── Set-up ─────────────────────────────────────────────────────────────────────────────────────────────────────────

function isReady() {
  return isInstalled() && packages().every(isBuilt);
}

async function setUp() {
  if (!isInstalled()) await step('Installing the packages', install);
  for (const each of packages()) {
    if (!isBuilt(each)) await step(`Building packages/${each}`, () => build(each));
  }
}

/** Whether node_modules holds exactly what package-lock.json says; npm writes its own list there when it is through. */
function isInstalled() {
  const wanted = lockedPackages(at('package-lock.json'));
  const found = lockedPackages(at('node_modules/.package-lock.json'));
  const isNeeded = ({ optional, devOptional, os, cpu, libc }) =>
    !(optional || devOptional) ||
    Boolean(os?.includes(process.platform) && cpu?.includes(process.arch) && !libc);
  return (
    Object.entries(wanted).every(([path, entry]) => {
      const there = found[path];
      return there
        ? there.version === entry.version && there.integrity === entry.integrity
        : !isNeeded(entry);
    }) && Object.keys(found).every((path) => path in wanted)
  );
}

function lockedPackages(path) {
  if (!existsSync(path)) return {};
  const entries = Object.entries(JSON.parse(readFileSync(path, 'utf8')).packages);
  return Object.fromEntries(entries.filter(([name]) => name.includes('node_modules/')));
}

async function install() {
  const npm = process.env.npm_execpath?.endsWith('npm-cli.js')
    ? [process.execPath, process.env.npm_execpath]
    : ['npm'];
  const flags = ['ci', '--include=dev', '--include=optional', '--no-audit', '--no-fund', '--prefer-offline'];
  const cache = ownCache();
  const env = cache ? { ...process.env, npm_config_cache: cache } : process.env;
  const { code, output } = await run(npm[0], [...npm.slice(1), ...flags], { env });
  if (cache) rmSync(cache, { recursive: true, force: true });
  if (code !== 0)
    leave(`${output.trimEnd()}\nThe packages could not be installed: npm ci ended with ${code}`);
}

/** A cache for npm, for users who have no home of their own. */
function ownCache() {
  try {
    const usual = process.env.npm_config_cache ?? join(homedir(), '.npm');
    mkdirSync(usual, { recursive: true });
    accessSync(usual, constants.W_OK);
    return null;
  } catch {
    return mkdtempSync(join(tmpdir(), 'tolem-npm-'));
  }
}

function packages() {
  return readdirSync(at('packages'))
    .filter((each) => existsSync(at('packages', each, 'package.json')))
    .sort();
}

function isBuilt(each) {
  const stamp = at('packages', each, 'dist/.built');
  return !buildScript(each) || (existsSync(stamp) && readFileSync(stamp, 'utf8') === fingerprint(each));
}

function buildScript(each) {
  return JSON.parse(readFileSync(at('packages', each, 'package.json'), 'utf8')).scripts?.build;
}

async function build(each) {
  const before = fingerprint(each);
  const env = { ...process.env, PATH: `${at('node_modules/.bin')}:${process.env.PATH}` };
  const { code, output } = await run('/bin/sh', ['-c', buildScript(each)], {
    env,
    cwd: at('packages', each),
  });
  if (code !== 0) leave(`${output.trimEnd()}\npackages/${each} could not be built`);
  writeFileSync(at('packages', each, 'dist/.built'), before);
}

/** Of everything that goes into a build: names, sizes and times of change. */
function fingerprint(each) {
  const hash = createHash('sha256');
  const note = (path) => {
    const { size, mtimeMs } = statSync(path);
    hash.update(`${path} ${size} ${mtimeMs}\n`);
  };
  const walk = (directory) => {
    for (const entry of readdirSync(directory, { withFileTypes: true })) {
      if (['node_modules', 'dist', 'test', 'bin', 'sql'].includes(entry.name)) continue;
      if (entry.isDirectory()) walk(join(directory, entry.name));
      else if (entry.isFile()) note(join(directory, entry.name));
    }
  };
  note(at('package-lock.json'));
  note(at('tsconfig.json'));
  walk(at('packages', each));
  return hash.digest('hex');
}

/** One process at a time sets up; the others wait and find it done. */
async function alone(work) {
  const lock = at('.setup.lock');
  for (let told = false; ; await sleep(200)) {
    try {
      writeFileSync(lock, String(process.pid), { flag: 'wx' });
      break;
    } catch (error) {
      if (error.code !== 'EEXIST')
        leave(`${root} cannot be written (${error.code}): set up as a user who may write there`);
    }
    const holder = existsSync(lock) ? Number(readFileSync(lock, 'utf8')) : 0;
    if (holder > 0 && !isAlive(holder)) rmSync(lock, { force: true });
    else if (holder > 0 && !told) {
      told = true;
      console.log(`Waiting for process ${holder}, which is setting up`);
    }
  }
  const release = () => rmSync(lock, { force: true });
  process.once('exit', release);
  await work();
  process.off('exit', release);
  release();
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** Shows a step and how long it takes; live on a terminal, as two lines elsewhere. */
async function step(title, work) {
  const startedAt = Date.now();
  const line = () => `[${((Date.now() - startedAt) / 1000).toFixed(1)} s] ${title}`;
  const ticker = process.stdout.isTTY ? setInterval(() => process.stdout.write(`\r${line()}`), 100) : null;
  if (!ticker) console.log(line());
  await work().finally(() => clearInterval(ticker));
  console.log(`${ticker ? '\r' : ''}${line()}: done`);
}

/** Runs a program and passes signals on to it; answers its exit code and, unless inherited, the end of its output. */
async function run(program, programArgs, options) {
  const child = spawn(program, programArgs, { stdio: ['ignore', 'pipe', 'pipe'], ...options });
  let output = '';
  const keep = (chunk) => {
    output = (output + chunk).slice(-8000);
  };
  child.stdout?.on('data', keep);
  child.stderr?.on('data', keep);
  // A terminal's Ctrl-C reaches the child by itself.
  const onInterrupt = () => {};
  const onTerminate = () => child.kill('SIGTERM');
  process.on('SIGINT', onInterrupt).on('SIGTERM', onTerminate);
  const code = await new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('close', (exitCode, signal) => resolve(exitCode ?? signal));
  });
  process.off('SIGINT', onInterrupt).off('SIGTERM', onTerminate);
  return { code, output };
}

function leave(line) {
  console.error(line);
  process.exit(1);
}
