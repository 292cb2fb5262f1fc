import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it, test, vi } from 'vitest';
import type { PayRequest } from '../src/core/requests.js';
import { percentEncoder } from '../src/providers/charset.js';
import { connectors } from '../src/providers/connectors.js';
import type { HttpResponse, Inquiry, Order } from '../src/providers/contract.js';
import { osmpConnector } from '../src/providers/osmp-connector.js';
import { createSender } from '../src/providers/send.js';
import { osmpWords } from '../src/providers/simulators/osmp.js';
import { type Simulator, startSimulator } from '../src/providers/simulators/simulator.js';
import { openCentre, payRequest } from './support/centre.js';
import { temporaryDirectory } from './support/database.js';
import { type FaultProxy, type Plan, startFaultProxy } from './support/fault-proxy.js';

const order: Order = {
  again: false,
  externalId: '4-1795491977',
  serviceCode: 'mobile',
  account: '7770017711',
  amountMinor: 1045n,
  currency: 'KZT',
  extras: {},
  extraServices: null,
  transactionId: 12_345_678_912n,
  acceptedAt: new Date('2026-01-31T19:05:09.123Z'),
};
const { transactionId: _, acceptedAt: __, extraServices: ___, ...inquiry } = order;
const txnId = '12345678912';
const connector = (settings: Record<string, unknown> = {}) => osmpConnector({ path: '/osmp', ...settings });

const ok = (body: string): HttpResponse => ({ status: 200, headers: {}, body });
const answer = (elements: string) =>
  ok(`<?xml version="1.0" encoding="UTF-8"?><response>${elements}</response>`);
/** An answer to a payment, of the elements that it is said to have. */
const told = (elements: Record<string, string>) =>
  answer(
    Object.entries(elements)
      .map(([name, text]) => `<${name}>${text}</${name}>`)
      .join(''),
  );
const pay = (response: HttpResponse, settings = {}) => connector(settings).parsePay(response, order);
const checkTxnId = paramsOf(connector().buildCheck(inquiry).path).get('txn_id')!;
const check = (response: HttpResponse, settings = {}) => connector(settings).parseCheck(response, inquiry);

function paramsOf(path: string): URLSearchParams {
  return new URL(path, 'http://provider').searchParams;
}

describe('settings', () => {
  test('only the path must be given', () => {
    const { name, offers, charset } = connector();
    expect({ name, offers, charset }).toEqual({
      name: 'osmp',
      offers: { deduplicates: true, status: false, notFoundTrustedAfterMs: null },
      charset: 'utf-8',
    });
    expect(connectors.get('osmp')).toBe(osmpConnector);
    expect(connector({ deduplicates: false }).offers.deduplicates).toBe(false);
  });

  test.each([
    ['path', undefined],
    ['path', 'osmp'],
    ['path', '/osmp?a=1'],
    ['path', { check: '/check' }],
    ['method', 'PUT'],
    ['charset', 'utf-16le'],
    ['charset', 'gbk'],
    ['charset', 'nonsense'],
    ['names', { txnid: 'id' }],
    ['names', { account: 'sum' }],
    ['names', { command: null }],
    ['names', { sum: 'a b' }],
    ['commands', { check: 'pay' }],
    ['txnId', 'random'],
    ['amount', '10'],
    ['checkSum', 'one'],
    ['date', 'YYYY'],
    ['timeZone', 'Almaty'],
    ['parameters', { terminal: 7 }],
    ['parameters', { txn_id: '7' }],
    ['extras', { contractId: 'account' }],
    ['basic', { login: 'a:b', password: 'c' }],
    ['answer', { result: 'osmp_txn_id' }],
    ['answer', { result: null }],
    ['displays', { fio: 'fio' }],
    ['displays', { check: { fio: 'the name' } }],
    ['fatal', [8]],
    ['fatal', [1]],
    ['fatal', ['5']],
    ['refusalMayHaveReference', 'yes'],
    ['deduplicates', 1],
  ])('%s: %j is refused by a sentence that names it', (name, value) => {
    const wanted = /^(?:parameters|extras)$/.test(name) ? new RegExp(`^(?:${name}|names)[.:]`) : `${name}`;
    const made = () => connector({ [name]: value });
    expect(made).toThrow(wanted);
    expect(made).toThrow(/must be/);
  });
});

describe('requests', () => {
  test('of a payment, as the interface has them', () => {
    const request = connector().buildPay(order);
    expect(request).toEqual({
      method: 'GET',
      path: '/osmp?command=pay&txn_id=12345678912&account=7770017711&sum=10.45&txn_date=20260201000509',
      headers: { accept: 'text/xml, application/xml' },
      body: null,
    });
    // A repeat is the same to the byte.
    expect(connector().buildPay({ ...order })).toEqual(request);
  });

  test('of a check: a number of its own that no payment can have, no date, and no sum where none is known', () => {
    const params = paramsOf(connector().buildCheck(inquiry).path);
    expect(params.get('txn_id')).toMatch(/^9\d{17}$/);
    expect([...params.keys()]).toEqual(['command', 'txn_id', 'account', 'sum']);
    const other = paramsOf(connector().buildCheck({ ...inquiry, externalId: '4-1795491978' }).path);
    expect(other.get('txn_id')).not.toBe(params.get('txn_id'));
    const without = { ...inquiry, amountMinor: null };
    expect(paramsOf(connector().buildCheck(without).path).get('sum')).toBeNull();
    expect(paramsOf(connector({ checkSum: '1.00' }).buildCheck(without).path).get('sum')).toBe('1.00');
  });

  test('the external id names both where it is set so', () => {
    const named = connector({ txnId: 'externalId' });
    expect(paramsOf(named.buildCheck(inquiry).path).get('txn_id')).toBe(order.externalId);
    expect(paramsOf(named.buildPay(order).path).get('txn_id')).toBe(order.externalId);
    const executed = told({ osmp_txn_id: order.externalId, prv_txn: '17', result: '0' });
    expect(named.parsePay(executed, order)).toEqual({ kind: 'executed', reference: '17' });
  });

  test('a repeat that is refused proves less than a first request', () => {
    const outcomes = (again: boolean, settings = {}) =>
      ['4', '5', '7', '79', '241', '242'].map(
        (result) =>
          connector(settings).parsePay(told({ osmp_txn_id: String(order.transactionId), result }), {
            ...order,
            again,
          }).kind,
      );
    expect(outcomes(false)).toEqual(Array(6).fill('refused'));
    expect(outcomes(true)).toEqual(['refused', 'refused', 'unknown', 'unknown', 'unknown', 'unknown']);
    expect(outcomes(true, { fatalAgain: [4, 5, 7, 79, 241, 242] })).toEqual(Array(6).fill('refused'));
  });

  test.each([
    ['10.45', '10.45', '1234567.00', '0.05'],
    ['10,45', '10,45', '1234567,00', '0,05'],
    ['1045', '1045', '123456700', '5'],
  ])('amounts as %s', (amount, usual, large, small) => {
    const sumOf = (amountMinor: bigint) =>
      paramsOf(connector({ amount }).buildPay({ ...order, amountMinor }).path).get('sum');
    expect([1045n, 123_456_700n, 5n].map(sumOf)).toEqual([usual, large, small]);
  });

  test.each([
    ['YYYYMMDDHHMMSS', 'Asia/Almaty', '20260201000509'],
    ['YYYYMMDDHHMMSS', 'Europe/Moscow', '20260131220509'],
    ['ISO', 'Asia/Almaty', '2026-02-01T00:05:09'],
    ['dd.MM.yyyy HH:mm:ss', 'UTC', '31.01.2026 19:05:09'],
  ])('dates as %s in %s', (date, timeZone, text) => {
    expect(paramsOf(connector({ date, timeZone }).buildPay(order).path).get('txn_date')).toBe(text);
  });

  test('everything by agreement: names, commands, paths, fixed and secret parameters, extras, a login', () => {
    const agreed = connector({
      method: 'POST',
      path: { check: '/check.cgi', pay: '/pay.cgi' },
      names: { command: null, txn_id: 'id', account: 'acc', sum: 'amount', txn_date: null, service: 'srv' },
      parameters: { terminal: '7' },
      secretParameters: { pwd: 'p&ss' },
      extras: { contractId: 'contract', absent: 'absent' },
      basic: { login: 'tolem', password: 'пароль' },
    });
    const request = agreed.buildPay({ ...order, extras: { contractId: '1/00', other: '2' } });
    expect(request).toEqual({
      method: 'POST',
      path: '/pay.cgi',
      headers: {
        accept: 'text/xml, application/xml',
        'content-type': 'application/x-www-form-urlencoded',
        authorization: `Basic ${Buffer.from('tolem:пароль').toString('base64')}`,
      },
      body: `id=${txnId}&srv=mobile&acc=7770017711&amount=10.45&contract=1%2F00&terminal=7&pwd=p%26ss`,
    });
    expect(agreed.buildCheck(inquiry)).toMatchObject({ method: 'POST', path: '/check.cgi' });
    const worded = connector({ commands: { check: 'verify', pay: 'payment' } });
    expect(worded.buildCheck(inquiry).path).toMatch(/command=verify&/);
    expect(worded.buildPay(order).path).toMatch(/command=payment&/);
  });

  test.each([
    ['utf-8', '%D0%90%20%2B%27'],
    ['windows-1251', '%C0%20%2B%27'],
    ['koi8-r', '%E1%20%2B%27'],
    ['ibm866', '%80%20%2B%27'],
  ])('texts are percent-encoded in %s', (charset, encoded) => {
    const { path } = connector({ charset }).buildPay({ ...order, account: "А +'" });
    expect(path).toContain(`&account=${encoded}&`);
  });

  test('what the charset has no character for is not sent, rather than another account', () => {
    const kazakh = { ...order, account: 'Әлем' };
    expect(() => connector({ charset: 'windows-1251' }).buildPay(kazakh)).toThrow();
    expect(() => connector({ charset: 'utf-8' }).buildPay({ ...order, account: '\ud800' })).toThrow();
  });

  test('there is no status inquiry', () => {
    expect(() => connector().buildStatus(order)).toThrow('no status inquiry');
    expect(() => connector().parseStatus(ok(''), order)).toThrow('no status inquiry');
  });

  test('codes, ids and dates may be read in the history; accounts, sums, names and passwords may not', () => {
    const { plain } = connector({
      names: { service: 'srv' },
      answer: { result: 'code' },
      parameters: { fatal: 'x' },
    });
    expect([...plain!].sort()).toEqual([
      'code',
      'command',
      'osmp_txn_id',
      'prv_txn',
      'srv',
      'txn_date',
      'txn_id',
    ]);
  });
});

test.each(['utf-8', 'windows-1251', 'windows-1252', 'koi8-r', 'koi8-u', 'ibm866', 'iso-8859-5', 'macintosh'])(
  'whatever %s can say comes back from its percent-encoding',
  (charset) => {
    const encode = percentEncoder(charset)!;
    const decoder = new TextDecoder(charset);
    const all = charset === 'utf-8' ? 'Әлем ₸ 😀 %&=+' : decoder.decode(Uint8Array.from(Array(256).keys()));
    const encoded = encode(all);
    expect(encoded).toMatch(/^(?:[\w.~-]|%[\dA-F]{2})*$/);
    const bytes = encoded.replace(/%(..)/g, (_, hex) => String.fromCharCode(Number.parseInt(hex, 16)));
    expect(decoder.decode(Buffer.from(bytes, 'latin1'))).toBe(all);
  },
);

const executed = { osmp_txn_id: txnId, prv_txn: '2016', sum: '10.45', result: '0', comment: 'OK' };
const refusal = (result: string) => ({ osmp_txn_id: txnId, prv_txn: '', result, comment: 'no' });
const unknown = (detail: string | RegExp) => ({ kind: 'unknown', detail: expect.stringMatching(detail) });

describe('an answer to pay', () => {
  test('executed: result 0 about this txn_id with a prv_txn', () => {
    expect(pay(told(executed))).toEqual({ kind: 'executed', reference: '2016' });
    const { sum: _, ...without } = executed;
    expect(pay(told(without))).toEqual({ kind: 'executed', reference: '2016' });
  });

  test.each([
    ['0', 'executed', null],
    ['1', 'unknown', null],
    ['4', 'refused', 4],
    ['5', 'refused', 5],
    ['7', 'refused', 7],
    ['8', 'unknown', null],
    ['79', 'refused', 7],
    ['90', 'pending', null],
    ['241', 'refused', 241],
    ['242', 'refused', 242],
    ['243', 'unknown', null],
    ['300', 'unknown', null],
    ['2', 'unknown', null],
    ['301', 'unknown', null],
    ['9999', 'unknown', null],
  ])('result %s is %s', (result, kind, code) => {
    const outcome = pay(told(result === '0' ? executed : refusal(result)));
    expect(outcome.kind).toBe(kind);
    if (outcome.kind === 'refused') expect(outcome).toEqual({ kind, code, detail: `result ${result}` });
    if (outcome.kind === 'unknown') expect(outcome.detail).toBe(`result ${result}`);
  });

  test('a refusal is final only by the codes that are set', () => {
    expect(pay(told(refusal('300')), { fatal: [4, 300] })).toMatchObject({ kind: 'refused', code: 300 });
    expect(pay(told(refusal('5')), { fatal: [4, 300] })).toEqual({ kind: 'unknown', detail: 'result 5' });
    expect(pay(told(refusal('4')), { fatal: [] })).toEqual({ kind: 'unknown', detail: 'result 4' });
  });

  test.each([
    ['5', 'true', 'refused'],
    ['5', '1', 'refused'],
    ['5', 'false', 'unknown'],
    ['5', ' FALSE ', 'unknown'],
    ['5', '0', 'unknown'],
    ['5', 'perhaps', 'unknown'],
    ['5', '', 'unknown'],
    ['300', 'true', 'unknown'],
    ['8', 'true', 'unknown'],
    ['0', 'false', 'executed'],
    ['0', 'true', 'unknown'],
    ['90', 'false', 'pending'],
    ['90', 'true', 'unknown'],
  ])('result %s with fatal="%s" is %s', (result, fatal, kind) => {
    const reference = result === '0' ? '<prv_txn>1</prv_txn>' : '';
    const text = `<osmp_txn_id>${txnId}</osmp_txn_id>${reference}<result fatal="${fatal}">${result}</result>`;
    expect(pay(answer(text)).kind).toBe(kind);
  });

  const id = `<osmp_txn_id>${txnId}</osmp_txn_id>`;
  const rest = '<prv_txn>2016</prv_txn><sum>10.45</sum><result>0</result>';
  test.each([
    ['no id', answer(rest), 'about no payment'],
    ['an empty id', answer(`<osmp_txn_id/>${rest}`), 'about no payment'],
    ['another id', told({ ...executed, osmp_txn_id: `${txnId}9` }), 'another payment'],
    ['an id with a zero before it', told({ ...executed, osmp_txn_id: `0${txnId}` }), 'another payment'],
    ['two ids', answer(`${id}<osmp_txn_id>7</osmp_txn_id>${rest}`), 'contradicts'],
    ['an id twice', answer(id + id + rest), 'contradicts'],
    ['an id further in', answer(`<txn>${id}</txn>${rest}`), 'about no payment'],
    ['an id that holds an element', answer(`<osmp_txn_id>${txnId}<a/></osmp_txn_id>${rest}`), 'contradicts'],
    ['two results', answer(`${id}${rest}<result>5</result>`), 'contradicts'],
    ['two references', answer(`${id}${rest}<prv_txn>2017</prv_txn>`), 'contradicts'],
    ['no result', told({ osmp_txn_id: txnId, prv_txn: '1' }), 'no result'],
    ['an empty result', told({ ...executed, result: '' }), 'no result'],
    ['a result in words', told({ ...executed, result: 'OK' }), 'no result'],
    ['a result with a sign', told({ ...executed, result: '-0' }), 'no result'],
    ['a result of many zeros', told({ ...executed, result: '000' }), 'result 000'],
    ['no reference, as an answer to check', told({ osmp_txn_id: txnId, result: '0' }), 'without a reference'],
    ['an empty reference', told({ ...executed, prv_txn: '' }), 'without a reference'],
    ['reference 0', told({ ...executed, prv_txn: '0' }), 'without a reference'],
    ['a reference too long', told({ ...executed, prv_txn: '1'.repeat(65) }), 'too long'],
    ['another sum', told({ ...executed, sum: '10.46' }), 'another sum'],
    ['a sum that is none', told({ ...executed, sum: 'ten' }), 'another sum'],
    ['another root', ok(`<Response>${id}${rest}</Response>`), 'not XML of the protocol'],
    ['no body', ok(''), 'not XML of the protocol'],
    ['HTML', ok('<html><body>Bad gateway<br></body></html>'), 'not XML of the protocol'],
    ['a document type', ok(`<!DOCTYPE response><response>${id}${rest}</response>`), 'not XML'],
    ['a second root', ok(`<response>${id}${rest}</response><extra/>`), 'not XML of the protocol'],
    ['JSON', ok(JSON.stringify(executed)), 'not XML of the protocol'],
    ['HTTP 500', { ...told(executed), status: 500 }, 'HTTP 500'],
    ['HTTP 201', { ...told(executed), status: 201 }, 'HTTP 201'],
  ])('with %s proves nothing', (_, response, detail) => {
    expect(pay(response)).toEqual(unknown(detail));
    // The same oddities do not make a refusal either.
    const refused = ok(response.body.replace('<result>0<', '<result>5<').replace('"0"', '"5"'));
    const saysNothing = /^(HTTP|(an|no|an empty) reference|reference 0)/.test(_);
    if (!saysNothing) expect(pay(refused).kind).toBe('unknown');
  });

  test('a refusal with a reference, or about another sum, contradicts itself', () => {
    const odd = told({ ...refusal('5'), prv_txn: '17' });
    expect(pay(odd)).toEqual(unknown('result 5 with a reference'));
    expect(pay(odd, { refusalMayHaveReference: true })).toMatchObject({ kind: 'refused', code: 5 });
    expect(pay(told({ ...refusal('5'), sum: '99.00' }))).toEqual(unknown('about another sum'));
    for (const sum of ['10.45', '0.00', '0', ''])
      expect(pay(told({ ...refusal('5'), sum })).kind, sum).toBe('refused');
    for (const prv_txn of ['0', '']) expect(pay(told({ ...refusal('5'), prv_txn })).kind).toBe('refused');
  });

  test.each([
    ['10.45', '10.45', 'executed'],
    ['10.45', '10.450', 'executed'],
    ['10.45', '10,45', 'executed'],
    ['10.45', '1045', 'unknown'],
    ['10,45', '10,45', 'executed'],
    ['1045', '1045', 'executed'],
    ['1045', '10.45', 'unknown'],
  ])('where amounts are written %s, the sum %s is %s', (amount, sum, kind) => {
    expect(pay(told({ ...executed, sum }), { amount }).kind).toBe(kind);
  });

  test('names of elements can be agreed on; what is named null is not read', () => {
    const settings = {
      answer: { response: 'Answer', osmp_txn_id: 'id', prv_txn: null, sum: null, result: 'code' },
    };
    const body = (code: string) => `<Answer><id>${txnId}</id><sum>7</sum><code>${code}</code></Answer>`;
    expect(pay(ok(body('0')), settings)).toEqual({ kind: 'executed', reference: null });
    expect(pay(ok(body('5')), settings)).toMatchObject({ kind: 'refused', code: 5 });
  });

  test('space around words, comments, CDATA and further elements change nothing', () => {
    const text = `\n <osmp_txn_id> ${txnId}\n</osmp_txn_id><!-- --><prv_txn><![CDATA[2016]]></prv_txn>
      <result> 0 </result><more><result>5</result></more><osmp_txn_ids/>`;
    expect(pay(answer(text))).toEqual({ kind: 'executed', reference: '2016' });
  });

  test('nothing of the text comes into the detail', () => {
    const secret = '77012345678';
    for (const name of ['osmp_txn_id', 'result', 'prv_txn', 'sum', 'comment']) {
      for (const start of [executed, refusal('5'), refusal('300')]) {
        expect(
          JSON.stringify(pay(told({ ...start, [name]: secret })), (key, value) =>
            key === 'reference' ? undefined : value,
          ),
        ).not.toContain(secret);
      }
    }
  });
});

describe('an answer to check', () => {
  const said = (result: string, more = '') =>
    answer(`<osmp_txn_id>${checkTxnId}</osmp_txn_id><result>${result}</result><comment>да</comment>${more}`);

  test.each([
    ['0', 'ok', null],
    ['1', 'unknown', null],
    ['4', 'refused', 4],
    ['5', 'refused', 5],
    ['7', 'refused', 7],
    ['8', 'unknown', null],
    ['79', 'refused', 7],
    ['90', 'unknown', null],
    ['241', 'refused', 241],
    ['242', 'refused', 242],
    ['243', 'unknown', null],
    ['300', 'refused', 300],
    ['2', 'unknown', null],
  ])('result %s is %s', (result, kind, code) => {
    // What ends a payment is another setting.
    const outcome = check(said(result), { fatal: [] });
    expect(outcome.kind).toBe(kind);
    if (outcome.kind === 'refused') expect(outcome).toEqual({ kind, code, detail: `result ${result}` });
  });

  test('another id, no id, fatal="false" and HTTP errors prove nothing', () => {
    expect(check(told({ osmp_txn_id: txnId, result: '0' })).kind).toBe('unknown');
    expect(check(told({ result: '5' })).kind).toBe('unknown');
    const mild = `<osmp_txn_id>${checkTxnId}</osmp_txn_id><result fatal="false">5</result>`;
    expect(check(answer(mild)).kind).toBe('unknown');
    expect(check({ ...said('0'), status: 503 }).kind).toBe('unknown');
  });

  test('elements and fields are shown by the names that are agreed on', () => {
    const displays = {
      check: { comment: 'info', fio: 'fio', debt: 'debt', sum: 'fixedAmount', absent: 'a', twice: 'b' },
    };
    const more = `<fields><field1 name="fio">Абонент &lt;1&gt;</field1><field2 name="twice">1</field2>
      <field3 name="twice">2</field3></fields><info><debt>-7</debt></info><sum>12,5</sum>`;
    expect(check(said('0', more), { displays })).toEqual({
      kind: 'ok',
      displays: { info: 'да', fio: 'Абонент <1>', debt: '-7', fixedAmount: '12.50' },
    });
    expect(check(said('0', more))).toEqual({ kind: 'ok', displays: undefined });
    const paid = told({ ...executed, comment: 'x'.repeat(600) });
    expect(pay(paid, { displays: { pay: { comment: 'info' } } })).toEqual({
      kind: 'executed',
      reference: '2016',
      displays: { info: 'x'.repeat(500) },
    });
  });
});

describe('properties', () => {
  const everySetting = {
    fatal: [4, 5, 7, 79, 241, 242, 300],
    refusalMayHaveReference: true,
    answer: { prv_txn: null, sum: null },
  };
  const isFinal = ({ kind }: { kind: string }) =>
    kind === 'executed' || kind === 'refused' || kind === 'pending';
  const results = fc.constantFrom('0', '1', '4', '5', '7', '8', '79', '90', '241', '242', '243', '300', '12');
  // Farther from the id that was sent than three edits can bring it.
  const otherId = fc.bigInt({ min: 98_000_000_000n, max: 99_999_999_999n }).map(String);
  const elements = fc.array(
    fc.record({
      name: fc.constantFrom('prv_txn', 'sum', 'comment', 'result', 'fields', 'osmp_txn_id'),
      text: fc.oneof(fc.constantFrom('0', '5', '10.45', '17', '<field1 name="fio">a</field1>'), otherId),
    }),
    { maxLength: 4 },
  );
  const edits = fc.array(
    fc.record({
      at: fc.double({ min: 0, max: 1, noNaN: true }),
      gone: fc.integer({ min: 0, max: 20 }),
      put: fc.constantFrom('', '0', '5', '<', '>', '/', ' ', '<result>0</result>', '</response>', '"', '&'),
    }),
    { maxLength: 3 },
  );
  const edit = (text: string, changes: readonly { at: number; gone: number; put: string }[]) =>
    changes.reduce((was, { at, gone, put }) => {
      const from = Math.floor(at * was.length);
      return was.slice(0, from) + put + was.slice(from + gone);
    }, text);

  test('no answer about another payment, however it is bent, says anything of this one', () => {
    fc.assert(
      fc.property(otherId, results, elements, edits, (id, result, more, changes) => {
        const tail = more.map(({ name, text }) => `<${name}>${text}</${name}>`).join('');
        const { body } = answer(
          `<osmp_txn_id>${id}</osmp_txn_id><prv_txn>2016</prv_txn><result>${result}</result>${tail}`,
        );
        const outcome = pay(ok(edit(body, changes)), everySetting);
        expect(isFinal(outcome), outcome.kind).toBe(false);
      }),
      { numRuns: 3000 },
    );
  });

  test('no part of an answer says anything, and whatever comes is read without a throw', () => {
    const bodies = [told(executed), told(refusal('5')), told(refusal('90'))].map(({ body }) => body);
    for (const body of bodies) {
      for (let length = 0; length < body.length; length += 1)
        expect(isFinal(pay(ok(body.slice(0, length)), everySetting)), body.slice(0, length)).toBe(false);
    }
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: 'binary' }), fc.string()), fc.integer(), (body, status) => {
        expect(pay({ status, headers: {}, body }).kind).toBe('unknown');
        expect(check({ status, headers: {}, body }).kind).toBe('unknown');
      }),
    );
  });

  test('codes that are not vouched for are never final, whatever stands beside them', () => {
    const others = fc.integer({ min: 1, max: 9999 }).map(String);
    const careful = { fatal: [4, 5] };
    fc.assert(
      fc.property(others, elements, fc.constantFrom('', ' fatal="true"'), (result, more, fatal) => {
        fc.pre(!['4', '5', '90'].includes(result));
        const tail = more.map(({ name, text }) => `<${name}>${text}</${name}>`).join('');
        const text = `<osmp_txn_id>${txnId}</osmp_txn_id><result${fatal}>${result}</result>${tail}`;
        expect(pay(answer(text), careful).kind).toBe('unknown');
      }),
    );
  });
});

describe('docs/connectors/osmp.md', () => {
  const page = readFileSync(join(import.meta.dirname, '../../../docs/connectors/osmp.md'), 'utf8');
  const { settings } = JSON.parse(/^```json\n([\s\S]*?)^```$/m.exec(page)![1]!);

  test('its example is taken, and has every setting of its table', () => {
    expect(connector(settings).offers.deduplicates).toBe(true);
    const { baseUrl: _, answerMsMax: __, ...own } = settings;
    const rows = [...page.matchAll(/^\| `(\w+)` \| /gm)].map(([, name]) => name);
    expect(rows).toEqual(Object.keys(own));
  });

  test('its table of codes is what the connector does', () => {
    const rows = [...page.matchAll(/^\| (\d+) \| (.+) \| (.+) \|$/gm)];
    expect(rows).toHaveLength(12);
    const words = (outcome: { kind: string; code?: number }) =>
      outcome.code === undefined ? outcome.kind : `${outcome.kind}, ${outcome.code}`;
    for (const [, result, atCheck, atPay] of rows) {
      const toCheck = told({ osmp_txn_id: checkTxnId, result: result! });
      const toPay = told(result === '0' ? executed : refusal(result!));
      expect([words(check(toCheck)), words(pay(toPay))], result).toEqual([atCheck, atPay]);
    }
  });
});

test('a payment is built and its answer read in less than 100 µs', () => {
  const tolem = connector({ charset: 'windows-1251', displays: { pay: { comment: 'info' } } });
  const response = told(executed);
  const times = Array.from({ length: 5000 }, () => {
    const startedMs = performance.now();
    tolem.buildPay(order);
    tolem.parsePay(response, order);
    return (performance.now() - startedMs) * 1000;
  });
  const median = times.slice(2000).sort((a, b) => a - b)[1500]!;
  expect(median).toBeLessThan(100);
});

const simulatorOptions = { port: 0, host: '127.0.0.1', delayMs: 0, settleMs: 600, slowMs: 4000 };

describe('the simulator', () => {
  const directory = temporaryDirectory();
  let simulator: Simulator;
  beforeAll(async () => {
    const words = osmpWords({ charset: 'windows-1251' });
    simulator = await startSimulator(words, { ...simulatorOptions, dataDir: directory });
  });
  afterAll(async () => {
    await simulator.close();
    rmSync(directory, { recursive: true });
  });

  function senderTo(settings: Record<string, unknown>) {
    const facts = {
      providerId: 'osmp',
      name: 'OSMP',
      connector: 'osmp',
      settings: { baseUrl: simulator.url, path: '/osmp', charset: 'windows-1251', ...settings },
      paused: false,
    };
    return createSender({
      providers: () => new Map([['osmp', facts]]),
      connectors,
      log: { error: (_, message) => expect.fail(message) },
    });
  }

  it('is understood in windows-1251, forms and answers', async () => {
    const displays = { check: { comment: 'info', balance: 'balance' }, pay: { comment: 'info' } };
    const sender = senderTo({ method: 'POST', displays });
    const account = 'Лицевой счет 7';
    const asked: Inquiry = { ...inquiry, account };
    expect((await sender.check('osmp', asked)).outcome).toEqual({
      kind: 'ok',
      displays: { info: 'Успешно', balance: '-12.50' },
    });
    const paid = { ...order, account };
    const first = (await sender.pay('osmp', paid, Number.POSITIVE_INFINITY)).outcome;
    expect(first).toEqual({
      kind: 'executed',
      reference: expect.stringMatching(/^\d+$/),
      displays: { info: 'Успешно' },
    });
    expect((await sender.pay('osmp', paid, Number.POSITIVE_INFINITY)).outcome).toEqual(first);
    expect((await simulator.registry()).map((row) => [row.externalId, row.account, row.amount])).toEqual([
      [txnId, account, '10.45'],
    ]);
    await sender.close(0);
  });

  it('answers 300 about no payment to what it does not understand', async () => {
    const sender = senderTo({ names: { txn_date: null }, fatal: [300] });
    const { outcome } = await sender.pay('osmp', { ...order, transactionId: 64n }, Number.POSITIVE_INFINITY);
    expect(outcome).toEqual({ kind: 'unknown', detail: 'the answer is about no payment' });
    await sender.close(0);
  });
});

describe('through the centre', () => {
  type Opened = Awaited<ReturnType<typeof openCentre>>;
  const directory = temporaryDirectory();
  let centre: Opened;
  let simulator: Simulator;
  let proxy: FaultProxy;
  beforeAll(async () => {
    simulator = await startSimulator(osmpWords(), { ...simulatorOptions, dataDir: directory });
    proxy = await startFaultProxy(simulator.url, 0);
    centre = await openCentre({ payWaitMs: 300 });
    // The proxy reads no answers of unknown length, which some accounts get.
    await use({ baseUrl: simulator.url });
  });
  afterAll(async () => {
    await centre.close();
    proxy.close();
    await simulator.close();
    rmSync(directory, { recursive: true });
  });

  /** Makes the demo's provider one of this connector. */
  async function use(settings: Record<string, unknown>): Promise<void> {
    const whole = {
      ...{ baseUrl: proxy.url, path: { check: '/check', pay: '/pay' }, answerMsMax: 700 },
      ...{ connectTimeoutMs: 500, responseBytesMax: 65_536, ...settings },
    };
    await centre.owner.query(
      "update providers set connector = 'osmp', settings = $1 where provider_id = 'sandbox'",
      [whole],
    );
    const inForce = () => centre.watch.current().reference.providers.get('sandbox')?.settings;
    await vi.waitFor(() => expect(inForce()).toEqual(whole), { timeout: 5000 });
  }

  const isFinal = (code: number) => ![1, 153, 220, 255].includes(code);
  let serial = 0;
  const requestFor = (ending: string): PayRequest => {
    serial += 1;
    return payRequest({ account: `77${String(serial).padStart(4, '0')}${ending}` });
  };
  const executions = async (transactionId: bigint) =>
    (await simulator.registry()).filter((row) => row.externalId === String(transactionId)).length;

  /** The `pay` of each payment is treated so the first `times` times. */
  const firstPays = (times: number, treat: Plan['exchange']): Plan => {
    const seen = new Map<string, number>();
    return {
      exchange: (request) => {
        const id = /[?&]command=pay&txn_id=(\d+)/.exec(request)?.[1];
        if (id === undefined) return {};
        seen.set(id, (seen.get(id) ?? 0) + 1);
        return seen.get(id)! <= times ? (treat?.(request) ?? {}) : {};
      },
    };
  };

  test.each([
    ['7711', 0, 1],
    ['0005', 5, 0],
    ['0007', 7, 0],
    ['0241', 241, 0],
    ['0242', 242, 0],
    ['0001', 0, 1],
    ['0070', 0, 1],
    ['0071', 0, 1],
    ['0072', 0, 1],
    ['0080', 0, 1],
    ['0081', 0, 1],
    ['0082', 0, 1],
    ['0083', 0, 1],
    ['0084', 0, 1],
    ['0090', 0, 1],
    ['0091', 0, 1],
    ['0092', 0, 1],
    ['0094', 0, 1],
    ['0095', 0, 1],
  ])('an account …%s ends in %i with %i execution(s)', async (ending, code, times) => {
    const request = requestFor(ending);
    const before = await centre.available();
    const answer = await centre.payUntil(request, isFinal);
    expect(answer.code).toBe(code);
    expect(await executions(answer.transactionId!)).toBe(times);
    expect(await centre.available()).toBe(before - BigInt(times) * request.amountToMinor);
  });

  describe('over a bad network', () => {
    beforeAll(() => use({}));

    const pays = 4;
    const anyMoment = () =>
      (['asked', 'forwarded', 'answered', 'half'] as const)[Math.floor(Math.random() * 4)]!;
    const faults: [string, Plan, string][] = [
      ['the request is lost', firstPays(2, () => ({ cut: { at: 'asked', by: 'close' } })), 'asked, close'],
      [
        'the answer is lost',
        firstPays(2, () => ({ cut: { at: 'answered', by: 'close' } })),
        'answered, close',
      ],
      ['half a body comes', firstPays(2, () => ({ cut: { at: 'half', by: 'close' } })), 'half, close'],
      [
        'half a body comes, then silence',
        firstPays(1, () => ({ cut: { at: 'half', by: 'hang' } })),
        'half, hang',
      ],
      ['the connection is reset', firstPays(2, () => ({ cut: { at: anyMoment(), by: 'reset' } })), ', reset'],
    ];
    test.each(faults)('%s: each payment is executed once and ends in 0', async (_, plan, mark) => {
      const before = await centre.available();
      const countBefore = proxy.count(mark);
      proxy.follow(plan);
      const requests = Array.from({ length: pays }, () => requestFor('7711'));
      const answers = await Promise.all(requests.map((each) => centre.payUntil(each, isFinal, 20_000)));
      proxy.follow({});
      expect(proxy.count(mark) - countBefore).toBeGreaterThanOrEqual(pays);
      expect(answers.map(({ code }) => code)).toEqual(requests.map(() => 0));
      for (const { transactionId } of answers) expect(await executions(transactionId!)).toBe(1);
      expect(await centre.available()).toBe(before - BigInt(pays) * requests[0]!.amountToMinor);
    });

    test('no connection comes about: it is sent when there is one, and executed once', async () => {
      const requests = Array.from({ length: pays }, () => requestFor('7711'));
      // A quote, so that the payment itself meets the closed door.
      for (const each of requests) expect((await centre.check(each)).code).toBe(0);
      proxy.refuse();
      const answers = await Promise.all(requests.map((each) => centre.pay(each)));
      expect(answers.map(({ code }) => code)).toEqual(requests.map(() => 1));
      for (const { transactionId } of answers) expect(await executions(transactionId!)).toBe(0);
      await proxy.accept();
      for (const each of requests) {
        const { code, transactionId } = await centre.payUntil(each, isFinal, 20_000);
        expect(code).toBe(0);
        expect(await executions(transactionId!)).toBe(1);
      }
    });

    test('a provider that speaks ill of what it has executed gets no false end: the money stays held', async () => {
      const lost = firstPays(1, () => ({ cut: { at: 'answered', by: 'close' } }));
      const repeats = new Map<string, number>();
      proxy.follow({
        ...lost,
        delivered: (request) => {
          const account = /&account=(\d+)/.exec(request)?.[1];
          if (/command=pay/.test(request)) repeats.set(account!, (repeats.get(account!) ?? 0) + 1);
        },
      });
      const before = await centre.available();
      const requests = ['0070', '0071', '0072', '0073', '0074'].map(requestFor);
      await Promise.all(requests.map((each) => centre.pay(each)));
      const allAsked = () => requests.every(({ account }) => (repeats.get(account) ?? 0) >= 2);
      await expect.poll(allAsked, { timeout: 20_000 }).toBe(true);
      await delay(300);
      proxy.follow({});
      for (const each of requests) {
        const { code, transactionId } = await centre.pay(each);
        expect(code, each.account).toBe(1);
        expect(await executions(transactionId!)).toBe(1);
        const { rows } = await centre.owner.query('select what from waiting where payment_id = $1', [
          transactionId,
        ]);
        expect(rows).toHaveLength(1);
      }
      expect(await centre.available()).toBe(before - 5n * requests[0]!.amountToMinor);
    });

    test('300 ends a payment only where the provider vouches for it, and 0093 not even then', async () => {
      const [open, lost] = [requestFor('0300'), requestFor('0093')];
      await Promise.all([open, lost].map((each) => centre.pay(each)));
      await delay(1500);
      expect((await centre.pay(open)).code).toBe(1);
      await use({ fatal: [4, 5, 300], fatalAgain: [4, 5, 300] });
      expect((await centre.payUntil(open, isFinal, 20_000)).code).toBe(300);
      expect((await centre.pay(lost)).code).toBe(1);
      const limits = requestFor('0242');
      await centre.pay(limits);
      await delay(1500);
      expect((await centre.pay(limits)).code).toBe(1);
      await use({});
    });

    test('without deduplication nothing is sent a second time', async () => {
      await use({ deduplicates: false });
      const asked = requestFor('7711');
      let sent = 0;
      const plan = firstPays(1, () => ({ cut: { at: 'answered', by: 'close' } }));
      proxy.follow({
        exchange: (request) => {
          if (/command=pay/.test(request) && request.includes(asked.account)) sent += 1;
          return plan.exchange!(request);
        },
      });
      const { transactionId } = await centre.pay(asked);
      await delay(2500);
      proxy.follow({});
      expect((await centre.pay(asked)).code).toBe(1);
      expect(sent).toBe(1);
      expect(await executions(transactionId!)).toBe(1);
      await use({});
    });
  });
});
