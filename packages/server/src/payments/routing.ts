/** The choice of a route as the centre stands now: how its sender sees the providers, what went by each today. */
import type { Reference, Service } from '../core/catalogue.js';
import { type Choice, chooseRoute, type Route, type Standing } from '../core/routes.js';
import type { Sender } from '../providers/contract.js';
import type { WaitingRow } from './order.js';
import { readDetails } from './stored.js';
import type { Db } from './waiting.js';

export interface RoutingParts {
  readonly sender: Pick<Sender, 'standing' | 'whenAway'>;
  readonly reference: () => Reference;
  /** The centre's zone: a day of a route is its day. */
  readonly zone: string;
  /** From 0 to below 1. */
  readonly dice?: () => number;
}

/** Of one route on one day. */
interface Spent {
  readonly serviceId: string;
  readonly providerId: string;
  /** As all processes had written it when it was read last. */
  writtenMinor: bigint;
  /** What this process has not written yet. */
  unwrittenMinor: bigint;
}

export class Routing {
  private readonly spent = new Map<string, Spent>();
  private day = '';

  constructor(private readonly parts: RoutingParts) {}

  /**
   * `amountMinor`: in the service's currency; null while it is not known. `bound`: the provider whose offer is to be
   * paid; another one is chosen only where nothing can be sent there. Where all are away and refuse meanwhile, none.
   */
  choose(service: Service, amountMinor: bigint | null, bound?: string): Choice {
    const { sender } = this.parts;
    const there = bound === undefined ? null : this.among(service, amountMinor, (id) => id === bound);
    const choice =
      there?.kind === 'route' && there.standing !== 'away'
        ? there
        : this.among(service, amountMinor, () => true);
    if (choice.kind === 'none' || choice.standing !== 'away') return choice;
    return sender.whenAway(choice.route.providerId) === 'refuse' ? { kind: 'none', why: 'closed' } : choice;
  }

  /** Where a payment that nobody has executed is sent instead; null: nowhere that is well. */
  insteadOf(service: Service, amountMinor: bigint, providerId: string): Route | null {
    const choice = this.among(service, amountMinor, (id) => id !== providerId);
    return choice.kind === 'route' && choice.standing === 'well' ? choice.route : null;
  }

  standing(providerId: string): Standing {
    if (this.parts.reference().providers.get(providerId)?.paused) return 'paused';
    return this.parts.sender.standing(providerId);
  }

  private among(service: Service, amountMinor: bigint | null, may: (providerId: string) => boolean): Choice {
    const { dice = Math.random } = this.parts;
    return chooseRoute(
      service.routes.filter(({ providerId }) => may(providerId)),
      amountMinor,
      {
        of: (providerId) => this.standing(providerId),
        spentTodayMinor: (route) => {
          const spent = this.spent.get(keyOf(service.serviceId, route.providerId));
          return spent ? spent.writtenMinor + spent.unwrittenMinor : 0n;
        },
      },
      dice(),
    );
  }

  /** Counts a payment that goes by the route; a negative amount counts one that came to nothing. */
  took(service: Service, providerId: string, amountMinor: bigint): void {
    const route = service.routes.find((each) => each.providerId === providerId);
    if (route && route.dayMaxMinor !== null)
      this.spentOf(service.serviceId, providerId).unwrittenMinor += amountMinor;
  }

  /** The same of a payment of the queue, `sign` times. */
  tookRow(row: WaitingRow, sign: bigint): void {
    const service = this.parts.reference().services.get(row.service_id);
    const { orderAmountMinor = row.amount_to_minor } = readDetails(row.details);
    if (service) this.took(service, row.provider_id, sign * orderAmountMinor);
  }

  /**
   * Writes what was counted and reads what all processes have written: so a day's bound may be passed by what they take
   * between two writings. Answers 0: there is no hurry.
   */
  async share(db: Db): Promise<number> {
    const limited = [...this.parts.reference().services.values()].flatMap((service) =>
      service.routes.flatMap((route): Route[] => {
        if (route.dayMaxMinor === null) return [];
        this.spentOf(service.serviceId, route.providerId);
        return [route];
      }),
    );
    if (limited.length === 0 && this.spent.size === 0) return 0;
    const sent = [...this.spent.values()].map((each) => ({ each, minor: each.unwrittenMinor }));
    const { rows } = await db.query<{ day: string; service_id: string; provider_id: string; amount: bigint }>(
      `with today as (select (now() at time zone $1)::date as day), added as (
         insert into route_days (day, service_id, provider_id, amount_minor)
         select t.day, i.* from today t, unnest($2::text[], $3::text[], $4::bigint[]) as i (service, provider, minor)
         order by i.service, i.provider
         on conflict (day, service_id, provider_id) do update
           set amount_minor = route_days.amount_minor + excluded.amount_minor
         returning service_id, provider_id, amount_minor, day
       )
       select day::text, service_id, provider_id, amount_minor as amount from added`,
      [
        this.parts.zone,
        sent.map(({ each }) => each.serviceId),
        sent.map(({ each }) => each.providerId),
        sent.map(({ minor }) => minor),
      ],
    );
    // What was counted while it was written stays unwritten.
    for (const { each, minor } of sent) each.unwrittenMinor -= minor;
    for (const row of rows) {
      const spent = this.spentOf(row.service_id, row.provider_id);
      spent.writtenMinor = row.amount;
    }
    const day = rows[0]?.day ?? this.day;
    if (day !== this.day) await this.forgetBefore(db, day);
    return 0;
  }

  private async forgetBefore(db: Db, day: string): Promise<void> {
    this.day = day;
    await db.query("delete from route_days where day < $1::date - interval '40 days'", [day]);
  }

  private spentOf(serviceId: string, providerId: string): Spent {
    const key = keyOf(serviceId, providerId);
    let spent = this.spent.get(key);
    if (!spent) {
      spent = { serviceId, providerId, writtenMinor: 0n, unwrittenMinor: 0n };
      this.spent.set(key, spent);
    }
    return spent;
  }
}

const keyOf = (serviceId: string, providerId: string) => `${serviceId}\n${providerId}`;
