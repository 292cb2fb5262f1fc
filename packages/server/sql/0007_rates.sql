-- Rates with what they were made of, how old they may become, and where they are fetched from.

-- Of a pair, beside its rates: these may be changed, the rates may not.
create table rate_pairs (
  from_currency text not null check (from_currency ~ '^[A-Z]{3}$'),
  to_currency text not null check (to_currency ~ '^[A-Z]{3}$' and to_currency <> from_currency),
  -- Millionths by which the centre sells dearer than the market.
  margin_ppm integer not null default 0 check (margin_ppm between 0 and 1000000),
  -- An older rate is not sold by; null: any age.
  age_max_s integer check (age_max_s > 0),
  -- The feed may move the rate by so many millionths at once; more is for people to look at.
  jump_max_ppm integer not null default 50000 check (jump_max_ppm between 1 and 1000000),
  fed boolean not null default false,
  primary key (from_currency, to_currency)
);
create trigger reference_changed after insert or update or delete or truncate on rate_pairs for each statement execute function reference_changed();

-- rate_e10 stays what is sold by. Absent in rates from before this: the market's rate was the same, and of that moment.
alter table rates
  add column market_e10 bigint check (market_e10 > 0),
  add column margin_ppm integer not null default 0,
  add column source text not null default 'hand' check (source in ('hand', 'file', 'feed')),
  -- The moment of which the market's rate is; the age counts from it.
  add column quoted_at timestamptz;

-- One row, which whoever fetches the feed takes by moving next_at ahead.
create table rate_feed (
  only_row boolean primary key default true check (only_row),
  next_at timestamptz not null default now(),
  tried_at timestamptz,
  -- When the feed was last understood, and of which date it was.
  read_at timestamptz,
  feed_date date,
  problem text,
  -- Pairs that did not follow the feed, and why: {"KZT/USD": "…"}.
  held jsonb not null default '{}'
);
insert into rate_feed default values;

grant select, insert, update on rate_pairs to tolem_app;
grant select, update on rate_feed to tolem_app;
