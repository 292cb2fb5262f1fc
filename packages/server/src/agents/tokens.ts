/** Tokens: created by the agent, confirmed by an operator of the centre, revoked by either. Kept only as a hash. */
import { createHash, randomBytes } from 'node:crypto';
import type pg from 'pg';
import { changing, type Database, type Queryable, Refusal } from '../audit.js';
import { getAgent } from './agents.js';

export type TokenState = 'awaiting_confirmation' | 'confirmed' | 'revoked';

/** The contract's words for people («Настройки протокола»). */
export const tokenStateWords: Readonly<Record<TokenState, string>> = {
  awaiting_confirmation: 'Ожидайте подтверждения',
  confirmed: 'Токен подтвержден',
  revoked: 'Токен отозван',
};

export interface TokenRecord {
  readonly tokenId: bigint;
  readonly agentId: bigint;
  readonly name: string;
  readonly state: TokenState;
  readonly createdAt: Date;
  readonly confirmedAt: Date | null;
  readonly revokedAt: Date | null;
  /** Known to within a few seconds. */
  readonly usedAt: Date | null;
  readonly usedFrom: string | null;
}

const liveTokensMax = 50;

function tokenHash(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}

/** Creates a token that waits for confirmation. This is the only time that its text is known. */
export async function createToken(
  db: Database,
  agentId: bigint,
  name: string,
  operator: string,
): Promise<{ readonly tokenId: bigint; readonly token: string }> {
  if (name.length > 100) throw new Refusal('The name of a token is at most 100 characters; shorten it.');
  const token = `tlm_${randomBytes(32).toString('base64url')}`;
  return changing(db, operator, async (tx, audit) => {
    await getAgent(tx, agentId);
    const { rows: live } = await tx.query<{ count: bigint }>(
      `select count(*) from tokens where agent_id = $1 and state <> 'revoked'`,
      [agentId],
    );
    if (live[0]!.count >= liveTokensMax) {
      throw new Refusal(
        `Agent ${agentId} has ${liveTokensMax} tokens already; revoke one that is not used, then create a new one.`,
      );
    }
    const { rows } = await tx.query<{ tokenId: bigint }>(
      'insert into tokens (agent_id, name, token_hash) values ($1, $2, $3) returning token_id as "tokenId"',
      [agentId, name, tokenHash(token)],
    );
    const { tokenId } = rows[0]!;
    await audit('token.create', `token:${tokenId}`, { agentId, name });
    return { tokenId, token };
  });
}

/** Opens the API to a token. Confirming twice changes nothing; a revoked token stays revoked. */
export async function confirmToken(db: Database, tokenId: bigint, operator: string): Promise<TokenRecord> {
  return changing(db, operator, async (tx, audit) => {
    const token = await lockToken(tx, tokenId);
    if (token.state === 'revoked') {
      throw new Refusal(
        `Token ${tokenId} of agent ${token.agentId} is revoked for good; create a new one and confirm that.`,
      );
    }
    if (token.state === 'awaiting_confirmation') {
      await tx.query(`update tokens set state = 'confirmed', confirmed_at = now() where token_id = $1`, [
        tokenId,
      ]);
      await audit('token.confirm', `token:${tokenId}`, { agentId: token.agentId });
    }
    return getToken(tx, tokenId);
  });
}

/** Closes the API to a token, for good. Revoking twice changes nothing. */
export async function revokeToken(db: Database, tokenId: bigint, operator: string): Promise<TokenRecord> {
  return changing(db, operator, async (tx, audit) => {
    const token = await lockToken(tx, tokenId);
    if (token.state !== 'revoked') {
      await tx.query(`update tokens set state = 'revoked', revoked_at = now() where token_id = $1`, [
        tokenId,
      ]);
      await audit('token.revoke', `token:${tokenId}`, { agentId: token.agentId, was: token.state });
    }
    return getToken(tx, tokenId);
  });
}

const selected = `select t.token_id as "tokenId", t.agent_id as "agentId", t.name, t.state, t.created_at as "createdAt",
    t.confirmed_at as "confirmedAt", t.revoked_at as "revokedAt", u.used_at as "usedAt", u.address as "usedFrom"
  from tokens t left join token_uses u using (token_id)`;

/** The newest first, at most `limit`; of all agents and in all states unless told otherwise. */
export async function listTokens(
  db: Queryable,
  filter: { readonly agentId?: bigint; readonly state?: TokenState; readonly limit: number },
): Promise<TokenRecord[]> {
  const { rows } = await db.query<TokenRecord>(
    `${selected} where ($1::bigint is null or t.agent_id = $1) and ($2::text is null or t.state = $2)
     order by t.token_id desc limit $3`,
    [filter.agentId ?? null, filter.state ?? null, filter.limit],
  );
  return rows;
}

/** Refuses an unknown id. */
export async function getToken(db: Queryable, tokenId: bigint): Promise<TokenRecord> {
  const { rows } = await db.query<TokenRecord>(`${selected} where t.token_id = $1`, [tokenId]);
  return rows[0] ?? unknownToken(tokenId);
}

async function lockToken(tx: Queryable, tokenId: bigint): Promise<Pick<TokenRecord, 'agentId' | 'state'>> {
  const { rows } = await tx.query<Pick<TokenRecord, 'agentId' | 'state'>>(
    'select agent_id as "agentId", state from tokens where token_id = $1 for update',
    [tokenId],
  );
  return rows[0] ?? unknownToken(tokenId);
}

function unknownToken(tokenId: bigint): never {
  throw new Refusal(`There is no token ${tokenId}; look at the list of tokens.`);
}

/**
 * Gathers the last uses of tokens and writes them together every few seconds, so that a request never waits for it.
 * They are dated when they are written, by the database's clock: processes' own need not agree.
 */
export class TokenUses {
  /** By token, the address. */
  private uses = new Map<bigint, string>();
  private readonly timer: NodeJS.Timeout;
  private writing: Promise<void> = Promise.resolve();

  constructor(
    private readonly pool: pg.Pool,
    private readonly onError: (error: Error) => void,
    everyMs = 5000,
  ) {
    this.timer = setInterval(() => void this.flush(), everyMs);
    this.timer.unref();
  }

  touched(tokenId: bigint, address: string): void {
    this.uses.set(tokenId, address);
  }

  /** Writes what was gathered; what cannot be written is told to `onError` and forgotten. */
  flush(): Promise<void> {
    this.writing = this.writing.then(() => this.write()).catch(this.onError);
    return this.writing;
  }

  async close(): Promise<void> {
    clearInterval(this.timer);
    await this.flush();
  }

  private async write(): Promise<void> {
    if (this.uses.size === 0) return;
    const uses = [...this.uses].sort(([a], [b]) => (a < b ? -1 : 1));
    this.uses = new Map();
    await this.pool.query(
      `insert into token_uses (token_id, used_at, address)
       select token_id, now(), address from unnest($1::bigint[], $2::text[]) as t (token_id, address)
       on conflict (token_id) do update set used_at = excluded.used_at, address = excluded.address
         where token_uses.used_at < excluded.used_at`,
      [uses.map(([id]) => id), uses.map(([, address]) => address)],
    );
  }
}
