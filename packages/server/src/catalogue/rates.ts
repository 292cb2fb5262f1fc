/**
 * Conversion rates. Rows are only added: of a pair the newest one that has begun is sold by, the older ones are its
 * history. What it is made of is the market's rate and the pair's margin.
 */
import type pg from 'pg';
import { z } from 'zod';
import { type Audit, changing, type Database, type Queryable, Refusal } from '../audit.js';
import type { SellingRate } from '../core/catalogue.js';
import { formatRate, parseRate, rateScale, soldRate } from '../core/money.js';

export interface Pair {
  readonly fromCurrency: string;
  readonly toCurrency: string;
}

/** The market's rate, exactly: one unit of fromCurrency buys `numerator / denominator` of toCurrency. */
export interface MarketRate extends Pair {
  readonly numerator: bigint;
  readonly denominator: bigint;
  /** Absent: from now on. */
  readonly validFrom?: Date | undefined;
}

export interface RateRecord extends Pair {
  /** What one unit of fromCurrency buys where it is sold, scaled by 10^10. */
  readonly rateE10: bigint;
  readonly marketE10: bigint;
  readonly marginPpm: number;
  readonly source: 'hand' | 'file' | 'feed';
  readonly validFrom: Date;
  /** The moment of which the market's rate is. */
  readonly quotedAt: Date;
  readonly operator: string;
}

/** A rate as it stands now. */
export interface CurrentRate extends RateRecord {
  readonly ageS: number;
  /** Null: any age. */
  readonly ageMaxS: number | null;
  readonly tooOld: boolean;
}

export interface PairSettings {
  readonly marginPpm: number;
  readonly ageMaxS: number | null;
  /** More than that, and the feed is not followed by itself. */
  readonly jumpMaxPpm: number;
  readonly fed: boolean;
}

const plainPair: PairSettings = { marginPpm: 0, ageMaxS: null, jumpMaxPpm: 50_000, fed: false };
const ratesInFileMax = 10_000;
const problemsShownMax = 20;
const rateE10Max = 2n ** 63n - 1n;

/** 0.0021 of the other for one. */
export function direct(rateE10: bigint): Pick<MarketRate, 'numerator' | 'denominator'> {
  return { numerator: rateE10, denominator: rateScale };
}

/** 480 for one of the other: how people say what a dollar costs. */
export function inverse(priceE10: bigint): Pick<MarketRate, 'numerator' | 'denominator'> {
  return { numerator: rateScale, denominator: priceE10 };
}

/** The rates to be sold by and to be kept; null when one of them cannot be written in ten decimals. */
export function ratesOf(
  { numerator, denominator }: Pick<MarketRate, 'numerator' | 'denominator'>,
  marginPpm: number,
): { readonly rateE10: bigint; readonly marketE10: bigint } | null {
  if (numerator <= 0n || denominator <= 0n) return null;
  const marketE10 = soldRate(numerator, denominator, 0);
  const rateE10 = soldRate(numerator, denominator, marginPpm);
  return rateE10 > 0n && marketE10 <= rateE10Max ? { rateE10, marketE10 } : null;
}

/** Sets a rate. Refuses equal currencies, a rate that is not above zero and a beginning in the past. */
export async function setRate(db: Database, rate: MarketRate, operator: string): Promise<RateRecord> {
  refusePair(rate);
  return changing(db, operator, (tx, audit) => addByPeople(tx, audit, rate, 'hand', operator));
}

/** Sets all rates of a file, or none. */
export async function importRates(db: Database, text: string, operator: string): Promise<RateRecord[]> {
  const rates = parseRates(text);
  return changing(db, operator, async (tx, audit) => {
    const added: RateRecord[] = [];
    for (const rate of rates) added.push(await addByPeople(tx, audit, rate, 'file', operator));
    return added;
  });
}

async function addByPeople(
  tx: pg.ClientBase,
  audit: Audit,
  market: MarketRate,
  source: RateRecord['source'],
  operator: string,
): Promise<RateRecord> {
  const validFrom = market.validFrom ?? null;
  const name = `${market.fromCurrency}/${market.toCurrency}`;
  const { rows } = await tx.query<{ past: boolean }>('select $1::timestamptz < now() as past', [validFrom]);
  if (rows[0]!.past) {
    throw new Refusal(
      `The rate ${name} would begin in the past; leave its beginning out, and it is valid from now on.`,
    );
  }
  const { marginPpm } = (await readPair(tx, market)) ?? plainPair;
  const made = ratesOf(market, marginPpm);
  if (!made) {
    throw new Refusal(
      `The rate ${name} cannot be written above zero with 9 digits and 10 decimals; give another.`,
    );
  }
  return addRate(tx, audit, {
    ...market,
    ...made,
    marginPpm,
    source,
    validFrom,
    quotedAt: validFrom,
    operator,
  });
}

/** Of no moment: of now. */
type NewRate = Omit<RateRecord, 'validFrom' | 'quotedAt'> & {
  readonly validFrom: Date | null;
  readonly quotedAt: Date | null;
};

/** Adds a row and says so in the audit. */
export async function addRate(tx: Queryable, audit: Audit, rate: NewRate): Promise<RateRecord> {
  const { fromCurrency, toCurrency } = rate;
  const before = (await readRates(tx)).find(
    (each) => each.fromCurrency === fromCurrency && each.toCurrency === toCurrency,
  );
  const { rows } = await tx.query<RateRecord>(
    `insert into rates as r (from_currency, to_currency, rate_e10, market_e10, margin_ppm, source, valid_from, quoted_at,
       operator)
     values ($1, $2, $3, $4, $5, $6, coalesce($7, now()), coalesce($8, now()), $9) returning ${columns}`,
    [
      fromCurrency,
      toCurrency,
      rate.rateE10,
      rate.marketE10,
      rate.marginPpm,
      rate.source,
      rate.validFrom,
      rate.quotedAt,
      rate.operator,
    ],
  );
  await audit('rate.set', `rate:${fromCurrency}/${toCurrency}`, {
    from: before ? formatRate(before.rateE10) : null,
    to: formatRate(rate.rateE10),
  });
  return rows[0]!;
}

const columns = `r.from_currency as "fromCurrency", r.to_currency as "toCurrency", r.rate_e10 as "rateE10",
  coalesce(r.market_e10, r.rate_e10) as "marketE10", r.margin_ppm as "marginPpm", r.source,
  r.valid_from as "validFrom", coalesce(r.quoted_at, r.valid_from) as "quotedAt", r.operator`;

/** The rate of every pair that has begun, too old or not. */
export async function readRates(db: Queryable): Promise<CurrentRate[]> {
  const { rows } = await db.query<CurrentRate>(
    `select distinct on (r.from_currency, r.to_currency) ${columns}, p.age_max_s as "ageMaxS",
       floor(extract(epoch from now() - coalesce(r.quoted_at, r.valid_from)))::integer as "ageS",
       coalesce(now() >= coalesce(r.quoted_at, r.valid_from) + p.age_max_s * interval '1 s', false) as "tooOld"
     from rates r left join rate_pairs p using (from_currency, to_currency)
     where r.valid_from <= now()
     order by r.from_currency, r.to_currency, r.valid_from desc, r.rate_id desc`,
  );
  return rows;
}

/** All rates, the newest first, at most `limit`. */
export async function listRateHistory(db: Queryable, limit: number): Promise<RateRecord[]> {
  const { rows } = await db.query<RateRecord>(
    `select ${columns} from rates r order by r.valid_from desc, r.rate_id desc limit $1`,
    [limit],
  );
  return rows;
}

// ── Pairs ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const pairColumns = `from_currency as "fromCurrency", to_currency as "toCurrency", margin_ppm as "marginPpm",
  age_max_s as "ageMaxS", jump_max_ppm as "jumpMaxPpm", fed`;

export async function readPairs(db: Queryable): Promise<(Pair & PairSettings)[]> {
  const { rows } = await db.query<Pair & PairSettings>(
    `select ${pairColumns} from rate_pairs order by from_currency, to_currency`,
  );
  return rows;
}

async function readPair(db: Queryable, pair: Pair): Promise<PairSettings | null> {
  return (
    (await readPairs(db)).find(
      (each) => each.fromCurrency === pair.fromCurrency && each.toCurrency === pair.toCurrency,
    ) ?? null
  );
}

/** Changes what is named and leaves the rest. A margin counts from the next rate on. */
export async function setPair(
  db: Database,
  pair: Pair,
  change: Partial<PairSettings>,
  operator: string,
): Promise<Pair & PairSettings> {
  refusePair(pair);
  const { fromCurrency, toCurrency } = pair;
  return changing(db, operator, async (tx, audit) => {
    await tx.query(
      'insert into rate_pairs (from_currency, to_currency) values ($1, $2) on conflict do nothing',
      [fromCurrency, toCurrency],
    );
    await tx.query('select 1 from rate_pairs where from_currency = $1 and to_currency = $2 for update', [
      fromCurrency,
      toCurrency,
    ]);
    const before = (await readPair(tx, pair))!;
    const after = { ...before, ...change };
    const { rows } = await tx.query<Pair & PairSettings>(
      `update rate_pairs set margin_ppm = $3, age_max_s = $4, jump_max_ppm = $5, fed = $6
       where from_currency = $1 and to_currency = $2 returning ${pairColumns}`,
      [fromCurrency, toCurrency, after.marginPpm, after.ageMaxS, after.jumpMaxPpm, after.fed],
    );
    await audit('rate.pair', `rate:${fromCurrency}/${toCurrency}`, { from: before, to: rows[0]! });
    return rows[0]!;
  });
}

function refusePair({ fromCurrency, toCurrency }: Pair): void {
  for (const currency of [fromCurrency, toCurrency]) {
    if (!/^[A-Z]{3}$/.test(currency)) {
      throw new Refusal(`"${currency}" is not a currency; give its three letters, KZT for one.`);
    }
  }
  if (fromCurrency === toCurrency) {
    throw new Refusal(`A rate from ${fromCurrency} to itself is always one; name two currencies.`);
  }
}

// ── Files ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const currency = z.string().regex(/^[A-Z]{3}$/, 'write three letters, KZT for one');
const rate = z
  .string()
  .optional()
  .transform((text, context) => {
    if (text === undefined || text === '') return null;
    const parsed = parseRate(text);
    if (parsed !== null) return parsed;
    context.addIssue('write a number above zero with at most 10 decimals, in quotes');
    return z.NEVER;
  });
const lineShape = z
  .strictObject({
    from: currency,
    to: currency,
    /** One of the two: what one unit of `from` buys, or what one unit of `to` costs. */
    rate,
    inverse: rate,
    valid_from: z
      .union([
        z.literal(''),
        z.iso.datetime({ offset: true, error: 'write a moment such as 2026-12-01T00:00:00+05:00' }),
      ])
      .optional(),
  })
  .refine((line) => line.from !== line.to, 'name two currencies')
  .refine(
    (line) => (line.rate === null) !== (line.inverse === null),
    'give the rate or the inverse, one of them',
  )
  .transform(
    (line): MarketRate => ({
      fromCurrency: line.from,
      toCurrency: line.to,
      ...(line.rate === null ? inverse(line.inverse!) : direct(line.rate)),
      validFrom: line.valid_from ? new Date(line.valid_from) : undefined,
    }),
  );

/** Reads a JSON array of rates, or a CSV file with a header; refuses the whole file and names what is wrong in it. */
export function parseRates(text: string): MarketRate[] {
  const lines = /^\uFEFF?\s*\[/.test(text) ? linesOfJson(text) : linesOfCsv(text);
  if (lines.length === 0) refuseFile(['it holds no rates']);
  if (lines.length > ratesInFileMax) refuseFile([`it holds more than ${ratesInFileMax} rates; split it`]);
  const problems: string[] = [];
  const rates: MarketRate[] = [];
  const seen = new Set<string>();
  for (const [at, line] of lines) {
    const parsed = lineShape.safeParse(line);
    if (!parsed.success) {
      for (const { path, message } of parsed.error.issues)
        problems.push(`${at}${path.length > 0 ? `, ${path.join('.')}` : ''}: ${message}`);
      continue;
    }
    const { fromCurrency, toCurrency, validFrom } = parsed.data;
    const key = `${fromCurrency}/${toCurrency} ${validFrom?.getTime() ?? ''}`;
    if (seen.has(key)) problems.push(`${at}: ${key.trim()} is there twice; keep one`);
    seen.add(key);
    rates.push(parsed.data);
  }
  if (problems.length > 0) refuseFile(problems);
  return rates;
}

type Line = readonly [at: string, line: unknown];

function linesOfJson(text: string): Line[] {
  try {
    const lines = JSON.parse(text.replace(/^\uFEFF/, '')) as unknown[];
    return lines.map((line, index) => [`rate ${index + 1}`, line]);
  } catch (error) {
    return refuseFile([`it is not JSON: ${(error as Error).message}`]);
  }
}

const csvNames = ['from', 'to', 'rate', 'inverse', 'valid_from'];

function linesOfCsv(text: string): Line[] {
  const cellsOf = (line: string) =>
    line.split(/[,;]/).map((cell) => cell.trim().replace(/^"([^"]*)"$/, '$1'));
  const [header, ...rows] = text
    .replace(/^\uFEFF/, '')
    .split('\n')
    .map((line, index) => ({ line: index + 1, cells: cellsOf(line), blank: line.trim() === '' }))
    .filter(({ blank }) => !blank);
  const names = header?.cells ?? [];
  if (!names.every((name) => csvNames.includes(name)) || new Set(names).size < names.length)
    refuseFile([`its first line is not a header of ${csvNames.join(', ')}`]);
  return rows.map(({ line, cells }) => [
    `line ${line}`,
    cells.length === names.length
      ? Object.fromEntries(names.map((name, index) => [name, cells[index]]))
      : null,
  ]);
}

function refuseFile(problems: readonly string[]): never {
  const shown = problems.slice(0, problemsShownMax).map((problem) => `  ${problem}`);
  throw new Refusal(
    ['The rates have mistakes, nothing was changed; correct them and import them again:', ...shown].join(
      '\n',
    ),
  );
}

// ── The rates of this moment ───────────────────────────────────────────────────────────────────────────────────────

interface Turn {
  readonly pair: string;
  readonly rateE10: bigint;
  /** From the reading on; below zero: it has begun. */
  readonly beginsMs: number;
  /** Null: never. */
  readonly tooOldMs: number | null;
}

/** What is sold by now and will be, by the database's clock; in the order in which the rates begin. */
export type RateSchedule = readonly Turn[];

export async function readSchedule(db: Queryable): Promise<RateSchedule> {
  const { rows } = await db.query<Turn>(
    `select r.from_currency || '/' || r.to_currency as pair, r.rate_e10 as "rateE10",
       extract(epoch from r.valid_from - now())::float8 * 1000 as "beginsMs",
       extract(epoch from coalesce(r.quoted_at, r.valid_from) + p.age_max_s * interval '1 s' - now())::float8 * 1000
         as "tooOldMs"
     from rates r left join rate_pairs p using (from_currency, to_currency)
     where r.valid_from > now() or r.rate_id in (
       select distinct on (from_currency, to_currency) rate_id from rates where valid_from <= now()
       order by from_currency, to_currency, valid_from desc, rate_id desc)
     order by r.valid_from, r.rate_id`,
  );
  return rows;
}

/** The rates so long after the reading, and until when after it they stay as they are. */
export function ratesAt(
  schedule: RateSchedule,
  afterMs: number,
): { readonly rates: ReadonlyMap<string, SellingRate>; readonly untilMs: number } {
  const rates = new Map<string, SellingRate>();
  let untilMs = Number.POSITIVE_INFINITY;
  for (const { pair, rateE10, beginsMs, tooOldMs } of schedule) {
    if (beginsMs > afterMs) {
      untilMs = Math.min(untilMs, beginsMs);
      continue;
    }
    const tooOld = tooOldMs !== null && tooOldMs <= afterMs;
    rates.set(pair, tooOld ? 'too_old' : rateE10);
    if (tooOldMs !== null && !tooOld) untilMs = Math.min(untilMs, tooOldMs);
  }
  return { rates, untilMs };
}

/** Says once of each pair that its rate has become too old, and once that it is sold by again. */
export function rateTeller(log: {
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
}): (rates: ReadonlyMap<string, SellingRate>) => void {
  const told = new Set<string>();
  return (rates) => {
    for (const [pair, rate] of rates) {
      if (rate === 'too_old' && !told.has(pair)) {
        told.add(pair);
        log.warn({ pair }, 'the rate is too old and its services are not sold: set one (tolem rate set)');
      } else if (rate !== 'too_old' && told.delete(pair)) {
        log.info({ pair }, 'the rate is sold by again');
      }
    }
  };
}
