/** Whether this process should be given requests, as a list of named checks. */
import type pg from 'pg';
import { within } from '../clock.js';
import type { Insight } from './monitor.js';

export interface Check {
  readonly name: string;
  readonly ok: boolean;
  /** What is wrong, for people; null when nothing is. */
  readonly detail: string | null;
}

export type Phase = 'starting' | 'serving' | 'draining';

export interface ReadinessParts {
  readonly pool: pg.Pool;
  /** Names of the migrations that this build knows. */
  readonly migrations: readonly string[];
  readonly phase: () => Phase;
  readonly now: () => Pick<Insight, 'lanes' | 'loops'>;
  readonly databaseMsMax: number;
}

/** Longer than a batch takes under any load that is still served; agents' requests wait no longer for a database. */
const laneMsMax = 3000;
/** Beyond its pause: a step may claim and write hundreds of payments. */
const loopMsMax = 15_000;
/** The loops that money waits for. Others, such as mail, do not make a process unfit to serve. */
const vitalLoops = new Set(['leases', 'queue', 'funds', 'expire']);

/** Never rejects, and takes hardly longer than `databaseMsMax`. */
export async function readiness(parts: ReadinessParts): Promise<Check[]> {
  const phase = parts.phase();
  const seconds = (ms: number) => (ms / 1000).toFixed(1);
  const check = (name: string, problem: string | null): Check => ({
    name,
    ok: problem === null,
    detail: problem,
  });
  const { lanes, loops } = parts.now();
  const stuckLanes = lanes()
    .filter(({ oldestMs }) => oldestMs > laneMsMax)
    .map(({ lane, oldestMs }) => `${lane} has waited ${seconds(oldestMs)} s`);
  const stuckLoops = loops()
    .filter(({ loop, everyMs, sinceMs }) => vitalLoops.has(loop) && sinceMs > everyMs + loopMsMax)
    .map(({ loop, sinceMs }) => `${loop} last turned ${seconds(sinceMs)} s ago`);
  return [
    check('serving', phase === 'serving' ? null : `the process is ${phase}`),
    ...(await databaseChecks(parts)),
    check('lanes', stuckLanes.join(', ') || null),
    check('loops', stuckLoops.join(', ') || null),
  ];
}

/** A database that is newer than this build passes: old processes serve on while new ones take over. */
async function databaseChecks({ pool, migrations, databaseMsMax }: ReadinessParts): Promise<Check[]> {
  try {
    const query = pool.query<{ name: string }>('select name from migrations');
    const { rows } = await within(databaseMsMax, query);
    const missing = migrations.filter((name) => !rows.some((row) => row.name === name));
    return [
      { name: 'database', ok: true, detail: null },
      {
        name: 'migrations',
        ok: missing.length === 0,
        detail: missing.length === 0 ? null : `the database has not: ${missing.join(', ')}`,
      },
    ];
  } catch (error) {
    const detail = (error as Error).message;
    return [
      { name: 'database', ok: false, detail },
      { name: 'migrations', ok: false, detail: 'the database could not be asked' },
    ];
  }
}
