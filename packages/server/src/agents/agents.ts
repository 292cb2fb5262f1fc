/** Agents: who they are, what they may sell and how far they may go. */

import { changing, type Database, type Queryable, Refusal } from '../audit.js';
import type { Agent } from '../core/catalogue.js';
import { formatMinor } from '../core/money.js';

export interface AgentRecord extends Agent {
  readonly notificationEmail: string | null;
  readonly createdAt: Date;
  readonly availableMinor: bigint;
  /** How far below zero the balance may go. */
  readonly creditLimitMinor: bigint;
  /** The agent is told by e-mail when the balance falls to this. */
  readonly notificationMinor: bigint;
}

export interface NewAgent {
  readonly name: string;
  readonly currency: string;
  readonly language: Agent['language'];
  readonly tariffId: string;
  /** Absent: the next free one. */
  readonly agentId?: bigint;
  /** Where the agent's money lives, for life; 0 on one machine. */
  readonly shard?: number;
}

export type AgentChanges = Partial<
  Pick<
    AgentRecord,
    | 'name'
    | 'language'
    | 'tariffId'
    | 'servicePolicy'
    | 'blocked'
    | 'notificationEmail'
    | 'notificationMinor'
    | 'creditLimitMinor'
  >
>;

const agentIdMax = 999_999_999_999n;
/** 0x746f6c656d: taken while an agent's id is chosen, so that two at once do not choose the same. */
const newAgentLock = 500_085_384_557n;

const columns = `a.agent_id as "agentId", a.shard, a.name, a.currency, a.language, a.tariff_id as "tariffId",
  a.service_policy as "servicePolicy", a.known_by_address as "knownByAddress", a.blocked_at is not null as blocked`;
const moreColumns = `a.notification_email as "notificationEmail", a.created_at as "createdAt",
  b.available_minor as "availableMinor", b.credit_limit_minor as "creditLimitMinor",
  b.notification_minor as "notificationMinor"`;
const joined = `select ${columns}, ${moreColumns} from agents a join agent_balances b using (agent_id, shard)`;

/** Creates an agent with an empty balance and no credit. Refuses a taken id, an unknown tariff, a malformed value. */
export async function createAgent(db: Database, agent: NewAgent, operator: string): Promise<AgentRecord> {
  if (!/^[A-Z]{3}$/.test(agent.currency)) {
    throw new Refusal(`"${agent.currency}" is not a currency; give its three letters, KZT for one.`);
  }
  const asked = agent.agentId ?? null;
  if (asked !== null && (asked < 1n || asked > agentIdMax)) {
    throw new Refusal(
      `Agent id ${asked} cannot be used; give one from 1 to ${agentIdMax}, or none to get the next free one.`,
    );
  }
  checkName(agent.name);
  return changing(db, operator, async (tx, audit) => {
    await checkTariff(tx, agent.tariffId);
    await tx.query('select pg_advisory_xact_lock($1)', [newAgentLock]);
    const { rows } = await tx.query<{ agentId: bigint; taken: boolean }>(
      `select coalesce($1, (select coalesce(max(agent_id), 0) + 1 from agents)) as "agentId",
         exists (select 1 from agents where agent_id = $1) as taken`,
      [asked],
    );
    const { agentId, taken } = rows[0]!;
    if (taken)
      throw new Refusal(
        `Agent ${agentId} exists already; choose another id, or none to get the next free one.`,
      );
    const shard = agent.shard ?? 0;
    await tx.query(
      'insert into agents (agent_id, shard, name, currency, language, tariff_id) values ($1, $2, $3, $4, $5, $6)',
      [agentId, shard, agent.name, agent.currency, agent.language, agent.tariffId],
    );
    await tx.query('insert into agent_balances (agent_id, shard) values ($1, $2)', [agentId, shard]);
    await audit('agent.create', `agent:${agentId}`, { ...agent, agentId, shard });
    return getAgent(tx, agentId);
  });
}

/** Agents in the order of their ids, after the given one, at most `limit`. */
export async function listAgents(
  db: Queryable,
  page: { readonly afterAgentId?: bigint; readonly limit: number },
): Promise<AgentRecord[]> {
  const { rows } = await db.query<AgentRecord>(
    `${joined} where a.agent_id > $1 order by a.agent_id limit $2`,
    [page.afterAgentId ?? 0n, page.limit],
  );
  return rows;
}

/** Refuses an unknown id. */
export async function getAgent(db: Queryable, agentId: bigint): Promise<AgentRecord> {
  const { rows } = await db.query<AgentRecord>(`${joined} where a.agent_id = $1`, [agentId]);
  return rows[0] ?? unknownAgent(agentId);
}

/** Every agent, as decisions need it. */
export async function readAgents(db: Queryable): Promise<Map<bigint, Agent>> {
  const { rows } = await db.query<Agent>(`select ${columns} from agents a order by a.agent_id`);
  return new Map(rows.map((agent) => [agent.agentId, agent]));
}

/** The agent with its balance, locked until the transaction ends. Refuses an unknown id. */
export async function lockAgent(tx: Queryable, agentId: bigint): Promise<AgentRecord> {
  const { rows } = await tx.query<AgentRecord>(`${joined} where a.agent_id = $1 for no key update`, [
    agentId,
  ]);
  return rows[0] ?? unknownAgent(agentId);
}

/**
 * Changes what is named and differs, and answers the agent as it is then. Refuses a credit limit below the present
 * debt, an unknown tariff, a malformed name or e-mail.
 */
export async function changeAgent(
  db: Database,
  agentId: bigint,
  changes: AgentChanges,
  operator: string,
): Promise<AgentRecord> {
  if (changes.name !== undefined) checkName(changes.name);
  checkEmail(changes.notificationEmail ?? null);
  return changing(db, operator, async (tx, audit) => {
    const before = await lockAgent(tx, agentId);
    const after = { ...before, ...changes };
    const changed = (Object.keys(changes) as (keyof AgentChanges)[]).filter(
      (key) => after[key] !== before[key],
    );
    if (changed.length === 0) return before;

    if (changed.includes('tariffId')) await checkTariff(tx, after.tariffId);
    if (changed.includes('creditLimitMinor')) checkLimit(before, after.creditLimitMinor);
    if (changed.some((key) => key !== 'creditLimitMinor' && key !== 'notificationMinor')) {
      await tx.query(
        `update agents set name = $2, language = $3, tariff_id = $4, service_policy = $5, notification_email = $6,
           blocked_at = case when $7 then coalesce(blocked_at, now()) end
         where agent_id = $1`,
        [
          agentId,
          after.name,
          after.language,
          after.tariffId,
          after.servicePolicy,
          after.notificationEmail,
          after.blocked,
        ],
      );
    }
    if (changed.includes('creditLimitMinor') || changed.includes('notificationMinor')) {
      await tx.query(
        'update agent_balances set credit_limit_minor = $2, notification_minor = $3 where agent_id = $1',
        [agentId, after.creditLimitMinor, after.notificationMinor],
      );
      // Payments that wait for funds may go on under a higher limit.
      await tx.query(`select pg_notify('tolem_waiting', '')`);
    }
    await audit(
      'agent.change',
      `agent:${agentId}`,
      Object.fromEntries(
        changed.map((key) => [key, { from: shown(key, before[key]), to: shown(key, after[key]) }]),
      ),
    );
    return after;
  });
}

function checkLimit(agent: AgentRecord, creditLimitMinor: bigint): void {
  if (creditLimitMinor < 0n) {
    throw new Refusal(
      `The credit limit of agent ${agent.agentId} cannot be ${formatMinor(creditLimitMinor)}; a limit is zero or more.`,
    );
  }
  const debtMinor = -agent.availableMinor;
  const least = formatMinor(debtMinor);
  if (creditLimitMinor < debtMinor) {
    throw new Refusal(
      `The credit limit of agent ${agent.agentId} cannot be ${formatMinor(creditLimitMinor)} ${agent.currency}: ` +
        `the agent owes ${least} now. Set it to ${least} or more, or top the agent up first.`,
    );
  }
}

function checkName(name: string): void {
  if (name.trim() !== name || name === '' || name.length > 200) {
    throw new Refusal('The name of an agent is 1 to 200 characters without spaces around it; correct it.');
  }
}

function checkEmail(email: string | null): void {
  if (email !== null && !/^[^\s@]{1,64}@[^\s@]{1,190}$/.test(email)) {
    throw new Refusal('The e-mail for notifications is not an address; write it as name@host.');
  }
}

async function checkTariff(tx: Queryable, tariffId: string): Promise<void> {
  const { rows } = await tx.query('select 1 from tariffs where tariff_id = $1 for share', [tariffId]);
  if (rows.length === 0)
    throw new Refusal(
      `There is no tariff "${tariffId}"; set it first, or choose one of the list of tariffs.`,
    );
}

/** The audit says that an address was changed, and not whose it is. */
function shown(key: keyof AgentChanges, value: unknown): unknown {
  return key === 'notificationEmail' && typeof value === 'string' ? value.replace(/^.*@/, '…@') : value;
}

function unknownAgent(agentId: bigint): never {
  throw new Refusal(`There is no agent ${agentId}; look at the list of agents.`);
}
