/**
 * What only people may do to a payment: approve or reject a review, end what the provider never told, reverse with the
 * provider's agreement. Each is one transaction with its audit row, guarded by the table of states.
 */
import type pg from 'pg';
import { changing, type Database, type Queryable, Refusal } from '../audit.js';
import { reason } from '../core/codes.js';
import { State, sourcesMask, stateFacts, stateName, statesMask } from '../core/states.js';
import { plainArray, textArray } from '../db/lane.js';
import { shownAfter } from './outcome.js';
import type { Sealing } from './seal.js';
import { open } from './store.js';
import { readShown, type StoredShown, writeShown } from './stored.js';

export interface ReviewRow {
  readonly transactionId: bigint;
  readonly agentId: bigint;
  readonly agentTransactionId: bigint;
  readonly serviceId: string;
  readonly account: string;
  readonly amountToMinor: bigint;
  readonly currency: string;
  /** The rule that held it, `security_rule|ID`. */
  readonly reason: string | null;
  readonly since: Date;
}

/** Payments held for the security service, the longest waiting first; at most 500. */
export async function listReview(db: Queryable): Promise<ReviewRow[]> {
  const { rows } = await db.query<ReviewRow>(
    `select p.id as "transactionId", p.agent_id as "agentId", p.agent_transaction_id as "agentTransactionId",
       p.service_id as "serviceId", p.account, p.amount_to_minor as "amountToMinor", p.currency, p.reason, w.since
     from waiting w join payments p on p.id = w.payment_id and p.shard = w.shard
     where w.what = 'review' order by w.since limit 500`,
  );
  return rows;
}

export interface UncertainRow extends Omit<ReviewRow, 'reason'> {
  readonly providerId: string;
  readonly what: 'send' | 'inquire';
  readonly tries: number;
  readonly nextAt: Date;
}

/** Payments whose end the provider has not told, the oldest first; at most 500. */
export async function listUncertain(db: Queryable): Promise<UncertainRow[]> {
  const { rows } = await db.query<UncertainRow>(
    `select p.id as "transactionId", p.agent_id as "agentId", p.agent_transaction_id as "agentTransactionId",
       p.service_id as "serviceId", p.account, p.amount_to_minor as "amountToMinor", p.currency,
       p.provider_id as "providerId", w.what, w.tries, w.since, w.next_at as "nextAt"
     from waiting w join payments p on p.id = w.payment_id and p.shard = w.shard
     where w.what in ('send', 'inquire') order by w.since limit 500`,
  );
  return rows;
}

/** Lets a held payment go on to the provider. Its funds are held already. */
export async function approve(
  db: Database,
  transactionId: bigint,
  operator: string,
  note: string,
): Promise<void> {
  await changing(db, operator, async (tx, audit) => {
    const payment = await lock(tx, transactionId, [State.inReview], 'approved');
    await tx.query('select * from resume_payments($1, $2, $3, $4, $5, $6, $7)', [
      payment.shard,
      plainArray([transactionId]),
      plainArray([payment.agent_id]),
      plainArray([statesMask(State.inReview)]),
      plainArray([State.sending]),
      'approved',
      JSON.stringify({ operator, note }),
    ]);
    await audit('payment.approve', `payment:${transactionId}`, { note });
  });
}

/** Ends a held payment with 300 and gives the agent its money back. */
export async function reject(
  db: Database,
  transactionId: bigint,
  operator: string,
  note: string,
): Promise<void> {
  await end(db, transactionId, operator, {
    from: [State.inReview],
    to: State.failed,
    code: 300,
    reason: reason('review_rejected'),
    done: 'rejected',
    detail: { note },
  });
}

/** What the provider gave people with a payment that it executed, as the code of a voucher, by the names to show. */
export interface Given {
  readonly secrets: Readonly<Record<string, string>>;
  readonly sealing: Pick<Sealing, 'seal'>;
}

/**
 * Ends an uncertain payment by evidence from the provider. The evidence is kept with the payment and in the audit; what
 * was given, only encrypted with the payment.
 */
export async function settleByEvidence(
  db: Database,
  transactionId: bigint,
  result: 'executed' | 'not-executed',
  evidence: string,
  operator: string,
  given: Given | null = null,
): Promise<void> {
  const executed = result === 'executed';
  if (given && !executed)
    throw new Refusal('A payment that was not executed has nothing to show; leave the codes away.');
  await end(db, transactionId, operator, {
    from: open,
    to: executed ? State.succeeded : State.failed,
    code: executed ? 0 : 300,
    reason: executed ? null : reason('operator_closed'),
    done: executed ? 'settled_as_executed' : 'settled_as_not_executed',
    detail: {
      evidence: required(evidence, 'evidence'),
      ...(given && { given: Object.keys(given.secrets) }),
    },
    shown: (before) =>
      given && shownAfter({ displays: null, secrets: given.secrets }, transactionId, before, given.sealing),
  });
}

/** Gives a succeeded payment's money back to the agent, the provider having agreed. Its code stays 0: it was final. */
export async function reverse(
  db: Database,
  transactionId: bigint,
  evidence: string,
  operator: string,
): Promise<void> {
  await end(db, transactionId, operator, {
    from: [State.succeeded],
    to: State.reversed,
    code: 0,
    reason: null,
    done: 'reversed',
    detail: { evidence: required(evidence, 'evidence') },
  });
}

interface Ending {
  readonly from: readonly State[];
  readonly to: State;
  readonly code: number;
  readonly reason: string | null;
  readonly done: string;
  readonly detail: Readonly<Record<string, unknown>>;
  /** What it shows from now on, by what it shows; null: the same. */
  readonly shown?: (before: StoredShown | null) => StoredShown | null;
}

async function end(db: Database, transactionId: bigint, operator: string, ending: Ending): Promise<void> {
  await changing(db, operator, async (tx, audit) => {
    const payment = await lock(tx, transactionId, ending.from, ending.done);
    const shown = ending.shown?.(payment.shown === null ? null : readShown(payment.shown)) ?? null;
    const { rows } = await tx.query<{ moved: boolean }>(
      'select moved from settle_payments($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17)',
      [
        payment.shard,
        plainArray([transactionId]),
        plainArray([payment.agent_id]),
        plainArray([statesMask(...ending.from) & sourcesMask(ending.to)]),
        plainArray([stateFacts[ending.from[0]!].holds]),
        plainArray([null]),
        plainArray([ending.to]),
        plainArray([ending.code]),
        textArray([ending.reason]),
        textArray([null]),
        textArray([shown && writeShown(shown)]),
        textArray([null]),
        plainArray([0]),
        plainArray([false]),
        textArray([ending.done]),
        textArray([JSON.stringify({ operator, ...ending.detail })]),
        plainArray([]),
      ],
    );
    if (!rows[0]?.moved)
      throw new Refusal(`Payment ${transactionId} changed meanwhile; nothing was done. Look at it again.`);
    await audit(`payment.${ending.done}`, `payment:${transactionId}`, ending.detail);
  });
}

interface Locked {
  readonly shard: number;
  readonly agent_id: bigint;
  readonly state: number;
  readonly code: number;
  readonly shown: unknown;
}

/** Locks the agent's balance before the payment, in the order of every other writer. */
async function lock(
  tx: pg.ClientBase,
  transactionId: bigint,
  from: readonly State[],
  done: string,
): Promise<Locked> {
  await tx.query(
    `select 1 from agent_balances b join payments p on p.agent_id = b.agent_id and p.shard = b.shard
     where p.id = $1 for update of b`,
    [transactionId],
  );
  const { rows } = await tx.query<Locked>(
    'select shard, agent_id, state, code, shown from payments where id = $1 for update',
    [transactionId],
  );
  const payment = rows[0];
  if (!payment) {
    throw new Refusal(`There is no payment ${transactionId}; look for it with: tolem payments find.`);
  }
  if (!from.includes(payment.state as State)) {
    const wanted = from.map((state) => stateName(state)).join(' or ');
    throw new Refusal(
      `Payment ${transactionId} is ${stateName(payment.state)} (code ${payment.code}) and cannot be ${done.replaceAll('_', ' ')}; that takes ${wanted}. See: tolem payments show ${transactionId}.`,
    );
  }
  return payment;
}

function required(text: string, name: string): string {
  const trimmed = text.trim();
  if (trimmed === '' || trimmed.length > 2000) throw new Refusal(`Give the ${name} in 1 to 2000 characters.`);
  return trimmed;
}
