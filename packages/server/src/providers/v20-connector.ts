/**
 * Translates for another centre that serves the agent protocol v20: towards it this centre is an agent.
 *
 * The number. The upstream wants an agentTransactionId of at most 18 digits, the same at `check` and at `pay`, so that
 * its quote is the payment's. Our transactionId is not there yet at `check`, so the number is made of the external id by
 * a hash. Two payments with one number: with other details the upstream answers 215, which is unknown here and goes to
 * an operator, nothing having been executed. Only with the same service, account, amounts and extras would the second
 * be taken for the first: among 10^9 payments, each with a hundred of its likeness, once in 20 million such centres.
 *
 * The question. The protocol has no status inquiry: one repeats `pay` unchanged, and the upstream answers with what
 * became of the first. So every value in the body follows from the order alone.
 *
 * Proof is an answer of HTTP 200 that names our number, the upstream's own and a code of the protocol. A `pay` without
 * the upstream's number is of no payment that it has stored; a success has its dates, which that of `check` has not.
 */
import { hash } from 'node:crypto';
import { LosslessNumber, parse } from 'lossless-json';
import { z } from 'zod';
import { formatMinor, parseAmount } from '../core/money.js';
import { isTimeZone, localTimeIn } from '../core/time.js';
import {
  type CheckOutcome,
  type ConnectorFactory,
  type HttpRequest,
  type HttpResponse,
  type Inquiry,
  type Order,
  type PayOutcome,
  type Unknown,
  unknown,
} from './contract.js';
import { readSettings } from './settings.js';

const settingsShape = z.object({
  token: z.string().regex(/^[\x21-\x7e]{1,512}$/),
  pathPrefix: z
    .string()
    .regex(/^(?:\/[\w.~-]+)+$/)
    .max(200)
    .default('/api/v20'),
  /** In which the upstream reads `agentTransactionDate`. */
  timeZone: z.string().refine(isTimeZone).default('Asia/Almaty'),
  /** Of our account at the upstream: all amounts are in it. */
  currency: z
    .string()
    .regex(/^[A-Z]{3}$/)
    .default('KZT'),
});

const problems: Readonly<Record<string, string>> = {
  token: 'must be the token that the upstream has confirmed, at most 512 Latin characters without spaces',
  pathPrefix: 'must be a path such as /api/v20, without a slash at its end',
  timeZone: 'must be a time zone such as Asia/Almaty',
  currency: 'must be three capital letters such as KZT, the currency of our account at the upstream',
};

/** What a code proves of an inquiry and of a payment: a number is a refusal with that code. */
interface Meaning {
  readonly check: 'ok' | number | null;
  readonly pay: 'executed' | 'pending' | number | null;
}

/**
 * All codes of the protocol. A final code of a payment is its outcome for ever, a repeat included, except 202 and 215,
 * which speak of the request and not of the payment.
 */
const meanings: ReadonlyMap<string, Meaning> = new Map<string, Meaning>([
  ['0', { check: 'ok', pay: 'executed' }],
  // Being worked on, or not even taken: a repeat is the way on from both.
  ['1', { check: null, pay: 'pending' }],
  ['4', { check: 4, pay: 4 }],
  ['5', { check: 5, pay: 5 }],
  ['7', { check: 7, pay: 7 }],
  // Closed for maintenance: for ever for this number, and 8 is not a provider's to give to our agents.
  ['8', { check: 7, pay: 7 }],
  // Our catalogue names a service that the upstream has not.
  ['130', { check: 300, pay: 300 }],
  // The upstream's people look at it, and will end it.
  ['153', { check: null, pay: 'pending' }],
  // The upstream does not let us sell it.
  ['155', { check: 7, pay: 7 }],
  // A first `pay` is over by it (parsePay); with a repeat an earlier one may be on its way.
  ['202', { check: 300, pay: null }],
  // The number has other details there: a collision, or another installation on our account.
  ['215', { check: null, pay: null }],
  // Our balance there: the payment goes on when it is topped up, an inquiry may be made again.
  ['220', { check: null, pay: 'pending' }],
  ['241', { check: 241, pay: 241 }],
  ['242', { check: 242, pay: 242 }],
  // It waited for our balance there and was never executed.
  ['250', { check: null, pay: 300 }],
  // Until the upstream's tariff for us allows it, or the upstream ends it.
  ['255', { check: null, pay: 'pending' }],
  ['300', { check: 300, pay: 300 }],
]);

/** HTTP statuses that the upstream's operator or ours must do something about. */
const httpHints: ReadonlyMap<number, string> = new Map([
  [401, 'the token is not accepted'],
  [403, 'our address is not accepted, or we are blocked'],
  [404, 'there is no such path: see baseUrl and pathPrefix'],
]);

const numberLiteral = z.instanceof(LosslessNumber).transform((number) => number.value);
/** A number's literal, or a text: ids and what the contract has as strings come in both ways. */
const text = z.union([z.string(), numberLiteral]);
const id = text.refine((digits) => /^[1-9]\d{0,18}$/.test(digits));

function absentIfNull<T>(shape: z.ZodType<T>) {
  return shape.nullish().transform((value) => value ?? undefined);
}
const optionalText = absentIfNull(text);
const optionalAmount = absentIfNull(
  text.transform((literal, context) => {
    const parsed = parseAmount(literal);
    if (parsed.ok) return parsed.amountMinor;
    context.addIssue('not an amount');
    return z.NEVER;
  }),
);

/** In every answer that speaks of a payment or of an account. */
const head = z.object({
  result: numberLiteral,
  agentTransactionId: id,
  transactionId: absentIfNull(id),
});

const shown = {
  displays: absentIfNull(z.record(z.string(), text.nullish())),
  currencyRate: optionalText,
  rate: optionalText,
  finalAmount: optionalText,
  currency: optionalText,
};

const offered = z.object({
  ...shown,
  contracts: absentIfNull(
    z.array(
      z.object({
        contractId: text.refine((value) => value !== ''),
        name: optionalText,
        contractNumber: optionalText,
        contractSum: optionalText,
        contractDate: optionalText,
      }),
    ),
  ),
  invoice: absentIfNull(
    z.object({
      invoices: z.array(
        z
          .object({
            invoiceId: optionalText,
            formedDate: optionalText,
            expireDate: optionalText,
            clientName: optionalText,
            clientAddress: optionalText,
            services: z.array(
              z
                .object({
                  subServiceId: text.refine((value) => value !== ''),
                  subServiceName: text,
                  data: absentIfNull(
                    z
                      .object({
                        paySum: optionalAmount,
                        tariff: optionalAmount,
                        minSum: optionalAmount,
                        maxSum: optionalAmount,
                        debtInfo: optionalText,
                        isMeter: absentIfNull(z.boolean()),
                        prevCount: optionalText,
                        lastCount: optionalText,
                        si: optionalText,
                        comment: optionalText,
                      })
                      .transform(({ paySum, tariff, minSum, maxSum, ...line }) => ({
                        paySumMinor: paySum,
                        tariffMinor: tariff,
                        minSumMinor: minSum,
                        maxSumMinor: maxSum,
                        ...line,
                      })),
                  ),
                })
                .transform(({ data, ...line }) => ({ ...line, ...data })),
            ),
          })
          .transform(({ services, ...invoice }) => ({ ...invoice, lines: services })),
      ),
    }),
  ),
});

const signedAmount = text.transform((literal, context) => {
  const parsed = parseAmount(literal.replace(/^-/, ''));
  if (parsed.ok) return literal.startsWith('-') ? -parsed.amountMinor : parsed.amountMinor;
  context.addIssue('not an amount');
  return z.NEVER;
});

/** What may be spent there is the balance and the credit. */
const balanceTold = z
  .object({
    result: numberLiteral.refine((result) => result === '0'),
    agent: z.object({
      balance: signedAmount,
      overdraft: signedAmount,
      currency: z.string().regex(/^[A-Z]{3}$/),
    }),
  })
  .transform(({ agent: { balance, overdraft, currency } }) => ({
    amountMinor: balance + overdraft,
    currency,
  }));

const date = z.string().regex(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)?$/);
const succeeded = z.object({ ...shown, transactionDate: date, statusDate: date });

export const v20Connector: ConnectorFactory = (settings) => {
  const { token, pathPrefix, timeZone, currency } = readSettings(settingsShape, problems, settings);
  const localTime = localTimeIn(timeZone);
  /** `2026-02-17T16:48:37` */
  const dateOf = (moment: Date) => localTime(moment).slice(0, 19);

  const post = (method: 'check' | 'pay' | 'balance', members: Members): HttpRequest => ({
    method: 'POST',
    path: `${pathPrefix}/${method}`,
    headers: {
      authorization: `Bearer ${token}`,
      'content-type': 'application/json',
      accept: 'application/json',
    },
    body: object(members),
  });

  /** In the order of the contract's tables. `amountFrom` is wanted by some upstreams, and we add nothing to amountTo. */
  const common = (asked: Inquiry | Order, moment: Date): Members => {
    // The body names no currency: in another one the upstream would take the figure for its own.
    if (asked.currency !== currency) throw new Error('the order is not in the currency of our account');
    const amount = asked.amountMinor === null ? undefined : formatMinor(asked.amountMinor);
    return [
      ['serviceId', JSON.stringify(asked.serviceCode)],
      ['account', JSON.stringify(asked.account)],
      ['agentTransactionId', upstreamNumber(asked.externalId)],
      ['agentTransactionDate', JSON.stringify(dateOf(moment))],
      ['amountTo', amount],
      ['amountFrom', amount],
      ['extras', extrasText(asked.extras)],
    ];
  };

  return {
    name: 'agent-v20',
    offers: { deduplicates: true, status: false, notFoundTrustedAfterMs: null },
    plain: new Set([
      ...['result', 'transactionId', 'transactionDate', 'statusDate'],
      ...['serviceId', 'agentTransactionId', 'agentTransactionDate', 'subServiceId'],
    ]),
    buildCheck: (inquiry) => post('check', common(inquiry, new Date())),
    parseCheck,
    buildPay: (order) =>
      post('pay', [...common(order, order.acceptedAt), ['extraServices', linesText(order)]]),
    parsePay,
    balance: {
      build: () => post('balance', []),
      parse: ({ status, body }) => {
        if (status !== 200) return unknown(`HTTP ${status}`);
        try {
          const told = balanceTold.safeParse(parse(body));
          return told.success ? { kind: 'told', ...told.data } : notInWords;
        } catch {
          return unknown('the answer is not JSON');
        }
      },
    },
    buildStatus() {
      throw new Error('the protocol has no status inquiry');
    },
    parseStatus: () => unknown('the protocol has no status inquiry'),
  };
};

/** 1 … 10^18 − 1, from 128 bits of a SHA-256, so that no number is likelier than another. */
export function upstreamNumber(externalId: string): string {
  const bits = BigInt(`0x${hash('sha256', externalId, 'hex').slice(0, 32)}`);
  return String((bits % (10n ** 18n - 1n)) + 1n);
}

function parseCheck(response: HttpResponse, inquiry: Inquiry): CheckOutcome {
  const answer = read(response, inquiry.externalId);
  if ('kind' in answer) return answer;
  const { check } = answer.meaning;
  if (check === null) return unknown(`code ${answer.result}`);
  if (check !== 'ok') return { kind: 'refused', code: check, detail: `code ${answer.result}` };
  const told = offered.safeParse(answer.json);
  if (!told.success || answer.transactionId === undefined) return notInWords;
  const { contracts, invoice } = told.data;
  if (contracts && invoice) return unknown('the answer has both contracts and an invoice');
  return { kind: 'ok', displays: displaysOf(told.data), contracts, invoices: invoice?.invoices };
}

function parsePay(response: HttpResponse, order: Order): PayOutcome {
  const answer = read(response, order.externalId);
  if ('kind' in answer) return answer;
  const { result, transactionId } = answer;
  const { pay } = answer.meaning;
  if (result === '202' && !order.again) return { kind: 'refused', code: 300, detail: 'code 202' };
  if (pay === null) return unknown(`code ${result}`);
  if (transactionId === undefined) return unknown(`code ${result} without a transactionId`);
  if (pay === 'pending') return { kind: 'pending', reference: transactionId, detail: `code ${result}` };
  if (pay !== 'executed') return { kind: 'refused', code: pay, detail: `code ${result}` };
  const told = succeeded.safeParse(answer.json);
  if (!told.success) return notInWords;
  return { kind: 'executed', reference: transactionId, displays: displaysOf(told.data) };
}

interface Answer {
  readonly result: string;
  readonly meaning: Meaning;
  readonly transactionId: string | undefined;
  readonly json: unknown;
}

/** What every answer has, or why it proves nothing. The text of the answer goes nowhere. */
function read({ status, body }: HttpResponse, externalId: string): Answer | Unknown {
  if (status !== 200) {
    const hint = httpHints.get(status);
    return unknown(hint === undefined ? `HTTP ${status}` : `HTTP ${status}: ${hint}`);
  }
  let json: unknown;
  try {
    json = parse(body);
  } catch {
    return unknown('the answer is not JSON');
  }
  const parsed = head.safeParse(json);
  if (!parsed.success) return notInWords;
  const { result, agentTransactionId, transactionId } = parsed.data;
  if (agentTransactionId !== upstreamNumber(externalId))
    return unknown('the answer is about another payment');
  const meaning = meanings.get(result);
  return meaning ? { result, meaning, transactionId, json } : unknown(`code ${result.slice(0, 20)}`);
}

/** The conversion of an international service is the upstream's: our agent is shown it among the displays. */
function displaysOf(told: z.infer<z.ZodObject<typeof shown>>): Record<string, string> | undefined {
  const { displays, currencyRate, rate, finalAmount, currency } = told;
  const entries = Object.entries({ currencyRate, rate, finalAmount, currency, ...displays }).filter(
    (entry): entry is [string, string] => typeof entry[1] === 'string',
  );
  return entries.length === 0 ? undefined : Object.fromEntries(entries);
}

type Members = readonly (readonly [name: string, literal: string | undefined])[];

/** By hand, since numbers have more digits than a float holds and amounts keep their zeros. */
function object(members: Members): string {
  const written = members.filter(([, literal]) => literal !== undefined);
  return `{${written.map(([name, literal]) => `${JSON.stringify(name)}:${literal}`).join()}}`;
}

/** In the order of their names, whichever way the order has come. */
function extrasText(extras: Order['extras']): string | undefined {
  const names = Object.keys(extras).sort();
  if (names.length === 0) return undefined;
  return object(names.map((name) => [name, JSON.stringify(extras[name])]));
}

function linesText({ extraServices }: Order): string | undefined {
  const lines = extraServices?.map(({ subServiceId, amountMinor, lastCount }) =>
    object([
      ['subServiceId', JSON.stringify(subServiceId)],
      ['lastCount', lastCount === null ? undefined : JSON.stringify(lastCount)],
      ['amount', formatMinor(amountMinor)],
    ]),
  );
  return lines && `[${lines.join()}]`;
}

const notInWords = unknown("the answer is not in the protocol's words");
