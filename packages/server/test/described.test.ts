import { createHmac, createPublicKey, generateKeyPairSync, verify } from 'node:crypto';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it, test, vi } from 'vitest';
import { z } from 'zod';
import { connectors } from '../src/providers/connectors.js';
import { type Connector, type HttpResponse, NotWritable, type Order } from '../src/providers/contract.js';
import { describedConnector } from '../src/providers/described/connector.js';
import { pointerOf, valueAt } from '../src/providers/described/read.js';
import { providerFile } from '../src/providers/described/shape.js';
import { createSender } from '../src/providers/send.js';
import { describedWords } from '../src/providers/simulators/described.js';
import { type Simulator, startSimulator } from '../src/providers/simulators/simulator.js';
import { demoAgent, openCentre, payRequest } from './support/centre.js';
import { temporaryDirectory } from './support/database.js';
import { dials } from './support/dials.js';
import { type Manner, type Moment, manners, moments, startFaultProxy } from './support/fault-proxy.js';

const root = join(import.meta.dirname, '..');
const readJson = (path: string) => JSON.parse(readFileSync(join(root, path), 'utf8'));
const demo = readJson('demo/described-provider.json');
const key: string = demo.settings.secrets.signing;

/** Settings are free-form here: most of them are meant to be wrong. */
// biome-ignore lint/suspicious/noExplicitAny: see above.
type Loose = any;
type Change = (description: Loose, settings: Loose) => void;

function settingsWith(...changes: readonly Change[]): Loose {
  const settings = structuredClone(demo.settings);
  for (const change of changes) change(settings.description, settings);
  return settings;
}
const connectorWith = (...changes: readonly Change[]): Connector =>
  describedConnector(settingsWith(...changes));

/** The member's name would be taken for a promise's. */
const rule = (when: object, result: unknown, more: object = {}) =>
  Object.fromEntries([['when', when], ['then', result], ...Object.entries(more)]);

const order: Order = {
  externalId: '4-1001',
  serviceCode: 'mobile',
  account: '7770001234',
  amountMinor: 20_050n,
  currency: 'KZT',
  extras: { note: 'a b' },
  extraServices: null,
  transactionId: 9_007_199_254_740_993n,
  again: false,
  acceptedAt: new Date('2026-01-31T20:00:05.007Z'),
};
const inquiry = { ...order, amountMinor: null };
const answer = (body: unknown, status = 200): HttpResponse => ({
  status,
  headers: {},
  body: typeof body === 'string' ? body : JSON.stringify(body),
});

describe('where values go', () => {
  const bodyOf = (body: object, over: Partial<Order> = {}) => {
    const connector = connectorWith(({ pay }) => {
      pay.body = { id: '{{externalId}}', ...body };
    });
    const text = connector.buildPay({ ...order, ...over }).body as string;
    return text.replace('{"id":"4-1001",', '{');
  };

  it.each([
    [{ a: '{{account}} of {{serviceCode}}' }, '{"a":"7770001234 of mobile"}'],
    [{ a: '{{amount}}', b: '{{amountMinor}}' }, '{"a":"200.50","b":"20050"}'],
    [{ a: { $number: 'amount' }, b: { $integer: 'amountMinor' } }, '{"a":200.50,"b":20050}'],
    [{ a: { $integer: 'transactionId' } }, '{"a":9007199254740993}'],
    [{ a: '{{transactionId}} {{currency}}' }, '{"a":"9007199254740993 KZT"}'],
    [{ a: '{{acceptedAt}}' }, '{"a":"2026-01-31T20:00:05.007Z"}'],
    [{ a: '{{acceptedAt|YYYYMMDDHHmmss|+05:00}}' }, '{"a":"20260201010005"}'],
    [{ a: '{{acceptedAt|DD.MM.YYYY HH:mm:ss.SSS|-01:30}}' }, '{"a":"31.01.2026 18:30:05.007"}'],
    [
      { a: { $integer: 'acceptedAt|unix' }, b: '{{acceptedAt|unixMs}}' },
      '{"a":1769889605,"b":"1769889605007"}',
    ],
    [{ a: '{{extras.note}}', b: '{{extras.none?}}', c: 1 }, '{"a":"a b","c":1}'],
    [{ a: { $number: 'extras.none?' }, b: ['{{extras.none?}}', 'x'] }, '{"b":["x"]}'],
    [
      { a: '{{extras.__proto__?}}{{extras.constructor?}}', b: [[], {}, null, true, 1.5] },
      '{"b":[[],{},null,true,1.5]}',
    ],
  ])('%j', (body, text) => {
    expect(bodyOf(body)).toBe(text);
  });

  it('a whole amount may be an integer, and true and false are their own words', () => {
    const extras = { yes: 'true' };
    expect(
      bodyOf({ a: { $integer: 'amount' }, b: { $boolean: 'extras.yes' } }, { amountMinor: 20_000n, extras }),
    ).toBe('{"a":200,"b":true}');
  });

  it.each([
    [{ a: '{{extras.none}}' }, '{{extras.none}} has no value'],
    [{ a: { $integer: 'amount' } }, 'the value of {{amount}} is not a whole number'],
    [{ a: { $number: 'extras.note' } }, 'the value of {{extras.note}} is not a number'],
    [{ a: { $boolean: 'account' } }, 'the value of {{account}} is not true or false'],
  ])('%j is not sent, and the error has the name and no value', (body, message) => {
    expect(() => bodyOf(body)).toThrow(new NotWritable(message));
  });

  const everywhere: Change = (description, settings) => {
    settings.values = { point: 'P 1' };
    description.auth = [];
    description.pay = {
      ...description.pay,
      path: '/pay/{{externalId}}/{{account}}',
      query: { account: '{{account}}', none: '{{extras.none?}}', point: '{{setting.point}}' },
      headers: { 'X-Account': '{{account}}', 'X-None': '{{extras.none?}}' },
      body: { account: '{{account}}' },
    };
  };

  it('paths and queries are percent-encoded, JSON is escaped', () => {
    const request = connectorWith(everywhere).buildPay({ ...order, account: 'a/b?c&d="e" %+' });
    expect(request).toEqual({
      method: 'POST',
      path: '/pay/4-1001/a%2Fb%3Fc%26d%3D%22e%22%20%25%2B?account=a%2Fb%3Fc%26d%3D%22e%22%20%25%2B&point=P%201',
      headers: {
        accept: 'application/json',
        'content-type': 'application/json',
        'x-account': 'a/b?c&d="e" %+',
      },
      body: '{"account":"a/b?c&d=\\"e\\" %+"}',
    });
  });

  test('any text comes back as it was from the path, the query and the body', () => {
    const connector = connectorWith(everywhere, ({ pay }) => {
      delete pay.headers;
    });
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', minLength: 1 }), (account) => {
        fc.pre(account !== '.' && account !== '..');
        const { path, body } = connector.buildPay({ ...order, account });
        const url = new URL(path, 'http://provider');
        expect(decodeURIComponent(url.pathname.split('/')[3]!)).toBe(account);
        expect(url.searchParams.get('account')).toBe(account);
        expect(JSON.parse(body as string)).toEqual({ account });
      }),
    );
  });

  it.each(['a\r\nX-Other: 1', 'a\nb', 'a\0', 'ж', '', ' a', 'a '])(
    'a header does not carry %j',
    (account) => {
      const connector = connectorWith(everywhere, ({ pay }) => {
        pay.path = '/pay/{{externalId}}';
      });
      expect(() => connector.buildPay({ ...order, account })).toThrow(
        'the header x-account cannot carry its value',
      );
    },
  );

  it.each(['.', '..', ''])('the account %j does not change the path', (account) => {
    const connector = connectorWith(everywhere, ({ pay }) => {
      delete pay.headers;
    });
    expect(() => connector.buildPay({ ...order, account })).toThrow(
      account === '' ? 'a value in the path is empty' : 'a value would change the path',
    );
  });
});

test.each([
  ['/a/b', 1],
  ['/a~1b', 2],
  ['/m~0n', 3],
  ['/~01', 4],
  ['/', 5],
  ['/list/1', 'y'],
  ['/list/01', undefined],
  ['/list/-', undefined],
  ['/list/2', undefined],
  ['/list/length', undefined],
  ['/toString', undefined],
  ['/a/b/c', undefined],
  ['/nothing/at', undefined],
])('the pointer %s', (pointer, value) => {
  const document = { a: { b: 1 }, 'a/b': 2, 'm~n': 3, '~1': 4, '': 5, list: ['x', 'y'], nothing: null };
  expect(valueAt(document, pointerOf(pointer))).toBe(value);
});

describe('signatures', () => {
  const now = new Date('2026-02-01T00:00:00.500Z');
  beforeAll(() => {
    vi.useFakeTimers({ now, toFake: ['Date'] });
  });
  afterAll(() => {
    vi.useRealTimers();
  });
  const over =
    '{{method}} {{path}} {{query}} {{timestamp|unixMs}} {{setting.shop}} {{extras.none?}}|{{body}}';
  const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const pem = privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
  const hmac = { kind: 'hmac-sha256', key: 'signing', over };
  const expected = (body: string, encoding: 'hex' | 'base64') =>
    createHmac('sha256', key)
      .update(`POST /base/v1/payments service=mobile ${now.getTime()} S1 |${body}`)
      .digest(encoding);

  const inPay = (proof: object) =>
    connectorWith((description, settings) => {
      settings.baseUrl = 'http://provider.example/base/';
      settings.values = { shop: 'S1', login: 'shop' };
      settings.secrets.pem = pem;
      description.pay.auth = [proof];
      description.pay.query = { service: '{{serviceCode}}' };
    }).buildPay(order);

  it('HMAC into a header, hex, with a prefix', () => {
    const { headers, body } = inPay({
      ...hmac,
      encoding: 'hex',
      into: { header: 'X-Sign', prefix: 'sha256=' },
    });
    expect(headers['x-sign']).toBe(`sha256=${expected(body as string, 'hex')}`);
  });

  it('HMAC into the query, base64', () => {
    const { path, body } = inPay({ ...hmac, encoding: 'base64', into: { query: 'sign' } });
    const query = new URL(path, 'http://provider').searchParams;
    expect([...query.keys()]).toEqual(['service', 'sign']);
    expect(query.get('sign')).toBe(expected(body as string, 'base64'));
  });

  it('HMAC into the body, over the body without it', () => {
    const { body } = inPay({ ...hmac, encoding: 'hex', into: { body: 'sign' } });
    const { sign, ...rest } = JSON.parse(body as string);
    expect(Object.keys(rest)).toEqual(['id', 'service', 'account', 'amount', 'createdAt']);
    const without = (body as string).replace(/,"sign":"[^"]*"/, '');
    expect(sign).toBe(expected(without, 'hex'));
  });

  it('RSA, proven by the public key', () => {
    const { headers, body } = inPay({
      ...hmac,
      kind: 'rsa-sha256',
      key: 'pem',
      encoding: 'base64',
      into: { header: 'Sign' },
    });
    const text = `POST /base/v1/payments service=mobile ${now.getTime()} S1 |${body}`;
    const signature = Buffer.from(headers.sign!, 'base64');
    expect(
      verify(
        'sha256',
        Buffer.from(text),
        createPublicKey(publicKey.export({ type: 'spki', format: 'pem' })),
        signature,
      ),
    ).toBe(true);
    expect(verify('sha256', Buffer.from(`${text} `), publicKey, signature)).toBe(false);
  });

  it.each([
    [
      { kind: 'basic', login: 'login', password: 'signing' },
      `Basic ${Buffer.from(`shop:${key}`).toString('base64')}`,
    ],
    [{ kind: 'bearer', token: 'signing' }, `Bearer ${key}`],
    [{ kind: 'header', name: 'Authorization', value: 'Key {{setting.signing}}' }, `Key ${key}`],
  ])('%j', (proof, authorization) => {
    expect(inPay(proof).headers.authorization).toBe(authorization);
  });

  it('the moment is the same wherever it stands in one request', () => {
    const { headers } = connectorWith().buildStatus(order);
    const timestamp = String(Math.floor(now.getTime() / 1000));
    expect(headers['x-timestamp']).toBe(timestamp);
    expect(headers['x-signature']).toBe(
      createHmac('sha256', key).update(`GET\n/v1/payments/4-1001\n${timestamp}\n`).digest('hex'),
    );
  });
});

describe('what an answer says', () => {
  const connector = connectorWith();
  const paid = { id: order.externalId, state: 'paid', payment: { number: 'S1' } };
  const unknown = (detail: string) => ({ kind: 'unknown', detail });

  it.each<[string, HttpResponse, object]>([
    ['executed', answer(paid), { kind: 'executed', reference: 'S1' }],
    ['executed with 201', answer(paid, 201), { kind: 'executed', reference: 'S1' }],
    [
      'a long number keeps its digits',
      answer(`{"id":"4-1001","state":"paid","payment":{"number":12345678901234567890.10}}`),
      { kind: 'executed', reference: '12345678901234567890.10' },
    ],
    ['pending', answer({ id: '4-1001', state: 'processing' }, 202), { kind: 'pending', reference: null }],
    [
      'refused',
      answer({ id: '4-1001', state: 'rejected', reason: 'DECLINED' }, 422),
      { kind: 'refused', code: 300, detail: 'code DECLINED' },
    ],
    ['no reference', answer({ ...paid, payment: {} }), unknown('code paid, without a reference')],
    [
      'an empty reference',
      answer({ ...paid, payment: { number: '' } }),
      unknown('code paid, without a reference'),
    ],
    ['another id', answer({ ...paid, id: '4-10010' }), unknown('the answer is about another payment')],
    ['no id', answer({ ...paid, id: undefined }), unknown('the answer is about another payment')],
    [
      'an id inside an array',
      answer({ ...paid, id: ['4-1001'] }),
      unknown('the answer is about another payment'),
    ],
    ['a status that no rule names', answer(paid, 202), unknown('HTTP 202, no rule for code paid')],
    ['500', answer(paid, 500), unknown('HTTP 500')],
    ['a redirect', answer(paid, 302), unknown('HTTP 302')],
    ['no JSON', answer('<html>'), unknown('the answer is not JSON')],
    ['no JSON with 422', answer('<html>', 422), unknown('HTTP 422')],
    ['cut', answer(JSON.stringify(paid).slice(0, -1)), unknown('the answer is not JSON')],
    ['more after it', answer(`${JSON.stringify(paid)}\n{}`), unknown('the answer is not JSON')],
    [
      'two words under one name',
      answer('{"id":"4-1001","state":"processing","state":"paid","payment":{"number":"S1"}}'),
      unknown('the answer is not JSON'),
    ],
    ['too deep', answer('['.repeat(200_000)), unknown('the answer is not JSON')],
    ['no code', answer({ id: '4-1001' }), unknown('no code')],
    ['a list', answer([paid]), unknown('no code')],
    ['a new code', answer({ ...paid, state: 'PAID' }), unknown('no rule for code PAID')],
    [
      'a sentence for a code',
      answer({ ...paid, state: 'Account 1 of A. B. is closed' }),
      unknown('no rule for a code that is not listed'),
    ],
    [
      'a long number for a code',
      answer({ ...paid, state: '77011234567' }),
      unknown('no rule for a code that is not listed'),
    ],
    [
      'a reason that no rule names',
      answer({ id: '4-1001', state: 'rejected', reason: 'NEW' }, 422),
      unknown('HTTP 422, no rule for code NEW'),
    ],
    [
      'what looks like a number of ours',
      answer({ ...paid, state: { value: 'paid', isLosslessNumber: true } }),
      unknown('no code'),
    ],
  ])('%s', (_, response, outcome) => {
    expect(connector.parsePay(response, order)).toEqual(outcome);
  });

  it('an id never seen is not found, if the provider says so of this id', () => {
    const told = { id: '4-1001', state: 'unknown_payment' };
    expect(connector.parseStatus(answer(told, 404), order)).toEqual({ kind: 'not_found' });
    expect(connector.parseStatus(answer('', 404), order)).toEqual(unknown('HTTP 404'));
    expect(connector.parseStatus(answer({ ...told, id: '4-2' }, 404), order).kind).toBe('unknown');
    expect(connector.parsePay(answer(told, 404), order)).toEqual(unknown('HTTP 404'));
  });

  it('a check offers what is shown, the only amount and the bounds', () => {
    const rich = connectorWith(({ check }) => {
      check.amountMin = { at: '/min', unit: 'minor' };
      check.amountMax = { at: '/max', unit: 'major' };
    });
    const told = { id: '4-1001', state: 'active', holder: 'A. B.', due: '1250.4', min: 100 };
    const parse = (body: unknown) => rich.parseCheck(answer(body), inquiry);
    expect(parse(told)).toEqual({
      kind: 'ok',
      displays: { fio: 'A. B.', fixedAmount: '1250.40' },
      amountMinMinor: 100n,
    });
    expect(parse({ ...told, due: undefined, holder: undefined, min: null, max: 5 })).toEqual({
      kind: 'ok',
      amountMaxMinor: 500n,
    });
    for (const wrong of [{ due: '12,50' }, { min: '1.5' }, { max: -1 }, { due: {} }])
      expect(parse({ ...told, ...wrong })).toEqual(unknown('an amount in the answer is none'));
  });

  it('texts and numbers compare by their text, other values as themselves, and nothing may be asked for', () => {
    const outcomeOf = (when: object, told: object) =>
      connectorWith(({ pay }) => {
        delete pay.reference;
        pay.outcomes = [rule(when, 'executed')];
        pay.code = '/code';
      }).parsePay(answer({ id: '4-1001', ...told }), order).kind;
    for (const [when, told, kind] of [
      [{ '/code': 0 }, { code: '0' }, 'executed'],
      [{ '/code': '0' }, { code: 0 }, 'executed'],
      [{ '/code': 0 }, { code: '00' }, 'unknown'],
      [{ '/code': 0 }, { code: 0.5 }, 'unknown'],
      [{ '/code': 0 }, { code: false }, 'unknown'],
      [{ '/code': 0 }, { code: null }, 'unknown'],
      [{ '/code': 'true' }, { code: true }, 'unknown'],
      [{ '/code': true }, { code: true }, 'executed'],
      [{ '/code': [1, 2] }, { code: 2 }, 'executed'],
      [{ '/code': 0, '/error': null }, { code: 0, error: null }, 'executed'],
      [{ '/code': 0, '/error': null }, { code: 0 }, 'unknown'],
      [{ '/code': 0, '/error': { $absent: true } }, { code: 0 }, 'executed'],
      [{ '/code': 0, '/error': [null, { $absent: true }] }, { code: 0, error: 'x' }, 'unknown'],
      [{ '/code': 0, '/receipt': { $present: true } }, { code: 0, receipt: 7 }, 'executed'],
      [{ '/code': 0, '/receipt': { $present: true } }, { code: 0, receipt: false }, 'executed'],
      [{ '/code': 0, '/receipt': { $present: true } }, { code: 0, receipt: '' }, 'unknown'],
      [{ '/code': 0, '/receipt': { $present: true } }, { code: 0, receipt: null }, 'unknown'],
      [{ '/code': 0, '/receipt': { $present: true } }, { code: 0, receipt: {} }, 'unknown'],
      [{ '/code': 0, '/receipt': { $present: true } }, { code: 0 }, 'unknown'],
    ] as const)
      expect([when, told, outcomeOf(when, told)]).toEqual([when, told, kind]);
  });

  it('the first rule that matches counts, and two that contradict each other count as none', () => {
    const by = (...outcomes: object[]) =>
      connectorWith(({ pay }) => {
        delete pay.reference;
        pay.code = ['/error', '/state'];
        pay.outcomes = outcomes;
      });
    const told = (more: object) => answer({ id: '4-1001', state: 'OK', ...more });
    const narrowFirst = by(
      rule({ '/state': 'OK', '/step': 'WAIT' }, 'pending'),
      rule({ '/state': 'OK' }, 'executed'),
    );
    expect(narrowFirst.parsePay(told({ step: 'WAIT' }), order).kind).toBe('pending');
    expect(narrowFirst.parsePay(told({}), order).kind).toBe('executed');
    const contrary = by(rule({ '/error': 'E5' }, { refused: 5 }), rule({ '/state': 'OK' }, 'executed'));
    expect(contrary.parsePay(told({ error: 'E5' }), order)).toEqual(unknown('the answer contradicts itself'));
    expect(contrary.parsePay(told({ error: 'E5', state: 'NO' }), order)).toEqual({
      kind: 'refused',
      code: 5,
      detail: 'code E5',
    });
    const asUnknown = by(rule({ '/error': 'E5' }, 'unknown'), rule({ '/state': 'OK' }, 'executed'));
    expect(asUnknown.parsePay(told({ error: 'E5' }), order)).toEqual(unknown('unknown by rule: code E5'));
  });

  it('an answer without an id is believed where the description says why', () => {
    const none = { none: 'the id is in the path, and the answer is to that request' };
    const byPath = connectorWith(({ status }) => {
      status.about = none;
    });
    expect(byPath.parseStatus(answer({ ...paid, id: undefined }), order).kind).toBe('executed');
    const byRule = connectorWith(({ status }) => {
      status.outcomes.at(-1).about = none;
    });
    expect(byRule.parseStatus(answer({ state: 'unknown_payment' }, 404), order).kind).toBe('not_found');
    expect(byRule.parseStatus(answer({ ...paid, id: undefined }), order).kind).toBe('unknown');
  });

  it('what is shown and what is worth money comes with the execution', () => {
    const voucher = connectorWith(({ pay }) => {
      pay.displays = { till: '/till' };
      pay.secrets = { pin: '/voucher/state' };
    });
    expect(
      voucher.parsePay(answer({ ...paid, till: 'x'.repeat(2000), voucher: { state: '1234' } }), order),
    ).toEqual({
      kind: 'executed',
      reference: 'S1',
      displays: { till: 'x'.repeat(1000) },
      secrets: { pin: '1234' },
    });
    expect(voucher.plain!.has('state')).toBe(false);
    expect(voucher.plain!.has('till')).toBe(false);
  });

  it('any answer: no throw, and no result but by a rule and about this payment', () => {
    const oneOf = <T>(...values: T[]) => fc.constantFrom(...values);
    const anything = fc.jsonValue({ maxDepth: 2 });
    const like = fc.record(
      {
        id: fc.oneof({ weight: 8, arbitrary: oneOf<unknown>('4-1001') }, anything, oneOf('4-1002', '')),
        state: fc.oneof(
          {
            weight: 6,
            arbitrary: oneOf<unknown>('paid', 'processing', 'rejected', 'unknown_payment', 'PAID'),
          },
          anything,
        ),
        reason: fc.oneof(
          { weight: 3, arbitrary: oneOf<unknown>('DECLINED', 'ACCOUNT_NOT_FOUND', 'NEW') },
          anything,
        ),
        payment: fc.oneof(
          { weight: 3, arbitrary: fc.record({ number: fc.oneof(fc.string(), fc.integer(), anything) }) },
          anything,
        ),
      },
      { requiredKeys: [] },
    );
    const bodies = fc.oneof(
      { weight: 5, arbitrary: like.map((each) => JSON.stringify(each)) },
      fc.tuple(like, fc.nat(200)).map(([each, length]) => JSON.stringify(each).slice(0, length)),
      fc.json(),
      fc.string({ unit: 'binary' }),
    );
    const statuses = fc.oneof(
      { weight: 4, arbitrary: oneOf(200, 422) },
      oneOf(200, 201, 202, 404, 409, 422),
      fc.integer({ min: 100, max: 599 }),
    );
    const refusals: Record<string, number> = { DECLINED: 300, ACCOUNT_NOT_FOUND: 5 };
    const seen = new Map<string, number>();
    fc.assert(
      fc.property(statuses, bodies, (status, body) => {
        const inPay = connector.parsePay(answer(body, status), order);
        const inStatus = connector.parseStatus(answer(body, status), order);
        for (const outcome of [inPay, inStatus]) {
          seen.set(outcome.kind, (seen.get(outcome.kind) ?? 0) + 1);
          if (outcome.kind === 'unknown') continue;
          const { id, state, reason, payment } = JSON.parse(body);
          const told = { id, state, status };
          const within = (pay: number[], inquiry: number[]) =>
            (outcome === inPay ? pay : inquiry).includes(status);
          if (outcome.kind === 'executed') {
            expect(told).toMatchObject({ id: '4-1001', state: 'paid' });
            expect(within([200, 201], [200])).toBe(true);
            expect(String(payment.number)).toHaveLength(outcome.reference!.length);
          } else if (outcome.kind === 'refused') {
            expect(told).toMatchObject({ id: '4-1001', state: 'rejected' });
            expect(within([422], [200])).toBe(true);
            expect(outcome.code).toBe(refusals[reason]);
          } else if (outcome.kind === 'not_found') {
            expect(told).toEqual({ id: '4-1001', state: 'unknown_payment', status: 404 });
            expect(outcome).toBe(inStatus);
          } else {
            expect(told).toMatchObject({ id: '4-1001', state: 'processing' });
            expect(within([200, 202], [200])).toBe(true);
          }
        }
        connector.parseCheck(answer(body, status), inquiry);
      }),
      { numRuns: 5000 },
    );
    for (const kind of ['executed', 'refused', 'pending', 'unknown'])
      expect(seen.get(kind), kind).toBeGreaterThan(5);
  });
});

describe('a description that cannot be used is refused with the place and what to write', () => {
  const secret = 'sesame-sesame-sesame';
  const refusals: [Change, string][] = [
    // The shape.
    [(d) => delete d.pay, 'description.pay: must be an object'],
    [(d) => (d.version = 2), 'description.version: must be 1'],
    [(d) => (d.extra = 1), 'description.extra: is not known here; the members are version, offers,'],
    [(d) => (d.pay.methd = 'GET'), 'description.pay.methd: is not known here; the members are method, path,'],
    [(d) => (d.pay.method = 'DELETE'), 'description.pay.method: must be "GET", "POST" or "PUT"'],
    [(d) => (d.pay.path = 5), 'description.pay.path: must be a text, with placeholders such as {{account}}'],
    [(d) => (d.pay.query = { 'a b': 'x' }), 'description.pay.query["a b"]: must be'],
    [(d) => (d.pay.headers = { 'a:b': 'x' }), 'description.pay.headers["a:b"]: must be'],
    [(d) => (d.pay.body = 'x'), 'description.pay.body: must be a JSON object with placeholders in its texts'],
    [(d) => (d.pay.code = 'state'), 'description.pay.code: must be a JSON Pointer such as /payment/id'],
    [
      (d) => (d.pay.reference = '/a~2'),
      'description.pay.reference: must be a JSON Pointer such as /payment/id',
    ],
    [(d) => (d.pay.displays = { a: 'x' }), 'description.pay.displays.a: must be a JSON Pointer'],
    [
      (d) => delete d.pay.about,
      'description.pay.about: must be the JSON Pointer of the id that must equal {{externalId}}',
    ],
    [(d) => delete d.status.about, 'description.status.about: must be the JSON Pointer of the id'],
    [(d) => (d.pay.about = { none: '' }), 'description.pay.about.none: must be a sentence that says why'],
    [(d) => (d.pay.outcomes = []), 'description.pay.outcomes: must be a list with at least one'],
    [
      (d) => (d.pay.outcomes[0] = rule({ '/state': 'x' }, 'done')),
      'description.pay.outcomes[0].then: must be "executed", "pending", "unknown" or {"refused":',
    ],
    [
      (d) => (d.pay.outcomes[0] = rule({ '/state': 'x' }, 'not_found')),
      'description.pay.outcomes[0].then: must be "executed", "pending", "unknown"',
    ],
    [
      (d) => (d.pay.outcomes[0] = rule({ '/state': 'x' }, { refused: 9 })),
      'description.pay.outcomes[0].then: must be',
    ],
    [
      (d) => (d.check.outcomes[0] = rule({ '/state': 'x' }, 'executed')),
      'description.check.outcomes[0].then: must be "ok", "unknown" or',
    ],
    [
      (d) => (d.pay.outcomes[0].when['/state'] = 1.5),
      'description.pay.outcomes[0].when["/state"]: must be a text, a whole number',
    ],
    [
      (d) => (d.pay.outcomes[0].when.state = 'paid'),
      'description.pay.outcomes[0].when.state: must be a JSON Pointer such as /status, or httpStatus',
    ],
    [
      (d) => (d.pay.outcomes[0].when.httpStatus = 99),
      'description.pay.outcomes[0].when.httpStatus: must be an HTTP status',
    ],
    [
      (d) => (d.offers.deduplicates = 'yes'),
      'description.offers.deduplicates: must be true where the provider promises',
    ],
    [
      (d) => delete d.offers.notFoundTrustedAfterMs,
      'description.offers.notFoundTrustedAfterMs: must be whole milliseconds',
    ],
    [(d) => (d.check.fixedAmount = '/due'), 'description.check.fixedAmount: must be an object'],
    [
      (d) => (d.check.fixedAmount.unit = 'tiyn'),
      'description.check.fixedAmount.unit: must be "major" for 200.00 or "minor" for 20000',
    ],
    [(_, s) => (s.secrets = { signing: 1 }), 'secrets.signing: must be a text'],
    [(_, s) => (s.values = { 'a b': 'x' }), 'values["a b"]: must be'],
    [(_, s) => delete s.description, 'description: must be an object'],
    [
      (d) => (d.pay.about = { none: 'the answer is to that request', x: 1 }),
      'description.pay.about.x: is not known here; the members are none',
    ],
    // Placeholders.
    [
      (d) => (d.pay.body.a = '{{acount}}'),
      'description.pay.body.a: there is no such placeholder; write one of {{externalId}},',
    ],
    [(d) => (d.pay.body.a = '{{constructor}}'), 'description.pay.body.a: there is no such placeholder'],
    [
      (d) => (d.pay.body.a = 'x {{account'),
      'description.pay.body.a: a placeholder is not closed; write {{name}}',
    ],
    [(d) => (d.pay.body.a = ['{{body}}']), 'description.pay.body.a[0]: there is no such placeholder'],
    [
      (d) => (d.pay.body.a = '{{setting.shop}}'),
      'description.pay.body.a: {{setting.shop}} is neither in settings.values nor in settings.secrets; add it',
    ],
    [(d) => (d.pay.body.a = { $float: 'amount' }), 'description.pay.body.a: write {"$number": "amount"}'],
    [
      (d) => (d.pay.body.a = { $number: 'amount', b: 1 }),
      'description.pay.body.a: write {"$number": "amount"}',
    ],
    [
      (d) => (d.pay.body.a = { $number: '{{amount}}' }),
      'description.pay.body.a.$number: there is no such placeholder',
    ],
    [
      (d) => (d.pay.body['{{account}}'] = 1),
      'description.pay.body["{{account}}"]: placeholders stand in values',
    ],
    [(d) => (d.pay.body.a = 2 ** 60), 'description.pay.body.a: the number is too long to be exact'],
    [
      (d) => (d.pay.body.a = '{{amount|unix}}'),
      'description.pay.body.a: only {{acceptedAt}} and {{timestamp}} have a format',
    ],
    [
      (d) => (d.pay.body.a = '{{acceptedAt|yyyy}}'),
      'description.pay.body.a: the format of a moment is iso, unix, unixMs',
    ],
    [
      (d) => (d.pay.body.a = '{{acceptedAt|YYYY|5}}'),
      'description.pay.body.a: the offset of a moment is written as +05:00',
    ],
    [
      (d) => (d.pay.body.a = '{{acceptedAt|unix|+05:00}}'),
      'description.pay.body.a: the format unix takes no offset',
    ],
    [
      (d) => (d.status.query = { a: '{{account}}' }),
      'description.status.query.a: {{account}} is not known in status, only in check and pay',
    ],
    [
      (d) => (d.status.query = { a: '{{extras.x?}}' }),
      'description.status.query.a: {{extras.x}} is not known in status',
    ],
    [
      (d) => (d.check.body.a = '{{acceptedAt}}'),
      'description.check.body.a: {{acceptedAt}} is not known in check, only in pay',
    ],
    // Requests.
    [(d) => (d.pay.path = 'v1/pay'), 'description.pay.path: must begin with /'],
    [
      (d) => (d.pay.path = '/v1/pay?x=1'),
      'description.pay.path: must be of characters of a path; write parameters into query',
    ],
    [
      (d) => (d.pay.path = '/v1/{{extras.x?}}'),
      'description.pay.path: {{extras.x?}} may be absent, and a path has no place for that',
    ],
    [
      (d) => (d.pay.path = '/v1/{{setting.signing}}'),
      'description.pay.path: {{setting.signing}} is a secret, and paths are written into logs',
    ],
    [(d) => (d.status.body = { a: 1 }), 'description.status.body: a GET has no body; remove it'],
    [(d) => (d.pay.body.id = 'x'), 'description.pay: the request must name {{externalId}}'],
    [(d) => (d.status.path = '/v1/payments'), 'description.status: the request must name {{externalId}}'],
    [
      (d) => (d.pay.headers = { Host: 'x' }),
      "description.pay.headers: the header host is not the description's to say; remove it",
    ],
    [
      (d) => (d.pay.headers = { 'accept-encoding': 'gzip' }),
      'description.pay.headers: the header accept-encoding is not',
    ],
    [
      (d) => (d.pay.headers = { 'x-timestamp': '1' }),
      'description.auth[0]: the header x-timestamp is said twice; remove one',
    ],
    [
      (d) => (d.pay.headers = { a: '1', A: '2' }),
      'description.pay.headers: the header a is said twice; remove one',
    ],
    // Signatures.
    [
      (d) => (d.auth[1].kind = 'hmac-md5'),
      'description.auth[1].kind: must be an object whose "kind" is "hmac-sha256"',
    ],
    [(d) => (d.auth[1].encoding = 'HEX'), 'description.auth[1].encoding: must be "hex" or "base64"'],
    [
      (d) => (d.auth[1].into = { cookie: 'x' }),
      'description.auth[1].into: must be {"header": "X-Signature"}',
    ],
    [
      (d) => (d.auth[1].into = { header: 'x', prefix: 'a\r\n' }),
      'description.auth[1].into.prefix: must be of ASCII characters',
    ],
    [
      (d) => (d.auth[1].key = 'other'),
      'description.auth[1].key: settings.secrets.other is not there; add it',
    ],
    [
      (d) => (d.auth[1].over = '{{setting.signing}}'),
      'description.auth[1].over: must name something of the request, such as {{body}}',
    ],
    [
      (d) => (d.auth[1].into = { body: 'sign' }),
      'description.auth[1]: status has no body to put the signature into',
    ],
    [
      (d) => (d.pay.auth = [{ ...d.auth[1], into: { body: 'account' } }]),
      'description.pay.auth[0]: the body account is said twice; remove one',
    ],
    [
      (d) => (d.auth[1].kind = 'rsa-sha256'),
      'description.auth[1].key: settings.secrets.signing must be a private RSA key in PEM',
    ],
    [
      (d) => (d.auth = [{ kind: 'basic', login: 'shop', password: 'signing' }]),
      'description.auth[0].login: settings.values.shop is not there; add it',
    ],
    [
      (d, s) => {
        s.values = { shop: 'a:b' };
        d.auth = [{ kind: 'basic', login: 'shop', password: 'signing' }];
      },
      'description.auth[0].login: a login for Basic has no colon',
    ],
    [
      (d, s) => {
        s.secrets.token = `${secret}\n`;
        d.auth = [{ kind: 'bearer', token: 'token' }];
      },
      'description.auth[0].token: a secret for a header is of ASCII characters without line breaks',
    ],
    // What could make a result of nothing.
    [
      (d) => (d.pay.outcomes[0] = rule({}, 'executed')),
      "description.pay.outcomes[0].when: a rule with the result executed must name the provider's own word at /reason or /state",
    ],
    [
      (d) => (d.pay.outcomes[0] = rule({ httpStatus: 200 }, 'executed')),
      'description.pay.outcomes[0].when: a rule with the result executed must name',
    ],
    [
      (d) => (d.pay.outcomes[0] = rule({ '/state': null }, { refused: 5 })),
      'description.pay.outcomes[0].when: a rule with the result refused must name',
    ],
    [
      (d) => (d.pay.outcomes[0] = rule({ '/state': { $present: true } }, 'executed')),
      'description.pay.outcomes[0].when: a rule with the result executed',
    ],
    [
      (d) => (d.pay.outcomes[0] = rule({ '/state': '{{account}}' }, 'executed')),
      'description.pay.outcomes[0].when["/state"]: must be what the provider writes, as it stands',
    ],
    [
      (d) => (d.pay.outcomes[0] = rule({ '/state': ['paid', { $absent: true }] }, 'executed')),
      'description.pay.outcomes[0].when: a rule with the result executed',
    ],
    [
      (d) => (d.pay.outcomes[0] = rule({ '/state': '' }, 'pending')),
      'description.pay.outcomes[0].when: a rule with the result pending',
    ],
    [
      (d) => (d.pay.outcomes[0] = rule({ '/other': 'paid' }, 'executed')),
      'description.pay.outcomes[0].when: a rule with the result executed',
    ],
    [
      (d) => (d.status.outcomes[0] = rule({ httpStatus: 404 }, 'not_found')),
      'description.status.outcomes[0].when: a rule with the result not_found',
    ],
    [
      (d) => (d.check.outcomes[0] = rule({}, 'ok')),
      'description.check.outcomes[0].when: a rule with the result ok',
    ],
    [
      (d) => (d.pay.outcomes[2].when.httpStatus = 500),
      'description.pay.outcomes[2].when.httpStatus: 500 cannot be refused: a result is only in an answer with 200 or 4xx',
    ],
    [
      (d) => (d.pay.outcomes[2].when.httpStatus = [422, 429]),
      'description.pay.outcomes[2].when.httpStatus: 429 cannot be refused',
    ],
    [
      (d) => (d.pay.outcomes[2].when.httpStatus = 401),
      'description.pay.outcomes[2].when.httpStatus: 401 cannot be refused',
    ],
    [
      (d) => (d.pay.outcomes[0].when.httpStatus = 500),
      'description.pay.outcomes[0].when.httpStatus: 500 cannot be executed: only 200, 201, 409 can carry it',
    ],
    [
      (d) => (d.pay.outcomes[1].when.httpStatus = 504),
      'description.pay.outcomes[1].when.httpStatus: 504 cannot be pending',
    ],
    [
      (d) => (d.status.outcomes.at(-1).when.httpStatus = 503),
      'description.status.outcomes[7].when.httpStatus: 503 cannot be not_found',
    ],
    [
      (d) => d.status.outcomes.push(rule({ '/state': 'paid' }, 'pending')),
      'description.status.outcomes[8].when: outcomes[0] takes the same answers for another result',
    ],
    [
      (d) => (d.status.outcomes[3].when['/reason'] = ['NEW', 'ACCOUNT_NOT_FOUND']),
      'description.status.outcomes[3].when: outcomes[2] takes the same answers for another result',
    ],
    // What belongs together.
    [
      (d) => d.status.outcomes.pop(),
      'description.offers.notFoundTrustedAfterMs: must be null, since no rule of status has the result "not_found"',
    ],
    [(d) => delete d.status, 'description.offers.notFoundTrustedAfterMs: must be null'],
    [(_, s) => delete s.answerMsMax, 'answerMsMax: must be given and at least 1000'],
    [(_, s) => (s.answerMsMax = 999), 'answerMsMax: must be given and at least 1000'],
    [(_, s) => (s.values = { signing: 'x' }), 'values.signing: is a secret of the same name too; rename one'],
    [
      (d) => (d.check.displays.fixedAmount = '/x'),
      'description.check.displays.fixedAmount: is said by fixedAmount already; remove one',
    ],
    [
      (d) => (d.plain = ['state', 'account']),
      'description.plain[1]: goes with an account, an amount, a secret',
    ],
    [(d) => (d.plain = ['holder']), 'description.plain[0]: goes with an account'],
    [
      (d) => {
        d.pay.body.login = '{{setting.signing}}';
        d.plain = ['login'];
      },
      'description.plain[0]: goes with an account',
    ],
  ];

  it.each(refusals.map(([change, message], index) => [index, message, change] as const))(
    '%i %s',
    (_, message, change) => {
      const settings = settingsWith((_, each) => {
        each.secrets.signing = secret;
      }, change);
      let said = 'nothing was refused';
      try {
        describedConnector(settings);
      } catch (error) {
        said = (error as Error).message;
      }
      expect(said.slice(0, message.length)).toBe(message);
      expect(said).not.toContain('sesame');
    },
  );

  it('without a check or a status there is none to build', () => {
    const bare = connectorWith((description) => {
      delete description.check;
      delete description.status;
      description.offers.notFoundTrustedAfterMs = null;
    });
    expect(bare.offers).toEqual({ deduplicates: false, status: false, notFoundTrustedAfterMs: null });
    expect(() => bare.buildCheck(inquiry)).toThrow('the description has no check');
    expect(() => bare.buildStatus(order)).toThrow('the description has no status');
  });

  it('what may stand readable: codes, ids and dates, no account, amount, secret or name', () => {
    const connector = connectorWith((description) => {
      description.plain = ['category'];
      description.pay.query = { account_id: '{{account}}', point: '{{setting.signing}}' };
    });
    expect([...connector.plain!].sort()).toEqual(
      ['category', 'createdAt', 'currency', 'id', 'reason', 'service', 'state'].sort(),
    );
  });
});

describe('the JSON Schema', () => {
  const schema = readJson('schema/described-provider.schema.json');

  it('is that of the code', () => {
    const now = z.toJSONSchema(providerFile, { io: 'input', reused: 'ref' });
    expect(schema, 'write z.toJSONSchema(providerFile, { io: "input", reused: "ref" }) into it').toEqual(
      JSON.parse(JSON.stringify(now)),
    );
  });

  it('takes the demo file and refuses what the centre refuses by shape', () => {
    const validate = new Ajv2020({ strict: false }).compile(schema);
    expect(validate(demo), JSON.stringify(validate.errors)).toBe(true);
    for (const change of [
      (d: Loose) => (d.pay.methd = 'GET'),
      (d: Loose) => delete d.pay.about,
      (d: Loose) => (d.pay.outcomes[0] = rule({}, 'done')),
    ])
      expect(validate({ ...demo, settings: settingsWith(change) })).toBe(false);
  });
});

test('docs/add-a-provider.md: its file is taken, and an account that is found is told without a word of its own', () => {
  const page = readFileSync(join(root, '../../docs/add-a-provider.md'), 'utf8');
  const { settings } = JSON.parse(/```json\n(\{[\s\S]*?\n\})\n```/.exec(page)![1]!);
  const connector = describedConnector(settings);
  const inquiry = {
    externalId: '4-7',
    serviceCode: 's',
    account: '7',
    amountMinor: null,
    currency: 'KZT',
    extras: {},
  };
  const told = (body: object) =>
    connector.parseCheck({ status: 200, headers: {}, body: JSON.stringify(body) }, inquiry);
  const found = { id: '4-7', result: { account: '7', holder: 'A. B.' } };
  expect(told(found)).toEqual({ kind: 'ok', displays: { fio: 'A. B.' } });
  expect(told({ id: '4-7', error: { code: -31050 } })).toMatchObject({ kind: 'refused', code: 5 });
  expect(told({ ...found, error: { code: -1 } }).kind).toBe('unknown');
  expect(told({ ...found, result: {} }).kind).toBe('unknown');
});

describe('docs/connectors/described.md', () => {
  const page = readFileSync(join(root, '../../docs/connectors/described.md'), 'utf8');
  const rowsOf = (heading: string) =>
    page
      .split(`\n| ${heading} |`)[1]!
      .split('\n\n')[0]!
      .split('\n')
      .slice(2)
      .map((row) => row.slice(2, -2).split(' | '));
  const messageOf = (change: Change): string => {
    try {
      connectorWith(change);
    } catch (error) {
      return (error as Error).message;
    }
    return '';
  };

  it('shows the example as it is', () => {
    const blocks = [...page.matchAll(/^```json\n([\s\S]*?)^```$/gm)].map((match) => JSON.parse(match[1]!));
    expect(blocks.at(-1)).toEqual(demo);
    expect(demo.settings.description.pay.outcomes).toContainEqual(blocks[0]);
  });

  it('lists every placeholder and where it is known', () => {
    const listed = rowsOf('placeholder | in | what').map(([name, places]) => [
      name!.replaceAll('`', ''),
      places!,
    ]);
    const known = messageOf(({ pay }) => {
      pay.body.a = '{{nothing}}';
    });
    expect(listed.map(([name]) => name).sort()).toEqual(known.match(/\{\{[^}]+\}\}/g)!.sort());
    for (const [name, places] of listed)
      for (const place of ['check', 'pay', 'status']) {
        const said = messageOf((description, settings) => {
          settings.values = { name: 'x' };
          description[place].headers = { a: name };
        });
        expect([name, place, said === '']).toEqual([
          name,
          place,
          places === 'all' || places!.includes(place),
        ]);
      }
  });

  it('lists the HTTP statuses with which each result may come', () => {
    for (const [result, places, statuses] of rowsOf('result | in | may come with | means')) {
      const word = result!.startsWith('`{') ? { refused: 5 } : result!.replaceAll('`', '');
      const place = places!.includes('check') || places === 'all' ? 'check' : 'status';
      const taken = Array.from({ length: 500 }, (_, index) => index + 100).filter(
        (httpStatus) =>
          messageOf((description) => {
            description.offers.notFoundTrustedAfterMs = null;
            description[place].outcomes = [rule({ httpStatus, '/state': 'x' }, word)];
          }) === '',
      );
      const expected =
        statuses === 'any'
          ? taken.length === 500
          : statuses === '200, 4xx'
            ? taken.length === 96 && taken.every((each) => each === 200 || (each > 399 && each < 500))
            : taken.join(', ') === statuses;
      expect([result, expected]).toEqual([result, true]);
    }
  });
});

describe('against the biller', () => {
  let biller: Simulator;
  const directory = temporaryDirectory();
  const undo: (() => Promise<unknown>)[] = [];
  const settleMs = 500;

  beforeAll(async () => {
    biller = await startSimulator(describedWords(key), {
      ...{ port: 0, host: '127.0.0.1', dataDir: directory, delayMs: 0 },
      ...{ settleMs, slowMs: 300 },
    });
  });
  afterAll(async () => {
    for (const each of undo.reverse()) await each();
    await biller.close();
    rmSync(directory, { recursive: true, force: true });
  });

  function senderWith(...changes: readonly Change[]) {
    const settings = settingsWith(
      (_, each) => {
        each.baseUrl = biller.url;
      },
      ...changes,
    );
    const facts = { providerId: 'acme', name: 'Acme', connector: 'described', settings, paused: false };
    const sender = createSender({
      providers: () => new Map([['acme', facts]]),
      connectors,
      log: { error: (_, message) => expect.fail(message) },
    });
    undo.push(() => sender.close(0));
    return sender;
  }
  const never = Number.POSITIVE_INFINITY;
  const executions = async (externalId: string) =>
    (await biller.registry()).filter((row) => row.externalId === externalId);

  it('pays, asks and checks with signatures that the biller takes', async () => {
    const sender = senderWith();
    const mine = { ...order, externalId: '4-1' };
    expect((await sender.check('acme', { ...inquiry, serviceCode: 'utility' })).outcome).toEqual({
      kind: 'ok',
      displays: { fio: 'A. B.', fixedAmount: '1250.40' },
    });
    expect((await sender.status('acme', mine)).outcome).toEqual({ kind: 'not_found' });
    const { outcome } = await sender.pay('acme', mine, never);
    expect(outcome).toEqual({ kind: 'executed', reference: expect.stringMatching(/^S\d+$/) });
    expect((await sender.status('acme', mine)).outcome).toEqual(outcome);
    expect(await executions('4-1')).toMatchObject([{ account: mine.account, amount: '200.50' }]);
  });

  it('a wrong signature executes nothing and proves nothing', async () => {
    const sender = senderWith((_, settings) => {
      settings.secrets.signing = 'another key';
    });
    const mine = { ...order, externalId: '4-2' };
    const outcome = { kind: 'unknown', detail: 'HTTP 401' };
    expect((await sender.check('acme', { ...inquiry, externalId: '4-2' })).outcome).toEqual(outcome);
    expect((await sender.pay('acme', mine, never)).outcome).toEqual(outcome);
    expect((await sender.status('acme', mine)).outcome).toEqual(outcome);
    expect(await executions('4-2')).toEqual([]);
  });

  it('build and parse take less than 100 µs in the median', () => {
    const connector = connectorWith();
    const response = answer({ id: order.externalId, state: 'paid', payment: { number: 'S1' } }, 201);
    const times = Array.from({ length: 5000 }, () => {
      const startedMs = performance.now();
      connector.buildPay(order);
      connector.parsePay(response, order);
      return performance.now() - startedMs;
    }).sort((one, other) => one - other);
    expect(times[2500]!).toBeLessThan(0.1);
  });

  describe('through the centre', () => {
    let centre: Awaited<ReturnType<typeof openCentre>>;
    beforeAll(async () => {
      centre = await openCentre({ payWaitMs: 2000 });
    });
    afterAll(() => centre.close());

    async function payThrough(baseUrl: string, change?: Change): Promise<void> {
      const settings = settingsWith(
        (description, each) => {
          Object.assign(each, { baseUrl, answerMsMax: 700, responseBytesMax: 100_000 });
          Object.assign(description.offers, { notFoundTrustedAfterMs: 800, answerMs: 700 });
        },
        ...(change ? [change] : []),
      );
      await centre.owner.query("update providers set connector = 'described', settings = $1", [settings]);
      await vi.waitFor(
        () => {
          const provider = centre.watch.current().reference.providers.get('sandbox');
          expect(provider?.settings).toEqual(settings);
        },
        { timeout: 10_000 },
      );
    }

    it('every dial: executed once at the most, and no final code but the true one', async () => {
      await payThrough(biller.url);
      const ends = await Promise.all(
        dials.map(async ([end, code]) => {
          const request = payRequest({ account: `777001${end}` });
          const told = await centre.payUntil(request, (each) => each !== 1, code === null ? 4000 : 20_000);
          const externalId = `${demoAgent}-${request.agentTransactionId}`;
          return [end, told.code === 1 ? null : told.code, (await executions(externalId)).length];
        }),
      );
      expect(ends).toEqual(dials);
    });

    it('what the provider wants and the payment has not: refused at once, nothing sent, the money back', async () => {
      await payThrough(biller.url, ({ pay }) => {
        pay.headers = { 'X-Note': '{{extras.note}}' };
      });
      const before = await centre.available();
      const request = payRequest({ account: '7770011234' });
      expect(await centre.pay(request)).toMatchObject({ code: 7 });
      expect(await executions(`${demoAgent}-${request.agentTransactionId}`)).toEqual([]);
      expect(await centre.available()).toBe(before);
    });

    it('every cut of payments and inquiries: executed exactly once', async () => {
      const cuts = new Map<string, { at: Moment; by: Manner }>();
      const cut = new Set<string>();
      const proxy = await startFaultProxy(biller.url, 0, {
        exchange(request) {
          const paying = /^POST \/v1\/payments /.test(request);
          const id = paying
            ? /"id":"([^"]+)"/.exec(request)?.[1]
            : /^GET \/v1\/payments\/(\S+)/.exec(request)?.[1];
          const treatment = id === undefined ? undefined : cuts.get(id);
          if (!treatment || cut.has(`${id} ${paying}`)) return {};
          cut.add(`${id} ${paying}`);
          return { cut: treatment };
        },
      });
      undo.push(async () => proxy.close());
      await payThrough(proxy.url);
      const requests = moments.flatMap((at) =>
        manners.flatMap((by) =>
          [1, 2, 3].map(() => {
            const request = payRequest({ account: '7770011234' });
            cuts.set(`${demoAgent}-${request.agentTransactionId}`, { at, by });
            return request;
          }),
        ),
      );
      const ends = await Promise.all(
        requests.map(async (request) => {
          const { code } = await centre.payUntil(request, (each) => each !== 1, 30_000);
          const externalId = `${demoAgent}-${request.agentTransactionId}`;
          return [code, (await executions(externalId)).length];
        }),
      );
      expect(ends).toEqual(requests.map(() => [0, 1]));
      // Every payment was cut, and the inquiry after it.
      expect(cut.size).toBe(2 * requests.length);
      for (const at of moments)
        for (const by of manners) expect(proxy.count(`${at}, ${by}`), `${at}, ${by}`).toBeGreaterThan(0);
    });
  });
});
