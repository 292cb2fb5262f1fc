-- What is told of payments, by month: it takes more of the disk than the payments, and is asked for less the older it is. A
-- month that is a table of its own can be kept elsewhere or taken away at once, without a trace in the others. Payments and
-- transfers stay whole: an id answers for ever, and no key over several tables could promise that it is taken once.

alter table payment_events rename to payment_events_first;
alter index payment_events_payment rename to payment_events_first_payment;

create table payment_events (
  payment_id bigint not null,
  shard smallint not null,
  at timestamptz not null default now(),
  kind text not null,
  data json not null
) partition by range (at);
create index payment_events_payment on payment_events (payment_id, shard);
grant select, insert on payment_events to tolem_app;
revoke all on payment_events_first from tolem_app;

-- All of what there was, until the bound of 0003, which is proven: nothing is read here.
do $$
begin
  execute format('alter table payment_events attach partition payment_events_first for values from (minvalue) to (%L)', (
    select substring(pg_get_constraintdef(oid) from '''([^'']+)''')::timestamptz from pg_constraint
    where conname = 'payment_events_first_bound' and conrelid = 'payment_events_first'::regclass));
end $$;
alter table payment_events_first drop constraint payment_events_first_bound;

-- For a month that nobody has made a table for: nothing is lost, it only stays together with others of its kind.
create table payment_events_rest partition of payment_events default;

-- Makes the tables of this month and the next ones, as far as they are missing, and answers how many. A table that is in use
-- is not waited for: the months are made ahead, and there is a next time.
create function make_event_months(p_ahead integer) returns integer
language plpgsql security definer set search_path = tolem, pg_temp set lock_timeout = '200ms' as $$
declare
  v_first timestamp := date_trunc('month', now() at time zone 'UTC');
  v_month timestamp;
  v_name text;
  v_made integer := 0;
begin
  if not pg_try_advisory_xact_lock(7405662021) then
    return 0;
  end if;
  for v_month in select generate_series(v_first, v_first + make_interval(months => least(p_ahead, 120)), interval '1 month') loop
    v_name := 'payment_events_' || to_char(v_month, 'YYYY_MM');
    continue when to_regclass('tolem.' || v_name) is not null;
    begin
      execute format('create table %I (like payment_events including all)', v_name);
      execute format('alter table payment_events attach partition %I for values from (%L) to (%L)', v_name,
        v_month at time zone 'UTC', (v_month + interval '1 month') at time zone 'UTC');
      v_made := v_made + 1;
    exception
      -- It is the first partition's, or some of it lies with the rest already, and then all of it will.
      when invalid_object_definition or check_violation then null;
      when lock_not_available then return v_made;
    end;
  end loop;
  return v_made;
end $$;
revoke execute on function make_event_months(integer) from public;
grant execute on function make_event_months(integer) to tolem_app;
