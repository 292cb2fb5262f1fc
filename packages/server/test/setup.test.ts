import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { SetupError } from '../src/config.js';
import { connectOptions, openClient } from '../src/db/connect.js';
import { type EmbeddedPostgres, ensurePostgres, linkLibraries } from '../src/db/embedded.js';
import { temporaryDirectory } from './support/database.js';

const root = process.getuid!() === 0;
const cleanups: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

let made = '';

beforeAll(async () => {
  made = temporaryDirectory();
  await (await ensurePostgres({ dataDir: made })).stop();
});

afterAll(() => rmSync(made, { recursive: true }));

/** An empty data directory. */
function directory(): string {
  const path = temporaryDirectory();
  cleanups.push(() => {
    if (existsSync(join(path, 'postgres'))) rmSync(realpathSync(join(path, 'postgres')), { recursive: true });
    rmSync(path, { recursive: true, force: true });
  });
  return path;
}

/** A data directory with a database in it, which is not running. */
function madeDirectory(): string {
  const path = directory();
  execFileSync('cp', ['-a', join(made, 'postgres'), path]);
  return path;
}

async function start(dataDir: string, lines: string[] = []): Promise<EmbeddedPostgres> {
  const server = await ensurePostgres({ dataDir, onProgress: (line) => lines.push(line) });
  cleanups.push(() => server.stop());
  return server;
}

async function query(server: Pick<EmbeddedPostgres, 'connection'>, sql: string): Promise<unknown[]> {
  const client = await openClient(
    connectOptions(server.connection, { name: 'test', role: 'owner', settings: { search_path: 'public' } }),
  );
  const { rows } = await client.query({ text: sql, rowMode: 'array' });
  await client.end();
  return rows.flat();
}

const pidOf = ({ home }: { home: string }) =>
  Number(readFileSync(join(home, 'cluster/postmaster.pid'), 'utf8').split('\n')[0]);
const runs = (server: { home: string }) => existsSync(join(server.home, 'cluster/postmaster.pid'));

/** Another process of the centre, as far as the database is concerned. It stops when its standard input ends. */
function spawnStarter(dataDir: string): ChildProcess {
  const module = pathToFileURL(join(import.meta.dirname, '../dist/db/embedded.js')).href;
  const script = `
    import { ensurePostgres } from ${JSON.stringify(module)};
    const server = await ensurePostgres({ dataDir: ${JSON.stringify(dataDir)}, onProgress: (line) => console.error(line) });
    console.log(JSON.stringify({ home: server.home, adopted: server.adopted, connection: server.connection }));
    process.stdin.resume().once('end', () => server.stop());`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  cleanups.push(() => end(child));
  return child;
}

async function started(
  child: ChildProcess,
): Promise<{ home: string; adopted: boolean; connection: EmbeddedPostgres['connection'] }> {
  let errors = '';
  child.stderr!.on('data', (chunk) => (errors += chunk));
  const [chunk] = await Promise.race([once(child.stdout!, 'data'), once(child, 'exit').then(() => [null])]);
  if (chunk === null) throw new Error(`the starter ended: ${errors}`);
  return JSON.parse(String(chunk));
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.stdin!.end();
  await once(child, 'exit');
}

test('a first start makes a durable server on a private socket, and a second finds the data', async () => {
  const dataDir = directory();
  const first = await start(dataDir);
  expect(first.adopted).toBe(false);
  const shown = await query(
    first,
    `select setting from pg_settings where name in
       ('fsync', 'synchronous_commit', 'full_page_writes', 'data_checksums', 'listen_addresses', 'server_encoding') order by name`,
  );
  expect(shown).toEqual(['on', 'on', 'on', '', 'UTF8', 'on']);
  expect(await query(first, 'select datlocale from pg_database where datname = current_database()')).toEqual([
    'C.UTF-8',
  ]);
  expect(statSync(first.connection.host).mode & 0o777).toBe(0o700);
  await query(first, 'create table kept as select 42 as n');
  await first.stop();
  expect(runs(first)).toBe(false);
  await expect(query(first, 'select 1')).rejects.toThrow(SetupError);

  const second = await start(dataDir);
  expect(second.adopted).toBe(false);
  expect(await query(second, 'select n from kept')).toEqual([42]);
});

test('the server never runs as root', async () => {
  const server = await start(madeDirectory());
  const uid = statSync(join(server.home, 'cluster')).uid;
  expect(uid).not.toBe(0);
  if (process.platform === 'linux') expect(statSync(`/proc/${pidOf(server)}`).uid).toBe(uid);
});

test('a server that is killed is started again with what was committed', async () => {
  const lines: string[] = [];
  const server = await start(madeDirectory(), lines);
  await query(server, 'create table kept as select generate_series(1, 1000) as n');
  for (let round = 1; round <= 2; round++) {
    const pid = pidOf(server);
    process.kill(pid, 'SIGKILL');
    const again = () => lines.filter((line) => line === 'The database is up again.').length === round;
    for (let i = 0; i < 400 && !again(); i++) await sleep(50);
    expect(lines.join('\n')).toContain('stopped by itself');
    expect(pidOf(server)).not.toBe(pid);
    expect(await query(server, 'select count(*)::int from kept')).toEqual([1000]);
  }
});

test('every watcher of one killed server ends up with the same new one', async () => {
  const dataDir = madeDirectory();
  const server = await start(dataDir);
  const others = [spawnStarter(dataDir), spawnStarter(dataDir)];
  for (const other of others) expect((await started(other)).adopted).toBe(true);
  process.kill(pidOf(server), 'SIGKILL');
  const watchers = "select count(*)::int from pg_stat_activity where application_name = 'tolem watch'";
  let seen: unknown[] = [];
  for (let i = 0; i < 200 && seen[0] !== 3; i++) {
    await sleep(100);
    seen = await query(server, watchers).catch(() => []);
  }
  expect(seen).toEqual([3]);
});

test('processes share one server, and only the last one stops it', async () => {
  const dataDir = madeDirectory();
  const other = spawnStarter(dataDir);
  const { adopted, home } = await started(other);
  expect(adopted).toBe(false);
  const mine = await start(dataDir);
  expect(mine.adopted).toBe(true);
  await end(other);
  expect(runs({ home })).toBe(true);
  expect(await query(mine, 'select 1')).toEqual([1]);
  await mine.stop();
  expect(runs({ home })).toBe(false);
});

test('a server whose starter was killed goes on and is used by the next', async () => {
  const dataDir = madeDirectory();
  const killed = spawnStarter(dataDir);
  const { home } = await started(killed);
  const pid = pidOf({ home });
  killed.kill('SIGKILL');
  await once(killed, 'exit');
  const next = await start(dataDir);
  expect(next.adopted).toBe(true);
  expect(pidOf(next)).toBe(pid);
});

test('four first starts at once end in one server', async () => {
  const dataDir = directory();
  const starters = [1, 2, 3, 4].map(() => spawnStarter(dataDir));
  const servers = await Promise.all(starters.map(started));
  expect(new Set(servers.map((server) => pidOf(server))).size).toBe(1);
  expect(servers.filter((server) => !server.adopted)).toHaveLength(1);
  for (const server of servers) expect(await query(server, 'select current_database()')).toEqual(['tolem']);
});

test('a first start killed while it makes the cluster leaves nothing that hinders the next', async () => {
  const dataDir = directory();
  for (const afterMs of [30, 150, 300]) {
    const killed = spawnStarter(dataDir);
    const draft = () =>
      existsSync(join(dataDir, 'postgres')) &&
      readdirSync(join(dataDir, 'postgres')).some((name) => name.startsWith('cluster.'));
    for (let i = 0; i < 500 && !draft(); i++) await sleep(10);
    expect(draft()).toBe(true);
    await sleep(afterMs);
    killed.kill('SIGKILL');
    await once(killed, 'exit');
    expect(existsSync(join(dataDir, 'postgres/cluster'))).toBe(false);
  }
  const server = await start(dataDir);
  expect(await query(server, 'select 1')).toEqual([1]);
});

test('the number of a dead server that now belongs to another program does not hinder the start', async () => {
  const dataDir = madeDirectory();
  const first = await start(dataDir);
  await first.stop();
  const program = spawn('sleep', ['60'], root ? { uid: statSync(first.home).uid, cwd: '/' } : {});
  cleanups.push(() => program.kill());
  writeFileSync(
    join(first.home, 'cluster/postmaster.pid'),
    `${program.pid}\n${first.home}/cluster\n0\n5432\n\n\n`,
  );
  const second = await start(dataDir);
  expect(await query(second, 'select 1')).toEqual([1]);
});

test('where the name of the socket would be too long, it lies under /tmp', async () => {
  const dataDir = join(directory(), 'a-long-name'.repeat(10));
  mkdirSync(dataDir, { mode: 0o711 });
  cleanups.push(() => rmSync(server.connection.host, { recursive: true, force: true }));
  const server = await start(dataDir);
  expect(dirname(server.connection.host)).toBe('/tmp');
  expect(await query(server, 'select 1')).toEqual([1]);
  await server.stop();
});

test('where the database’s user cannot enter, the database is kept elsewhere and a link tells where', async () => {
  const closed = join(directory(), 'closed');
  mkdirSync(closed, { mode: 0o700 });
  const dataDir = join(closed, 'data');
  cleanups.push(() => rmSync(realpathSync(join(dataDir, 'postgres')), { recursive: true }));
  const lines: string[] = [];
  const server = await start(dataDir, lines);
  if (root) {
    expect(readlinkSync(join(dataDir, 'postgres'))).toBe(server.home);
    expect(dirname(server.home)).toBe('/var/lib/tolem');
    expect(lines.filter((line) => line.includes(server.home))).toHaveLength(1);
  } else {
    expect(server.home).toBe(join(dataDir, 'postgres'));
  }
  expect(await query(server, 'select 1')).toEqual([1]);
});

test('a database of another major version is refused untouched', async () => {
  const dataDir = madeDirectory();
  const server = await start(dataDir);
  await server.stop();
  writeFileSync(join(server.home, 'cluster/PG_VERSION'), '14\n');
  await expect(start(dataDir)).rejects.toThrow(/is of PostgreSQL 14, this build carries 18/);
});

test('a data directory that cannot be made is refused in one line', async () => {
  const file = join(directory(), 'file');
  writeFileSync(file, '');
  const refusal = await start(join(file, 'data')).catch((error) => error);
  expect(refusal).toBeInstanceOf(SetupError);
  expect(refusal.message).toMatch(/^the data directory .* cannot be used \(ENOTDIR\): .*TOLEM_DATA_DIR$/);
});

test('links between libraries are made where the install script did not run', () => {
  const native = directory();
  mkdirSync(join(native, 'lib'));
  writeFileSync(join(native, 'lib/libx.so.1.2'), 'library');
  const links = [{ source: 'native/lib/libx.so.1.2', target: 'native/lib/libx.so.1' }];
  writeFileSync(join(native, 'pg-symlinks.json'), JSON.stringify(links));
  expect(linkLibraries(native)).toBe(true);
  expect(linkLibraries(native)).toBe(true);
  expect(readFileSync(join(native, 'lib/libx.so.1'), 'utf8')).toBe('library');
});

test('a connection lost in the pool does not end the process', async () => {
  const { openPool } = await import('../src/db/connect.js');
  const server = await start(madeDirectory());
  const pool = await openPool(connectOptions(server.connection, { name: 'pool', role: 'owner' }), { max: 2 });
  const { rows } = await pool.query<{ pid: number; big: bigint }>(
    "select pg_backend_pid() as pid, '9223372036854775807'::int8 as big",
  );
  expect(rows[0]!.big).toBe(9223372036854775807n);
  expect((await pool.query("select '{1,null}'::int8[] as list, date '2024-03-01' as day")).rows).toEqual([
    { list: [1n, null], day: '2024-03-01' },
  ]);
  await query(server, `select pg_terminate_backend(${rows[0]!.pid})`);
  await sleep(100);
  expect((await pool.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
  await pool.end();
});

test('an outside server that does not answer is named without its password', async () => {
  const options = connectOptions('postgresql://me:secret@127.0.0.1:1/money', { name: 'test', role: 'app' });
  const refusal = await openClient(options).catch((error) => error);
  expect(refusal.message).toMatch(
    /^cannot connect to the database me@127.0.0.1:1\/money \(.*\): start it or correct TOLEM_DATABASE_URL$/,
  );
  expect(new pg.Client(options)).toHaveProperty(
    'connectionParameters',
    expect.objectContaining({
      application_name: 'tolem test',
      options: expect.stringContaining('-c role=tolem_app'),
    }),
  );
});
