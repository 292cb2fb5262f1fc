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
const numberPattern = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;

/**
 * Reads a request body: a JSON object in UTF-8 without repeated keys, NUL, lone surrogates or nesting deeper than 16.
 * What is wrong otherwise comes back as a reason of code 202. Source: SPEC §1.
 *
 * Own lines and not a library's: none at hand keeps literals and refuses a key that is repeated with an equal value,
 * and one pass makes a fifth of the garbage of parsing and checking afterwards.
 */
export function parseBody(bytes: Uint8Array): ParsedBody {
  let text: string;
  try {
    text = utf8.decode(bytes);
  } catch {
    return { ok: false, why: reason('body_encoding') };
  }
  try {
    const value = new Reader(text).whole();
    if (!isObject(value)) throw new Refused('body_malformed', typeName(value));
    return { ok: true, value };
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return { ok: false, why: reason(error.key, ...error.values) };
  }
}

export function isObject(value: unknown): value is JsonObject {
  return (
    typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof NumberLiteral)
  );
}

function typeName(value: Json): string {
  if (value === null) return 'null';
  if (value instanceof NumberLiteral) return 'number';
  return Array.isArray(value) ? 'array' : typeof value;
}

/** Not an Error: nobody reads its stack, and making one costs more than the parse. */
class Refused {
  readonly values: string[];

  constructor(
    readonly key: string,
    ...values: string[]
  ) {
    this.values = values;
  }
}

class Reader {
  private at = 0;
  private depth = 0;

  constructor(private readonly text: string) {}

  whole(): Json {
    const value = this.value();
    this.skipSpace();
    if (this.at < this.text.length) throw this.syntax();
    return value;
  }

  private value(): Json {
    this.skipSpace();
    switch (this.text.charCodeAt(this.at)) {
      case 0x22:
        return this.string();
      case 0x7b:
        return this.nested(() => this.object());
      case 0x5b:
        return this.nested(() => this.array());
      case 0x74:
        return this.word('true', true);
      case 0x66:
        return this.word('false', false);
      case 0x6e:
        return this.word('null', null);
      default:
        return this.number();
    }
  }

  private nested<T>(read: () => T): T {
    this.depth += 1;
    if (this.depth > depthMax) throw new Refused('body_depth', String(depthMax));
    this.at += 1;
    const value = read();
    this.depth -= 1;
    return value;
  }

  private object(): JsonObject {
    const object: Record<string, Json> = {};
    this.skipSpace();
    if (this.take(0x7d)) return object;
    for (;;) {
      this.skipSpace();
      if (this.text.charCodeAt(this.at) !== 0x22) throw this.syntax();
      const key = this.string();
      if (Object.hasOwn(object, key)) throw new Refused('key_repeated', key.slice(0, 64));
      this.skipSpace();
      if (!this.take(0x3a)) throw this.syntax();
      const value = this.value();
      // By assignment this one key would set the prototype.
      if (key === '__proto__') Object.defineProperty(object, key, { value, enumerable: true });
      else object[key] = value;
      this.skipSpace();
      if (this.take(0x7d)) return object;
      if (!this.take(0x2c)) throw this.syntax();
    }
  }

  private array(): Json[] {
    const array: Json[] = [];
    this.skipSpace();
    if (this.take(0x5d)) return array;
    for (;;) {
      array.push(this.value());
      this.skipSpace();
      if (this.take(0x5d)) return array;
      if (!this.take(0x2c)) throw this.syntax();
    }
  }

  private string(): string {
    const from = this.at;
    let escaped = false;
    for (let at = from + 1; ; at += 1) {
      const unit = this.text.charCodeAt(at);
      if (unit === 0x22) {
        this.at = at + 1;
        return escaped ? this.unescaped(from) : this.text.slice(from + 1, at);
      }
      if (unit === 0x5c) {
        escaped = true;
        at += 1;
      } else if (!(unit >= 0x20)) {
        this.at = Math.min(at, this.text.length);
        throw this.syntax();
      }
    }
  }

  /** NUL and lone surrogates can only come from escapes: bare, the decoder and the reader refuse them. */
  private unescaped(from: number): string {
    let value: string;
    try {
      value = JSON.parse(this.text.slice(from, this.at)) as string;
    } catch {
      this.at = from;
      throw this.syntax();
    }
    if (forbiddenText.test(value)) throw new Refused('text_forbidden');
    return value;
  }

  private number(): NumberLiteral {
    numberPattern.lastIndex = this.at;
    const match = numberPattern.exec(this.text);
    if (!match) throw this.syntax();
    this.at += match[0].length;
    return new NumberLiteral(match[0]);
  }

  private word<T>(word: string, value: T): T {
    if (!this.text.startsWith(word, this.at)) throw this.syntax();
    this.at += word.length;
    return value;
  }

  private take(unit: number): boolean {
    if (this.text.charCodeAt(this.at) !== unit) return false;
    this.at += 1;
    return true;
  }

  private skipSpace(): void {
    for (;;) {
      const unit = this.text.charCodeAt(this.at);
      if (unit !== 0x20 && unit !== 0x0a && unit !== 0x0d && unit !== 0x09) return;
      this.at += 1;
    }
  }

  private syntax(): Refused {
    return new Refused('body_syntax', String(this.at));
  }
}
