/** Conversion rates: the newest one of a pair is valid, the older ones are its history. */
import { changing, type Database, type Queryable, Refusal } from '../audit.js';
import { formatRate, rateScale } from '../core/money.js';

export interface RateRecord {
  readonly fromCurrency: string;
  readonly toCurrency: string;
  /** What one unit of fromCurrency buys, scaled by 10^10. */
  readonly rateE10: bigint;
  readonly validFrom: Date;
  readonly operator: string;
}

/** 480 → 1/480, to 10 decimals, halves rounded up: how people say what a dollar costs. */
export function inverseRate(rateE10: bigint): bigint {
  return (rateScale * rateScale + rateE10 / 2n) / rateE10;
}

/** Sets the rate from now on. Refuses equal currencies and a rate that is not above zero. */
export async function setRate(
  db: Database,
  rate: Pick<RateRecord, 'fromCurrency' | 'toCurrency' | 'rateE10'>,
  operator: string,
): Promise<RateRecord> {
  const { fromCurrency, toCurrency, rateE10 } = rate;
  for (const currency of [fromCurrency, toCurrency]) {
    if (!/^[A-Z]{3}$/.test(currency)) {
      throw new Refusal(`"${currency}" is not a currency; give its three letters, KZT for one.`);
    }
  }
  if (fromCurrency === toCurrency) {
    throw new Refusal(`A rate from ${fromCurrency} to itself is always one; name two currencies.`);
  }
  if (rateE10 <= 0n) throw new Refusal('A rate is above zero, with at most 10 decimals; give another.');
  return changing(db, operator, async (tx, audit) => {
    const { rows: before } = await tx.query<{ rateE10: bigint }>(
      `select rate_e10 as "rateE10" from rates where from_currency = $1 and to_currency = $2 and valid_from <= now()
       order by valid_from desc, rate_id desc limit 1`,
      [fromCurrency, toCurrency],
    );
    const { rows } = await tx.query<RateRecord>(
      `insert into rates (from_currency, to_currency, rate_e10, operator) values ($1, $2, $3, $4)
       returning ${columns}`,
      [fromCurrency, toCurrency, rateE10, operator],
    );
    await audit('rate.set', `rate:${fromCurrency}/${toCurrency}`, {
      from: before[0] ? formatRate(before[0].rateE10) : null,
      to: formatRate(rateE10),
    });
    return rows[0]!;
  });
}

const columns = `from_currency as "fromCurrency", to_currency as "toCurrency", rate_e10 as "rateE10",
  valid_from as "validFrom", operator`;

/** The valid rate of every pair. */
export async function readRates(db: Queryable): Promise<RateRecord[]> {
  const { rows } = await db.query<RateRecord>(
    `select distinct on (from_currency, to_currency) ${columns} from rates where valid_from <= now()
     order by from_currency, to_currency, valid_from desc, rate_id desc`,
  );
  return rows;
}

/** All rates, the newest first, at most `limit`. */
export async function listRateHistory(db: Queryable, limit: number): Promise<RateRecord[]> {
  const { rows } = await db.query<RateRecord>(
    `select ${columns} from rates order by valid_from desc, rate_id desc limit $1`,
    [limit],
  );
  return rows;
}
