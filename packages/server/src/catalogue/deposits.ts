/** What lies at providers of ours: told by them where they tell it, else what was paid in less what was spent there. */
import { changing, type Database, type Queryable, Refusal } from '../audit.js';
import { formatMinor } from '../core/money.js';
import { getProvider } from './providers.js';

export interface Deposit {
  readonly providerId: string;
  readonly currency: string;
  readonly paidInMinor: bigint;
  readonly spentMinor: bigint;
  /** Null: the provider has not told it. */
  readonly toldMinor: bigint | null;
  readonly toldAt: Date | null;
  /** What counts: what was told, or else what was paid in less what was spent. */
  readonly leftMinor: bigint;
}

/**
 * Of every provider something was paid in to, or that has told its balance within half an hour: it is asked every five
 * minutes.
 */
export async function readDeposits(db: Queryable): Promise<Deposit[]> {
  const { rows } = await db.query<Deposit>(
    `select provider_id as "providerId", currency, paid_in_minor as "paidInMinor", spent_minor as "spentMinor",
       told_minor as "toldMinor", told_at as "toldAt", left_minor as "leftMinor"
     from provider_deposits_left order by 1, 2`,
  );
  return rows;
}

/** Writes down what was paid in to a provider, or with a minus what was taken back. A document counts once. */
export async function payIn(
  db: Database,
  deposit: {
    readonly providerId: string;
    readonly currency: string;
    readonly amountMinor: bigint;
    readonly document: string;
  },
  operator: string,
): Promise<{ readonly fresh: boolean; readonly deposits: readonly Deposit[] }> {
  const { providerId, currency, amountMinor } = deposit;
  const document = deposit.document.trim();
  if (amountMinor === 0n) throw new Refusal('A deposit of zero changes nothing; give an amount.');
  if (!/^[A-Z]{3}$/.test(currency))
    throw new Refusal(`"${currency}" is not a currency; give its three letters, KZT for one.`);
  if (document === '' || document.length > 100)
    throw new Refusal('A deposit needs the number of its document, 1 to 100 characters: it counts once.');
  return changing(db, operator, async (tx, audit) => {
    await getProvider(tx, providerId);
    const { rowCount } = await tx.query(
      `insert into provider_deposits (provider_id, currency, amount_minor, document, operator)
       values ($1, $2, $3, $4, $5) on conflict (provider_id, document) do nothing`,
      [providerId, currency, amountMinor, document, operator],
    );
    const fresh = rowCount === 1;
    if (fresh) {
      await audit('provider.deposit', `provider:${providerId}`, {
        amount: formatMinor(amountMinor),
        currency,
        document,
      });
    } else {
      const { rows } = await tx.query<{ same: boolean }>(
        `select currency = $3 and amount_minor = $4 as same from provider_deposits
         where provider_id = $1 and document = $2`,
        [providerId, document, currency, amountMinor],
      );
      if (!rows[0]!.same)
        throw new Refusal(
          `Document ${document} of provider ${providerId} stands for another amount; look it up.`,
        );
    }
    return { fresh, deposits: (await readDeposits(tx)).filter((each) => each.providerId === providerId) };
  });
}

/** A step of the loop that keeps the sums short. Answers whether there is more to do. */
export async function sumSpent(db: Pick<Queryable, 'query'>): Promise<number> {
  const { rows } = await db.query<{ more: boolean }>('select sum_provider_transfers() as more');
  return rows[0]!.more ? 1 : 0;
}

/** Whether this process is the one to ask now; the others see that it was asked. */
export async function claimAsking(
  db: Pick<Queryable, 'query'>,
  providerId: string,
  everyMs: number,
): Promise<boolean> {
  const { rowCount } = await db.query(
    `insert into provider_balances (provider_id, asked_at) values ($1, now())
     on conflict (provider_id) do update set asked_at = now()
       where provider_balances.asked_at < now() - $2 * interval '1 ms'`,
    [providerId, everyMs],
  );
  return rowCount === 1;
}

export async function noteTold(
  db: Pick<Queryable, 'query'>,
  providerId: string,
  told: { readonly amountMinor: bigint; readonly currency: string },
): Promise<void> {
  await db.query(
    `update provider_balances set told_at = now(), currency = $2, amount_minor = $3 where provider_id = $1`,
    [providerId, told.currency, told.amountMinor],
  );
}
