/**
 * Judges what was left: what the agents were told, what the provider did and what the books say must be one story.
 * Answers what is wrong instead of failing, so that a build broken on purpose can be shown to be caught.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { verify } from '../../src/ledger/verify.js';
import type { RegistryRow } from '../../src/providers/sandbox/registry.js';
import type { Payment } from './crowd.js';
import type { Caller, Scene } from './processes.js';

export type Rule =
  | 'an id ends in one final code'
  | 'the final code is what the provider made of it'
  | 'what never resolves stays 1'
  | 'an id has one transactionId'
  | 'a transactionId names one payment'
  | 'no agent is below its limit'
  | 'answers are to the question'
  | 'the books say what the agents were told'
  | 'a success was executed'
  | 'what was executed is a success'
  | 'nothing is executed twice'
  | 'the provider got what the agent ordered'
  | 'a balance is what was paid in less the successes'
  | 'the books agree with themselves'
  | 'nothing is left behind';

export interface Violation {
  /** One of `Rule`, or an experiment's own. */
  readonly rule: string;
  readonly object: string;
  readonly found: string;
}

export interface Evidence {
  readonly payments: readonly Payment[];
  readonly registry: readonly RegistryRow[];
  readonly owner: pg.Pool;
  readonly callers: readonly Caller[];
  readonly fundsMinor: bigint;
}

interface Row {
  readonly agentId: bigint;
  readonly id: bigint;
  readonly transactionId: bigint;
  readonly code: number;
}

/** The judgement of these payments by the scene's own provider and books. */
export async function judgeScene(
  scene: Scene,
  payments: readonly Payment[],
  callers: readonly Caller[] = scene.callers,
): Promise<Violation[]> {
  const { owner, fundsMinor } = scene;
  return judge({ payments, registry: await scene.sandbox.registry(), owner, callers, fundsMinor });
}

/** How often the provider executed each payment that it executed, by external id. */
export function executionCounts(registry: readonly RegistryRow[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { externalId } of registry) counts.set(externalId, (counts.get(externalId) ?? 0) + 1);
  return counts;
}

/** Everything that is wrong, in the order of the rules' meaning for an agent. Empty when all is well. */
export async function judge(evidence: Evidence): Promise<Violation[]> {
  const { payments, registry, owner } = evidence;
  const violations: Violation[] = [];
  const violate = (rule: Rule, object: string, found: string) => violations.push({ rule, object, found });

  await untilQuiet(owner);
  const { rows } = await owner.query<Row>(
    'select agent_id as "agentId", agent_transaction_id as id, id as "transactionId", code from payments',
  );
  const stored = new Map(rows.map((row) => [`${row.agentId}-${row.id}`, row]));
  const executed = new Map<string, RegistryRow[]>();
  for (const row of registry) executed.set(row.externalId, [...(executed.get(row.externalId) ?? []), row]);

  const namedBy = new Map<string, string>();
  for (const payment of payments) {
    const { fate, finalCodes, transactionIds, strange } = payment;
    const name = `${payment.agentId}-${payment.id}`;
    const object = `${name} (account …${fate.ending || 'plain'}, asked ${payment.asked} times)`;
    const codes = [...finalCodes].join(', ');
    if (fate.code === null && finalCodes.size > 0) violate('what never resolves stays 1', object, codes);
    if (fate.code !== null && finalCodes.size !== 1)
      violate('an id ends in one final code', object, codes || 'none');
    if (fate.code !== null && finalCodes.size === 1 && !finalCodes.has(fate.code)) {
      violate('the final code is what the provider made of it', object, codes);
    }
    if (transactionIds.size !== 1)
      violate('an id has one transactionId', object, [...transactionIds].join(', ') || 'none');
    for (const each of transactionIds) {
      if (namedBy.has(each))
        violate('a transactionId names one payment', object, `${each}, ${namedBy.get(each)}`);
      namedBy.set(each, name);
    }
    for (const each of strange) violate('answers are to the question', object, each);

    const row = stored.get(name);
    const told = finalCodes.size === 0 ? 1 : [...finalCodes][0];
    if (!row || row.code !== told || !transactionIds.has(String(row.transactionId))) {
      const found = row ? `code ${row.code}, transactionId ${row.transactionId}` : 'no payment';
      violate(
        'the books say what the agents were told',
        object,
        `${found}; told ${told}, ${[...transactionIds]}`,
      );
    }

    const executions = executed.get(name) ?? [];
    const succeeded = finalCodes.has(0);
    if (succeeded && executions.length === 0) violate('a success was executed', object, 'no execution');
    if (!succeeded && executions.length > 0)
      violate('what was executed is a success', object, codes || 'no final code');
    if (executions.length > 1) violate('nothing is executed twice', object, `${executions.length} times`);
    for (const { account, amount } of executions) {
      const ordered = account === payment.account && BigInt(amount.replace('.', '')) === payment.amountMinor;
      if (!ordered)
        violate('the provider got what the agent ordered', object, `another account, or ${amount}`);
    }
  }

  const known = new Set(payments.map(({ agentId, id }) => `${agentId}-${id}`));
  for (const name of executed.keys()) {
    if (!known.has(name))
      violate('what was executed is a success', name, 'executed, and no agent ordered it');
  }
  for (const name of stored.keys()) {
    if (!known.has(name))
      violate('the books say what the agents were told', name, 'a payment that no agent made');
  }

  violations.push(...(await judgeBooks(evidence)));
  return violations;
}

async function judgeBooks({ payments, owner, callers, fundsMinor }: Evidence): Promise<Violation[]> {
  const violations: Violation[] = [];
  const spent = new Map<bigint, bigint>();
  for (const { agentId, amountMinor, finalCodes, fate } of payments) {
    // What never resolves keeps its money set aside.
    if (finalCodes.has(0) || fate.code === null) spent.set(agentId, (spent.get(agentId) ?? 0n) + amountMinor);
  }
  const { rows: balances } = await owner.query<{ agentId: bigint; available: bigint; limit: bigint }>(
    `select agent_id as "agentId", available_minor as available, credit_limit_minor as limit
     from agent_balances where agent_id = any ($1)`,
    [callers.map(({ agentId }) => agentId)],
  );
  for (const { agentId, available, limit } of balances) {
    if (available < -limit) {
      violations.push({
        rule: 'no agent is below its limit',
        object: `agent ${agentId}`,
        found: `${available} with a limit of ${limit}`,
      });
    }
    const expected = fundsMinor - (spent.get(agentId) ?? 0n);
    if (available !== expected) {
      violations.push({
        rule: 'a balance is what was paid in less the successes',
        object: `agent ${agentId}`,
        found: `${available} instead of ${expected}`,
      });
    }
  }

  const { problems } = await verify(owner);
  for (const { what, object, expected, found } of problems) {
    violations.push({
      rule: 'the books agree with themselves',
      object,
      found: `${what}: ${found} instead of ${expected}`,
    });
  }

  const endless = new Set(
    payments.filter(({ fate }) => fate.code === null).map(({ agentId, id }) => `${agentId}-${id}`),
  );
  // Where the question is a repeat, it is to be sent for a moment, and stands in the queue as one that proves nothing.
  const { rows: left } = await owner.query<{ name: string; what: string }>(
    `select coalesce(p.agent_id || '-' || p.agent_transaction_id, 'no payment') as name,
       case when w.what = 'send' and w.attempt_until = 'infinity' then 'inquire' else w.what end as what
     from waiting w left join payments p on p.id = w.payment_id and p.shard = w.shard
     union all
     select 'lease ' || id, 'payments ' || payment_ids::text from leases`,
  );
  for (const { name, what } of left) {
    if (what === 'inquire' && endless.has(name)) endless.delete(name);
    else violations.push({ rule: 'nothing is left behind', object: name, found: what });
  }
  for (const name of endless) {
    violations.push({ rule: 'nothing is left behind', object: name, found: 'nobody asks about it any more' });
  }
  return violations;
}

/** The leases of killed processes go when their time is over. */
async function untilQuiet(owner: pg.Pool): Promise<void> {
  for (let i = 0; i < 60; i += 1) {
    const { rows } = await owner.query<{ count: number }>('select count(*)::int as count from leases');
    if (rows[0]!.count === 0) return;
    await sleep(500);
  }
}
