/** The centre seen from outside while it runs: counts from the first request on, and a port of its own to look at. */
import type pg from 'pg';
import type { Reference } from '../core/catalogue.js';
import { createMetrics, type Metrics } from './metrics.js';
import { type Phase, readiness } from './readiness.js';
import { createReader } from './readings.js';
import { type Listening, listen } from './server.js';

export interface MonitorParts {
  /** The monitor's own, which it ends: one connection that waits for nothing longer than `databaseMsMax`. */
  readonly pool: pg.Pool;
  /** Names of the migrations that this build knows. */
  readonly migrations: readonly string[];
  readonly version: string;
  readonly reference: () => Reference;
  readonly phase: () => Phase;
}

/** What is under way in the centre now; asked at every look. */
export interface Insight {
  lanes(): readonly { readonly lane: string; readonly waiting: number; readonly oldestMs: number }[];
  calls(): readonly { readonly providerId: string; readonly underWay: number; readonly waiting: number }[];
  loops(): readonly { readonly loop: string; readonly everyMs: number; readonly sinceMs: number }[];
}

export interface Monitor extends Pick<Metrics, 'answered' | 'watch'> {
  /** Listens and answers with the base URL. Rejects with what the system says when the port cannot be had; 0: any. */
  start(insight: Insight, host: string, port: number): Promise<string>;
  close(): Promise<void>;
}

/** How long the monitor waits for the database. */
export const databaseMsMax = 1000;
const readEveryMs = 5000;
/** So many agents have metrics of their own. */
const agentsMax = 1000;

export function createMonitor({ pool, migrations, version, reference, phase }: MonitorParts): Monitor {
  let insight: Insight = { lanes: () => [], calls: () => [], loops: () => [] };
  let listening: Listening | null = null;
  const now = () => insight;
  const checks = () => readiness({ pool, migrations, phase, now, databaseMsMax });
  const reader = createReader({ pool, everyMs: readEveryMs, msMax: databaseMsMax, agentsMax });
  const metrics = createMetrics({ version, reference, reader, checks, now, agentsMax });
  return {
    answered: metrics.answered,
    watch: metrics.watch,
    async start(started, host, port) {
      insight = started;
      listening = await listen({ host, port, checks, metrics });
      return listening.baseUrl;
    },
    async close() {
      await listening?.close();
      await pool.end();
    },
  };
}
