/** Generated bodies against a whole centre: real process, real HTTP, real database and provider. */
import fc from 'fast-check';
import { Client } from 'undici';
import { afterAll, expect, test } from 'vitest';
import { verify } from '../src/ledger/verify.js';
import { ask, type Reply } from './support/crowd.js';
import { type FuzzCase, fuzzCase, nasties } from './support/fuzz.js';
import { openScene, type Scene } from './support/processes.js';

const bodies = 50_000;
const connections = 32;

let scene: Scene | undefined;
afterAll(() => scene?.close());

/** What is wrong with an answer; null: nothing. */
function wrong({ echo }: FuzzCase, { httpStatus, code, id }: Reply): string | null {
  if (httpStatus === 413) return code === null ? null : 'a 413 with a result';
  if (httpStatus !== 200) return `HTTP ${httpStatus}`;
  if (code === null) return 'no result';
  return echo === null || id === echo ? null : `the id came back as ${id}`;
}

test('50 000 generated bodies bring no 5xx and no crash, ids come back to the digit, and payments go on', async () => {
  scene = await openScene({ agents: 1, fundsMinor: 100_000_000_00n });
  const [caller] = scene.callers;
  const server = scene.start({ port: 0 });
  const baseUrl = await server.ready;
  const wrongs: string[] = [];
  const codes = new Map<number | null, number>();
  let asked = 0;
  let echoed = 0;
  const drive = async (cases: Iterable<FuzzCase>) => {
    const client = new Client(baseUrl);
    for (const each of cases) {
      const reply = await ask(client, caller!.token, each.body, 30_000, each.method);
      asked += 1;
      if (each.echo !== null) echoed += 1;
      codes.set(reply.code, (codes.get(reply.code) ?? 0) + 1);
      const what = wrong(each, reply);
      if (what && wrongs.length < 20) wrongs.push(`${each.method} ${each.body.subarray(0, 2000)}: ${what}`);
    }
    await client.close();
  };
  // One source for all connections: each takes the next body when it has its answer.
  const source = generated(bodies);
  await Promise.all(Array.from({ length: connections }, () => drive(source)));
  await drive(nasties);
  console.log(`codes: ${[...codes].map(([code, count]) => `${code} × ${count}`).join(', ')}`);

  expect(wrongs).toEqual([]);
  expect(asked).toBe(bodies + nasties.length);
  expect(echoed).toBeGreaterThan(bodies / 5);
  // The same process answers, and pays.
  expect(() => process.kill(server.pid, 0)).not.toThrow();
  const client = new Client(baseUrl);
  const body =
    '{"serviceId":"P1011","account":"7770017718","agentTransactionId":77,"agentTransactionDate":"2026-02-17T16:48:37","amountTo":200}';
  expect((await ask(client, caller!.token, body)).code).toBe(0);
  await client.close();
  expect((await verify(scene.owner)).problems).toEqual([]);
}, 240_000);

function* generated(total: number): Generator<FuzzCase> {
  // In portions: a sample is made whole before its first case is given out.
  for (let left = total; left > 0; left -= 500) yield* fc.sample(fuzzCase, Math.min(left, 500));
}
