/**
 * The way of a payment: decide, claim it (commit 1), send it, settle it (commit 2). No transaction spans the network,
 * and what is unknown stays open until the provider or an operator ends it.
 */
import { elapsedMs } from '../clock.js';
import { Overloaded, type PayAnswer, type Shown } from '../core/answers.js';
import type { Agent, Reference } from '../core/catalogue.js';
import {
  type Accept,
  accountLengthMax,
  decidePay,
  type Inquire,
  inquiryWords,
  notAsked,
  type PayDecision,
  paymentWords,
  refusedByRoutes,
} from '../core/decide.js';
import { cutTo, type PayRequest } from '../core/requests.js';
import { type Choice, namedFor, type Route } from '../core/routes.js';
import { State, stateFacts, stateName } from '../core/states.js';
import { type Facts, step, type Way } from '../core/way.js';
import { LaneBroken, patienceMs } from '../db/lane.js';
import type { Sender } from '../providers/contract.js';
import { FinalPayments } from './finals.js';
import { detailsOf, externalIdOf, fingerprintOf, inquiryOf, shownOf } from './order.js';
import {
  callEvent,
  callFacts,
  callSpanFacts,
  consequenceOf,
  type PaymentLog,
  paymentFacts,
  shownAfter,
} from './outcome.js';
import type { Routing } from './routing.js';
import { type Sealing, unsealSecrets } from './seal.js';
import {
  type Claimed,
  type NewPayment,
  open,
  type PaymentStore,
  type Settlement,
  type StoredPayment,
} from './store.js';
import { type StoredShown, writeDetails } from './stored.js';

export interface PayParts {
  readonly storeOf: (shard: number) => PaymentStore;
  readonly sender: Sender;
  readonly routing: Routing;
  readonly reference: () => Reference;
  /** For what must not lie readable in the database. */
  readonly sealing: Sealing;
  /** Moves the payment of a 255 on, once its terms are met. */
  readonly resumeTerms: (payment: StoredPayment, agent: Agent, to: Accept['state']) => Promise<void>;
  /** How long a process may work on what it accepted; recovery by others starts after it. */
  readonly leaseMs: () => number;
  /** How long an agent waits for the provider before it is answered 1. */
  readonly payWaitMs: number;
  readonly inflightMax: number;
  readonly log: PaymentLog;
  readonly watch?: FundsWatch | undefined;
}

/** Told of agents' money, amounts and fees in minor units of the agent's currency. */
export interface FundsWatch {
  /** Set aside for a payment that was accepted now; one that waited for funds or terms is not told. */
  held(agent: Agent, minor: bigint): void;
  /** Given back by a payment that failed at its first call. */
  returned(agent: Agent, minor: bigint): void;
}

export class PayStory {
  /** Payments being worked on by this process, answered to the agent or not. */
  private working = 0;
  private readonly waits = new Waits();
  private readonly turns = new Turns();
  private readonly finals = new FinalPayments(finalsBits);

  constructor(private readonly parts: PayParts) {}

  async pay(agentId: bigint, request: PayRequest, way?: Way): Promise<PayAnswer> {
    if (this.working >= this.parts.inflightMax) throw new Overloaded('too many payments in progress', 1);
    const progress: Progress = { tell: null, writingSince: null };
    const work = this.counted(agentId, request, way, progress);
    try {
      // An agent whose time is over has its answer; the work goes on and still counts.
      return await this.waits.forAnswer(work, progress, this.parts.payWaitMs, () => {
        if (progress.tell) return progress.tell();
        if (!isSilent(progress, performance.now())) return work;
        throw new Overloaded('the database does not answer', 1);
      });
    } catch (error) {
      // The claim may or may not be committed; the lease sees to it. The agent repeats.
      if (error instanceof LaneBroken) throw new Overloaded(error.message, 1);
      throw error;
    }
  }

  /** What is remembered of payments is read again: the database may not be the one it was. */
  forget(): void {
    this.finals.forgetAll();
  }

  /**
   * Lets what is under way end: agents still waiting after `answerMs` are answered 1, and payments still open after
   * `settleMs` are left to the next process.
   */
  async drain(answerMs: number, settleMs: number): Promise<void> {
    const startedAt = performance.now();
    while (this.working > 0 && performance.now() - startedAt < settleMs) {
      if (performance.now() - startedAt >= answerMs) this.waits.endAll();
      await new Promise((done) => setTimeout(done, 10));
    }
  }

  private async counted(
    agentId: bigint,
    request: PayRequest,
    way: Way | undefined,
    progress: Progress,
  ): Promise<PayAnswer> {
    this.working += 1;
    try {
      return await this.story(agentId, request, way, progress);
    } finally {
      this.working -= 1;
    }
  }

  private async story(
    agentId: bigint,
    request: PayRequest,
    way: Way | undefined,
    progress: Progress,
  ): Promise<PayAnswer> {
    const { leaseMs, log, routing, watch } = this.parts;
    const reference = this.parts.reference();
    const agent = reference.agents.get(agentId);
    if (!agent) throw new Error(`agent ${agentId} is not in the reference data`);
    const store = this.parts.storeOf(agent.shard);
    const fingerprint = fingerprintOf(paymentWords(request));
    const final = this.finals.get(agentId, request.agentTransactionId, fingerprint);
    if (final) {
      await this.turns.end();
      return final;
    }
    if (store.expectedMs > writingMsMax) throw new Overloaded('the database is behind', 1);

    let decision = decidePay(reference, agent, request, notAsked);
    let shown = null;
    let choice = isForProvider(decision) ? this.routeFor(decision, agent, request) : null;
    if (choice?.kind === 'none') decision = refusedByRoutes(choice.why);
    // What cannot be sent soon is not taken; a payment that was taken before is answered as ever.
    const behind = choice?.kind === 'route' && choice.standing === 'behind' ? choice.route.providerId : null;
    if (decision.kind === 'accept' && behind) decision = { kind: 'inquire', service: decision.service };
    if (decision.kind === 'inquire' || decision.kind === 'invalid') {
      const found = await store.find(agentId, request.agentTransactionId);
      if (found.payment) {
        const invalid = decision.kind === 'invalid' ? decision.reason : null;
        return this.repeat(reference, agent, request, found.payment, fingerprint, invalid, progress);
      }
      if (decision.kind === 'invalid') return refusal(202, decision.reason, null);
      if (behind) throw new Overloaded(`provider ${behind} is behind`, 1);

      const { service } = decision;
      const bound = found.quote?.offer?.providerId;
      const there = bound === undefined ? null : this.routeFor(decision, agent, request, bound);
      if (there?.kind === 'route') choice = there;
      if (choice?.kind !== 'route')
        throw new Error('the provider is to be asked and there is no route to it');
      progress.tell = () => this.number(agent, request, service);
      const inquired = await this.inquire(agent, request, service, choice.route, found, way);
      progress.tell = null;
      if (inquired.kind === 'unknown') return this.number(agent, request, service);
      decision =
        inquired.kind === 'refused'
          ? { kind: 'refuse', code: inquired.code, reason: null }
          : decidePay(reference, agent, request, { offer: inquired.offer, rateE10: inquired.rateE10 });
      if (decision.kind === 'invalid')
        return refusal(202, decision.reason, found.quote?.transactionId ?? null);
      if (decision.kind === 'inquire') throw new Error('the inquiry was answered and is asked for again');
      if (inquired.kind === 'offered') {
        // Now the amount is known in the provider's currency; what was offered is paid where it was offered.
        if (isForProvider(decision))
          choice = this.routeFor(decision, agent, request, choice.route.providerId);
        if (choice.kind === 'none') decision = refusedByRoutes(choice.why);
        const finalAmount = decision.kind === 'accept' ? decision.orderAmountMinor : null;
        shown = shownOf(inquired.offer, decision.kind === 'accept' ? decision.conversion : null, finalAmount);
      }
    }

    const accepted = decision.kind === 'accept' ? decision : null;
    const route = accepted && (choice?.kind === 'route' ? choice.route : accepted.service.routes[0]!);
    const leaseEnds = elapsedMs() + leaseMs();
    const payment: NewPayment = {
      agentId,
      agentTransactionId: request.agentTransactionId,
      state: accepted ? accepted.state : State.failed,
      code: decision.code,
      serviceId: request.serviceId,
      providerId: route?.providerId ?? null,
      // One that is refused for its length is kept cut; the fingerprint tells it from others.
      account: cutTo(request.account, accountLengthMax),
      amountToMinor: request.amountToMinor,
      amountFromMinor: request.amountFromMinor,
      feeMinor: accepted?.feeMinor ?? 0n,
      rewardMinor: accepted?.rewardMinor ?? 0n,
      currency: agent.currency,
      fingerprint,
      agentDate: request.agentTransactionDate,
      reason: decision.reason,
      details: accepted && route ? writeDetails(detailsOf(accepted, route, request)) : null,
      shown,
      identity: this.sealIdentity(request),
    };
    progress.writingSince = performance.now();
    const claimed = await step(way?.span, 'accept', () => store.accept(payment), spanFacts);
    progress.writingSince = null;
    log.debug?.({ ...lineFacts(way, claimed), fresh: claimed.fresh }, 'claimed');
    if (!claimed.fresh) return this.repeat(reference, agent, request, claimed, fingerprint, null, progress);
    if (stateFacts[claimed.state].holds) watch?.held(agent, payment.amountToMinor + payment.feeMinor);
    const taken = { ...claimed, shown };
    if (claimed.state !== State.sending || !accepted || !route) return this.answer(agentId, request, taken);

    routing.took(accepted.service, route.providerId, accepted.orderAmountMinor);
    progress.tell = () => this.answerOf(taken);
    return this.send(agent, request, accepted, route, taken, leaseEnds, way, progress);
  }

  /** One call, then commit 2. What cannot be settled here is left to the lease. */
  private send(
    agent: Agent,
    request: PayRequest,
    accepted: Accept,
    route: Route,
    claimed: Claimed,
    leaseEnds: number,
    way: Way | undefined,
    progress: Progress,
  ): Promise<PayAnswer> {
    const { sender, routing, log, watch } = this.parts;
    const store = this.parts.storeOf(agent.shard);
    const { providerId } = route;
    const work = async (): Promise<StoredPayment> => {
      const order = {
        externalId: externalIdOf(agent.agentId, request.agentTransactionId),
        serviceCode: route.providerServiceCode,
        account: request.account,
        amountMinor: accepted.orderAmountMinor,
        currency: accepted.service.currency,
        extras: namedFor(route.fields, request.extras),
        extraServices: request.extraServices,
        transactionId: claimed.transactionId,
        acceptedAt: claimed.acceptedAt,
        again: false,
      };
      const sendBefore = leaseEnds - sender.callMsMax(providerId) - leaseMarginMs;
      const { outcome, record } = await step(
        way?.span,
        'provider pay',
        () => sender.pay(providerId, order, sendBefore),
        (told) => callSpanFacts(providerId, told?.record),
      );
      log.debug?.({ ...lineFacts(way, claimed), ...callFacts(providerId, record) }, 'provider called');
      const consequence = consequenceOf(outcome, 0, false);
      const settlement: Settlement = {
        ...settlementOf(consequence, claimed, this.parts.sealing),
        transactionId: claimed.transactionId,
        agentId: agent.agentId,
        from: open,
        fence: 0,
        event: callEvent(record),
        leaseId: claimed.leaseId,
        providerId,
      };
      progress.writingSince = performance.now();
      const settled = await step(way?.span, 'settle', () => store.settle(settlement), spanFacts);
      log.debug?.({ ...lineFacts(way, settled), moved: settled.moved }, 'settled');
      if (settled.moved && settled.state === State.failed) {
        watch?.returned(agent, request.amountToMinor + accepted.feeMinor);
        routing.took(accepted.service, providerId, -accepted.orderAmountMinor);
      }
      return settled;
    };
    const ended = work().catch((error: unknown) => {
      log.error(
        { ...lineFacts(way, claimed), error: String(error) },
        'a payment could not be settled here; it will be inquired about when its lease ends',
      );
      return claimed;
    });
    return ended.then((payment) => this.answer(agent.agentId, request, payment));
  }

  private async inquire(
    agent: Agent,
    request: PayRequest,
    service: Accept['service'],
    route: Route,
    found: Awaited<ReturnType<PaymentStore['find']>>,
    way: Way | undefined,
  ) {
    const { sender, log } = this.parts;
    const inputs = fingerprintOf(inquiryWords(service, request));
    const fresh = found.quote?.fresh && found.quote.inputs === inputs ? found.quote : null;
    const teller = fresh?.offer?.providerId;
    const quote = teller === undefined || teller === route.providerId ? fresh : null;
    const rateE10 = quote?.rateE10 ?? null;
    if (quote?.offer) return { kind: 'offered' as const, offer: quote.offer, rateE10 };
    if (!service.inquiryRequired) return { kind: 'offered' as const, offer: {}, rateE10 };

    const { providerId } = route;
    const { outcome, record } = await step(
      way?.span,
      'provider check',
      () => sender.check(providerId, inquiryOf(agent, request, service, route)),
      (told) => callSpanFacts(providerId, told?.record),
    );
    const transactionId = found.quote?.transactionId.toString();
    log.debug?.({ reqId: way?.reqId, transactionId, ...callFacts(providerId, record) }, 'provider called');
    if (outcome.kind === 'refused') return outcome;
    if (outcome.kind === 'ok') return { kind: 'offered' as const, offer: outcome, rateE10 };
    return { kind: 'unknown' as const };
  }

  /** Nothing is accepted and nothing is paid; only the number the agent will meet again is kept. */
  private async number(agent: Agent, request: PayRequest, service: Accept['service']): Promise<PayAnswer> {
    const quoted = await this.parts.storeOf(agent.shard).quote({
      agentId: agent.agentId,
      agentTransactionId: request.agentTransactionId,
      inputs: fingerprintOf(inquiryWords(service, request)),
      offer: null,
      rateE10: null,
      ttlMs: 0,
    });
    return refusal(1, null, quoted.transactionId);
  }

  /** The same id again. Whatever the repeat says, the payment goes on untouched. */
  private async repeat(
    reference: Reference,
    agent: Agent,
    request: PayRequest,
    payment: StoredPayment,
    fingerprint: string,
    invalid: string | null,
    progress: Progress,
  ): Promise<PayAnswer> {
    const asked = { offer: payment.shown ?? {}, rateE10: payment.shown?.conversion?.rateE10 ?? null };
    if (payment.fingerprint !== fingerprint) {
      const again = invalid ? null : decidePay(reference, agent, request, asked);
      const why = again?.kind === 'invalid' ? again.reason : invalid;
      return why ? refusal(202, why, payment.transactionId) : refusal(215, null, payment.transactionId);
    }
    if (payment.state === State.awaitingTerms) {
      const again = decidePay(reference, agent, request, asked);
      if (again.kind === 'accept' && again.state !== State.awaitingTerms) {
        progress.writingSince = performance.now();
        await this.parts.resumeTerms(payment, agent, again.state);
        progress.writingSince = null;
        const { payment: now } = await this.parts
          .storeOf(agent.shard)
          .find(agent.agentId, request.agentTransactionId);
        return this.answerOf(now ?? payment);
      }
    }
    return this.answer(agent.agentId, request, payment);
  }

  /** `bound`: the provider that made the offer. */
  private routeFor(decision: Accept | Inquire, agent: Agent, request: PayRequest, bound?: string): Choice {
    const { service } = decision;
    const inItsCurrency = service.currency === agent.currency ? request.amountToMinor : null;
    const amountMinor = decision.kind === 'accept' ? decision.orderAmountMinor : inItsCurrency;
    return this.parts.routing.choose(service, amountMinor, bound);
  }

  private answer(agentId: bigint, request: PayRequest, payment: StoredPayment): PayAnswer {
    this.finals.keep(agentId, request.agentTransactionId, payment);
    return this.answerOf(payment);
  }

  /** Throws Overloaded where what the payment shows cannot be decrypted. */
  private answerOf({ code, reason, transactionId, shown, acceptedAt, finalAt }: StoredPayment): PayAnswer {
    return { code, reason, transactionId, shown: this.opened(transactionId, shown), acceptedAt, finalAt };
  }

  /** Without its codes the answer to a paid voucher would be a wrong one, so there is none until the key is back. */
  private opened(transactionId: bigint, stored: StoredShown | null): Shown | null {
    if (stored?.sealed === undefined) return stored;
    const { sealed, ...shown } = stored;
    try {
      const secrets = unsealSecrets(this.parts.sealing, transactionId, sealed);
      return { ...shown, displays: { ...shown.displays, ...secrets } };
    } catch {
      this.parts.log.error(
        { transactionId: String(transactionId) },
        'what a payment shows was encrypted with another key; give the centre the key it had then',
      );
      throw new Overloaded('what the payment shows cannot be decrypted', unsealRetryS);
    }
  }

  private sealIdentity(request: PayRequest): string | null {
    const { identityCard, fullName } = request;
    return identityCard || fullName
      ? this.parts.sealing.seal(JSON.stringify({ identityCard, fullName }))
      : null;
  }
}

/** The latest 262 144, 15 MiB when all slots are taken. */
const finalsBits = 18;

interface Progress {
  /** What an agent is told when its time is over; null while nobody but the database is waited for. */
  tell: (() => PayAnswer | Promise<PayAnswer>) | null;
  /** Since when the database has had to write; null while it has not. */
  writingSince: number | null;
}

function isSilent({ writingSince }: Progress, now: number): boolean {
  return writingSince !== null && now - writingSince >= patienceMs;
}

/** Somebody has to give the key back. */
const unsealRetryS = 60;

/** Both commits of a payment would take longer than that: better say so at once. */
const writingMsMax = 1000;

function isForProvider(decision: PayDecision): decision is Accept | Inquire {
  return decision.kind === 'inquire' || (decision.kind === 'accept' && decision.state === State.sending);
}

/** Kept between the last moment a call could end and the end of the lease, for the commit and for scheduling. */
const leaseMarginMs = 1000;

/** The lease a process needs for what it accepts: the longest wait for a place, the longest call, and the margins. */
export function leaseMsFor(queueMsMax: number, callMsMax: number): number {
  return queueMsMax + callMsMax + 2 * leaseMarginMs;
}

function settlementOf(
  consequence: ReturnType<typeof consequenceOf>,
  claimed: Claimed,
  sealing: Sealing,
): Pick<Settlement, 'to' | 'code' | 'reason' | 'reference' | 'shown' | 'what' | 'nextMs' | 'acknowledged'> {
  if (consequence.kind !== 'end') {
    const { kind, nextMs } = consequence;
    const acknowledged = kind === 'inquire' && consequence.acknowledged;
    return {
      to: State.uncertain,
      code: 1,
      reason: null,
      reference: null,
      shown: null,
      what: kind,
      nextMs,
      acknowledged,
    };
  }
  const { to, code, reference } = consequence;
  const shown = shownAfter(consequence, claimed.transactionId, claimed.shown, sealing);
  return { to, code, reason: null, reference, shown, what: null, nextMs: 0, acknowledged: false };
}

function lineFacts(way: Way | undefined, { transactionId, state, code }: StoredPayment) {
  return { reqId: way?.reqId, ...paymentFacts(transactionId, state, code) };
}

function spanFacts(payment: StoredPayment | undefined): Facts {
  if (!payment) return {};
  const { transactionId, state, code } = payment;
  return {
    'tolem.transaction_id': String(transactionId),
    'tolem.state': stateName(state),
    'tolem.result': code,
  };
}

function refusal(code: number, why: string | null, transactionId: bigint | null): PayAnswer {
  return { code, reason: why, transactionId, shown: null, acceptedAt: null, finalAt: null };
}

/**
 * What is answered from memory leaves together at the end of the turn of the event loop, as what a batch has written
 * does: one answer between two requests wakes its reader each time, which costs as much as the rest of a repeat.
 */
class Turns {
  private ends: Promise<void> | null = null;

  end(): Promise<void> {
    this.ends ??= new Promise((resolve) => {
      setImmediate(() => {
        this.ends = null;
        resolve();
      });
    });
    return this.ends;
  }
}

const sweepMs = 25;

interface Wait {
  readonly until: number;
  readonly progress: Progress;
  readonly end: () => void;
}

/**
 * Agents waiting for a provider's answer. One sweep ends those who have waited long enough: a timer or an entry of a
 * Set for each payment costs more than the rest of its bookkeeping, so waits lie in slots that are used again.
 */
class Waits {
  private readonly slots: (Wait | null)[] = [];
  private readonly free: number[] = [];
  private sweeper: NodeJS.Timeout | null = null;

  /**
   * The answer if it comes within `ms` and the database writes in time, else the other one, made when the time is
   * over. Work that fails later fails unheard: its agent was told to come again.
   */
  forAnswer<T>(
    work: Promise<T>,
    progress: Progress,
    ms: number,
    otherwise: () => T | Promise<T>,
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      const slot = this.free.pop() ?? this.slots.length;
      const end = () => {
        try {
          resolve(otherwise());
        } catch (error) {
          reject(error);
        }
      };
      const wait = { until: performance.now() + ms, progress, end };
      this.slots[slot] = wait;
      this.sweeper ??= setInterval(() => this.sweep(performance.now()), sweepMs).unref();
      const settle = (tell: () => void) => {
        if (this.slots[slot] !== wait) return;
        this.release(slot);
        tell();
      };
      work.then(
        (value) => settle(() => resolve(value)),
        (error: unknown) => settle(() => reject(error)),
      );
    });
  }

  endAll(): void {
    this.sweep(Number.POSITIVE_INFINITY);
  }

  private sweep(now: number): void {
    for (const [slot, wait] of this.slots.entries()) {
      if (wait === null) continue;
      const { tell, writingSince } = wait.progress;
      // While the database writes there may be nothing to tell yet, and soon will be.
      const isOver = wait.until <= now && (tell !== null || writingSince === null);
      if (!isOver && !isSilent(wait.progress, now)) continue;
      this.release(slot);
      wait.end();
    }
    if (this.free.length === this.slots.length && this.sweeper) {
      clearInterval(this.sweeper);
      this.sweeper = null;
    }
  }

  private release(slot: number): void {
    this.slots[slot] = null;
    this.free.push(slot);
  }
}
