/**
 * The audit of the books. Everything is recomputed from the transfers inside one snapshot, so the centre may run
 * meanwhile; nothing is changed. Transfers have one debit, one credit and one amount: their sum is zero by
 * construction.
 */
import type pg from 'pg';
import { type Database, inTransaction } from '../audit.js';
import { codes } from '../core/codes.js';
import { formatMinor } from '../core/money.js';
import { State, stateFacts, stateName, states, statesMask } from '../core/states.js';

export interface Problem {
  /** The rule that does not hold. */
  readonly what: string;
  /** The row or account that breaks it. */
  readonly object: string;
  readonly expected: string;
  readonly found: string;
}

export interface Verified {
  readonly ok: boolean;
  readonly counts: { readonly payments: bigint; readonly transfers: bigint; readonly agents: bigint };
  /** The first ones met, at most `problemsMax`; none when the books are right. */
  readonly problems: readonly Problem[];
}

export const problemsMax = 100;

/** Payments compared with their transfers at a time: bounds memory and temporary files however many there are. */
const paymentsPerStep = 50_000;

/** The longest that one pass over a whole table may take. */
const passMsMax = 3_600_000;

/** A process may hold an outcome between two commits; a payment nobody looks after for longer than this is lost. */
const unattendedMinutesMax = 10;

const holding = statesMask(...states.filter((state) => stateFacts[state].holds));
const executed = statesMask(State.succeeded, State.reversed);
const failed = statesMask(State.failed);
const reversed = statesMask(State.reversed);

/** What `failed` may carry: a final refusal. 202 and 215 answer a request and are never a payment's own. */
const refusalCodes = codes
  .filter(({ code, final }) => final && ![0, 202, 215].includes(code))
  .map(({ code }) => code);

/** Which states a row of `waiting` looks after. */
const waitedStates: Readonly<Record<string, readonly State[]>> = {
  funds: [State.awaitingFunds],
  review: [State.inReview],
  terms: [State.awaitingTerms],
  send: [State.sending, State.uncertain],
  inquire: [State.sending, State.uncertain],
};

type Found = AsyncGenerator<Problem, void>;

/**
 * Checks every agent, payment, movement, transfer and waiting row. `onProgress` is told how many payments are done.
 * Needs a connection that is not in a transaction; holds one REPEATABLE READ snapshot until it returns, about half a
 * minute for a million payments.
 */
export async function verify(db: Database, onProgress?: (paymentsDone: bigint) => void): Promise<Verified> {
  return inTransaction(db, async (client) => {
    await client.query('set transaction isolation level repeatable read, read only');
    await client.query(`set local statement_timeout = ${passMsMax}`);
    // Each step sorts and hashes in memory; compiling its plan would cost more than running it.
    await client.query(`set local work_mem = '64MB'`);
    await client.query('set local jit = off');
    const counts = { payments: 0n, transfers: 0n, agents: 0n };
    const problems: Problem[] = [];
    for await (const problem of allProblems(client, counts, onProgress)) {
      problems.push(problem);
      if (problems.length === problemsMax) break;
    }
    return { ok: problems.length === 0, counts, problems };
  });
}

async function* allProblems(
  db: pg.ClientBase,
  counts: { payments: bigint; transfers: bigint; agents: bigint },
  onProgress?: (paymentsDone: bigint) => void,
): Found {
  const { rows } = await pass<typeof counts>(
    db,
    'select (select count(*) from transfers) as transfers, (select count(*) from agents) as agents',
  );
  Object.assign(counts, rows[0]);

  yield* keyProblems(db);
  yield* balanceProblems(db);
  yield* waitingProblems(db);
  for (let after: bigint | null = -(2n ** 63n); after !== null; ) {
    const { rows } = await db.query<{ last: bigint | null; count: bigint }>(
      `select case when count(*) = $2 then max(id) end as last, count(*) as count
       from (select id from payments where id > $1 order by id limit $2) step`,
      [after, paymentsPerStep],
    );
    const { last, count } = rows[0]! as { last: bigint | null; count: bigint };
    yield* paymentProblems(db, after, last);
    yield* transferProblems(db, after, last);
    counts.payments += count;
    onProgress?.(counts.payments);
    after = last;
  }
}

/** A query over a whole table, beyond the time-out that the connection sets for ordinary ones. */
function pass<R extends pg.QueryResultRow>(db: pg.ClientBase, text: string, values: unknown[] = []) {
  const query = { text, values, query_timeout: passMsMax };
  return db.query<R>(query);
}

/** What makes two payments with one id, or a leg twice, impossible is a key; here it is seen to be there. */
async function* keyProblems(db: pg.ClientBase): Found {
  const { rows } = await db.query<{ table: string; columns: string[] }>(
    `select k.name as table, k.columns from (values
       ('payments', array['agent_id', 'agent_transaction_id', 'shard']), ('payments', array['id', 'shard']),
       ('transfers', array['leg', 'operation_id', 'shard']), ('movements', array['operation_id', 'shard']),
       ('agent_balances', array['agent_id', 'shard'])
     ) as k (name, columns)
     where not exists (
       select 1 from pg_index i
       where i.indrelid = k.name::regclass and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
         and k.columns = (
           select array_agg(a.attname::text order by a.attname) from pg_attribute a
           where a.attrelid = i.indrelid and a.attnum = any (i.indkey))
     )`,
  );
  if (rows.length === 0) return;
  for (const { table, columns } of rows) {
    yield {
      what: 'a table has its unique key',
      object: table,
      expected: `a valid unique key on ${columns.join(', ')}`,
      found: 'none',
    };
  }
  const twice = await pass<{ agent: bigint; id: bigint; ids: bigint[] }>(
    db,
    `select agent_id as agent, agent_transaction_id as id, array_agg(id order by id) as ids
     from payments group by 1, 2 having count(*) > 1 limit $1`,
    [problemsMax],
  );
  for (const { agent, id, ids } of twice.rows) {
    yield {
      what: 'one payment at most per agent and agentTransactionId',
      object: `agent ${agent}, agentTransactionId ${id}`,
      expected: '1 payment',
      found: `payments ${ids.join(', ')}`,
    };
  }
}

/** Kept balances and the clearing accounts against the sums of all transfers: one pass over them. */
async function* balanceProblems(db: pg.ClientBase): Found {
  const { rows } = await pass<{
    account: string;
    shard: number;
    currency: string | null;
    kind: 'agent' | 'stranger' | 'clearing';
    summed: bigint;
    kept: bigint | null;
    limit: bigint | null;
    known: boolean;
  }>(
    db,
    `with pairs as materialized (
       select shard, debit_account, credit_account, currency, sum(amount_minor) as total
       from transfers group by shard, debit_account, credit_account, currency
     ), sums as materialized (
       select shard, account, currency, sum(total)::bigint as balance from (
         select shard, credit_account as account, currency, total from pairs
         union all select shard, debit_account, currency, -total from pairs
       ) s group by shard, account, currency
     ), held as (
       select shard, 'clearing:' || currency as account, currency, sum(amount_to_minor + fee_minor)::bigint as total
       from payments where (1 << state) & $1 <> 0 group by shard, currency
     ), compared as (
       select 'agent' as kind, shard, 'agent:' || agent_id as account, a.currency, b.available_minor as kept,
         b.credit_limit_minor as "limit", a.agent_id is not null as known
       from agents a full join agent_balances b using (agent_id, shard)
     )
     select c.*, coalesce(s.balance, 0) as summed from compared c
     left join sums s on s.account = c.account and s.shard = c.shard and s.currency = c.currency
     where c.kept is distinct from coalesce(s.balance, 0) or c.kept < -c.limit or not c.known
     union all
     select 'stranger', s.shard, s.account, s.currency, null, null, false, s.balance from sums s
     where starts_with(s.account, 'agent:') and not exists (
       select 1 from agents a where 'agent:' || a.agent_id = s.account and a.shard = s.shard and a.currency = s.currency)
     union all
     select 'clearing', shard, account, currency, coalesce(h.total, 0), null, true, coalesce(s.balance, 0)
     from (select * from sums where starts_with(account, 'clearing:')) s full join held h using (shard, account, currency)
     where coalesce(s.balance, 0) <> coalesce(h.total, 0)
     order by kind, account limit $2`,
    [holding, problemsMax],
  );
  for (const row of rows) {
    const money = (minor: bigint) => `${formatMinor(minor)} ${row.currency ?? ''}`.trim();
    const object = row.shard === 0 ? row.account : `${row.account} on shard ${row.shard}`;
    if (row.kind === 'clearing') {
      yield {
        what: 'a clearing account is the sum of what is held for open payments',
        object: `${object}, ${row.currency}`,
        expected: money(row.kept!),
        found: money(row.summed),
      };
    } else if (row.kind === 'stranger') {
      yield {
        what: "money of agents belongs to a known agent and is in the agent's currency and shard",
        object,
        expected: 'no transfers',
        found: `transfers that sum to ${money(row.summed)}`,
      };
    } else if (!row.known) {
      yield { what: 'a balance belongs to an agent', object, expected: 'an agent', found: 'none' };
    } else if (row.kept !== row.summed) {
      yield {
        what: "an agent's balance is what its transfers sum to",
        object,
        expected: money(row.summed),
        found: row.kept === null ? 'no balance' : money(row.kept),
      };
    }
    if (row.kept !== null && row.limit !== null && row.kept < -row.limit) {
      yield {
        what: 'an agent is not below its credit limit',
        object,
        expected: `${money(-row.limit)} or more`,
        found: money(row.kept),
      };
    }
  }
}

/** Every waiting row against its payment; the other direction is part of the payments' own check. */
async function* waitingProblems(db: pg.ClientBase): Found {
  const { rows } = await db.query<{ id: bigint; what: string; state: number | null; fits: boolean }>(
    `select w.payment_id as id, w.what, p.state
     from waiting w left join payments p on p.id = w.payment_id and p.shard = w.shard and p.agent_id = w.agent_id
     left join unnest($1::text[], $2::integer[]) as f (what, states) on f.what = w.what
     where coalesce((1 << p.state) & f.states, 0) = 0
     order by w.payment_id limit $3`,
    [Object.keys(waitedStates), Object.values(waitedStates).map((list) => statesMask(...list)), problemsMax],
  );
  for (const { id, what, state } of rows) {
    yield {
      what: 'what waits is a payment in a state that waits for it',
      object: `waiting row of payment ${id}, for ${what}`,
      expected: (waitedStates[what] ?? []).map(stateName).join(' or '),
      found: state === null ? 'no such payment of that agent' : stateName(state),
    };
  }
}

/**
 * The rows of payments after one id up to another (null: to the end): state, code, end, agent, and who looks after
 * them.
 */
async function* paymentProblems(db: pg.ClientBase, after: bigint, last: bigint | null): Found {
  const { rows } = await db.query<{
    id: bigint;
    state: number;
    code: number;
    final: boolean;
    agent: bigint;
    shard: number;
    currency: string;
    at_home: boolean;
    unattended: boolean;
  }>(
    `with leased as materialized (select shard, unnest(payment_ids) as id from leases), checked as (
       select p.id, p.state, p.code, p.final_at is not null as final, p.agent_id as agent, p.shard, p.currency,
         a.agent_id is not null as at_home, p.code = any (f.codes) as code_fits, f.final as must_be_final,
         not f.final and w.payment_id is null and (p.state <> $3 or (
           p.accepted_at < now() - $4 * interval '1 minute'
           and not exists (select 1 from leased l where l.id = p.id and l.shard = p.shard))) as unattended
       from payments p
       left join (
         select state, final, case when code is null then $8::smallint[] else array[code] end as codes
         from unnest($5::smallint[], $6::smallint[], $7::boolean[]) as f (state, code, final)
       ) f on f.state = p.state
       left join agents a on a.agent_id = p.agent_id and a.shard = p.shard and a.currency = p.currency
       left join waiting w on w.payment_id = p.id and w.shard = p.shard
       where p.id > $1 and p.id <= coalesce($2, 9223372036854775807)
     )
     select * from checked
     where code_fits is not true or final is distinct from must_be_final or not at_home or unattended
     order by id limit $9`,
    [
      after,
      last,
      State.sending,
      unattendedMinutesMax,
      states,
      states.map((state) => stateFacts[state].code),
      states.map((state) => stateFacts[state].final),
      refusalCodes,
      problemsMax,
    ],
  );
  for (const row of rows) {
    const object = `payment ${row.id}`;
    const facts = stateFacts[row.state as State];
    if (!facts) {
      yield {
        what: 'a payment is in a state of the machine',
        object,
        expected: states.join(', '),
        found: `${row.state}`,
      };
      continue;
    }
    const codesFit = facts.code === null ? refusalCodes : [facts.code];
    if (!codesFit.includes(row.code)) {
      yield {
        what: "a payment's code fits its state",
        object: `${object}, ${facts.name}`,
        expected: codesFit.join(', '),
        found: `${row.code}`,
      };
    }
    if (row.final !== facts.final) {
      yield {
        what: 'a payment has the moment of its end if and only if it has ended',
        object: `${object}, ${facts.name}`,
        expected: facts.final ? 'final_at' : 'no final_at',
        found: row.final ? 'final_at' : 'no final_at',
      };
    }
    if (!row.at_home) {
      yield {
        what: "a payment belongs to a known agent and is in the agent's currency and shard",
        object,
        expected: `agent ${row.agent} on shard ${row.shard} in ${row.currency}`,
        found: 'no such agent',
      };
    }
    if (row.unattended) {
      yield {
        what: 'somebody looks after a payment that has not ended',
        object: `${object}, ${facts.name}`,
        expected: row.state === State.sending ? 'a waiting row or a lease' : 'a waiting row',
        found: 'neither a lease nor a waiting row that would move it on',
      };
    }
  }
}

/** The transfers of operations in a range of ids, leg by leg, against what payments and movements demand. */
async function* transferProblems(db: pg.ClientBase, after: bigint, last: bigint | null): Found {
  const { rows } = await db.query<{
    id: bigint;
    leg: number;
    state: number | null;
    moved: boolean;
    expected: Leg;
    found: Leg;
  }>(
    `with p as materialized (
       select * from payments where id > $1 and id <= coalesce($2, 9223372036854775807)
     ), t as materialized (
       select * from transfers where operation_id > $1 and operation_id <= coalesce($2, 9223372036854775807)
     ), touched as materialized (
       select distinct operation_id, shard from t
     ), m as materialized (
       select m.*, a.currency from movements m left join agents a using (agent_id, shard)
       where m.operation_id > $1 and m.operation_id <= coalesce($2, 9223372036854775807)
     ), e as (
       select p.id, p.shard, l.leg, l.kind, l.debit, l.credit, l.amount, p.currency
       from p left join touched on touched.operation_id = p.id and touched.shard = p.shard
       cross join lateral (values
         (1, 'hold', $3::integer, 'agent:' || agent_id, 'clearing:' || currency, amount_to_minor + fee_minor),
         (2, 'post', $4::integer, 'clearing:' || currency, 'provider:' || coalesce(provider_id, '?') || ':' || currency,
           amount_to_minor),
         (3, 'fee', $4::integer, 'clearing:' || currency, 'income:' || currency, fee_minor),
         (4, 'reward', $4::integer, 'income:' || currency, 'reward:' || agent_id, reward_minor),
         (2, 'void', $5::integer, 'clearing:' || currency, 'agent:' || agent_id, amount_to_minor + fee_minor),
         (5, 'reversal', $6::integer, 'provider:' || coalesce(provider_id, '?') || ':' || currency, 'agent:' || agent_id,
           amount_to_minor),
         (6, 'fee_reversal', $6::integer, 'income:' || currency, 'agent:' || agent_id, fee_minor),
         (7, 'reward_reversal', $6::integer, 'reward:' || agent_id, 'income:' || currency, reward_minor)
       ) as l (leg, kind, states, debit, credit, amount)
       where (1 << p.state) & l.states <> 0 and l.amount > 0
         -- A refusal moved nothing, or what was held went back.
         and ((1 << p.state) & $5::integer = 0 or touched.shard is not null)
       union all
       select m.operation_id, m.shard, 1, m.kind,
         case when m.amount_minor > 0 then 'settlement:' || m.currency else 'agent:' || m.agent_id end,
         case when m.amount_minor > 0 then 'agent:' || m.agent_id else 'settlement:' || m.currency end,
         abs(m.amount_minor), m.currency
       from m
     ), differing as (
       select coalesce(e.id, t.operation_id) as id, coalesce(e.shard, t.shard) as shard, coalesce(e.leg, t.leg) as leg,
         case when e.id is not null then array[e.kind, e.debit, e.credit, e.amount::text, e.currency] end as expected,
         case when t.leg is not null
           then array[t.kind, t.debit_account, t.credit_account, t.amount_minor::text, t.currency] end as found
       from e full join t on t.operation_id = e.id and t.leg = e.leg and t.shard = e.shard
       where (e.kind, e.debit, e.credit, e.amount, e.currency)
         is distinct from (t.kind, t.debit_account, t.credit_account, t.amount_minor, t.currency)
       order by 1, 3 limit $7
     )
     select d.id, d.leg, d.expected, d.found, p.state, m.operation_id is not null as moved
     from differing d
     left join p on p.id = d.id and p.shard = d.shard left join m on m.operation_id = d.id and m.shard = d.shard
     order by d.id, d.leg`,
    [after, last, holding | executed | failed, executed, failed, reversed, problemsMax],
  );
  for (const { id, leg, state, moved, expected, found } of rows) {
    if (state === null && !moved) {
      yield {
        what: 'a transfer belongs to a payment or a movement',
        object: `transfer ${id}, leg ${leg}`,
        expected: `payment or movement ${id}`,
        found: `none, but ${legText(found)}`,
      };
    } else {
      yield {
        what: state === null ? 'a movement equals its transfer' : "a payment's transfers fit its state",
        object:
          state === null ? `movement ${id}, leg ${leg}` : `payment ${id}, ${stateName(state)}, leg ${leg}`,
        expected: legText(expected),
        found: legText(found),
      };
    }
  }
}

/** Kind, debit account, credit account, amount in minor units, currency. */
type Leg = readonly [string, string, string, string, string] | null;

function legText(leg: Leg): string {
  if (!leg) return 'no transfer';
  const [kind, debit, credit, amountMinor, currency] = leg;
  return `${kind} of ${formatMinor(BigInt(amountMinor))} ${currency} from ${debit} to ${credit}`;
}
