/** The operators' queue of what providers told and what cannot be true beside the rest. Settle writes its rows. */
import { changing, type Database, type Queryable, Refusal } from '../audit.js';
import { stateName } from '../core/states.js';

export interface Contradiction {
  readonly contradictionId: bigint;
  readonly transactionId: bigint;
  readonly agentId: bigint;
  readonly agentTransactionId: bigint;
  readonly providerId: string | null;
  readonly kind: string;
  /** The provider's, of the execution it told of. */
  readonly reference: string | null;
  readonly account: string;
  readonly amountToMinor: bigint;
  readonly currency: string;
  /** The payment's, now. */
  readonly state: string;
  readonly code: number;
  readonly paymentReference: string | null;
  readonly at: Date;
  readonly closedAt: Date | null;
  readonly closedBy: string | null;
  readonly reason: string | null;
}

/** What is wrong, and what people look for. */
export const contradictionWords: Readonly<Record<string, string>> = {
  executed_after_failure:
    'The provider says it executed a payment that had failed; the money is back with the agent.',
  refused_after_success: 'The provider says it refused a payment that it had executed; the agent has paid.',
  executed_twice: 'The provider says it executed the payment again, under another reference.',
  executed_unsent:
    'The provider says it executed the payment, when by its own word or ours nothing had reached it.',
};

const select = `select c.contradiction_id as "contradictionId", c.payment_id as "transactionId", p.agent_id as "agentId",
  p.agent_transaction_id as "agentTransactionId", p.provider_id as "providerId", c.kind, c.reference, p.account,
  p.amount_to_minor as "amountToMinor", p.currency, p.state, p.code, p.provider_reference as "paymentReference",
  c.at, c.closed_at as "closedAt", c.closed_by as "closedBy", c.reason
  from contradictions c join payments p on p.id = c.payment_id and p.shard = c.shard`;

type Row = Omit<Contradiction, 'state'> & { readonly state: number };
const named = (row: Row): Contradiction => ({ ...row, state: stateName(row.state) });

/** Open ones, the oldest first; with `closed` also what is closed, the newest first. At most 500. */
export async function listContradictions(db: Queryable, closed = false): Promise<Contradiction[]> {
  const { rows } = await db.query<Row>(
    closed
      ? `${select} order by c.contradiction_id desc limit 500`
      : `${select} where c.closed_at is null order by c.contradiction_id limit 500`,
  );
  return rows.map(named);
}

/** Refuses an unknown one. */
export async function getContradiction(db: Queryable, contradictionId: bigint): Promise<Contradiction> {
  const { rows } = await db.query<Row>(`${select} where c.contradiction_id = $1`, [contradictionId]);
  if (rows[0]) return named(rows[0]);
  throw new Refusal(
    `There is no contradiction ${contradictionId}; look at the list: tolem payments contradictions list.`,
  );
}

/** Takes it off the queue, with what was found out. Nothing else changes: money is moved by commands of its own. */
export async function closeContradiction(
  db: Database,
  contradictionId: bigint,
  reason: string,
  operator: string,
): Promise<void> {
  const text = reason.trim();
  if (text === '' || text.length > 2000) throw new Refusal('Give the reason in 1 to 2000 characters.');
  await changing(db, operator, async (tx, audit) => {
    const { transactionId, kind, reference } = await getContradiction(tx, contradictionId);
    const { rowCount } = await tx.query(
      `update contradictions set closed_at = now(), closed_by = $2, reason = $3
       where contradiction_id = $1 and closed_at is null`,
      [contradictionId, operator, text],
    );
    if (rowCount === 0) {
      const { closedBy } = await getContradiction(tx, contradictionId);
      throw new Refusal(
        `Contradiction ${contradictionId} was closed by ${closedBy} already; nothing was changed. ` +
          `See: tolem payments contradictions show ${contradictionId}.`,
      );
    }
    await audit('contradiction.close', `payment:${transactionId}`, {
      contradictionId,
      kind,
      reference,
      reason: text,
    });
  });
}
