/** The simulator of another centre, for those who develop against one: every dial, every cut, all three schemes. */
import { rmSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { verify } from '../src/ledger/verify.js';
import { createSender } from '../src/providers/send.js';
import { v20Words } from '../src/providers/simulators/agent-v20.js';
import { type Simulator, startSimulator } from '../src/providers/simulators/simulator.js';
import { upstreamNumber, v20Connector } from '../src/providers/v20-connector.js';
import { demoAgent, openCentre, payRequest } from './support/centre.js';
import { temporaryDirectory } from './support/database.js';
import { dials } from './support/dials.js';
import {
  type FaultProxy,
  type Manner,
  type Moment,
  manners,
  moments,
  startFaultProxy,
} from './support/fault-proxy.js';

let simulator: Simulator;
let dataDir: string;
beforeAll(async () => {
  dataDir = temporaryDirectory();
  simulator = await startSimulator(v20Words, {
    ...{ port: 0, host: '127.0.0.1', dataDir, delayMs: 0, settleMs: 300, slowMs: 5000 },
  });
});
afterAll(async () => {
  await simulator.close();
  rmSync(dataDir, { recursive: true, force: true });
});

const executions = async (agentTransactionId: bigint) => {
  const number = upstreamNumber(`${demoAgent}-${agentTransactionId}`);
  return (await simulator.registry()).filter(({ externalId }) => externalId === number).length;
};

it.each([
  ['mobile', {}],
  ['herbalife', { displays: { fixedAmount: '20000.00' } }],
  [
    'bank',
    { contracts: [{ contractId: '000000587' }, { contractId: '000000588' }, { contractId: '000000589' }] },
  ],
  ['alseco', { invoices: [{ lines: [{ paySumMinor: 35_980n }, {}, { tariffMinor: 50_000n }] }] }],
])('a check of %s is offered what the sandbox offers', async (providerServiceCode, offer) => {
  const sender = createSender({
    providers: () =>
      new Map([
        [
          'upstream',
          {
            ...{ providerId: 'upstream', name: 'Upstream', connector: 'agent-v20', paused: false },
            settings: { baseUrl: simulator.url, token: 'any' },
          },
        ],
      ]),
    connectors: new Map([['agent-v20', v20Connector]]),
    log: { error: (_, message) => expect.fail(message) },
  });
  const inquiry = {
    ...{ externalId: '4-77', serviceCode: providerServiceCode, account: '7770017711' },
    ...{ amountMinor: null, currency: 'KZT', extras: {} },
  };
  expect((await sender.check('upstream', inquiry)).outcome).toMatchObject({ kind: 'ok', ...offer });
  await sender.close(0);
});

const body = {
  ...{ serviceId: 'mobile', account: '7770017711', agentTransactionDate: '2026-02-17T16:48:37' },
  agentTransactionId: 5,
};
it.each<[string, string, string, string | null]>([
  ['no token', '/api/v20/check', JSON.stringify(body), null],
  ['another path', '/api/v20/charge', JSON.stringify(body), 'Bearer any'],
  ['no JSON', '/api/v20/check', '{', 'Bearer any'],
  ['a pay without an amount', '/api/v20/pay', JSON.stringify(body), 'Bearer any'],
  [
    'a number as a text',
    '/api/v20/check',
    JSON.stringify({ ...body, agentTransactionId: '5' }),
    'Bearer any',
  ],
])('%s is not understood', async (_, path, text, authorization) => {
  const headers = authorization === null ? undefined : { authorization };
  const answer = await fetch(`${simulator.url}${path}`, { method: 'POST', headers, body: text });
  expect(answer.status).toBe(400);
});

describe('through a centre', () => {
  let centre: Awaited<ReturnType<typeof openCentre>>;
  let proxy: FaultProxy;
  beforeAll(async () => {
    proxy = await startFaultProxy(simulator.url, 0);
    centre = await openCentre({ payWaitMs: 2000 });
  });
  afterAll(async () => {
    expect((await verify(centre.owner)).problems).toEqual([]);
    await centre.close();
    proxy.close();
  });

  async function payThrough(baseUrl: string): Promise<void> {
    await centre.owner.query("update providers set connector = 'agent-v20', settings = $1", [
      { baseUrl, token: 'any', answerMsMax: 700, responseBytesMax: 100_000 },
    ]);
    await centre.watch.refresh();
  }

  it('every dial: executed once at the most, and no final code but the true one', async () => {
    await payThrough(simulator.url);
    const ends = await Promise.all(
      dials.map(async ([end, code]) => {
        const request = payRequest({ account: `777001${end}` });
        const told = await centre.payUntil(request, (each) => each !== 1, code === null ? 4000 : 20_000);
        return [end, told.code === 1 ? null : told.code, await executions(request.agentTransactionId)];
      }),
    );
    expect(ends).toEqual(dials);
  });

  it('every cut of a payment, and of the question after it: executed exactly once', async () => {
    const cuts = new Map<string, { at: Moment; by: Manner }>();
    const given = new Map<string, number>();
    proxy.follow({
      exchange(request) {
        const number = /"agentTransactionId":(\d+)/.exec(request)?.[1];
        const cut = number === undefined ? undefined : cuts.get(number);
        const times = given.get(number ?? '') ?? 0;
        if (!cut || !/^POST \S+\/pay /.test(request) || times === 2) return {};
        given.set(number!, times + 1);
        return { cut };
      },
    });
    await payThrough(proxy.url);
    const requests = moments.flatMap((at) =>
      manners.flatMap((by) =>
        [1, 2].map(() => {
          const request = payRequest({ account: '7770011234' });
          cuts.set(upstreamNumber(`${demoAgent}-${request.agentTransactionId}`), { at, by });
          return request;
        }),
      ),
    );
    const ends = await Promise.all(
      requests.map(async (request) => {
        const { code } = await centre.payUntil(request, (each) => each !== 1, 30_000);
        return [code, await executions(request.agentTransactionId)];
      }),
    );
    expect(ends).toEqual(requests.map(() => [0, 1]));
    expect([...given.values()]).toEqual(requests.map(() => 2));
  });
});
