/**
 * The disk under the database is full: a small file system, filled under load by a file, until PostgreSQL cannot extend
 * its tables, or cannot begin the next segment of its log and dies of it. Agents get nothing final that is not so, and
 * when there is space again the centre serves by itself.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { chownSync, mkdirSync, realpathSync, rmSync, statfsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Crowd, countsText, everyFate } from '../support/crowd.js';
import type { Violation } from '../support/oracle.js';
import { brokenBuild, openScene, postmasterOf } from '../support/processes.js';
import { experiment, type Lab, type Outcome } from './lab.js';
import { keptRule, notKept, seeThrough, servedWithin, tellUncommitted, toldOf } from './told.js';

const resumeRule = 'serves again within 60 s after there is space';
const resumeMsMax = 60_000;
const timed = [resumeRule];
const diskMiB = 512;

/** A file system in a file, where PostgreSQL will be. It goes with its last mount. */
function mountSmallDisk(dataDir: string): () => void {
  const image = join(dataDir, 'disk');
  const directory = join(dataDir, 'postgres');
  mkdirSync(directory);
  execFileSync('fallocate', ['-l', `${diskMiB}M`, image]);
  execFileSync('mkfs.ext4', ['-q', '-m', '0', image]);
  execFileSync('mount', ['-o', 'loop', image, directory]);
  const id = (flag: string) => Number(execFileSync('id', [flag, databaseUser()], { encoding: 'utf8' }));
  chownSync(directory, id('-u'), id('-g'));
  return () => execFileSync('umount', [directory]);
}

/** Whom the database runs as under root. */
function databaseUser(): string {
  return spawnSync('id', ['postgres']).status === 0 ? 'postgres' : 'nobody';
}

/** Takes all the space there is, to the last block. */
function fill(directory: string): string {
  const ballast = join(directory, 'ballast');
  const { bavail, bsize } = statfsSync(directory);
  spawnSync('fallocate', ['-l', String(Math.max(1, (bavail - 512) * bsize)), ballast]);
  // Ends when the disk is full.
  spawnSync('dd', ['if=/dev/zero', `of=${ballast}`, 'bs=4096', 'oflag=append', 'conv=notrunc']);
  return ballast;
}

async function survive(lab: Lab, times: number, build?: string): Promise<Outcome> {
  const scene = await openScene({
    agents: 100,
    fundsMinor: 10_000_000_00n,
    // So long that many payments are with the provider when the disk is full, whose outcomes have no room.
    sandbox: { delayMs: 200 },
    embedded: true,
    prepare: mountSmallDisk,
  });
  const violations: Violation[] = [];
  const violate = (rule: string, object: string, found: string) => violations.push({ rule, object, found });
  try {
    const { port, callers, owner, dataDir } = scene;
    const disk = realpathSync(join(dataDir, 'postgres'));
    const centre = scene.start({ port, build });
    await centre.ready;
    const { answer } = lab.timeline;
    const crowd = new Crowd({ ports: [port], callers, fates: everyFate, thinkMsMax: 100, onAnswer: answer });
    await crowd.nextAnswer();
    let deaths = 0;
    let latest = 0;
    for (let time = 1; time <= times && violations.length === 0; time += 1) {
      await sleep(1000 + Math.random() * 1000);
      const postmaster = postmasterOf(dataDir);
      const unavailable = () => crowd.statuses.get('503') ?? 0;
      const before = unavailable();
      lab.timeline.fault('disk full');
      const ballast = fill(disk);
      // A new segment of the log has no room either, and PostgreSQL ends itself.
      const newSegment = time % 2 === 0;
      for (const end = performance.now() + 5000; performance.now() < end; await sleep(100)) {
        if (newSegment) await owner.query('select pg_switch_wal()').catch(() => {});
      }
      violations.push(...(await notKept(owner, toldOf(crowd.payments)).catch(() => [])));
      if (postmasterOf(dataDir) !== postmaster) deaths += 1;
      if (unavailable() === before) violate('the fault hits', `time ${time}`, 'no answer 503');
      lab.timeline.fault('space again');
      rmSync(ballast);
      const serving = await servedWithin(crowd, resumeMsMax);
      if (serving === null) violate(resumeRule, `time ${time}`, centre.said().slice(-500));
      violations.push(...(await notKept(owner, toldOf(crowd.payments)).catch(() => [])));
      latest = Math.max(latest, serving ?? 0);
      lab.say(`${time} times, ${crowd.finished} payments finished`);
    }
    const figures = {
      times,
      'of which PostgreSQL ended itself': deaths,
      'served again within, ms': Math.round(latest),
      payments: crowd.finished,
      answers: countsText(crowd.statuses),
    };
    if (!(await seeThrough(scene, centre, crowd, violations, 60_000, build ? [] : timed)))
      return { violations, figures };
    const strange = [...crowd.statuses.keys()].filter(
      (each) => /^\d+$/.test(each) && !/^(200|503)$/.test(each),
    );
    if (strange.length > 0) violate('agents get an answer or 503', 'statuses', strange.join(', '));
    if (times > 1 && deaths === 0) violate('the fault hits', 'PostgreSQL', 'it never ended itself');
    return { violations, figures };
  } finally {
    await scene.close();
  }
}

experiment({
  number: 10,
  name: 'the disk is full',
  timed,
  minutesMax: { short: 6, full: 40 },
  unless() {
    if (process.getuid!() !== 0) return 'mounting a small file system needs root';
    return spawnSync('losetup', ['-f']).status === 0 ? null : 'there is no free loop device';
  },
  run: (lab) => survive(lab, lab.size(2, 20)),
  controls: [
    {
      broken: 'a build that tells the outcome when the batch with it failed',
      rule: keptRule,
      run: (lab) => survive(lab, 4, brokenBuild([tellUncommitted])),
    },
  ],
});
