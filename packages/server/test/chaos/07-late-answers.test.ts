/**
 * A provider's answers to `pay`, to inquiries and its callbacks come late, ten times over, before one another and against
 * one another. Whatever comes first and proves an end is the end; nothing is posted twice; and every contradiction, and
 * nothing else, is in the operators' queue once.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'undici';
import { type Fate, isFinal, type Payment, payBody, repeatUntilFinal } from '../support/crowd.js';
import { judge, type Violation } from '../support/oracle.js';
import { breakFunction, brokenBuild, openScene, type Scene } from '../support/processes.js';
import {
  answerMsMax,
  type ContraryProvider,
  type Order,
  startContraryProvider,
} from './contrary-provider.js';
import { experiment, type Lab, type Outcome } from './lab.js';

const processes = 3;
const secret = 'a secret of the provider';
const once = 'every contradiction is in the operators’ queue once';

interface Plan {
  readonly payments: number;
  /** Payments under way at once. */
  readonly atOnce: number;
  readonly build?: string;
  readonly sabotage?: (scene: Scene) => Promise<void>;
}

async function contradict(lab: Lab, plan: Plan): Promise<Outcome> {
  const scene = await openScene({ agents: plan.atOnce, fundsMinor: 10_000_000_00n });
  const provider = await startContraryProvider(secret);
  try {
    await scene.owner.query('update providers set settings = settings || $1', [
      {
        ...{ baseUrl: provider.url, callbackSecret: secret, answerMsMax, connectTimeoutMs: 5000 },
        ...{ notFoundTrustedAfterMs: 300, concurrencyMax: 512, queueMsMax: 10_000 },
      },
    ]);
    await plan.sabotage?.(scene);
    const servers = Array.from({ length: processes }, () => scene.start({ port: 0, build: plan.build }));
    const urls = await Promise.all(servers.map((server) => server.ready));
    provider.serveTo(urls);
    lab.timeline.fault('a contrary provider');
    const payments = await payAll(lab, scene, urls, plan);
    await provider.done();
    // What was told last is being written.
    await sleep(1500);
    const outcome = await judgeAll(lab, scene, provider, payments, plan);
    const said = servers.map((each) => each.said()).join('');
    if (outcome.violations.length > 0 && said !== '') lab.say(`the servers said: ${said.slice(-2000)}`);
    return outcome;
  } finally {
    await scene.close();
    await provider.close();
  }
}

/** Every payment repeated until its final code, and asked about once more when all is over. */
async function payAll(lab: Lab, scene: Scene, urls: readonly string[], plan: Plan): Promise<Payment[]> {
  const payments: Payment[] = [];
  await Promise.all(
    scene.callers.map(async ({ agentId, token }, caller) => {
      const clients = urls.map((url) => new Client(url));
      for (let id = BigInt(caller + 1); id <= plan.payments; id += BigInt(scene.callers.length)) {
        const account = `777${String(id).padStart(6, '0')}8`;
        const fate: Fate = { ending: '', code: 0, weight: 1 };
        const body = payBody(id, 200, { account });
        const payment: Payment = {
          ...{ agentId, id, account, amountMinor: 200_00n, fate, body, token, strange: [], asked: 1 },
          ...{ finalCodes: new Set(), transactionIds: new Set() },
        };
        const reply = await repeatUntilFinal(clients[Number(id) % clients.length]!, token, body);
        const again = await repeatUntilFinal(clients[Number(id + 1n) % clients.length]!, token, body);
        for (const { code, transactionId } of [reply, again]) {
          lab.timeline.answer(isFinal(code) ? 'final' : 'open');
          if (isFinal(code)) payment.finalCodes.add(code!);
          if (transactionId !== null) payment.transactionIds.add(transactionId);
        }
        payments.push({ ...payment, fate: { ...fate, code: isFinal(reply.code) ? reply.code : 0 } });
        if (payments.length % Math.ceil(plan.payments / 5) === 0)
          lab.say(`${payments.length} payments are final`);
      }
      await Promise.all(clients.map((client) => client.close()));
    }),
  );
  return payments;
}

interface Row {
  readonly name: string;
  readonly code: number;
  readonly reference: string | null;
  readonly holds: number;
  readonly ends: number;
  /** Inquiries that made it to be sent again. */
  readonly trusted: number;
  readonly queued: readonly string[];
  readonly events: string;
}

async function judgeAll(
  lab: Lab,
  { owner, callers, fundsMinor }: Scene,
  provider: ContraryProvider,
  payments: readonly Payment[],
  plan: Plan,
): Promise<Outcome> {
  const { rows } = await owner.query<Row>(
    `select p.agent_id || '-' || p.agent_transaction_id as name, p.code, p.provider_reference as reference,
       (select count(*)::int from transfers t where t.operation_id = p.id and t.kind = 'hold') as holds,
       (select count(*)::int from transfers t where t.operation_id = p.id and t.kind in ('post', 'void')) as ends,
       (select count(*)::int from payment_events e
        where e.payment_id = p.id and e.kind = 'provider_status' and e.data ->> 'outcome' = 'not_found') as trusted,
       array(select c.kind || coalesce(' ' || c.reference, '') from contradictions c where c.payment_id = p.id) as queued,
       (select string_agg(to_char(e.at, 'SS.MS ') || e.kind || coalesce(' ' || (e.data ->> 'outcome'), ''), ', ' order by e.at)
        from payment_events e where e.payment_id = p.id) as events
     from payments p`,
  );
  const violations: Violation[] = [];
  const kinds = new Map<string, number>();
  for (const row of rows) {
    const order = provider.orders.get(row.name)!;
    const violate = (rule: string, found: string) =>
      violations.push({
        ...{ rule, object: `${row.name} (${order.story}, code ${row.code}, reference ${row.reference})` },
        found: `${found}; ${order.pays} requests; events: ${row.events}; told: ${order.log.join(', ')}`,
      });
    if (row.holds !== 1 || row.ends !== 1)
      violate('one hold and one outcome', `${row.holds} holds, ${row.ends} outcomes`);
    if (order.pays > 1 && order.story !== 'mislaid')
      violate('what was taken is not sent again', `${order.pays} requests`);
    const told = row.code === 0 ? order.executed.has(row.reference ?? '') : order.refused && row.code === 300;
    if (!told) violate('what ended it was told', JSON.stringify(row.reference));
    const expected = contradictionsOf(order, row);
    for (const each of row.queued) kinds.set(each.split(' ')[0]!, (kinds.get(each.split(' ')[0]!) ?? 0) + 1);
    for (const each of expected) {
      const times = row.queued.filter((queued) => queued === each).length;
      if (times !== 1) violate(once, `${each}: ${times} times`);
    }
    for (const each of row.queued) {
      if (!expected.includes(each)) violate('nothing else is in the queue', each);
    }
  }
  for (const each of provider.strange)
    violations.push({
      rule: 'callbacks are taken, and forged ones are not',
      object: 'provider',
      found: each,
    });
  for (const { id, finalCodes } of payments)
    if (finalCodes.size === 0)
      violations.push({ rule: 'an id ends in one final code', object: String(id), found: 'none' });

  // A provider that tells two stories has no register to go by: what it told first stands for it.
  const registry = rows
    .filter(({ code }) => code === 0)
    .map(({ name }) => {
      const { account, amount } = provider.orders.get(name)!;
      return { externalId: name, account, amount, executedAt: new Date().toISOString() };
    });
  violations.push(...(await judge({ payments, registry, owner, callers, fundsMinor })));

  const counted = Object.fromEntries([...provider.counts, ...kinds].sort());
  // One of so many payments. The first two take a callback that is faster than a commit, and than the queue.
  const hits = {
    ...{ 'callbacks answered 404': 1000, executed_unsent: 1000, executed_twice: 75 },
    ...{ 'callbacks taken before an answer': 2, 'callbacks answered 503': 75, 'answers cut': 10 },
    ...{
      'answers late': 10,
      'answers that never come': 20,
      forged: 30,
      refused_after_success: 10,
      executed_after_failure: 10,
    },
  };
  for (const [what, oneOf] of Object.entries(hits)) {
    if ((counted[what] ?? 0) < Math.floor(plan.payments / oneOf))
      violations.push({ rule: 'the fault hits', object: what, found: String(counted[what] ?? 0) });
  }
  lab.say(`${violations.length} violations`);
  return { violations, figures: { payments: payments.length, ...counted } };
}

/** What of all that was told cannot be true beside the payment's end. */
function contradictionsOf(order: Order, { code, reference, trusted }: Row): string[] {
  const others = [...order.executed].filter((each) => each !== reference);
  if (code !== 0) return [...order.executed].map((each) => `executed_after_failure ${each}`);
  return [
    ...(order.refused ? ['refused_after_success'] : []),
    ...others.map((each) => `executed_twice ${each}`),
    // As often as “not found” was trusted it was sent again, or else came the news that it had been executed.
    ...(trusted > order.pays - 1 ? [`executed_unsent ${reference}`] : []),
  ];
}

const small = { payments: 40, atOnce: 40 };

experiment({
  number: 7,
  name: 'answers come late, doubled and contradicting',
  minutesMax: { short: 4, full: 40 },
  run: (lab) => contradict(lab, { payments: lab.size(300, 10_000), atOnce: lab.size(75, 150) }),
  controls: [
    {
      broken: 'a build whose settle moves a payment from any state, over a database without its own guards',
      rule: 'one hold and one outcome',
      run: (lab) =>
        contradict(lab, {
          ...small,
          build: brokenBuild([
            {
              file: 'payments/store.js',
              from: 'plainArray(batch.map((each) => statesMask(...each.from) & sourcesMask(each.to)))',
              to: 'plainArray(batch.map(() => 511))',
            },
          ]),
          async sabotage({ owner }) {
            await owner.query('drop trigger keep_final on payments');
            await owner.query('alter table transfers drop constraint transfers_pkey');
          },
        }),
    },
    {
      broken: 'a database that drops contradictions',
      rule: once,
      run: (lab) =>
        contradict(lab, {
          ...small,
          sabotage: ({ owner }) =>
            breakFunction(owner, 'tell_unmoved', /insert into contradictions[^;]*;/, 'null;'),
        }),
    },
    {
      broken: 'a queue that takes the same contradiction again and again',
      rule: once,
      run: (lab) =>
        contradict(lab, {
          ...small,
          async sabotage({ owner }) {
            const { rows } = await owner.query<{ name: string }>(
              `select conname as name from pg_constraint where conrelid = 'contradictions'::regclass and contype = 'u'`,
            );
            await owner.query(`alter table contradictions drop constraint ${rows[0]!.name}`);
          },
        }),
    },
  ],
});
