/** The way down while payments are under way, and a process that was stopped beyond its lease. */

import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'undici';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { verify } from '../src/ledger/verify.js';
import { ask, payBody, type Reply, repeatUntilFinal } from './support/crowd.js';
import { executionCounts } from './support/oracle.js';
import { type Caller, openScene, type Scene } from './support/processes.js';

let scene: Scene;
let ports: number[];
beforeAll(async () => {
  scene = await openScene({
    agents: 5,
    fundsMinor: 1_000_000_00n,
    sandbox: { delayMs: 30, slowMs: 7000 },
    provider: { answerMsMax: 8000 },
    env: { TOLEM_PAY_WAIT_MS: '8000' },
  });
  ports = await Promise.all(
    [0, 0].map(async (port) => Number(new URL(await scene.start({ port }).ready).port)),
  );
});
afterAll(async () => {
  await scene?.close();
});

const connect = (port: number) => new Client(`http://127.0.0.1:${port}`);

async function executionsOf({ agentId }: Caller): Promise<Map<string, number>> {
  const registry = await scene.sandbox.registry();
  return executionCounts(registry.filter(({ externalId }) => externalId.startsWith(`${agentId}-`)));
}

const count = (replies: readonly Reply[], code: number) =>
  replies.filter((each) => each.code === code).length;

describe.each(['SIGTERM', 'SIGINT'] as const)('on %s', (signal) => {
  test('the server leaves within 10 s, everyone who asked is answered, and nothing is lost', async () => {
    const caller = scene.callers[signal === 'SIGTERM' ? 2 : 3]!;
    const server = scene.start({ port: 0 });
    const port = Number(new URL(await server.ready).port);
    // Half of them wait for a provider that takes longer than the server may stay.
    const accounts = Array.from({ length: 100 }, (_, index) => (index % 2 ? '7770000092' : '7770017718'));
    const bodies = accounts.map((account, index) => payBody(BigInt(index + 1), '10.00', { account }));
    const clients = bodies.map(() => connect(port));
    const asked = Promise.all(
      clients.map((client, index) => ask(client, caller.token, bodies[index]!).catch((error) => error)),
    );
    await untilAccepted(caller, bodies.length);
    const latecomers = comeAndCome(port, caller);
    await sleep(500);
    const signalledAtMs = performance.now();
    server.signal(signal);
    const replies = await asked;
    expect(replies.filter((each) => each instanceof Error || ![0, 1].includes(each.code))).toEqual([]);
    expect(await server.ended).toEqual({ code: 0, signal: null });
    expect(performance.now() - signalledAtMs).toBeLessThan(10_000);
    const late = await latecomers;
    expect(late.answered).toBeGreaterThan(0);
    // A connection that the system has taken and the server has not is reset when the port closes: nobody read from it.
    const { rows } = await scene.owner.query(
      'select 1 from payments where agent_id = $1 and agent_transaction_id = any ($2)',
      [caller.agentId, late.cutIds],
    );
    expect(rows).toEqual([]);

    // What it left goes on in the others.
    const other = connect(ports[0]!);
    const ends = await Promise.all(
      [...bodies, ...late.bodies].map((body) => repeatUntilFinal(other, caller.token, body)),
    );
    expect(ends.filter(({ code }) => code !== 0)).toEqual([]);
    expect([...(await executionsOf(caller)).values()]).toEqual(ends.map(() => 1));
    await Promise.all([...clients, other].map((client) => client.destroy()));
  }, 120_000);
});

test('a process that was stopped beyond its lease sends nothing when it wakes: the other has done its work', async () => {
  const caller = scene.callers[4]!;
  const server = scene.start({ port: 0 });
  const port = Number(new URL(await server.ready).port);
  const bodies = Array.from({ length: 200 }, (_, index) => payBody(BigInt(index + 1), '3.00'));
  const clients = bodies.map(() => connect(port));
  const asked = clients.map((client, index) =>
    ask(client, caller.token, bodies[index]!).catch((error: Error) => error),
  );
  await untilAccepted(caller, 60);
  server.signal('SIGSTOP');
  const other = connect(ports[0]!);
  const ends = await Promise.all(bodies.map((body) => repeatUntilFinal(other, caller.token, body)));
  expect(count(ends, 0)).toBe(bodies.length);
  server.signal('SIGCONT');
  const late = await Promise.all(asked);
  for (const reply of late) expect(reply).toMatchObject({ httpStatus: expect.any(Number) });
  await sleep(1000);
  expect([...(await executionsOf(caller)).values()]).toEqual(bodies.map(() => 1));
  server.signal('SIGTERM');
  expect(await server.ended).toEqual({ code: 0, signal: null });
  await Promise.all([...clients, other].map((client) => client.destroy()));
}, 120_000);

async function untilAccepted(caller: Caller, payments: number): Promise<void> {
  for (let i = 0; i < 1000; i += 1) {
    const { rows } = await scene.owner.query<{ count: number }>(
      'select count(*)::int as count from payments where agent_id = $1',
      [caller.agentId],
    );
    if (rows[0]!.count >= payments) return;
    await sleep(10);
  }
}

/** Agents that open a connection for every payment and come until nobody is there. */
async function comeAndCome(port: number, caller: Caller) {
  const bodies: string[] = [];
  const cutIds: bigint[] = [];
  let answered = 0;
  const come = async (lane: number) => {
    for (let id = BigInt(lane * 100_000); ; id += 1n) {
      const body = payBody(id, '1.00');
      bodies.push(body);
      const client = connect(port);
      try {
        await ask(client, caller.token, body);
        answered += 1;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ECONNREFUSED') cutIds.push(id);
        return;
      } finally {
        await client.destroy();
      }
    }
  };
  await Promise.all([1, 2, 3, 4].map(come));
  return { bodies, answered, cutIds };
}

test('the books agree after all of it', async () => {
  expect((await verify(scene.owner)).problems).toEqual([]);
});
