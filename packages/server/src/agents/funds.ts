/** Top-ups and corrections of agents' balances. */
import { changing, type Database, type Queryable, Refusal } from '../audit.js';
import { formatMinor } from '../core/money.js';
import { lockAgent } from './agents.js';

export interface Moved {
  readonly operationId: bigint;
  /** False: this document had moved the money before, and nothing was moved now. */
  readonly fresh: boolean;
  readonly availableMinor: bigint;
  readonly currency: string;
}

/** Adds a positive amount. Refuses a document that has moved something else. */
export async function topUp(
  db: Database,
  agentId: bigint,
  amountMinor: bigint,
  document: string | null,
  operator: string,
): Promise<Moved> {
  if (amountMinor <= 0n) {
    throw new Refusal(
      `A top-up of ${formatMinor(amountMinor)} is no top-up; give an amount above zero, or make a correction.`,
    );
  }
  return move(db, agentId, { kind: 'top_up', amountMinor, document, reason: null }, operator);
}

/** Adds a signed amount. Refuses to go below the credit limit, and a document that has moved something else. */
export async function correct(
  db: Database,
  agentId: bigint,
  amountMinor: bigint,
  why: { readonly reason: string; readonly document: string | null },
  operator: string,
): Promise<Moved> {
  if (amountMinor === 0n)
    throw new Refusal('A correction of zero changes nothing; give the amount, with a minus to take it away.');
  const reason = why.reason.trim();
  if (reason === '' || reason.length > 500) {
    throw new Refusal(
      'A correction needs its reason, in 1 to 500 characters; say why the balance is corrected.',
    );
  }
  return move(db, agentId, { kind: 'correction', amountMinor, document: why.document, reason }, operator);
}

interface Movement {
  readonly kind: 'top_up' | 'correction';
  readonly amountMinor: bigint;
  readonly document: string | null;
  readonly reason: string | null;
}

async function move(db: Database, agentId: bigint, movement: Movement, operator: string): Promise<Moved> {
  const { kind, amountMinor, reason } = movement;
  const document = movement.document?.trim() ?? null;
  if (document !== null && (document === '' || document.length > 100)) {
    throw new Refusal('The number of a document is 1 to 100 characters; correct it or leave it out.');
  }
  return changing(db, operator, async (tx, audit) => {
    const agent = await lockAgent(tx, agentId);
    const moved = document === null ? false : await movedBefore(tx, agentId, document, movement);
    if (!moved && agent.availableMinor + amountMinor < -agent.creditLimitMinor) {
      const mostMinor = agent.availableMinor + agent.creditLimitMinor;
      throw new Refusal(
        `Agent ${agentId} cannot be corrected by ${formatMinor(amountMinor)} ${agent.currency}: that is below its ` +
          `credit limit. At most ${formatMinor(mostMinor)} can be taken; raise the limit first to take more.`,
      );
    }
    const { rows } = await tx.query<Omit<Moved, 'currency'>>(
      `select operation_id as "operationId", fresh, available_minor as "availableMinor"
       from move_funds($1, $2, $3, $4, $5, $6)`,
      [agent.shard, agentId, kind, amountMinor, document, operator],
    );
    const result = rows[0]!;
    if (result.fresh) {
      await audit(kind === 'top_up' ? 'agent.top_up' : 'agent.correct', `agent:${agentId}`, {
        operationId: result.operationId,
        amount: formatMinor(amountMinor),
        currency: agent.currency,
        document,
        reason,
      });
    }
    return { ...result, currency: agent.currency };
  });
}

async function movedBefore(
  tx: Queryable,
  agentId: bigint,
  document: string,
  movement: Movement,
): Promise<boolean> {
  const { rows } = await tx.query<{ kind: string; amountMinor: bigint; operationId: bigint }>(
    `select kind, amount_minor as "amountMinor", operation_id as "operationId"
     from movements where agent_id = $1 and document = $2`,
    [agentId, document],
  );
  const before = rows[0];
  if (!before) return false;
  if (before.kind !== movement.kind || before.amountMinor !== movement.amountMinor) {
    throw new Refusal(
      `Document "${document}" of agent ${agentId} has moved ${formatMinor(before.amountMinor)} already ` +
        `(operation ${before.operationId}, ${before.kind}), and ${movement.kind} of ${formatMinor(movement.amountMinor)} ` +
        'is asked now; nothing was moved. Check the amount, or use the number of the other document.',
    );
  }
  return true;
}
