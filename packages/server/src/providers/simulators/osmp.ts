/**
 * A provider of the OSMP interface, by GET or by POST of a form. It executes one `txn_id` once and answers a repeat of
 * `pay` as the first time. Besides what simulator.ts scripts, the end of an account spoils what is said of a payment
 * that was executed, as providers are seen to do:
 *   0070  a repeat is answered 300
 *   0071  a repeat is answered 8
 *   0072  a repeat is answered with an empty body
 *   0073  every answer is broken XML
 *   0074  every answer lacks its osmp_txn_id
 */
import type { Status } from '../sandbox/registry.js';
import { escapeXml } from '../xml.js';
import type { Answer, Arrived, Asked, Checked, Words } from './simulator.js';

export interface OsmpOptions {
  /** Of answers and of forms. A query is read as UTF-8 in any case. */
  readonly charset?: 'utf-8' | 'windows-1251';
}

export function osmpWords({ charset = 'utf-8' }: OsmpOptions = {}): Words {
  const xml = (elements: string): Answer => {
    const text = `<?xml version="1.0" encoding="${charset}"?>\n<response>${elements}</response>\n`;
    return {
      httpStatus: 200,
      contentType: `text/xml; charset=${charset}`,
      body: charset === 'utf-8' ? text : inWindows1251(text),
    };
  };

  function read({ method, query, body }: Arrived): Asked | null {
    const sent = method === 'POST' ? formOf(body, charset) : query;
    const said = (name: string) => sent.get(name) ?? '';
    const kind = said('command');
    const asked = { externalId: said('txn_id'), service: said('service'), account: said('account') };
    if (!/^[\w-]{1,40}$/.test(asked.externalId) || asked.account === '') return null;
    const amount = said('sum');
    if (kind === 'check') return { kind, ...asked, amount };
    const isWhole = /^\d+\.\d\d$/.test(amount) && /^\d{14}$/.test(said('txn_date'));
    return kind === 'pay' && isWhole ? { kind, ...asked, amount } : null;
  }

  function write(asked: Asked, state: Checked | Status, again: boolean): Answer {
    const executed = state.status === 'executed';
    const dial = executed ? asked.account.slice(-4) : '';
    if (again && dial === '0072') return { ...xml(''), body: '' };
    const result = again ? (refusedRepeats.get(dial) ?? resultOf(state)) : resultOf(state);
    const named = (name: string, text: string) => `<${name}>${escapeXml(text)}</${name}>`;
    const elements = [
      dial === '0074' ? '' : named('osmp_txn_id', asked.externalId),
      executed && result === 0 ? named('prv_txn', state.reference.slice(1)) : '',
      asked.kind === 'pay' ? named('sum', asked.amount) : '',
      named('result', String(result)),
      state.status === 'ok' ? '<fields><field1 name="balance">-12.50</field1></fields>' : '',
      named('comment', result === 0 ? 'Успешно' : 'Отказ'),
    ].join('');
    return xml(dial === '0073' ? elements.replace('</result>', '') : elements);
  }

  return { name: 'osmp', deduplicates: true, read, write, notUnderstood: xml('<result>300</result>') };
}

const refusedRepeats: ReadonlyMap<string, number> = new Map([
  ['0070', 300],
  ['0071', 8],
]);

function resultOf(state: Checked | Status): number {
  if (state.status === 'refused') return state.code;
  if (state.status === 'ok' || state.status === 'executed') return 0;
  return state.status === 'pending' ? 90 : 1;
}

function formOf(body: Buffer, charset: string): URLSearchParams {
  if (charset === 'utf-8') return new URLSearchParams(body.toString('utf8'));
  const decoder = new TextDecoder(charset);
  const unescaped = (text: string) => {
    const bytes = text.replaceAll('+', ' ').replace(/%([\dA-Fa-f]{2})/g, (_, hex) => charOf(hex));
    return decoder.decode(Buffer.from(bytes, 'latin1'));
  };
  const pairs = body.toString('latin1').split('&');
  return new URLSearchParams(
    pairs.map((pair): [string, string] => {
      const [name = '', value = ''] = pair.split('=');
      return [unescaped(name), unescaped(value)];
    }),
  );
}

function charOf(hex: string): string {
  return String.fromCharCode(Number.parseInt(hex, 16));
}

/** ASCII and the Russian letters, which is all that is said here. */
function inWindows1251(text: string): Buffer {
  return Buffer.from(
    Array.from(text, (char) => {
      const code = char.charCodeAt(0);
      return code < 128 ? code : code - 0x410 + 0xc0;
    }),
  );
}
