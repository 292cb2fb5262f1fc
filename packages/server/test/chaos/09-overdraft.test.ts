/**
 * Funds for half of the payments that come at once, over three processes, with top-ups and reversals among them:
 * exactly what fits is taken, the rest waits on 220 and is done when money comes, and no deadlock reaches an agent.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'undici';
import { topUp } from '../../src/agents/funds.js';
import { verify } from '../../src/ledger/verify.js';
import { reverse } from '../../src/payments/operator.js';
import { payBody, type Reply, repeatUntil } from '../support/crowd.js';
import { executionCounts, type Violation } from '../support/oracle.js';
import { breakFunction, type Caller, openScene, type Scene } from '../support/processes.js';
import { experiment, type Lab, type Outcome } from './lab.js';

const processes = 3;
/** So many agents reach the end of their funds at the same time. */
const agents = 10;
const each = { payments: 100, funded: 50, reversed: 10 };
const amountMinor = 2000_00n;

async function overdraw(
  lab: Lab,
  rounds: number,
  sabotage?: (scene: Scene) => Promise<void>,
): Promise<Outcome> {
  const scene = await openScene({
    agents: rounds * agents,
    fundsMinor: BigInt(each.funded) * amountMinor,
    sandbox: { delayMs: 10 },
  });
  const violations: Violation[] = [];
  try {
    await sabotage?.(scene);
    const servers = Array.from({ length: processes }, () => scene.start({ port: 0 }));
    const urls = await Promise.all(servers.map((server) => server.ready));
    for (let round = 0; round < rounds; round += 1) {
      const callers = scene.callers.slice(round * agents, (round + 1) * agents);
      const found = await Promise.all(callers.map((caller) => exhaust(lab, scene, urls, caller)));
      violations.push(...found.flat());
      lab.say(`round ${round + 1}: ${agents * each.payments} payments, ${violations.length} violations`);
    }
    await sleep(500);
    const executed = executionCounts(await scene.sandbox.registry());
    const payments = rounds * agents * each.payments;
    for (const [object, times] of executed)
      if (times > 1) violations.push({ rule: 'nothing is executed twice', object, found: `${times} times` });
    if (executed.size !== payments)
      violations.push({ rule: 'a success was executed', object: 'all', found: `${executed.size} executed` });
    for (const { what, object } of (await verify(scene.owner)).problems)
      violations.push({ rule: 'the books agree with themselves', object, found: what });
    const { rows } = await scene.owner.query(
      'select deadlocks from pg_stat_database where datname = current_database()',
    );
    const figures = {
      ...{ agents: rounds * agents, payments },
      'deadlocks in the database': String(rows[0].deadlocks),
    };
    return { violations, figures };
  } finally {
    await scene.close();
  }
}

/** All payments of one agent at once; then money in small papers and from reversals, while the agent asks on. */
async function exhaust(
  lab: Lab,
  scene: Scene,
  urls: readonly string[],
  { agentId, token }: Caller,
): Promise<Violation[]> {
  const violations: Violation[] = [];
  const violate = (rule: string, found: unknown) =>
    violations.push({ rule, object: `agent ${agentId}`, found: String(found) });
  const clients = Array.from({ length: each.payments }, (_, index) => new Client(urls[index % urls.length]!));
  const askAll = (until: (code: number | null) => boolean) =>
    Promise.all(
      clients.map(async (client, index) => {
        const reply = await repeatUntil(
          client,
          token,
          payBody(BigInt(index + 1), String(amountMinor / 100n)),
          until,
        );
        lab.timeline.answer(reply.code === 0 ? 'final' : reply.httpStatus === 503 ? 'unavailable' : 'open');
        return reply;
      }),
    );
  const count = (replies: readonly Reply[], code: number) =>
    replies.filter((reply) => reply.code === code).length;
  const expectAvailable = async (rule: string, expected: bigint) => {
    const available = await scene.available(agentId);
    if (available !== expected) violate(rule, `${available} instead of ${expected}`);
  };

  const first = await askAll((code) => code !== 1);
  if (count(first, 0) !== each.funded || count(first, 220) !== each.payments - each.funded)
    violate('exactly what fits is taken', `${count(first, 0)} done, ${count(first, 220)} wait on 220`);
  await expectAvailable('no agent is below its limit', 0n);
  // What comes after counts on it.
  if (violations.length > 0) {
    await Promise.all(clients.map((client) => client.close()));
    return violations;
  }

  const done = first.flatMap(({ code, transactionId }) => (code === 0 ? [BigInt(transactionId!)] : []));
  lab.timeline.fault('top-ups and reversals');
  const papers = each.payments - each.funded - each.reversed;
  // One by one, as operators do: the test has few connections for its hundreds of movements.
  const giveBack = async () => {
    for (const id of done.slice(0, each.reversed)) await reverse(scene.pool, id, `agreed, ${id}`, 'op');
  };
  const payIn = async () => {
    for (let paper = 1; paper <= papers; paper += 1)
      await topUp(scene.pool, agentId, amountMinor, `paper ${paper}`, 'op');
  };
  const moved = Promise.all([giveBack(), payIn()]);
  const ends = await askAll((code) => code === 0);
  await moved;
  if (count(ends, 0) !== each.payments)
    violate('all is done when money comes', `${count(ends, 0)} of ${each.payments}`);
  if (ends.some(({ transactionId }, index) => transactionId !== first[index]!.transactionId))
    violate('an id has one transactionId', 'the answers before and after the top-ups differ');
  await expectAvailable('a balance is what was paid in less the successes', 0n);
  await Promise.all(clients.map((client) => client.close()));
  return violations;
}

experiment({
  number: 9,
  name: 'an overdraft race',
  minutesMax: { short: 4, full: 60 },
  run: (lab) => overdraw(lab, lab.size(2, 50)),
  controls: [
    {
      broken: 'a database that does not lock the balance before it judges',
      rule: 'exactly what fits is taken',
      run: (lab) =>
        overdraw(lab, 2, async ({ owner }) => {
          await owner.query('alter table agent_balances drop constraint agent_within_limit');
          const lock =
            /perform 1 from agent_balances b\s+where b.agent_id = any \(p_agent_id\)[^;]*for update;/;
          for (const name of ['accept_payments', 'resume_payments'])
            await breakFunction(owner, name, lock, '');
        }),
    },
  ],
});
