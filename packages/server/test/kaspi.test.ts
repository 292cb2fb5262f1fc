/** The Kaspi protocol: what each answer proves, in both formats, and payments through a bad network. */
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { verify } from '../src/ledger/verify.js';
import type { CheckOutcome, HttpResponse, Inquiry, Order, PayOutcome } from '../src/providers/contract.js';
import { kaspiConnector } from '../src/providers/kaspi-connector.js';
import { type KaspiBiller, kaspiWords } from '../src/providers/simulators/kaspi.js';
import { type Simulator, startSimulator } from '../src/providers/simulators/simulator.js';
import { openCentre, payRequest } from './support/centre.js';
import { temporaryDirectory } from './support/database.js';
import { type FaultProxy, manners, moments, startFaultProxy } from './support/fault-proxy.js';

const order: Order = {
  externalId: '4-1795491977',
  serviceCode: 'biller',
  account: '7770017711',
  amountMinor: 20_000n,
  currency: 'KZT',
  extras: {},
  extraServices: null,
  transactionId: 1_234_567n,
  again: false,
  acceptedAt: new Date('2026-01-31T20:15:07.999Z'),
};
const inquiry: Inquiry = {
  externalId: order.externalId,
  serviceCode: 'biller',
  account: order.account,
  amountMinor: 20_000n,
  currency: 'KZT',
  extras: {},
};

const formats = ['json', 'xml'] as const;
type Format = (typeof formats)[number];
type Members = Readonly<Record<string, string | number>>;

const queryOf = (path: string) => new URLSearchParams(path.split('?')[1]);
const checkId = queryOf(kaspiConnector({}).buildCheck(inquiry).path).get('txn_id')!;

function answer(format: Format, members: Members, status = 200): HttpResponse {
  const xml = Object.entries(members).map(([name, value]) => `<${name}>${value}</${name}>`);
  const body = format === 'json' ? JSON.stringify(members) : `<response>${xml.join('')}</response>`;
  return { status, headers: {}, body };
}

const raw = (body: string): HttpResponse => ({ status: 200, headers: {}, body });

const parsePay = (settings: object, format: Format, response: HttpResponse): PayOutcome =>
  kaspiConnector({ ...settings, format }).parsePay(response, order);
const parseCheck = (settings: object, format: Format, response: HttpResponse): CheckOutcome =>
  kaspiConnector({ ...settings, format }).parseCheck(response, inquiry);

const paid = {
  txn_id: '1234567',
  prv_txn: '2016',
  result: 0,
  sum: '200.00',
  bin: '000000000000',
  comment: 'OK',
};
const { prv_txn: _, ...unpaid } = paid;
const executed = { kind: 'executed', reference: '2016' };
const refused = (code: number, result: number) => ({ kind: 'refused', code, detail: `result ${result}` });
const unknown = (detail: string) => ({ kind: 'unknown', detail });

describe('what is sent', () => {
  it('a check and a pay, with the protocol’s parameters and those of the settings', () => {
    const connector = kaspiConnector({
      path: '/payment_app.cgi',
      parameters: { point: 'a b&c' },
      basicAuth: { login: 'centre', password: 'a:b' },
    });
    expect(connector.buildCheck(inquiry)).toEqual({
      method: 'GET',
      path: `/payment_app.cgi?command=check&txn_id=${checkId}&account=7770017711&sum=200.00&point=a%20b%26c`,
      headers: { accept: 'application/json', authorization: `Basic ${btoa('centre:a:b')}` },
      body: null,
    });
    expect(connector.buildPay(order).path).toBe(
      '/payment_app.cgi?command=pay&txn_id=1234567&txn_date=20260201011507&account=7770017711&sum=200.00' +
        '&point=a%20b%26c',
    );
    expect(kaspiConnector({}).buildPay(order).headers).toEqual({ accept: 'application/json' });
  });

  it('an account leaves as it is, whatever it is made of', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', minLength: 1 }), (account) => {
        const { path } = kaspiConnector({}).buildPay({ ...order, account });
        expect(path).toMatch(/^[!-~]+$/);
        expect(path).not.toContain('+');
        expect(queryOf(path).get('account')).toBe(Buffer.from(account).toString());
        expect([...queryOf(path).keys()]).toEqual(['command', 'txn_id', 'txn_date', 'account', 'sum']);
      }),
    );
  });

  it('a check has no sum where there is none, and one number for one external id, which no payment has', () => {
    const ids = new Set<string>();
    for (let n = 1; n <= 1000; n += 1) {
      const asked = { ...inquiry, externalId: `4-${n}`, amountMinor: null };
      const query = queryOf(kaspiConnector({}).buildCheck(asked).path);
      expect(query.has('sum')).toBe(false);
      expect(query.get('txn_id')).toMatch(/^8\d{15}$/);
      ids.add(query.get('txn_id')!);
    }
    expect(ids.size).toBe(1000);
    expect(Number(checkId)).toBeLessThan(Number.MAX_SAFE_INTEGER);
    expect(kaspiConnector({}).buildCheck({ ...inquiry, account: '1' }).path).toContain(checkId);
  });
});

describe.each(formats)('what an answer in %s proves', (format) => {
  // result, of a check, of a pay without prv_txn, of a pay with it
  it.each([
    [0, { kind: 'ok' }, unknown('result 0 without prv_txn'), executed],
    [1, refused(5, 1), refused(5, 1), unknown('result 1 with prv_txn')],
    [2, refused(7, 2), refused(7, 2), unknown('result 2 with prv_txn')],
    [3, refused(7, 3), unknown('result 3'), unknown('result 3')],
    [4, unknown('result 4'), { kind: 'pending', reference: null }, { kind: 'pending', reference: '2016' }],
    [5, refused(300, 5), unknown('result 5'), unknown('result 5')],
    [6, unknown('result 6'), unknown('result 6'), unknown('result 6')],
    [300, unknown('result 300'), unknown('result 300'), unknown('result 300')],
  ])('result %i', (result, checked, without, withNumber) => {
    expect(parseCheck({}, format, answer(format, { txn_id: checkId, result }))).toEqual(checked);
    expect(parsePay({}, format, answer(format, { ...unpaid, result }))).toEqual(without);
    expect(parsePay({}, format, answer(format, { ...paid, result }))).toEqual(withNumber);
  });

  it('3 is our own payment only by the setting, with prv_txn, and with our txn_id', () => {
    const ours = { alreadyPaid: 'ours' };
    expect(parsePay(ours, format, answer(format, { ...paid, result: 3 }))).toEqual(executed);
    expect(parsePay(ours, format, answer(format, { ...unpaid, result: 3 }))).toEqual(
      unknown('result 3 without prv_txn'),
    );
    expect(parsePay(ours, format, answer(format, { ...paid, result: 3, txn_id: '1234568' }))).toEqual(
      unknown('the answer is about another payment'),
    );
    expect(parseCheck(ours, format, answer(format, { txn_id: checkId, result: 3 }))).toEqual(refused(7, 3));
  });

  it('a result that the settings call fatal refuses, unless there is a prv_txn', () => {
    const fatal = { fatal: [5, 79] };
    for (const result of [5, 79]) {
      expect(parsePay(fatal, format, answer(format, { ...unpaid, result }))).toEqual(refused(300, result));
      expect(parsePay(fatal, format, answer(format, { ...paid, result })).kind).toBe('unknown');
      expect(parseCheck(fatal, format, answer(format, { txn_id: checkId, result }))).toEqual(
        refused(300, result),
      );
    }
    expect(parsePay(fatal, format, answer(format, { ...unpaid, result: 7 }))).toEqual(unknown('result 7'));
  });

  it('numbers may be written in another way, and the sum may be missing', () => {
    const { sum: __, ...short } = paid;
    const number = { ...paid, txn_id: 1_234_567, prv_txn: 2016, result: '0', sum: 200 };
    for (const members of [short, number, { ...paid, sum: '200.0' }])
      expect(parsePay({}, format, answer(format, members))).toEqual(executed);
  });

  it.each([
    ['another sum', { ...paid, sum: '200.01' }],
    ['a sum that is none', { ...paid, sum: '-200' }],
    ['another txn_id', { ...paid, txn_id: '12345670' }],
    ['a txn_id with a zero before it', { ...paid, txn_id: '01234567' }],
    ['the txn_id of the check', { ...paid, txn_id: checkId }],
    ['no txn_id', { prv_txn: '2016', result: 0 }],
    ['no result', { txn_id: '1234567', prv_txn: '2016' }],
    ['an empty result', { ...paid, result: '' }],
    ['a negative result', { ...paid, result: -1 }],
    ['a result with a fraction', { ...paid, result: '0.0' }],
    ['an empty prv_txn', { ...paid, prv_txn: '' }],
    ['a prv_txn that is 0', { ...paid, prv_txn: 0 }],
    ['a prv_txn without end', { ...paid, prv_txn: '1'.repeat(65) }],
    ['nothing', {}],
  ])('%s proves nothing', (_name, members) => {
    for (const settings of [{}, { alreadyPaid: 'ours', fatal: [5] }])
      expect(parsePay(settings, format, answer(format, members as Members)).kind).toBe('unknown');
  });

  it('an HTTP status other than 200 proves nothing, whatever the body', () => {
    for (const status of [201, 204, 302, 400, 404, 500, 503]) {
      for (const result of [0, 1, 2, 3, 4, 5]) {
        const expected = unknown(`HTTP ${status}`);
        expect(parsePay({}, format, answer(format, { ...paid, result }, status))).toEqual(expected);
        expect(parseCheck({}, format, answer(format, { txn_id: checkId, result }, status))).toEqual(expected);
      }
    }
  });

  it('a body that is cut, at every byte, or goes on, proves nothing', () => {
    for (const members of [paid, { ...unpaid, result: 1 }]) {
      const { body } = answer(format, members);
      const broken = [...Array(body.length).keys()].map((end) => body.slice(0, end));
      for (const text of [
        ...broken,
        `${body}x`,
        body + body,
        `\u0000${body}`,
        '[]',
        'null',
        '0',
        '<response/>',
      ])
        expect(parsePay({}, format, raw(text)).kind, text).toBe('unknown');
    }
  });

  it('no answer about another txn_id is ever final', () => {
    const words = fc.record(
      {
        txn_id: fc.oneof(fc.bigInt().map(String), fc.string(), fc.constant(checkId)),
        result: fc.oneof(fc.integer({ min: 0, max: 6 }), fc.string()),
        prv_txn: fc.oneof(fc.nat().map(String), fc.string()),
        sum: fc.oneof(fc.constant('200.00'), fc.string()),
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(words, fc.boolean(), (members, lax) => {
        fc.pre(members.txn_id?.trim() !== '1234567');
        const settings = lax ? { alreadyPaid: 'ours', fatal: [5, 6], deduplicates: true } : {};
        expect(parsePay(settings, format, answer(format, members as Members)).kind).toBe('unknown');
      }),
      { numRuns: 2000 },
    );
  });

  it('no text is ever final or an exception', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (body) => {
        expect(parsePay({}, format, raw(body)).kind).toBe('unknown');
        expect(parseCheck({}, format, raw(body)).kind).toBe('unknown');
      }),
    );
    const deep = format === 'json' ? '['.repeat(500_000) : '<a>'.repeat(100_000);
    expect(parsePay({}, format, raw(deep)).kind).toBe('unknown');
  });

  it('what the biller writes in its comment comes into no detail', () => {
    const comment = 'Абонент 7770017711';
    for (const result of [0, 1, 2, 3, 4, 5, 6])
      for (const members of [paid, unpaid]) {
        const told = [
          parsePay({}, format, answer(format, { ...members, result, comment })),
          parseCheck({}, format, answer(format, { txn_id: checkId, result, comment })),
        ];
        expect(JSON.stringify(told)).not.toContain('7770017711');
      }
  });
});

describe('what contradicts itself proves nothing', () => {
  it.each([
    '{"txn_id":"1234567","result":0,"prv_txn":"2016","result":1}',
    '{"txn_id":"1","txn_id":"1234567","result":1}',
    '{"txn_id":"1234567","result":[0],"prv_txn":"2016"}',
    '{"txn_id":"1234567","result":true,"prv_txn":"2016"}',
    '[{"txn_id":"1234567","result":0,"prv_txn":"2016"}]',
  ])('%s', (body) => expect(parsePay({}, 'json', raw(body)).kind).toBe('unknown'));

  it.each([
    '<txn_id>1234567</txn_id><result>0</result><prv_txn>2016</prv_txn><result>1</result>',
    '<txn_id>1</txn_id><txn_id>1234567</txn_id><result>1</result>',
    '<txn_id>1234567</txn_id><result>0<b/></result><prv_txn>2016</prv_txn>',
    '<txn_id>1234567</txn_id><result>0</result><prv_txn>1</prv_txn><prv_txn>2</prv_txn>',
    '<inner><txn_id>1234567</txn_id><result>1</result></inner>',
  ])('<response>%s</response>', (inside) =>
    expect(parsePay({}, 'xml', raw(`<response>${inside}</response>`)).kind).toBe('unknown'),
  );

  it('another root, a document type, another format', () => {
    const { body } = answer('xml', paid);
    expect(parsePay({}, 'xml', raw(body)).kind).toBe('executed');
    expect(parsePay({}, 'xml', raw(body.replaceAll('response', 'answer'))).kind).toBe('unknown');
    expect(parsePay({}, 'xml', raw(`<!DOCTYPE response []>${body}`)).kind).toBe('unknown');
    expect(parsePay({}, 'json', raw(body)).kind).toBe('unknown');
    expect(parsePay({}, 'xml', answer('json', paid)).kind).toBe('unknown');
  });
});

it('a txn_id longer than a double holds is compared to its last digit', () => {
  const connector = kaspiConnector({});
  const long = { ...order, transactionId: 123_456_789_012_345_678n };
  const say = (id: string) => raw(`{"txn_id":${id},"prv_txn":9007199254740993,"result":0}`);
  expect(connector.parsePay(say('123456789012345678'), long)).toEqual({
    kind: 'executed',
    reference: '9007199254740993',
  });
  expect(connector.parsePay(say('123456789012345679'), long).kind).toBe('unknown');
});

it('a repeat that is refused proves nothing, unless the biller looks it up first', () => {
  const refused = (again: boolean, settings = {}) =>
    ['1', '2'].map((result) => {
      const body = JSON.stringify({ txn_id: String(order.transactionId), result });
      const answer = { status: 200, headers: {}, body };
      return kaspiConnector(settings).parsePay(answer, { ...order, again }).kind;
    });
  expect(refused(false)).toEqual(['refused', 'refused']);
  expect(refused(true)).toEqual(['unknown', 'unknown']);
  expect(refused(true, { repeatsAreLookedUp: true })).toEqual(['refused', 'refused']);
});

describe('a check tells', () => {
  const settings = { displays: { field1: 'contract', sum: 'debt', field9: 'absent' } };
  const displays = { contract: '1/00-Ф', debt: '1500.50' };

  it('the fields that have a display, and no others', () => {
    const fields = {
      field1: { '@name': 'Договор', '#text': '1/00-Ф' },
      field2: { '@name': 'Адрес', '#text': 'дом 42' },
    };
    const body = `{"txn_id":"${checkId}","result":0,"sum":1500.50,"fields":${JSON.stringify(fields)}}`;
    expect(parseCheck(settings, 'json', raw(body))).toEqual({ kind: 'ok', displays });
    expect(parseCheck({}, 'json', raw(body))).toEqual({ kind: 'ok' });
    const xml =
      `<response><txn_id>${checkId}</txn_id><sum>1500.50</sum><result>0</result><fields>` +
      '<field1 name="Договор">1/00-Ф</field1><field2 name="Адрес">дом 42</field2></fields></response>';
    expect(parseCheck(settings, 'xml', raw(xml))).toEqual({ kind: 'ok', displays });
  });

  it.each(['[]', 'null', '""', '{"field1":null}', '{"field1":"1"}', '{"field1":{"#text":""}}'])(
    'nothing of fields that are %s',
    (fields) => {
      const body = `{"txn_id":"${checkId}","result":0,"fields":${fields}}`;
      expect(parseCheck(settings, 'json', raw(body))).toEqual({ kind: 'ok' });
    },
  );
});

describe('settings', () => {
  it.each([
    [{ path: 'pay' }, 'path: must begin with / and have neither a query nor a fragment'],
    [{ path: '/pay?x=1' }, 'path: must begin with / and have neither a query nor a fragment'],
    [{ format: 'csv' }, 'format: must be json or xml'],
    [{ parameters: { sum: '1' } }, /^parameters: must be texts by name, without command, txn_id,/],
    [{ parameters: { point: 1 } }, /^parameters: must be texts by name, without command, txn_id,/],
    [{ displays: { a: 'x', b: 'x' } }, /^displays: must be names of displays by the names of fields/],
    [{ basicAuth: { login: 'a:b', password: 'x' } }, /^basicAuth: must be a login without a colon, and/],
    [{ basicAuth: { login: 'a' } }, /^basicAuth: must be a login without a colon, and a password$/],
    [{ alreadyPaid: 'yes' }, /^alreadyPaid: must be ours, if 3 is only answered/],
    [{ fatal: [4] }, 'fatal: must be a list of results of 5 and above'],
    [{ deduplicates: 'no' }, /^deduplicates: must be true, if a txn_id is executed at most once, or false$/],
  ])('%j are refused', (settings, why) => expect(() => kaspiConnector(settings)).toThrow(why));

  it('say whether the biller refuses repeats itself; there is no status inquiry', () => {
    const offers = { deduplicates: true, status: false, notFoundTrustedAfterMs: null };
    expect(kaspiConnector({}).offers).toEqual(offers);
    expect(kaspiConnector({ deduplicates: false }).offers).toEqual({ ...offers, deduplicates: false });
  });

  it('are described with what results mean in docs/connectors/kaspi.md', () => {
    const page = readFileSync(join(import.meta.dirname, '../../../docs/connectors/kaspi.md'), 'utf8');
    const said = (outcome: CheckOutcome | PayOutcome) =>
      outcome.kind === 'refused' ? `refused ${outcome.code}` : outcome.kind;
    const rows = [...page.matchAll(/^\| (\d) \| [^|]+ \| (\S[^|]*) \| (\S[^|]*) \| (\S[^|]*) \|$/gm)];
    expect(rows.map((row) => row.slice(1))).toEqual(
      [0, 1, 2, 3, 4, 5].map((result) => [
        String(result),
        said(parseCheck({}, 'json', answer('json', { txn_id: checkId, result }))),
        said(parsePay({}, 'json', answer('json', { ...unpaid, result }))),
        said(parsePay({}, 'json', answer('json', { ...paid, result }))),
      ]),
    );
  });
});

it('building and parsing take less than 100 µs', () => {
  for (const format of formats) {
    const connector = kaspiConnector({ format });
    const response = answer(format, paid);
    const us: number[] = [];
    for (let n = 0; n < 4000; n += 1) {
      const startedMs = performance.now();
      connector.buildPay(order);
      connector.parsePay(response, order);
      us.push((performance.now() - startedMs) * 1000);
    }
    expect(us.sort((left, right) => left - right)[2000], format).toBeLessThan(100);
  }
});

describe('through a centre and a bad network', () => {
  const directories: string[] = [];
  const opened: { centre: Awaited<ReturnType<typeof openCentre>>; close(): Promise<void> }[] = [];
  afterAll(async () => {
    for (const each of opened) {
      expect((await verify(each.centre.owner)).problems).toEqual([]);
      await each.close();
    }
    for (const directory of directories) rmSync(directory, { recursive: true, force: true });
  });

  async function open(biller: KaspiBiller, settings: object) {
    const dataDir = temporaryDirectory();
    directories.push(dataDir);
    const times = { delayMs: 0, settleMs: 300, slowMs: 5000 };
    const simulator: Simulator = await startSimulator(kaspiWords(biller), {
      ...{ port: 0, host: '127.0.0.1', dataDir },
      ...times,
    });
    const proxy: FaultProxy = await startFaultProxy(simulator.url, 0);
    const centre = await openCentre({ payWaitMs: 100 });
    const common = { answerMsMax: 300, path: '/app', format: biller.format, ...settings };
    await centre.owner.query(
      `insert into providers (provider_id, name, connector, settings)
       values ('biller', 'Biller', 'kaspi', $1), ('direct', 'Biller', 'kaspi', $2)`,
      [
        { ...common, baseUrl: proxy.url },
        { ...common, baseUrl: simulator.url },
      ],
    );
    await centre.owner.query(`update services set provider_id = 'biller' where service_id = 'P1011'`);
    // What the simulator itself spoils needs no proxy.
    await centre.owner.query(
      `insert into services select (jsonb_populate_record(s, '{"service_id":"direct","provider_id":"direct"}')).*
       from services s where service_id = 'P1011'`,
    );
    await centre.watch.refresh();
    opened.push({
      centre,
      async close() {
        await centre.close();
        proxy.close();
        await simulator.close();
      },
    });
    const executions = async (transactionId: bigint) =>
      (await simulator.registry()).filter((row) => row.externalId === String(transactionId)).length;
    return { centre, proxy, executions };
  }

  const isPay = (request: string) => request.includes('command=pay');
  const txnIdOf = (request: string) => /txn_id=(\d+)/.exec(request)?.[1] ?? '';

  describe.each([
    { format: 'json', repeats: '3', settings: { alreadyPaid: 'ours' } },
    { format: 'xml', repeats: '0', settings: {} },
  ] as const)('$format, repeats are answered $repeats', ({ format, repeats, settings }) => {
    let scene: Awaited<ReturnType<typeof open>>;
    beforeAll(async () => {
      scene = await open({ format, repeats }, settings);
    });

    it('cut in every way, a payment is executed once and ends with 0', async () => {
      const { centre, proxy, executions } = scene;
      const cuts = moments.flatMap((at) => manners.map((by) => ({ at, by })));
      // By txn_id: how its first request is cut, the next cut to be given out each time, and how often it was asked.
      const given = new Map<string, { cut: (typeof cuts)[number]; times: number }>();
      proxy.follow({
        exchange: (request) => {
          if (!isPay(request)) return {};
          const id = txnIdOf(request);
          const before = given.get(id);
          const one = before ?? { cut: cuts[given.size % cuts.length]!, times: 0 };
          one.times += 1;
          given.set(id, one);
          return before ? {} : { cut: one.cut };
        },
      });
      const answers = await Promise.all(
        Array.from({ length: 2 * cuts.length }, () =>
          centre.payUntil(payRequest(), (code) => code !== 1, 20_000),
        ),
      );
      expect(given.size).toBe(2 * cuts.length);
      for (const { code, transactionId } of answers) {
        const { cut, times } = given.get(String(transactionId))!;
        const count = await executions(transactionId!);
        expect({ cut, code, times, count }).toEqual({ cut, code: 0, times: 2, count: 1 });
      }
      for (const { at, by } of cuts) expect(proxy.count(`${at}, ${by}`)).toBeGreaterThan(0);
    }, 120_000);

    it.each([
      ['0005', 5, 0],
      ['0007', 7, 0],
      ['0001', 0, 1],
      ['0080', 0, 1],
      ['0081', 0, 1],
      ['0082', 0, 1],
      ['0083', 0, 1],
      ['0084', 0, 1],
      ['0090', 0, 1],
      ['0091', 0, 1],
      ['0094', 0, 1],
      ['0095', 0, 1],
    ])('an account that ends with %s ends with %i', async (end, code, count) => {
      const { centre, executions } = scene;
      const request = payRequest({ serviceId: 'direct', account: `777000${end}` });
      const told = await centre.payUntil(request, (each) => each !== 1, 20_000);
      expect(told.code).toBe(code);
      expect(await executions(told.transactionId!)).toBe(count);
      // A code that is final stays.
      expect(await centre.pay(request)).toMatchObject({ code, transactionId: told.transactionId });
    });

    it.each(['0300', '0093'])(
      'an account that ends with %s, result 5, is never ended by a guess',
      async (end) => {
        const { centre, executions } = scene;
        const request = payRequest({ account: `777000${end}` });
        const told = await centre.payUntil(request, (code) => code !== 1, 2500);
        expect(told.code).toBe(1);
        expect(await executions(told.transactionId!)).toBe(0);
      },
    );
  });

  it('3 from a biller that is not known to mean our own payment ends nothing', async () => {
    const { centre, proxy, executions } = await open({ format: 'json', repeats: '3' }, {});
    const counts = new Map<string, number>();
    proxy.follow({
      exchange: (request) => {
        const id = txnIdOf(request);
        if (isPay(request)) counts.set(id, (counts.get(id) ?? 0) + 1);
        return isPay(request) && counts.get(id) === 1 ? { cut: { at: 'answered', by: 'close' } } : {};
      },
    });
    const told = await centre.payUntil(payRequest(), (code) => code !== 1, 3000);
    expect(told.code).toBe(1);
    expect(counts.get(String(told.transactionId))).toBeGreaterThan(1);
    expect(await executions(told.transactionId!)).toBe(1);
  });

  it('a biller that may execute twice is asked once', async () => {
    const { centre, proxy, executions } = await open(
      { format: 'xml', repeats: '0' },
      { deduplicates: false },
    );
    let asked = 0;
    proxy.follow({
      exchange: (request) => {
        if (!isPay(request)) return {};
        asked += 1;
        return { cut: { at: 'half', by: 'reset' } };
      },
    });
    const told = await centre.payUntil(payRequest(), (code) => code !== 1, 3000);
    expect(told.code).toBe(1);
    expect(asked).toBe(1);
    expect(await executions(told.transactionId!)).toBe(1);
  });

  it('a check tells what is displayed', async () => {
    const { centre } = await open({ format: 'xml', repeats: '0' }, { displays: { field1: 'contract' } });
    const asked = payRequest();
    const told = await centre.check(asked);
    expect(told).toMatchObject({ code: 0, shown: { displays: { contract: '1/00-Ф' } } });
    expect((await centre.check({ ...asked, account: '7770000005' })).code).toBe(5);
  });
});
