import { hash } from 'node:crypto';
import type { Shown } from '../core/answers.js';
import type { Agent, Service } from '../core/catalogue.js';
import type { Accept } from '../core/decide.js';
import type { CheckRequest, Offer, PayRequest } from '../core/requests.js';
import { namedFor, type Route } from '../core/routes.js';
import type { Inquiry, Order } from '../providers/contract.js';
import { type OrderDetails, readDetails } from './stored.js';

/**
 * The payment's name at the provider: the same for every attempt, every inquiry and every process, because it follows
 * from what the agent sent and from nothing else.
 */
export function externalIdOf(agentId: bigint, agentTransactionId: bigint): string {
  return `${agentId}-${agentTransactionId}`;
}

/** Null: no payment was ever called so. */
export function readExternalId(name: string): { agentId: bigint; agentTransactionId: bigint } | null {
  const [, agentId, agentTransactionId] = /^([1-9]\d{0,17})-([1-9]\d{0,18})$/.exec(name) ?? [];
  if (agentId === undefined || BigInt(agentTransactionId!) >= 2n ** 63n) return null;
  return { agentId: BigInt(agentId), agentTransactionId: BigInt(agentTransactionId!) };
}

/** The first half of a SHA-256 as a UUID: 16 bytes that PostgreSQL stores and compares as such. */
export function fingerprintOf(words: string): string {
  const hex = hash('sha256', words, 'hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20, 32)}`;
}

/** A question about the account, as the route's provider wants it; an amount in another currency is none to it. */
export function inquiryOf(agent: Agent, request: CheckRequest, service: Service, route: Route): Inquiry {
  return {
    externalId: externalIdOf(agent.agentId, request.agentTransactionId),
    serviceCode: route.providerServiceCode,
    account: request.account,
    amountMinor: service.currency === agent.currency ? request.amountToMinor : null,
    currency: service.currency,
    extras: namedFor(route.fields, request.extras),
  };
}

/** What the provider told; with its name where others could be paid as well. */
export function toldBy(route: Route, service: Service, offer: Offer): Offer {
  return service.routes.length > 1 ? { ...offer, providerId: route.providerId } : offer;
}

/** What an order has of its route. */
function routeDetails({ providerServiceCode, fields }: Route): Pick<OrderDetails, 'serviceCode' | 'fields'> {
  return { serviceCode: providerServiceCode, ...(Object.keys(fields).length > 0 && { fields }) };
}

/** The same order by another route. */
export function reroutedDetails({ fields: _, ...details }: OrderDetails, route: Route): OrderDetails {
  return { ...details, ...routeDetails(route) };
}

export function detailsOf(accepted: Accept, route: Route, request: PayRequest): OrderDetails {
  return {
    ...routeDetails(route),
    ...(Object.keys(request.extras).length > 0 && { extras: request.extras }),
    ...(request.extraServices && { extraServices: request.extraServices }),
    ...(accepted.conversion && {
      orderAmountMinor: accepted.orderAmountMinor,
      orderCurrency: accepted.conversion.to,
    }),
  };
}

/** What the answer shows of the scheme, from the provider's offer and the conversion. */
export function shownOf(
  offer: Offer | null,
  conversion: { from: string; to: string; rateE10: bigint } | null,
  finalAmountMinor: bigint | null,
): Shown | null {
  if (!offer?.displays && !offer?.contracts && !offer?.invoices && !conversion) return null;
  return {
    ...(offer?.displays && { displays: offer.displays }),
    ...(offer?.contracts && { contracts: offer.contracts }),
    ...(offer?.invoices && { invoices: offer.invoices }),
    ...(conversion && { conversion: { ...conversion, finalAmountMinor } }),
  };
}

/** A payment as claim_waiting returns it. */
export interface WaitingRow {
  readonly what: 'send' | 'inquire';
  readonly tries: number;
  readonly id: bigint;
  readonly shard: number;
  readonly agent_id: bigint;
  readonly agent_transaction_id: bigint;
  readonly state: number;
  readonly service_id: string;
  readonly provider_id: string;
  readonly account: string;
  readonly amount_to_minor: bigint;
  readonly currency: string;
  readonly details: unknown;
  readonly shown: unknown;
  readonly accepted_at: Date;
  readonly attempt_over_ms: bigint;
}

export function orderOfRow(row: WaitingRow, again: boolean): Order {
  const details = readDetails(row.details);
  return {
    externalId: externalIdOf(row.agent_id, row.agent_transaction_id),
    serviceCode: details.serviceCode,
    account: row.account,
    amountMinor: details.orderAmountMinor ?? row.amount_to_minor,
    currency: details.orderCurrency ?? row.currency,
    extras: namedFor(details.fields, details.extras ?? {}),
    extraServices: details.extraServices ?? null,
    transactionId: row.id,
    acceptedAt: row.accepted_at,
    again,
  };
}
