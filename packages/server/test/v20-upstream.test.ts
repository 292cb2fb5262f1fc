/**
 * Another centre as a provider: what its answers prove, and two whole centres chained, whose payments, books and
 * answers must be one story, whatever happens between them.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'undici';
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest';
import { correct, topUp } from '../src/agents/funds.js';
import { setProvider } from '../src/catalogue/providers.js';
import { removeRule } from '../src/catalogue/rules.js';
import { codes } from '../src/core/codes.js';
import { verify } from '../src/ledger/verify.js';
import { approve, reject } from '../src/payments/operator.js';
import { connectors } from '../src/providers/connectors.js';
import type { HttpResponse, Inquiry, Order } from '../src/providers/contract.js';
import { createSender } from '../src/providers/send.js';
import { upstreamNumber, v20Connector } from '../src/providers/v20-connector.js';
import { Crowd, everyFate, isFinal, type Payment, payBody } from './support/crowd.js';
import { freshDatabase } from './support/database.js';
import { moments, startFaultProxy, type Treatment } from './support/fault-proxy.js';
import { judge, type Violation } from './support/oracle.js';
import { brokenBuild, openScene, type Scene, type Server } from './support/processes.js';
import { contractText } from './support/protocol.js';

const token = 'tlm_a-token-of-the-upstream';
const connector = v20Connector({ token });

const order: Order = {
  externalId: '4-9223372036854775807',
  serviceCode: 'P1011',
  account: '7770017711',
  amountMinor: 20_000n,
  currency: 'KZT',
  extras: {},
  extraServices: null,
  transactionId: 64n,
  again: false,
  acceptedAt: new Date('2026-02-17T11:48:37.999Z'),
};
const inquiry: Inquiry = {
  externalId: order.externalId,
  serviceCode: 'P1011',
  account: '7770017711',
  amountMinor: null,
  currency: 'KZT',
  extras: {},
};
const ours = upstreamNumber(order.externalId);

/** An answer about our payment, as an upstream prints it; `over` replaces members, undefined takes one away. */
function answer(
  result: number | string,
  over: Readonly<Record<string, string | undefined>> = {},
): HttpResponse {
  const members = {
    result: String(result),
    resultMessage: '"…"',
    transactionId: '1402779',
    ...(result === 0 && {
      transactionDate: '"2026-02-17T16:48:38.737"',
      statusDate: '"2026-02-17T16:48:39.940"',
    }),
    agentTransactionId: ours,
    ...over,
  };
  const written = Object.entries(members).filter(([, literal]) => literal !== undefined);
  return http(`{${written.map(([name, literal]) => `"${name}":${literal}`).join()}}`);
}
const http = (body: string, status = 200): HttpResponse => ({ status, headers: {}, body });
const pay = (response: HttpResponse) => connector.parsePay(response, order);
const check = (response: HttpResponse) => connector.parseCheck(response, inquiry);
const unknown = (detail: string) => ({ kind: 'unknown', detail });
const refused = (code: number, theirs = code) => ({ kind: 'refused', code, detail: `code ${theirs}` });
const pending = (code: number) => ({ kind: 'pending', reference: '1402779', detail: `code ${code}` });

describe('what is asked', () => {
  test('a payment has the members of the contract, exact in every digit', () => {
    const built = connector.buildPay({
      ...order,
      extras: { order: '12"1', account1: 'é@example.com' },
      extraServices: [
        { subServiceId: '114', amountMinor: 10_000n, lastCount: '11236' },
        { subServiceId: '37', amountMinor: 9_007_199_254_740_993n, lastCount: null },
      ],
    });
    expect(built).toEqual({
      method: 'POST',
      path: '/api/v20/pay',
      headers: {
        authorization: `Bearer ${token}`,
        'content-type': 'application/json',
        accept: 'application/json',
      },
      body:
        `{"serviceId":"P1011","account":"7770017711","agentTransactionId":${ours},` +
        '"agentTransactionDate":"2026-02-17T16:48:37","amountTo":200.00,"amountFrom":200.00,' +
        '"extras":{"account1":"é@example.com","order":"12\\"1"},"extraServices":[' +
        '{"subServiceId":"114","lastCount":"11236","amount":100.00},' +
        '{"subServiceId":"37","amount":90071992547409.93}]}',
    });
  });

  test('a repeat is the same text, whichever way the order has come', () => {
    const extras = { b: '1', a: '2' };
    const again = { ...order, extras: { a: '2', b: '1' }, acceptedAt: new Date(order.acceptedAt) };
    expect(connector.buildPay(again)).toEqual(connector.buildPay({ ...order, extras }));
  });

  test('an inquiry has the number of its payment, today, and an amount only where there is one', () => {
    const { path, body } = connector.buildCheck(inquiry);
    expect(path).toBe('/api/v20/check');
    expect(JSON.parse(String(body))).toEqual({
      serviceId: 'P1011',
      account: '7770017711',
      agentTransactionId: Number(ours),
      agentTransactionDate: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d$/),
    });
    expect(body).toContain(`"agentTransactionId":${ours},`);
    const withAmount = connector.buildCheck({ ...inquiry, amountMinor: 5n }).body;
    expect(withAmount).toContain('"amountTo":0.05,"amountFrom":0.05');
  });

  test('numbers have at most 18 digits, follow from the external id alone, and do not meet', () => {
    const numbers = new Set<string>();
    for (let i = 1; i <= 20_000; i += 1) numbers.add(upstreamNumber(`4-${i}`));
    expect(numbers.size).toBe(20_000);
    for (const each of numbers) expect(each).toMatch(/^[1-9]\d{0,17}$/);
    // A payment under way keeps its number over all versions to come.
    expect(upstreamNumber('4-1')).toBe('607165793520034910');
  });

  test('the date is in the zone of the upstream', () => {
    const at = (timeZone: string) => String(v20Connector({ token, timeZone }).buildPay(order).body);
    expect(at('America/New_York')).toContain('"agentTransactionDate":"2026-02-17T06:48:37"');
    expect(at('UTC')).toContain('"agentTransactionDate":"2026-02-17T11:48:37"');
  });

  test('what is in another currency than our account is not sent', async () => {
    expect(() => connector.buildPay({ ...order, currency: 'USD' })).toThrow('currency');
    expect(() => connector.buildCheck({ ...inquiry, currency: 'USD' })).toThrow('currency');
    const errors: string[] = [];
    const facts = {
      providerId: 'upstream',
      name: 'Upstream',
      connector: 'agent-v20',
      settings: { baseUrl: 'http://127.0.0.1:9', token },
      paused: false,
    };
    const sender = createSender({
      providers: () => new Map([['upstream', facts]]),
      connectors,
      log: { error: (_, message) => errors.push(message) },
    });
    const { outcome } = await sender.pay('upstream', { ...order, currency: 'USD' }, Number.POSITIVE_INFINITY);
    expect(outcome.kind).toBe('not_sent');
    expect(errors).toEqual(['a connector failed; correct it']);
    await sender.close(0);
  });

  test('there is no status inquiry; a repeat of pay is the question', () => {
    expect(connector.offers).toEqual({ deduplicates: true, status: false, notFoundTrustedAfterMs: null });
    expect(() => connector.buildStatus(order)).toThrow('no status inquiry');
    expect(connector.parseStatus(answer(0), order).kind).toBe('unknown');
  });
});

describe('settings', () => {
  it.each([
    [{}, 'token: must be the token'],
    [{ token: '' }, 'token: '],
    [{ token: 'a token' }, 'token: '],
    [{ token: 'a\r\nx: y' }, 'token: '],
    [{ token, pathPrefix: 'api' }, 'pathPrefix: must be a path such as /api/v20'],
    [{ token, pathPrefix: '/api/' }, 'pathPrefix: '],
    [{ token, timeZone: 'Asia/Nowhere' }, 'timeZone: must be a time zone'],
    [{ token, currency: 'kzt' }, 'currency: must be three capital letters'],
  ])('%j is told apart by name', (settings, message) => {
    expect(() => v20Connector(settings)).toThrow(message);
  });

  test('the prefix leads to the methods', () => {
    const other = v20Connector({ token, pathPrefix: '/AirPayService/api/v20' });
    expect(other.buildPay(order).path).toBe('/AirPayService/api/v20/pay');
  });
});

/** By code: what it is at `check` and at `pay`. */
const table: readonly [code: number, check: object, pay: object][] = [
  [0, { kind: 'ok' }, { kind: 'executed', reference: '1402779' }],
  [1, unknown('code 1'), pending(1)],
  [4, refused(4), refused(4)],
  [5, refused(5), refused(5)],
  [7, refused(7), refused(7)],
  [8, refused(7, 8), refused(7, 8)],
  [130, refused(300, 130), refused(300, 130)],
  [153, unknown('code 153'), pending(153)],
  [155, refused(7, 155), refused(7, 155)],
  [202, refused(300, 202), refused(300, 202)],
  [215, unknown('code 215'), unknown('code 215')],
  [220, unknown('code 220'), pending(220)],
  [241, refused(241), refused(241)],
  [242, refused(242), refused(242)],
  [250, unknown('code 250'), refused(300, 250)],
  [255, unknown('code 255'), pending(255)],
  [300, refused(300), refused(300)],
];

test('the balance there, with its credit', () => {
  const { build, parse } = connector.balance!;
  expect(build()).toMatchObject({ method: 'POST', path: '/api/v20/balance', body: '{}' });
  const told = (balance: string, more = '') =>
    parse(
      http(
        `{"result":0,"agent":{"agentId":7,"balance":${balance},"overdraft":100.0000,"currency":"KZT"${more}}}`,
      ),
    );
  expect(told('509455.9000')).toEqual({ kind: 'told', amountMinor: 50_955_590n, currency: 'KZT' });
  expect(told('-30.0000')).toEqual({ kind: 'told', amountMinor: 7000n, currency: 'KZT' });
  for (const spoilt of ['"much"', '1e3', 'null']) expect(told(spoilt).kind).toBe('unknown');
  expect(parse(http('{"result":1}')).kind).toBe('unknown');
  expect(parse({ ...http('{}'), status: 503 })).toEqual(unknown('HTTP 503'));
});

describe('what an answer proves', () => {
  test('the table has every code of the protocol', () => {
    expect(table.map(([code]) => code).toSorted((a, b) => a - b)).toEqual(
      codes.map(({ code }) => code).toSorted((a, b) => a - b),
    );
  });

  it.each(table)('code %i', (code, atCheck, atPay) => {
    expect(check(answer(code))).toEqual(atCheck);
    expect(pay(answer(code))).toEqual(atPay);
  });

  it.each(table)('code %i proves nothing in another HTTP status, of another payment, or cut', (code) => {
    const other = String(BigInt(ours) + 1n);
    for (const parse of [pay, check]) {
      for (const status of [201, 202, 400, 409, 500, 502, 503]) {
        expect(parse({ ...answer(code), status })).toEqual(unknown(`HTTP ${status}`));
      }
      expect(parse(answer(code, { agentTransactionId: other })).kind).toBe('unknown');
      expect(parse(answer(code, { agentTransactionId: undefined })).kind).toBe('unknown');
      const { body } = answer(code);
      for (let length = 0; length < body.length; length += 1) {
        expect(parse(http(body.slice(0, length)))).toEqual(unknown('the answer is not JSON'));
      }
    }
    // But for 202, which names no payment.
    expect(pay(answer(code, { transactionId: undefined })).kind).toBe(code === 202 ? 'refused' : 'unknown');
    expect(pay(answer(code, { transactionId: '0' })).kind).toBe('unknown');
  });

  it.each([
    ['a code that the protocol has not', answer(2), 'code 2'],
    ['a code as a text', answer('"0"'), "the answer is not in the protocol's words"],
    ['a code with a fraction', answer('0.0'), 'code 0.0'],
    ['no code', answer(0, { result: undefined }), "the answer is not in the protocol's words"],
    ['two codes', answer(5, { ' ': '0,"result":0' }), 'the answer is not JSON'],
    [
      'a success without its dates',
      answer(0, { statusDate: undefined }),
      "the answer is not in the protocol's words",
    ],
    [
      'a success with a date that is none',
      answer(0, { statusDate: '"now"' }),
      "the answer is not in the protocol's words",
    ],
    ['displays that are none', answer(0, { displays: '[]' }), "the answer is not in the protocol's words"],
    ['a list', http('[]'), "the answer is not in the protocol's words"],
    ['a page', http('<html>'), 'the answer is not JSON'],
    ['the token refused', http('{"error":"unauthorized"}', 401), 'HTTP 401: the token is not accepted'],
    ['the address refused', http('', 403), 'HTTP 403: our address is not accepted, or we are blocked'],
    ['a wrong path', http('', 404), 'HTTP 404: there is no such path: see baseUrl and pathPrefix'],
  ])('pay: %s is unknown', (_, response, detail) => {
    expect(pay(response)).toEqual(unknown(detail));
  });

  test('ids near each other are told apart, and one sent as a text is the same', () => {
    const precise = { ...order, externalId: '4-77' };
    const theirs = upstreamNumber(precise.externalId);
    expect(BigInt(theirs)).toBeGreaterThan(2n ** 53n);
    const near = String(BigInt(theirs) + 1n);
    const say = (literal: string) => connector.parsePay(answer(0, { agentTransactionId: literal }), precise);
    expect(say(near).kind).toBe('unknown');
    expect(say(`"${theirs}"`).kind).toBe('executed');
  });

  test('an inquiry refused without a number of the upstream is refused: it names no payment', () => {
    expect(check(answer(202, { transactionId: undefined }))).toEqual(refused(300, 202));
    // Nothing was taken of a first request; of a repeat it says nothing about the payment.
    const malformed = answer(202, { transactionId: undefined });
    expect(connector.parsePay(malformed, { ...order, again: false })).toEqual(refused(300, 202));
    expect(connector.parsePay(malformed, { ...order, again: true })).toEqual(unknown('code 202'));
    expect(check(answer(0, { transactionId: undefined })).kind).toBe('unknown');
  });

  test('a success shows its displays, and the conversion among them', () => {
    const told = pay(answer(0, { displays: '{"pin":"17","none":null}', rate: '0.0020833333' }));
    expect(told).toEqual({
      kind: 'executed',
      reference: '1402779',
      displays: { rate: '0.0020833333', pin: '17' },
    });
  });
});

/** An example of the contract, made an answer to our inquiry. */
const example = (name: string) =>
  http(contractText(name).replace(/"agentTransactionId": *\d+/, `"agentTransactionId": ${ours}`));

describe('the answers of the contract to check', () => {
  test('displays', () => {
    expect(check(example('check-displays.answer'))).toEqual({
      kind: 'ok',
      displays: {
        fio: 'Test fio',
        address: 'Набережная 134 кв 5',
        info: 'Сумма к оплате 20000.00 тенге',
      },
    });
  });

  test('a conversion is shown digit by digit', () => {
    expect(check(example('check-conversion.answer'))).toEqual({
      kind: 'ok',
      displays: {
        currencyRate: 'Курс конвертации KZT/USD 0.0021',
        rate: '0.0020833333',
        finalAmount: '1.75',
        currency: 'USD',
      },
    });
  });

  test('contracts', () => {
    const told = check(example('check-choice.answer'));
    expect(told).toMatchObject({ kind: 'ok', contracts: { length: 3 } });
    expect('contracts' in told && told.contracts?.[1]).toEqual({
      name: 'Петров',
      contractId: '000000588',
      contractNumber: '2/00-Ф',
      contractSum: '2000.00',
      contractDate: '20200216000000',
    });
  });

  test('an invoice, its amounts in minor units', () => {
    const told = check(example('check-complex.answer'));
    expect(told).toMatchObject({
      kind: 'ok',
      invoices: [{ invoiceId: '2020020003535444', expireDate: '20200229000000', lines: { length: 3 } }],
    });
    expect('invoices' in told && told.invoices?.[0]?.lines[0]).toEqual({
      subServiceId: '36',
      subServiceName: 'Электроэнергия',
      paySumMinor: 35_980n,
      tariffMinor: 0n,
      minSumMinor: 0n,
      maxSumMinor: 0n,
      debtInfo: '0.00',
      isMeter: true,
      prevCount: '4870.00',
      lastCount: '0.00',
      si: 'тг/м2',
      comment: '',
    });
  });

  const line = (data: string) =>
    answer(0, {
      invoice: `{"invoices":[{"services":[{"subServiceId":"1","subServiceName":"x","data":${data}}]}]}`,
    });

  test('an amount is kept to the last digit, and one that is no amount is no answer', () => {
    expect(check(line('{"paySum":9999999999999.990}'))).toMatchObject({
      invoices: [{ lines: [{ paySumMinor: 999_999_999_999_999n }] }],
    });
    for (const literal of ['-1', '1e3', '0.001', '{}', 'true'])
      expect(check(line(`{"paySum":${literal}}`)).kind, literal).toBe('unknown');
  });

  test('contracts beside an invoice contradict', () => {
    const both = answer(0, { contracts: '[]', invoice: '{"invoices":[]}' });
    expect(check(both)).toEqual(unknown('the answer has both contracts and an invoice'));
  });
});

type Chain = Awaited<ReturnType<typeof openChain>>;

/**
 * Two centres, each with a database of its own. The lower one sells the upper one's services under the same ids, as its
 * only agent, over a network that can be spoilt. The upper one's provider is the sandbox. `build`: another one for the
 * lower centre than the one under test.
 */
async function openChain(agents: number, build?: string) {
  const open = (count: number, fundsMinor: bigint) =>
    openScene({
      agents: count,
      fundsMinor,
      postgres: async () => {
        const database = await freshDatabase();
        return { connection: database.address, stop: () => database.drop() };
      },
    });
  const upper = await open(1, upperFundsMinor);
  const lower = await open(agents, 10_000_000_00n);
  const account = upper.callers[0]!;
  const proxy = await startFaultProxy(`http://127.0.0.1:${upper.port}`, await upper.newPort());
  /** By the number sent: every text that `pay` was sent with. */
  const bodies = new Map<string, Set<string>>();
  const watch = (request: string): Treatment => {
    const [, method, body] = /^POST \S+\/(\w+) [\s\S]*?\r\n\r\n([\s\S]*)$/.exec(request) ?? [];
    const number = /"agentTransactionId":(\d+)/.exec(body ?? '')?.[1];
    if (method === 'pay' && number !== undefined)
      bodies.set(number, (bodies.get(number) ?? new Set()).add(body!));
    return {};
  };
  proxy.follow({ exchange: watch });
  await setProvider(
    lower.owner,
    {
      providerId: 'upstream',
      name: 'Upstream',
      connector: 'agent-v20',
      settings: { baseUrl: proxy.url, token: account.token, connectTimeoutMs: 500, answerMsMax: 3000 },
    },
    () => {},
    'op',
  );
  // All that the upper centre sells to us it takes in our account's currency, P2001 too.
  await lower.owner.query(
    `update services set provider_id = 'upstream', provider_service_code = service_id, currency = 'KZT'`,
  );
  const servers: { upper: Server; lower: Server } = {
    upper: upper.start({ port: upper.port }),
    lower: lower.start({ port: lower.port, build }),
  };
  await Promise.all([servers.upper.ready, servers.lower.ready]);

  return {
    ...{ upper, lower, proxy, account, bodies, watch, servers },
    async close() {
      proxy.close();
      await Promise.all([upper.close(), lower.close()]);
    },
  };
}

const upperFundsMinor = 100_000_000_00n;

interface Row {
  readonly id: bigint;
  readonly agentId: bigint;
  readonly code: number;
  readonly transactionId: bigint;
  readonly reference: string | null;
}

async function paymentsOf({ owner }: Scene): Promise<Row[]> {
  const { rows } = await owner.query<Row>(
    `select agent_transaction_id as id, agent_id as "agentId", code, id as "transactionId",
       provider_reference as reference
     from payments`,
  );
  return rows;
}

/** What is wrong in both centres' payments and books, the sandbox's registry and what the agents were told. */
async function judgeChain(chain: Chain, payments: readonly Payment[]): Promise<Violation[]> {
  const { upper, lower, account, bodies } = chain;
  await untilSettled(upper);
  await untilSettled(lower);
  const numberOf = ({ agentId, id }: { agentId: bigint; id: bigint }) => upstreamNumber(`${agentId}-${id}`);
  const mine = await paymentsOf(lower);
  const theirs = new Map((await paymentsOf(upper)).map((row) => [String(row.id), row]));
  const amounts = new Map(payments.map((each) => [`${each.agentId}-${each.id}`, each.amountMinor]));

  // The sandbox knows the upper centre's names of what the lower one's agents ordered.
  const names = new Map(
    mine.map((row) => [`${account.agentId}-${numberOf(row)}`, `${row.agentId}-${row.id}`]),
  );
  const registry = (await upper.sandbox.registry()).map((row) => ({
    ...row,
    externalId: names.get(row.externalId) ?? row.externalId,
  }));
  const { owner, callers, fundsMinor } = lower;
  const violations = await judge({ payments, registry, owner, callers, fundsMinor });
  const violate = (rule: string, object: string, found: string) => violations.push({ rule, object, found });

  for (const { what, object, expected, found } of (await verify(upper.owner)).problems)
    violate('the upper books agree with themselves', object, `${what}: ${found} instead of ${expected}`);
  let spent = 0n;
  for (const row of mine) {
    const name = `${row.agentId}-${row.id}`;
    const there = theirs.get(numberOf(row));
    theirs.delete(numberOf(row));
    // Refused at the inquiry, it never went up.
    if (row.code !== (there?.code ?? 5)) violate('both have one code', name, `${row.code}, ${there?.code}`);
    if (row.code === 0 && row.reference !== String(there?.transactionId))
      violate('a success has the upper transactionId for its reference', name, `${row.reference}`);
    if (there?.code === 0 || there?.code === 1) spent += amounts.get(name) ?? 0n;
  }
  for (const number of theirs.keys())
    violate('the upper centre has only what the lower one asked for', number, 'a payment of no agent');
  const available = await upper.available(account.agentId);
  if (available !== upperFundsMinor - spent)
    violate('our account is debited what was paid', `${account.agentId}`, `${available}, spent ${spent}`);
  for (const [number, texts] of bodies)
    if (texts.size !== 1) violate('a repeat is the same text', number, [...texts].join(' '));
  return violations;
}

/** Nobody is at work: no lease, and nothing about to be sent. */
async function untilSettled({ owner }: Scene): Promise<void> {
  for (let i = 0; i < 100; i += 1) {
    const { rows } = await owner.query<{ busy: boolean }>(
      `select exists (select 1 from leases) or exists (select 1 from waiting where what = 'send') as busy`,
    );
    if (!rows[0]!.busy) return;
    await sleep(100);
  }
}

interface Passage {
  readonly ms: number;
  /** For what is under way after it. */
  readonly finishMs?: number;
  readonly fates?: typeof everyFate;
  readonly meanwhile?: () => Promise<void>;
}

/** Agents of the lower centre at work for so long, and what is wrong afterwards. */
async function payThrough(chain: Chain, { ms, finishMs = 90_000, fates = everyFate, meanwhile }: Passage) {
  const { lower } = chain;
  const crowd = new Crowd({ ports: [lower.port], callers: lower.callers, fates, thinkMsMax: 300 });
  await meanwhile?.();
  await sleep(ms);
  await crowd.finish(finishMs);
  return { crowd, violations: await judgeChain(chain, crowd.payments) };
}

async function withChain(agents: number, build: string | undefined, work: (chain: Chain) => Promise<void>) {
  const chain = await openChain(agents, build);
  await work(chain).finally(() => chain.close());
}

describe('two centres chained', () => {
  test('payments of every fate end with the same code in both, executed once', async () => {
    await withChain(12, undefined, async (chain) => {
      const { crowd, violations } = await payThrough(chain, { ms: 8000 });
      expect(violations).toEqual([]);
      expect(crowd.finished).toBeGreaterThan(20);
      expect(new Set(crowd.payments.map(({ fate }) => fate.ending)).size).toBeGreaterThan(6);
    });
  }, 180_000);

  const anyOf = <T>(all: readonly T[]) => all[Math.floor(Math.random() * all.length)]!;

  test('cuts between the centres, and both of them killed, leave one story', async () => {
    await withChain(12, undefined, async (chain) => {
      const { proxy, upper, lower, watch, servers } = chain;
      const meanwhile = async () => {
        proxy.follow({
          connection: () => (Math.random() < 0.1 ? 'reset' : null),
          exchange: (request) => {
            watch(request);
            if (Math.random() > 0.3) return {};
            return { cut: { at: anyOf(moments), by: anyOf(['close', 'close', 'reset', 'hang']) } };
          },
        });
        await sleep(5000);
        proxy.refuse();
        await sleep(300);
        await proxy.accept();
        proxy.follow({ exchange: watch });
        for (const which of ['upper', 'lower', 'upper'] as const) {
          await sleep(1000);
          servers[which].signal('SIGKILL');
          await servers[which].ended;
          await sleep(300);
          const scene = which === 'upper' ? upper : lower;
          servers[which] = scene.start({ port: scene.port });
          await servers[which].ready;
        }
      };
      const { crowd, violations } = await payThrough(chain, { ms: 1000, meanwhile });
      expect(violations).toEqual([]);
      expect(crowd.finished).toBeGreaterThan(20);
      for (const moment of moments) expect(proxy.count(moment), moment).toBeGreaterThan(0);
    });
  }, 240_000);

  test.each([
    [
      'that takes 1 for a refusal',
      'the final code is what the provider made of it',
      { from: "['1', { check: null, pay: 'pending' }]", to: "['1', { check: null, pay: 300 }]" },
    ],
    [
      'that numbers its attempts anew',
      'the upper centre has only what the lower one asked for',
      {
        from: "hash('sha256', externalId, 'hex')",
        to: "hash('sha256', externalId + Math.floor(Date.now() / 1000), 'hex')",
      },
    ],
    [
      'that stamps its attempts anew',
      'a repeat is the same text',
      { from: 'common(order, order.acceptedAt)', to: 'common(order, new Date())' },
    ],
  ])(
    'a lower build %s is found out',
    async (_, rule, change) => {
      const build = brokenBuild([{ file: 'providers/v20-connector.js', ...change }]);
      await withChain(6, build, async (chain) => {
        const fates = everyFate.filter(({ ending }) => ['', '0001', '0090'].includes(ending));
        const { violations } = await payThrough(chain, { ms: 3000, finishMs: 8000, fates });
        expect(violations.map((each) => each.rule)).toContain(rule);
      });
    },
    180_000,
  );

  describe('one payment at a time', () => {
    let chain: Chain;
    let [above, below]: Client[] = [];
    let lastId = 9_000_000_000_000_000_000n;
    const next = () => {
      lastId += 1n;
      return lastId;
    };

    beforeAll(async () => {
      chain = await openChain(1);
      await removeRule(chain.lower.owner, 'above-500000', 'op');
      above = new Client(`http://127.0.0.1:${chain.upper.port}`);
      below = new Client(`http://127.0.0.1:${chain.lower.port}`);
      await sleep(500);
    });
    afterAll(async () => {
      await above?.close();
      await below?.close();
      await chain.close();
    });

    async function say(client: Client, method: 'check' | 'pay', body: string): Promise<string> {
      const { callers } = client === above ? chain.upper : chain.lower;
      const told = await client.request({
        method: 'POST',
        path: `/api/v20/${method}`,
        headers: { authorization: `Bearer ${callers[0]!.token}`, 'content-type': 'application/json' },
        body,
      });
      expect(told.statusCode).toBe(200);
      return told.body.text();
    }
    const codeOf = (text: string) => Number(/"result":(\d+)/.exec(text)?.[1]);

    /** The same request until its code is one that ends the wait. */
    async function payUntil(body: string, until: (code: number) => boolean): Promise<string> {
      for (const endAtMs = performance.now() + 45_000; ; await sleep(200)) {
        const told = await say(below!, 'pay', body);
        if (until(codeOf(told)) || performance.now() > endAtMs) return told;
      }
    }

    async function codeAbove(id: bigint): Promise<number | undefined> {
      const number = upstreamNumber(`${chain.lower.callers[0]!.agentId}-${id}`);
      return (await paymentsOf(chain.upper)).find((row) => String(row.id) === number)?.code;
    }

    /** Waits until the upper centre answers it so. */
    async function aboveUntil(id: bigint, code: number): Promise<void> {
      for (let i = 0; i < 100 && (await codeAbove(id)) !== code; i += 1) await sleep(100);
      expect(await codeAbove(id)).toBe(code);
    }

    const request = (serviceId: string, account: string, id: bigint, more = '') =>
      `{"serviceId":"${serviceId}","account":"${account}","agentTransactionId":${id},` +
      `"agentTransactionDate":"2026-02-17T16:48:37"${more}}`;
    const withoutIds = (text: string) =>
      text.replace(
        /"(?:transactionId|agentTransactionId)":\d+,?|"(?:transactionDate|statusDate)":"[^"]*",/g,
        '',
      );

    const schemes: [scheme: string, serviceId: string, account: string, forCheck: string, forPay: string][] =
      [
        ['simple', 'P1013', '7010017718', '', ',"amountTo":150.5'],
        [
          'simple with displays and a fixed amount',
          'P1012',
          '0000000018',
          ',"extras":{"account1":"1234567890"}',
          ',"amountTo":20000.00,"extras":{"account1":"1234567890"}',
        ],
        [
          'complex',
          'P0005',
          '0000000018',
          '',
          ',"amountTo":459.81,"extraServices":[{"subServiceId":"36","lastCount":"4871.5","amount":359.81},' +
            '{"subServiceId":"13","amount":"100"}]',
        ],
        ['with choice', 'P0006', '000000000018', '', ',"amountTo":2000,"extras":{"contractId":"000000588"}'],
      ];
    test.each(schemes)(
      '%s: agents are told the same by both',
      async (_, serviceId, account, forCheck, forPay) => {
        const id = next();
        const told = await say(below!, 'check', request(serviceId, account, id, forCheck));
        expect(codeOf(told)).toBe(0);
        expect(withoutIds(told)).toBe(
          withoutIds(await say(above!, 'check', request(serviceId, account, next(), forCheck))),
        );

        const body = request(serviceId, account, id, forPay);
        const paid = await payUntil(body, isFinal);
        expect(codeOf(paid)).toBe(0);
        const agent = chain.lower.callers[0]!.agentId;
        const number = upstreamNumber(`${agent}-${id}`);
        const sentUp = [...chain.bodies.get(number)!][0]!;
        expect(withoutIds(paid)).toBe(withoutIds(await say(above!, 'pay', sentUp)));
        for (let i = 0; i < 3; i += 1) expect(await say(below!, 'pay', body)).toBe(paid);
        expect(await executions(number)).toBe(1);
      },
    );

    const executions = async (number: string) => {
      const name = `${chain.account.agentId}-${number}`;
      return (await chain.upper.sandbox.registry()).filter((row) => row.externalId === name).length;
    };

    test('an international service: our account is debited in our currency, the conversion is shown', async () => {
      const body = request('P2001', 'player_18', next(), ',"amountTo":840');
      const conversion =
        '"displays":{"currencyRate":"Conversion rate KZT/USD 0.0021","rate":"0.0020833333",' +
        '"finalAmount":"1.75","currency":"USD"}';
      expect(await say(below!, 'check', body)).toContain(conversion);
      const paid = await payUntil(body, isFinal);
      expect(codeOf(paid)).toBe(0);
      expect(paid).toContain(conversion);
    });

    test('what the upper centre refuses for its data is refused at the inquiry and never sent', async () => {
      // The lower catalogue asks for less than the upper one.
      await chain.lower.owner.query(`update services set inputs = '[]'::json where service_id = 'P1014'`);
      await sleep(500);
      const id = next();
      const body = request('P1014', 'no digits', id, ',"amountTo":100');
      expect(codeOf(await payUntil(body, isFinal))).toBe(4);
      expect(await codeAbove(id)).toBeUndefined();
    });

    test('our balance above: an inquiry says 1, a payment waits, and goes on when it is topped up', async () => {
      const { upper, account } = chain;
      const available = await upper.available(account.agentId);
      const quoted = next();
      const body = payBody(quoted, 700);
      expect(codeOf(await say(below!, 'check', body))).toBe(0);
      const why = { reason: 'a test', document: null };
      await correct(upper.owner, account.agentId, -(available - 100_00n), why, 'op');

      expect(codeOf(await say(below!, 'check', payBody(next(), 700)))).toBe(1);
      const unquoted = payBody(next(), 650);
      expect(codeOf(await say(below!, 'pay', unquoted))).toBe(1);
      expect(codeOf(await say(below!, 'pay', body))).toBe(1);
      await aboveUntil(quoted, 220);
      expect(codeOf(await say(below!, 'pay', body))).toBe(1);

      await topUp(upper.owner, account.agentId, available, null, 'op');
      expect(codeOf(await payUntil(body, isFinal))).toBe(0);
      expect(codeOf(await payUntil(unquoted, isFinal))).toBe(0);
      await aboveUntil(quoted, 0);
    }, 120_000);

    test.each([
      ['approved', 0],
      ['rejected', 300],
    ] as const)(
      'a review above is 1 here, and when it is %s %i',
      async (how, code) => {
        const id = next();
        const body = payBody(id, 600_000);
        expect(codeOf(await say(below!, 'pay', body))).toBe(1);
        await aboveUntil(id, 153);
        expect(codeOf(await say(below!, 'pay', body))).toBe(1);
        const number = upstreamNumber(`${chain.lower.callers[0]!.agentId}-${id}`);
        const held = (await paymentsOf(chain.upper)).find((row) => String(row.id) === number)!;
        const end = how === 'approved' ? approve : reject;
        await end(chain.upper.owner, held.transactionId, 'op', 'a test');
        expect(codeOf(await payUntil(body, isFinal))).toBe(code);
        await aboveUntil(id, code);
        expect(await executions(number)).toBe(code === 0 ? 1 : 0);
      },
      120_000,
    );

    test('a number that has other details above stays open here, and nothing is executed', async () => {
      const id = next();
      const number = upstreamNumber(`${chain.lower.callers[0]!.agentId}-${id}`);
      expect(codeOf(await say(above!, 'pay', payBody(BigInt(number), 111)))).toBe(0);
      const body = payBody(id, 222);
      expect(codeOf(await say(below!, 'pay', body))).toBe(1);
      await sleep(3000);
      expect(codeOf(await say(below!, 'pay', body))).toBe(1);
      expect(await executions(number)).toBe(1);
      const { rows } = await chain.lower.owner.query<{ detail: string }>(
        `select distinct e.data ->> 'detail' as detail from payment_events e
         join payments p on p.id = e.payment_id and p.shard = e.shard
         where p.agent_transaction_id = $1 and e.kind = 'provider_pay'`,
        [id],
      );
      expect(rows).toEqual([{ detail: 'code 215' }]);
    });

    test('the books of both agree with themselves', async () => {
      for (const { owner } of [chain.upper, chain.lower]) expect((await verify(owner)).problems).toEqual([]);
      for (const [number, texts] of chain.bodies) expect([...texts], number).toHaveLength(1);
    });
  });
});
