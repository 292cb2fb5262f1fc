/**
 * What a provider tells of a payment by itself. It goes the way of an inquiry's answer, and proves as much:
 *
 *   executed       ends a payment that is with the provider, whoever else works on it
 *   refused        ends it only when no request of ours can still be on its way; before that the provider is told to
 *                  come again, since the refusal could be of an earlier request
 *   anything else  is written into the history and proves nothing
 *
 * What is final stays as it is; what contradicts it goes to the operators' queue by the same commit.
 */
import type { CallbackAnswer } from '../core/answers.js';
import { State, stateFacts } from '../core/states.js';
import type { CallbackRequest, Notice, Sender } from '../providers/contract.js';
import { readExternalId } from './order.js';
import { consequenceOf, type PaymentLog, shownAfter } from './outcome.js';
import type { Sealing } from './seal.js';
import { open, type PaymentStore } from './store.js';
import { readShown } from './stored.js';
import type { Db } from './waiting.js';

export interface CallbackParts {
  readonly db: Db;
  readonly storeOf: (shard: number) => PaymentStore;
  readonly sender: Sender;
  /** Null: there is no such agent. */
  readonly shardOf: (agentId: bigint) => number | null;
  readonly sealing: Pick<Sealing, 'seal'>;
  readonly log: PaymentLog;
}

interface Row {
  readonly id: bigint;
  readonly shown: unknown;
  /** Claims of its waiting row; null while its first request may be on its way, or another one. */
  readonly tries: number | null;
}

/** No claim has it: an outcome with this fence moves a payment only by proving execution. */
const noClaim = -1;

/** Answers `taken` only for what is committed. Rejects with LaneBroken, or as the pool does, without the database. */
export async function takeCallback(
  parts: CallbackParts,
  providerId: string,
  request: CallbackRequest,
): Promise<CallbackAnswer> {
  const { db, sender, log } = parts;
  const notice = sender.readCallback(providerId, request);
  if (!notice) return 'not_authentic';
  const name = readExternalId(notice.externalId);
  const shard = name && parts.shardOf(name.agentId);
  if (!name || shard === null) return 'not_known';
  const { rows } = await db.query<Row>(
    `select p.id, p.shown,
       case when w.what = 'inquire' and (w.attempt_until <= now() or w.attempt_until = 'infinity') then w.tries end as tries
     from payments p left join waiting w on w.payment_id = p.id and w.shard = p.shard
     where p.agent_id = $1 and p.agent_transaction_id = $2 and p.shard = $3 and p.provider_id = $4`,
    [name.agentId, name.agentTransactionId, shard, providerId],
  );
  const payment = rows[0];
  if (!payment) return (await tellsOfMoved(db, providerId, name, shard, notice)) ? 'taken' : 'not_known';

  const { outcome } = notice;
  const detail = 'detail' in outcome ? outcome.detail : null;
  const event = { kind: 'provider_callback', data: { call: 'callback', outcome: outcome.kind, detail } };
  const consequence = consequenceOf(outcome, 0, false);
  if (consequence.kind !== 'end') {
    await db.query('insert into payment_events (payment_id, shard, kind, data) values ($1, $2, $3, $4)', [
      payment.id,
      shard,
      event.kind,
      JSON.stringify(event.data),
    ]);
    return 'taken';
  }
  const shown = payment.shown === null ? null : readShown(payment.shown);
  const { to, code, reference } = consequence;
  const settled = await parts.storeOf(shard).settle({
    ...{ transactionId: payment.id, agentId: name.agentId, to, code, reason: null, reference },
    shown: shownAfter(consequence, payment.id, shown, parts.sealing),
    ...{ from: open, fence: payment.tries ?? noClaim, what: null, nextMs: 0, acknowledged: false },
    ...{ event, leaseId: null, providerId },
  });
  const { transactionId, state, moved } = settled;
  log.debug?.({ transactionId: String(transactionId), providerId, outcome: outcome.kind, moved }, 'told');
  // Told executed, a payment that never went to the provider is in the operators' queue: there is no more to do.
  return to === State.succeeded || stateFacts[state].final ? 'taken' : 'later';
}

/**
 * A payment that was this provider's until it was proven that it had executed nothing, and went to another one: what it
 * executed all the same is for people to see.
 */
async function tellsOfMoved(
  db: Db,
  providerId: string,
  name: { readonly agentId: bigint; readonly agentTransactionId: bigint },
  shard: number,
  { outcome }: Notice,
): Promise<boolean> {
  if (outcome.kind !== 'executed') return false;
  const detail = `from ${providerId}, where it was proven not to have been executed`;
  const told = JSON.stringify({ call: 'callback', outcome: outcome.kind, detail });
  const { rowCount } = await db.query(
    `with moved as (
       select p.id, p.shard from payments p
       where p.agent_id = $1 and p.agent_transaction_id = $2 and p.shard = $3 and exists (
         select 1 from payment_events e
         where e.payment_id = p.id and e.shard = p.shard and e.kind = 'rerouted' and e.data ->> 'from' = $4)
     ), noted as (
       insert into contradictions (payment_id, shard, kind, reference, told)
       select id, shard, 'executed_unsent', $5, $6::json from moved on conflict do nothing
     )
     select 1 from moved`,
    [name.agentId, name.agentTransactionId, shard, providerId, outcome.reference, told],
  );
  return rowCount === 1;
}
