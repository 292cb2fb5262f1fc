/**
 * Funds for half of the payments that come at once, over three processes, and then top-ups and reversals among what
 * waits and what comes anew: exactly what fits is taken, the rest waits on 220 and is done when money comes, and no
 * deadlock reaches an agent. Once many agents, so that batches hold several balances, and once a single one.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'undici';
import { topUp } from '../../src/agents/funds.js';
import { verify } from '../../src/ledger/verify.js';
import { reverse } from '../../src/payments/operator.js';
import { payBody, type Reply, repeatUntil } from '../support/crowd.js';
import { executionCounts, type Violation } from '../support/oracle.js';
import { breakFunction, brokenBuild, type Caller, openScene, type Scene } from '../support/processes.js';
import { experiment, type Lab, type Outcome, together } from './lab.js';

const processes = 3;
const amountMinor = 2000_00n;
const fitsRule = 'exactly what fits is taken';
const deadlockRule = 'no deadlock reaches an agent';

interface Plan {
  readonly rounds: number;
  /** So many reach the end of their funds at the same time. */
  readonly agents: number;
  /** Of each agent, at once; it has funds for half of them. */
  readonly payments: number;
  readonly build?: string;
  readonly sabotage?: (scene: Scene) => Promise<void>;
}

/** What comes while money comes: of ten payments two more new ones, and money for half of the ten. */
const moved = ({ payments }: Plan) => ({
  fresh: payments / 5,
  reversals: payments / 10,
  topUps: (payments * 2) / 5,
});

async function overdraw(lab: Lab, plan: Plan): Promise<Outcome> {
  const { rounds, agents, payments, build } = plan;
  const scene = await openScene({
    agents: rounds * agents,
    fundsMinor: BigInt(payments / 2) * amountMinor,
    sandbox: { delayMs: 10 },
    // Many small batches: what they must not do to each other has the more chances.
    env: { TOLEM_BATCH_MAX: '16' },
  });
  const violations: Violation[] = [];
  try {
    await plan.sabotage?.(scene);
    const servers = Array.from({ length: processes }, () => scene.start({ port: 0, build }));
    const urls = await Promise.all(servers.map((server) => server.ready));
    for (let round = 0; round < rounds; round += 1) {
      const callers = scene.callers.slice(round * agents, (round + 1) * agents);
      const found = await Promise.all(callers.map((caller) => exhaust(lab, scene, urls, caller, plan)));
      violations.push(...found.flat());
      lab.say(`round ${round + 1}: ${agents} × ${payments} payments, ${violations.length} violations`);
    }
    for (const server of servers) {
      const metrics = await (await fetch(`${await server.monitor}/metrics`)).text();
      for (const [, lane, count] of metrics.matchAll(/^tolem_lane_failures_total{lane="(\w+)"} (\d+)/gm))
        if (count !== '0')
          violations.push({ rule: deadlockRule, object: `lane ${lane}`, found: `${count} did` });
    }
    const { rows } = await scene.owner.query(
      'select deadlocks from pg_stat_database where datname = current_database()',
    );
    const all = rounds * agents * (payments + moved(plan).fresh);
    const figures = {
      ...{ agents: rounds * agents, payments: all },
      'deadlocks in the database': String(rows[0].deadlocks),
    };
    // What comes after counts on all of them being done.
    if (violations.length > 0) return { violations, figures };

    await sleep(500);
    const executed = executionCounts(await scene.sandbox.registry());
    for (const [object, times] of executed)
      if (times > 1) violations.push({ rule: 'nothing is executed twice', object, found: `${times} times` });
    if (executed.size !== all)
      violations.push({ rule: 'a success was executed', object: 'all', found: `${executed.size} executed` });
    for (const { what, object } of (await verify(scene.owner)).problems)
      violations.push({ rule: 'the books agree with themselves', object, found: what });
    return { violations, figures };
  } finally {
    await scene.close();
  }
}

/**
 * All payments of one agent at once; then money in small papers and from reversals, while the agent asks on and pays
 * anew; then money for the rest.
 */
async function exhaust(
  lab: Lab,
  scene: Scene,
  urls: readonly string[],
  { agentId, token }: Caller,
  plan: Plan,
): Promise<Violation[]> {
  const { payments } = plan;
  const { fresh, reversals, topUps } = moved(plan);
  const violations: Violation[] = [];
  const violate = (rule: string, found: string) =>
    violations.push({ rule, object: `agent ${agentId}`, found });
  const clients = Array.from(
    { length: payments + fresh },
    (_, index) => new Client(urls[index % urls.length]!),
  );
  const note = ({ httpStatus, code }: Reply) => {
    lab.timeline.answer(code === 0 ? 'final' : httpStatus === 503 ? 'unavailable' : 'open');
    const isAnswer = httpStatus === 200 || (httpStatus === 503 && code === 1);
    if (!isAnswer) violate('every answer is one of the contract', `HTTP ${httpStatus} with result ${code}`);
  };
  const ask = (count: number, until: (code: number | null) => boolean) =>
    Promise.all(
      clients.slice(0, count).map(async (client, index) => {
        // Those of all agents mixed.
        await sleep(Math.random() * 50);
        const body = payBody(BigInt(index + 1), String(amountMinor / 100n));
        return repeatUntil(client, token, body, until, { note, pauseMs: payments });
      }),
    );
  const expectDone = async (replies: readonly Reply[], done: number) => {
    const count = (code: number) => replies.filter((reply) => reply.code === code).length;
    const wait = replies.length - done;
    if (count(0) !== done || count(220) !== wait)
      violate(fitsRule, `${count(0)} of ${done} done, ${count(220)} of ${wait} wait on 220`);
    const available = await scene.available(agentId);
    if (available !== 0n) violate('no agent is below its limit', `${available} are left instead of 0`);
  };
  const isSettled = (code: number | null) => code === 0 || code === 220;

  try {
    const first = await ask(payments, isSettled);
    await expectDone(first, payments / 2);
    // What comes after counts on it.
    if (violations.length > 0) return violations;

    lab.timeline.fault('top-ups and reversals');
    const done = first.flatMap(({ code, transactionId }) => (code === 0 ? [BigInt(transactionId!)] : []));
    let isUsed = false;
    // One by one, as operators do: the test has few connections for its hundreds of movements.
    const giveBack = async () => {
      for (const id of done.slice(0, reversals)) await reverse(scene.pool, id, `agreed, ${id}`, 'op');
    };
    const payIn = async () => {
      for (let paper = 1; paper <= topUps; paper += 1)
        await topUp(scene.pool, agentId, amountMinor, `paper ${paper}`, 'op');
    };
    const useUp = async () => {
      await Promise.all([giveBack(), payIn()]).catch((error) =>
        violate('operators move money meanwhile', String(error)),
      );
      for (const until = performance.now() + 30_000; performance.now() < until; await sleep(20))
        if ((await scene.available(agentId)) === 0n) break;
      isUsed = true;
    };
    await Promise.all([useUp(), ask(payments + fresh, (code) => code === 0 || (isUsed && code === 220))]);
    await expectDone(await ask(payments + fresh, isSettled), payments);
    if (violations.length > 0) return violations;

    await topUp(scene.pool, agentId, BigInt(fresh) * amountMinor, 'the rest', 'op');
    const ends = await ask(payments + fresh, (code) => code === 0);
    await expectDone(ends, payments + fresh);
    if (first.some(({ transactionId }, index) => transactionId !== ends[index]!.transactionId))
      violate('an id has one transactionId', 'the answers before and after the top-ups differ');
    return violations;
  } finally {
    await Promise.all(clients.map((client) => client.close()));
  }
}

const balanceLock = /perform 1 from agent_balances b\s+where b.agent_id = any \(p_agent_id\)[^;]*for update;/;
const many = { agents: 10, payments: 100 };
const single = { agents: 1, payments: 1000 };

experiment({
  number: 9,
  name: 'an overdraft race',
  minutesMax: { short: 4, full: 60 },
  run: async (lab) => {
    const ofMany = await overdraw(lab, { ...many, rounds: lab.size(1, 50) });
    return together({ many: ofMany, one: await overdraw(lab, { ...single, rounds: 1 }) });
  },
  controls: [
    {
      broken: 'a database that does not lock the balance before it judges',
      rule: fitsRule,
      run: (lab) =>
        overdraw(lab, {
          ...{ ...many, rounds: 1 },
          async sabotage({ owner }) {
            await owner.query('alter table agent_balances drop constraint agent_within_limit');
            for (const name of ['accept_payments', 'resume_payments'])
              await breakFunction(owner, name, balanceLock, '');
          },
        }),
    },
    {
      broken:
        'a build that tells of a deadlock instead of writing again, over a database that locks balances in any order',
      rule: deadlockRule,
      run: (lab) =>
        overdraw(lab, {
          ...{ agents: 10, payments: 20, rounds: 1 },
          build: brokenBuild([
            {
              file: 'db/lane.js',
              from: 'if (retryable.has(code) && attempt < 8) {',
              to: `if (retryable.has(code)) {
                     this.options.watch?.failed(this.options.name, batch.length);
                     for (const each of batch) each.reject(error);
                     return;
                   }
                   if (false) {`,
            },
          ]),
          async sabotage({ owner }) {
            // With a pause before each, so that two batches are sure to meet.
            const inAnyOrder = `perform 1 from (select unnest(p_agent_id) as agent_id order by random()) a
              cross join lateral (
                select pg_sleep(0.002) from agent_balances b
                where b.agent_id = a.agent_id and b.shard = p_shard for update
              ) b;`;
            await breakFunction(owner, 'accept_payments', balanceLock, inAnyOrder);
            // Each deadlock is broken after a tenth of a second instead of a second.
            await owner.query(`do $$ begin
              execute format('alter database %I set deadlock_timeout = ''100ms''', current_database());
            end $$`);
          },
        }),
    },
  ],
});
