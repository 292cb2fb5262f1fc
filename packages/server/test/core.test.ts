import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ownRoute } from '../src/catalogue/routes.js';
import type { Agent, Field, Reference, Service } from '../src/core/catalogue.js';
import { codes, messageFor, reason, reasons } from '../src/core/codes.js';
import {
  type Asked,
  decideCheck,
  decidePay,
  fundsSuffice,
  notAsked,
  paymentWords,
} from '../src/core/decide.js';
import { convert, formatMinor, formatRate, parseAmount, parseRate, shareOf } from '../src/core/money.js';
import type { Offer, PayRequest } from '../src/core/requests.js';
import { mayMove, State, sourcesMask, stateFacts, states, statesMask } from '../src/core/states.js';
import { feeOf, rewardOf } from '../src/core/tariff.js';

describe('amounts', () => {
  test.each([
    ['200', 20000n],
    ['200.0', 20000n],
    ['200.00', 20000n],
    ['200.000', 20000n],
    ['0.01', 1n],
    ['0', 0n],
    ['00.10', 10n],
    ['9999999999999.99', 999999999999999n],
  ])('%s is read exactly', (literal, amountMinor) => {
    expect(parseAmount(literal)).toEqual({ ok: true, amountMinor });
  });

  test.each([
    '',
    '-1',
    '+1',
    '1e2',
    '1,5',
    '1.005',
    '.5',
    '5.',
    '10000000000000',
    ' 1',
    '1 ',
    '0x1',
    'NaN',
    '1.2.3',
    '٣',
  ])('%j is refused', (literal) => {
    expect(parseAmount(literal).ok).toBe(false);
  });

  test('what is printed is read back as the same amount', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 999_999_999_999_999n }), (amountMinor) => {
        expect(parseAmount(formatMinor(amountMinor))).toEqual({ ok: true, amountMinor });
        expect(parseAmount(formatMinor(amountMinor, 4))).toEqual({ ok: true, amountMinor });
      }),
    );
  });

  test.each([
    [50945590n, 4, '509455.9000'],
    [-1n, 4, '-0.0100'],
    [35980n, 1, '359.8'],
    [0n, 1, '0.0'],
    [35985n, 1, '359.85'],
    [5n, 2, '0.05'],
  ] as const)('%s at scale %s prints %s', (amountMinor, scale, text) => {
    expect(formatMinor(amountMinor, scale)).toBe(text);
  });

  test('the contract’s conversion: 840.00 KZT at 0.0020833333 are 1.75 USD', () => {
    expect(convert(84000n, parseRate('0.0020833333')!)).toBe(175n);
    expect(formatRate(parseRate('0.0020833333')!)).toBe('0.0020833333');
    expect(formatRate(parseRate('480')!)).toBe('480.00');
  });

  test('halves are rounded up', () => {
    expect(shareOf(50n, 10_000)).toBe(1n);
    expect(shareOf(49n, 10_000)).toBe(0n);
  });
});

describe('states', () => {
  const moves = states.flatMap((from) => states.map((to) => [from, to] as const));
  const allowed = new Set(
    moves.filter(([from, to]) => mayMove(from, to)).map(([from, to]) => `${from}>${to}`),
  );

  test('the table of transitions is the agreed one', () => {
    const name = (state: State) => stateFacts[state].name;
    expect(
      moves
        .filter(([from, to]) => allowed.has(`${from}>${to}`))
        .map(([from, to]) => `${name(from)} > ${name(to)}`),
    ).toEqual([
      'awaiting_funds > in_review',
      'awaiting_funds > sending',
      'awaiting_funds > failed',
      'in_review > sending',
      'in_review > failed',
      'awaiting_terms > awaiting_funds',
      'awaiting_terms > in_review',
      'awaiting_terms > sending',
      'awaiting_terms > failed',
      'sending > uncertain',
      'sending > succeeded',
      'sending > failed',
      'uncertain > sending',
      'uncertain > succeeded',
      'uncertain > failed',
      'succeeded > reversed',
    ]);
  });

  test('nothing leaves a final state but a success that is reversed, and its code stays', () => {
    for (const [from, to] of moves) {
      if (!stateFacts[from].final || !mayMove(from, to)) continue;
      expect([from, to]).toEqual([State.succeeded, State.reversed]);
      expect(stateFacts[to].code).toBe(stateFacts[from].code);
    }
  });

  test('the SQL guard of a state is the mask of the states it may be reached from', () => {
    for (const to of states) {
      for (const from of states) {
        expect((sourcesMask(to) & statesMask(from)) !== 0, `${from} > ${to}`).toBe(mayMove(from, to));
      }
    }
  });
});

describe('codes', () => {
  test('every code has words in every language, and every reason belongs to a code', () => {
    for (const { code, text } of codes) {
      for (const language of ['ru', 'kk', 'en'] as const) {
        expect(text[language].length, `${code} ${language}`).toBeGreaterThan(1);
        expect(messageFor(code, language)).toBe(text[language]);
      }
    }
    for (const [key, { code, text }] of Object.entries(reasons)) {
      expect(
        codes.map((each) => each.code),
        key,
      ).toContain(code);
      const holes = (words: string) => words.match(/\{\d\}/g) ?? [];
      expect(holes(text.kk), key).toEqual(holes(text.ru));
      expect(holes(text.en), key).toEqual(holes(text.ru));
    }
  });

  test('a reason is spelled only for its own code', () => {
    expect(messageFor(202, 'en', reason('field_missing', 'amountTo'))).toContain('amountTo');
    expect(messageFor(300, 'en', reason('field_missing', 'amountTo'))).toBe(messageFor(300, 'en'));
  });
});

const field = (name: string, pattern: RegExp | null, required = true): Field => ({
  name,
  key: name.replace(/^ev_/, ''),
  required,
  title: name,
  pattern: pattern && { source: pattern.source, matches: (value) => pattern.test(value) },
});

const service = (over: Partial<Service> = {}): Service => ({
  serviceId: 'S',
  type: 0,
  name: 'Service',
  group: null,
  fixedPayment: false,
  country: null,
  inputs: [field('account', /^\d{10}$/)],
  displays: [],
  routes: [ownRoute({ providerId: 'p', providerServiceCode: 's' })],
  currency: 'KZT',
  amountMinMinor: 100n,
  amountMaxMinor: 100_000_000n,
  identityRequired: false,
  inquiryRequired: false,
  state: 'on',
  ...over,
});

const agent: Agent = {
  agentId: 4n,
  shard: 0,
  name: 'Agent',
  currency: 'KZT',
  language: 'ru',
  tariffId: 't',
  servicePolicy: 'all',
  knownByAddress: false,
  blocked: false,
};

const tariffLine = {
  serviceId: null,
  feePpm: 0,
  feeFixedMinor: 0n,
  feeMinMinor: 0n,
  feeMaxMinor: null,
  rewardPpm: 0,
  addedMaxPpm: 200_000,
};

const reference = (over: Partial<Service> = {}, more: Partial<Reference> = {}): Reference => ({
  version: 1n,
  agents: new Map([[4n, agent]]),
  services: new Map([['S', service(over)]]),
  tariffs: new Map([['t', { tariffId: 't', name: 'T', lines: [tariffLine] }]]),
  rules: [{ ruleId: 'large', amountAboveMinor: 50_000_000n, serviceId: null, agentId: null }],
  rates: new Map([['KZT/USD', parseRate('0.0020833333')!]]),
  providers: new Map([['p', { providerId: 'p', name: 'P', connector: 'c', settings: {}, paused: false }]]),
  exceptions: new Map(),
  ...more,
});

const request = (over: Partial<PayRequest> = {}): PayRequest => ({
  serviceId: 'S',
  account: '7770017711',
  agentTransactionId: 1n,
  agentTransactionDate: '2015-02-17T16:48:37',
  amountToMinor: 20_000n,
  amountFromMinor: over.amountToMinor ?? 20_000n,
  extras: {},
  extraServices: null,
  identityCard: null,
  fullName: null,
  ...over,
});

const offered = (offer: Offer): Asked => ({ offer, rateE10: null });

describe('the ladder of a payment', () => {
  const decide = (
    over: Partial<Service>,
    body: Partial<PayRequest> = {},
    asked: Asked = notAsked,
    more: Partial<Reference> = {},
  ) => decidePay(reference(over, more), agent, request(body), asked);
  const codeOf = (decision: ReturnType<typeof decide>) =>
    decision.kind === 'invalid' ? 202 : decision.kind === 'inquire' ? 'inquire' : decision.code;

  const contracts = { contracts: [{ contractId: '1', contractSum: '200.00' }, { contractId: '2' }] };
  const invoices = {
    invoices: [
      {
        lines: [
          {
            subServiceId: '36',
            subServiceName: 'a',
            isMeter: true,
            prevCount: '4870.00',
            minSumMinor: 0n,
            maxSumMinor: 0n,
          },
          {
            subServiceId: '13',
            subServiceName: 'b',
            isMeter: false,
            minSumMinor: 1000n,
            maxSumMinor: 15_000n,
          },
        ],
      },
    ],
  };
  const line = (subServiceId: string, amountMinor: bigint, lastCount: string | null = null) => ({
    subServiceId,
    amountMinor,
    lastCount,
  });
  const [complex, choice] = [{ type: 1 as const }, { type: 2 as const }];
  const exceptions = (allowed: boolean) => ({ exceptions: new Map([[4n, new Map([['S', allowed]])]]) });

  test.each<[string, number | string, ReturnType<typeof decide>]>([
    ['a plain payment is sent', 1, decide({})],
    ['an unknown service is 130', 130, decide({}, { serviceId: 'X' })],
    ['a service denied to the agent is 155', 155, decide({}, {}, notAsked, exceptions(false))],
    [
      'a service that is off is 155, even if allowed',
      155,
      decide({ state: 'off' }, {}, notAsked, exceptions(true)),
    ],
    ['maintenance is 8', 8, decide({ state: 'maintenance' })],
    ['an account against its pattern is 4', 4, decide({}, { account: '77' })],
    ['an account of 201 characters is 4', 4, decide({ inputs: [] }, { account: '😀'.repeat(201) })],
    ['an account of 200 characters', 1, decide({ inputs: [] }, { account: '😀'.repeat(200) })],
    ['an account with a control character is 4', 4, decide({ inputs: [] }, { account: '777\u0085' })],
    ['an input that is missing is 202', 202, decide({ inputs: [field('ev_order', /^\d+$/)] })],
    [
      'an input against its pattern is 202',
      202,
      decide({ inputs: [field('ev_order', /^\d+$/)] }, { extras: { order: 'x' } }),
    ],
    ['an optional input may be absent', 1, decide({ inputs: [field('ev_order', /^\d+$/, false)] })],
    [
      'identity that the service demands is 202',
      202,
      decide({ identityRequired: true }, { identityCard: '1' }),
    ],
    ['identity given', 1, decide({ identityRequired: true }, { identityCard: '1', fullName: 'N' })],
    ['amountFrom below amountTo is 202', 202, decide({}, { amountFromMinor: 19_999n })],
    ['zero is 241', 241, decide({}, { amountToMinor: 0n })],
    ['below the service’s minimum is 241', 241, decide({}, { amountToMinor: 99n })],
    ['at the minimum', 1, decide({}, { amountToMinor: 100n })],
    ['above the service’s maximum is 242', 242, decide({}, { amountToMinor: 100_000_001n })],
    ['a provider is asked where the service wants it', 'inquire', decide({ inquiryRequired: true })],
    ['an answered inquiry goes on', 1, decide({ inquiryRequired: true }, {}, offered({}))],
    ['below the provider’s minimum is 241', 241, decide({}, {}, offered({ amountMinMinor: 20_001n }))],
    ['above the provider’s maximum is 242', 242, decide({}, {}, offered({ amountMaxMinor: 19_999n }))],
    [
      'a fixed amount must be met',
      202,
      decide({ fixedPayment: true }, {}, offered({ displays: { fixedAmount: '200.01' } })),
    ],
    [
      'a fixed amount met',
      1,
      decide({ fixedPayment: true }, {}, offered({ displays: { fixedAmount: '200' } })),
    ],
    [
      'a fixed service without a fixed amount takes any',
      1,
      decide({ fixedPayment: true }, {}, offered({ displays: {} })),
    ],
    ['a choice without contractId is 202', 202, decide(choice, {}, offered(contracts))],
    [
      'a contract that was not offered is 202',
      202,
      decide(choice, { extras: { contractId: '3' } }, offered(contracts)),
    ],
    ['a contract that was offered', 1, decide(choice, { extras: { contractId: '2' } }, offered(contracts))],
    [
      'a fixed contract sum must be met',
      202,
      decide(
        { ...choice, fixedPayment: true },
        { extras: { contractId: '1' }, amountToMinor: 20_100n },
        offered(contracts),
      ),
    ],
    ['an invoice without lines is 202', 202, decide(complex, {}, offered(invoices))],
    ['lines for a simple service are 202', 202, decide({}, { extraServices: [line('36', 20_000n)] })],
    [
      'an unknown line is 202',
      202,
      decide(complex, { extraServices: [line('99', 20_000n)] }, offered(invoices)),
    ],
    [
      'a line twice is 202',
      202,
      decide(complex, { extraServices: [line('13', 10_000n), line('13', 10_000n)] }, offered(invoices)),
    ],
    [
      'a line below its minimum is 241',
      241,
      decide(complex, { extraServices: [line('13', 999n)] }, offered(invoices)),
    ],
    [
      'a line above its maximum is 242',
      242,
      decide(complex, { extraServices: [line('13', 15_001n)] }, offered(invoices)),
    ],
    [
      'a line of zero is 241',
      241,
      decide(complex, { extraServices: [line('36', 0n, '4870')] }, offered(invoices)),
    ],
    [
      'a meter without a count is 202',
      202,
      decide(complex, { extraServices: [line('36', 20_000n)] }, offered(invoices)),
    ],
    [
      'a meter that runs back is 202',
      202,
      decide(complex, { extraServices: [line('36', 20_000n, '4869.99')] }, offered(invoices)),
    ],
    [
      'a meter’s count that is no number is 202',
      202,
      decide(complex, { extraServices: [line('36', 20_000n, '48x')] }, offered(invoices)),
    ],
    [
      'lines that do not add up are 202',
      202,
      decide(
        complex,
        { extraServices: [line('36', 10_000n, '4870'), line('13', 9_999n)] },
        offered(invoices),
      ),
    ],
    [
      'lines that add up',
      1,
      decide(
        complex,
        { extraServices: [line('36', 10_000n, '4870'), line('13', 10_000n)] },
        offered(invoices),
      ),
    ],
    ['no rate is 300', 300, decide({ currency: 'EUR' }, {}, offered({}))],
    ['another currency asks for the quote first', 'inquire', decide({ currency: 'EUR' })],
    [
      'a conversion to nothing is 241',
      241,
      decide({ currency: 'USD' }, { amountToMinor: 200n }, offered({})),
    ],
    ['an added fee within the tariff', 1, decide({}, { amountFromMinor: 24_000n })],
    ['an added fee above the tariff is 255', 255, decide({}, { amountFromMinor: 24_001n })],
    ['an amount above a security rule is 153', 153, decide({}, { amountToMinor: 50_000_001n })],
    ['an amount at the security rule', 1, decide({}, { amountToMinor: 50_000_000n })],
    ['255 comes before 153', 255, decide({}, { amountToMinor: 50_000_001n, amountFromMinor: 90_000_000n })],
  ])('%s (%s)', (_name, expected, decision) => {
    expect(codeOf(decision)).toBe(expected);
  });

  test('the quote’s rate is honoured over today’s', () => {
    const asked = { offer: {}, rateE10: parseRate('0.01') };
    const decision = decide({ currency: 'USD' }, {}, asked);
    expect(decision).toMatchObject({ kind: 'accept', orderAmountMinor: 200n });
  });

  test('a rate that is too old stops the service and says so, and a promised one is honoured still', () => {
    const rates = new Map([['KZT/USD', 'too_old' as const]]);
    expect(decide({ currency: 'USD' }, {}, offered({}), { rates })).toEqual({
      kind: 'refuse',
      code: 300,
      reason: 'rate_too_old|KZT/USD',
    });
    const asked = { offer: {}, rateE10: parseRate('0.01') };
    expect(decide({ currency: 'USD' }, {}, asked, { rates })).toMatchObject({ kind: 'accept' });
    expect(decide({}, {}, offered({}), { rates }).kind).toBe('accept');
    const check = decideCheck(reference({ currency: 'USD' }, { rates }), agent, request(), offered({}));
    expect(check).toMatchObject({ kind: 'refuse', code: 300, reason: 'rate_too_old|KZT/USD' });
  });

  test('a paused provider closes its services', () => {
    const providers = new Map([
      ['p', { providerId: 'p', name: 'P', connector: 'c', settings: {}, paused: true }],
    ]);
    expect(codeOf(decide({}, {}, notAsked, { providers }))).toBe(8);
  });
});

describe('the ladder of a check', () => {
  test('amounts are optional, and are held to the limits where given', () => {
    const { amountToMinor: _, amountFromMinor: __, ...rest } = request();
    const bare = { ...rest, amountToMinor: null, amountFromMinor: null };
    expect(decideCheck(reference(), agent, bare, notAsked).kind).toBe('inquire');
    expect(decideCheck(reference(), agent, bare, offered({}))).toMatchObject({
      kind: 'pass',
      finalAmountMinor: null,
    });
    expect(decideCheck(reference(), agent, { ...bare, amountToMinor: 1n }, notAsked)).toMatchObject({
      code: 241,
    });
    expect(
      decideCheck(reference({ currency: 'USD' }), agent, { ...bare, amountToMinor: 84_000n }, offered({})),
    ).toMatchObject({
      finalAmountMinor: 175n,
    });
  });

  test('funds: above zero without an amount, enough with one', () => {
    expect(fundsSuffice(0n, null)).toBe(false);
    expect(fundsSuffice(1n, null)).toBe(true);
    expect(fundsSuffice(99n, 100n)).toBe(false);
    expect(fundsSuffice(100n, 100n)).toBe(true);
  });
});

describe('tariffs', () => {
  const priced = {
    ...tariffLine,
    feePpm: 10_000,
    feeFixedMinor: 100n,
    feeMinMinor: 150n,
    feeMaxMinor: 1000n,
    rewardPpm: 5000,
  };
  test.each([
    [1000n, 150n],
    [10_000n, 200n],
    [1_000_000n, 1000n],
  ])('the fee on %s is %s', (amountMinor, fee) => {
    expect(feeOf(priced, amountMinor)).toBe(fee);
  });
  test('the reward is a share', () => {
    expect(rewardOf(priced, 10_000n)).toBe(50n);
  });
});

describe('what makes two requests one payment', () => {
  const words = (over: Partial<PayRequest>) => paymentWords(request(over));
  test('dates and identity do not, key order does not', () => {
    expect(words({ agentTransactionDate: '2016-01-01T00:00:00', fullName: 'x', identityCard: 'y' })).toBe(
      words({}),
    );
    expect(words({ extras: { a: '1', b: '2' } })).toBe(words({ extras: { b: '2', a: '1' } }));
  });
  test.each<[string, Partial<PayRequest>]>([
    ['service', { serviceId: 'T' }],
    ['account', { account: '7770017712' }],
    ['amountTo', { amountToMinor: 20_001n, amountFromMinor: 20_000n }],
    ['amountFrom', { amountFromMinor: 20_001n }],
    ['extras', { extras: { a: '1' } }],
    ['extraServices', { extraServices: [{ subServiceId: '1', amountMinor: 20_000n, lastCount: null }] }],
  ])('%s does', (_name, over) => {
    expect(words(over)).not.toBe(words({}));
  });
});
