import { createWriteStream } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import fc from 'fast-check';
import type pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { Refusal } from '../src/audit.js';
import { importPorted, importPrefixes, lookUp, numberingFacts } from '../src/catalogue/numbering.js';
import { openClient, openPool } from '../src/db/connect.js';
import {
  createOperatorLookup,
  type LookupOptions,
  type OperatorLookup,
} from '../src/providers/operator-lookup.js';
import { openCentre } from './support/centre.js';
import { freshDatabase, type TestDatabase } from './support/database.js';

let database: TestDatabase;
let owner: pg.Client;
let app: pg.Client;
let directory: string;

beforeAll(async () => {
  database = await freshDatabase();
  owner = await openClient(database.adminOptions);
  app = await openClient(database.appOptions);
  directory = await mkdtemp(join(tmpdir(), 'tolem-numbering-'));
  await owner.query(`insert into providers (provider_id, name, connector) values ('p', 'P', 'sandbox')`);
  await owner.query(
    `insert into services (service_id, position, type, name, inputs, provider_id, provider_service_code, currency,
       amount_min_minor, amount_max_minor)
     select id, 1, 0, id, '[]', 'p', id, 'KZT', 1, 100 from unnest(array['P1', 'P2', 'P3', 'A,B', 'T\tB\\']) id`,
  );
});
afterAll(async () => {
  await owner?.end();
  await app?.end();
  await database?.drop();
  if (directory) await rm(directory, { recursive: true });
});

let files = 0;
async function csv(text: string): Promise<string> {
  files += 1;
  const path = join(directory, `${files}.csv`);
  await writeFile(path, text);
  return path;
}

const prefixes = async (text: string) => importPrefixes(app, await csv(text), 'operator');
const ported = async (text: string) => importPorted(app, await csv(text), 'operator');
const serviceOf = async (phone: string) => {
  const found = await lookUp(app, phone);
  return found.kind === 'found' ? found.serviceId : found.kind;
};

describe('imports', () => {
  it.each([
    ['a header', 'prefix,service_id\n777,P1\n778,P2\n'],
    ['no header', '777,P1\n778,P2\n'],
    ['no line end at the end', '777,P1\n778,P2'],
    ['CRLF and blank lines', 'prefix,service_id\r\n\r\n777,P1\r\n  \r\n778,P2\r\n\r\n'],
    ['quotes and spaces', '"prefix","service_id"\n"777" , "P1"\n 778 ,P2 \n'],
    ['a byte order mark', '\uFEFFPrefix,Service_id\n777,P1\n778,P2\n'],
    ['the country code', '+7777,P1\n+7778,P2\n'],
  ])('take a file with %s', async (_, text) => {
    await owner.query('delete from numbering_prefixes');
    expect((await prefixes(text)).rows).toBe(2);
    const { rows } = await owner.query('select prefix, service_id from numbering_prefixes order by prefix');
    expect(rows).toEqual([
      { prefix: '777', service_id: 'P1' },
      { prefix: '778', service_id: 'P2' },
    ]);
  });

  it('take a service whose id needs quotes or escapes', async () => {
    await prefixes('777,"A,B"\n778,T\tB\\\n');
    expect(await serviceOf('7770000000')).toBe('A,B');
    expect(await serviceOf('7780000000')).toBe('T\tB\\');
  });

  it.each([
    ['letters in a prefix', '777,P1\n77x,P1\n', 2],
    ['a prefix longer than a number', '\n\n77777777777,P1\n', 3],
    ['a missing column', 'prefix,service_id\r\n777,P1\r\n778\r\n', 3],
    ['a column too many', '777,P1,x\n', 1],
    ['an unknown service', '777,P1\n\n778,P9\n', 3],
    ['no service', '777,\n', 1],
    ['an open quote', '777,P1\n"778,P1\n', 2],
    ['a header that is not the first', '777,P1\nprefix,service_id\n', 2],
    ['a repeated prefix', 'prefix,service_id\n777,P1\n\n778,P1\n777,P2\n', 5],
    [
      'a prefix repeated far below',
      `${Array.from({ length: 9000 }, (_, n) => `${n + 100},P1`).join('\n')}\n\n100,P1\n`,
      9002,
    ],
    ['an endless line', `777,P1\n${'7'.repeat(400_000)}`, 2],
    ['a long line', `777,P1\n778,${'P'.repeat(400)}\n`, 2],
  ])('refuse %s by the number of its line and change nothing', async (_, text, line) => {
    await prefixes('701,P3\n');
    const before = await numberingFacts(app);
    const refusal = await prefixes(text).catch((error: unknown) => error);
    expect(refusal).toBeInstanceOf(Refusal);
    expect((refusal as Error).message).toContain(`line ${line}:`);
    expect(await numberingFacts(app)).toEqual(before);
    expect(await serviceOf('7010000000')).toBe('P3');
    expect(await serviceOf('7770000000')).toBe('unknown');
  });

  it.each([
    ['7010000000-7019999999', ['701']],
    ['7010000000-7014999999', ['7010', '7011', '7012', '7013', '7014']],
    ['+77010000000-+77010000009', ['701000000']],
    ['7010000005-7010000005', ['7010000005']],
    ['7019999998-7020000001', ['7019999998', '7019999999', '7020000000', '7020000001']],
    ['0000000000-9999999999', ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']],
  ])('take the range %s as its prefixes', async (range, expected) => {
    expect((await prefixes(`${range},P1\n`)).rows).toBe(expected.length);
    const { rows } = await owner.query('select prefix from numbering_prefixes order by prefix');
    expect(rows.map((row) => row.prefix)).toEqual(expected);
  });

  it('take any range as just its numbers', async () => {
    const number = fc.integer({ min: 7_000_000_000, max: 7_000_099_999 });
    await fc.assert(
      fc.asyncProperty(number, number, fc.array(number, { maxLength: 5 }), async (one, other, some) => {
        const [first, last] = [Math.min(one, other), Math.max(one, other)];
        await prefixes(`${first}-${last},P1\n`);
        for (const each of [first - 1, first, last, last + 1, ...some])
          expect(await serviceOf(String(each))).toBe(each >= first && each <= last ? 'P1' : 'unknown');
      }),
      { numRuns: 25 },
    );
  });

  it.each(['7014999999-7010000000', '701-702', '7010000000-', '7010000000-701', '-7010000000'])(
    'refuse %s, which is no range',
    async (range) => {
      await expect(prefixes(`${range},P1\n`)).rejects.toThrow(/line 1: .*or a range/);
    },
  );

  it('refuse a range that says again what a line before it said', async () => {
    await expect(prefixes('7011,P1\n7010000000-7012999999,P2\n')).rejects.toThrow(/line 2: .*earlier line/);
  });

  it('refuse an empty file, a malformed phone, a missing file and a nameless operator', async () => {
    await expect(prefixes('prefix,service_id\n\n')).rejects.toThrow(/no rows/);
    await expect(ported('77777314,P1\n')).rejects.toThrow(/line 1: it is not phone,service_id/);
    await expect(importPorted(app, join(directory, 'none.csv'), 'operator')).rejects.toThrow(/ENOENT/);
    await expect(importPorted(app, await csv('7777731414,P1'), '')).rejects.toThrow(/operator/);
    // The connection is as good as before.
    expect((await ported('7777731414,P1')).rows).toBe(1);
  });

  it('do not say a repeated phone number', async () => {
    const refusal = await ported('7777731414,P1\n+7 777 773 14 14,P2\n').catch(
      (error: Error) => error.message,
    );
    expect(refusal).toContain('line 2');
    expect(refusal).not.toContain('7731414');
  });

  it('replace the whole plan, and the old generation is gone', async () => {
    await prefixes('777,P1\n778,P1\n');
    const { generation } = await prefixes('777,P2\n');
    expect(await serviceOf('7770000000')).toBe('P2');
    expect(await serviceOf('7780000000')).toBe('unknown');
    const { rows } = await owner.query('select distinct generation from numbering_prefixes');
    expect(rows).toEqual([{ generation }]);
  });

  it('are not mixed with what a crash left of an older generation, and the next one clears it away', async () => {
    await prefixes('777,P1\n');
    await ported('7771111111,P2\n');
    await owner.query(`insert into numbering_prefixes values ('7770', 0, 'P3'), ('778', 0, 'P3')`);
    await owner.query('insert into numbering_ported values (7770000000, 0, $1), (7780000000, 0, $1)', ['P3']);
    expect(await serviceOf('7770000000')).toBe('P1');
    expect(await serviceOf('7780000000')).toBe('unknown');
    expect((await numberingFacts(app)).prefixes.rows).toBe(1n);
    await prefixes('777,P1\n');
    await ported('7771111111,P2\n');
    const { rows } = await owner.query(
      'select (select count(*) from numbering_prefixes) as prefixes, (select count(*) from numbering_ported) as ported',
    );
    expect(rows[0]).toEqual({ prefixes: 1n, ported: 1n });
  });

  it('leave the other kind alone', async () => {
    await prefixes('777,P1\n');
    await ported('7771111111,P2\n');
    await prefixes('777,P3\n');
    expect(await serviceOf('7771111111')).toBe('P2');
    expect(await serviceOf('7771111112')).toBe('P3');
  });

  it('serve the old plan until the new one is committed whole', async () => {
    await prefixes('777,P1\n');
    const path = await csv('777,P2\n778,P2\n');
    const other = await openClient(database.appOptions);
    await other.query('begin');
    await importPrefixes(other, path, 'operator');
    expect(await serviceOf('7770000000')).toBe('P1');
    expect(await serviceOf('7780000000')).toBe('unknown');
    await other.query('commit');
    await other.end();
    expect(await serviceOf('7770000000')).toBe('P2');
    expect(await serviceOf('7780000000')).toBe('P2');
  });

  it('let look-ups see the old plan or the new one, and never some of both', async () => {
    const pool = await openPool(database.appOptions, { max: 4 });
    const count = 20_000;
    const plan = (service: string) =>
      csv(Array.from({ length: count }, (_, n) => `${7_000_000_000 + n},${service}\n`).join(''));
    const [one, other] = [await plan('P1'), await plan('P2')];
    await importPorted(app, one, 'operator');

    let importing = true;
    let lookedUp = 0;
    const seen: string[] = [];
    // Each asks for the first number and then for the last one: what was new for the first is so for the last.
    const ask = async () => {
      while (importing) {
        const [first, last] = [
          await lookUp(pool, '7000000000'),
          await lookUp(pool, `${7_000_000_000 + count - 1}`),
        ];
        if (first.kind !== 'found' || last.kind !== 'found') throw new Error('a number was in no plan');
        seen.push(`${first.serviceId} ${last.serviceId}`);
        lookedUp += 2;
      }
    };
    // All numbers of some at once, in one look of the database.
    const mixes = async () => {
      while (importing) {
        const { rows } = await pool.query(
          `select count(distinct service_id)::integer as services, count(*)::integer as numbers from numbering_ported
           where generation = (select generation from numbering_generation where kind = 'ported')`,
        );
        expect(rows).toEqual([{ services: 1, numbers: count }]);
      }
    };
    const askers = [ask(), ask(), mixes()];
    for (const path of [other, one, other]) await importPorted(app, path, 'operator');
    importing = false;
    await Promise.all(askers);
    await pool.end();
    expect(lookedUp).toBeGreaterThan(100);
    expect(new Set(seen)).toContain('P1 P1');
    expect(new Set(seen)).toContain('P2 P2');
    // A change of the plan between two questions is to be seen once a change and asker, not more.
    expect(seen.filter((each) => each === 'P1 P2' || each === 'P2 P1').length).toBeLessThanOrEqual(6);
  });

  it('refuse to run twice at once', async () => {
    const other = await openClient(database.appOptions);
    await other.query('begin');
    await importPrefixes(other, await csv('777,P1\n'), 'operator');
    await expect(prefixes('777,P2\n')).rejects.toThrow(/Another import of prefixes is running/);
    await other.query('rollback');
    await other.end();
  });

  it('take the time that the file needs, where the connection allows less to ordinary queries', async () => {
    const { options } = database.appOptions;
    const hasty = {
      ...database.appOptions,
      query_timeout: 1000,
      options: `${options} -c statement_timeout=800`,
    };
    const other = await openClient(hasty);
    await owner.query('begin');
    await owner.query('lock table numbering_prefixes');
    const importing = importPrefixes(other, await csv('777,P1\n'), 'operator');
    await new Promise((done) => setTimeout(done, 1500));
    await owner.query('rollback');
    expect((await importing).rows).toBe(1);
    await other.end();
  });

  it('leave an audit row that says who, what and how much', async () => {
    const { generation } = await ported('phone,service_id\n7771111111,P2\n7771111112,P2\n');
    const { rows } = await owner.query(
      'select operator, action, object, detail from audit order by id desc limit 1',
    );
    expect(rows[0]).toEqual({
      operator: 'operator',
      action: 'numbering.import',
      object: 'numbering:ported',
      detail: { file: `${files}.csv`, rows: 2, generation },
    });
  });

  it('are counted with the time they were made', async () => {
    await owner.query('truncate numbering_generation, numbering_prefixes, numbering_ported');
    expect(await numberingFacts(app)).toEqual({
      prefixes: { importedAt: null, rows: 0n },
      ported: { importedAt: null, rows: 0n },
    });
    await prefixes('777,P1\n778,P1\n');
    const facts = await numberingFacts(app);
    expect(facts.prefixes.rows).toBe(2n);
    expect(Math.abs(Date.now() - facts.prefixes.importedAt!.getTime())).toBeLessThan(60_000);
    expect(facts.ported).toEqual({ importedAt: null, rows: 0n });
  });
});

describe('look-ups', () => {
  beforeAll(async () => {
    await prefixes('7,P3\n777,P1\n77777,P2\n7777731414,P3\n');
    await ported('7051112233,P2\n+7 705 111-22-34,P1\n87051112235,P1\n77051112236,P3\n');
  });

  it.each([
    '7051112233',
    '+77051112233',
    '77051112233',
    '87051112233',
    '+7 (705) 111-22-33',
    ' 8 [705] 111 22 33 ',
    '7\u00A0705\u00A0111\u201122\u201133',
  ])('read %j as one number', async (phone) => {
    expect(await serviceOf(phone)).toBe('P2');
  });

  it.each([
    '',
    '705111223',
    '705111223344',
    '97051112233',
    '+87051112233',
    '+7051112233',
    '70511122a3',
    '7051112233;',
    '++77051112233',
    '٧٠٥١١١٢٢٣٣',
    `7051112233${' '.repeat(100)}`,
  ])('refuse %j as malformed', async (phone) => {
    expect(await lookUp(app, phone)).toEqual({ kind: 'malformed' });
  });

  it.each([
    ['7051112234', 'P1', 'a ported number before any prefix'],
    ['7051112235', 'P1', 'a ported number imported with 8'],
    ['7051112236', 'P3', 'a ported number imported with 7'],
    ['7051112237', 'P3', 'the only prefix that fits'],
    ['7770000000', 'P1', 'the longer of two prefixes'],
    ['7777700000', 'P2', 'the longest of three prefixes'],
    ['7777731414', 'P3', 'a prefix as long as the number'],
    ['0000000000', 'unknown', 'nothing'],
  ])('%s is served by %s: %s', async (phone, service) => {
    expect(await serviceOf(phone)).toBe(service);
  });

  it('take one query', async () => {
    let queries = 0;
    const counting = {
      query: (...args: unknown[]) => {
        queries += 1;
        return (app.query as (...all: unknown[]) => unknown)(...args);
      },
    } as unknown as pg.Client;
    await lookUp(counting, '7777731414');
    await lookUp(counting, 'x');
    expect(queries).toBe(1);
  });
});

describe('the live look-up', () => {
  let server: Server;
  let url: string;
  let asked: string[] = [];
  let answer: (phone: string, response: ServerResponse) => void;
  const says = (serviceId: string) => {
    answer = (phone, response) => response.end(JSON.stringify({ phone, serviceId }));
  };
  const opened: OperatorLookup[] = [];
  const open = (over: Partial<LookupOptions> = {}) => {
    const lookup = createOperatorLookup({ url, waitMs: 300, cacheMs: 60_000, ...over });
    opened.push(lookup);
    return lookup;
  };

  beforeAll(async () => {
    server = createServer((request, response) => {
      const phone = new URL(request.url!, 'http://h').searchParams.get('phone')!;
      asked.push(phone);
      answer(phone, response);
    });
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/operator?phone={phone}`;
  });
  beforeEach(() => {
    asked = [];
  });
  afterAll(async () => {
    await Promise.all(opened.map((lookup) => lookup.close()));
    server.closeAllConnections();
    await new Promise((done) => server.close(done));
  });

  it('answers, and remembers for a time', async () => {
    says('P2');
    const lookup = open({ cacheMs: 200 });
    expect(await lookup.of('7051112233')).toBe('P2');
    says('P3');
    expect(await lookup.of('7051112233')).toBe('P2');
    expect(asked).toEqual(['7051112233']);
    await new Promise((done) => setTimeout(done, 250));
    expect(await lookup.of('7051112233')).toBe('P3');
  });

  it('remembers so many and forgets the oldest', async () => {
    says('P2');
    const lookup = open({ cacheMax: 2 });
    for (const phone of ['7000000001', '7000000002', '7000000003', '7000000002', '7000000003', '7000000001'])
      await lookup.of(phone);
    expect(asked).toEqual(['7000000001', '7000000002', '7000000003', '7000000001']);
  });

  it('asks once for who asks the same at once, and for no more than 64 together', async () => {
    answer = (phone, response) =>
      setTimeout(() => response.end(JSON.stringify({ phone, serviceId: 'P2' })), 100);
    const lookup = open({ waitMs: 5000 });
    const same = await Promise.all([lookup.of('7000000001'), lookup.of('7000000001')]);
    expect(same).toEqual(['P2', 'P2']);
    expect(asked).toHaveLength(1);
    const many = await Promise.all(
      Array.from({ length: 100 }, (_, n) => lookup.of(String(7_100_000_000 + n))),
    );
    expect(many.filter((each) => each === null)).toHaveLength(36);
  });

  it.each<[string, (phone: string, response: ServerResponse) => void]>([
    [
      'another status',
      (phone, response) => response.writeHead(500).end(JSON.stringify({ phone, serviceId: 'P2' })),
    ],
    ['another number', (_, response) => response.end('{"phone":"7000000000","serviceId":"P2"}')],
    ['no number', (_, response) => response.end('{"serviceId":"P2"}')],
    ['no service', (phone, response) => response.end(JSON.stringify({ phone, serviceId: null }))],
    ['half of it', (_, response) => response.end('{"phone":"705')],
    ['a broken connection', (_, response) => response.destroy()],
    [
      'too much',
      (phone, response) => response.end(JSON.stringify({ phone, serviceId: 'P2', x: 'x'.repeat(20_000) })),
    ],
    ['nothing in time', () => {}],
  ])('says nothing when it is answered %s', async (_, reply) => {
    answer = reply;
    const startedAt = performance.now();
    expect(await open().of('7051112233')).toBeNull();
    expect(performance.now() - startedAt).toBeLessThan(1500);
  });

  it('is left alone for a while after three failures', async () => {
    answer = (_, response) => response.writeHead(500).end();
    const lookup = open();
    for (let n = 0; n < 10; n += 1) expect(await lookup.of(String(7_200_000_000 + n))).toBeNull();
    expect(asked).toHaveLength(3);
  });

  it('comes before the plan in a centre, which answers where it does not help', async () => {
    const centre = await openCentre({ parts: { operatorLookup: { url, waitMs: 300, cacheMs: 1 } } });
    const { operatorByPhone } = centre.centre.useCases;
    try {
      says('P1013');
      for (const phone of ['7777731414', '+7 777 773 14 14', '87777731414', '77777731414'])
        expect(await operatorByPhone(phone)).toEqual({ code: 0, reason: null, serviceId: 'P1013' });
      expect(new Set(asked)).toEqual(new Set(['7777731414']));
      says('P9999');
      expect(await operatorByPhone('7777731415')).toMatchObject({ code: 0, serviceId: 'P1011' });
      answer = () => {};
      const startedAt = performance.now();
      expect(await operatorByPhone('7777731416')).toMatchObject({ code: 0, serviceId: 'P1011' });
      expect(performance.now() - startedAt).toBeLessThan(1500);
      expect(await operatorByPhone('7990000000')).toMatchObject({ code: 5 });
      const before = asked.length;
      expect(await operatorByPhone('77777')).toMatchObject({ code: 4 });
      expect(asked).toHaveLength(before);
    } finally {
      await centre.close();
    }
  });
});

describe('a million ported numbers', () => {
  it('are imported in less than a minute with progress, and looked up by index', async () => {
    const pool = await openPool(database.appOptions, { max: 1 });
    // As in a centre that started with empty tables: its sessions have looked up before anything was there.
    await owner.query('truncate numbering_ported');
    await owner.query('vacuum analyze numbering_ported');
    for (let n = 0; n < 10; n += 1) await lookUp(pool, '7000000000');

    const path = join(directory, 'million.csv');
    await pipeline(function* () {
      yield 'phone,service_id\n';
      // In no order, as a multiplication by a number prime to the modulus leaves it.
      for (let n = 0; n < 1_000_000; n += 1)
        yield `${7_000_000_000 + ((n * 7919) % 1_000_003) * 7},P${(n % 3) + 1}\n`;
    }, createWriteStream(path));
    const progress: number[] = [];
    const startedAt = performance.now();
    const { rows } = await importPorted(app, path, 'operator', (each) => progress.push(each.rows));
    const importMs = performance.now() - startedAt;
    expect(rows).toBe(1_000_000);
    expect(progress.length).toBeGreaterThan(10);
    expect(progress.at(-1)).toBe(1_000_000);
    expect(importMs).toBeLessThan(60_000);

    const times: number[] = [];
    for (let n = 0; n < 500; n += 1) {
      const phone = String(7_000_000_000 + ((n * 2003 * 7919) % 1_000_003) * 7);
      const askedAt = performance.now();
      const found = await lookUp(pool, phone);
      times.push(performance.now() - askedAt);
      expect(found).toEqual({ kind: 'found', serviceId: `P${((n * 2003) % 3) + 1}` });
    }
    await pool.end();
    const medianMs = times.sort((left, right) => left - right)[250]!;
    console.log(
      `1 000 000 rows imported in ${importMs.toFixed(0)} ms; a look-up takes ${medianMs.toFixed(2)} ms`,
    );
    // Through the driver, beside other work of the machine: a scan of a million rows takes far longer.
    expect(medianMs).toBeLessThan(20);

    // Deleting a million old rows takes several commits.
    await importPorted(app, await csv('7777731414,P1\n'), 'operator');
    const left = await owner.query('select count(*) as rows from numbering_ported');
    expect(left.rows[0].rows).toBe(1n);
  });
});
