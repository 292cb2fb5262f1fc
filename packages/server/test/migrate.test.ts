import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { SetupError } from '../src/config.js';
import { connectOptions, openClient } from '../src/db/connect.js';
import { dumpSchema } from '../src/db/dump.js';
import { ensurePostgres } from '../src/db/embedded.js';
import { migrate } from '../src/db/migrate.js';
import { freshDatabase, sqlDirectory, type TestDatabase, temporaryDirectory } from './support/database.js';

let directory: string;
let database: TestDatabase;
const one = 'create table a (n int primary key); grant select on a to tolem_app;';
const two = 'create table b (n int references a);\ninsert into a values (1); insert into b values (1);';

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'tolem-sql-'));
  database = await freshDatabase();
  // The template is migrated; these tests bring their own migrations.
  await query('drop schema tolem cascade');
  write('0001_one', one);
});

afterEach(async () => {
  rmSync(directory, { recursive: true });
  await database.drop();
});

function write(name: string, sql: string): void {
  writeFileSync(join(directory, `${name}.sql`), sql);
}

async function query(sql: string, options = database.adminOptions): Promise<Record<string, unknown>[]> {
  const client = await openClient(options);
  return client
    .query(sql)
    .then(({ rows }) => rows)
    .finally(() => client.end());
}

const up = () => migrate(database.adminOptions, { directory });

test('migrations run in order, once, and only what is new', async () => {
  expect(await up()).toEqual(['0001_one']);
  write('0002_two', two);
  expect(await up()).toEqual(['0002_two']);
  expect(await up()).toEqual([]);
  expect(await query('select n from b')).toEqual([{ n: 1 }]);
});

test('twenty processes that migrate one database at once run each migration once', async () => {
  write('0002_two', `select pg_sleep(0.2); ${two}`);
  const ran = await Promise.all(Array.from({ length: 20 }, up));
  expect(ran.flat()).toEqual(['0001_one', '0002_two']);
  expect(await query('select n from b')).toEqual([{ n: 1 }]);
});

test('a migration comes again while its table is in use, and nobody waits behind it for long', async () => {
  await up();
  write('0002_two', 'alter table a add column later text;');
  const user = await openClient(database.adminOptions);
  await user.query('begin; select * from a');
  const migrating = up();
  let longestMs = 0;
  for (const untilMs = performance.now() + 2500; performance.now() < untilMs; await sleep(50)) {
    const startedAtMs = performance.now();
    await query('select * from a');
    longestMs = Math.max(longestMs, performance.now() - startedAtMs);
  }
  await user.query('commit');
  await user.end();
  expect(await migrating).toEqual(['0002_two']);
  expect(longestMs).toBeGreaterThan(500);
  expect(longestMs).toBeLessThan(1800);
});

test('a migration that others deadlock with is tried again', async () => {
  write('0001_one', 'create table a (n int); create table b (n int);');
  await up();
  write('0002_two', 'lock table a; select pg_sleep(0.5); lock table b;');
  const user = await openClient(database.adminOptions);
  await user.query("set deadlock_timeout = '10s'; begin; lock table b");
  const migrating = up();
  await sleep(300);
  await user.query('select * from a');
  await user.query('commit');
  await user.end();
  expect(await migrating).toEqual(['0002_two']);
});

test('another database of the same server may make the role at the same moment', async () => {
  const dataDir = temporaryDirectory();
  const server = await ensurePostgres({ dataDir, settings: { fsync: 'off' } });
  const options = connectOptions(server.connection, { name: 'test', role: 'owner' });
  try {
    const other = await openClient({ ...options, database: 'postgres' });
    await other.query('begin; create role tolem_app nologin');
    const migrating = migrate(options, { directory });
    const waiting = "select count(*)::int as count from pg_stat_activity where wait_event_type = 'Lock'";
    while ((await query(waiting, options))[0]!.count === 0) await sleep(20);
    await other.query('commit');
    await other.end();
    expect(await migrating).toEqual(['0001_one']);
  } finally {
    await server.stop();
    rmSync(server.home, { recursive: true });
    rmSync(dataDir, { recursive: true, force: true });
  }
});

test('the application has what was granted and nothing else', async () => {
  await up();
  expect(await query('select n from a', database.appOptions)).toEqual([]);
  await expect(query('insert into a values (1)', database.appOptions)).rejects.toThrow('permission denied');
  await expect(query('create table c (n int)', database.appOptions)).rejects.toThrow('permission denied');
});

test('an owner without any special right and an application of its own are enough', async () => {
  const owner = `owner_${database.address.database}`;
  const app = `app_${database.address.database}`;
  await query(
    `create role ${owner} login; create role ${app} login; grant tolem_app to ${owner} with admin option;
     grant create on database ${database.address.database} to ${owner}`,
  );
  try {
    const as = (user: string, role: 'app' | 'owner') =>
      connectOptions({ ...database.address, user }, { name: 'test', role });
    expect(await migrate(as(owner, 'owner'), { directory, appUser: app })).toEqual(['0001_one']);
    expect(await query('select n from a', as(app, 'app'))).toEqual([]);
    await query(`revoke tolem_app from ${app} granted by ${owner}`);
    expect(await migrate(as(owner, 'owner'), { directory, appUser: app })).toEqual([]);
    expect(await query('select n from a', as(app, 'app'))).toEqual([]);
  } finally {
    await query(`drop owned by ${owner} cascade; drop owned by ${app}; drop role ${app}; drop role ${owner}`);
  }
});

test('a database that is newer than the build is refused untouched', async () => {
  write('0002_two', two);
  await up();
  rmSync(join(directory, '0002_two.sql'));
  const refusal = await up().catch((error) => error);
  expect(refusal).toBeInstanceOf(SetupError);
  expect(refusal.message).toBe(
    'the database schema is newer than this build (it has 0002_two; this build knows up to 0001_one): start the newer version',
  );
  expect(await query('select name from tolem.migrations order by name')).toEqual([
    { name: '0001_one' },
    { name: '0002_two' },
  ]);
});

test('a migration that was edited after it ran is refused', async () => {
  await up();
  write('0001_one', `${one} -- edited`);
  write('0002_two', two);
  await expect(up()).rejects.toThrow(/^migration 0001_one was edited after it ran/);
  expect(await query("select to_regclass('tolem.b') as b")).toEqual([{ b: null }]);
});

test('a migration that fails is rolled back whole, and the line is named', async () => {
  write('0002_two', 'create table c (n int);\n\ncreate table d (n nonsense);');
  await expect(up()).rejects.toThrow(
    'migration 0002_two, line 3 failed and was rolled back: type "nonsense" does not exist',
  );
  expect(await query("select to_regclass('tolem.c') as c, to_regclass('tolem.a') is null as lost")).toEqual([
    { c: null, lost: false },
  ]);
});

test('numbers follow each other', async () => {
  write('0003_three', 'select 1');
  await expect(up()).rejects.toThrow('migration 0003_three.sql is misnamed: number 2 comes next');
});

test('sql/schema.sql is what the migrations add up to; when it differs run: node tools/bootstrap.mjs schema', async () => {
  const fresh = await freshDatabase();
  const client = await openClient(fresh.adminOptions);
  const dumped = await dumpSchema(client).finally(() => client.end());
  await fresh.drop();
  expect(dumped).toBe(readFileSync(join(sqlDirectory, 'schema.sql'), 'utf8'));
});

test('what was told of payments before the tables by month is the first of them, and found as before', async () => {
  rmSync(join(directory, '0001_one.sql'));
  const released = readdirSync(sqlDirectory).filter((name) => /^\d{4}_/.test(name));
  const bring = (names: string[]) => {
    for (const name of names) copyFileSync(join(sqlDirectory, name), join(directory, name));
    return up();
  };
  await bring(released.slice(0, 2));
  // A session that has planned its statement before, as a lane of the version before has.
  const session = await openClient(database.appOptions);
  const tell = () =>
    session.query({
      name: 'tell',
      text: `insert into payment_events (payment_id, shard, kind, data) values (64, 0, 'told', '{}')`,
    });
  await tell();
  expect(await bring(released.slice(2))).toEqual(released.slice(2).map((name) => name.slice(0, -4)));
  await tell();
  const { rows } = await session.query('select kind from payment_events where payment_id = 64 and shard = 0');
  await session.end();
  expect(rows).toHaveLength(2);
});
