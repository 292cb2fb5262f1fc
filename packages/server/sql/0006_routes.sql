-- The ways by which a service is executed. A service without a row here goes to its own provider (services.provider_id),
-- as one route without bounds; with rows here, they are all of its routes.
create table routes (
  service_id text not null references services on delete cascade,
  provider_id text not null references providers,
  provider_service_code text not null check (provider_service_code <> ''),
  -- Our name of an extra -> the provider's.
  fields jsonb not null default '{}' check (jsonb_typeof(fields) = 'object'),
  priority smallint not null default 0 check (priority between 0 and 999),
  share integer not null default 1 check (share between 1 and 1000000),
  -- In the service's currency; 0: no bound.
  amount_min_minor bigint not null default 0 check (amount_min_minor >= 0),
  amount_max_minor bigint not null default 0 check (amount_max_minor >= 0),
  day_max_minor bigint check (day_max_minor > 0),
  cost_ppm integer not null default 0 check (cost_ppm between 0 and 1000000),
  cost_fixed_minor bigint not null default 0 check (cost_fixed_minor >= 0),
  is_on boolean not null default true,
  primary key (service_id, provider_id)
);
create trigger reference_changed after insert or update or delete or truncate on routes
  for each statement execute function reference_changed();

-- What went by each route in a day of the centre's zone, summed by processes every second: what a route's bound of the day
-- is held against. Not the books.
create table route_days (
  service_id text not null,
  provider_id text not null,
  day date not null,
  amount_minor bigint not null,
  primary key (day, service_id, provider_id)
);

-- Another provider for a payment that nobody has executed: only the claim that is about to send it may say so, and only
-- while it is the newest one. False: it is not, nothing was changed.
create function reroute_payment(
  p_shard smallint, p_id bigint, p_fence integer, p_provider_id text, p_details text, p_event text
) returns boolean language sql as $$
  select 1 from payments p where p.id = p_id and p.shard = p_shard for update;
  with claimed as (
    select w.payment_id from waiting w
    where w.payment_id = p_id and w.shard = p_shard and w.tries = p_fence and w.what = 'inquire' and w.next_at > now()
    for update
  ), moved as (
    update payments p set provider_id = p_provider_id, details = p_details::json from claimed c
    where p.id = c.payment_id and p.shard = p_shard and p.state = 4
    returning p.id
  ), told as (
    insert into payment_events (payment_id, shard, kind, data) select id, p_shard, 'rerouted', p_event::json from moved
  )
  select exists (select 1 from moved);
$$;

grant select, insert, update, delete on routes, route_days to tolem_app;
