/** By which of a service's routes a payment goes. Pure: the shell says how the providers stand now. */

export interface Route {
  readonly providerId: string;
  /** The provider's own code of the service. */
  readonly providerServiceCode: string;
  /** Our name of an extra → the provider's. Extras that are not here keep their names. */
  readonly fields: Readonly<Record<string, string>>;
  /** The lowest goes first. */
  readonly priority: number;
  /** How many of the payments of its priority, against the others'. */
  readonly share: number;
  /** Of one payment, in the service's currency; 0: no bound. */
  readonly amountMinMinor: bigint;
  readonly amountMaxMinor: bigint;
  /** Of a day, in the service's currency; null: no bound. */
  readonly dayMaxMinor: bigint | null;
  /** What the provider keeps for itself. */
  readonly costPpm: number;
  readonly costFixedMinor: bigint;
  readonly on: boolean;
}

/**
 * `behind`: calls wait too long for a connection. `away`: it does not answer of late, or is closed for maintenance;
 * a call would not be made. `paused`: by an operator.
 */
export type Standing = 'well' | 'behind' | 'away' | 'paused';

export interface Standings {
  of(providerId: string): Standing;
  /** What went by this route since midnight, in the service's currency. */
  spentTodayMinor(route: Route): bigint;
}

export type Choice =
  | { readonly kind: 'route'; readonly route: Route; readonly standing: 'well' | 'behind' | 'away' }
  | { readonly kind: 'none'; readonly why: 'amount_below' | 'amount_above' | 'closed' };

/**
 * `amountMinor`: null while it is not known. `dice`: from 0 to below 1. Routes that are well come before those that are
 * behind, and these before those that are away; then the priority counts, and within it the shares.
 */
export function chooseRoute(
  routes: readonly Route[],
  amountMinor: bigint | null,
  standings: Standings,
  dice: number,
): Choice {
  let best: Route[] = [];
  let bestRank = Number.POSITIVE_INFINITY;
  let bestStanding: keyof typeof ranks = 'well';
  let below = 0;
  let above = 0;
  let fitting = 0;
  for (const route of routes) {
    if (amountMinor !== null && amountMinor < route.amountMinMinor) {
      below += 1;
      continue;
    }
    if (amountMinor !== null && route.amountMaxMinor > 0n && amountMinor > route.amountMaxMinor) {
      above += 1;
      continue;
    }
    fitting += 1;
    const standing = standings.of(route.providerId);
    if (!route.on || standing === 'paused' || isSpent(route, amountMinor, standings)) continue;
    const rank = ranks[standing] * rankSpan + route.priority;
    if (rank > bestRank) continue;
    if (rank < bestRank) best = [];
    bestRank = rank;
    bestStanding = standing;
    best.push(route);
  }
  if (best.length === 0) {
    if (fitting > 0) return { kind: 'none', why: 'closed' };
    return {
      kind: 'none',
      why: below >= above && below > 0 ? 'amount_below' : above > 0 ? 'amount_above' : 'closed',
    };
  }
  const route = best.length === 1 ? best[0]! : byShare(best, dice);
  return { kind: 'route', route, standing: bestStanding };
}

/** Priorities are below it. */
export const priorityMax = 999;
const rankSpan = priorityMax + 1;
const ranks = { well: 0, behind: 1, away: 2 } as const;

function isSpent(route: Route, amountMinor: bigint | null, standings: Standings): boolean {
  if (route.dayMaxMinor === null) return false;
  return standings.spentTodayMinor(route) + (amountMinor ?? 1n) > route.dayMaxMinor;
}

function byShare(routes: readonly Route[], dice: number): Route {
  let at = dice * routes.reduce((sum, { share }) => sum + share, 0);
  for (const route of routes) {
    at -= route.share;
    if (at < 0) return route;
  }
  return routes.at(-1)!;
}

/** The extras under the provider's names. */
export function namedFor(
  fields: Readonly<Record<string, string>> | undefined,
  extras: Readonly<Record<string, string>>,
): Readonly<Record<string, string>> {
  if (!fields) return extras;
  return Object.fromEntries(Object.entries(extras).map(([name, value]) => [fields[name] ?? name, value]));
}
