/**
 * A database as it is after years: payments that are done, one every 4 s until now, with their transfers and events, of
 * the given agents, under ids in no order. Keys and indexes are left out while it is written and made again afterwards.
 */

const portion = 1_000_000;
const keys = {
  payments_pkey: 'alter table payments add constraint payments_pkey primary key (id, shard)',
  payments_agent_id_agent_transaction_id_shard_key:
    'alter table payments add constraint payments_agent_id_agent_transaction_id_shard_key unique (agent_id, agent_transaction_id, shard)',
  transfers_pkey:
    'alter table transfers add constraint transfers_pkey primary key (operation_id, leg, shard)',
};

/** Every agentTransactionId is this and a number below 2^36 more. */
const idBase = 10n ** 17n;
const multiplier = 27_182_818_285n;
const modulus = 2n ** 36n;

/** Of the payment with the number n. The multiplier is odd: different n below 2^36 have different ids, in no order. */
export function storedId(n) {
  return idBase + ((n * multiplier) % modulus);
}

/** The agent of the payment with the number n, of so many: an index. */
export function storedAgent(n, agents) {
  return Number(n % BigInt(agents));
}

/**
 * Answers with the number of the first payment; the others follow. `client`: of the owner. `agents`: ids; `count`:
 * payments. Each is for 200.00; its words have the given fingerprint.
 */
export async function fill(client, agents, count, fingerprint, step) {
  for (const [name] of Object.entries(keys))
    await client.query(`alter table ${name.split('_')[0]} drop constraint ${name}`);
  await client.query('drop index payment_events_payment');
  await client.query(
    "select set_config('synchronous_commit', 'off', false), set_config('maintenance_work_mem', '1GB', false)",
  );
  const { rows } = await client.query('select last_value::int8 as last from transaction_id_seq');
  const first = rows[0].last + 1n;
  for (let done = 0; done < count; done += portion) {
    const size = Math.min(portion, count - done);
    const from = first + BigInt(done);
    await client.query(written, [from, from + BigInt(size) - 1n, agents, fingerprint, first + BigInt(count)]);
    step(`${done + size} payments written`);
  }
  await client.query("select setval('transaction_id_seq', $1)", [first + BigInt(count)]);
  await client.query(
    `update agent_balances b set available_minor = available_minor - s.total
     from (select agent_id, sum(amount_to_minor)::bigint as total from payments group by agent_id) s
     where b.agent_id = s.agent_id`,
  );
  step('making the indexes');
  for (const text of Object.values(keys)) await client.query(text);
  await client.query('create index payment_events_payment on payment_events (payment_id, shard)');
  step('vacuum and analyze');
  for (const table of ['payments', 'transfers', 'payment_events'])
    await client.query(`vacuum (freeze, analyze) ${table}`);
  await client.query('checkpoint');
  await client.query('reset synchronous_commit');
  return first;
}

const written = `
  with made as (
    select n, n * 64 as id, ($3::bigint[])[1 + n % cardinality($3::bigint[])] as agent_id,
      ${idBase} + n * ${multiplier} % ${modulus} as agent_transaction_id, now() - ($5 - n) * interval '4 s' as at
    from generate_series($1::bigint, $2::bigint) as n
  ), paid as (
    insert into payments (id, shard, agent_id, agent_transaction_id, state, code, service_id, provider_id, account,
      amount_to_minor, amount_from_minor, fee_minor, reward_minor, currency, fingerprint, agent_date, accepted_at, final_at,
      provider_reference, details)
    select id, 0, agent_id, agent_transaction_id, 6, 0, 'BI', 'bench-instant', '7770111118',
      20000, 20000, 0, 0, 'KZT', $4::uuid, at, at, at, 'instant', '{"serviceCode":"mobile"}'
    from made
  ), moved as (
    insert into transfers (operation_id, shard, leg, kind, debit_account, credit_account, amount_minor, currency, created_at)
    select id, 0, 1, 'hold', 'agent:' || agent_id, 'clearing:KZT', 20000, 'KZT', at from made
    union all
    select id, 0, 2, 'post', 'clearing:KZT', 'provider:bench-instant:KZT', 20000, 'KZT', at from made
  )
  insert into payment_events (payment_id, shard, at, kind, data)
  select id, 0, at, 'provider_pay', json_build_object('call', 'pay', 'startedAt', at, 'durationMs', 3, 'httpStatus', 200,
    'outcome', 'executed', 'detail', null) from made
`;
