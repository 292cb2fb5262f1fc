/** What the centre knows of services, agents and prices while it decides. Plain data, loaded by the shell. */
import type { Route } from './routes.js';

export type SchemeType = 0 | 1 | 2;
export const Scheme = { simple: 0, complex: 1, choice: 2 } as const;

/** A catalogue pattern, compiled to run in linear time; must match the whole value. */
export interface Pattern {
  readonly source: string;
  matches(value: string): boolean;
}

export interface Field {
  /** As printed in the catalogue: `account`, `ev_account1`. */
  readonly name: string;
  /** Where the value arrives: `account`, or the key in `extras` (`account1`). */
  readonly key: string;
  readonly required: boolean;
  readonly title: string;
  readonly pattern: Pattern | null;
}

export interface Service {
  readonly serviceId: string;
  readonly type: SchemeType;
  readonly name: string;
  readonly group: string | null;
  readonly fixedPayment: boolean;
  readonly country: string | null;
  readonly inputs: readonly Field[];
  readonly displays: readonly Field[];
  /** At least one. */
  readonly routes: readonly Route[];
  /** The currency of its providers; a payment in another one is converted by the rate. */
  readonly currency: string;
  readonly amountMinMinor: bigint;
  readonly amountMaxMinor: bigint;
  readonly identityRequired: boolean;
  /** Without a fresh quote `pay` asks the provider first; switched off for services where `pay` alone tells all. */
  readonly inquiryRequired: boolean;
  readonly state: 'on' | 'maintenance' | 'off';
}

export interface TariffLine {
  readonly serviceId: string | null;
  readonly feePpm: number;
  readonly feeFixedMinor: bigint;
  readonly feeMinMinor: bigint;
  readonly feeMaxMinor: bigint | null;
  readonly rewardPpm: number;
  /** The most an agent may add on top of amountTo, as a share of it; null: no bound. */
  readonly addedMaxPpm: number | null;
}

export interface Tariff {
  readonly tariffId: string;
  readonly name: string;
  /** The line without a service is the rule; lines with one are exceptions. */
  readonly lines: readonly TariffLine[];
}

export interface Agent {
  readonly agentId: bigint;
  readonly shard: number;
  readonly name: string;
  readonly currency: string;
  readonly language: Language;
  readonly tariffId: string;
  readonly servicePolicy: 'all' | 'listed';
  readonly knownByAddress: boolean;
  readonly blocked: boolean;
}

export type Language = 'ru' | 'kk' | 'en';

export interface SecurityRule {
  readonly ruleId: string;
  /** Hold a payment whose amountTo is above this. */
  readonly amountAboveMinor: bigint;
  readonly serviceId: string | null;
  readonly agentId: bigint | null;
}

/** Too old: there is a rate, and nothing may be sold by it any more. */
export type SellingRate = bigint | 'too_old';

/** What a feed of rates says of one date. */
export interface FeedRates {
  /** `2026-11-24`. */
  readonly date: string;
  /** The currency that the prices are in. */
  readonly currency: string;
  /** By currency: what so many units of it cost, scaled by 10^10. */
  readonly prices: ReadonlyMap<string, { readonly priceE10: bigint; readonly units: bigint }>;
}

/** One immutable view of the reference data; replaced whole when anything in it changes. */
export interface Reference {
  readonly version: bigint;
  readonly agents: ReadonlyMap<bigint, Agent>;
  readonly services: ReadonlyMap<string, Service>;
  readonly tariffs: ReadonlyMap<string, Tariff>;
  readonly rules: readonly SecurityRule[];
  /** `KZT/USD` → rate scaled by 10^10, at this moment. */
  readonly rates: ReadonlyMap<string, SellingRate>;
  readonly providers: ReadonlyMap<string, ProviderFacts>;
  /** agentId → serviceId → allowed; absent: the agent's policy decides. */
  readonly exceptions: ReadonlyMap<bigint, ReadonlyMap<string, boolean>>;
}

export interface ProviderFacts {
  readonly providerId: string;
  readonly name: string;
  readonly connector: string;
  readonly settings: Readonly<Record<string, unknown>>;
  readonly paused: boolean;
}

export function mayBeSold(reference: Reference, agent: Agent, service: Service): boolean {
  if (service.state === 'off') return false;
  return reference.exceptions.get(agent.agentId)?.get(service.serviceId) ?? agent.servicePolicy === 'all';
}

export function tariffLine(tariff: Tariff, serviceId: string): TariffLine {
  const line =
    tariff.lines.find((each) => each.serviceId === serviceId) ??
    tariff.lines.find((each) => each.serviceId === null);
  if (!line) throw new Error(`tariff ${tariff.tariffId} has no line for all services; add one`);
  return line;
}
