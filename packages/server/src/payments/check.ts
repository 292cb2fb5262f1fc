/** Asks whether a payment could be made: the rules, the provider, the funds. Nothing is paid and nothing is held. */
import { type CheckAnswer, Overloaded } from '../core/answers.js';
import type { Reference } from '../core/catalogue.js';
import { decideCheck, fundsSuffice, inquiryWords, notAsked, refusedByRoutes } from '../core/decide.js';
import type { CheckRequest, Offer } from '../core/requests.js';
import { step, type Way } from '../core/way.js';
import { LaneBroken } from '../db/lane.js';
import type { Sender } from '../providers/contract.js';
import { fingerprintOf, inquiryOf, shownOf, toldBy } from './order.js';
import { callFacts, callSpanFacts, type PaymentLog } from './outcome.js';
import type { Routing } from './routing.js';
import type { PaymentStore, Quoted } from './store.js';

export interface CheckParts {
  readonly storeOf: (shard: number) => PaymentStore;
  readonly sender: Sender;
  readonly routing: Routing;
  readonly reference: () => Reference;
  readonly quoteTtlMs: number;
  readonly log: PaymentLog;
}

export async function check(
  parts: CheckParts,
  agentId: bigint,
  request: CheckRequest,
  way?: Way,
): Promise<CheckAnswer> {
  const reference = parts.reference();
  const agent = reference.agents.get(agentId);
  if (!agent) throw new Error(`agent ${agentId} is not in the reference data`);

  let decision = decideCheck(reference, agent, request, notAsked);
  if (decision.kind === 'invalid')
    return { code: 202, reason: decision.reason, transactionId: null, shown: null };

  let offer: Offer | null = null;
  if (decision.kind === 'inquire') {
    const { service } = decision;
    const amountMinor = service.currency === agent.currency ? request.amountToMinor : null;
    const choice = parts.routing.choose(service, amountMinor);
    if (choice.kind === 'none') decision = refusedByRoutes(choice.why);
    else {
      const { providerId } = choice.route;
      const { outcome, record } = await step(
        way?.span,
        'provider check',
        () => parts.sender.check(providerId, inquiryOf(agent, request, service, choice.route)),
        (told) => callSpanFacts(providerId, told?.record),
      );
      parts.log.debug?.({ reqId: way?.reqId, ...callFacts(providerId, record) }, 'provider called');
      if (outcome.kind === 'ok') {
        const { kind: _, ...told } = outcome;
        offer = toldBy(choice.route, service, told);
        decision = decideCheck(reference, agent, request, { offer, rateE10: null });
        if (decision.kind === 'invalid')
          return { code: 202, reason: decision.reason, transactionId: null, shown: null };
      } else {
        // What the provider did not say is not guessed: 1, ask again.
        decision = { kind: 'refuse', code: outcome.kind === 'refused' ? outcome.code : 1, reason: null };
      }
    }
  }

  const passed = decision.kind === 'pass' ? decision : null;
  const service = reference.services.get(request.serviceId);
  let quoted: Quoted;
  try {
    quoted = await parts.storeOf(agent.shard).quote({
      agentId,
      agentTransactionId: request.agentTransactionId,
      inputs: fingerprintOf(service ? inquiryWords(service, request) : request.serviceId),
      offer: passed ? offer : null,
      rateE10: passed?.conversion?.rateE10 ?? null,
      ttlMs: passed ? parts.quoteTtlMs : 0,
    });
  } catch (error) {
    if (error instanceof LaneBroken) throw new Overloaded(error.message, 1);
    throw error;
  }
  const { transactionId, fundsMinor } = quoted;
  if (decision.kind === 'refuse')
    return { code: decision.code, reason: decision.reason, transactionId, shown: null };
  if (!passed) throw new Error('a check ended without a decision');

  const shown = shownOf(offer, passed.conversion, passed.finalAmountMinor);
  const code = fundsSuffice(fundsMinor, request.amountToMinor) ? 0 : 220;
  return { code, reason: null, transactionId, shown };
}
