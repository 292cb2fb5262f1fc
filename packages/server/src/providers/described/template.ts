/** Where values go: texts and JSON with placeholders, compiled once. Pure; the moment of the request is an argument. */
import { formatMinor } from '../../core/money.js';
import { percentEncoder } from '../charset.js';
import { NotWritable, type Order } from '../contract.js';
import { Mistake, type Place, placeOf } from './shape.js';

/** What a request is made of. An inquiry has no more than the first two for certain. */
export interface Facts {
  readonly asked: Pick<Order, 'externalId' | 'serviceCode'> &
    Partial<Omit<Order, 'amountMinor'>> & { readonly amountMinor?: bigint | null };
  readonly nowMs: number;
  /** Only where a signature is made over them. */
  readonly sent?: Sent;
}

export interface Sent {
  readonly method: string;
  /** As it leaves, the path of the base URL included. */
  readonly path: string;
  /** As it leaves, without the question mark. */
  readonly query: string;
  readonly body: string;
}

/** What a template may name. */
export interface Scope {
  readonly place: Place;
  readonly values: Readonly<Record<string, string>>;
  readonly secrets: Readonly<Record<string, string>>;
  readonly signing?: boolean;
}

/** What a value is for the history: ids, codes and dates are open, all else is masked. */
export type Kind = 'open' | 'personal' | 'secret';

interface Source {
  readonly kind: Kind;
  readonly may: readonly Place[];
  read(facts: Facts): string | null;
}

const everywhere: readonly Place[] = ['check', 'pay', 'status'];
const withAccount: readonly Place[] = ['check', 'pay'];
const onlyPay: readonly Place[] = ['pay'];

const textOf = (value: unknown): string | null =>
  value === undefined || value === null ? null : String(value);

const sources: Readonly<Record<string, Source>> = {
  externalId: { kind: 'open', may: everywhere, read: ({ asked }) => asked.externalId },
  serviceCode: { kind: 'open', may: everywhere, read: ({ asked }) => asked.serviceCode },
  account: { kind: 'personal', may: withAccount, read: ({ asked }) => textOf(asked.account) },
  amount: {
    kind: 'personal',
    may: withAccount,
    read: ({ asked: { amountMinor = null } }) => (amountMinor === null ? null : formatMinor(amountMinor)),
  },
  amountMinor: { kind: 'personal', may: withAccount, read: ({ asked }) => textOf(asked.amountMinor) },
  currency: { kind: 'open', may: withAccount, read: ({ asked }) => textOf(asked.currency) },
  transactionId: { kind: 'open', may: onlyPay, read: ({ asked }) => textOf(asked.transactionId) },
};

const moments: Readonly<Record<string, { may: readonly Place[]; msOf(facts: Facts): number | null }>> = {
  acceptedAt: { may: onlyPay, msOf: ({ asked }) => asked.acceptedAt?.getTime() ?? null },
  timestamp: { may: everywhere, msOf: ({ nowMs }) => nowMs },
};

const parts: Readonly<Record<string, (sent: Sent) => string>> = {
  method: ({ method }) => method,
  path: ({ path }) => path,
  query: ({ query }) => query,
  body: ({ body }) => body,
};

export interface Slot {
  readonly name: string;
  readonly kind: Kind;
  /** Absent, it drops what it stands in. */
  readonly optional: boolean;
  read(facts: Facts): string | null;
}

export type Text = readonly (string | Slot)[];

const placeholder = /\{\{(.*?)\}\}/gs;
const inside = /^([A-Za-z]+)(?:\.([\w-]{1,64}))?(\?)?(?:\|([^|]+))?(?:\|([^|]+))?$/;

export function compileText(template: string, at: string, scope: Scope): Text {
  const text: (string | Slot)[] = [];
  let end = 0;
  for (const match of template.matchAll(placeholder)) {
    text.push(template.slice(end, match.index), slotOf(match[1]!.trim(), at, scope));
    end = match.index + match[0].length;
  }
  text.push(template.slice(end));
  if (text.some((part) => typeof part === 'string' && /\{\{|\}\}/.test(part)))
    throw new Mistake(at, 'a placeholder is not closed; write {{name}}');
  return text.filter((part) => part !== '');
}

export function slotOf(written: string, at: string, scope: Scope): Slot {
  const match = inside.exec(written);
  const [, name = '', member, question, format, offset] = match ?? [];
  const optional = question !== undefined;
  const moment = Object.hasOwn(moments, name) ? moments[name]! : null;
  const slot = (kind: Kind, read: Slot['read']): Slot => ({ name: written, kind, optional, read });

  if (format !== undefined && !moment)
    throw new Mistake(at, 'only {{acceptedAt}} and {{timestamp}} have a format');
  if (name === 'setting' && member !== undefined) {
    const secret = Object.hasOwn(scope.secrets, member);
    if (!secret && !Object.hasOwn(scope.values, member))
      throw new Mistake(
        at,
        `{{setting.${member}}} is neither in settings.values nor in settings.secrets; add it`,
      );
    const value = (secret ? scope.secrets : scope.values)[member]!;
    return slot(secret ? 'secret' : 'personal', () => value);
  }
  if (name === 'extras' && member !== undefined) {
    refuseElsewhere(withAccount);
    return slot('personal', ({ asked: { extras = {} } }) =>
      Object.hasOwn(extras, member) ? extras[member]! : null,
    );
  }
  if (member === undefined && moment) {
    refuseElsewhere(moment.may);
    const print = momentPrinter(format ?? 'iso', offset, at);
    return slot('open', (facts) => {
      const ms = moment.msOf(facts);
      return ms === null ? null : print(ms);
    });
  }
  if (member === undefined && scope.signing && Object.hasOwn(parts, name)) {
    const read = parts[name]!;
    return slot('personal', ({ sent }) => (sent ? read(sent) : null));
  }
  if (member !== undefined || !Object.hasOwn(sources, name)) {
    const known = [...Object.keys(sources), ...Object.keys(moments), 'extras.name', 'setting.name'];
    const names = [...known, ...(scope.signing ? Object.keys(parts) : [])].map((each) => `{{${each}}}`);
    throw new Mistake(at, `there is no such placeholder; write one of ${names.join(', ')}`);
  }
  const source = sources[name]!;
  refuseElsewhere(source.may);
  return slot(source.kind, source.read);

  function refuseElsewhere(may: readonly Place[]): void {
    if (may.includes(scope.place)) return;
    const whole = member === undefined ? name : `${name}.${member}`;
    throw new Mistake(at, `{{${whole}}} is not known in ${scope.place}, only in ${may.join(' and ')}`);
  }
}

/**
 * Null: a placeholder that may be absent is, and nothing is to stand for it. Throws NotWritable when another one is
 * absent; the message has its name and no value.
 */
export function fill(
  text: Text,
  facts: Facts,
  encode = (value: string) => value,
  absent: string | null = null,
): string | null {
  let filled = '';
  for (const part of text) {
    if (typeof part === 'string') filled += part;
    else {
      const value = valueFrom(part, facts) ?? absent;
      if (value === null) return null;
      filled += encode(value);
    }
  }
  return filled;
}

function valueFrom(slot: Slot, facts: Facts): string | null {
  const value = slot.read(facts);
  if (value === null && !slot.optional) throw new NotWritable(`{{${slot.name}}} has no value`);
  return value;
}

export const slotsOf = (text: Text): Slot[] => text.filter((part) => typeof part !== 'string');

/** All but the unreserved characters of RFC 3986. */
export const percentEncode = percentEncoder('utf-8')!;

/**
 * Throws NotWritable at what a header cannot carry unchanged: line breaks, other control characters, all that is not
 * ASCII.
 */
export function headerValue(name: string, value: string): string {
  if (!/^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/.test(value))
    throw new NotWritable(`the header ${name} cannot carry its value`);
  return value;
}

/** Null: it is dropped with the member it stands in. */
export type Piece = (facts: Facts) => string | null;

/** A JSON value with placeholders in its texts. `seen` is told of every placeholder and the member it stands in. */
export function compileJson(
  value: unknown,
  at: string,
  scope: Scope,
  seen: (member: string, slot: Slot) => void,
  member = '',
): Piece {
  if (typeof value === 'string') {
    const text = compileText(value, at, scope);
    for (const slot of slotsOf(text)) seen(member, slot);
    return (facts) => {
      const filled = fill(text, facts);
      return filled === null ? null : JSON.stringify(filled);
    };
  }
  if (Array.isArray(value)) {
    const items = value.map((each, index) => compileJson(each, placeOf(at, index), scope, seen, member));
    return (facts) => `[${present(items.map((item) => item(facts)))}]`;
  }
  if (typeof value === 'object' && value !== null) return compileObject(value, at, scope, seen, member);
  if (typeof value === 'number' && Number.isInteger(value) && !Number.isSafeInteger(value))
    throw new Mistake(
      at,
      'the number is too long to be exact; put it into settings.values and write {"$number": …}',
    );
  const literal = JSON.stringify(value);
  return () => literal;
}

function compileObject(
  value: object,
  at: string,
  scope: Scope,
  seen: (member: string, slot: Slot) => void,
  member: string,
): Piece {
  const entries = Object.entries(value);
  const special = entries.find(([name]) => name.startsWith('$'));
  if (special) {
    const [name, source] = special;
    const print = Object.hasOwn(typed, name) ? typed[name]! : null;
    if (!print || entries.length > 1 || typeof source !== 'string')
      throw new Mistake(
        at,
        'write {"$number": "amount"}, {"$integer": …} or {"$boolean": …} with one name and no braces',
      );
    const slot = slotOf(source, placeOf(at, name), scope);
    seen(member, slot);
    return (facts) => {
      const text = valueFrom(slot, facts);
      return text === null ? null : print(text, slot.name);
    };
  }
  const members = entries.map(([name, each]) => {
    const place = placeOf(at, name);
    if (/\{\{/.test(name)) throw new Mistake(place, 'placeholders stand in values, not in names');
    return [`${JSON.stringify(name)}:`, compileJson(each, place, scope, seen, name)] as const;
  });
  return (facts) =>
    `{${present(
      members.map(([name, piece]) => {
        const text = piece(facts);
        return text === null ? null : name + text;
      }),
    )}}`;
}

const present = (texts: readonly (string | null)[]) => texts.filter((each) => each !== null).join(',');

/** Digits go as they are; nothing passes through a float. */
const typed: Readonly<Record<string, (text: string, name: string) => string>> = {
  $number: (text, name) => matched(/^-?(?:0|[1-9]\d*)(?:\.\d+)?$/, text, name, 'a number'),
  $integer: (text, name) =>
    matched(/^-?(?:0|[1-9]\d*)(?:\.0+)?$/, text, name, 'a whole number').replace(/\.0+$/, ''),
  $boolean: (text, name) => matched(/^(?:true|false)$/, text, name, 'true or false'),
};

function matched(pattern: RegExp, text: string, name: string, what: string): string {
  if (!pattern.test(text)) throw new NotWritable(`the value of {{${name}}} is not ${what}`);
  return text;
}

const momentTokens = /YYYY|MM|DD|HH|mm|ss|SSS/g;

function momentPrinter(format: string, offset: string | undefined, at: string): (ms: number) => string {
  const sign = /^([+-])(0\d|1[0-4]):([0-5]\d)$/.exec(offset ?? '+00:00');
  if (!sign) throw new Mistake(at, 'the offset of a moment is written as +05:00');
  if (Object.hasOwn(plainMoments, format)) {
    if (offset !== undefined) throw new Mistake(at, `the format ${format} takes no offset`);
    return plainMoments[format]!;
  }
  if (!/^[-/.: TZ+\d]*$/.test(format.replace(momentTokens, '')) || format.search(momentTokens) < 0) {
    throw new Mistake(
      at,
      'the format of a moment is iso, unix, unixMs, or made of YYYY, MM, DD, HH, mm, ss, SSS, digits and -/.:+ TZ',
    );
  }
  const shiftMs = (Number(sign[2]) * 60 + Number(sign[3])) * (sign[1] === '-' ? -60_000 : 60_000);
  return (ms) => {
    const iso = new Date(ms + shiftMs).toISOString();
    return format.replace(momentTokens, (token) => iso.slice(...momentSlices[token]!));
  };
}

const plainMoments: Readonly<Record<string, (ms: number) => string>> = {
  iso: (ms) => new Date(ms).toISOString(),
  unix: (ms) => String(Math.floor(ms / 1000)),
  unixMs: (ms) => String(ms),
};

const momentSlices: Readonly<Record<string, readonly [number, number]>> = {
  YYYY: [0, 4],
  MM: [5, 7],
  DD: [8, 10],
  HH: [11, 13],
  mm: [14, 16],
  ss: [17, 19],
  SSS: [20, 23],
};
