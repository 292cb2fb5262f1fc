/** The addresses that an agent's requests may come from; none listed means any. */
import { isIP, isIPv4 } from 'node:net';
import { changing, type Database, type Queryable, Refusal } from '../audit.js';
import { type AgentRecord, lockAgent } from './agents.js';

export interface AddressRecord {
  readonly agentId: bigint;
  /** `192.0.2.7/32`, `192.0.2.0/24`, `2001:db8::/32`. */
  readonly address: string;
  readonly createdAt: Date;
}

const addressesMax = 200;

/**
 * Reads an address or a range for the database's `network()`, which drops the host bits and shortens IPv6. IPv4 written
 * inside IPv6 becomes IPv4. Refuses anything else.
 */
export function readAddress(text: string): string {
  const [written = '', bitsText, ...rest] = text.trim().toLowerCase().split('/');
  const mapped = written.startsWith('::ffff:') && isIPv4(written.slice(7));
  const host = mapped ? written.slice(7) : written;
  const bitsMax = isIPv4(host) ? 32 : 128;
  const bits = bitsText === undefined ? bitsMax : Number(bitsText) - (mapped ? 96 : 0);
  const wellFormed =
    isIP(host) > 0 && !host.includes('%') && rest.length === 0 && /^(\d{1,3})?$/.test(bitsText ?? '');
  if (!wellFormed || bitsText === '' || bits < 0 || bits > bitsMax) {
    throw new Refusal(`"${text}" is not an address; write 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32.`);
  }
  return `${host}/${bits}`;
}

/** Answers the address in its stored form; adding it twice changes nothing. */
export async function addAddress(
  db: Database,
  agentId: bigint,
  text: string,
  operator: string,
): Promise<string> {
  const asked = readAddress(text);
  return changing(db, operator, async (tx, audit) => {
    const agent = await lockAgent(tx, agentId);
    const { rows: counted } = await tx.query<{ count: bigint; address: string; known: boolean }>(
      `select count(*), network($2::inet)::text as address,
         coalesce(bool_or(address = network($2::inet)), false) as known
       from addresses where agent_id = $1`,
      [agentId, asked],
    );
    const { count, address, known } = counted[0]!;
    if (known) return address;
    if (count >= addressesMax) {
      throw new Refusal(
        `Agent ${agentId} has ${addressesMax} addresses already; remove some or use a range.`,
      );
    }
    await tx.query('insert into addresses (agent_id, address) values ($1, $2)', [agentId, address]);
    if (agent.knownByAddress) await refuseShared(tx, agentId);
    await audit('address.add', `agent:${agentId}`, { address });
    return address;
  });
}

/** Refuses an address that is not listed, and the last one of an agent that is known by address alone. */
export async function removeAddress(
  db: Database,
  agentId: bigint,
  text: string,
  operator: string,
): Promise<string> {
  const asked = readAddress(text);
  return changing(db, operator, async (tx, audit) => {
    const agent = await lockAgent(tx, agentId);
    const { rows } = await tx.query<{ address: string }>(
      'delete from addresses where agent_id = $1 and address = network($2::inet) returning address::text',
      [agentId, asked],
    );
    if (!rows[0])
      throw new Refusal(`Agent ${agentId} has no address ${asked}; look at the list of its addresses.`);
    if (agent.knownByAddress) await refuseNone(tx, agentId);
    await audit('address.remove', `agent:${agentId}`, { address: rows[0].address });
    return rows[0].address;
  });
}

export async function listAddresses(db: Queryable, agentId: bigint): Promise<AddressRecord[]> {
  const { rows } = await db.query<AddressRecord>(
    `select agent_id as "agentId", address::text, created_at as "createdAt"
     from addresses where agent_id = $1 order by address`,
    [agentId],
  );
  return rows;
}

/**
 * Lets an agent be known by its address alone, without a token, or ends that. Refuses it to an agent without addresses,
 * or with one that belongs to another such agent too: neither would be known then.
 */
export async function setKnownByAddress(
  db: Database,
  agentId: bigint,
  knownByAddress: boolean,
  operator: string,
): Promise<AgentRecord> {
  return changing(db, operator, async (tx, audit) => {
    const before = await lockAgent(tx, agentId);
    if (before.knownByAddress === knownByAddress) return before;
    if (knownByAddress) {
      await refuseNone(tx, agentId);
      await refuseShared(tx, agentId);
    }
    await tx.query('update agents set known_by_address = $2 where agent_id = $1', [agentId, knownByAddress]);
    await audit('agent.change', `agent:${agentId}`, {
      knownByAddress: { from: !knownByAddress, to: knownByAddress },
    });
    return { ...before, knownByAddress };
  });
}

async function refuseNone(tx: Queryable, agentId: bigint): Promise<void> {
  const { rows } = await tx.query('select 1 from addresses where agent_id = $1 limit 1', [agentId]);
  if (rows.length === 0) {
    throw new Refusal(
      `Agent ${agentId} cannot be known by address alone without any address; add one first.`,
    );
  }
}

async function refuseShared(tx: Queryable, agentId: bigint): Promise<void> {
  const { rows } = await tx.query<{ address: string; otherId: bigint; otherAddress: string }>(
    `select mine.address::text, other.agent_id as "otherId", other.address::text as "otherAddress"
     from addresses mine
     join addresses other on other.agent_id <> mine.agent_id and other.address && mine.address
     join agents a on a.agent_id = other.agent_id and a.known_by_address
     where mine.agent_id = $1 limit 1`,
    [agentId],
  );
  const shared = rows[0];
  if (shared) {
    throw new Refusal(
      `Agent ${agentId} cannot be known by address ${shared.address}: it overlaps ${shared.otherAddress} ` +
        `of agent ${shared.otherId}, who is known by address too. Give one of them a token.`,
    );
  }
}
