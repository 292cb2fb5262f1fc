/**
 * Power is lost: all processes of PostgreSQL are stopped in the middle of their work, the data directory is copied as
 * it lies, and the copy is what the centre goes on with. What was in the processes' memory alone is gone with them.
 * What they had written counts as being on the disk, so that the copy cannot show a missing fsync; it shows what was
 * acknowledged before it was written, and the control does just that.
 */
import { execFile } from 'node:child_process';
import { realpathSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Crowd, countsText, everyFate } from '../support/crowd.js';
import type { Violation } from '../support/oracle.js';
import { openScene, postmasterOf, type Scene, signalFamily } from '../support/processes.js';
import { experiment, type Lab, type Outcome } from './lab.js';
import {
  keptRule,
  notKept,
  recoveredWithin,
  seeThrough,
  servedWithin,
  servingMsMax,
  servingRule,
  type Told,
  toldOf,
} from './told.js';

/** Answers what agents had been told when the processes stood still. */
async function losePower({ dataDir }: Scene, crowd: Crowd): Promise<Told[]> {
  const postmaster = postmasterOf(dataDir)!;
  const cluster = join(realpathSync(join(dataDir, 'postgres')), 'cluster');
  signalFamily(postmaster, 'SIGSTOP');
  await promisify(execFile)('cp', ['-a', cluster, `${cluster}.copy`]);
  const told = toldOf(crowd.payments);
  renameSync(cluster, `${cluster}.gone`);
  renameSync(`${cluster}.copy`, cluster);
  // It names a process that this machine, after the cut, does not have.
  rmSync(join(cluster, 'postmaster.pid'));
  signalFamily(postmaster, 'SIGKILL');
  rmSync(`${cluster}.gone`, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  return told;
}

async function survive(lab: Lab, cuts: number, synchronousCommit?: 'off'): Promise<Outcome> {
  const scene = await openScene({
    agents: 100,
    fundsMinor: 10_000_000_00n,
    sandbox: { delayMs: 20 },
    embedded: true,
  });
  const violations: Violation[] = [];
  try {
    const { port, callers, owner, dataDir } = scene;
    const centre = scene.start({ port });
    await centre.ready;
    if (synchronousCommit) {
      await owner.query(`alter database tolem set synchronous_commit = ${synchronousCommit}`);
      await owner.query(`select pg_terminate_backend(pid) from pg_stat_activity
        where application_name like 'tolem lane %'`);
    }
    const { answer } = lab.timeline;
    const crowd = new Crowd({ ports: [port], callers, fates: everyFate, thinkMsMax: 100, onAnswer: answer });
    await crowd.nextAnswer();
    let compared = 0;
    let latest = 0;
    for (let cut = 1; cut <= cuts && violations.length === 0; cut += 1) {
      await sleep(500 + Math.random() * 1500);
      const before = postmasterOf(dataDir);
      const finished = crowd.finished;
      lab.timeline.fault('power lost');
      const told = await losePower(scene, crowd);
      const recovered = await recoveredWithin(owner, () => ![before, null].includes(postmasterOf(dataDir)));
      violations.push(...(recovered === null ? [] : await notKept(owner, told)));
      const serving = recovered === null ? null : await servedWithin(crowd, servingMsMax);
      if (serving === null)
        violations.push({ rule: servingRule, object: `cut ${cut}`, found: 'it does not' });
      compared = told.length;
      latest = Math.max(latest, serving ?? 0);
      if (finished === 0) violations.push({ rule: 'the fault hits', object: `cut ${cut}`, found: 'no load' });
      if (cut % Math.ceil(cuts / 10) === 0) lab.say(`${cut} cuts, ${crowd.finished} payments finished`);
    }
    const lost = violations.filter(({ rule }) => rule === keptRule).length;
    const figures = {
      'payments compared at the last cut': compared,
      lost,
      'served within, ms': Math.round(latest),
      payments: crowd.finished,
      answers: countsText(crowd.statuses),
    };
    await seeThrough(scene, centre, crowd, violations, 60_000);
    return { violations, figures };
  } finally {
    await scene.close();
  }
}

experiment({
  number: 3,
  name: 'power is lost',
  minutesMax: { short: 5, full: 30 },
  run: (lab) => survive(lab, lab.size(3, 50)),
  controls: [
    {
      broken: 'a database with synchronous_commit off',
      rule: keptRule,
      run: (lab) => survive(lab, 5, 'off'),
    },
  ],
});
