/** The use cases of the centre on one database: built by hand, started and stopped whole. No HTTP here. */
import { randomUUID } from 'node:crypto';
import type pg from 'pg';
import { claimAsking, noteTold, sumSpent } from './catalogue/deposits.js';
import { followFeed } from './catalogue/feed.js';
import { lookUp, nationalNumber } from './catalogue/numbering.js';
import { rateTeller } from './catalogue/rates.js';
import { elapsedMs, within } from './clock.js';
import type { CallbackAnswer, UseCases } from './core/answers.js';
import { Overloaded } from './core/answers.js';
import type { Reference } from './core/catalogue.js';
import type { Spans } from './core/way.js';
import { LaneBroken, type LaneWatch, patienceMs } from './db/lane.js';
import { type Log, type Loop, listen, type RunningLoops, runLoops } from './jobs/loops.js';
import { takeCallback } from './payments/callback.js';
import { check } from './payments/check.js';
import { type FundsWatch, leaseMsFor, PayStory } from './payments/pay.js';
import { Routing } from './payments/routing.js';
import { type Sealing, seal, unseal } from './payments/seal.js';
import { PaymentStore } from './payments/store.js';
import {
  claim,
  expire,
  makeEventMonths,
  purgeQuotes,
  resumeFunded,
  resumeTerms,
  takeExpiredLeases,
  workOne,
} from './payments/waiting.js';
import { connectors } from './providers/connectors.js';
import type { CallbackRequest, Sender } from './providers/contract.js';
import { createOperatorLookup, type LookupOptions } from './providers/operator-lookup.js';
import { fetchRates } from './providers/rates-feed.js';
import { createSender, type SenderOptions } from './providers/send.js';

export interface CentreParts {
  /** Sessions of the application's role. */
  readonly connection: pg.ClientConfig;
  readonly pool: pg.Pool;
  readonly reference: () => Reference;
  readonly secretKey: Buffer;
  readonly payWaitMs: number;
  readonly quoteTtlMs: number;
  readonly fundsWaitMs: number;
  readonly inflightMax: number;
  readonly batchMax: number;
  /** Further loops, such as the notices of low balances. */
  readonly chores: readonly Loop[];
  /** Of the days of routes. */
  readonly zone: string;
  /** Where rates are fetched, and how often. */
  readonly ratesFeed?: { readonly url: string; readonly everyMs: number } | undefined;
  /** Who is asked for a number's operator before the plan is. */
  readonly operatorLookup?: LookupOptions | undefined;
  /** For measurements: what stands between the centre and its providers. */
  readonly wrapSender?: ((sender: Sender) => Sender) | undefined;
  readonly watch?: Watch | undefined;
  readonly spans?: Spans | undefined;
  readonly log: Log & { debug?(facts: object, message: string): void };
}

/** Told what happens, as it happens, by whoever does it. */
export interface Watch extends LaneWatch, FundsWatch {
  called: NonNullable<SenderOptions['onCall']>;
  /** An outcome contradicted what its payment was already. */
  contradicted(): void;
  /** A payment came to its final code; the provider is null when it was refused before one was chosen. */
  ended(providerId: string | null, code: number): void;
}

export interface Centre {
  readonly useCases: UseCases;
  /** What a provider tells by itself. Rejects without the database: nothing was taken. */
  callback(providerId: string, request: CallbackRequest): Promise<CallbackAnswer>;
  /** Batches written so far, by shard and lane. */
  batches(): Record<number, ReturnType<PaymentStore['sizes']>>;
  /** What is under way now. */
  lanes(): ReturnType<PaymentStore['lanes']>;
  calls(): ReturnType<Sender['loads']>;
  loops(): ReturnType<RunningLoops['turns']>;
  /** Lets payments under way end within about 4 s, then lets go of the database. */
  stop(): Promise<void>;
}

/**
 * A lane's few statements are planned once, as planning them anew costs as much as running a small batch. Such plans
 * must not depend on how full the tables were at that moment: by index, always.
 */
const laneSettings = '-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_bitmapscan=off';
const dayMs = 86_400_000;
/** How often a process looks whether a rate has become too old, and whether the feed is to be fetched. */
const ratesLookMs = 10_000;
/** How often a provider that tells what lies there of ours is asked. */
const balanceEveryMs = 300_000;
/** A call may wait as long for a free connection to its provider. */
const queueMsMax = 2000;
/** Calls of the queue under way at once, so that it never crowds out agents' requests. */
const queueCallsMax = 64;
/** Of them, to one provider: others have room while it answers nobody. */
const callsOfOneMax = 24;

export function startCentre(parts: CentreParts): Centre {
  const { pool, log, reference, watch } = parts;
  const lanes = { ...parts.connection, options: `${parts.connection.options ?? ''} ${laneSettings}` };
  const wrap = parts.wrapSender ?? ((plain: Sender) => plain);
  const providers = () => reference().providers;
  const sender = wrap(createSender({ providers, connectors, log, onCall: watch?.called }));
  const leaseMs = () =>
    leaseMsFor(queueMsMax, Math.max(0, ...[...reference().providers.keys()].map(callMsMax)));
  const callMsMax = (providerId: string) => {
    try {
      return sender.callMsMax(providerId);
    } catch {
      // A provider whose settings are wrong is not called at all.
      return 0;
    }
  };

  const sealing: Sealing = {
    seal: (text) => seal(parts.secretKey, text),
    unseal: (sealed) => unseal(parts.secretKey, Buffer.from(sealed, 'base64')),
  };
  const worker = randomUUID();
  const stores = new Map<number, PaymentStore>();
  const storeOf = (shard: number): PaymentStore => {
    let store = stores.get(shard);
    if (!store) {
      const { batchMax } = parts;
      store = new PaymentStore({
        connection: lanes,
        shard,
        worker,
        leaseMs,
        batchMax,
        waitMsMax: 1500,
        watch,
        onLost: () => story.forget(),
        onContradiction: watch?.contradicted,
        onEnded: watch?.ended,
      });
      stores.set(shard, store);
    }
    return store;
  };
  const routing = new Routing({ sender, reference, zone: parts.zone });
  const story = new PayStory({
    storeOf,
    sender,
    routing,
    reference,
    leaseMs,
    payWaitMs: parts.payWaitMs,
    inflightMax: parts.inflightMax,
    sealing,
    resumeTerms: (payment, agent, to) =>
      resumeTerms(pool, agent.shard, payment.transactionId, agent.agentId, to),
    log,
    watch,
  });

  const queue = { db: pool, storeOf, sender, routing, reference, leaseMs, sealing, log, spans: parts.spans };
  let calls = 0;
  /** Of the queue, by provider. */
  const callsOf = new Map<string, number>();
  let callbacks = 0;
  let full = false;
  const workQueue = async (): Promise<number> => {
    const free = Math.min(callsOfOneMax, queueCallsMax - calls);
    full = free <= 0;
    if (full) return 0;
    const claimedAt = elapsedMs();
    const busy = [...callsOf].flatMap(([providerId, count]) => (count >= callsOfOneMax ? [providerId] : []));
    const rows = await claim(queue, free, busy);
    for (const row of rows) {
      calls += 1;
      callsOf.set(row.provider_id, (callsOf.get(row.provider_id) ?? 0) + 1);
      workOne(queue, row, claimedAt)
        .catch((error: unknown) => {
          const facts = { transactionId: String(row.id), error: String(error) };
          log.warn(facts, 'a waiting payment could not be worked on; it comes up again when its lease ends');
        })
        .finally(() => {
          calls -= 1;
          callsOf.set(row.provider_id, callsOf.get(row.provider_id)! - 1);
          if (full && calls <= queueCallsMax / 2) loops.wake();
        });
    }
    return rows.length;
  };

  const leaving = new AbortController();
  const tellRates = rateTeller(log);
  const rates = async (): Promise<number> => {
    tellRates(reference().rates);
    const { ratesFeed } = parts;
    if (ratesFeed) {
      const { url, everyMs } = ratesFeed;
      const read = (signal: AbortSignal) => fetchRates(url, signal);
      await followFeed({ pool, everyMs, read, signal: leaving.signal, log });
    }
    return 0;
  };
  const operators = parts.operatorLookup ? createOperatorLookup(parts.operatorLookup) : null;

  const loops = runLoops(
    [
      { name: 'leases', everyMs: 500, step: () => takeExpiredLeases(pool, log) },
      { name: 'queue', everyMs: 250, step: workQueue },
      { name: 'funds', everyMs: 1000, step: () => resumeFunded(pool, log) },
      { name: 'expire', everyMs: 1000, step: () => expire(pool, storeOf, parts.fundsWaitMs, log) },
      { name: 'quotes', everyMs: 60_000, step: () => purgeQuotes(pool, 30 * dayMs) },
      { name: 'routes', everyMs: 1000, step: () => routing.share(pool) },
      { name: 'deposits', everyMs: 30_000, step: () => lookAtDeposits(pool, sender, reference) },
      { name: 'months', everyMs: 3_600_000, step: () => makeEventMonths(pool) },
      { name: 'rates', everyMs: ratesLookMs, step: rates },
      ...parts.chores,
    ],
    log,
  );
  const ear = listen(parts.connection, 'tolem_waiting', loops.wake);

  return {
    batches: () => Object.fromEntries([...stores].map(([shard, store]) => [shard, store.sizes()])),
    async callback(providerId, request) {
      const shardOf = (agentId: bigint) => reference().agents.get(agentId)?.shard ?? null;
      callbacks += 1;
      try {
        return await takeCallback({ db: pool, storeOf, sender, shardOf, sealing, log }, providerId, request);
      } finally {
        callbacks -= 1;
      }
    },
    lanes: () => [...stores.values()].flatMap((store) => store.lanes()),
    calls: () => sender.loads(),
    loops: () => loops.turns(),
    useCases: {
      pay: (agentId, request, way) => story.pay(agentId, request, way),
      check: (agentId, request, way) =>
        check(
          { storeOf, sender, routing, reference, quoteTtlMs: parts.quoteTtlMs, log },
          agentId,
          request,
          way,
        ),
      balance: async (agentId) => {
        const agent = reference().agents.get(agentId);
        if (!agent) throw new Error(`agent ${agentId} is not in the reference data`);
        const balance = await storeOf(agent.shard)
          .balance(agentId)
          .catch((error: unknown) => {
            throw error instanceof LaneBroken ? new Overloaded(error.message, 1) : error;
          });
        if (!balance) throw new Error(`agent ${agentId} has no balance`);
        return { agentId, agentName: agent.name, currency: agent.currency, ...balance };
      },
      operatorByPhone: async (phoneNumber) => {
        const number = nationalNumber(phoneNumber);
        const told = number === null ? null : ((await operators?.of(number)) ?? null);
        if (told !== null && reference().services.has(told))
          return { code: 0, reason: null, serviceId: told };
        const found = await within(patienceMs, lookUp(pool, phoneNumber), late);
        if (found.kind === 'found') return { code: 0, reason: null, serviceId: found.serviceId };
        return { code: found.kind === 'malformed' ? 4 : 5, reason: null, serviceId: null };
      },
    },
    async stop() {
      leaving.abort();
      await Promise.all([operators?.close(), ear.close(), loops.stop(), story.drain(2000, 4000)]);
      // What the providers have not answered by now is cut, is unknown, and is written down as such.
      await sender.close(500);
      const until = performance.now() + 1000;
      await story.drain(0, 1000);
      while (calls + callbacks > 0 && performance.now() < until)
        await new Promise((done) => setTimeout(done, 10));
      await Promise.all([...stores.values()].map((store) => store.close()));
    },
  };
}

const late = () => new Overloaded('the database does not answer', 1);

/** Sums what was spent at providers, and asks those that tell their balance. */
async function lookAtDeposits(pool: pg.Pool, sender: Sender, reference: () => Reference): Promise<number> {
  const more = await sumSpent(pool);
  for (const providerId of reference().providers.keys()) {
    const ask = sender.balance(providerId);
    if (!ask || !(await claimAsking(pool, providerId, balanceEveryMs))) continue;
    const told = await ask();
    if (told.kind === 'told') await noteTold(pool, providerId, told);
  }
  return more;
}
