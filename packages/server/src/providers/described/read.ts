/**
 * What an answer says: rules over JSON Pointers (RFC 6901), compiled once. Only a rule that names the provider's own
 * word makes a result, and only when the answer is about the payment that was asked about.
 */
import { LosslessNumber, parse } from 'lossless-json';
import { parseAmount } from '../../core/money.js';
import { cutTo } from '../../core/requests.js';
import { type HttpResponse, type Unknown, unknown } from '../contract.js';
import { type About, type AmountAt, type Expected, Mistake, placeOf, type Rule } from './shape.js';

export type Pointer = readonly string[];
type Result = Rule['then'];

export const pointerOf = (written: string): Pointer =>
  written
    .slice(1)
    .split('/')
    .map((token) => token.replaceAll('~1', '/').replaceAll('~0', '~'));

/** What stands there; undefined: nothing. */
export function valueAt(document: unknown, pointer: Pointer): unknown {
  let value = document;
  for (const token of pointer) {
    if (typeof value !== 'object' || value === null || value instanceof LosslessNumber) return undefined;
    // An array has only its items: "length" is a word of JavaScript's, and "01" of nobody's.
    if (Array.isArray(value) && !/^(?:0|[1-9]\d*)$/.test(token)) return undefined;
    if (!Object.hasOwn(value, token)) return undefined;
    value = (value as Record<string, unknown>)[token];
  }
  return value;
}

/** A text, or a number with every digit; null: neither, or nothing. */
export function textAt(document: unknown, pointer: Pointer): string | null {
  const value = valueAt(document, pointer);
  if (typeof value === 'string') return value;
  return value instanceof LosslessNumber ? value.value : null;
}

interface Call {
  readonly code: string | readonly string[];
  readonly about?: About | undefined;
  readonly outcomes: readonly Rule[];
}

/** An answer in the provider's words, about this payment. */
export interface Found<T extends Result> {
  readonly kind: 'found';
  readonly result: Exclude<T, 'unknown'>;
  readonly document: unknown;
  /** The provider's code, one of those that the description lists. */
  readonly code: string;
}

const absent = Symbol('absent');
const present = Symbol('present');
/** Undefined: an object or an array, which no description names. */
type Compared = string | boolean | null | typeof absent | typeof present | undefined;

interface Condition {
  readonly written: string;
  readonly pointer: Pointer;
  readonly values: ReadonlySet<Compared>;
}

interface Compiled<T extends Result> {
  readonly result: T;
  readonly httpStatuses: ReadonlySet<number>;
  readonly conditions: readonly Condition[];
  readonly about: Pointer | null;
  /** Where the word stands that makes the result; null: it makes none. */
  readonly word: Pointer | null;
  /** Later rules with another result that are not more general: both at once is a contradiction. */
  readonly against: Compiled<T>[];
}

export function compileReading<T extends Result>(
  call: Call & { readonly outcomes: readonly { readonly then: T }[] },
  at: string,
): (response: HttpResponse, externalId: string) => Found<T> | Unknown {
  const codes = [call.code].flat();
  const rules = call.outcomes.map((rule, index) =>
    compileRule<T>(rule as Rule & { then: T }, call.about, codes, placeOf(at, 'outcomes', index)),
  );
  rules.forEach((rule, index) => {
    for (const [before, earlier] of rules.slice(0, index).entries()) {
      if (sameResult(earlier.result, rule.result)) continue;
      if (meet(earlier, rule) && samePointers(earlier, rule)) {
        throw new Mistake(
          placeOf(at, 'outcomes', index, 'when'),
          `outcomes[${before}] takes the same answers for another result; make their values differ`,
        );
      }
      const finds = earlier.result !== 'unknown' && rule.result !== 'unknown';
      if (finds && kindOf(earlier.result) !== kindOf(rule.result) && !narrows(earlier, rule))
        earlier.against.push(rule);
    }
  });
  const httpStatuses = new Set([200, ...rules.flatMap((rule) => [...rule.httpStatuses])]);
  const codePointers = codes.map(pointerOf);

  return ({ status, body }, externalId) => {
    if (!httpStatuses.has(status)) return unknown(`HTTP ${status}`);
    const document = readJson(body);
    if (document === undefined) return unknown(status === 200 ? 'the answer is not JSON' : `HTTP ${status}`);
    const code =
      codePointers.map((pointer) => wordAt(document, pointer)).find((each) => each !== null) ?? null;
    const rule = rules.find((each) => holds(each, status, document));
    if (!rule) return unknown(shown('no rule for', status, code));
    if (rule.result === 'unknown') return unknown(shown('unknown by rule:', status, code));
    if (rule.about && valueAt(document, rule.about) !== externalId)
      return unknown('the answer is about another payment');
    if (rule.against.some((each) => holds(each, status, document)))
      return unknown('the answer contradicts itself');
    return {
      kind: 'found',
      result: rule.result as Exclude<T, 'unknown'>,
      document,
      // What is only there may be a name.
      code: rule.word ? `code ${wordAt(document, rule.word)}` : 'an answer',
    };
  };
}

function compileRule<T extends Result>(
  rule: Rule & { then: T },
  common: About | undefined,
  codes: readonly string[],
  at: string,
): Compiled<T> {
  const { httpStatus, ...rest } = rule.when;
  const written = rest as Record<string, Expected | Expected[]>;
  const httpStatuses = new Set([httpStatus ?? 200].flat());
  const conditions = Object.entries(written).map(([pointer, values]): Condition => {
    if (!/^(?:\/(?:[^~/]|~[01])*)+$/.test(pointer))
      throw new Mistake(
        placeOf(at, 'when', pointer),
        'must be a JSON Pointer such as /status, or httpStatus',
      );
    return {
      written: pointer,
      pointer: pointerOf(pointer),
      values: new Set([values].flat().map((each) => comparedOf(each, placeOf(at, 'when', pointer)))),
    };
  });
  const about = rule.about ?? common;
  const saysAt = (isSaid: (values: ReadonlySet<Compared>) => boolean) =>
    codes.find((code) => conditions.some((each) => each.written === code && isSaid(each.values)));
  const word = saysAt(isWord);
  const compiled: Compiled<T> = {
    result: rule.then,
    httpStatuses,
    conditions,
    about: typeof about === 'string' ? pointerOf(about) : null,
    word: word === undefined ? null : pointerOf(word),
    against: [],
  };
  if (rule.then === 'unknown') return compiled;
  const kind = kindOf(rule.then);
  // That an account may be paid for moves no money: where a protocol has no word for it, its answer may be the word.
  const isAnswer = kind === 'ok' && saysAt((values) => values.has(present)) !== undefined;
  if (word === undefined && !isAnswer) {
    throw new Mistake(
      placeOf(at, 'when'),
      `a rule with the result ${kind} must name the provider's own word at ${codes.join(' or ')}: ` +
        'without it an answer that says nothing would be taken for a result',
    );
  }
  for (const each of httpStatuses) {
    const problem = carriers[kind]!.may(each) ? null : carriers[kind]!.because;
    if (problem)
      throw new Mistake(placeOf(at, 'when', 'httpStatus'), `${each} cannot be ${kind}: ${problem}`);
  }
  return compiled;
}

interface Carrier {
  may(httpStatus: number): boolean;
  readonly because: string;
}

/** Not proof of anything, whatever the body says: who asks, how often, and whether in time. */
const notAboutThePayment = new Set([401, 407, 408, 425, 429]);
const answersNo: Carrier = {
  may: (each) => each === 200 || (each >= 400 && each < 500 && !notAboutThePayment.has(each)),
  because:
    'a result is only in an answer with 200 or 4xx, and not in 401, 407, 408, 425, 429, 3xx and 5xx; leave it unknown',
};
const answersYes = (...statuses: readonly number[]): Carrier => ({
  may: (each) => statuses.includes(each),
  because: `only ${statuses.join(', ')} can carry it; leave others unknown`,
});
/** 409: a repeat that is answered with what the first one came to. */
const carriers: Readonly<Record<string, Carrier>> = {
  ok: answersYes(200, 201),
  executed: answersYes(200, 201, 409),
  pending: answersYes(200, 201, 202, 409),
  refused: answersNo,
  not_found: answersNo,
};

const kindOf = (result: Result): string => (typeof result === 'string' ? result : 'refused');
const sameResult = (one: Result, other: Result) => JSON.stringify(one) === JSON.stringify(other);

const isWord = (values: ReadonlySet<Compared>) =>
  ![...values].some((each) => each === null || each === absent || each === present || each === '');

const meet = (one: Compiled<Result>, other: Compiled<Result>) =>
  [...one.httpStatuses].some((each) => other.httpStatuses.has(each)) &&
  one.conditions.every(({ written, values }) => {
    const against = other.conditions.find((each) => each.written === written);
    if (!against || values.has(present) || against.values.has(present)) return true;
    return [...values].some((each) => against.values.has(each));
  });

const narrows = (one: Compiled<Result>, other: Compiled<Result>) =>
  other.conditions.every(({ written }) => one.conditions.some((each) => each.written === written));

const samePointers = (one: Compiled<Result>, other: Compiled<Result>) =>
  narrows(one, other) && narrows(other, one);

function comparedOf(expected: Expected, at: string): Compared {
  if (typeof expected === 'number') return String(expected);
  if (typeof expected === 'string' && expected.includes('{{'))
    throw new Mistake(at, 'must be what the provider writes, as it stands: there are no placeholders here');
  if (typeof expected !== 'object' || expected === null) return expected;
  return '$absent' in expected ? absent : present;
}

const isPresent = (value: Compared) =>
  typeof value === 'boolean' || (typeof value === 'string' && value !== '');

function holds(rule: Compiled<Result>, status: number, document: unknown): boolean {
  return (
    rule.httpStatuses.has(status) &&
    rule.conditions.every(({ pointer, values }) => {
      const value = compared(valueAt(document, pointer));
      return values.has(value) || (values.has(present) && isPresent(value));
    })
  );
}

/** Texts and numbers compare by their text, true, false and null as themselves, objects and arrays not at all. */
function compared(value: unknown): Compared {
  if (value === undefined) return absent;
  if (value instanceof LosslessNumber) return value.value;
  return typeof value === 'string' || typeof value === 'boolean' || value === null ? value : undefined;
}

/** Undefined: it is not JSON, or it says two things under one name, or it is too deep to be read. */
function readJson(text: string): unknown {
  try {
    return parse(text, null, { parseNumber: (digits) => new LosslessNumber(digits) });
  } catch {
    return undefined;
  }
}

function wordAt(document: unknown, pointer: Pointer): string | null {
  const value = compared(valueAt(document, pointer));
  return typeof value === 'string' || typeof value === 'boolean' ? String(value) : null;
}

/** A code for the history: what looks like a sentence, a name or a number of someone's stays out of it. */
function shown(what: string, status: number, code: string | null): string {
  const http = status === 200 ? '' : `HTTP ${status}, `;
  if (code === null) return `${http}no code`;
  return /^[\w.:-]{1,40}$/.test(code) && !/\d{6}/.test(code)
    ? `${http}${what} code ${code}`
    : `${http}${what} a code that is not listed`;
}

/** Texts by name; what is not there is left out. Undefined: none is. */
export function textsAt(
  document: unknown,
  pointers: readonly (readonly [string, Pointer])[],
): Record<string, string> | undefined {
  const texts = pointers.flatMap(([name, pointer]) => {
    const text = textAt(document, pointer);
    return text === null ? [] : [[name, cutTo(text, displayLengthMax)] as const];
  });
  return texts.length === 0 ? undefined : Object.fromEntries(texts);
}

const displayLengthMax = 1000;

/** In minor units; null: nothing is there; undefined: what is there is not an amount. */
export function amountAt(
  document: unknown,
  pointer: Pointer,
  unit: AmountAt['unit'],
): bigint | null | undefined {
  const value = valueAt(document, pointer);
  if (value === undefined || value === null) return null;
  const text = textAt(document, pointer) ?? '';
  if (unit === 'minor') return /^\d{1,15}$/.test(text) ? BigInt(text) : undefined;
  const parsed = parseAmount(text);
  return parsed.ok ? parsed.amountMinor : undefined;
}
