/**
 * The database is killed under a centre that brings its own: the postmaster, and single sessions. The centre must serve
 * again by itself, and what was acknowledged must be there. PostgreSQL runs with fsync on; the provider is not killed.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Crowd, countsText, everyFate } from '../support/crowd.js';
import type { Violation } from '../support/oracle.js';
import { brokenBuild, openScene, postmasterOf, type Scene } from '../support/processes.js';
import { experiment, type Lab, type Outcome } from './lab.js';
import {
  notKept,
  recoveredWithin,
  seeThrough,
  servedWithin,
  servingMsMax,
  servingRule,
  tellUncommitted,
  toldOf,
} from './told.js';

const recoveryMsMax = 60_000;

interface Killed {
  readonly name: 'server' | 'session';
  /** Whether what was killed is gone with all that hung on it; until then old sessions may answer yet. */
  isOver(): boolean;
}

/** Kills one of the sessions that the centre works with, by chance: the server then ends all of them. */
async function killSession({ owner }: Scene): Promise<Killed> {
  const { rows } = await owner.query<{ pid: number }>(
    `select pid from pg_stat_activity
     where application_name like 'tolem %' and application_name <> 'tolem test' order by random()`,
  );
  process.kill(rows[0]!.pid, 'SIGKILL');
  return { name: 'session', isOver: () => !rows.some(({ pid }) => alive(pid)) };
}

function killServer({ dataDir }: Scene): Killed {
  const pid = postmasterOf(dataDir)!;
  process.kill(pid, 'SIGKILL');
  return { name: 'server', isOver: () => ![pid, null].includes(postmasterOf(dataDir)) };
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

async function survive(lab: Lab, kills: number, build?: string): Promise<Outcome> {
  const scene = await openScene({
    agents: 100,
    fundsMinor: 10_000_000_00n,
    sandbox: { delayMs: 20 },
    embedded: true,
  });
  const violations: Violation[] = [];
  const violate = (rule: string, object: string, found: string) => violations.push({ rule, object, found });
  try {
    const { port, callers, owner } = scene;
    const centre = scene.start({ port, build });
    await centre.ready;
    const { answer } = lab.timeline;
    const crowd = new Crowd({ ports: [port], callers, fates: everyFate, thinkMsMax: 200, onAnswer: answer });
    await crowd.nextAnswer();
    const recoveredMs: number[] = [];
    const servingMs: number[] = [];
    for (let kill = 1; kill <= kills && violations.length === 0; kill += 1) {
      await sleep(Math.random() * 1200);
      const killed = kill % 3 === 0 ? await killSession(scene) : killServer(scene);
      lab.timeline.fault(killed.name);
      const recovered = await recoveredWithin(owner, killed.isOver, recoveryMsMax);
      if (recovered === null) {
        violate('the database is brought up again', killed.name, `away for ${recoveryMsMax / 1000} s`);
        break;
      }
      recoveredMs.push(recovered);
      violations.push(...(await notKept(owner, toldOf(crowd.payments))));
      const serving = await servedWithin(crowd, servingMsMax);
      if (serving === null) violate(servingRule, killed.name, `no answer for ${servingMsMax / 1000} s`);
      else servingMs.push(serving);
      if (kill % Math.ceil(kills / 10) === 0) lab.say(`${kill} kills, ${crowd.finished} payments finished`);
    }
    const figures = {
      kills: recoveredMs.length,
      'recovered within, ms': Math.round(Math.max(...recoveredMs)),
      'then served within, ms': Math.round(Math.max(0, ...servingMs)),
      payments: crowd.finished,
      answers: countsText(crowd.statuses),
    };
    if (!(await seeThrough(scene, centre, crowd, violations, 60_000))) return { violations, figures };
    // A batch was under way at the kills, or the rest proves nothing.
    const unavailable = crowd.statuses.get('503') ?? 0;
    if (unavailable < kills / 2) violate('the fault hits', 'answers 503', String(unavailable));
    // The same process has served through all of it, and goes in order.
    centre.signal('SIGTERM');
    await Promise.all([owner.end(), scene.pool.end()]);
    const { code, signal } = await centre.ended;
    if (code !== 0 || postmasterOf(scene.dataDir) !== null)
      violate('the process goes in order', 'centre', `it ended with ${code ?? signal}: ${centre.said()}`);
    return { violations, figures };
  } finally {
    await scene.close();
  }
}

experiment({
  number: 2,
  name: 'the database is killed',
  minutesMax: { short: 8, full: 60 },
  run: (lab) => survive(lab, lab.size(20, 200)),
  controls: [
    {
      broken: 'a build whose lanes stay with a lost session',
      rule: servingRule,
      run: (lab) =>
        survive(
          lab,
          2,
          brokenBuild([
            {
              file: 'db/lane.js',
              from: 'if (this.client === client) {',
              to: 'if (false) {',
            },
          ]),
        ),
    },
    {
      broken: 'a build that tells the outcome when the batch with it was lost',
      rule: 'what was acknowledged is kept',
      run: (lab) => survive(lab, 40, brokenBuild([tellUncommitted])),
    },
  ],
});
