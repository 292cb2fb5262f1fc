/** What agents have been told by a moment, held against a database. */
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import type { Crowd, Payment } from '../support/crowd.js';
import { judgeScene, type Violation } from '../support/oracle.js';
import type { Change, Scene, Server } from '../support/processes.js';
import { mayBeNoise } from './lab.js';

export const servingRule = 'serves again within 10 s after the database has recovered';
export const servingMsMax = 10_000;
export const keptRule = 'what was acknowledged is kept';

/** Tells an agent the outcome whose batch was not committed. */
export const tellUncommitted: Change = {
  file: 'payments/store.js',
  from: '.catch((error) => this.settleAgain(settlement, error, until));',
  to: `.catch(() => ({
         ...settlement,
         ...{ state: settlement.to, acceptedAt: new Date(), finalAt: new Date() },
         fingerprint: '00000000-0000-0000-0000-000000000000',
       }));`,
};

export interface Told {
  readonly name: string;
  readonly transactionId: string;
  /** Null: nothing final yet. */
  readonly finalCode: number | null;
}

/** Of the newest payments, those an agent knows a transactionId or more of. */
export function toldOf(payments: readonly Payment[], newest = 20_000): Told[] {
  return payments.slice(-newest).flatMap(({ agentId, id, transactionIds, finalCodes }) => {
    const [transactionId] = transactionIds;
    const [finalCode = null] = finalCodes;
    return transactionId === undefined ? [] : [{ name: `${agentId}-${id}`, transactionId, finalCode }];
  });
}

/** What the database does not have, or has otherwise. It may know more: a payment told 1 may have ended since. */
export async function notKept(db: pg.Pool, told: readonly Told[]): Promise<Violation[]> {
  const { rows } = await db.query<{ name: string; id: bigint; code: number }>(
    `select p.agent_id || '-' || p.agent_transaction_id as name, p.id, p.code
     from unnest($1::text[]) as t (name)
     join payments p on p.agent_id = split_part(t.name, '-', 1)::bigint
       and p.agent_transaction_id = split_part(t.name, '-', 2)::bigint`,
    [told.map(({ name }) => name)],
  );
  const kept = new Map(rows.map((row) => [row.name, row]));
  return told.flatMap(({ name, transactionId, finalCode }) => {
    const row = kept.get(name);
    const same = row && String(row.id) === transactionId && (finalCode === null || row.code === finalCode);
    if (same) return [];
    const found = row ? `transactionId ${row.id}, code ${row.code}` : 'no payment';
    const code = finalCode === null ? 'that it is under way' : `code ${finalCode}`;
    return [
      { rule: keptRule, object: name, found: `${found}; told transactionId ${transactionId}, ${code}` },
    ];
  });
}

/** Milliseconds until a payment that was ordered after this call has ended; null when none does in time. */
export async function servedWithin(crowd: Crowd, msMax: number): Promise<number | null> {
  const startedAtMs = performance.now();
  const before = crowd.payments.length;
  for (; performance.now() - startedAtMs < msMax; await sleep(10)) {
    if (crowd.payments.slice(before).some(({ finalCodes }) => finalCodes.size > 0))
      return performance.now() - startedAtMs;
  }
  return null;
}

/** Milliseconds until the database answers and `isNew` holds; null when it does not within a minute. */
export async function recoveredWithin(
  db: pg.Pool,
  isNew: () => boolean,
  msMax = 60_000,
): Promise<number | null> {
  const startedAtMs = performance.now();
  for (; performance.now() - startedAtMs < msMax; await sleep(10)) {
    if (!isNew()) continue;
    const answers = await db.query('select 1').then(
      () => true,
      () => false,
    );
    if (answers) return performance.now() - startedAtMs;
  }
  return null;
}

/**
 * Lets the agents see their payments through, for at most so long, and adds what is wrong then. After a violation there
 * is no more to see, and the centre and the agents go; unless it is one that may be noise, which must hide no other.
 * Answers whether the end was seen.
 */
export async function seeThrough(
  scene: Scene,
  centre: Server,
  crowd: Crowd,
  violations: Violation[],
  msMax: number,
  timed: readonly string[] = [],
): Promise<boolean> {
  if (!mayBeNoise(violations, timed) && violations.length > 0) {
    centre.signal('SIGKILL');
    await crowd.finish(0);
    return false;
  }
  await crowd.finish(msMax);
  violations.push(...(await judgeScene(scene, crowd.payments)));
  return true;
}
