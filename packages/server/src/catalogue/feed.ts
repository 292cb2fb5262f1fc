/**
 * Rates fetched by schedule. Of all processes one fetches, by taking the one row of rate_feed; what it reads moves the
 * pairs that are to follow the feed, and what is broken, old or sudden moves nothing and is told.
 */
import type pg from 'pg';
import { changing, type Queryable } from '../audit.js';
import type { FeedRates } from '../core/catalogue.js';
import { rateScale } from '../core/money.js';
import { addRate, type MarketRate, type Pair, type RateRecord, ratesOf, readPairs } from './rates.js';

export interface FeedParts {
  readonly pool: pg.Pool;
  readonly everyMs: number;
  /** Fetches and reads; its error says in plain words why not. */
  readonly read: (signal: AbortSignal) => Promise<FeedRates>;
  /** The process leaves: another one is to fetch. */
  readonly signal: AbortSignal;
  readonly log: { info(facts: object, message: string): void; warn(facts: object, message: string): void };
}

export interface FeedState {
  readonly nextAt: Date;
  readonly triedAt: Date | null;
  /** When it was last understood. */
  readonly readAt: Date | null;
  /** The last date that it was of. */
  readonly feedDate: string | null;
  readonly problem: string | null;
  /** By pair, why it does not follow. */
  readonly held: Readonly<Record<string, string>>;
}

const operator = 'feed';
/** Where the dates of the feed are days. */
const zone = 'Asia/Almaty';
/** Longer than a fetch takes; then another process may try. */
const leaseMs = 60_000;
const retryMs = 300_000;
/** Rates are told some days ahead; a date beyond that is a mistake. */
const daysAheadMax = 7;

/** Fetches when it is time to and nobody else does. */
export async function followFeed({ pool, everyMs, read, signal, log }: FeedParts): Promise<void> {
  const { rows: taken } = await pool.query<{ now: Date }>(
    `update rate_feed set next_at = now() + $1 * interval '1 ms', tried_at = now() where next_at <= now()
     returning now() as now`,
    [leaseMs],
  );
  if (!taken[0]) return;
  const { now } = taken[0];
  const before = await readFeedState(pool);
  const { feed, problem } = await read(signal).then(
    (feed) => ({ feed, problem: problemOf(feed, before, now) }),
    (error: Error) => ({ feed: null, problem: error.message }),
  );
  if (signal.aborted) {
    await pool.query('update rate_feed set next_at = now()');
    return;
  }
  const held = feed && !problem ? await takeFeed(pool, feed) : before.held;
  await pool.query(
    `update rate_feed set next_at = now() + $1 * interval '1 ms', problem = $2, held = $3,
       read_at = case when $2::text is null then now() else read_at end,
       feed_date = case when $2::text is null then $4::date else feed_date end`,
    [problem ? Math.min(everyMs, retryMs) : everyMs, problem, JSON.stringify(held), feed?.date ?? null],
  );
  // The database remembers what was told, so that it is told once, whoever fetches.
  if (problem && problem !== before.problem)
    log.warn({ problem }, 'the feed of rates cannot be used; the rates stay as they are');
  if (!problem && before.problem) log.info({}, 'the feed of rates can be used again');
  for (const [pair, why] of Object.entries(held)) {
    if (before.held[pair] !== why)
      log.warn({ pair, why }, 'the rate does not follow the feed: look at it and set it (tolem rate set)');
  }
}

function problemOf(feed: FeedRates, before: FeedState, now: Date): string | null {
  const aheadMs = Date.parse(feed.date) - now.getTime();
  if (aheadMs > daysAheadMax * 86_400_000) return `it is of ${feed.date}, which is too far ahead`;
  if (before.feedDate !== null && feed.date < before.feedDate)
    return `it is of ${feed.date}, and was of ${before.feedDate} before`;
  return null;
}

/** Answers by pair why it does not follow. */
async function takeFeed(pool: pg.Pool, feed: FeedRates): Promise<Record<string, string>> {
  return changing(pool, operator, async (tx, audit) => {
    const { rows } = await tx.query<{ now: Date; quotedAt: Date }>(
      'select now() as now, $1::date::timestamp at time zone $2 as "quotedAt"',
      [feed.date, zone],
    );
    const { now, quotedAt } = rows[0]!;
    const held: Record<string, string> = {};
    for (const pair of (await readPairs(tx)).filter(({ fed }) => fed)) {
      const { fromCurrency, toCurrency, marginPpm, jumpMaxPpm } = pair;
      const name = `${fromCurrency}/${toCurrency}`;
      const market = marketOf(pair, feed);
      const made = market && ratesOf(market, marginPpm);
      if (!made) {
        held[name] = market ? 'the rate cannot be written in ten decimals' : 'the feed does not have it';
        continue;
      }
      const newest = await newestRate(tx, pair);
      if (newest && newest.quotedAt > quotedAt) continue;
      if (newest && newest.quotedAt.getTime() === quotedAt.getTime()) {
        const same = newest.marketE10 === made.marketE10 && newest.marginPpm === marginPpm;
        if (same || newest.source !== 'feed') continue;
      }
      if (newest && isJump(newest.marketE10, made.marketE10, jumpMaxPpm)) {
        held[name] = `on ${feed.date} it jumps by more than ${jumpMaxPpm / 10_000} percent`;
        continue;
      }
      await addRate(tx, audit, {
        fromCurrency,
        toCurrency,
        ...made,
        marginPpm,
        source: 'feed',
        validFrom: quotedAt > now ? quotedAt : null,
        quotedAt,
        operator,
      });
    }
    return held;
  });
}

function marketOf(pair: Pair, { currency, prices }: FeedRates): MarketRate | null {
  const { fromCurrency, toCurrency } = pair;
  const sold = fromCurrency === currency ? prices.get(toCurrency) : undefined;
  if (sold) return { ...pair, numerator: sold.units * rateScale, denominator: sold.priceE10 };
  const bought = toCurrency === currency ? prices.get(fromCurrency) : undefined;
  return bought ? { ...pair, numerator: bought.priceE10, denominator: bought.units * rateScale } : null;
}

function isJump(beforeE10: bigint, afterE10: bigint, maxPpm: number): boolean {
  const moved = afterE10 > beforeE10 ? afterE10 - beforeE10 : beforeE10 - afterE10;
  return moved * 1_000_000n > beforeE10 * BigInt(maxPpm);
}

async function newestRate(
  tx: Queryable,
  { fromCurrency, toCurrency }: Pair,
): Promise<Pick<RateRecord, 'marketE10' | 'marginPpm' | 'source' | 'quotedAt'> | null> {
  const { rows } = await tx.query(
    `select coalesce(market_e10, rate_e10) as "marketE10", margin_ppm as "marginPpm", source,
       coalesce(quoted_at, valid_from) as "quotedAt"
     from rates where from_currency = $1 and to_currency = $2
     order by coalesce(quoted_at, valid_from) desc, rate_id desc limit 1`,
    [fromCurrency, toCurrency],
  );
  return rows[0] ?? null;
}

export async function readFeedState(db: Queryable): Promise<FeedState> {
  const { rows } = await db.query<FeedState>(
    `select next_at as "nextAt", tried_at as "triedAt", read_at as "readAt", feed_date::text as "feedDate", problem, held
     from rate_feed`,
  );
  return rows[0]!;
}
