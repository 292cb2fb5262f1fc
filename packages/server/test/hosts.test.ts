/** A database with standbys: several hosts in one URL, of which one takes writes. Failovers are in chaos/04. */
import { rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { loadConfig, readPostgresUrl } from '../src/config.js';
import { connectOptions, newClient, openClient, openPool } from '../src/db/connect.js';
import { freshDatabase, type TestDatabase, temporaryDirectory } from './support/database.js';

let database: TestDatabase;
let url: string;
beforeAll(async () => {
  database = await freshDatabase();
  const { host, port, user, database: name } = database.address;
  url = `postgresql://${user}@/${name}?host=/nowhere,${encodeURIComponent(host)}&port=${port}&target_session_attrs=read-write`;
});
afterAll(() => database.drop());

const purpose = { name: 'test', role: 'app' } as const;

describe('several hosts', () => {
  test('are read in both of libpq’s spellings', () => {
    const places = (text: string) => readPostgresUrl(text).map(({ host, port }) => `${host} ${port}`);
    expect(places('postgresql://u:p%40@h1:5432,h2:5433/d?target_session_attrs=read-write')).toEqual([
      'h1 5432',
      'h2 5433',
    ]);
    expect(places('postgresql://[::1]:5432,h2/d')).toEqual(['::1 5432', 'h2 ']);
    expect(places('postgresql://u@/d?host=/a,/b&port=1,2')).toEqual(['/a 1', '/b 2']);
    expect(places('postgresql://u@/d?host=/a,/b&port=7')).toEqual(['/a 7', '/b 7']);
    const [first, second] = readPostgresUrl('postgresql://u:p%40@h1,h2:5433/d?sslmode=disable');
    for (const each of [first, second])
      expect(each).toMatchObject({ user: 'u', password: 'p@', database: 'd', ssl: false });
  });

  test.each([
    'postgresql://u@h1,/d',
    'postgresql://u@/d?host=/a,/b,/c&port=1,2',
    'postgresql://u@h1,h2/',
    'postgresql://u@h1,h2/d?target_session_attrs=standby',
  ])('%s is refused at the start', (text) => {
    expect(() => loadConfig({ TOLEM_DATABASE_URL: text }, { root: '/' })).toThrow(/TOLEM_DATABASE_URL/);
  });

  test('are tried in turn, and all sessions go where the first one got through', async () => {
    const options = connectOptions(url, purpose);
    await expect(newClient(options).connect()).rejects.toThrow(/ENOENT/);
    const client = newClient(options);
    await client.connect();
    await client.end();
    const pool = await openPool(connectOptions(url, purpose), { max: 2 });
    expect((await pool.query('select current_user as user')).rows).toEqual([{ user: 'tolem_app' }]);
    await pool.end();
  });

  test('none of them answers: the error names all', async () => {
    const none = connectOptions('postgresql://me:secret@127.0.0.1:1,localhost:2/money', purpose);
    const error = await openClient(none).catch((reason: Error) => reason.message);
    expect(error).toMatch(
      /^cannot connect to the database me@127\.0\.0\.1:1,localhost:2\/money \(.*; .*\): start/,
    );
    expect(error).not.toContain('secret');
  });

  test('a server that takes no writes is none', async () => {
    const options = connectOptions(url, purpose);
    const owner = await openClient(database.adminOptions);
    const name = pg.escapeIdentifier(database.address.database);
    await owner.query(`alter database ${name} set default_transaction_read_only = on`);
    await expect(openClient(options)).rejects.toThrow(/takes no writes/);
    await owner.query('set default_transaction_read_only = off');
    await owner.query(`alter database ${name} reset default_transaction_read_only`);
    await (await openClient(options)).end();
    await owner.end();
  });

  test('a session with one of them ends the sessions with the others', async () => {
    const directory = temporaryDirectory();
    const names = ['one', 'two'].map((name) => join(directory, name));
    for (const name of names) symlinkSync(database.address.host, name);
    const options = connectOptions(url.replace(/host=[^&]*/, `host=${names}`), purpose);
    const left = await openClient(options);
    const asked = left.query('select pg_sleep(30)').catch((error: Error) => error.message);
    options.hosts!.failed(options.hosts!.places[0]!);
    const session = await openClient(options);
    expect(session.host).toBe(names[1]);
    expect(await asked).toMatch(/terminated/);
    await session.end();
    rmSync(directory, { recursive: true });
  });
});
