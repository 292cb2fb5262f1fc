import { reason } from '../core/codes.js';
import { parseAmount } from '../core/money.js';
import { type CheckRequest, type ExtraService, isLonger, type PayRequest } from '../core/requests.js';
import { isObject, type Json, type JsonObject, NumberLiteral } from './json.js';

/** A request in shape, or what 202 says: the first field that is wrong. */
export type Shaped<T> =
  | { readonly ok: true; readonly request: T }
  | { readonly ok: false; readonly why: string };

type LocalTime = (moment: Date) => string;

const serviceIdLengthMax = 64;
const identityCardLengthMax = 64;
const fullNameLengthMax = 200;
const extrasMax = 64;
const extraKeyLengthMax = 64;
const extraValueLengthMax = 1000;
const extraServicesMax = 200;
const subServiceLengthMax = 64;
const agentTransactionIdMax = 9_223_372_036_854_775_807n;

/** `localTime` takes dates sent with an offset into the centre's zone. */
export function shapeCheck(body: JsonObject, localTime: LocalTime): Shaped<CheckRequest> {
  const fields = new Fields(body);
  const request = checkRequest(fields, localTime, false);
  return shaped(fields, request);
}

export function shapePay(body: JsonObject, localTime: LocalTime): Shaped<PayRequest> {
  const fields = new Fields(body);
  const check = checkRequest(fields, localTime, true);
  const amountToMinor = check.amountToMinor ?? 0n;
  const request: PayRequest = {
    ...check,
    amountToMinor,
    amountFromMinor: check.amountFromMinor ?? amountToMinor,
    extraServices: fields.extraServices(),
  };
  return shaped(fields, request);
}

export function shapeService(body: JsonObject): Shaped<string> {
  const fields = new Fields(body);
  const serviceId = fields.string('serviceId', serviceIdLengthMax, 'required');
  return shaped(fields, serviceId);
}

export function shapeOperatorByPhone(body: JsonObject): Shaped<string> {
  const fields = new Fields(body);
  const phoneNumber = fields.text('phoneNumber', Number.POSITIVE_INFINITY, 'required');
  return shaped(fields, phoneNumber);
}

/** The id to echo: 1 … 2^63−1 in plain digits, as a number or a string; null when it is anything else. */
export function readAgentTransactionId(value: Json | undefined): bigint | null {
  const digits = textOf(value);
  if (digits === null || !/^[1-9]\d{0,18}$/.test(digits)) return null;
  const id = BigInt(digits);
  return id <= agentTransactionIdMax ? id : null;
}

/** Reads in the order of the contract's tables, so that the first wrong field is the one named. */
function checkRequest(fields: Fields, localTime: LocalTime, amountRequired: boolean): CheckRequest {
  const serviceId = fields.string('serviceId', serviceIdLengthMax, 'required');
  const account = fields.text('account', Number.POSITIVE_INFINITY, 'required');
  const agentTransactionId = fields.agentTransactionId();
  const agentTransactionDate = fields.agentTransactionDate(localTime);
  const amountToMinor = fields.amount('amountTo', amountRequired);
  const amountFromMinor = fields.amount('amountFrom', false);
  if (amountToMinor !== null && amountFromMinor !== null && amountFromMinor < amountToMinor) {
    fields.refuse('field_contradicts', 'amountFrom', 'amountTo');
  }
  const identityCard = fields.text('identityCard', identityCardLengthMax) || null;
  const fullName = fields.text('fullName', fullNameLengthMax) || null;
  return {
    serviceId,
    account,
    agentTransactionId,
    agentTransactionDate,
    amountToMinor,
    amountFromMinor,
    extras: fields.extras(),
    identityCard,
    fullName,
  };
}

function shaped<T>(fields: Fields, request: T): Shaped<T> {
  return fields.why === null ? { ok: true, request } : { ok: false, why: fields.why };
}

/** Reads fields one by one and remembers what was wrong first. What it returns is of use only while `why` is null. */
class Fields {
  why: string | null = null;

  constructor(
    private readonly object: JsonObject,
    private readonly path = '',
  ) {}

  refuse(key: 'field_missing' | 'field_malformed' | 'field_contradicts', ...names: string[]): void {
    this.why ??= reason(key, ...names.map((name) => this.path + name));
  }

  /** A string, or a number as its literal text; empty counts as missing. */
  text(name: string, lengthMax: number, required?: 'required'): string {
    const value = this.object[name];
    const text = isAbsent(value) ? '' : textOf(value);
    if (text === null || isLonger(text, lengthMax)) this.refuse('field_malformed', name);
    else if (text === '' && required) this.refuse('field_missing', name);
    return text ?? '';
  }

  string(name: string, lengthMax: number, required?: 'required'): string {
    if (this.object[name] instanceof NumberLiteral) this.refuse('field_malformed', name);
    return this.text(name, lengthMax, required);
  }

  amount(name: string, required: boolean): bigint | null {
    const value = this.object[name];
    if (isAbsent(value)) {
      if (required) this.refuse('field_missing', name);
      return null;
    }
    const parsed = parseAmount(textOf(value) ?? '');
    if (parsed.ok) return parsed.amountMinor;
    this.refuse('field_malformed', name);
    return null;
  }

  agentTransactionId(): bigint {
    const value = this.object.agentTransactionId;
    const id = readAgentTransactionId(value);
    if (id === null) this.refuse(isAbsent(value) ? 'field_missing' : 'field_malformed', 'agentTransactionId');
    return id ?? 0n;
  }

  agentTransactionDate(localTime: LocalTime): string {
    const value = this.object.agentTransactionDate;
    const date = typeof value === 'string' ? readDate(value, localTime) : null;
    if (date === null)
      this.refuse(isAbsent(value) ? 'field_missing' : 'field_malformed', 'agentTransactionDate');
    return date ?? '';
  }

  /** `ev_NAME` and `NAME` are the same key. The object has no prototype, so that any key is plain data. */
  extras(): Record<string, string> {
    const extras: Record<string, string> = Object.create(null);
    const value = this.object.extras;
    if (isAbsent(value)) return extras;
    if (!isObject(value)) {
      this.refuse('field_malformed', 'extras');
      return extras;
    }
    const entries = Object.entries(value);
    if (entries.length > extrasMax) this.refuse('field_malformed', 'extras');
    for (const [name, part] of entries) {
      const key = name.startsWith('ev_') ? name.slice(3) : name;
      const text = textOf(part);
      const wrong = key === '' || isLonger(key, extraKeyLengthMax);
      if (wrong || text === null || isLonger(text, extraValueLengthMax)) {
        this.refuse('field_malformed', `extras.${name.slice(0, extraKeyLengthMax)}`);
      } else if ((extras[key] ?? text) !== text) {
        this.refuse('field_contradicts', `extras.ev_${key}`, `extras.${key}`);
      } else extras[key] = text;
    }
    return extras;
  }

  extraServices(): ExtraService[] | null {
    const value = this.object.extraServices;
    if (isAbsent(value)) return null;
    if (!Array.isArray(value) || value.length === 0 || value.length > extraServicesMax) {
      this.refuse('field_malformed', 'extraServices');
      return null;
    }
    return value.map((item: Json, index) => {
      const name = `extraServices[${index}]`;
      if (!isObject(item)) this.refuse('field_malformed', name);
      const fields = new Fields(isObject(item) ? item : {}, `${name}.`);
      const line = {
        subServiceId: fields.text('subServiceId', subServiceLengthMax, 'required'),
        amountMinor: fields.amount('amount', true) ?? 0n,
        lastCount: fields.text('lastCount', subServiceLengthMax) || null,
      };
      this.why ??= fields.why;
      return line;
    });
  }
}

function isAbsent(value: Json | undefined): value is null | undefined {
  return value === undefined || value === null;
}

function textOf(value: Json | undefined): string | null {
  if (typeof value === 'string') return value;
  return value instanceof NumberLiteral ? value.text : null;
}

const dayPattern = /(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])/;
const timePattern = /(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d/;
const offsetPattern = /Z|[+-](?:0\d|1[0-4]):[0-5]\d/;
const datePattern = new RegExp(
  `^(${dayPattern.source}T${timePattern.source})(?:\\.\\d{1,9})?(${offsetPattern.source})?$`,
);

/** To `YYYY-MM-DDThh:mm:ss`; null unless it is a real date of the years 1 to 9999. */
function readDate(text: string, localTime: LocalTime): string | null {
  const match = datePattern.exec(text);
  if (!match) return null;
  const [, stamp, year, month, day, offset] = match;
  // The calendar repeats every 400 years, and years below 100 mean other ones to Date.UTC.
  const lastDay = new Date(Date.UTC(2000 + (Number(year) % 400), Number(month), 0)).getUTCDate();
  if (Number(day) > lastDay) return null;
  const local = offset === undefined ? stamp! : localTime(new Date(stamp! + offset)).slice(0, -4);
  return local.length === 19 && !local.startsWith('0000') ? local : null;
}
