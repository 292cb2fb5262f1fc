/**
 * Failover: a primary with a synchronous standby is lost for good, the standby promoted, and the centre follows by
 * itself. Three ways: the primary is killed; it falls silent, as a machine without power or network does; or the
 * standby is away first, somebody cancels the waits for it, and then the primary is killed: what was committed on the
 * primary alone is gone, and no agent may have been told.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Crowd, countsText, everyFate } from '../support/crowd.js';
import type { Violation } from '../support/oracle.js';
import { brokenBuild, openScene } from '../support/processes.js';
import { Pair } from '../support/standby.js';
import { experiment, type Lab, type Outcome } from './lab.js';
import { keptRule, notKept, recoveredWithin, seeThrough, servedWithin, toldOf } from './told.js';

type Way = 'killed' | 'silent' | 'cancelled waits';

const servingRule = 'serves again within 10 s of the promotion, 30 s when the primary fell silent';
const servingMsMax = { killed: 10_000, silent: 30_000, 'cancelled waits': 10_000 };
const timed = [servingRule];
const awayMs = 2000;

interface Plan {
  readonly ways: readonly Way[];
  readonly build?: string;
  /** The setting of the database. */
  readonly synchronousCommit?: 'local';
}

async function survive(lab: Lab, { ways, build, synchronousCommit }: Plan): Promise<Outcome> {
  let pair!: Pair;
  const scene = await openScene({
    agents: 100,
    fundsMinor: 10_000_000_00n,
    sandbox: { delayMs: 20 },
    postgres: async (dataDir) => {
      pair = await Pair.open(dataDir);
      return pair;
    },
  });
  const violations: Violation[] = [];
  const violate = (rule: string, object: string, found: string) => violations.push({ rule, object, found });
  try {
    const { port, callers, owner } = scene;
    if (synchronousCommit)
      await owner.query(`alter database tolem set synchronous_commit = ${synchronousCommit}`);
    const centre = scene.start({ port, build });
    await centre.ready;
    const { answer } = lab.timeline;
    const crowd = new Crowd({ ports: [port], callers, fates: everyFate, thinkMsMax: 200, onAnswer: answer });
    await crowd.nextAnswer();
    const longest = new Map<string, number>();
    let cancelled = 0;
    for (const [index, way] of ways.entries()) {
      await sleep(500 + Math.random() * 1500);
      lab.timeline.fault(way);
      if (way === 'cancelled waits') {
        await pair.loseStandby();
        const before = cancelled;
        for (const until = performance.now() + awayMs; performance.now() < until; await sleep(20))
          cancelled += await pair.cancelWaits();
        if (cancelled === before && !synchronousCommit)
          violate('the fault hits', `failover ${index + 1}`, 'no wait was cancelled');
      }
      await pair.losePrimary(way === 'silent' ? 'hung' : 'killed');
      if (way === 'cancelled waits') await pair.bringStandbyBack();
      await pair.promote();
      const serving = await servedWithin(crowd, servingMsMax[way]);
      if (serving === null) violate(servingRule, way, centre.said().slice(-1000));
      if ((await recoveredWithin(owner, () => true)) !== null)
        violations.push(...(await notKept(owner, toldOf(crowd.payments))));
      longest.set(way, Math.max(longest.get(way) ?? 0, Math.round(serving ?? 0)));
      if (violations.length > 0) break;
      await pair.addStandby();
      lab.say(`${index + 1} failovers, ${crowd.finished} payments finished`);
    }
    const figures = {
      failovers: ways.length,
      'waits cancelled': cancelled,
      'served after the promotion within, ms': [...longest].map((each) => each.join(' ')).join(', '),
      lost: violations.filter(({ rule }) => rule === keptRule).length,
      payments: crowd.finished,
      answers: countsText(crowd.statuses),
    };
    await seeThrough(scene, centre, crowd, violations, 60_000, build ? [] : timed);
    return { violations, figures };
  } finally {
    await scene.close();
  }
}

const short: readonly Way[] = ['killed', 'cancelled waits'];
const full = Array.from({ length: 50 }, (_, index): Way => (index % 5 === 4 ? 'silent' : short[index % 2]!));

experiment({
  number: 4,
  name: 'failover to a standby',
  timed,
  minutesMax: { short: 8, full: 60 },
  run: (lab) => survive(lab, { ways: lab.size(0, 1) === 1 ? full : short }),
  controls: [
    {
      broken: 'a standby that commits do not wait for',
      rule: keptRule,
      run: (lab) => survive(lab, { ways: ['cancelled waits'], synchronousCommit: 'local' }),
    },
    {
      broken: 'a build that takes a cancelled wait for a commit',
      rule: keptRule,
      run: (lab) =>
        survive(lab, {
          ways: ['cancelled waits'],
          build: brokenBuild([
            { file: 'db/connect.js', from: "if (routine === 'SyncRepWaitForLSN')", to: 'if (false)' },
          ]),
        }),
    },
    {
      broken: 'a build that tells what it reads before the standby has it',
      rule: keptRule,
      run: (lab) =>
        survive(lab, {
          ways: ['cancelled waits'],
          build: brokenBuild([
            {
              file: 'payments/store.js',
              from: "pg_logical_emit_message(true, 'tolem', '') end",
              to: 'null end',
            },
          ]),
        }),
    },
    {
      broken: 'a build that stays with its first host',
      rule: servingRule,
      run: (lab) =>
        survive(lab, {
          ways: ['killed'],
          build: brokenBuild([
            { file: 'db/connect.js', from: 'this.at = (this.at + 1) % this.places.length;', to: ';' },
          ]),
        }),
    },
  ],
});
