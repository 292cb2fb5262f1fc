/** What people change: each change in one transaction with the audit row that says who made it. */
import pg from 'pg';

export type Queryable = Pick<pg.ClientBase, 'query'>;
export type Database = pg.Pool | pg.ClientBase;

/**
 * A person asked for something that cannot be done; nothing was changed. The message is for that person and says what
 * happened, to what, and what to do next.
 */
export class Refusal extends Error {
  override readonly name = 'Refusal';
}

/** Writes the audit row of the running change. Secrets, tokens and personal data stay out of `detail`. */
export type Audit = (
  action: string,
  object: string,
  detail: Readonly<Record<string, unknown>>,
) => Promise<void>;

const operatorLengthMax = 200;

/**
 * Runs a change and its audit rows in one transaction; a client that is in a transaction already keeps it open.
 * Throws a Refusal without a usable operator name, and whatever the change throws, after rolling back.
 */
export async function changing<T>(
  db: Database,
  operator: string,
  change: (tx: pg.ClientBase, audit: Audit) => Promise<T>,
): Promise<T> {
  if (operator.trim() !== operator || operator === '' || operator.length > operatorLengthMax) {
    throw new Refusal(
      'This change is not made without the name of who makes it, ' +
        `1 to ${operatorLengthMax} characters without spaces around them; name the operator.`,
    );
  }
  return inTransaction(db, (client) =>
    change(client, async (action, object, detail) => {
      await client.query('insert into audit (operator, action, object, detail) values ($1, $2, $3, $4)', [
        operator,
        action,
        object,
        JSON.stringify(detail, (_, value) => (typeof value === 'bigint' ? value.toString() : value)),
      ]);
    }),
  );
}

/** Runs work in a transaction, or in the one that the client is already in. */
export async function inTransaction<T>(
  db: Database,
  work: (client: pg.ClientBase) => Promise<T>,
): Promise<T> {
  if (db instanceof pg.Pool) {
    const client = await db.connect();
    let broken: Error | undefined;
    try {
      return await inTransaction(client, work);
    } catch (error) {
      // Refused or failed, the transaction is rolled back by now; a client whose rollback failed is not given back.
      if (client.getTransactionStatus() !== 'I') broken = error as Error;
      throw error;
    } finally {
      client.release(broken);
    }
  }
  if (db.getTransactionStatus() === 'T') return work(db);
  await db.query('begin');
  try {
    const result = await work(db);
    await db.query('commit');
    return result;
  } catch (error) {
    await db.query('rollback').catch(() => {});
    throw error;
  }
}

export interface AuditRow {
  readonly id: bigint;
  readonly at: Date;
  readonly operator: string;
  readonly action: string;
  readonly object: string;
  readonly detail: Readonly<Record<string, unknown>>;
}

/** The newest rows first, at most `limit`. Needs the owner's connection: the application may only write here. */
export async function listAudit(
  db: Queryable,
  filter: { readonly operator?: string; readonly object?: string; readonly limit: number },
): Promise<AuditRow[]> {
  const { rows } = await db.query<AuditRow>(
    `select id, at, operator, action, object, detail from audit
     where ($1::text is null or operator = $1) and ($2::text is null or object = $2)
     order by id desc limit $3`,
    [filter.operator ?? null, filter.object ?? null, filter.limit],
  );
  return rows;
}
