/**
 * Translates for providers of the OSMP interface: a request of parameters, an answer in XML, no status inquiry. A
 * repeat of `pay` under one `txn_id` is how it is asked what became of it.
 *
 * Executed is only `result` 0 about the `txn_id` that was sent, with a `prv_txn`: an answer to `check` has none, and a
 * provider that misread the command must not be taken for one that has paid. A refusal ends a payment only by the codes
 * that the provider vouches for (setting `fatal`), since a connector cannot see whether it is a repeat that is refused.
 */
import { z } from 'zod';
import { formatMinor, parseAmount } from '../core/money.js';
import { cutTo } from '../core/requests.js';
import { isTimeZone, localTimeIn } from '../core/time.js';
import { percentEncoder } from './charset.js';
import { checkNumber } from './check-number.js';
import {
  type CheckOutcome,
  type Connector,
  type ConnectorFactory,
  type HttpRequest,
  type HttpResponse,
  type Inquiry,
  type Order,
  type PayOutcome,
  type Unknown,
  unknown,
} from './contract.js';
import { childOf, type Element, readXml } from './xml.js';

/** What an agent may be told, by the provider's code. All others, 1, 8 and 243 among them, prove nothing. */
const refusals: ReadonlyMap<string, number> = new Map([
  ['4', 4],
  ['5', 5],
  ['7', 7],
  ['79', 7],
  ['241', 241],
  ['242', 242],
  ['300', 300],
]);

const amounts = {
  '10.45': (minor: bigint) => formatMinor(minor),
  '10,45': (minor: bigint) => formatMinor(minor).replace('.', ','),
  '1045': (minor: bigint) => minor.toString(),
} as const;

type Moment = Readonly<Record<'year' | 'month' | 'day' | 'hour' | 'minute' | 'second', string>>;
const dates = {
  YYYYMMDDHHMMSS: (at: Moment) => `${at.year}${at.month}${at.day}${at.hour}${at.minute}${at.second}`,
  ISO: (at: Moment) => `${at.year}-${at.month}-${at.day}T${at.hour}:${at.minute}:${at.second}`,
  'dd.MM.yyyy HH:mm:ss': (at: Moment) =>
    `${at.day}.${at.month}.${at.year} ${at.hour}:${at.minute}:${at.second}`,
} as const;

const path = z.string().regex(/^\/[\w\-.~!$&'()*+,;=:@/%]*$/);
const parameter = z.string().regex(/^[\w.[\]-]{1,60}$/);
const element = z.string().regex(/^[\p{L}_][\p{L}\d_.:-]{0,59}$/u);
const key = z.string().regex(/^\w{1,60}$/);
const given = z.record(parameter, z.string().max(1000)).default({});
const shown = z.record(element, key).default({});

const settingsShape = z.object({
  method: z.enum(['GET', 'POST']).default('GET'),
  path: z.union([path, z.strictObject({ check: path, pay: path })]),
  charset: z
    .string()
    .refine((name) => percentEncoder(name) !== null)
    .default('utf-8'),
  names: z
    .strictObject({
      command: parameter.nullable().default('command'),
      txn_id: parameter.default('txn_id'),
      account: parameter.default('account'),
      sum: parameter.default('sum'),
      txn_date: parameter.nullable().default('txn_date'),
      service: parameter.nullable().default(null),
    })
    .prefault({}),
  commands: z
    .strictObject({ check: z.string().min(1).default('check'), pay: z.string().min(1).default('pay') })
    .refine(({ check, pay }) => check !== pay)
    .prefault({}),
  txnId: z.enum(['transactionId', 'externalId']).default('transactionId'),
  amount: z.enum(['10.45', '10,45', '1045']).default('10.45'),
  checkSum: z
    .string()
    .regex(/^[\d.,]{1,16}$/)
    .optional(),
  date: z.enum(['YYYYMMDDHHMMSS', 'ISO', 'dd.MM.yyyy HH:mm:ss']).default('YYYYMMDDHHMMSS'),
  timeZone: z.string().refine(isTimeZone).default('Asia/Almaty'),
  parameters: given,
  secretParameters: given,
  extras: z.record(key, parameter).default({}),
  basic: z.strictObject({ login: z.string().regex(/^[^:]+$/), password: z.string() }).optional(),
  answer: z
    .strictObject({
      response: element.default('response'),
      osmp_txn_id: element.default('osmp_txn_id'),
      prv_txn: element.nullable().default('prv_txn'),
      sum: element.nullable().default('sum'),
      result: element.default('result'),
    })
    .refine((names) => isDistinct(Object.values(names)))
    .prefault({}),
  displays: z.strictObject({ check: shown, pay: shown }).prefault({}),
  fatal: z.array(z.literal([4, 5, 7, 79, 241, 242, 300])).default([4, 5, 7, 79, 241, 242]),
  fatalAgain: z.array(z.literal([4, 5, 7, 79, 241, 242, 300])).default([4, 5]),
  refusalMayHaveReference: z.boolean().default(false),
  deduplicates: z.boolean().default(true),
});
type Settings = z.infer<typeof settingsShape>;

const problems: Readonly<Record<keyof Settings, string>> = {
  method: 'must be GET or POST',
  path: 'must be a path that begins with / and has no query, or {"check": …, "pay": …} with two of them',
  charset:
    'must be utf-8 or a single-byte charset of the Encoding Standard, as windows-1251, koi8-r or ibm866',
  names: 'must be names of parameters for command, txn_id, account, sum, txn_date and service',
  commands: 'must be two different words, for check and pay',
  txnId: 'must be transactionId or externalId',
  amount: 'must be "10.45", "10,45" or "1045"',
  checkSum: 'must be an amount as the provider takes it, as "1.00"',
  date: 'must be YYYYMMDDHHMMSS, ISO or "dd.MM.yyyy HH:mm:ss"',
  timeZone: 'must be a time zone by its IANA name, as Asia/Almaty',
  parameters: 'must be names of parameters with their values, all texts',
  secretParameters: 'must be names of parameters with their values, all texts',
  extras: 'must be names of extras with the names of their parameters',
  basic: 'must be {"login": …, "password": …}, the login without a colon',
  answer: 'must be different names of elements for response, osmp_txn_id, prv_txn, sum and result',
  displays: 'must be {"check": …, "pay": …}, each names of elements or fields with the keys of displays',
  fatal: 'must be a list of codes out of 4, 5, 7, 79, 241, 242 and 300',
  fatalAgain: 'must be a list of codes out of 4, 5, 7, 79, 241, 242 and 300',
  refusalMayHaveReference: 'must be true or false',
  deduplicates: 'must be true or false',
};

export const osmpConnector: ConnectorFactory = (given) => {
  const settings = readSettings(given);
  const { names, commands, answer, charset, deduplicates } = settings;
  const encode = percentEncoder(charset)!;
  const write = amounts[settings.amount];
  const dateOf = dateWriter(settings);
  const paths =
    typeof settings.path === 'string' ? { check: settings.path, pay: settings.path } : settings.path;
  const fixed = Object.entries({ ...settings.parameters, ...settings.secretParameters });
  const extras = Object.entries(settings.extras);
  const fatal = new Set(settings.fatal.map(String));
  const fatalAgain = new Set(settings.fatalAgain.map(String));
  const headers: Record<string, string> = { accept: 'text/xml, application/xml' };
  if (settings.method === 'POST') headers['content-type'] = 'application/x-www-form-urlencoded';
  if (settings.basic) {
    const { login, password } = settings.basic;
    headers.authorization = `Basic ${Buffer.from(`${login}:${password}`).toString('base64')}`;
  }

  const numbered = settings.txnId === 'transactionId';
  const checkId = (asked: Inquiry) => (numbered ? checkNumber(asked.externalId, '9', 17) : asked.externalId);
  const payId = (asked: Order) => (numbered ? asked.transactionId.toString() : asked.externalId);

  function build(
    command: 'check' | 'pay',
    asked: Inquiry | Order,
    txnId: string,
    sum: string | null,
    txnDate: string | null,
  ): HttpRequest {
    const pairs: [string | null, string | null | undefined][] = [
      [names.command, commands[command]],
      [names.txn_id, txnId],
      [names.service, asked.serviceCode],
      [names.account, asked.account],
      [names.sum, sum],
      [names.txn_date, txnDate],
      ...extras.map(([extra, name]): [string, string | undefined] => [name, asked.extras[extra]]),
      ...fixed,
    ];
    let form = '';
    for (const [name, value] of pairs) {
      if (name === null || value === null || value === undefined) continue;
      form += `${form === '' ? '' : '&'}${encode(name)}=${encode(value)}`;
    }
    return settings.method === 'GET'
      ? { method: 'GET', path: `${paths[command]}?${form}`, headers, body: null }
      : { method: 'POST', path: paths[command], headers, body: form };
  }

  function parseCheck(response: HttpResponse, asked: Inquiry): CheckOutcome {
    const told = readAnswer(response, checkId(asked), answer);
    if ('kind' in told) return told;
    if (told.result === '0' && told.fatal !== true)
      return { kind: 'ok', displays: displaysOf(told.root, settings, 'check') };
    const code = refusals.get(told.result);
    return code === undefined || told.fatal === false
      ? unproven(told)
      : { kind: 'refused', code, detail: `result ${told.result}` };
  }

  function parsePay(response: HttpResponse, asked: Order): PayOutcome {
    const told = readAnswer(response, payId(asked), answer);
    if ('kind' in told) return told;
    const { result, reference } = told;
    const sumMinor = told.sum === null ? null : readSum(told.sum, settings);
    if (result === '0') {
      if (told.fatal === true) return unproven(told);
      if (answer.prv_txn !== null && reference === null) return unknown('result 0 without a reference');
      if (sumMinor !== null && sumMinor !== asked.amountMinor) return unknown('result 0 about another sum');
      return { kind: 'executed', reference, displays: displaysOf(told.root, settings, 'pay') };
    }
    if (result === '90') return told.fatal === true ? unproven(told) : { kind: 'pending', reference };
    const code = refusals.get(result);
    const proves = (asked.again ? fatalAgain : fatal).has(result);
    if (code === undefined || !proves || told.fatal === false) return unproven(told);
    if (reference !== null && !settings.refusalMayHaveReference)
      return unknown(`result ${result} with a reference`);
    if (sumMinor !== null && sumMinor !== 0n && sumMinor !== asked.amountMinor)
      return unknown(`result ${result} about another sum`);
    return { kind: 'refused', code, detail: `result ${result}` };
  }

  return {
    name: 'osmp',
    offers: { deduplicates, status: false, notFoundTrustedAfterMs: null },
    charset,
    plain: plainNames(settings),
    buildCheck: (inquiry) => {
      const sum = inquiry.amountMinor === null ? (settings.checkSum ?? null) : write(inquiry.amountMinor);
      return build('check', inquiry, checkId(inquiry), sum, null);
    },
    parseCheck,
    buildPay: (order) =>
      build('pay', order, payId(order), write(order.amountMinor), dateOf(order.acceptedAt)),
    parsePay,
    buildStatus: noStatus,
    parseStatus: noStatus,
  } satisfies Connector;
};

function readSettings(given: Readonly<Record<string, unknown>>): Settings {
  const parsed = settingsShape.safeParse(given);
  if (!parsed.success) {
    const at = parsed.error.issues[0]!.path;
    throw new Error(`${at.join('.')}: ${problems[at[0] as keyof Settings]}`);
  }
  const settings = parsed.data;
  const { names, parameters, secretParameters, extras } = settings;
  const sent = [
    ...Object.values(names).filter((name) => name !== null),
    ...[parameters, secretParameters].flatMap((each) => Object.keys(each)),
    ...Object.values(extras),
  ];
  if (!isDistinct(sent)) throw new Error('names: must be different, parameters and extras included');
  const { path } = settings;
  if (names.command === null && (typeof path === 'string' || path.check === path.pay))
    throw new Error('names.command: must be a name where check and pay have one path');
  return settings;
}

function isDistinct(names: readonly (string | null)[]): boolean {
  const written = names.filter((name) => name !== null);
  return new Set(written).size === written.length;
}

function dateWriter({ date, timeZone }: Settings): (at: Date) => string {
  const localTime = localTimeIn(timeZone);
  return (at) => {
    const [year, month, day, hour, minute, second] = localTime(at).split(/\D/) as [string, ...string[]];
    return dates[date]({ year, month, day, hour, minute, second } as Moment);
  };
}

interface Told {
  readonly root: Element;
  /** As written: `0`, `241`. */
  readonly result: string;
  /** Some write `<result fatal="false">`: it is not the last word. */
  readonly fatal: boolean | null;
  readonly reference: string | null;
  readonly sum: string | null;
}

const fatalWords: ReadonlyMap<string, boolean> = new Map([
  ['true', true],
  ['1', true],
  ['false', false],
  ['0', false],
]);

/** The answer in the protocol's words, or why it proves nothing. The text of the answer goes nowhere. */
function readAnswer(response: HttpResponse, txnId: string, names: Settings['answer']): Told | Unknown {
  if (response.status !== 200) return unknown(`HTTP ${response.status}`);
  const root = readXml(response.body);
  if (root?.name !== names.response) return unknown('the answer is not XML of the protocol');
  const words = new Map<string | null, string>();
  for (const name of [names.osmp_txn_id, names.result, names.prv_txn, names.sum]) {
    if (!root.children.some((child) => child.name === name)) continue;
    const child = childOf(root, name!);
    if (!child || child.children.length > 0) return unknown('the answer contradicts itself');
    words.set(name, child.text);
  }
  const told = words.get(names.osmp_txn_id);
  if (told === undefined || told === '') return unknown('the answer is about no payment');
  if (told !== txnId) return unknown('the answer is about another payment');
  const result = words.get(names.result);
  if (result === undefined || !/^\d{1,4}$/.test(result)) return unknown('the answer has no result');
  const written = childOf(root, names.result)!.attributes.fatal?.trim().toLowerCase();
  const fatal = written === undefined ? null : fatalWords.get(written);
  if (fatal === undefined) return unknown(`result ${result}, fatal in other words`);
  const reference = words.get(names.prv_txn) ?? '';
  if (reference.length > 64) return unknown(`result ${result} with a reference too long`);
  return {
    root,
    result,
    fatal,
    reference: /^0*$/.test(reference) ? null : reference,
    sum: words.get(names.sum) || null,
  };
}

/** -1: it is none, and equal to no sum that was sent. */
function readSum(text: string, { amount }: Settings): bigint {
  if (amount === '1045') return /^\d{1,15}$/.test(text) ? BigInt(text) : -1n;
  const parsed = parseAmount(text.replace(',', '.'));
  return parsed.ok ? parsed.amountMinor : -1n;
}

/**
 * By the name of an element of the answer, or of one within these, or by the `name` that such an inner one carries:
 * `<fields><field1 name="fio">`. What is there twice is not shown.
 */
function displaysOf(
  root: Element,
  settings: Settings,
  command: 'check' | 'pay',
): Readonly<Record<string, string>> | undefined {
  const wanted = Object.entries(settings.displays[command]);
  if (wanted.length === 0) return undefined;
  const inner = root.children.flatMap(({ children }) => children);
  const found: [string, string][] = [];
  for (const [name, key] of wanted) {
    const own = root.children.filter((each) => each.name === name && each.text !== '');
    const all = own.length > 0 ? own : inner.filter((each) => (each.attributes.name ?? each.name) === name);
    const text = all.length === 1 ? all[0]!.text : '';
    if (text === '') continue;
    const sumMinor = name === settings.answer.sum ? readSum(text, settings) : -1n;
    found.push([key, sumMinor < 0n ? cutTo(text, 500) : formatMinor(sumMinor)]);
  }
  return found.length === 0 ? undefined : Object.fromEntries(found);
}

function plainNames({ names, answer, parameters, secretParameters, extras }: Settings): ReadonlySet<string> {
  const masked = new Set([
    ...[names.account, ...Object.values(extras)],
    ...[parameters, secretParameters].flatMap((each) => Object.keys(each)),
  ]);
  const readable = [
    ...[names.command, names.txn_id, names.txn_date, names.service],
    ...[answer.osmp_txn_id, answer.prv_txn, answer.result, 'fatal'],
  ];
  return new Set(readable.filter((name) => name !== null).filter((name) => !masked.has(name)));
}

function noStatus(): never {
  throw new Error('the OSMP interface has no status inquiry');
}

function unproven({ result, fatal }: Told): Unknown {
  return unknown(fatal === null ? `result ${result}` : `result ${result}, fatal ${fatal}`);
}
