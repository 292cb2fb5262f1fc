/**
 * Translates for billers that speak the protocol Kaspi asks of them: GET with `command=check` or `command=pay`, answered
 * with a `txn_id` and a `result` in JSON or XML.
 *
 * An answer counts only with the `txn_id` that was sent. An executed payment has the biller's own number besides,
 * `prv_txn`; a refusal that has one says two things at once and is unknown. So is what the table of results does not
 * list.
 *
 * `result` 3, "already paid", may be of this very payment, answered before, or of somebody else's. It is taken for our
 * own only from a biller that is known to mean that; otherwise people decide.
 *
 * `txn_id` of a payment is the centre's transactionId, the same at every attempt. A check comes before there is one, and
 * gets a number made of the external id, from 8·10¹⁵ on: no payment will ever have it, so a biller that keeps the
 * numbers it was asked with never meets it again at a pay, and it is still exact as a floating-point number.
 */
import { parse } from 'lossless-json';
import { z } from 'zod';
import { formatMinor, parseAmount } from '../core/money.js';
import { checkNumber } from './check-number.js';
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
import { childOf, type Element, readXml } from './xml.js';

const ownParameters = ['command', 'txn_id', 'txn_date', 'account', 'sum'];

const settingsShape = z.object({
  path: z
    .string()
    .regex(/^\/[\w./~%-]{0,200}$/)
    .default('/'),
  format: z.enum(['json', 'xml']).default('json'),
  /** Sent with every request besides the protocol's own. */
  parameters: z
    .record(z.string().regex(/^[\w.-]{1,64}$/), z.string().max(500))
    .refine((given) => ownParameters.every((name) => !(name in given)))
    .default({}),
  /** The display of the service by the name of the field in an answer to check, or by `sum`. */
  displays: z
    .record(z.string().min(1).max(64), z.string().min(1).max(64))
    .refine((given) => new Set(Object.values(given)).size === Object.keys(given).length)
    .default({}),
  basicAuth: z
    .strictObject({ login: z.string().regex(/^[^:]{1,200}$/), password: z.string().max(200) })
    .optional(),
  alreadyPaid: z.enum(['ours', 'unknown']).default('unknown'),
  /** Results of 5 and above, beyond what the protocol lists, that say for certain that nothing was executed. */
  fatal: z.array(z.int().min(5).max(9999)).max(100).default([]),
  repeatsAreLookedUp: z.boolean().default(false),
  deduplicates: z.boolean().default(true),
});
type Settings = z.infer<typeof settingsShape>;

const problems: Readonly<Record<string, string>> = {
  path: 'must begin with / and have neither a query nor a fragment',
  format: 'must be json or xml',
  parameters: `must be texts by name, without ${ownParameters.join(', ')}`,
  displays: 'must be names of displays by the names of fields, each display once',
  basicAuth: 'must be a login without a colon, and a password',
  alreadyPaid: 'must be ours, if 3 is only answered to a txn_id that was executed before, or unknown',
  fatal: 'must be a list of results of 5 and above',
  repeatsAreLookedUp: 'must be true, if a repeat is told what the first request was, or false',
  deduplicates: 'must be true, if a txn_id is executed at most once, or false',
};

const number = z.string().max(64);
/** The members as text, as JSON has them and as they are made of XML; those that are not listed are not read. */
const answerShape = z.object({
  txn_id: number,
  result: z.string().regex(/^\d{1,4}$/),
  prv_txn: number.nullish(),
  sum: number.nullish(),
  fields: z.unknown().optional(),
});
type Answer = z.infer<typeof answerShape>;

const fieldShape = z.object({ '#text': z.string().min(1) });

/** Codes of the agent protocol by the biller's results. */
const checkRefusals: ReadonlyMap<string, number> = new Map([
  ['1', 5],
  ['2', 7],
  ['3', 7],
  ['5', 300],
]);
const payRefusals: ReadonlyMap<string, number> = new Map([
  ['1', 5],
  ['2', 7],
]);

export const kaspiConnector: ConnectorFactory = (settings) => {
  const {
    path,
    format,
    parameters,
    displays,
    basicAuth,
    alreadyPaid,
    fatal,
    repeatsAreLookedUp,
    deduplicates,
  } = readSettings(settingsShape, problems, settings);
  const executedResults = new Set(alreadyPaid === 'ours' ? ['0', '3'] : ['0']);
  const fatalResults: ReadonlyMap<string, number> = new Map(fatal.map((result) => [String(result), 300]));
  const checkCodes = new Map([...fatalResults, ...checkRefusals]);
  const payCodes = new Map([...fatalResults, ...payRefusals]);
  const headers = {
    accept: format === 'json' ? 'application/json' : 'application/xml, text/xml',
    ...(basicAuth && {
      authorization: `Basic ${Buffer.from(`${basicAuth.login}:${basicAuth.password}`).toString('base64')}`,
    }),
  };
  const get = (words: Record<string, string>): HttpRequest => ({
    method: 'GET',
    // Not every biller reads + as a space.
    path: `${path}?${new URLSearchParams({ ...words, ...parameters }).toString().replaceAll('+', '%20')}`,
    headers,
    body: null,
  });
  return {
    name: 'kaspi',
    offers: { deduplicates, status: false, notFoundTrustedAfterMs: null },
    plain: new Set(['command', 'txn_id', 'txn_date', 'prv_txn', 'result', 'bin']),
    buildCheck: (inquiry) =>
      get({
        command: 'check',
        txn_id: checkIdOf(inquiry),
        account: inquiry.account,
        ...(inquiry.amountMinor !== null && { sum: formatMinor(inquiry.amountMinor) }),
      }),
    parseCheck: (response, inquiry) => {
      const answer = read(response, format, checkIdOf(inquiry));
      return 'kind' in answer ? answer : checkOutcome(answer, displays, checkCodes);
    },
    buildPay: (order) =>
      get({
        command: 'pay',
        txn_id: String(order.transactionId),
        txn_date: localTime(order.acceptedAt),
        account: order.account,
        sum: formatMinor(order.amountMinor),
      }),
    parsePay: (response, order) => {
      const answer = read(response, format, String(order.transactionId));
      if ('kind' in answer) return answer;
      // The bill may be closed by the very payment that is repeated.
      const proves = !order.again || repeatsAreLookedUp;
      return payOutcome(answer, order, executedResults, proves ? payCodes : new Map());
    },
    buildStatus: () => {
      throw new Error('the protocol has no status inquiry');
    },
    parseStatus: () => unknown('the protocol has no status inquiry'),
  };
};

function checkOutcome(
  answer: Answer,
  names: Settings['displays'],
  codes: ReadonlyMap<string, number>,
): CheckOutcome {
  const { result } = answer;
  const code = codes.get(result);
  if (code !== undefined) return { kind: 'refused', code, detail: `result ${result}` };
  if (result !== '0') return unknown(`result ${result}`);
  const displays = displaysOf(answer, names);
  return { kind: 'ok', ...(Object.keys(displays).length > 0 && { displays }) };
}

function payOutcome(
  answer: Answer,
  order: Order,
  executedResults: ReadonlySet<string>,
  codes: ReadonlyMap<string, number>,
): PayOutcome {
  const { result } = answer;
  if (namesAnotherSum(answer, order.amountMinor)) return unknown('the answer names another sum');
  const reference = referenceOf(answer);
  if (executedResults.has(result))
    return reference ? { kind: 'executed', reference } : unknown(`result ${result} without prv_txn`);
  if (result === '4') return { kind: 'pending', reference };
  const code = codes.get(result);
  if (code === undefined) return unknown(`result ${result}`);
  return reference
    ? unknown(`result ${result} with prv_txn`)
    : { kind: 'refused', code, detail: `result ${result}` };
}

/** Billers write 0 where they have no number. */
function referenceOf({ prv_txn }: Answer): string | null {
  return prv_txn && prv_txn !== '0' ? prv_txn : null;
}

function namesAnotherSum({ sum }: Answer, amountMinor: bigint): boolean {
  if (!sum) return false;
  const named = parseAmount(sum);
  return !named.ok || named.amountMinor !== amountMinor;
}

function displaysOf({ fields, sum }: Answer, names: Settings['displays']): Record<string, string> {
  const told = new Map(
    Object.entries(fields ?? {}).flatMap(([name, field]) => {
      const { data } = fieldShape.safeParse(field);
      return data ? [[name, data['#text']]] : [];
    }),
  );
  if (sum) told.set('sum', sum);
  return Object.fromEntries(
    Object.entries(names).flatMap(([name, display]) => (told.has(name) ? [[display, told.get(name)!]] : [])),
  );
}

const checkIdOf = ({ externalId }: Inquiry): string => checkNumber(externalId, '8', 15);

/** `YYYYMMDDhhmmss` in Kazakhstan, which has one time, UTC+5, without a summer time. */
function localTime(moment: Date): string {
  const local = new Date(moment.getTime() + 5 * 3_600_000);
  return local.toISOString().replace(/\D/g, '').slice(0, 14);
}

/** The answer in the protocol's words, or why it proves nothing. The text of the answer goes nowhere. */
function read({ status, body }: HttpResponse, format: Settings['format'], txnId: string): Answer | Unknown {
  if (status !== 200) return unknown(`HTTP ${status}`);
  const members = format === 'json' ? membersOfJson(body) : membersOfXml(body);
  if (members === null) return unknown(`the answer is not ${format === 'json' ? 'JSON' : 'XML'}`);
  const { data } = answerShape.safeParse(members);
  if (!data) return unknown("the answer is not in the protocol's words");
  return data.txn_id === txnId ? data : unknown('the answer is about another payment');
}

/** Numbers stay text: ids may be longer than a double holds. A name with two values is no JSON. */
function membersOfJson(body: string): unknown {
  try {
    return parse(body, null, (literal) => literal);
  } catch {
    return null;
  }
}

/** Members as in JSON; one that is there twice is none, and one with children no text. */
function membersOfXml(body: string): unknown {
  const root = readXml(body);
  if (root === null) return null;
  if (root.name !== 'response') return {};
  const fields = childOf(root, 'fields');
  return {
    ...(twice(root)
      ? {}
      : Object.fromEntries(root.children.filter(isText).map(({ name, text }) => [name, text]))),
    ...(fields && {
      fields: Object.fromEntries(fields.children.map(({ name, text }) => [name, { '#text': text }])),
    }),
  };
}

const isText = ({ children }: Element) => children.length === 0;
const twice = ({ children }: Element) => new Set(children.map(({ name }) => name)).size < children.length;
