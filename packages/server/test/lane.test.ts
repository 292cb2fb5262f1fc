import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { connectOptions } from '../src/db/connect.js';
import { Lane, LaneBroken, plainArray, textArray } from '../src/db/lane.js';
import { openCentre, payRequest } from './support/centre.js';
import { freshDatabase, type TestDatabase } from './support/database.js';

let database: TestDatabase;
let owner: pg.Client;
beforeAll(async () => {
  database = await freshDatabase();
  owner = new pg.Client(database.adminOptions);
  owner.on('error', () => {});
  await owner.connect();
  await owner.query('create table noted (n bigint primary key check (n <> 13), at timestamptz)');
  await owner.query('grant all on noted to tolem_app');
});
afterAll(async () => {
  await owner.end();
  await database.drop();
});

const lane = (batches: bigint[][] = [], over: { waitMsMax?: number; keyOf?: (n: bigint) => string } = {}) =>
  new Lane<bigint, bigint>({
    name: 'test',
    connection: database.appOptions,
    batchMax: 100,
    waitMsMax: 1000,
    write: async (client, batch) => {
      batches.push([...batch]);
      await client.query('insert into noted (n) select * from unnest($1::bigint[])', [plainArray(batch)]);
      return batch.map((each) => each * 2n);
    },
    ...over,
  });

describe('a lane', () => {
  test('writes what arrives together in one batch, and what arrives meanwhile in the next', async () => {
    const batches: bigint[][] = [];
    const one = lane(batches);
    const first = [1n, 2n, 3n].map((n) => one.submit(n));
    await first[0];
    expect(await Promise.all([...first, one.submit(4n)])).toEqual([2n, 4n, 6n, 8n]);
    expect(batches).toEqual([[1n, 2n, 3n], [4n]]);
    await one.close();
  });

  test('a large batch leaves at once, and what still arrives in this turn is the next', async () => {
    const batches: bigint[][] = [];
    const one = lane(batches);
    await one.submit(1000n);
    // The lane is idle and connected then.
    await new Promise(setImmediate);
    await Promise.all(Array.from({ length: 100 }, (_, n) => one.submit(BigInt(1001 + n))));
    expect(batches.map((batch) => batch.length)).toEqual([1, 64, 36]);
    await one.close();
  });

  test('one item that the database refuses does not take the others with it', async () => {
    const one = lane();
    const items = [10n, 11n, 12n, 13n, 14n, 15n];
    const results = await Promise.allSettled(items.map((n) => one.submit(n)));
    expect(results.map((each) => each.status)).toEqual([
      'fulfilled',
      'fulfilled',
      'fulfilled',
      'rejected',
      'fulfilled',
      'fulfilled',
    ]);
    await one.close();
  });

  test('items with one key never share a batch', async () => {
    const batches: bigint[][] = [];
    const one = lane(batches, { keyOf: (n) => String(n % 2n) });
    await Promise.all([20n, 22n, 21n, 24n].map((n) => one.submit(n)));
    expect(batches).toEqual([[20n, 21n], [22n], [24n]]);
    await one.close();
  });

  test('a lost connection is told as such, and the next batch goes out on a new one', async () => {
    const one = lane();
    await one.submit(30n);
    await owner.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'tolem lane test' and datname = current_database()`,
    );
    const after = await one.submit(31n).catch((error: unknown) => error);
    if (after !== 62n) expect(after).toBeInstanceOf(LaneBroken);
    expect(await one.submit(32n)).toBe(64n);
    await one.close();
  });

  test('without a database an item waits as long as it may and is then certainly not written', async () => {
    const one = new Lane<bigint, bigint>({
      name: 'test',
      connection: connectOptions({ ...database.address, database: 'nowhere' }, { name: 'test', role: 'app' }),
      batchMax: 1,
      waitMsMax: 300,
      write: async () => [1n],
    });
    const error = await one.submit(40n).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ name: 'LaneBroken', maybeWritten: false });
    await one.close();
  });
});

describe('what a lane sends', () => {
  test('texts arrive as they are', async () => {
    const texts = [
      '',
      'null',
      'NULL',
      '{a}',
      'a,b',
      '"',
      '\\',
      '\\"',
      'a b',
      '\n',
      '\u0001"',
      'Ж"\\',
      '{"a":"b\\n"}',
      null,
    ];
    const { rows } = await owner.query('select $1::text[] as texts', [textArray(texts)]);
    expect(rows[0].texts).toEqual(texts);
  });

  test.each([
    '2026-02-17 11:48:37.123456+00',
    '2026-02-17 11:48:37+00',
    '2026-02-17 11:48:37.5+00',
    '0044-03-15 00:00:00+00 BC',
  ])('the moment %s arrives to the millisecond', async (text) => {
    const { rows } = await owner.query(
      'select $1::timestamptz as at, extract(epoch from $1::timestamptz)::float8 as s',
      [text],
    );
    expect(rows[0].at.getTime()).toBe(Math.trunc(rows[0].s * 1000));
  });
});

test('plans made while the tables were empty do not read them whole when they have grown', async () => {
  const centre = await openCentre();
  await centre.owner.query(
    `alter table payments set (autovacuum_enabled = off); alter table quotes set (autovacuum_enabled = off)`,
  );
  await centre.owner.query(`update services set inquiry_required = false`);
  await centre.watch.refresh();
  const count = 1500;
  // Some are refused, since outcomes that are no success are looked at more closely.
  const codeOf = (index: number) => (index % 10 === 9 ? 7 : 0);
  const requests = Array.from({ length: count }, (_, index) =>
    payRequest({ amountToMinor: 100n, account: codeOf(index) === 7 ? '7010000007' : '7770017711' }),
  );
  for (let from = 0; from < count; from += 50) {
    await Promise.all(requests.slice(from, from + 50).map((request) => centre.pay(request)));
  }
  const repeats = await Promise.all(requests.slice(0, 50).map((request) => centre.pay(request)));
  expect(repeats.map(({ code }) => code)).toEqual(repeats.map((_, index) => codeOf(index)));
  await centre.stop();
  await new Promise((done) => setTimeout(done, 1200));
  const { rows } = await centre.owner.query(
    `select (sum(idx_tup_read) + max(t.seq_tup_read))::float8 / $1 as rows
     from pg_stat_user_indexes i join pg_stat_user_tables t using (relid) where i.relname = 'payments'`,
    [count],
  );
  expect(rows[0].rows).toBeLessThan(10);
  await centre.close();
});
