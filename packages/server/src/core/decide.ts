/**
 * What the centre answers to a payment or a check, as one ladder from the first rule to the last. Pure: all it needs is
 * passed in; what it decides is a value. Funds are judged after it, where the balance is locked.
 */

import { type Agent, mayBeSold, type Reference, Scheme, type Service, tariffLine } from './catalogue.js';
import { reason } from './codes.js';
import { convert, formatMinor, parseAmount } from './money.js';
import { type CheckRequest, type InvoiceLine, isLonger, type Offer, type PayRequest } from './requests.js';
import type { Route } from './routes.js';
import { State } from './states.js';
import { addedMax, feeOf, rewardOf } from './tariff.js';

/** In Unicode code points. Source: the contract, `account`. */
export const accountLengthMax = 200;

export interface Conversion {
  readonly from: string;
  readonly to: string;
  readonly rateE10: bigint;
}

/** A final refusal, kept with the payment. */
export interface Refuse {
  readonly kind: 'refuse';
  readonly code: number;
  readonly reason: string | null;
}

/** 202: the request contradicts itself or the catalogue, and names no payment. */
export interface Invalid {
  readonly kind: 'invalid';
  readonly reason: string;
}

/** The provider must be asked before more can be said. */
export interface Inquire {
  readonly kind: 'inquire';
  readonly service: Service;
}

export interface Accept {
  readonly kind: 'accept';
  readonly state: typeof State.sending | typeof State.inReview | typeof State.awaitingTerms;
  readonly code: 1 | 153 | 255;
  readonly reason: string | null;
  readonly service: Service;
  readonly feeMinor: bigint;
  readonly rewardMinor: bigint;
  readonly conversion: Conversion | null;
  /** What the provider gets, in its currency. */
  readonly orderAmountMinor: bigint;
}

export type PayDecision = Refuse | Invalid | Inquire | Accept;

export interface CheckPassed {
  readonly kind: 'pass';
  readonly service: Service;
  readonly conversion: Conversion | null;
  readonly finalAmountMinor: bigint | null;
}

export type CheckDecision = Refuse | Invalid | Inquire | CheckPassed;

/** What was learnt from the provider: undefined — not asked yet; null — it need not be asked. */
export interface Asked {
  readonly offer: Offer | null | undefined;
  /** The rate promised by the quote, scaled by 10^10. */
  readonly rateE10: bigint | null;
}

export const notAsked: Asked = { offer: undefined, rateE10: null };

export function decidePay(
  reference: Reference,
  agent: Agent,
  request: PayRequest,
  asked: Asked,
): PayDecision {
  const service = reference.services.get(request.serviceId);
  const refusal = refuseByCatalogue(reference, agent, service, request);
  if (refusal) return refusal;
  if (!service) throw new Error('a service that passed the catalogue rules is missing');

  const { amountToMinor, amountFromMinor } = request;
  if (amountFromMinor < amountToMinor) return invalid('field_contradicts', 'amountFrom', 'amountTo');
  const limit = refuseByLimits(amountToMinor, service.amountMinMinor, service.amountMaxMinor);
  if (limit) return limit;

  // In another currency there may be a quote, whose rate is kept whatever the rate is by now.
  if (asked.offer === undefined && (service.inquiryRequired || service.currency !== agent.currency))
    return { kind: 'inquire', service };
  const offer = asked.offer ?? {};
  const byScheme = refuseByScheme(service, request, offer);
  if (byScheme) return byScheme;
  const byProvider = refuseByLimits(amountToMinor, offer.amountMinMinor ?? 0n, offer.amountMaxMinor ?? 0n);
  if (byProvider) return byProvider;

  const conversion = conversionOf(reference, agent, service, asked);
  if (typeof conversion === 'string') return refuseByRate(agent, service, conversion);
  const orderAmountMinor = conversion ? convert(amountToMinor, conversion.rateE10) : amountToMinor;
  if (orderAmountMinor === 0n) return { kind: 'refuse', code: 241, reason: null };

  // After this point nothing can be refused: the payment is taken, waits, or is held for people.
  const tariff = reference.tariffs.get(agent.tariffId);
  if (!tariff) throw new Error(`agent ${agent.agentId} has tariff ${agent.tariffId}, which does not exist`);
  const line = tariffLine(tariff, service.serviceId);
  const feeMinor = feeOf(line, amountToMinor);
  const rewardMinor = rewardOf(line, amountToMinor);
  // Written out, since every payment comes by here: spreading an object costs more than all rules together.
  const taken = (state: Accept['state'], code: Accept['code'], why: string | null): Accept => ({
    kind: 'accept',
    state,
    code,
    reason: why,
    service,
    feeMinor,
    rewardMinor,
    conversion,
    orderAmountMinor,
  });

  const added = addedMax(line, amountToMinor);
  if (added !== null && amountFromMinor - amountToMinor > added)
    return taken(State.awaitingTerms, 255, reason('added_fee', formatMinor(added)));
  const rule = reference.rules.find(
    (each) =>
      amountToMinor > each.amountAboveMinor &&
      (each.serviceId === null || each.serviceId === service.serviceId) &&
      (each.agentId === null || each.agentId === agent.agentId),
  );
  if (rule) return taken(State.inReview, 153, reason('security_rule', rule.ruleId));
  return taken(State.sending, 1, null);
}

export function decideCheck(
  reference: Reference,
  agent: Agent,
  request: CheckRequest,
  asked: Asked,
): CheckDecision {
  const service = reference.services.get(request.serviceId);
  const refusal = refuseByCatalogue(reference, agent, service, request);
  if (refusal) return refusal;
  if (!service) throw new Error('a service that passed the catalogue rules is missing');

  const { amountToMinor, amountFromMinor } = request;
  if (amountToMinor !== null) {
    if (amountFromMinor !== null && amountFromMinor < amountToMinor) {
      return invalid('field_contradicts', 'amountFrom', 'amountTo');
    }
    const limit = refuseByLimits(amountToMinor, service.amountMinMinor, service.amountMaxMinor);
    if (limit) return limit;
  }
  if (asked.offer === undefined) return { kind: 'inquire', service };
  const offer = asked.offer ?? {};
  if (amountToMinor !== null) {
    const byProvider = refuseByLimits(amountToMinor, offer.amountMinMinor ?? 0n, offer.amountMaxMinor ?? 0n);
    if (byProvider) return byProvider;
  }
  const conversion = conversionOf(reference, agent, service, asked);
  if (typeof conversion === 'string') return refuseByRate(agent, service, conversion);
  return {
    kind: 'pass',
    service,
    conversion,
    finalAmountMinor:
      conversion && amountToMinor !== null ? convert(amountToMinor, conversion.rateE10) : null,
  };
}

/** Funds at `check`: with an amount they must cover it, without one they must be above zero. */
export function fundsSuffice(fundsMinor: bigint, amountToMinor: bigint | null): boolean {
  return amountToMinor === null ? fundsMinor > 0n : fundsMinor >= amountToMinor;
}

function refuseByCatalogue(
  reference: Reference,
  agent: Agent,
  service: Service | undefined,
  request: CheckRequest,
): Refuse | Invalid | null {
  if (!service) return { kind: 'refuse', code: 130, reason: null };
  if (!mayBeSold(reference, agent, service)) return { kind: 'refuse', code: 155, reason: null };
  const isClosed = ({ providerId, on }: Route) => !on || reference.providers.get(providerId)?.paused;
  if (service.state === 'maintenance' || service.routes.every(isClosed))
    return { kind: 'refuse', code: 8, reason: null };
  if (isLonger(request.account, accountLengthMax) || /\p{Cc}/u.test(request.account)) {
    return { kind: 'refuse', code: 4, reason: null };
  }
  for (const field of service.inputs) {
    if (field.key === 'account') {
      if (field.pattern && !field.pattern.matches(request.account))
        return { kind: 'refuse', code: 4, reason: null };
      continue;
    }
    const value = request.extras[field.key];
    if (value === undefined || value === '') {
      if (field.required) return invalid('field_missing', `extras.${field.key}`);
    } else if (field.pattern && !field.pattern.matches(value)) {
      return invalid('field_malformed', `extras.${field.key}`);
    }
  }
  if (service.identityRequired) {
    if (!request.identityCard) return invalid('field_missing', 'identityCard');
    if (!request.fullName) return invalid('field_missing', 'fullName');
  }
  return null;
}

/** A bound of zero is no bound, except that nothing can be paid by an amount of zero. */
function refuseByLimits(amountMinor: bigint, minMinor: bigint, maxMinor: bigint): Refuse | null {
  if (amountMinor < minMinor || amountMinor === 0n) {
    return {
      kind: 'refuse',
      code: 241,
      reason: reason('amount_below', formatMinor(minMinor > 0n ? minMinor : 1n)),
    };
  }
  if (maxMinor > 0n && amountMinor > maxMinor) {
    return { kind: 'refuse', code: 242, reason: reason('amount_above', formatMinor(maxMinor)) };
  }
  return null;
}

function refuseByScheme(service: Service, request: PayRequest, offer: Offer): Refuse | Invalid | null {
  if (service.type !== Scheme.complex && request.extraServices) {
    return invalid('field_contradicts', 'extraServices', 'serviceId');
  }
  if (service.type === Scheme.complex) return refuseByInvoice(request, offer);
  if (service.type === Scheme.choice) {
    const contractId = request.extras.contractId;
    if (!contractId) return invalid('field_missing', 'extras.contractId');
    const contract = offer.contracts?.find((each) => each.contractId === contractId);
    if (!contract) return invalid('field_contradicts', 'extras.contractId', 'contracts');
    return service.fixedPayment ? refuseByFixed(request, contract.contractSum, 'contractSum') : null;
  }
  return service.fixedPayment ? refuseByFixed(request, offer.displays?.fixedAmount, 'fixedAmount') : null;
}

function refuseByFixed(request: PayRequest, fixed: string | undefined, name: string): Invalid | null {
  if (fixed === undefined) return null;
  const amount = parseAmount(fixed);
  if (amount.ok && amount.amountMinor === request.amountToMinor) return null;
  return invalid('field_contradicts', 'amountTo', `${name} ${fixed}`);
}

function refuseByInvoice(request: PayRequest, offer: Offer): Refuse | Invalid | null {
  if (!request.extraServices) return invalid('field_missing', 'extraServices');
  const lines = new Map<string, InvoiceLine>();
  for (const invoice of offer.invoices ?? []) {
    for (const line of invoice.lines) lines.set(line.subServiceId, line);
  }
  const seen = new Set<string>();
  let sumMinor = 0n;
  for (const item of request.extraServices) {
    const line = lines.get(item.subServiceId);
    if (!line)
      return invalid('field_contradicts', `extraServices.subServiceId ${item.subServiceId}`, 'invoice');
    if (seen.has(item.subServiceId)) {
      return invalid('field_contradicts', `extraServices.subServiceId ${item.subServiceId}`, 'extraServices');
    }
    seen.add(item.subServiceId);
    const limit = refuseByLimits(item.amountMinor, line.minSumMinor ?? 0n, line.maxSumMinor ?? 0n);
    if (limit) return limit;
    if (line.isMeter) {
      const field = `extraServices.lastCount ${item.subServiceId}`;
      if (item.lastCount === null) return invalid('field_missing', field);
      const last = parseCount(item.lastCount);
      if (last === null) return invalid('field_malformed', field);
      const previous = parseCount(line.prevCount ?? '0');
      if (previous !== null && last < previous)
        return invalid('field_contradicts', field, `prevCount ${line.prevCount}`);
    }
    sumMinor += item.amountMinor;
  }
  if (sumMinor !== request.amountToMinor)
    return invalid('field_contradicts', 'amountTo', 'extraServices.amount');
  return null;
}

/** A meter's reading with up to 6 decimals, as an integer of millionths; null when it is none. */
function parseCount(text: string): bigint | null {
  const match = /^(\d{1,15})(?:\.(\d{1,6}))?$/.exec(text);
  return match ? BigInt(match[1]!) * 1_000_000n + BigInt((match[2] ?? '').padEnd(6, '0')) : null;
}

function conversionOf(
  reference: Reference,
  agent: Agent,
  service: Service,
  asked: Asked,
): Conversion | null | RateProblem {
  if (service.currency === agent.currency) return null;
  const rateE10 = asked.rateE10 ?? reference.rates.get(`${agent.currency}/${service.currency}`);
  if (rateE10 === undefined) return 'no_rate';
  if (rateE10 === 'too_old') return 'rate_too_old';
  return { from: agent.currency, to: service.currency, rateE10 };
}

type RateProblem = 'no_rate' | 'rate_too_old';

function refuseByRate(agent: Agent, service: Service, problem: RateProblem): Refuse {
  return { kind: 'refuse', code: 300, reason: reason(problem, `${agent.currency}/${service.currency}`) };
}

/** No provider of the service takes such a payment now. */
export function refusedByRoutes(why: 'amount_below' | 'amount_above' | 'closed'): Refuse {
  return { kind: 'refuse', code: { amount_below: 241, amount_above: 242, closed: 7 }[why], reason: null };
}

function invalid(key: string, ...values: string[]): Invalid {
  return { kind: 'invalid', reason: reason(key, ...values) };
}

/** The words that make two requests the same payment, one to a line; dates and identity are not among them. */
export function paymentWords(request: PayRequest): string {
  const extras = Object.keys(request.extras)
    .sort()
    .map((key) => [key, request.extras[key]]);
  const lines = request.extraServices
    ?.map((each) => [each.subServiceId, each.amountMinor.toString(), each.lastCount])
    .sort(([left], [right]) => (left! < right! ? -1 : 1));
  return JSON.stringify([
    request.serviceId,
    request.account,
    request.amountToMinor.toString(),
    request.amountFromMinor.toString(),
    extras,
    lines ?? null,
  ]);
}

/** The words of an inquiry: a quote serves a payment with the same ones. */
export function inquiryWords(service: Service, request: CheckRequest): string {
  const inputs = service.inputs
    .filter((field) => field.key !== 'account')
    .map((field) => request.extras[field.key] ?? null);
  return JSON.stringify([service.serviceId, request.account, inputs]);
}
