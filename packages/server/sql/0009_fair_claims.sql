-- As before, but for providers that have enough under way: one that answers nobody must not keep the inquiries of others
-- waiting. The function of before stays for processes of before.
create function claim_waiting(p_limit integer, p_lease_ms integer, p_busy text[])
returns table (
  what text, tries integer, id bigint, shard smallint, agent_id bigint, agent_transaction_id bigint, state smallint,
  service_id text, provider_id text, account text, amount_to_minor bigint, currency text, details json, shown json,
  accepted_at timestamptz, attempt_over_ms bigint
) language sql as $$
  with due as materialized (
    select w.payment_id, w.shard, w.what, w.attempt_until
    from waiting w join payments p on p.id = w.payment_id and p.shard = w.shard
    where w.what in ('send', 'inquire') and w.next_at <= now() and p.provider_id <> all (p_busy)
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
