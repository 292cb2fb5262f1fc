/**
 * The database is killed under a centre that brings its own: the postmaster, and single sessions. The centre must serve
 * again by itself, and what was acknowledged must be there. PostgreSQL runs with fsync on; the provider is not killed.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Crowd, everyFate } from './support/crowd.js';
import { judge } from './support/oracle.js';
import { openScene, postmasterOf, type Scene } from './support/processes.js';

const serverKills = 10;
const sessionKills = 5;
const awayMsMax = 15_000;

interface Killed {
  readonly name: string;
  /** Whether what was killed is gone with all that hung on it; until then old sessions may answer yet. */
  isOver(): boolean;
}

/** Kills one of the sessions that the centre works with, by chance: the server then ends all of them. */
async function killSession({ owner }: Scene): Promise<Killed> {
  const { rows } = await owner.query<{ pid: number; name: string }>(
    `select pid, application_name as name from pg_stat_activity
     where application_name like 'tolem %' and application_name <> 'tolem test' order by random()`,
  );
  process.kill(rows[0]!.pid, 'SIGKILL');
  return { name: `the session ${rows[0]!.name}`, isOver: () => !rows.some(({ pid }) => alive(pid)) };
}

function killServer({ dataDir }: Scene): Killed {
  const pid = postmasterOf(dataDir)!;
  process.kill(pid, 'SIGKILL');
  const isOver = () => ![pid, null].includes(postmasterOf(dataDir));
  return { name: 'the server', isOver };
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** Milliseconds until an agent that came after the blow has its answer. */
async function awayFor(crowd: Crowd, killed: Killed): Promise<number> {
  const startedAtMs = performance.now();
  const endAtMs = startedAtMs + 2 * awayMsMax;
  while (!killed.isOver() && performance.now() < endAtMs) await sleep(10);
  await Promise.race([crowd.nextAnswer(), sleep(endAtMs - performance.now())]);
  return performance.now() - startedAtMs;
}

test('the database dies under 100 agents: the centre serves again within 15 s, and nothing is lost', async () => {
  const scene = await openScene({
    agents: 100,
    fundsMinor: 10_000_000_00n,
    sandbox: { delayMs: 20 },
    embedded: true,
  });
  try {
    const { port, callers, owner, fundsMinor } = scene;
    const centre = scene.start({ port });
    await centre.ready;
    const crowd = new Crowd({ ports: [port], callers, fates: everyFate, thinkMsMax: 200 });
    await crowd.nextAnswer();
    const plan = Array.from({ length: serverKills + sessionKills }, (_, index) => index < serverKills);
    plan.sort(() => Math.random() - 0.5);
    for (const whole of plan) {
      await sleep(Math.random() * 3000);
      const killed = whole ? killServer(scene) : await killSession(scene);
      const awayMs = await awayFor(crowd, killed);
      console.log(
        `killed ${killed.name}: away for ${Math.round(awayMs)} ms, ${crowd.finished} payments finished`,
      );
      expect(awayMs).toBeLessThan(awayMsMax);
    }
    await crowd.finish(120_000);
    const registry = await scene.sandbox.registry();
    const violations = await judge({ payments: crowd.payments, registry, owner, callers, fundsMinor });
    console.log(
      `answers: ${[...crowd.statuses].map(([status, count]) => `${status} × ${count}`).join(', ')}`,
    );
    expect(violations.slice(0, 20)).toEqual([]);
    expect(crowd.finished).toBeGreaterThan(plan.length * 10);
    // The same process has served through all of it, and goes in order.
    centre.signal('SIGTERM');
    await Promise.all([owner.end(), scene.pool.end()]);
    expect(await centre.ended).toEqual({ code: 0, signal: null });
    expect(postmasterOf(scene.dataDir)).toBe(null);
  } finally {
    await scene.close();
  }
}, 480_000);
