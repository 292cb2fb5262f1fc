/**
 * What a process needs from its system runs out: descriptors, because strangers hold connections to it, and connections
 * to the database, because strangers have them all. Agents are answered or refused in time, no process ends, and
 * business goes on by itself when the strangers have left. All servers have but two connections for ordinary queries.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { Client } from 'undici';
import { type AnswerKind, ask, Crowd, countsText, everyFate } from '../support/crowd.js';
import { judgeScene, type Violation } from '../support/oracle.js';
import { brokenBuild, openScene, type Scene, type Server } from '../support/processes.js';
import { missingFile } from './debian.js';
import { experiment, type Lab, type Outcome } from './lab.js';

const processes = 3;
const agentsEach = 15;
/** For the first of the processes; more strangers come. */
const descriptorsMax = 280;
/** Later the system takes back what it allowed: fewer than the process has already. */
const lowestMax = 64;
const strangersMax = 300;
/** Connections for look-ups by telephone number, which go through the pool of two. */
const lookUpsEach = 20;

const inTime = 'an agent is answered or refused within 9 s';
const waitMsMax = 9000;
const noneEnds = 'no process ends';
const again = 'business goes on within 10 s';
const recoveryMsMax = 10_000;
const connected = 'beside any number of connections there are descriptors left';

interface Plan {
  readonly rounds: number;
  readonly faults: readonly ('connections' | 'descriptors' | 'sessions')[];
  /** How long the strangers stay. */
  readonly holdMs: number;
  readonly build?: string;
}

async function runOut(lab: Lab, plan: Plan): Promise<Outcome> {
  const scene = await openScene({
    agents: processes * agentsEach,
    fundsMinor: 10_000_000_00n,
    sandbox: { delayMs: 20 },
    env: { TOLEM_DATABASE_POOL_MAX: '2' },
    // Connections to the provider are made anew all the time, as each takes a descriptor.
    provider: { concurrencyMax: 16, keepAliveMs: 20 },
  });
  try {
    return await runOutOverAndOver(lab, scene, plan);
  } finally {
    await scene.close();
  }
}

async function runOutOverAndOver(lab: Lab, scene: Scene, plan: Plan): Promise<Outcome> {
  const { owner, callers } = scene;
  const { timeline } = lab;
  const violations: Violation[] = [];
  const violate = (rule: string, object: string, found: string) => violations.push({ rule, object, found });
  const ports: number[] = [];
  while (ports.length < processes) ports.push(await scene.newPort());
  const servers = ports.map((port, index) =>
    scene.start({ port, build: plan.build, descriptorsMax: index === 0 ? descriptorsMax : undefined }),
  );
  await Promise.all(servers.map(({ ready }) => ready));
  let deaths = 0;
  for (const server of servers) void server.ended.then(() => (deaths += 1));

  let slowestMs = 0;
  const onAnswer = (kind: AnswerKind, waitedMs: number) => {
    timeline.answer(kind);
    slowestMs = Math.max(slowestMs, waitedMs);
  };
  // A crowd to each process, so that each one's recovery is seen.
  const crowds = ports.map((port, index) => {
    const own = callers.slice(index * agentsEach, (index + 1) * agentsEach);
    return new Crowd({ ports: [port], callers: own, fates: everyFate, thinkMsMax: 100, onAnswer });
  });
  const lookUps = new LookUps(ports, callers[0]!.token);
  const settled = () => Promise.all(crowds.map((each) => each.nextAnswer()));
  await settled();

  const recoveriesMs: number[] = [];
  const recovered = async (what: string) => {
    const startedAtMs = performance.now();
    await Promise.all(
      crowds.map(async (each, index) => {
        const ms = await Promise.race([each.nextAnswer(), sleep(recoveryMsMax, null)]);
        if (ms === null) violate(again, `server ${index}`, `not ${recoveryMsMax / 1000} s after ${what}`);
        else recoveriesMs.push(performance.now() - startedAtMs);
      }),
    );
  };

  const figures: Record<string, number> = {
    'strangers refused': 0,
    'no descriptor left': 0,
    'sessions the strangers had': 0,
  };
  const count = (what: keyof typeof figures, more: number) => {
    figures[what] = figures[what]! + more;
  };
  for (let round = 0; round < plan.rounds; round += 1) {
    const fault = plan.faults[round % plan.faults.length]!;
    timeline.fault(fault);
    if (fault === 'connections') {
      const strangers = await Strangers.at(ports[0]!);
      await endSessions(owner);
      if (await wasWithoutDescriptor(servers[0]!, descriptorsMax, plan.holdMs))
        violate(connected, 'server 0', `none was left beside ${strangersMax} strangers`);
      // Who was there before is answered, by a process that has found its database anew and reaches its provider.
      const served = await Promise.race([crowds[0]!.nextAnswer(), sleep(waitMsMax, null)]);
      if (served === null) violate(again, 'server 0', `no answer beside ${strangersMax} strangers`);
      count('strangers refused', strangers.refused);
      strangers.leave();
    } else if (fault === 'descriptors') {
      limitDescriptors(servers[0]!, lowestMax);
      const strangers = await Strangers.at(ports[0]!);
      await endSessions(owner);
      if (await wasWithoutDescriptor(servers[0]!, lowestMax, plan.holdMs)) count('no descriptor left', 1);
      strangers.leave();
      if (deaths === 0) limitDescriptors(servers[0]!, descriptorsMax);
    } else {
      count('sessions the strangers had', await withoutSessions(scene, plan.holdMs));
    }
    if (deaths > 0) break;
    await recovered(fault);
    lab.say(`${fault}, served again after ${Math.round(recoveriesMs.at(-1) ?? 0)} ms`);
  }

  await lookUps.end();
  // Nobody starts a process anew that has ended; its agents wait in vain.
  await Promise.all(crowds.map((each) => each.finish(deaths > 0 ? 0 : 60_000)));
  const payments = crowds.flatMap((each) => each.payments);
  for (const server of servers) {
    const alive = await Promise.race([server.ended.then(() => false), sleep(10, true)]);
    if (!alive) violate(noneEnds, `process ${server.pid}`, server.said().slice(-500));
  }
  const longestMs = Math.round(Math.max(slowestMs, lookUps.slowestMs));
  if (longestMs > waitMsMax) violate(inTime, 'the slowest answer', `after ${longestMs} ms`);
  if (deaths === 0) violations.push(...(await judgeScene(scene, payments)));
  const statuses = new Map<string, number>();
  for (const each of crowds)
    for (const [status, n] of each.statuses) statuses.set(status, (statuses.get(status) ?? 0) + n);
  return {
    violations,
    figures: {
      rounds: plan.rounds,
      ...figures,
      payments: payments.length,
      'the slowest answer, ms': longestMs,
      'served again within, ms': Math.round(Math.max(0, ...recoveriesMs)),
      answers: countsText(statuses),
      'look-ups': countsText(lookUps.statuses),
    },
  };
}

/** Connections that ask nothing, as a port that is open to the world knows them; who is refused comes again. */
class Strangers {
  refused = 0;
  private over = false;
  private readonly sockets = new Set<Socket>();

  private constructor(private readonly port: number) {
    for (let i = 0; i < strangersMax; i += 1) this.come();
  }

  static async at(port: number): Promise<Strangers> {
    const strangers = new Strangers(port);
    await sleep(500);
    return strangers;
  }

  private come(): void {
    const socket = connect(this.port, '127.0.0.1');
    this.sockets.add(socket);
    socket
      .on('error', () => {})
      .once('close', () => {
        this.sockets.delete(socket);
        if (this.over) return;
        this.refused += 1;
        setTimeout(() => this.over || this.come(), 100 + Math.random() * 200);
      });
  }

  leave(): void {
    this.over = true;
    for (const socket of this.sockets) socket.destroy();
  }
}

/** Agents who look up operators, over and over, through the pool. */
class LookUps {
  slowestMs = 0;
  readonly statuses = new Map<string, number>();
  private over = false;
  private readonly lives: Promise<unknown>;

  constructor(ports: readonly number[], token: string) {
    const each = ports.flatMap((port) => Array.from({ length: lookUpsEach }, () => this.live(port, token)));
    this.lives = Promise.all(each);
  }

  async end(): Promise<void> {
    this.over = true;
    await this.lives;
  }

  private async live(port: number, token: string): Promise<void> {
    const client = new Client(`http://127.0.0.1:${port}`);
    while (!this.over) {
      const startedAtMs = performance.now();
      const status = await ask(client, token, '{"phoneNumber":"7017770000"}', 15_000, 'operatorByPhone').then(
        ({ httpStatus }) => String(httpStatus),
        ({ code, name }: NodeJS.ErrnoException) => (typeof code === 'string' ? code : name),
      );
      this.slowestMs = Math.max(this.slowestMs, performance.now() - startedAtMs);
      this.statuses.set(status, (this.statuses.get(status) ?? 0) + 1);
      await sleep(100 + Math.random() * 200);
    }
    await client.destroy();
  }
}

function limitDescriptors({ pid }: Server, most: number): void {
  execFileSync('prlimit', ['--pid', String(pid), `--nofile=${most}:${descriptorsMax}`]);
}

/** Looks at a process for so long: whether there was a moment at which no number below the limit was free. */
async function wasWithoutDescriptor({ pid }: Server, limit: number, ms: number): Promise<boolean> {
  let least = limit;
  for (const untilMs = performance.now() + ms; performance.now() < untilMs; await sleep(5)) {
    try {
      const taken = readdirSync(`/proc/${pid}/fd`).filter((each) => Number(each) < limit);
      least = Math.min(least, limit - taken.length);
    } catch {
      return false;
    }
  }
  return least === 0;
}

/** Ends the database's sessions of all servers: they must come again. */
async function endSessions(owner: Pick<pg.Pool, 'query'>): Promise<void> {
  await owner.query(
    `select pg_terminate_backend(pid) from pg_stat_activity
     where application_name like 'tolem %' and application_name <> 'tolem test'`,
  );
}

/** Strangers take every session the database has, the servers' too, for so long. Answers how many they have. */
async function withoutSessions({ owner }: Scene, ms: number): Promise<number> {
  const look = await owner.connect();
  const strangers: pg.Client[] = [];
  const come = async () => {
    const stranger = new pg.Client({ ...owner.options, application_name: 'a stranger' });
    stranger.on('error', () => {});
    await stranger.connect();
    strangers.push(stranger);
  };
  const serversHave = async () => {
    const { rows } = await look.query<{ count: number }>(
      `select count(*)::int as count from pg_stat_activity
       where application_name like 'tolem %' and application_name <> 'tolem test'`,
    );
    return rows[0]!.count;
  };
  for (let i = 0; i < 200 && (i === 0 || (await serversHave()) > 0); i += 1) {
    // More than the database takes: what the servers lose is taken before they come again.
    const coming = Promise.allSettled(Array.from({ length: 70 }, come));
    await endSessions(look);
    await coming;
  }
  const starved = (await serversHave()) === 0;
  await sleep(ms);
  await Promise.all(strangers.map((each) => each.end()));
  look.release();
  return starved ? strangers.length : 0;
}

experiment({
  number: 12,
  name: 'descriptors and connections run out',
  minutesMax: { short: 4, full: 40 },
  unless: () => missingFile('/usr/bin/prlimit', 'util-linux'),
  async run(lab) {
    const outcome = await runOut(lab, {
      rounds: lab.size(3, 60),
      holdMs: 4000,
      faults: ['connections', 'descriptors', 'sessions'],
    });
    const violations = [...outcome.violations];
    for (const name of ['strangers refused', 'no descriptor left', 'sessions the strangers had']) {
      if (Number(outcome.figures[name]) === 0)
        violations.push({ rule: 'the fault hits', object: name, found: 'never' });
    }
    return { ...outcome, violations };
  },
  controls: [
    {
      broken: 'a build that gives agents the last descriptor',
      rule: connected,
      run: (lab) =>
        runOut(lab, {
          ...{ rounds: 1, faults: ['connections'], holdMs: 2000 },
          build: brokenBuild([
            {
              file: 'protocol/server.js',
              from: 'Math.min(config.connectionsMax, affordableConnections())',
              to: 'config.connectionsMax',
            },
          ]),
        }),
    },
    {
      broken: 'a build that ends when it cannot connect',
      rule: noneEnds,
      run: (lab) =>
        runOut(lab, {
          ...{ rounds: 1, faults: ['descriptors'], holdMs: 2000 },
          build: brokenBuild([
            {
              file: 'db/lane.js',
              from: 'this.refuseOld(this.closed ? 0 : waitMsMax, error);',
              to: 'throw error;',
            },
          ]),
        }),
    },
    {
      broken: 'a build that waits for its database for ever',
      rule: inTime,
      run: (lab) =>
        runOut(lab, {
          ...{ rounds: 1, faults: ['sessions'], holdMs: 10_000 },
          build: brokenBuild([
            {
              file: 'db/lane.js',
              from: 'refuseOld(ms, error) {',
              to: 'refuseOld(ms, error) {\nms = Number.POSITIVE_INFINITY;',
            },
            {
              file: 'payments/pay.js',
              from: 'return writingSince !== null && now - writingSince >= patienceMs;',
              to: 'return false;',
            },
          ]),
        }),
    },
  ],
});
