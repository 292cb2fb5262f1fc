import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { State } from '../src/core/states.js';
import { openClient, openPool } from '../src/db/connect.js';
import { type Problem, problemsMax, verify } from '../src/ledger/verify.js';
import { freshDatabase, type TestDatabase } from './support/database.js';

let database: TestDatabase;
let owner: pg.Client;
/** Payments by what became of them. */
const ids: Record<string, bigint> = {};

const worker = '00000000-0000-4000-8000-000000000001';
let lastAgentTransactionId = 26801048196008n;

/** Commit 1 for one payment of agent 4 of 200.00 KZT with a fee of 1.50 and a reward of 0.50. */
async function accept(state: State, code: number): Promise<{ id: bigint; lease: bigint | null }> {
  lastAgentTransactionId += 1n;
  const { rows } = await owner.query(
    `select id, lease_id as lease from accept_payments(
       p_shard => 0::smallint, p_worker => $1::uuid, p_lease_ms => 30000, p_agent_id => '{4}',
       p_agent_transaction_id => array[$2::bigint], p_state => array[$3::smallint], p_code => array[$4::smallint],
       p_service_id => '{P1011}', p_provider_id => '{sandbox}', p_account => '{7777731414}', p_amount_to => '{20000}',
       p_amount_from => '{21000}', p_fee => '{150}', p_reward => '{50}', p_currency => '{KZT}',
       p_fingerprint => array[$1::uuid], p_agent_date => '{2026-01-02T03:04:05}', p_reason => '{NULL}',
       p_details => '{NULL}', p_shown => '{NULL}', p_identity => '{NULL}')`,
    [worker, lastAgentTransactionId, state, code],
  );
  return rows[0];
}

/** Commit 2. */
async function settle(id: bigint, from: State, to: State, code: number, leases: (bigint | null)[] = []) {
  const { rows } = await owner.query(
    `select moved from settle_payments(
       p_shard => 0::smallint, p_id => array[$1::bigint], p_agent_id => '{4}', p_from_mask => array[1 << $2::integer],
       p_held => array[$2::integer in (2, 4, 5)], p_fence => '{NULL}', p_state => array[$3::smallint],
       p_code => array[$4::smallint], p_reason => '{NULL}', p_reference => '{S1}', p_shown => '{NULL}',
       p_what => '{inquire}', p_next_ms => '{1000}', p_acknowledged => '{f}', p_event_kind => '{provider_pay}',
       p_event => '{"{}"}', p_leases => $5::bigint[])`,
    [id, from, to, code, leases],
  );
  expect(rows[0].moved).toBe(true);
}

beforeAll(async () => {
  database = await freshDatabase();
  owner = await openClient(database.adminOptions);
  await owner.query(`insert into tariffs values ('t', 'T')`);
  await owner.query(
    `insert into agents (agent_id, name, currency, tariff_id)
     values (4, 'Four', 'KZT', 't'), (5, 'Five', 'USD', 't'), (6, 'Six', 'KZT', 't')`,
  );
  await owner.query('insert into agent_balances (agent_id, shard) values (4, 0), (5, 0), (6, 0)');
  await owner.query(`select move_funds(0::smallint, 4, 'top_up', 1000000, 'D-1', 'o')`);
  await owner.query(`select move_funds(0::smallint, 5, 'top_up', 5000, 'D-2', 'o')`);
  const { rows } = await owner.query(
    `select operation_id as id from move_funds(0::smallint, 4, 'correction', -700, 'D-3', 'o')`,
  );
  ids.movement = rows[0].id;

  for (const [name, state, code] of [
    ['succeeded', State.succeeded, 0],
    ['failed', State.failed, 300],
    ['uncertain', State.uncertain, 1],
    ['reversed', State.succeeded, 0],
  ] as const) {
    const { id, lease } = await accept(State.sending, 1);
    await settle(id, State.sending, state, code, [lease]);
    ids[name] = id;
  }
  await settle(ids.reversed!, State.succeeded, State.reversed, 0);
  ids.refused = (await accept(State.failed, 130)).id;
  ids.sending = (await accept(State.sending, 1)).id;
  ids.review = (await accept(State.inReview, 153)).id;
  ids.terms = (await accept(State.awaitingTerms, 255)).id;
  await owner.query(`select move_funds(0::smallint, 4, 'correction', $1, 'D-4', 'o')`, [
    -(1000000 - 700 - 20150 * 4),
  ]);
  ids.funds = (await accept(State.sending, 1)).id;
});

afterAll(async () => {
  await owner?.end();
  await database?.drop();
});

/** Verifies the books as they are after a damage, which is then undone. */
async function verifyDamaged(damage: string): Promise<readonly Problem[]> {
  // The names in braces are the payments above.
  const sql = damage.replace(/\{(\w+)\}/g, (_, name: string) => String(ids[name]));
  await owner.query('begin isolation level repeatable read');
  try {
    await owner.query(sql);
    const { ok, problems } = await verify(owner);
    expect(ok).toBe(problems.length === 0);
    return problems;
  } finally {
    await owner.query('rollback');
  }
}

const unique = 'alter table payments drop constraint payments_agent_id_agent_transaction_id_shard_key;';
const unguarded = 'alter table payments disable trigger keep_final;';

describe('verify', () => {
  it('finds nothing wrong in books with a payment in every state', async () => {
    const { rows } = await owner.query(
      'select array_agg(distinct state order by state) as states from payments',
    );
    expect(rows[0].states).toEqual(Object.values(State));
    const progress: bigint[] = [];
    expect(await verify(owner, (done) => progress.push(done))).toEqual({
      ok: true,
      counts: { payments: 9n, transfers: 20n, agents: 3n },
      problems: [],
    });
    expect(progress).toEqual([9n]);
  });

  it('runs with the rights of the application too, and from a pool', async () => {
    const pool = await openPool(database.appOptions, { max: 1 });
    expect((await verify(pool).finally(() => pool.end())).ok).toBe(true);
  });

  const cases: [rule: string, damage: string, object: string, expected: string, found: string][] = [
    [
      'a balance that is not the sum of its transfers',
      'update agent_balances set available_minor = available_minor + 1 where agent_id = 4',
      'agent:4',
      '0.00 KZT',
      '0.01 KZT',
    ],
    [
      'an agent below its credit limit',
      `alter table agent_balances drop constraint agent_within_limit;
       select move_funds(0::smallint, 5, 'correction', -6000, 'D-9', 'o')`,
      'agent:5',
      '0.00 USD or more',
      '-10.00 USD',
    ],
    [
      'an agent without a balance',
      'delete from agent_balances where agent_id = 6',
      'agent:6',
      '0.00 KZT',
      'no balance',
    ],
    [
      'a balance without an agent',
      'insert into agent_balances (agent_id, shard) values (77, 0)',
      'agent:77',
      'an agent',
      'none',
    ],
    [
      'money of an agent that does not exist',
      `update transfers set debit_account = 'agent:99' where operation_id = {uncertain}`,
      'agent:99',
      'no transfers',
      'transfers that sum to -201.50 KZT',
    ],
    [
      'money of an agent in a currency that is not its own',
      `update transfers set currency = 'USD' where operation_id = {uncertain}`,
      'agent:4',
      'no transfers',
      'transfers that sum to -201.50 USD',
    ],
    [
      'a clearing account that is not the sum of what open payments hold',
      'update transfers set amount_minor = amount_minor + 1 where operation_id = {uncertain}',
      'clearing:KZT, KZT',
      '604.50 KZT',
      '604.51 KZT',
    ],
    ...(['uncertain', 'sending', 'review:in_review'] as const).map((name): (typeof cases)[number] => {
      const [key, state = key] = name.split(':') as [string, string?];
      return [
        `a payment ${state} without its hold`,
        `delete from transfers where operation_id = {${key}}`,
        `payment {${key}}, ${state}, leg 1`,
        'hold of 201.50 KZT from agent:4 to clearing:KZT',
        'no transfer',
      ];
    }),
    [
      'an open payment that holds another amount',
      'update transfers set amount_minor = 20000 where operation_id = {uncertain}',
      'payment {uncertain}, uncertain, leg 1',
      'hold of 201.50 KZT from agent:4 to clearing:KZT',
      'hold of 200.00 KZT from agent:4 to clearing:KZT',
    ],
    [
      'an open payment that is posted',
      `insert into transfers values ({sending}, 0, 2, 'post', 'clearing:KZT', 'provider:sandbox:KZT', 20000, 'KZT')`,
      'payment {sending}, sending, leg 2',
      'no transfer',
      'post of 200.00 KZT from clearing:KZT to provider:sandbox:KZT',
    ],
    [
      'a success that is not posted',
      'delete from transfers where operation_id = {succeeded} and leg = 2',
      'payment {succeeded}, succeeded, leg 2',
      'post of 200.00 KZT from clearing:KZT to provider:sandbox:KZT',
      'no transfer',
    ],
    [
      'a success posted to another account',
      `update transfers set credit_account = 'provider:other:KZT' where operation_id = {succeeded} and leg = 2`,
      'payment {succeeded}, succeeded, leg 2',
      'post of 200.00 KZT from clearing:KZT to provider:sandbox:KZT',
      'post of 200.00 KZT from clearing:KZT to provider:other:KZT',
    ],
    [
      'a success posted in another currency',
      `update transfers set currency = 'USD' where operation_id = {succeeded} and leg = 2`,
      'payment {succeeded}, succeeded, leg 2',
      'post of 200.00 KZT from clearing:KZT to provider:sandbox:KZT',
      'post of 200.00 USD from clearing:KZT to provider:sandbox:KZT',
    ],
    [
      'a success without the fee',
      'delete from transfers where operation_id = {succeeded} and leg = 3',
      'payment {succeeded}, succeeded, leg 3',
      'fee of 1.50 KZT from clearing:KZT to income:KZT',
      'no transfer',
    ],
    [
      'a success with another reward',
      'update transfers set amount_minor = 51 where operation_id = {succeeded} and leg = 4',
      'payment {succeeded}, succeeded, leg 4',
      'reward of 0.50 KZT from income:KZT to reward:4',
      'reward of 0.51 KZT from income:KZT to reward:4',
    ],
    [
      'a fee where none was due',
      `${unguarded} update payments set fee_minor = 0 where id = {succeeded}`,
      'payment {succeeded}, succeeded, leg 3',
      'no transfer',
      'fee of 1.50 KZT from clearing:KZT to income:KZT',
    ],
    [
      'a transfer of another kind than its leg',
      `update transfers set kind = 'fee' where operation_id = {succeeded} and leg = 4`,
      'payment {succeeded}, succeeded, leg 4',
      'reward of 0.50 KZT from income:KZT to reward:4',
      'fee of 0.50 KZT from income:KZT to reward:4',
    ],
    [
      'a failure whose hold was never given back',
      'delete from transfers where operation_id = {failed} and leg = 2',
      'payment {failed}, failed, leg 2',
      'void of 201.50 KZT from clearing:KZT to agent:4',
      'no transfer',
    ],
    [
      'a refusal that gave back what it never held',
      `insert into transfers values ({refused}, 0, 2, 'void', 'clearing:KZT', 'agent:4', 20150, 'KZT')`,
      'payment {refused}, failed, leg 1',
      'hold of 201.50 KZT from agent:4 to clearing:KZT',
      'no transfer',
    ],
    [
      'a reversal that did not reach the agent',
      'delete from transfers where operation_id = {reversed} and leg = 5',
      'payment {reversed}, reversed, leg 5',
      'reversal of 200.00 KZT from provider:sandbox:KZT to agent:4',
      'no transfer',
    ],
    [
      'a reversal that kept the fee',
      'delete from transfers where operation_id = {reversed} and leg = 6',
      'payment {reversed}, reversed, leg 6',
      'fee_reversal of 1.50 KZT from income:KZT to agent:4',
      'no transfer',
    ],
    [
      'a reversal that left the reward',
      'delete from transfers where operation_id = {reversed} and leg = 7',
      'payment {reversed}, reversed, leg 7',
      'reward_reversal of 0.50 KZT from reward:4 to income:KZT',
      'no transfer',
    ],
    ...(['funds:awaiting_funds', 'terms:awaiting_terms'] as const).map((name): (typeof cases)[number] => {
      const [key, state] = name.split(':') as [string, string];
      return [
        `a payment ${state} that holds money`,
        `insert into transfers values ({${key}}, 0, 1, 'hold', 'agent:4', 'clearing:KZT', 20150, 'KZT')`,
        `payment {${key}}, ${state}, leg 1`,
        'no transfer',
        'hold of 201.50 KZT from agent:4 to clearing:KZT',
      ];
    }),
    [
      'a transfer without payment or movement',
      `insert into transfers values (123, 0, 3, 'fee', 'clearing:KZT', 'income:KZT', 100, 'KZT')`,
      'transfer 123, leg 3',
      'payment or movement 123',
      'none, but fee of 1.00 KZT from clearing:KZT to income:KZT',
    ],
    [
      'a movement that says another amount than its transfer',
      'update movements set amount_minor = -800 where operation_id = {movement}',
      'movement {movement}, leg 1',
      'correction of 8.00 KZT from agent:4 to settlement:KZT',
      'correction of 7.00 KZT from agent:4 to settlement:KZT',
    ],
    [
      'a movement without its transfer',
      'delete from transfers where operation_id = {movement}',
      'movement {movement}, leg 1',
      'correction of 7.00 KZT from agent:4 to settlement:KZT',
      'no transfer',
    ],
    [
      'a movement with a second transfer',
      `insert into transfers values ({movement}, 0, 2, 'fee', 'agent:4', 'income:KZT', 1, 'KZT')`,
      'movement {movement}, leg 2',
      'no transfer',
      'fee of 0.01 KZT from agent:4 to income:KZT',
    ],
    [
      'a missing unique key on the ids of agents',
      unique,
      'payments',
      'a valid unique key on agent_id, agent_transaction_id, shard',
      'none',
    ],
    [
      'a missing unique key on the legs of operations',
      'alter table transfers drop constraint transfers_pkey',
      'transfers',
      'a valid unique key on leg, operation_id, shard',
      'none',
    ],
    [
      'a second success of one agentTransactionId',
      `${unique}
       insert into payments select (jsonb_populate_record(p, jsonb_build_object('id', 1))).* from payments p where id = {succeeded};
       insert into transfers select (jsonb_populate_record(t, jsonb_build_object('operation_id', 1))).*
         from transfers t where operation_id = {succeeded}`,
      'agent 4, agentTransactionId 26801048196009',
      '1 payment',
      'payments 1, {succeeded}',
    ],
    [
      'a state that is none',
      `alter table payments drop constraint payments_state_check; update payments set state = 9 where id = {sending}`,
      'payment {sending}',
      '1, 2, 3, 4, 5, 6, 7, 8',
      '9',
    ],
    [
      'a code that does not fit the state',
      'update payments set code = 0 where id = {uncertain}',
      'payment {uncertain}, uncertain',
      '1',
      '0',
    ],
    [
      'a failure with a code that is no refusal',
      `${unguarded} update payments set code = 202 where id = {failed}`,
      'payment {failed}, failed',
      '4, 5, 7, 8, 130, 155, 241, 242, 250, 300',
      '202',
    ],
    [
      'an end without its moment',
      `alter table payments drop constraint payments_check; ${unguarded}
       update payments set final_at = null where id = {succeeded}`,
      'payment {succeeded}, succeeded',
      'final_at',
      'no final_at',
    ],
    [
      'a moment of the end without the end',
      'alter table payments drop constraint payments_check; update payments set final_at = now() where id = {sending}',
      'payment {sending}, sending',
      'no final_at',
      'final_at',
    ],
    [
      'a payment of an unknown agent',
      'update payments set agent_id = 99 where id = {terms}',
      'payment {terms}',
      'agent 99 on shard 0 in KZT',
      'no such agent',
    ],
    [
      "a payment in another currency than the agent's",
      `update payments set currency = 'USD' where id = {terms}`,
      'payment {terms}',
      'agent 4 on shard 0 in USD',
      'no such agent',
    ],
    ...(['uncertain', 'review:in_review', 'funds:awaiting_funds', 'terms:awaiting_terms'] as const).map(
      (name): (typeof cases)[number] => {
        const [key, state = key] = name.split(':') as [string, string?];
        return [
          `a payment ${state} that nothing moves on`,
          `delete from waiting where payment_id = {${key}}`,
          `payment {${key}}, ${state}`,
          'a waiting row',
          'neither a lease nor a waiting row that would move it on',
        ];
      },
    ),
    [
      'a payment uncertain that has a lease and no waiting row: an expired lease takes up only what is being sent',
      `update leases set payment_ids = payment_ids || {uncertain}::bigint; delete from waiting where payment_id = {uncertain}`,
      'payment {uncertain}, uncertain',
      'a waiting row',
      'neither a lease nor a waiting row that would move it on',
    ],
    [
      'a payment that nobody has been sending for long',
      `delete from leases; update payments set accepted_at = now() - interval '11 minutes' where id = {sending}`,
      'payment {sending}, sending',
      'a waiting row or a lease',
      'neither a lease nor a waiting row that would move it on',
    ],
    [
      'a waiting row of a payment that has ended',
      `insert into waiting (payment_id, shard, agent_id, what) values ({succeeded}, 0, 4, 'inquire')`,
      'waiting row of payment {succeeded}, for inquire',
      'sending or uncertain',
      'succeeded',
    ],
    [
      'a waiting row that waits for what the payment does not need',
      `update waiting set what = 'send' where payment_id = {review}`,
      'waiting row of payment {review}, for send',
      'sending or uncertain',
      'in_review',
    ],
    [
      'a waiting row without a payment',
      `insert into waiting (payment_id, shard, agent_id, what) values (5, 0, 4, 'funds')`,
      'waiting row of payment 5, for funds',
      'awaiting_funds',
      'no such payment of that agent',
    ],
    [
      'a waiting row under another agent',
      'update waiting set agent_id = 5 where payment_id = {funds}',
      'waiting row of payment {funds}, for funds',
      'awaiting_funds',
      'no such payment of that agent',
    ],
  ];

  it.each(cases)('names %s', async (_, damage, object, expected, found) => {
    const named = (text: string) => text.replace(/\{(\w+)\}/g, (_whole, name: string) => String(ids[name]));
    const problems = await verifyDamaged(damage);
    const facts = problems.map((each) => ({
      object: each.object,
      expected: each.expected,
      found: each.found,
    }));
    expect(facts).toContainEqual({ object: named(object), expected: named(expected), found: named(found) });
    for (const problem of problems) expect(problem.what).not.toBe('');
  });

  it('lets a payment be that a process accepted lately and is writing down now', async () => {
    expect(await verifyDamaged('delete from leases')).toEqual([]);
  });

  it('lets a payment be that is sent from the queue, however old', async () => {
    const problems = await verifyDamaged(
      `delete from leases; update payments set accepted_at = now() - interval '2 days' where id = {sending};
       insert into waiting (payment_id, shard, agent_id, what) values ({sending}, 0, 4, 'inquire')`,
    );
    expect(problems).toEqual([]);
  });

  it(`reports ${problemsMax} problems at most, in the order of their ids`, async () => {
    const problems = await verifyDamaged(
      `insert into transfers select n, 0, 1, 'fee', 'income:KZT', 'reward:4', 1, 'KZT' from generate_series(1, 300) n`,
    );
    expect(problems).toHaveLength(problemsMax);
    expect(problems[0]!.object).toBe('transfer 1, leg 1');
    expect(problems[99]!.object).toBe('transfer 100, leg 1');
  });

  it('takes the time that the books need, where the connection allows less to ordinary queries', async () => {
    const { options } = database.appOptions;
    const hasty = {
      ...database.appOptions,
      query_timeout: 1000,
      options: `${options} -c statement_timeout=800`,
    };
    const app = await openClient(hasty);
    await owner.query('begin');
    await owner.query('lock table transfers');
    const verifying = verify(app);
    await new Promise((done) => setTimeout(done, 1500));
    await owner.query('rollback');
    expect((await verifying).ok).toBe(true);
    await app.end();
  });

  it('compares every payment and transfer, whatever number of steps that takes', async () => {
    await owner.query('begin isolation level repeatable read');
    try {
      await owner.query(
        `insert into payments (id, shard, agent_id, agent_transaction_id, state, code, service_id, account, amount_to_minor,
           amount_from_minor, fee_minor, reward_minor, currency, fingerprint, agent_date, final_at)
         select n, 0, 4, n, 7, 130, 'P', '7', 100, 100, 0, 0, 'KZT', '${worker}', now(), now()
         from generate_series(1, 100000) n where n <> 50001`,
      );
      await owner.query(
        `insert into transfers values (50001, 0, 1, 'fee', 'income:KZT', 'reward:4', 1, 'KZT')`,
      );
      await owner.query(
        `insert into transfers values (${2n ** 62n}, 0, 1, 'fee', 'income:KZT', 'reward:4', 1, 'KZT')`,
      );
      const progress: bigint[] = [];
      const { counts, problems } = await verify(owner, (done) => progress.push(done));
      expect(problems.map(({ object }) => object)).toEqual([
        'transfer 50001, leg 1',
        `transfer ${2n ** 62n}, leg 1`,
      ]);
      expect(counts.payments).toBe(100_008n);
      expect(progress).toEqual([50_000n, 100_000n, 100_008n]);
    } finally {
      await owner.query('rollback');
    }
  });
});
