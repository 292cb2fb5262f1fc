import { parse } from 'lossless-json';
import { reason } from '../core/codes.js';

/** A number as its literal text: no digit of it has been through a float. */
export class NumberLiteral {
  constructor(readonly text: string) {}
}

export type Json = string | boolean | null | NumberLiteral | readonly Json[] | JsonObject;
export interface JsonObject {
  readonly [key: string]: Json | undefined;
}

export type ParsedBody =
  | { readonly ok: true; readonly value: JsonObject }
  | { readonly ok: false; readonly why: string };

const depthMax = 16;
/** A leading BOM is dropped by the decoder. */
const utf8 = new TextDecoder('utf-8', { fatal: true });
const forbiddenText = /[\u0000\p{Surrogate}]/u;

const numbersAsText = {
  parseNumber: (literal: string) => new NumberLiteral(literal),
  // The first value is kept; the repetition shows in the count of keys, also when both values are equal.
  onDuplicateKey: () => undefined,
};

/**
 * Reads a request body: a JSON object in UTF-8 without repeated keys, NUL, lone surrogates or nesting deeper than 16.
 * What is wrong otherwise comes back as a reason of code 202. Source: SPEC §1.
 */
export function parseBody(bytes: Uint8Array): ParsedBody {
  let text: string;
  try {
    text = utf8.decode(bytes);
  } catch {
    return refused('body_encoding');
  }
  const shape = scan(text);
  if (shape.depth > depthMax) return refused('body_depth', String(depthMax));

  let value: unknown;
  try {
    value = parse(text, null, numbersAsText);
  } catch (error) {
    return refused('body_syntax', /position (\d+)/.exec(String(error))?.[1] ?? '0');
  }
  if (!isObject(value)) return refused('body_malformed', typeName(value));
  if (keyCount(value) !== shape.memberCount) return refused('key_repeated', repeatedKey(text));
  // NUL and lone surrogates can only come from escapes: bare, the parser and the decoder refuse them.
  if (shape.unicodeEscapes && holdsForbiddenText(value)) return refused('text_forbidden');
  return { ok: true, value };
}

export function isObject(value: unknown): value is JsonObject {
  return (
    typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof NumberLiteral)
  );
}

function refused(key: string, ...values: string[]): ParsedBody {
  return { ok: false, why: reason(key, ...values) };
}

function typeName(value: unknown): string {
  if (value === null) return 'null';
  if (value instanceof NumberLiteral) return 'number';
  return Array.isArray(value) ? 'array' : typeof value;
}

/** One pass before the recursive parser: how deep it would go, and how many members the objects have together. */
function scan(text: string): { depth: number; memberCount: number; unicodeEscapes: boolean } {
  let depth = 0;
  let depthSeen = 0;
  let memberCount = 0;
  let unicodeEscapes = false;
  let inString = false;
  for (let i = 0; i < text.length; i += 1) {
    const unit = text.charCodeAt(i);
    if (inString) {
      if (unit === 0x22) inString = false;
      else if (unit === 0x5c) {
        i += 1;
        if (text.charCodeAt(i) === 0x75) unicodeEscapes = true;
      }
    } else if (unit === 0x22) inString = true;
    else if (unit === 0x3a) memberCount += 1;
    else if (unit === 0x7b || unit === 0x5b) {
      depth += 1;
      if (depth > depthSeen) depthSeen = depth;
    } else if (unit === 0x7d || unit === 0x5d) depth -= 1;
  }
  return { depth: depthSeen, memberCount, unicodeEscapes };
}

function keyCount(value: Json | undefined): number {
  if (typeof value !== 'object' || value === null || value instanceof NumberLiteral) return 0;
  const parts = Object.values(value);
  let count = Array.isArray(value) ? 0 : parts.length;
  for (const part of parts) count += keyCount(part);
  return count;
}

function holdsForbiddenText(value: Json | undefined): boolean {
  if (typeof value === 'string') return forbiddenText.test(value);
  if (typeof value !== 'object' || value === null || value instanceof NumberLiteral) return false;
  if (Array.isArray(value)) return value.some(holdsForbiddenText);
  return Object.entries(value).some(([key, part]) => forbiddenText.test(key) || holdsForbiddenText(part));
}

/** The name of the first key given twice, at most 64 characters of it. Called only on JSON that has one. */
function repeatedKey(text: string): string {
  const open: Set<string>[] = [];
  for (const [token, quoted, colon] of text.matchAll(/("(?:[^"\\]|\\.)*")(\s*:)?|[{}]/g)) {
    if (token === '{') open.push(new Set());
    else if (token === '}') open.pop();
    else if (colon !== undefined) {
      const key = JSON.parse(quoted!) as string;
      if (open.at(-1)!.has(key)) return key.slice(0, 64);
      open.at(-1)!.add(key);
    }
  }
  throw new Error('no key is repeated in this text');
}
