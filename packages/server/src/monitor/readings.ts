/** What only the database knows of the money that waits and of the agents' balances, read for the metrics. */
import type pg from 'pg';
import { within } from '../clock.js';

export interface Readings {
  /** By what they wait for, as in the table `waiting`. */
  readonly waiting: ReadonlyMap<string, { readonly count: number; readonly oldestS: number }>;
  /** Batches that processes work on now, and the payments in them. */
  readonly leases: {
    readonly count: number;
    readonly payments: number;
    /** Age of the oldest payment that is with its provider. */
    readonly oldestS: number;
    /** For how long the oldest lease has run out. */
    readonly overdueS: number;
  };
  /** What may still be spent at providers, in minor units. */
  readonly deposits: readonly {
    readonly provider: string;
    readonly currency: string;
    readonly left: number;
  }[];
  /** Those in the operators' queue. */
  readonly contradictionsOpen: number;
  /** Amounts in minor units. */
  readonly agents: readonly {
    readonly agent: string;
    readonly currency: string;
    readonly available: number;
    readonly creditLimit: number;
    readonly notification: number;
  }[];
}

export interface ReaderOptions {
  readonly pool: pg.Pool;
  /** The database is asked at most so often, however many ask here. */
  readonly everyMs: number;
  /** A read that takes longer counts as failed. */
  readonly msMax: number;
  /** So many agents have figures of their own; the rest is summed by currency as `other`. */
  readonly agentsMax: number;
}

export interface Reader {
  /** The latest readings; null when the database did not give them in time. Never rejects. */
  read(): Promise<Readings | null>;
}

export function createReader({ pool, everyMs, msMax, agentsMax }: ReaderOptions): Reader {
  let latest: Promise<Readings | null> | null = null;
  let readAt = 0;
  return {
    read() {
      if (latest && performance.now() - readAt < everyMs) return latest;
      readAt = performance.now();
      latest = within(msMax, readAll(pool, agentsMax)).catch(() => null);
      return latest;
    },
  };
}

async function readAll(pool: pg.Pool, agentsMax: number): Promise<Readings> {
  const waiting = await pool.query<{ what: string; count: number; oldest_s: number }>(
    `select what, count(*)::float8 as count, extract(epoch from now() - min(since))::float8 as oldest_s
     from waiting group by what`,
  );
  // A lease holds its batch until all of it has ended; the oldest payment is in one of those that end first.
  const leases = await pool.query<{ count: number; payments: number; oldest_s: number; overdue_s: number }>(
    `select count(*)::float8 as count, coalesce(sum(cardinality(payment_ids)), 0)::float8 as payments,
       greatest(coalesce(extract(epoch from now() - min(until)), 0), 0)::float8 as overdue_s,
       greatest(coalesce(extract(epoch from now() - (
         select min(p.accepted_at)
         from (select * from leases order by until limit 20) l, unnest(l.payment_ids) as i (id), payments p
         where p.id = i.id and p.shard = l.shard and p.state = 4)), 0), 0)::float8 as oldest_s
     from leases`,
  );
  const deposits = await pool.query<Readings['deposits'][number]>(
    'select provider_id as provider, currency, left_minor::float8 as "left" from provider_deposits_left',
  );
  const contradictions = await pool.query<{ open: number }>(
    'select count(*)::float8 as open from contradictions where closed_at is null',
  );
  const agents = await pool.query<Readings['agents'][number]>(
    `select case when n <= $1 then agent_id::text else 'other' end as agent, currency,
       sum(available_minor)::float8 as available, sum(credit_limit_minor)::float8 as "creditLimit",
       sum(notification_minor)::float8 as notification
     from (
       select b.*, a.currency, row_number() over (order by b.agent_id) as n
       from agent_balances b join agents a on a.agent_id = b.agent_id and a.shard = b.shard
     ) as each
     group by 1, 2 order by min(n)`,
    [agentsMax],
  );
  const { count, payments, oldest_s: oldestS, overdue_s: overdueS } = leases.rows[0]!;
  return {
    waiting: new Map(
      waiting.rows.map(({ what, count, oldest_s: oldestS }) => [
        what,
        { count, oldestS: Math.max(oldestS, 0) },
      ]),
    ),
    leases: { count, payments, oldestS, overdueS },
    deposits: deposits.rows,
    contradictionsOpen: contradictions.rows[0]!.open,
    agents: agents.rows,
  };
}
