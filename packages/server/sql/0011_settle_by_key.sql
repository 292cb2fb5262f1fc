-- As before, but each row is locked and looked at by its key, one after the other in order: joined to the input, a plan
-- made while the tables were young read all payments for every batch with an outcome that was no success.
create or replace function settle_payments(
  p_shard smallint,
  p_id bigint[], p_agent_id bigint[], p_from_mask integer[], p_held boolean[], p_fence integer[], p_state smallint[],
  p_code smallint[], p_reason text[], p_reference text[], p_shown text[], p_what text[], p_next_ms integer[],
  p_acknowledged boolean[], p_event_kind text[], p_event text[], p_leases bigint[]
) returns table (
  n bigint, moved boolean, id bigint, state smallint, code smallint, fingerprint uuid, reason text,
  accepted_at timestamptz, final_at timestamptz, shown json
) language plpgsql as $$
#variable_conflict use_column
begin
  perform 1
    from (
      select distinct t.agent_id from unnest(p_agent_id, p_state) as t (agent_id, state)
      where t.state in (7, 8) order by t.agent_id
    ) i,
    lateral (select 1 from agent_balances b where b.agent_id = i.agent_id and b.shard = p_shard for update) b;
  -- A fence is compared with what is committed now, and not with what was before the row could be had.
  perform 1
    from (select t.id from unnest(p_id, p_state) as t (id, state) where t.state <> 6 order by t.id) i,
    lateral (select 1 from payments p where p.id = i.id and p.shard = p_shard for update) p;

  return query
  with input as materialized (
    select * from unnest(
      p_id, p_agent_id, p_from_mask, p_held, p_fence, p_state, p_code, p_reason, p_reference, p_shown, p_what, p_next_ms,
      p_acknowledged, p_event_kind, p_event
    ) with ordinality as t (
      id, agent_id, from_mask, held, fence, state, code, reason, reference, shown, what, next_ms, acknowledged,
      event_kind, event, n
    )
  ), moved as materialized (
    update payments p set
      state = i.state,
      code = case when p.final_at is null then i.code else p.code end,
      reason = coalesce(i.reason, p.reason),
      provider_reference = coalesce(i.reference, p.provider_reference),
      shown = coalesce(i.shown::json, p.shown),
      final_at = case when p.final_at is null and i.state in (6, 7) then now() else p.final_at end
    from input i
    where p.id = i.id and p.shard = p_shard and ((1 << p.state) & i.from_mask) <> 0
      and (i.state = 6 or i.fence is null or i.fence = coalesce(
        (select w.tries from waiting w where w.payment_id = i.id and w.shard = p_shard), 0))
    returning i.n, i.held, i.what, i.next_ms, i.acknowledged, p.id, p.agent_id, p.state, p.code, p.provider_id, p.amount_to_minor,
      p.fee_minor, p.reward_minor, p.currency, p.fingerprint, p.reason, p.accepted_at, p.final_at, p.shown
  ), legs as (
    insert into transfers (operation_id, shard, leg, kind, debit_account, credit_account, amount_minor, currency)
    select m.id, p_shard, 2, 'post', 'clearing:' || m.currency, 'provider:' || m.provider_id || ':' || m.currency,
      m.amount_to_minor, m.currency from moved m where m.state = 6
    union all
    select m.id, p_shard, 3, 'fee', 'clearing:' || m.currency, 'income:' || m.currency, m.fee_minor, m.currency
    from moved m where m.state = 6 and m.fee_minor > 0
    union all
    select m.id, p_shard, 4, 'reward', 'income:' || m.currency, 'reward:' || m.agent_id, m.reward_minor, m.currency
    from moved m where m.state = 6 and m.reward_minor > 0
    union all
    select m.id, p_shard, 2, 'void', 'clearing:' || m.currency, 'agent:' || m.agent_id,
      m.amount_to_minor + m.fee_minor, m.currency from moved m where m.state = 7 and m.held
    union all
    select m.id, p_shard, 5, 'reversal', 'provider:' || m.provider_id || ':' || m.currency, 'agent:' || m.agent_id,
      m.amount_to_minor, m.currency from moved m where m.state = 8
    union all
    select m.id, p_shard, 6, 'fee_reversal', 'income:' || m.currency, 'agent:' || m.agent_id, m.fee_minor, m.currency
    from moved m where m.state = 8 and m.fee_minor > 0
    union all
    select m.id, p_shard, 7, 'reward_reversal', 'reward:' || m.agent_id, 'income:' || m.currency, m.reward_minor,
      m.currency from moved m where m.state = 8 and m.reward_minor > 0
  ), credited as (
    update agent_balances b set available_minor = b.available_minor + s.total
    from (
      select m.agent_id, sum(m.amount_to_minor + m.fee_minor)::bigint as total
      from moved m where m.state = 8 or (m.state = 7 and m.held) group by m.agent_id
    ) s
    where b.agent_id = s.agent_id and b.shard = p_shard
  ), queued as (
    insert into waiting (payment_id, shard, agent_id, what, next_at, attempt_until)
    select m.id, p_shard, m.agent_id, m.what, now() + m.next_ms * interval '1 ms',
      case when m.acknowledged then 'infinity' else now() end
    from moved m where m.state = 5
    on conflict (payment_id, shard) do update set
      what = excluded.what, next_at = excluded.next_at, attempt_until = excluded.attempt_until
  ), told as (
    insert into payment_events (payment_id, shard, kind, data)
    select i.id, p_shard, i.event_kind, i.event::json from input i join moved m on m.n = i.n where i.event is not null
  ), rest as materialized (
    select i.* from input i where not exists (select 1 from moved m where m.n = i.n)
  ), unmoved as materialized (
    select r.n, p.* from rest r,
      lateral tell_unmoved(p_shard, r.id, r.fence, r.state, r.code, r.reference, r.what, r.event) p
  ), released as (
    delete from leases l where l.id = any (p_leases) and l.shard = p_shard
  )
  select m.n, true, m.id, m.state, m.code, m.fingerprint, m.reason, m.accepted_at, m.final_at, m.shown from moved m
  union all
  select u.n, false, u.id, u.state, u.code, u.fingerprint, u.reason, u.accepted_at, u.final_at, u.shown from unmoved u;

  -- Read anew, since a row may have been queued by the commit that the update above waited for.
  with unqueued as (
    delete from waiting w
    where w.payment_id = any (p_id) and w.shard = p_shard
      and (select p.state from payments p where p.id = w.payment_id and p.shard = p_shard) in (6, 7, 8)
    returning w.payment_id, w.what, w.attempt_until
  )
  insert into contradictions (payment_id, shard, kind, reference, told)
  select u.payment_id, p_shard, 'executed_unsent', i.reference, i.event::json
  from unqueued u
  join unnest(p_id, p_state, p_fence, p_reference, p_event) as i (id, state, fence, reference, event) on i.id = u.payment_id
  where u.what = 'send' and u.attempt_until < 'infinity' and i.state = 6 and i.fence is not null
  on conflict do nothing;
end $$;
