/**
 * Another centre that serves the agent protocol v20, as far as money goes: its `check` and `pay`. It knows a payment by
 * the agentTransactionId that it is told; see v20-connector.ts.
 */
import { hash } from 'node:crypto';
import { LosslessNumber, parse } from 'lossless-json';
import { offers } from '../sandbox/data.js';
import type { Arrived, Asked, Words } from './simulator.js';

export const v20Words: Words = {
  name: 'agent-v20',
  deduplicates: true,
  read,
  write: (asked, state) => ({
    httpStatus: 200,
    contentType: 'application/json; charset=utf-8',
    body: print(asked, state),
  }),
  notUnderstood: { httpStatus: 400, contentType: 'text/plain', body: 'not understood' },
};

function read({ method, path, headers, body }: Arrived): Asked | null {
  const kind = /^(?:\/[\w.~-]+)*\/(check|pay)$/.exec(path)?.[1] as 'check' | 'pay' | undefined;
  const knowsUs = /^Bearer [\x21-\x7e]+$/.test(headers.authorization ?? '');
  if (method !== 'POST' || !kind || !knowsUs) return null;
  let words: Record<string, unknown>;
  try {
    words = parse(body.toString('utf8')) as Record<string, unknown>;
  } catch {
    return null;
  }
  const { serviceId, account, agentTransactionId, agentTransactionDate, amountTo } = words;
  const externalId = literal(agentTransactionId);
  const amount = literal(amountTo);
  const isWhole = /^[1-9]\d{0,17}$/.test(externalId) && typeof agentTransactionDate === 'string';
  const isPayable = kind === 'check' || /^\d+\.\d\d$/.test(amount);
  if (!isWhole || !isPayable || typeof serviceId !== 'string' || typeof account !== 'string') return null;
  return { kind, externalId, service: serviceId, account, amount };
}

/** A number as it was written; empty: it is none. */
const literal = (value: unknown) => (value instanceof LosslessNumber ? value.value : '');

interface Line {
  readonly subServiceId: string;
  readonly subServiceName: string;
}

function print({ kind, externalId, service }: Asked, state: Parameters<Words['write']>[1]): string {
  const isDone = state.status === 'ok' || state.status === 'executed';
  const result = isDone ? 0 : state.status === 'refused' ? state.code : 1;
  const now = new Date().toISOString().slice(0, -1);
  const dates = kind === 'pay' ? `,"transactionDate":"${now}","statusDate":"${now}"` : '';
  return (
    `{"result":${result},"resultMessage":"${isDone ? 'OK' : `code ${result}`}",` +
    `"transactionId":${numberOf(externalId)},"agentTransactionId":${externalId}${dates}` +
    `${state.status === 'ok' ? offered(service) : ''}}`
  );
}

/** What a check adds for the service, with the sandbox's names; the lines of an invoice as the contract has them. */
function offered(service: string): string {
  const { invoices, ...rest } = (offers.get(service) ?? {}) as {
    invoices?: readonly { services: readonly Line[] }[];
  };
  const nested = invoices?.map(({ services, ...invoice }) => ({
    ...invoice,
    services: services.map(({ subServiceId, subServiceName, ...data }) => ({
      subServiceId,
      subServiceName,
      data,
    })),
  }));
  const members = { ...rest, ...(nested && { invoice: { invoices: nested } }) };
  return Object.keys(members).length === 0 ? '' : `,${JSON.stringify(members).slice(1, -1)}`;
}

/** The centre's own number: the same at every repeat. */
function numberOf(externalId: string): string {
  return String((BigInt(`0x${hash('sha256', externalId, 'hex').slice(0, 16)}`) % 10n ** 15n) + 1n);
}
