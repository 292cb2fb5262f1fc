/** One id from 100 connections at once, over three processes, half of the bodies altered: one payment comes of it. */

import { Client } from 'undici';
import { verify } from '../../src/ledger/verify.js';
import { ask, countsText, payBody, type Reply, repeatUntilFinal } from '../support/crowd.js';
import { executionCounts } from '../support/oracle.js';
import { brokenBuild, openScene } from '../support/processes.js';
import { experiment, type Lab, type Outcome } from './lab.js';

const connections = 100;
const processes = 3;
const amounts = ['5.00', '7.50'] as const;

async function sameIds(lab: Lab, ids: number, build?: string): Promise<Outcome> {
  const scene = await openScene({
    agents: 1,
    fundsMinor: 100_000_000_00n,
    sandbox: { delayMs: 30 },
    env: { TOLEM_PAY_WAIT_MS: '8000' },
  });
  const violations: { rule: string; object: string; found: string }[] = [];
  const counts = new Map<number | null, number>();
  try {
    const caller = scene.callers[0]!;
    const servers = Array.from({ length: processes }, () => scene.start({ port: 0, build }));
    const urls = await Promise.all(servers.map((each) => each.ready));
    const clients = Array.from({ length: connections }, (_, index) => new Client(urls[index % processes]!));
    for (let round = 0; round < ids; round += 1) {
      // Above 2^53: an id that passes through a double meets its neighbour.
      const id = 2n ** 53n + 1n + BigInt(round);
      const bodies = clients.map((_, index) =>
        payBody(id, amounts[round % 2 === 1 && index % 2 === 0 ? 1 : 0]),
      );
      const replies = await Promise.all(
        clients.map(async (client, index) => {
          const reply = await ask(client, caller.token, bodies[index]!);
          lab.timeline.answer(reply.code === 0 || reply.code === 215 ? 'final' : 'open');
          return reply;
        }),
      );
      const ends = await Promise.all(
        amounts.map((amount) => repeatUntilFinal(clients[0]!, caller.token, payBody(id, amount))),
      );
      for (const { code } of replies) counts.set(code, (counts.get(code) ?? 0) + 1);
      for (const what of wrongIn(id, bodies, replies, ends))
        violations.push({ rule: 'an id is one payment', object: String(id), found: what });
      if ((round + 1) % Math.ceil(ids / 5) === 0) lab.say(`${round + 1} ids`);
    }
    await Promise.all(clients.map((client) => client.close()));

    const executed = executionCounts(await scene.sandbox.registry());
    const { rows } = await scene.owner.query<{ name: string; calls: number; holds: number; spent: bigint }>(
      `select p.agent_id || '-' || p.agent_transaction_id as name, p.amount_to_minor as spent,
         (select count(*)::int from payment_events e where e.payment_id = p.id and e.kind = 'provider_pay') as calls,
         (select count(*)::int from transfers t where t.operation_id = p.id and t.kind = 'hold') as holds
       from payments p`,
    );
    for (const { name, calls, holds } of rows) {
      const times = executed.get(name) ?? 0;
      if (calls !== 1 || holds !== 1 || times !== 1) {
        const found = `${calls} calls, ${holds} holds, ${times} executions`;
        violations.push({ rule: 'one call, one debit, one execution', object: name, found });
      }
    }
    if (rows.length !== ids)
      violations.push({ rule: 'an id is one payment', object: 'all', found: `${rows.length} payments` });
    const available = await scene.available(caller.agentId);
    const expected = scene.fundsMinor - rows.reduce((sum, { spent }) => sum + spent, 0n);
    if (available !== expected)
      violations.push({
        rule: 'one call, one debit, one execution',
        object: 'balance',
        found: `${available}`,
      });
    for (const { what, object } of (await verify(scene.owner)).problems)
      violations.push({ rule: 'the books agree with themselves', object, found: what });
    const figures = {
      ids,
      connections,
      processes,
      codes: countsText(counts),
    };
    return { violations, figures };
  } finally {
    await scene.close();
  }
}

/** Whoever came first is the payment; who had another body is told 215, and nobody anything else. */
function wrongIn(
  id: bigint,
  bodies: readonly string[],
  replies: readonly Reply[],
  ends: readonly Reply[],
): string[] {
  const wrong: string[] = [];
  const strange = replies.filter(
    ({ httpStatus, code }) => httpStatus !== 200 || ![0, 1, 215].includes(code!),
  );
  if (strange.length > 0) wrong.push(`answers ${strange.map(({ code }) => code).join(', ')}`);
  const numbers = new Set(replies.map((each) => each.transactionId));
  if (numbers.size !== 1) wrong.push(`${numbers.size} transactionIds`);
  if (replies.some((each) => each.id !== String(id))) wrong.push('the id came back as another one');
  const codes = ends.map(({ code }) => code);
  if (codes.toSorted().join() !== '0,215') wrong.push(`the bodies ended in ${codes.join(' and ')}`);
  const lost = amounts[codes.indexOf(215)];
  const misled = replies.filter(({ code }, index) => (code === 215) !== bodies[index]!.endsWith(`:${lost}}`));
  if (misled.length > 0) wrong.push(`${misled.length} were told 215 wrongly or not told it`);
  return wrong;
}

experiment({
  number: 8,
  name: 'one id from 100 connections over three processes',
  minutesMax: { short: 3, full: 40 },
  run: (lab) => sameIds(lab, lab.size(30, 1000)),
  controls: [
    {
      broken: 'a build that does not compare the bodies',
      rule: 'an id is one payment',
      run: (lab) =>
        sameIds(
          lab,
          6,
          brokenBuild([
            {
              file: 'payments/pay.js',
              from: 'if (payment.fingerprint !== fingerprint) {',
              to: 'if (false) {',
            },
          ]),
        ),
    },
    {
      broken: 'a build that sends for every repeat',
      rule: 'one call, one debit, one execution',
      run: (lab) =>
        sameIds(
          lab,
          6,
          brokenBuild([
            {
              file: 'payments/pay.js',
              from: 'if (!claimed.fresh)',
              to: 'if (!claimed.fresh && claimed.state !== State.sending)',
            },
          ]),
        ),
    },
  ],
});
