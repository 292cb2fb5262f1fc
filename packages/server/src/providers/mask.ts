/**
 * A call for people's eyes: what was sent and what came, with every value masked but those whose names the connector
 * says are plain. What cannot be read by its form is told by its length alone.
 */
import { isLosslessNumber, parse, stringify } from 'lossless-json';
import type { HttpRequest, HttpResponse } from './contract.js';
import { type Element, escapeXml, readXml } from './xml.js';

const mask = '***';
const lengthMax = 2000;

/** `POST /pay?id=7&account=*** {"amount":"***"}` */
export function sentWords({ method, path, body }: HttpRequest, plain: ReadonlySet<string>): string {
  const [location, query] = splitOnce(path, '?');
  const shownPath = location.replace(/\d{6,}/g, mask);
  const shownQuery = query === null ? '' : `?${maskPairs(query, plain)}`;
  const text = body === null ? '' : ` ${maskBody(String(body), plain)}`;
  return cut(`${method} ${shownPath}${shownQuery}${text}`);
}

/** `200 {"status":"executed","fio":"***"}` */
export function receivedWords({ status, body }: HttpResponse, plain: ReadonlySet<string>): string {
  return cut(`${status} ${maskBody(body, plain)}`);
}

function maskBody(text: string, plain: ReadonlySet<string>): string {
  const first = text.trimStart()[0];
  if (first === undefined) return '(empty)';
  if (first === '{' || first === '[') return maskJson(text, plain);
  if (first === '<') {
    const root = readXml(text.trimStart());
    return root ? maskElement(root, plain) : unread(text, 'XML');
  }
  if (/^[\w.\-%+]+=[^\s]*$/.test(text)) return maskPairs(text, plain);
  return unread(text, 'a form that is known');
}

function maskJson(text: string, plain: ReadonlySet<string>): string {
  try {
    return stringify(maskValue(parse(text), '', plain)) ?? mask;
  } catch {
    return unread(text, 'JSON');
  }
}

function maskValue(value: unknown, name: string, plain: ReadonlySet<string>): unknown {
  if (Array.isArray(value)) return value.map((each) => maskValue(each, name, plain));
  if (isLosslessNumber(value)) return plain.has(name) ? value : mask;
  if (typeof value === 'object' && value !== null)
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, maskValue(each, key, plain)]));
  if (typeof value === 'string' && value !== '') return plain.has(name) ? value : mask;
  return value;
}

function maskElement({ name, attributes, children, text }: Element, plain: ReadonlySet<string>): string {
  const shown = Object.entries(attributes).map(
    ([key, value]) => ` ${key}="${plain.has(key) ? escapeXml(value) : mask}"`,
  );
  const inside = children.map((each) => maskElement(each, plain)).join('');
  const own = text === '' ? '' : plain.has(name) ? escapeXml(text) : mask;
  return `<${name}${shown.join('')}>${own}${inside}</${name}>`;
}

/** A query or the body of a form. */
function maskPairs(text: string, plain: ReadonlySet<string>): string {
  return text
    .split('&')
    .map((pair) => {
      const [name, value] = splitOnce(pair, '=');
      return value === null || value === '' || plain.has(name) ? pair : `${name}=${mask}`;
    })
    .join('&');
}

function unread(text: string, form: string): string {
  return `(${Buffer.byteLength(text)} bytes that are not ${form})`;
}

function splitOnce(text: string, by: string): [string, string | null] {
  const at = text.indexOf(by);
  return at < 0 ? [text, null] : [text.slice(0, at), text.slice(at + 1)];
}

function cut(text: string): string {
  return text.length <= lengthMax ? text : `${text.slice(0, lengthMax)}…`;
}
