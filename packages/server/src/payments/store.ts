/**
 * The SQL of the way of a payment: four lanes, each one statement of `sql/`. What they return is what is committed.
 */
import type pg from 'pg';
import type { Offer } from '../core/requests.js';
import { State, sourcesMask, stateFacts, states, statesMask } from '../core/states.js';
import {
  Lane,
  LaneBroken,
  type LaneClient,
  type LaneWatch,
  patienceMs,
  plainArray,
  textArray,
} from '../db/lane.js';
import { readOffer, readShown, type StoredShown, writeOffer, writeShown } from './stored.js';

/** A payment to be claimed, as decided. Amounts in minor units of `currency`. */
export interface NewPayment {
  readonly agentId: bigint;
  readonly agentTransactionId: bigint;
  readonly state: State;
  readonly code: number;
  readonly serviceId: string;
  readonly providerId: string | null;
  readonly account: string;
  readonly amountToMinor: bigint;
  readonly amountFromMinor: bigint;
  readonly feeMinor: bigint;
  readonly rewardMinor: bigint;
  readonly currency: string;
  /** Hash of the payment's words, as a UUID. */
  readonly fingerprint: string;
  readonly agentDate: string;
  readonly reason: string | null;
  /** JSON text of what the order needs beyond the columns. */
  readonly details: string | null;
  readonly shown: StoredShown | null;
  /** Encrypted identityCard and fullName, base64. */
  readonly identity: string | null;
}

/** A payment as it stands in the database. */
export interface StoredPayment {
  readonly transactionId: bigint;
  readonly state: State;
  readonly code: number;
  readonly fingerprint: string;
  readonly reason: string | null;
  readonly acceptedAt: Date;
  readonly finalAt: Date | null;
  readonly shown: StoredShown | null;
}

export interface Claimed extends StoredPayment {
  /** False: the id was taken before; the payment is the one that took it. */
  readonly fresh: boolean;
  readonly leaseId: bigint | null;
}

/** Where an outcome takes a payment. */
export interface Settlement {
  readonly transactionId: bigint;
  readonly agentId: bigint;
  readonly to: typeof State.succeeded | typeof State.failed | typeof State.uncertain;
  readonly code: number;
  readonly reason: string | null;
  readonly reference: string | null;
  /** Replaces what the payment shows, where the provider told something new with success. */
  readonly shown: StoredShown | null;
  /** The states it may come from; all of them hold money or none does. */
  readonly from: readonly State[];
  /** Claims of the waiting row the sender knows of; null: an outcome that needs no fence. */
  readonly fence: number | null;
  /** For uncertain: the next step and when. */
  readonly what: 'send' | 'inquire' | null;
  readonly nextMs: number;
  /** The provider took the payment: a later "not found" proves nothing. */
  readonly acknowledged: boolean;
  readonly event: { readonly kind: string; readonly data: unknown } | null;
  readonly leaseId: bigint | null;
  /** Whose payment it is, for those who watch. */
  readonly providerId: string | null;
}

export interface Settled extends StoredPayment {
  readonly moved: boolean;
}

export interface Found {
  readonly payment: StoredPayment | null;
  readonly quote: {
    readonly transactionId: bigint;
    readonly inputs: string;
    readonly offer: Offer | null;
    readonly rateE10: bigint | null;
    readonly fresh: boolean;
  } | null;
}

export interface NewQuote {
  readonly agentId: bigint;
  readonly agentTransactionId: bigint;
  /** Hash of the inquiry's words, as a UUID. */
  readonly inputs: string;
  /** Null: the inquiry gave nothing to pay by; only the transactionId is kept. */
  readonly offer: Offer | null;
  readonly rateE10: bigint | null;
  readonly ttlMs: number;
}

export interface Quoted {
  readonly transactionId: bigint;
  readonly fundsMinor: bigint;
}

interface Key {
  readonly agentId: bigint;
  readonly agentTransactionId: bigint;
}

const keyOf = (item: Key) => `${item.agentId}/${item.agentTransactionId}`;

/**
 * A commit is acknowledged when a synchronous standby has it. It can be seen before that: after a crash of the
 * server, or when its wait was cancelled. What was only read and is told to agents therefore leaves a mark in the log,
 * for whose commit PostgreSQL waits likewise.
 */
const onStandbyToo = (read: string) =>
  `case when ${read} and current_setting('synchronous_standby_names') <> '' then pg_logical_emit_message(true, 'tolem', '') end`;

/**
 * As tell_unmoved() judges it, but for what only references show. A reversed payment agrees with either: it was
 * executed, and taken back.
 */
function contradicts(to: Settlement['to'], state: State): boolean {
  if (to === State.failed) return state === State.succeeded;
  const agrees: readonly State[] = [...open, State.succeeded, State.reversed];
  return to === State.succeeded && !agrees.includes(state);
}

/** How long an outcome is offered to a database that is away. */
const settleMsMax = 60_000;

export interface StoreOptions {
  readonly connection: pg.ClientConfig;
  readonly shard: number;
  /** This process, as a UUID. */
  readonly worker: string;
  /** As long as anything accepted now may be worked on by this process. */
  readonly leaseMs: () => number;
  readonly batchMax: number;
  /** How long a request waits for a lost database. */
  readonly waitMsMax: number;
  readonly watch?: LaneWatch | undefined;
  /** Told that a session was lost: what was committed may be gone, by a standby that did not have it or a restore. */
  readonly onLost?: (() => void) | undefined;
  /** Told of a provider's word that contradicts what the payment is already. */
  readonly onContradiction?: (() => void) | undefined;
  /** Told of every payment that comes to its final code; no provider: it was refused before one was chosen. */
  readonly onEnded?: ((providerId: string | null, code: number) => void) | undefined;
}

export class PaymentStore {
  private readonly accepts: Lane<NewPayment, Claimed>;
  private readonly settles: Lane<Settlement, Settled>;
  private readonly finds: Lane<Key, Found>;
  private readonly quotes: Lane<NewQuote, Quoted>;
  private readonly balances: Lane<bigint, Balance | null>;
  /** Payments of each lease whose outcome is not committed yet. */
  private readonly leases = new Map<bigint, number>();

  constructor(private readonly options: StoreOptions) {
    const { connection, batchMax, waitMsMax, watch, onLost } = options;
    const common = { connection, batchMax, waitMsMax, watch, onLost };
    this.accepts = new Lane<NewPayment, Claimed>({
      ...common,
      name: 'accept',
      keyOf,
      write: (client, batch) => this.writeAccepts(client, batch),
    });
    this.settles = new Lane({
      ...common,
      name: 'settle',
      keyOf: (item: Settlement) => String(item.transactionId),
      write: (client, batch) => this.writeSettlements(client, batch),
    });
    this.finds = new Lane({
      ...common,
      patienceMs,
      name: 'find',
      write: (client, batch) => this.readFound(client, batch),
    });
    this.quotes = new Lane<NewQuote, Quoted>({
      ...common,
      patienceMs,
      name: 'quote',
      keyOf,
      write: (client, batch) => this.writeQuotes(client, batch),
    });
    this.balances = new Lane({
      ...common,
      patienceMs,
      name: 'balance',
      write: (client, batch) => this.readBalances(client, batch),
    });
  }

  /** Commit 1. Claims the id or answers with the payment that holds it. */
  accept(payment: NewPayment): Promise<Claimed> {
    return this.accepts.submit(payment);
  }

  /** Commit 2. Answers with the payment as it is afterwards, moved or not. */
  settle(settlement: Settlement): Promise<Settled> {
    const { holds } = stateFacts[settlement.from[0]!];
    if (!settlement.from.every((state) => stateFacts[state].holds === holds))
      throw new Error('a settlement may not mix states that hold money with states that do not');
    const until = performance.now() + settleMsMax;
    return this.settles
      .submit(settlement)
      .catch((error: unknown) => this.settleAgain(settlement, error, until));
  }

  /**
   * The same outcome may be written twice: the second time moves nothing. What is not written in time is left to the
   * lease, whose row must then outlive the batch's other payments.
   */
  private async settleAgain(settlement: Settlement, cause: unknown, until: number): Promise<Settled> {
    let error = cause;
    while (error instanceof LaneBroken && performance.now() < until) {
      await new Promise((done) => setTimeout(done, 50));
      try {
        return await this.settles.submit(settlement);
      } catch (next) {
        error = next;
      }
    }
    if (settlement.leaseId !== null) this.leases.delete(settlement.leaseId);
    throw error;
  }

  /** How long both commits of one more payment would take; what is accepted before it is to be settled too. */
  get expectedMs(): number {
    const accepting = this.accepts.load;
    return this.accepts.expectedMs(accepting) + this.settles.expectedMs(this.settles.load + accepting);
  }

  find(agentId: bigint, agentTransactionId: bigint): Promise<Found> {
    return this.finds.submit({ agentId, agentTransactionId });
  }

  quote(quote: NewQuote): Promise<Quoted> {
    return this.quotes.submit(quote);
  }

  balance(agentId: bigint): Promise<Balance | null> {
    return this.balances.submit(agentId);
  }

  /** What each lane has to write now. */
  lanes(): { readonly lane: string; readonly waiting: number; readonly oldestMs: number }[] {
    const { accepts: accept, settles: settle, finds: find, quotes: quote, balances: balance } = this;
    return Object.entries({ accept, settle, find, quote, balance }).map(([lane, { waiting, oldestMs }]) => ({
      lane,
      waiting,
      oldestMs,
    }));
  }

  /** Batches written so far by lane, for the bench. */
  sizes(): Record<string, { batches: number; items: number; largest: number }> {
    return {
      accept: { ...this.accepts.sizes },
      settle: { ...this.settles.sizes },
      find: { ...this.finds.sizes },
      quote: { ...this.quotes.sizes },
    };
  }

  async close(): Promise<void> {
    await Promise.all([this.finds, this.quotes, this.balances, this.accepts].map((lane) => lane.close()));
    await this.settles.close();
  }

  private async writeAccepts(client: LaneClient, batch: NewPayment[]): Promise<Claimed[]> {
    const { shard, worker, leaseMs, onEnded } = this.options;
    const result = await client.query<{
      n: bigint;
      fresh: boolean;
      id: bigint;
      state: State;
      code: number;
      fingerprint: string;
      reason: string | null;
      accepted_at: Date;
      final_at: Date | null;
      shown: string | null;
      lease_id: bigint | null;
    }>({
      name: 'accept',
      text: 'select * from accept_payments($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,$21)',
      values: [
        shard,
        worker,
        leaseMs(),
        plainArray(batch.map((each) => each.agentId)),
        plainArray(batch.map((each) => each.agentTransactionId)),
        plainArray(batch.map((each) => each.state)),
        plainArray(batch.map((each) => each.code)),
        textArray(batch.map((each) => each.serviceId)),
        textArray(batch.map((each) => each.providerId)),
        textArray(batch.map((each) => each.account)),
        plainArray(batch.map((each) => each.amountToMinor)),
        plainArray(batch.map((each) => each.amountFromMinor)),
        plainArray(batch.map((each) => each.feeMinor)),
        plainArray(batch.map((each) => each.rewardMinor)),
        textArray(batch.map((each) => each.currency)),
        plainArray(batch.map((each) => each.fingerprint)),
        plainArray(batch.map((each) => each.agentDate)),
        textArray(batch.map((each) => each.reason)),
        textArray(batch.map((each) => each.details)),
        textArray(batch.map((each) => (each.shown ? writeShown(each.shown) : null))),
        textArray(batch.map((each) => each.identity)),
      ],
    });
    const out = new Array<Claimed>(batch.length);
    for (const row of result.rows) {
      const index = Number(row.n) - 1;
      out[index] = { ...toStored(row), fresh: row.fresh, leaseId: row.lease_id };
      if (row.fresh && stateFacts[row.state].final) onEnded?.(batch[index]!.providerId, row.code);
      if (row.lease_id !== null) this.leases.set(row.lease_id, (this.leases.get(row.lease_id) ?? 0) + 1);
    }
    return out;
  }

  private async writeSettlements(client: LaneClient, batch: Settlement[]): Promise<Settled[]> {
    const { onContradiction, onEnded } = this.options;
    const ended = new Map<bigint, number>();
    for (const { leaseId } of batch) if (leaseId !== null) ended.set(leaseId, (ended.get(leaseId) ?? 0) + 1);
    const released = [...ended]
      .filter(([leaseId, count]) => this.leases.get(leaseId) === count)
      .map(([leaseId]) => leaseId);
    const result = await client.query<{
      n: bigint;
      moved: boolean;
      id: bigint;
      state: State;
      code: number;
      fingerprint: string;
      reason: string | null;
      accepted_at: Date;
      final_at: Date | null;
      shown: string | null;
    }>({
      name: 'settle',
      text: `select *, ${onStandbyToo('not moved')}
             from settle_payments($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17)`,
      values: [
        this.options.shard,
        plainArray(batch.map((each) => each.transactionId)),
        plainArray(batch.map((each) => each.agentId)),
        plainArray(batch.map((each) => statesMask(...each.from) & sourcesMask(each.to))),
        plainArray(batch.map((each) => stateFacts[each.from[0]!].holds)),
        plainArray(batch.map((each) => each.fence)),
        plainArray(batch.map((each) => each.to)),
        plainArray(batch.map((each) => each.code)),
        textArray(batch.map((each) => each.reason)),
        textArray(batch.map((each) => each.reference)),
        textArray(batch.map((each) => (each.shown ? writeShown(each.shown) : null))),
        textArray(batch.map((each) => each.what)),
        plainArray(batch.map((each) => each.nextMs)),
        plainArray(batch.map((each) => each.acknowledged)),
        textArray(batch.map((each) => each.event?.kind ?? null)),
        textArray(batch.map((each) => (each.event ? JSON.stringify(each.event.data) : null))),
        plainArray(released),
      ],
    });
    for (const [leaseId, count] of ended) {
      const left = (this.leases.get(leaseId) ?? 0) - count;
      if (left > 0) this.leases.set(leaseId, left);
      else this.leases.delete(leaseId);
    }
    const out = new Array<Settled>(batch.length);
    for (const row of result.rows) {
      const index = Number(row.n) - 1;
      out[index] = { ...toStored(row), moved: row.moved };
      if (row.moved && stateFacts[row.state].final) onEnded?.(batch[index]!.providerId, row.code);
      if (!row.moved && contradicts(batch[index]!.to, row.state)) onContradiction?.();
    }
    return out;
  }

  private async readFound(client: LaneClient, batch: Key[]): Promise<Found[]> {
    const result = await client.query({
      name: 'find',
      text: `select i.n, p.id, p.state, p.code, p.fingerprint, p.reason, p.accepted_at, p.final_at, p.shown,
               q.transaction_id, q.inputs, q.offer, q.rate_e10, q.expires_at > now() as fresh,
               ${onStandbyToo('p.id is not null')}
             from unnest($1::bigint[], $2::bigint[]) with ordinality as i (agent_id, agent_transaction_id, n)
             left join lateral (
               select * from payments p
               where p.agent_id = i.agent_id and p.agent_transaction_id = i.agent_transaction_id and p.shard = $3 limit 1
             ) p on true
             left join lateral (
               select * from quotes q
               where q.agent_id = i.agent_id and q.agent_transaction_id = i.agent_transaction_id and q.shard = $3 limit 1
             ) q on true`,
      values: [
        plainArray(batch.map((each) => each.agentId)),
        plainArray(batch.map((each) => each.agentTransactionId)),
        this.options.shard,
      ],
    });
    const out = new Array<Found>(batch.length);
    for (const row of result.rows) {
      out[Number(row.n) - 1] = {
        payment: row.id === null ? null : toStored(row),
        quote:
          row.transaction_id === null
            ? null
            : {
                transactionId: row.transaction_id,
                inputs: row.inputs,
                offer: row.offer === null ? null : readOffer(row.offer),
                rateE10: row.rate_e10,
                fresh: row.fresh,
              },
      };
    }
    return out;
  }

  private async writeQuotes(client: LaneClient, batch: NewQuote[]): Promise<Quoted[]> {
    const result = await client.query<{ n: bigint; transaction_id: bigint; funds_minor: bigint | null }>({
      name: 'quote',
      text: 'select * from record_quotes($1,$2,$3,$4,$5,$6,$7)',
      values: [
        this.options.shard,
        plainArray(batch.map((each) => each.agentId)),
        plainArray(batch.map((each) => each.agentTransactionId)),
        plainArray(batch.map((each) => each.inputs)),
        textArray(batch.map((each) => (each.offer ? writeOffer(each.offer) : null))),
        plainArray(batch.map((each) => each.rateE10)),
        plainArray(batch.map((each) => each.ttlMs)),
      ],
    });
    const out = new Array<Quoted>(batch.length);
    for (const row of result.rows) {
      out[Number(row.n) - 1] = { transactionId: row.transaction_id, fundsMinor: row.funds_minor ?? 0n };
    }
    return out;
  }

  private async readBalances(client: LaneClient, batch: bigint[]): Promise<(Balance | null)[]> {
    const result = await client.query({
      name: 'balance',
      text: 'select * from agent_balances where agent_id = any ($1::bigint[]) and shard = $2',
      values: [plainArray([...new Set(batch)]), this.options.shard],
    });
    const byAgent = new Map<bigint, Balance>();
    for (const row of result.rows) {
      byAgent.set(row.agent_id, {
        availableMinor: row.available_minor,
        creditLimitMinor: row.credit_limit_minor,
        notificationMinor: row.notification_minor,
      });
    }
    return batch.map((agentId) => byAgent.get(agentId) ?? null);
  }
}

export interface Balance {
  readonly availableMinor: bigint;
  readonly creditLimitMinor: bigint;
  readonly notificationMinor: bigint;
}

/** The states in which the provider's word ends a payment. */
export const open: readonly State[] = states.filter((state) => stateFacts[state].code === 1);

export function toStored(row: {
  id: bigint;
  state: number;
  code: number;
  fingerprint: string;
  reason: string | null;
  accepted_at: Date;
  final_at: Date | null;
  shown: unknown;
}): StoredPayment {
  return {
    transactionId: row.id,
    state: row.state as State,
    code: row.code,
    fingerprint: row.fingerprint,
    reason: row.reason,
    acceptedAt: row.accepted_at,
    finalAt: row.final_at,
    shown: row.shown === null ? null : readShown(row.shown),
  };
}
