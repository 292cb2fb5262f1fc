/** A whole centre in the test's process: its own database with the demo data, and a real sandbox provider. */

import { rmSync } from 'node:fs';
import pg from 'pg';
import { loadDemo } from '../../src/catalogue/demo.js';
import { watchReference } from '../../src/catalogue/reference.js';
import { type CentreParts, startCentre } from '../../src/centre.js';
import type { PayAnswer } from '../../src/core/answers.js';
import type { CheckRequest, PayRequest } from '../../src/core/requests.js';
import { openClient } from '../../src/db/connect.js';
import type { CallbackOptions } from '../../src/providers/sandbox/callbacks.js';
import { startSandbox } from '../../src/providers/sandbox/server.js';
import { freshDatabase, temporaryDirectory } from './database.js';

export const demoAgent = 4n;
/** What the sandbox signs its callbacks with. */
export const callbackSecret = 'a secret of the sandbox';

export interface CentreOptions {
  readonly settleMs?: number;
  readonly slowMs?: number;
  /** How long the centre waits for the sandbox. */
  readonly answerMsMax?: number;
  readonly notFoundTrustedAfterMs?: number;
  readonly payWaitMs?: number;
  readonly fundsWaitMs?: number;
  readonly quoteTtlMs?: number;
  readonly inflightMax?: number;
  /** What the sandbox tells by itself, and how; absent: nothing. */
  readonly callbacks?: CallbackOptions;
  /** Further parts of the centre, in place of the usual ones. */
  readonly parts?: Partial<CentreParts>;
}

let lastId = 1000n;

/** A payment's request, fit for P1011 unless told otherwise; every call takes a new id. */
export function payRequest(over: Partial<PayRequest> = {}): PayRequest {
  lastId += 1n;
  const amountToMinor = over.amountToMinor ?? 20_000n;
  return {
    serviceId: 'P1011',
    account: '7770017711',
    agentTransactionId: lastId,
    agentTransactionDate: '2026-02-17T16:48:37',
    amountToMinor,
    amountFromMinor: amountToMinor,
    extras: {},
    extraServices: null,
    identityCard: null,
    fullName: null,
    ...over,
  };
}

export async function openCentre(options: CentreOptions = {}) {
  const database = await freshDatabase();
  const directory = temporaryDirectory();
  const sandbox = await startSandbox({
    port: 0,
    host: '127.0.0.1',
    dataDir: directory,
    delayMs: 0,
    settleMs: options.settleMs ?? 300,
    slowMs: options.slowMs ?? 5000,
    callbacks: options.callbacks,
  });
  const owner = new pg.Pool({ ...database.adminOptions, max: 2 });
  owner.on('error', () => {});
  const client = await openClient(database.appOptions);
  await loadDemo(client, { sandboxUrl: sandbox.url });
  await client.end();
  await owner.query(`update providers set settings = settings || $1`, [
    {
      answerMsMax: options.answerMsMax ?? 1500,
      notFoundTrustedAfterMs: options.notFoundTrustedAfterMs ?? 100,
      callbackSecret,
      // Tests of single payments have providers that never answer.
      breaker: null,
    },
  ]);
  const pool = new pg.Pool({ ...database.appOptions, max: 4 });
  pool.on('error', () => {});

  /** One more process's worth of the centre on the same database. */
  const start = async () => {
    const watch = await watchReference(database.appOptions, pool, () => {});
    const centre = startCentre({
      connection: database.appOptions,
      pool,
      reference: () => watch.current().reference,
      secretKey: Buffer.alloc(32, 7),
      payWaitMs: options.payWaitMs ?? 8000,
      quoteTtlMs: options.quoteTtlMs ?? 60_000,
      fundsWaitMs: options.fundsWaitMs ?? 86_400_000,
      inflightMax: options.inflightMax ?? 4000,
      batchMax: 512,
      chores: [],
      zone: 'Asia/Almaty',
      log: { info() {}, warn() {}, error() {} },
      ...options.parts,
    });
    return {
      centre,
      watch,
      pay: (request: PayRequest) => centre.useCases.pay(demoAgent, request),
      check: (request: CheckRequest) => centre.useCases.check(demoAgent, request),
      async stop() {
        await centre.stop();
        await watch.close();
      },
    };
  };
  const first = await start();

  /** As an agent does: the same request until a final code, at most `ms`. */
  const payUntil = async (
    request: PayRequest,
    final: (code: number) => boolean,
    ms = 10_000,
  ): Promise<PayAnswer> => {
    const until = performance.now() + ms;
    for (;;) {
      const answer = await first.pay(request);
      if (final(answer.code) || performance.now() > until) return answer;
      await new Promise((done) => setTimeout(done, 50));
    }
  };

  return {
    ...first,
    database,
    sandbox,
    owner,
    pool,
    start,
    payUntil,
    /** What the provider executed, by external id. */
    executed: async (agentTransactionId: bigint) =>
      (await sandbox.registry()).filter((row) => row.externalId === `${demoAgent}-${agentTransactionId}`)
        .length,
    available: async () => (await first.centre.useCases.balance(demoAgent)).availableMinor,
    payment: async (agentTransactionId: bigint) =>
      (await owner.query('select * from payments where agent_transaction_id = $1', [agentTransactionId]))
        .rows[0],
    async close() {
      await first.stop();
      await pool.end();
      await owner.end();
      await sandbox.close();
      await database.drop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
