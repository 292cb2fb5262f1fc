/** What a provider's answer makes of a payment: the one table for first answers and later inquiries. Pure. */
import { State, stateName } from '../core/states.js';
import type { Facts } from '../core/way.js';
import type { CallRecord, NotSent, PayOutcome, StatusOutcome } from '../providers/contract.js';
import { type Sealing, sealSecrets } from './seal.js';
import type { StoredShown } from './stored.js';

/**
 * Lines about a payment carry its transactionId, and the reqId of the request they belong to. `debug` is absent where
 * such lines are not kept.
 */
export interface PaymentLog {
  debug?(facts: object, message: string): void;
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}

export type Consequence =
  | {
      readonly kind: 'end';
      readonly to: typeof State.succeeded | typeof State.failed;
      readonly code: number;
      readonly reference: string | null;
      readonly displays: Readonly<Record<string, string>> | null;
      readonly secrets: Readonly<Record<string, string>> | null;
    }
  /** Nothing is proven, or the provider has not ended it: ask later. */
  | { readonly kind: 'inquire'; readonly nextMs: number; readonly acknowledged: boolean }
  /** Nothing was executed, provably: it may be sent again. */
  | { readonly kind: 'send'; readonly nextMs: number };

/**
 * Pauses between inquiries, by how many there have been: then 30 s for about an hour, so that a provider that is back
 * is asked within the minute, and after that 5 min until the provider or an operator ends it.
 */
const inquiryPausesMs = [500, 1000, 1000, 2000, 3000, 5000, 10_000];

export function pauseMs(tries: number): number {
  return inquiryPausesMs[tries] ?? (tries < 120 ? 30_000 : 300_000);
}

/**
 * `notFoundProves`: the provider's "not found" may be trusted now, since no attempt can still be on its way.
 */
export function consequenceOf(
  outcome: PayOutcome | StatusOutcome | NotSent,
  tries: number,
  notFoundProves: boolean,
): Consequence {
  switch (outcome.kind) {
    case 'executed':
      return {
        kind: 'end',
        to: State.succeeded,
        code: 0,
        reference: outcome.reference,
        displays: outcome.displays ?? null,
        secrets: outcome.secrets ?? null,
      };
    case 'refused':
      return {
        kind: 'end',
        to: State.failed,
        code: outcome.code,
        reference: null,
        displays: null,
        secrets: null,
      };
    case 'not_sent':
      return { kind: 'send', nextMs: pauseMs(tries) };
    case 'not_found':
      return notFoundProves
        ? { kind: 'send', nextMs: 0 }
        : { kind: 'inquire', nextMs: pauseMs(tries), acknowledged: false };
    case 'pending':
      return { kind: 'inquire', nextMs: pauseMs(tries), acknowledged: true };
    case 'unknown':
      return { kind: 'inquire', nextMs: pauseMs(tries), acknowledged: false };
  }
}

/** What a payment shows when the provider told more with its end; null: nothing new. */
export function shownAfter(
  { displays, secrets }: Pick<Extract<Consequence, { kind: 'end' }>, 'displays' | 'secrets'>,
  transactionId: bigint,
  before: StoredShown | null,
  sealing: Pick<Sealing, 'seal'>,
): StoredShown | null {
  if (!displays && !secrets) return null;
  return {
    ...before,
    ...(displays && { displays: { ...before?.displays, ...displays } }),
    ...(secrets && { sealed: sealSecrets(sealing, transactionId, secrets) }),
  };
}

/** A payment for the log. */
export function paymentFacts(
  transactionId: bigint,
  state: State,
  code: number,
): { transactionId: string; state: string; code: number } {
  return { transactionId: String(transactionId), state: stateName(state), code };
}

/** A call for the log: its detail stays in the payment's history, since it quotes the provider. */
export function callFacts(providerId: string, { call, outcome, httpStatus, durationMs }: CallRecord) {
  return { providerId, call, outcome, httpStatus, ms: durationMs };
}

export function callSpanFacts(providerId: string, record: CallRecord | undefined): Facts {
  return { 'tolem.provider': providerId, ...(record && { 'tolem.outcome': record.outcome }) };
}

/** The history's line of a call. */
export function callEvent(record: CallRecord): { kind: string; data: CallRecord } {
  return { kind: `provider_${record.call}`, data: record };
}
