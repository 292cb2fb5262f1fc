-- Outcomes that contradict what a payment is already reach people: a queue for operators, written by the commit that
-- finds the contradiction. settle_payments keeps its arguments and result, so that processes of the version before go on.

-- A row for each thing that a provider told and that cannot be true beside what was told or known before; told again, it
-- adds nothing, closed or not. The payment and the money stay as they are: only people can find out which is true.
create table contradictions (
  contradiction_id bigint generated always as identity primary key,
  payment_id bigint not null,
  shard smallint not null,
  -- executed_after_failure: told executed, and it had failed; its money is back with the agent.
  -- refused_after_success: told refused, and it had succeeded.
  -- executed_twice: told executed again, under another reference of the provider's.
  -- executed_unsent: told executed, and it was proven that nothing had reached the provider or been executed there.
  kind text not null check (kind in ('executed_after_failure', 'refused_after_success', 'executed_twice', 'executed_unsent')),
  -- The provider's, of the execution it told of.
  reference text,
  told json,
  at timestamptz not null default now(),
  closed_at timestamptz,
  closed_by text,
  reason text,
  unique nulls not distinct (payment_id, kind, reference, shard),
  check ((closed_at is null) = (closed_by is null) and (closed_at is null) = (reason is null))
);
create index contradictions_open on contradictions (contradiction_id) where closed_at is null;
grant select, insert, update (closed_at, closed_by, reason) on contradictions to tolem_app;
grant usage on sequence contradictions_contradiction_id_seq to tolem_app;

-- What an outcome that moved nothing was to the payment as it is now, and the payment. It is read anew: the statement that
-- calls may have waited for another commit, and still sees what was before it. Without a fence it is not a provider's word.
create function tell_unmoved(
  p_shard smallint, p_id bigint, p_fence integer, p_state smallint, p_code smallint, p_reference text, p_what text,
  p_event text
) returns setof payments language plpgsql as $$
declare
  v_payment payments;
  v_kind text;
begin
  select * into v_payment from payments p where p.id = p_id and p.shard = p_shard;
  if not found then
    return;
  end if;
  v_kind := case
    when p_fence is null then null
    when p_state = 6 and v_payment.state in (1, 2, 3) then 'executed_unsent'
    when p_state = 6 and v_payment.state = 6 and p_reference <> v_payment.provider_reference then 'executed_twice'
    when p_state = 6 and v_payment.state = 7 then 'executed_after_failure'
    when p_state = 7 and v_payment.state = 6 then 'refused_after_success'
    -- Told executed before, and now it is proven that the request never left.
    when p_state = 5 and p_what = 'send' and v_payment.state = 6 then 'executed_unsent'
  end;
  if v_kind is not null then
    insert into contradictions (payment_id, shard, kind, reference, told)
      values (p_id, p_shard, v_kind, case p_state when 5 then v_payment.provider_reference else p_reference end,
        p_event::json) on conflict do nothing;
  end if;
  -- Not moved because it is there already: the same outcome told again, which is no news.
  if p_event is not null and (v_kind is not null or v_payment.state <> p_state or v_payment.code <> p_code) then
    insert into payment_events (payment_id, shard, kind, data) values (p_id, p_shard, 'not_moved', p_event::json);
  end if;
  return next v_payment;
end $$;

-- Moves payments to where an outcome takes them: from any state in the mask, once; whoever comes second is told what the
-- payment is. `held` says whether the states of the mask hold money (they must agree on it). An outcome that proves less
-- than execution counts only from whoever holds the payment: `fence` is the number of claims its sender knows of (0: the
-- process that accepted it), null for decisions that need none. For uncertain, `what` and `next_ms` queue the next step.
-- Returns every payment of the input as it is now. A provider's word that contradicts goes to the operators' queue; one
-- such moves: executed, while the payment is to be sent because nothing was executed. A row that is to be sent as a
-- question (attempt_until is infinity then) says no such thing.
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
  perform 1 from agent_balances b
    where b.shard = p_shard and b.agent_id in (
      select t.agent_id from unnest(p_agent_id, p_state) as t (agent_id, state) where t.state in (7, 8))
    order by b.agent_id for update;
  -- A fence is compared with what is committed now, and not with what was before the row could be had.
  perform 1 from payments p
    where p.shard = p_shard and p.id in (select t.id from unnest(p_id, p_state) as t (id, state) where t.state <> 6)
    order by p.id for update;

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
    delete from waiting w using payments p
    where w.payment_id = any (p_id) and w.shard = p_shard and p.id = w.payment_id and p.shard = p_shard
      and p.state in (6, 7, 8)
    returning w.payment_id, w.what, w.attempt_until
  )
  insert into contradictions (payment_id, shard, kind, reference, told)
  select u.payment_id, p_shard, 'executed_unsent', i.reference, i.event::json
  from unqueued u
  join unnest(p_id, p_state, p_fence, p_reference, p_event) as i (id, state, fence, reference, event) on i.id = u.payment_id
  where u.what = 'send' and u.attempt_until < 'infinity' and i.state = 6 and i.fence is not null
  on conflict do nothing;
end $$;

-- Takes due rows for sending or inquiring. A row taken for sending becomes one to inquire about in the same commit: whoever
-- takes it after a crash must ask before anything is sent again, and disbelieve "not found" until this lease is over.
-- A payment that is just being settled is passed by: whoever settles has the payment first, and then its row here.
create or replace function claim_waiting(p_limit integer, p_lease_ms integer)
returns table (
  what text, tries integer, id bigint, shard smallint, agent_id bigint, agent_transaction_id bigint, state smallint,
  service_id text, provider_id text, account text, amount_to_minor bigint, currency text, details json, shown json,
  accepted_at timestamptz, attempt_over_ms bigint
) language sql as $$
  with due as materialized (
    select w.payment_id, w.shard, w.what, w.attempt_until
    from waiting w join payments p on p.id = w.payment_id and p.shard = w.shard
    where w.what in ('send', 'inquire') and w.next_at <= now()
    order by w.next_at limit p_limit for update skip locked
  ), taken as (
    update waiting w set next_at = now() + p_lease_ms * interval '1 ms', what = 'inquire', tries = w.tries + 1,
      attempt_until = case d.what when 'send' then now() + p_lease_ms * interval '1 ms' else w.attempt_until end
    from due d where w.payment_id = d.payment_id and w.shard = d.shard
    returning d.what, w.tries, w.payment_id, w.shard, d.attempt_until
  ), resent as (
    update payments p set state = 4 from taken t
    where t.what = 'send' and p.id = t.payment_id and p.shard = t.shard and p.state = 5
  )
  select t.what, t.tries, p.id, p.shard, p.agent_id, p.agent_transaction_id, p.state, p.service_id, p.provider_id,
    p.account, p.amount_to_minor, p.currency, p.details, p.shown, p.accepted_at,
    (extract(epoch from now() - least(t.attempt_until, now() + interval '1 year')) * 1000)::bigint
  from taken t join payments p on p.id = t.payment_id and p.shard = t.shard;
$$;

-- What a claim found does not end the payment: when to look again and whether it may be sent then. p_attempt: 'over' (the
-- claim's own request has ended), 'acknowledged' (the provider took it) or 'kept'. False: the claim is no longer the
-- newest, nothing was changed.
create or replace function postpone_waiting(
  p_shard smallint, p_id bigint, p_fence integer, p_what text, p_next_ms integer, p_attempt text,
  p_event_kind text, p_event text
) returns boolean language sql as $$
  -- The payment before its row in the queue, as all others do.
  select 1 from payments p where p.id = p_id and p.shard = p_shard for update;
  with put as (
    update waiting w set what = p_what, next_at = now() + p_next_ms * interval '1 ms',
      attempt_until = case p_attempt when 'over' then now() when 'acknowledged' then 'infinity' else w.attempt_until end
    where w.payment_id = p_id and w.shard = p_shard and w.tries = p_fence and w.what = 'inquire'
    returning w.payment_id
  ), moved as (
    update payments p set state = 5 from put where p.id = put.payment_id and p.shard = p_shard and p.state = 4
  ), told as (
    insert into payment_events (payment_id, shard, kind, data) select payment_id, p_shard, p_event_kind, p_event::json from put
  )
  select exists (select 1 from put);
$$;
