-- What lies at providers of ours. Paid in: people write it down. Spent: the transfers of payments, summed up to a moment
-- and from there on looked at. Where a provider tells its balance, that is kept beside it.

-- Transfers lie in the order in which they were made: a few pages tell where a minute is.
create index transfers_created on transfers using brin (created_at);

create table provider_deposits (
  deposit_id bigint generated always as identity primary key,
  provider_id text not null references providers,
  currency text not null check (currency ~ '^[A-Z]{3}$'),
  -- Below zero: taken back, or set right.
  amount_minor bigint not null check (amount_minor <> 0),
  document text not null check (document <> ''),
  operator text not null,
  at timestamptz not null default now(),
  unique (provider_id, document)
);

create table provider_spent (
  provider_id text not null,
  currency text not null,
  amount_minor bigint not null,
  primary key (provider_id, currency)
);
create table provider_spent_until (until timestamptz not null);

-- `amount_minor` null: asked, and not told yet.
create table provider_balances (
  provider_id text primary key references providers on delete cascade,
  asked_at timestamptz not null,
  told_at timestamptz,
  currency text,
  amount_minor bigint
);

create view provider_transfers as
  select split_part(credit_account, ':', 2) as provider_id, currency, amount_minor, created_at from transfers
  where credit_account like 'provider:%'
  union all
  select split_part(debit_account, ':', 2), currency, -amount_minor, created_at from transfers
  where debit_account like 'provider:%';

insert into provider_spent_until values (now() - interval '1 minute');
insert into provider_spent
  select provider_id, currency, sum(amount_minor)::bigint from provider_transfers, provider_spent_until u
  where created_at <= u.until group by 1, 2;

-- A balance that was told counts while it is young: older than half an hour it is only where the provider has ceased to tell.
create view provider_deposits_left as
  with paid as (
    select provider_id, currency, sum(amount_minor)::bigint as minor from provider_deposits group by 1, 2
  ), spent as (
    select provider_id, currency, sum(amount_minor)::bigint as minor from (
      select provider_id, currency, amount_minor from provider_spent
      union all
      select provider_id, currency, amount_minor from provider_transfers
      where created_at > (select until from provider_spent_until)
    ) as each group by 1, 2
  ), told as (
    select * from provider_balances where amount_minor is not null and told_at > now() - interval '30 minutes'
  ), known as (
    select provider_id, currency from paid union select provider_id, currency from told
  )
  select k.provider_id, k.currency, coalesce(p.minor, 0) as paid_in_minor, coalesce(s.minor, 0) as spent_minor,
    t.amount_minor as told_minor, t.told_at,
    coalesce(t.amount_minor, coalesce(p.minor, 0) - coalesce(s.minor, 0)) as left_minor
  from known k
  left join paid p using (provider_id, currency)
  left join spent s using (provider_id, currency)
  left join told t using (provider_id, currency);

-- Moves the sums on, an hour at most, and never into the last minute, whose transfers may still be on their way to their
-- commit. Answers whether there is more to do at once.
create function sum_provider_transfers() returns boolean language plpgsql as $$
declare
  v_since timestamptz;
  v_until timestamptz;
begin
  select until into v_since from provider_spent_until for update skip locked;
  if not found then return false; end if;
  v_until := least(now() - interval '1 minute', v_since + interval '1 hour');
  if v_until <= v_since then return false; end if;
  insert into provider_spent as s
    select t.provider_id, t.currency, sum(t.amount_minor)::bigint from provider_transfers t
    where t.created_at > v_since and t.created_at <= v_until group by 1, 2
    on conflict (provider_id, currency) do update set amount_minor = s.amount_minor + excluded.amount_minor;
  update provider_spent_until set until = v_until;
  return v_until < now() - interval '2 minutes';
end $$;

grant select, insert on provider_deposits to tolem_app;
grant select, insert, update on provider_spent, provider_spent_until, provider_balances to tolem_app;
grant select on provider_transfers, provider_deposits_left to tolem_app;
