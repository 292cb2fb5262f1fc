/** Servers that are killed over and over while agents pay: experiment 1, and the same before every simulator. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Crowd, countsText, type Fate } from '../support/crowd.js';
import { judgeScene } from '../support/oracle.js';
import { openScene, type Scene, type SceneOptions, type Server } from '../support/processes.js';
import { buildWithFailPoints, failPointNames } from './fail-points.js';
import type { Lab, Outcome } from './lab.js';

export interface Plan {
  readonly processes: number;
  /** Processes that die, at least. */
  readonly kills: number;
  /** How often a process dies at each of the fail points. */
  readonly eachFailPoint: number;
  readonly fates: readonly Fate[];
  /** Another build than the one under test. */
  readonly build?: string;
  /** How long the provider holds back its answers: what is sent meanwhile is under way at a kill. */
  readonly providerDelayMs: number;
  /** Calls that the centre makes to the provider at once; absent: as many as by default. */
  readonly concurrencyMax?: number;
  /** Another provider than the sandbox. */
  readonly simulate?: SceneOptions['simulate'];
}

export async function survive(lab: Lab, plan: Plan): Promise<Outcome> {
  const scene = await openScene({
    agents: 100,
    fundsMinor: 10_000_000_00n,
    sandbox: { delayMs: plan.providerDelayMs },
    provider: plan.concurrencyMax ? { concurrencyMax: plan.concurrencyMax } : {},
    simulate: plan.simulate,
  });
  try {
    return await killOverAndOver(lab, scene, plan);
  } finally {
    await scene.close();
  }
}

async function killOverAndOver(lab: Lab, scene: Scene, plan: Plan): Promise<Outcome> {
  const { callers, owner } = scene;
  const { timeline } = lab;
  const ports: number[] = [];
  while (ports.length < plan.processes) ports.push(await scene.newPort());
  const start = (index: number) => scene.start({ port: ports[index]!, build: plan.build });
  const servers = ports.map((_, index) => start(index));
  await Promise.all(servers.map((each) => each.ready));
  const crowd = new Crowd({
    ports,
    callers,
    fates: plan.fates,
    thinkMsMax: 200,
    onAnswer: timeline.answer,
  });

  const orphans = new Set<bigint>();
  const uncertain = new Set<bigint>();
  const lookAtTheDead = async () => {
    for (const { id, what } of await underWay(scene)) (what === 'lease' ? orphans : uncertain).add(id);
  };
  let killed = 0;
  for (let round = 1; killed < plan.kills; round += 1) {
    // Now and then all at once.
    const victims = Math.random() < 0.2 ? [...ports.keys()] : [Math.floor(Math.random() * ports.length)];
    await untilRandomMoment(servers[victims[0]!]!, crowd);
    timeline.fault(`kill ${victims.length}`);
    for (const index of victims) servers[index]!.signal('SIGKILL');
    await Promise.all(victims.map((index) => servers[index]!.ended));
    await lookAtTheDead();
    for (const index of victims) servers[index] = start(index);
    killed += victims.length;
    if (round % Math.ceil(plan.kills / 10) === 0)
      lab.say(`${killed} killed, ${crowd.finished} payments finished`);
  }

  const build = plan.eachFailPoint > 0 ? buildWithFailPoints() : '';
  let deaths = 0;
  const missed: string[] = [];
  for (const name of plan.eachFailPoint > 0 ? failPointNames : []) {
    for (let i = 0; i < plan.eachFailPoint; i += 1) {
      servers[0]!.signal('SIGKILL');
      await servers[0]!.ended;
      const env = { FAIL_POINT: name, FAIL_POINT_HITS: String(1 + Math.floor(Math.random() * 20)) };
      const victim = scene.start({ port: ports[0]!, build, env });
      const died = await Promise.race([victim.ended.then(() => true), sleep(30_000, false)]);
      timeline.fault(name);
      if (died) deaths += 1;
      else missed.push(name);
      victim.signal('SIGKILL');
      await victim.ended;
      await lookAtTheDead();
      servers[0] = start(0);
    }
    lab.say(`died at “${name}”; ${crowd.finished} payments finished`);
  }

  await Promise.all(servers.map((each) => each.ready));
  const healedAtMs = performance.now();
  await crowd.finish(60_000);
  const finishedMs = Math.round(performance.now() - healedAtMs);
  const violations = await judgeScene(scene, crowd.payments);
  for (const name of missed)
    violations.push({ rule: 'every fail point is met', object: name, found: 'the process lived on' });
  if (!scene.sandbox.alive())
    violations.push({ rule: 'the provider lives', object: 'sandbox', found: 'it ended' });
  const said = servers.map((each) => each.said()).join('');
  if (said !== '') lab.say(`the last servers said: ${said.slice(-2000)}`);

  const { rows } = await owner.query<{ count: number }>(
    `select count(distinct p.id)::int as count from payments p join payment_events e on e.payment_id = p.id
     where p.id = any ($1) and p.state = 6 and e.kind = 'provider_status' and e.data ->> 'outcome' = 'executed'`,
    [[...orphans]],
  );
  return {
    violations,
    figures: {
      kills: killed,
      'deaths at fail points': deaths,
      payments: crowd.finished,
      // With the provider, or of unknown outcome, when their process was killed.
      orphaned: orphans.size,
      uncertain: uncertain.size,
      // Orphans that the provider had executed, and that ended as successes because it was asked.
      recovered: rows[0]!.count,
      'all final after, ms': finishedMs,
      answers: countsText(crowd.statuses),
    },
  };
}

/** While it starts, while it takes up what the last one left, and mostly while it serves. */
async function untilRandomMoment(server: Server, crowd: Crowd): Promise<void> {
  const dice = Math.random();
  if (dice < 0.15) return sleep(Math.random() * 1200);
  await server.ready;
  if (dice > 0.5) await crowd.nextAnswer();
  await sleep(Math.random() * 1500);
}

/** What the dead processes had with the provider, and what was waiting for an inquiry. */
async function underWay({ owner }: Scene): Promise<{ id: bigint; what: 'lease' | 'queue' }[]> {
  const { rows } = await owner.query<{ id: bigint; what: 'lease' | 'queue' }>(
    `select p.id, 'lease' as what from leases l, unnest(l.payment_ids) as i (id) join payments p on p.id = i.id
     where p.state = 4 and not exists (select 1 from waiting w where w.payment_id = p.id)
     union all
     select payment_id, 'queue' from waiting where what in ('send', 'inquire')`,
  );
  return rows;
}
