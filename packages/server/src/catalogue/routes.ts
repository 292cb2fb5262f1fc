/** Routes: by which providers a service is executed, with which bounds and at what cost. */
import { changing, type Database, type Queryable, Refusal } from '../audit.js';
import { formatMinor } from '../core/money.js';
import { priorityMax, type Route } from '../core/routes.js';
import { getService } from './services.js';

export interface RouteRecord extends Route {
  readonly serviceId: string;
}

const routesMax = 20;

const columns = `service_id as "serviceId", provider_id as "providerId", provider_service_code as "providerServiceCode",
  fields, priority, share, amount_min_minor as "amountMinMinor", amount_max_minor as "amountMaxMinor",
  day_max_minor as "dayMaxMinor", cost_ppm as "costPpm", cost_fixed_minor as "costFixedMinor", is_on as "on"`;

/** Those that are written down, in the order in which they are tried. */
export async function readRoutes(db: Queryable, serviceId: string | null = null): Promise<RouteRecord[]> {
  const { rows } = await db.query<RouteRecord>(
    `select ${columns} from routes where $1::text is null or service_id = $1
     order by service_id, priority, provider_id`,
    [serviceId],
  );
  return rows;
}

/** The route of a service that has none written down: its own provider, without bounds. */
export function ownRoute(service: {
  readonly providerId: string;
  readonly providerServiceCode: string;
}): Route {
  return {
    providerId: service.providerId,
    providerServiceCode: service.providerServiceCode,
    fields: {},
    ...{ priority: 0, share: 1, amountMinMinor: 0n, amountMaxMinor: 0n, dayMaxMinor: null },
    ...{ costPpm: 0, costFixedMinor: 0n, on: true },
  };
}

/** What is not given stays as it is; a new route has no bounds and costs nothing. */
export type RouteChange = Partial<Omit<Route, 'providerId'>>;

/**
 * Writes a route down, or changes it. With the first one the service's own provider is written down too, so that it
 * stays a route. Refuses unknown services and providers and bounds that let nothing through.
 */
export async function setRoute(
  db: Database,
  serviceId: string,
  providerId: string,
  change: RouteChange,
  operator: string,
): Promise<RouteRecord[]> {
  return changing(db, operator, async (tx, audit) => {
    const service = await getService(tx, serviceId);
    await tx.query('select 1 from services where service_id = $1 for update', [serviceId]);
    const known = await tx.query('select 1 from providers where provider_id = $1', [providerId]);
    if (known.rowCount === 0)
      throw new Refusal(`The route was not set: there is no provider "${providerId}"; add it first.`);
    const present = await readRoutes(tx, serviceId);
    const before = present.find((each) => each.providerId === providerId) ?? null;
    if (!before && present.length >= routesMax)
      throw new Refusal(`Service ${serviceId} has ${routesMax} routes already; remove one first.`);
    const own = ownRoute(service);
    const base =
      before ?? (own.providerId === providerId ? own : { ...own, providerId, providerServiceCode: '' });
    const after: RouteRecord = { ...base, ...given(change), serviceId, providerId };
    refuseWrong(after);
    if (present.length === 0 && own.providerId !== providerId) await write(tx, { ...own, serviceId });
    await write(tx, after);
    await audit('route.set', `service:${serviceId}`, { from: before && inWords(before), to: inWords(after) });
    return readRoutes(tx, serviceId);
  });
}

/** Refuses the last route: a service always has one. */
export async function removeRoute(
  db: Database,
  serviceId: string,
  providerId: string,
  operator: string,
): Promise<RouteRecord[]> {
  return changing(db, operator, async (tx, audit) => {
    await getService(tx, serviceId);
    await tx.query('select 1 from services where service_id = $1 for update', [serviceId]);
    const present = await readRoutes(tx, serviceId);
    const before = present.find((each) => each.providerId === providerId);
    if (!before) {
      throw new Refusal(
        `Service ${serviceId} has no route by "${providerId}" written down; look at: tolem route list ${serviceId}.`,
      );
    }
    if (present.length === 1)
      throw new Refusal(
        `It is the last route of service ${serviceId}; set another one first, or switch the service off.`,
      );
    await tx.query('delete from routes where service_id = $1 and provider_id = $2', [serviceId, providerId]);
    await audit('route.remove', `service:${serviceId}`, { from: inWords(before) });
    return readRoutes(tx, serviceId);
  });
}

function given(change: RouteChange): RouteChange {
  return Object.fromEntries(Object.entries(change).filter(([, value]) => value !== undefined));
}

function refuseWrong(route: RouteRecord): void {
  const { providerServiceCode, priority, share, amountMinMinor, amountMaxMinor, dayMaxMinor, costPpm } =
    route;
  const problem =
    providerServiceCode.trim() === '' || providerServiceCode.length > 64
      ? 'it needs the code that the provider has for the service, 1 to 64 characters: --code'
      : priority < 0 || priority > priorityMax
        ? `its priority is from 0 to ${priorityMax}, the lowest goes first`
        : share < 1 || share > 1_000_000
          ? 'its share is from 1 to 1000000'
          : amountMaxMinor > 0n && amountMinMinor > amountMaxMinor
            ? 'its smallest amount is above its largest one'
            : dayMaxMinor !== null && dayMaxMinor <= 0n
              ? 'its bound of a day is above zero; to close it switch it off'
              : costPpm < 0 || costPpm > 1_000_000 || route.costFixedMinor < 0n
                ? 'its cost is from 0 to 100 %, and not below zero'
                : null;
  if (problem)
    throw new Refusal(`The route of ${route.serviceId} by ${route.providerId} was not set: ${problem}.`);
}

async function write(tx: Queryable, route: RouteRecord): Promise<void> {
  await tx.query(
    `insert into routes (service_id, provider_id, provider_service_code, fields, priority, share, amount_min_minor,
       amount_max_minor, day_max_minor, cost_ppm, cost_fixed_minor, is_on)
     values ($1, $2, $3, $4::jsonb, $5, $6, $7, $8, $9, $10, $11, $12)
     on conflict (service_id, provider_id) do update set provider_service_code = excluded.provider_service_code,
       fields = excluded.fields, priority = excluded.priority, share = excluded.share,
       amount_min_minor = excluded.amount_min_minor, amount_max_minor = excluded.amount_max_minor,
       day_max_minor = excluded.day_max_minor, cost_ppm = excluded.cost_ppm,
       cost_fixed_minor = excluded.cost_fixed_minor, is_on = excluded.is_on`,
    [
      ...[route.serviceId, route.providerId, route.providerServiceCode, JSON.stringify(route.fields)],
      ...[route.priority, route.share, route.amountMinMinor, route.amountMaxMinor, route.dayMaxMinor],
      ...[route.costPpm, route.costFixedMinor, route.on],
    ],
  );
}

function inWords({ amountMinMinor, amountMaxMinor, dayMaxMinor, costFixedMinor, ...route }: RouteRecord) {
  return {
    ...route,
    amountMin: formatMinor(amountMinMinor),
    amountMax: formatMinor(amountMaxMinor),
    dayMax: dayMaxMinor === null ? null : formatMinor(dayMaxMinor),
    costFixed: formatMinor(costFixedMinor),
  };
}
