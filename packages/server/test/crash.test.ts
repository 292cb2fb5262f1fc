/**
 * The server is killed with SIGKILL at random moments, over and over, while agents pay. Everything is real: processes,
 * HTTP, PostgreSQL with fsync on, and a provider that is not killed and remembers what it did. CHAOS_KILLS sets how
 * often.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Crowd, everyFate, type Fate, plainFate } from './support/crowd.js';
import { judge, type Violation } from './support/oracle.js';
import { brokenBuild, openScene, type Scene, type Server } from './support/processes.js';

const kills = Number(process.env.CHAOS_KILLS ?? 100);

interface Chaos {
  readonly kills: number;
  readonly fates: readonly Fate[];
  /** Another build than the one under test. */
  readonly build?: string;
  /** How long the provider holds back its answers: what is sent meanwhile is under way at a kill. */
  readonly providerDelayMs: number;
  /** Calls that the centre makes to the provider at once; absent: as many as by default. */
  readonly concurrencyMax?: number;
  readonly sayEvery: number;
}

interface Survived {
  readonly violations: readonly Violation[];
  readonly finished: number;
  /** Payments that were with the provider, and payments of unknown outcome, when their process was killed. */
  readonly orphans: number;
  readonly uncertain: number;
  /** Orphans that the provider had executed, and that ended as successes because the provider was asked. */
  readonly recovered: number;
}

async function survive(chaos: Chaos): Promise<Survived> {
  const scene = await openScene({
    agents: 100,
    fundsMinor: 10_000_000_00n,
    sandbox: { delayMs: chaos.providerDelayMs },
    provider: chaos.concurrencyMax ? { concurrencyMax: chaos.concurrencyMax } : {},
  });
  try {
    return await killOverAndOver(scene, chaos);
  } finally {
    await scene.close();
  }
}

async function killOverAndOver(scene: Scene, chaos: Chaos): Promise<Survived> {
  const { port, callers, owner, fundsMinor } = scene;
  const start = () => scene.start({ port, build: chaos.build });
  let server = start();
  await server.ready;
  const crowd = new Crowd({ port, callers, fates: chaos.fates, thinkMsMax: 200 });
  const orphans = new Set<bigint>();
  const uncertain = new Set<bigint>();
  for (let kill = 1; kill <= chaos.kills; kill += 1) {
    await untilRandomMoment(server, crowd);
    server.signal('SIGKILL');
    await server.ended;
    for (const { id, what } of await underWay(scene)) (what === 'lease' ? orphans : uncertain).add(id);
    server = start();
    if (kill % chaos.sayEvery === 0 || kill === chaos.kills) {
      console.log(
        `${kill} kills, ${crowd.finished} payments finished, ${orphans.size} orphaned, ${uncertain.size} uncertain`,
      );
    }
  }
  await server.ready;
  await crowd.finish(120_000);
  const violations = await judge({
    ...{ payments: crowd.payments, registry: await scene.sandbox.registry(), owner, callers, fundsMinor },
  });
  console.log(`answers: ${[...crowd.statuses].map(([status, count]) => `${status} × ${count}`).join(', ')}`);
  if (server.said() !== '') console.log(`the last server said: ${server.said().slice(-2000)}`);
  expect(scene.sandbox.alive()).toBe(true);

  const { rows } = await owner.query<{ count: number }>(
    `select count(distinct p.id)::int as count from payments p join payment_events e on e.payment_id = p.id
     where p.id = any ($1) and p.state = 6 and e.kind = 'provider_status' and e.data ->> 'outcome' = 'executed'`,
    [[...orphans]],
  );
  return {
    violations,
    finished: crowd.finished,
    orphans: orphans.size,
    uncertain: uncertain.size,
    recovered: rows[0]!.count,
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

/** What the dead process had with the provider, and what was waiting for an inquiry. */
async function underWay({ owner }: Scene): Promise<{ id: bigint; what: 'lease' | 'queue' }[]> {
  const { rows } = await owner.query<{ id: bigint; what: 'lease' | 'queue' }>(
    `select p.id, 'lease' as what from leases l, unnest(l.payment_ids) as i (id) join payments p on p.id = i.id
     where p.state = 4 and not exists (select 1 from waiting w where w.payment_id = p.id)
     union all
     select payment_id, 'queue' from waiting where what in ('send', 'inquire')`,
  );
  return rows;
}

test(
  `${kills} kills under 100 agents lose nothing, double nothing and change no final code`,
  async () => {
    const survived = await survive({ kills, fates: everyFate, providerDelayMs: 20, sayEvery: 10 });
    expect(survived.violations.slice(0, 20)).toEqual([]);
    // The kills must have hit where it hurts, or the rest proves nothing.
    expect(survived.finished).toBeGreaterThan(kills);
    expect(survived.orphans).toBeGreaterThan(kills);
    expect(survived.uncertain).toBeGreaterThan(kills);
    expect(survived.recovered).toBeGreaterThan(kills / 2);
  },
  (300 + kills * 10) * 1000,
);

const rulesOf = (survived: Survived) => [...new Set(survived.violations.map(({ rule }) => rule))];

test('a build that books success before the provider has the payment is caught', async () => {
  const build = brokenBuild([
    {
      file: 'payments/pay.js',
      from: 'const { outcome, record } = await sender.pay(providerId, order, sendBefore);',
      to: `const outcome = { kind: 'executed', reference: null };
           const record = { call: 'pay', startedAt: '', durationMs: 0, httpStatus: null, outcome: 'executed', detail: null };`,
    },
    {
      file: 'payments/pay.js',
      from: 'return answerOf(settled);',
      to: 'void sender.pay(providerId, order, sendBefore); return answerOf(settled);',
    },
  ]);
  const survived = await survive({
    ...{ kills: 8, fates: [plainFate], build, providerDelayMs: 50, concurrencyMax: 16, sayEvery: 8 },
  });
  expect(rulesOf(survived)).toContain('a success was executed');
}, 180_000);

test('a build that sends again without asking first is caught', async () => {
  const build = brokenBuild([
    {
      file: 'centre.js',
      from: 'const rows = await claim(queue, free);',
      to: "const rows = (await claim(queue, free)).map((row) => ({ ...row, what: 'send' }));",
    },
  ]);
  const survived = await survive({ kills: 8, fates: [plainFate], build, providerDelayMs: 50, sayEvery: 8 });
  expect(rulesOf(survived)).toContain('nothing is executed twice');
}, 180_000);
