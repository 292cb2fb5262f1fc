/**
 * What happens to payments that wait: the queue's work (send, inquire), funds that arrived, time that ran out. Every
 * function does one bounded piece and answers how much it did, so that a loop knows whether to come again at once.
 */
import type pg from 'pg';
import { type Reference, Scheme } from '../core/catalogue.js';
import { reason } from '../core/codes.js';
import { State, sourcesMask, stateName, statesMask } from '../core/states.js';
import { type Facts, type Span, type Spans, step } from '../core/way.js';
import { plainArray } from '../db/lane.js';
import type { Sender } from '../providers/contract.js';
import { orderOfRow, reroutedDetails, type WaitingRow } from './order.js';
import {
  callEvent,
  callFacts,
  callSpanFacts,
  consequenceOf,
  type PaymentLog,
  paymentFacts,
  shownAfter,
} from './outcome.js';
import type { Routing } from './routing.js';
import type { Sealing } from './seal.js';
import { open, type PaymentStore, type Settled, type Settlement } from './store.js';
import { readDetails, readShown, writeDetails } from './stored.js';

export type Db = Pick<pg.Pool, 'query'>;

export interface QueueParts {
  readonly db: Db;
  readonly storeOf: (shard: number) => PaymentStore;
  readonly sender: Sender;
  readonly routing: Routing;
  readonly reference: () => Reference;
  /** As long as a claimed payment may be worked on. */
  readonly leaseMs: () => number;
  readonly sealing: Pick<Sealing, 'seal'>;
  readonly log: PaymentLog;
  readonly spans?: Spans | undefined;
}

/**
 * Makes what dead processes were sending uncertain, so that the queue asks about it. Answers the number of payments.
 */
export async function takeExpiredLeases(db: Db, log: PaymentLog): Promise<number> {
  const { rows } = await db.query<{ payment_id: bigint }>('select * from take_expired_leases($1)', [100]);
  for (const { payment_id } of rows)
    log.debug?.({ transactionId: String(payment_id) }, 'its lease ran out; it will be asked about');
  return rows.length;
}

/** Claims up to `limit` due payments, but of providers that are busy; the caller works each with `workOne`. */
export async function claim(
  parts: QueueParts,
  limit: number,
  busy: readonly string[],
): Promise<WaitingRow[]> {
  const { rows } = await parts.db.query<WaitingRow>('select * from claim_waiting($1, $2, $3)', [
    ...[limit, parts.leaseMs(), busy],
  ]);
  return rows;
}

/** One claimed payment: ask about it, or send it, and write down what that proved. */
export function workOne(parts: QueueParts, row: WaitingRow, claimedAt: number): Promise<void> {
  const facts = { 'tolem.transaction_id': String(row.id), 'tolem.what': row.what, 'tolem.tries': row.tries };
  return step(
    parts.spans,
    'queue step',
    (span) => work(parts, row, claimedAt, span),
    () => facts,
  );
}

async function work(parts: QueueParts, row: WaitingRow, claimedAt: number, span: Span | null): Promise<void> {
  const { db, sender, log } = parts;
  const transactionId = String(row.id);
  log.debug?.({ transactionId, what: row.what, tries: row.tries }, 'claimed from the queue');
  // A request that asks by repeating proves nothing by not getting out.
  const asksByRepeating = row.what === 'send' && row.attempt_over_ms < 0n;
  // Its first way out: what waited for funds or people has not been counted for its route's day.
  if (row.what === 'send' && row.state === State.sending) parts.routing.tookRow(row, 1n);
  if (row.what === 'send' && !asksByRepeating) row = await reroute(parts, row);
  const offers = sender.offers(row.provider_id);
  const order = orderOfRow(row, asksByRepeating);

  if (row.what === 'inquire' && !offers.status) {
    // Without a status inquiry a repeat is the only question, and only where it cannot execute twice. Else an operator
    // ends it with evidence.
    const next = offers.deduplicates ? 'send' : 'inquire';
    const pause = offers.deduplicates ? 0 : 300_000;
    const event = JSON.stringify({ next, offers });
    // To be sent as a question, and not because nothing was executed.
    const attempt = offers.deduplicates ? 'acknowledged' : 'kept';
    await postpone(db, row, next, pause, attempt, 'no_status_inquiry', event);
    return;
  }

  const sendBefore = claimedAt + parts.leaseMs() - sender.callMsMax(row.provider_id) - 1000;
  const { outcome, record } = await step<Awaited<ReturnType<Sender['pay' | 'status']>>>(
    span,
    row.what === 'send' ? 'provider pay' : 'provider status',
    () =>
      row.what === 'send'
        ? sender.pay(row.provider_id, order, sendBefore)
        : sender.status(row.provider_id, order),
    (told) => callSpanFacts(row.provider_id, told?.record),
  );
  log.debug?.({ transactionId, ...callFacts(row.provider_id, record) }, 'provider called');
  const trustedAfterMs = offers.notFoundTrustedAfterMs;
  const proves = trustedAfterMs !== null && Number(row.attempt_over_ms) >= trustedAfterMs;
  const event = callEvent(record);

  // An inquiry that did not get out says nothing about the payment.
  const asked = row.what === 'inquire' && outcome.kind === 'not_sent' ? unanswered : outcome;
  const consequence = consequenceOf(asked, row.tries, proves);
  if (consequence.kind === 'end') {
    const shown = row.shown === null ? null : readShown(row.shown);
    const settlement: Settlement = {
      transactionId: row.id,
      agentId: row.agent_id,
      to: consequence.to,
      code: consequence.code,
      reason: null,
      reference: consequence.reference,
      shown: shownAfter(consequence, row.id, shown, parts.sealing),
      from: open,
      fence: row.tries,
      what: null,
      nextMs: 0,
      acknowledged: false,
      event,
      leaseId: null,
      providerId: row.provider_id,
    };
    const settled = await step(
      span,
      'settle',
      () => parts.storeOf(row.shard).settle(settlement),
      (done): Facts => (done ? { 'tolem.state': stateName(done.state), 'tolem.result': done.code } : {}),
    );
    log.debug?.(settledLine(settled), 'settled');
    if (settled.moved && settled.state === State.failed) parts.routing.tookRow(row, -1n);
    return;
  }
  const acknowledged = consequence.kind === 'inquire' && consequence.acknowledged;
  const attempt = acknowledged || asksByRepeating ? 'acknowledged' : row.what === 'send' ? 'over' : 'kept';
  await postpone(
    db,
    row,
    consequence.kind,
    consequence.nextMs,
    attempt,
    event.kind,
    JSON.stringify(event.data),
  );
  log.debug?.({ transactionId, what: consequence.kind, nextMs: consequence.nextMs }, 'postponed');
}

/**
 * Another provider for what nobody has executed, where its own does not take payments now. What was offered by one
 * provider (an invoice, contracts, a fixed amount) cannot be paid at another.
 */
async function reroute(parts: QueueParts, row: WaitingRow): Promise<WaitingRow> {
  const { db, routing, log } = parts;
  const service = parts.reference().services.get(row.service_id);
  const isOffered = service?.type !== Scheme.simple || (service.fixedPayment && row.shown !== null);
  if (!service || service.routes.length < 2 || isOffered) return row;
  if (routing.standing(row.provider_id) === 'well' && row.tries < triesBeforeAnother) return row;
  const order = readDetails(row.details);
  const amountMinor = order.orderAmountMinor ?? row.amount_to_minor;
  const route = routing.insteadOf(service, amountMinor, row.provider_id);
  if (!route) return row;
  const details = writeDetails(reroutedDetails(order, route));
  const event = JSON.stringify({ from: row.provider_id, to: route.providerId });
  const { rows } = await db.query<{ moved: boolean }>(
    'select reroute_payment($1, $2, $3, $4, $5, $6) as moved',
    [...[row.shard, row.id, row.tries, route.providerId, details, event]],
  );
  if (!rows[0]!.moved) throw new Error('the claim is no longer the newest one');
  log.debug?.({ transactionId: String(row.id), from: row.provider_id, to: route.providerId }, 'rerouted');
  const rerouted = { ...row, provider_id: route.providerId, details: JSON.parse(details) };
  routing.tookRow(row, -1n);
  routing.tookRow(rerouted, 1n);
  return rerouted;
}

/** A provider that seems well, and yet could not be sent to so many times. */
const triesBeforeAnother = 3;

function settledLine({ transactionId, state, code, moved }: Settled) {
  return { ...paymentFacts(transactionId, state, code), moved };
}

const unanswered = { kind: 'unknown', detail: 'the inquiry could not be sent' } as const;

async function postpone(
  db: Db,
  row: WaitingRow,
  what: 'send' | 'inquire',
  nextMs: number,
  attempt: 'over' | 'kept' | 'acknowledged',
  eventKind: string,
  event: string,
): Promise<void> {
  await db.query('select postpone_waiting($1, $2, $3, $4, $5, $6, $7, $8)', [
    row.shard,
    row.id,
    row.tries,
    what,
    nextMs,
    attempt,
    eventKind,
    event,
  ]);
}

/** Moves on what funds now reach, oldest first. Answers the number of payments moved. */
export async function resumeFunded(db: Db, log: PaymentLog): Promise<number> {
  // The oldest first, skipping what does not fit: a large payment does not keep small ones waiting. The function judges
  // again under the lock.
  const waiting = await db.query<{
    payment_id: bigint;
    agent_id: bigint;
    shard: number;
    next_state: State;
    need: bigint;
    funds: bigint;
  }>(`
    select w.payment_id, w.agent_id, w.shard, w.next_state, p.amount_to_minor + p.fee_minor as need,
      b.available_minor + b.credit_limit_minor as funds
    from agent_balances b
    cross join lateral (
      select * from waiting w where w.agent_id = b.agent_id and w.shard = b.shard and w.what = 'funds'
      order by w.since, w.payment_id limit 500
    ) w
    join payments p on p.id = w.payment_id and p.shard = w.shard
    where b.agent_id in (select agent_id from waiting where what = 'funds')
      and b.available_minor + b.credit_limit_minor > 0
    order by w.agent_id, w.since, w.payment_id`);
  const left = new Map<bigint, bigint>();
  const byShard = new Map<number, typeof waiting.rows>();
  for (const row of waiting.rows) {
    const funds = left.get(row.agent_id) ?? row.funds;
    const fits = row.need <= funds;
    left.set(row.agent_id, fits ? funds - row.need : funds);
    if (fits) byShard.set(row.shard, [...(byShard.get(row.shard) ?? []), row]);
  }
  let moved = 0;
  for (const [shard, rows] of byShard) {
    const result = await db.query<{ id: bigint; state: State; code: number }>(
      'select * from resume_payments($1, $2, $3, $4, $5, $6, $7)',
      [
        shard,
        plainArray(rows.map((row) => row.payment_id)),
        plainArray(rows.map((row) => row.agent_id)),
        plainArray(rows.map(() => statesMask(State.awaitingFunds))),
        plainArray(rows.map((row) => row.next_state)),
        'funded',
        '{}',
      ],
    );
    for (const { id, state, code } of result.rows)
      log.debug?.(paymentFacts(id, state, code), 'funds arrived');
    moved += result.rows.length;
  }
  return moved;
}

/** Ends what waited too long: 220 becomes 250, 255 becomes 300. Nothing of it was ever sent. Answers how many. */
export async function expire(
  db: Db,
  storeOf: (shard: number) => PaymentStore,
  waitMs: number,
  log: PaymentLog,
): Promise<number> {
  const { rows } = await db.query<{
    payment_id: bigint;
    shard: number;
    agent_id: bigint;
    what: 'funds' | 'terms';
    provider_id: string | null;
  }>(
    `select w.payment_id, w.shard, w.agent_id, w.what, p.provider_id
     from waiting w join payments p on p.id = w.payment_id and p.shard = w.shard
     where what in ('funds', 'terms') and since < now() - $1 * interval '1 ms'
     order by since limit 200`,
    [waitMs],
  );
  const ended = await Promise.all(
    rows.map((row) =>
      storeOf(row.shard).settle({
        ...ending,
        transactionId: row.payment_id,
        agentId: row.agent_id,
        code: row.what === 'funds' ? 250 : 300,
        reason: row.what === 'funds' ? null : reason('terms_not_met'),
        from: [row.what === 'funds' ? State.awaitingFunds : State.awaitingTerms],
        event: { kind: 'expired', data: { waited: row.what, waitMs } },
        providerId: row.provider_id,
      }),
    ),
  );
  for (const each of ended) log.debug?.(settledLine(each), 'waited too long');
  return ended.filter((each) => each.moved).length;
}

/** The parts of a settlement that a decision without a provider call leaves empty. */
const ending: Omit<
  Settlement,
  'transactionId' | 'agentId' | 'code' | 'reason' | 'from' | 'event' | 'providerId'
> = {
  to: State.failed,
  reference: null,
  shown: null,
  fence: null,
  what: null,
  nextMs: 0,
  acknowledged: false,
  leaseId: null,
};

/** Moves a payment of a 255 whose terms are met now; funds are judged anew. */
export async function resumeTerms(
  db: Db,
  shard: number,
  id: bigint,
  agentId: bigint,
  to: State,
): Promise<void> {
  await db.query('select * from resume_payments($1, $2, $3, $4, $5, $6, $7)', [
    shard,
    plainArray([id]),
    plainArray([agentId]),
    plainArray([statesMask(State.awaitingTerms) & sourcesMask(to)]),
    plainArray([to]),
    'terms_met',
    '{}',
  ]);
}

/** Forgets inquiries older than `keepMs`: their quote is long over and no pay came. Answers how many. */
export async function purgeQuotes(db: Db, keepMs: number): Promise<number> {
  const result = await db.query(
    `delete from quotes where ctid = any (array(
       select ctid from quotes where created_at < now() - $1 * interval '1 ms' limit 1000))`,
    [keepMs],
  );
  return result.rowCount ?? 0;
}

/** Has the tables of payments' stories ready, this month's and the next three. Answers how many it made. */
export async function makeEventMonths(db: Db): Promise<number> {
  const { rows } = await db.query<{ made: number }>('select make_event_months(3) as made');
  return rows[0]!.made;
}
