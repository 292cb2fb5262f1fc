/** A biller that speaks the protocol Kaspi asks of it; see kaspi-connector.ts. */
import type { Arrived, Asked, Checked, Words } from './simulator.js';

export interface KaspiBiller {
  readonly format: 'json' | 'xml';
  /** What a pay with a txn_id that was executed before is answered: 3, or 0; either has the first prv_txn. */
  readonly repeats: '3' | '0';
}

/** The biller's results by the sandbox's codes of refusal. */
const results: ReadonlyMap<number, string> = new Map([
  [5, '1'],
  [7, '2'],
]);

type State = Parameters<Words['write']>[1] | Checked;

export function kaspiWords(biller: KaspiBiller): Words {
  const print = biller.format === 'json' ? printJson : printXml;
  const contentType = biller.format === 'json' ? 'application/json' : 'application/xml';
  return {
    name: 'kaspi',
    deduplicates: true,
    read,
    write: (asked, state, again) => {
      const result = resultOf(state, again ? biller.repeats : '0');
      const prvTxn = state.status === 'executed' ? state.reference.replace(/\D/g, '') : null;
      return { httpStatus: 200, contentType, body: print(asked, result, prvTxn) };
    },
    notUnderstood: { httpStatus: 400, contentType: 'text/plain', body: 'not understood' },
  };
}

function read({ method, query }: Arrived): Asked | null {
  const kind = query.get('command');
  const externalId = query.get('txn_id') ?? '';
  const account = query.get('account') ?? '';
  const amount = query.get('sum') ?? '';
  if (method !== 'GET' || !/^\d{1,20}$/.test(externalId) || account === '') return null;
  if (kind === 'check') return { kind, externalId, service: '', account, amount };
  const whole = /^\d+\.\d\d$/.test(amount) && /^\d{14}$/.test(query.get('txn_date') ?? '');
  return kind === 'pay' && whole ? { kind, externalId, service: '', account, amount } : null;
}

function resultOf(state: State, executed: string): string {
  if (state.status === 'ok') return '0';
  if (state.status === 'executed') return executed;
  if (state.status === 'pending') return '4';
  return (state.status === 'refused' && results.get(state.code)) || '5';
}

function printJson({ kind, externalId, amount }: Asked, result: string, prvTxn: string | null): string {
  const fields = { field1: { '@name': 'Договор', '#text': '1/00-Ф' } };
  const known = kind === 'check' && result === '0';
  return (
    `{ "txn_id": "${externalId}", ${prvTxn === null ? '' : `"prv_txn": "${prvTxn}", `}"result": ${result}, ` +
    `${amount === '' ? '' : `"sum": ${amount}, `}"bin": "000000000000", "comment": "OK"` +
    `${known ? `, "fields": ${JSON.stringify(fields)}` : ''} }`
  );
}

function printXml({ kind, externalId, amount }: Asked, result: string, prvTxn: string | null): string {
  const known = kind === 'check' && result === '0';
  return (
    `<?xml version="1.0" encoding="utf-8"?><response><txn_id>${externalId}</txn_id>` +
    `${prvTxn === null ? '' : `<prv_txn>${prvTxn}</prv_txn>`}${amount === '' ? '' : `<sum>${amount}</sum>`}` +
    `<result>${result}</result><comment>OK</comment><bin>000000000000</bin>` +
    `${known ? '<fields><field1 name="Договор">1/00-Ф</field1></fields>' : ''}</response>`
  );
}
