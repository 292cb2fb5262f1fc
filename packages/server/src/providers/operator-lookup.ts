/**
 * Asking outside which operator serves a number now, as a base of ported numbers answers it. It only helps: what it
 * does not say in time, in its own words and about the number that was asked for, the numbering plan says.
 */
import { Pool } from 'undici';
import { z } from 'zod';
import { fetchText } from './fetch-text.js';

export interface LookupOptions {
  /** Holds `{phone}`, for which the ten digits are put. */
  readonly url: string;
  readonly waitMs: number;
  readonly cacheMs: number;
  readonly cacheMax?: number;
}

export interface OperatorLookup {
  /** The id of the operator's service; null: it did not say. Never rejects. `phone` is of ten digits. */
  of(phone: string): Promise<string | null>;
  close(): Promise<void>;
}

const bytesMax = 16 * 1024;
const connectionsMax = 8;
const underWayMax = 64;
/** After so many failures without an answer between them it is left alone for a while, so that nobody waits in vain. */
const failuresMax = 3;
const restMs = 10_000;

const answerShape = z.object({ phone: z.string(), serviceId: z.string().min(1).max(64) });

export function createOperatorLookup(options: LookupOptions): OperatorLookup {
  const { url, waitMs, cacheMs, cacheMax = 10_000 } = options;
  const pool = new Pool(new URL(url).origin, {
    connections: connectionsMax,
    connect: { timeout: waitMs },
  });
  /** In the order in which they were learnt, so that the first one is the oldest. */
  const known = new Map<string, { readonly serviceId: string; readonly untilMs: number }>();
  const asked = new Map<string, Promise<string | null>>();
  let failures = 0;
  let restUntilMs = 0;

  const ask = async (phone: string): Promise<string | null> => {
    try {
      const place = new URL(url.replace('{phone}', phone));
      const serviceId = readAnswer(await fetchText(pool, place, { msMax: waitMs, bytesMax }), phone);
      failures = 0;
      known.delete(phone);
      if (known.size >= cacheMax) known.delete(known.keys().next().value!);
      known.set(phone, { serviceId, untilMs: performance.now() + cacheMs });
      return serviceId;
    } catch {
      failures += 1;
      if (failures >= failuresMax) restUntilMs = performance.now() + restMs;
      return null;
    } finally {
      asked.delete(phone);
    }
  };

  return {
    of(phone) {
      const found = known.get(phone);
      if (found && performance.now() < found.untilMs) return Promise.resolve(found.serviceId);
      const underWay = asked.get(phone);
      if (underWay) return underWay;
      if (asked.size >= underWayMax || performance.now() < restUntilMs) return Promise.resolve(null);
      const answer = ask(phone);
      asked.set(phone, answer);
      return answer;
    },
    close: () => pool.destroy(),
  };
}

/** Throws when it is not an answer about this number. */
export function readAnswer(body: string, phone: string): string {
  const answer = answerShape.parse(JSON.parse(body));
  if (answer.phone !== phone) throw new Error('the answer is about another number');
  return answer.serviceId;
}
