/** The catalogue: services as they are kept, imported and switched, and who may sell them. */
import { isDeepStrictEqual } from 'node:util';
import { RE2JS } from 're2js';
import { z } from 'zod';
import { lockAgent } from '../agents/agents.js';
import { changing, type Database, inTransaction, type Queryable, Refusal } from '../audit.js';
import type { SchemeType, Service } from '../core/catalogue.js';
import { parseAmount } from '../core/money.js';

/** An input or a display as the catalogue prints it; `regexp` is in RE2 syntax. */
export interface FieldRecord {
  readonly name: string;
  readonly required: boolean;
  readonly title: string;
  readonly regexp?: string | undefined;
}

export interface ServiceRecord {
  readonly serviceId: string;
  readonly position: number;
  readonly type: SchemeType;
  readonly name: string;
  readonly group: string | null;
  readonly fixedPayment: boolean;
  readonly country: string | null;
  readonly inputs: readonly FieldRecord[];
  readonly displays: readonly FieldRecord[];
  readonly providerId: string;
  readonly providerServiceCode: string;
  readonly currency: string;
  readonly amountMinMinor: bigint;
  readonly amountMaxMinor: bigint;
  readonly identityRequired: boolean;
  readonly inquiryRequired: boolean;
  readonly state: Service['state'];
}

const servicesMax = 20_000;
const problemsShownMax = 20;

const amount = z.string().transform((text, context) => {
  const parsed = parseAmount(text);
  if (parsed.ok && parsed.amountMinor > 0n) return parsed.amountMinor;
  context.addIssue('write an amount above zero such as "200.00"');
  return z.NEVER;
});
const regexp = z
  .string()
  .min(1)
  .max(500)
  .superRefine((source, context) => {
    try {
      RE2JS.compile(source);
    } catch (error) {
      const why = (error as Error).message;
      context.addIssue(`the pattern ${source} cannot be used (${why}); write it in RE2 syntax`);
    }
  });
const fields = (name: RegExp, hint: string) =>
  z
    .array(
      z.strictObject({
        name: z.string().regex(name, hint),
        required: z.boolean().default(false),
        title: z.string().max(200).default(''),
        regexp: regexp.optional(),
      }),
    )
    .max(30)
    .superRefine((list, context) => {
      const names = list.map((each) => each.name);
      const twice = names.findIndex((each, index) => names.indexOf(each) < index);
      if (twice >= 0) context.addIssue({ code: 'custom', path: [twice], message: 'the name is there twice' });
    });

/** A service as a file writes it; packages/server/demo/services.json is a sample. */
const serviceShape = z
  .strictObject({
    serviceId: z.string().regex(/^[\w.-]{1,64}$/, 'write 1 to 64 Latin letters, digits, dots, - and _'),
    /** Place in the list. Absent: as it is; a new service comes last. */
    position: z.int().min(0).max(1_000_000_000).optional(),
    type: z.literal([0, 1, 2]),
    name: z.string().min(1).max(200),
    group: z.string().min(1).max(200).nullable().default(null),
    fixedPayment: z.boolean().default(false),
    country: z.string().min(1).max(100).nullable().default(null),
    inputs: fields(/^(account|ev_\w{1,60})$/, 'write account or ev_NAME'),
    displays: fields(/^\w{1,60}$/, 'write Latin letters, digits and _').default([]),
    providerId: z.string(),
    providerServiceCode: z.string().min(1).max(64),
    currency: z.string().regex(/^[A-Z]{3}$/, 'write three letters, KZT for one'),
    amountMin: amount,
    amountMax: amount,
    identityRequired: z.boolean().default(false),
    inquiryRequired: z.boolean().default(true),
    /** Absent: as it is; a new service is on. */
    state: z.literal(['on', 'maintenance', 'off']).optional(),
  })
  .superRefine((service, context) => {
    if (service.amountMin <= service.amountMax) return;
    context.addIssue({ code: 'custom', path: ['amountMin'], message: 'it is above amountMax' });
  })
  .transform(({ amountMin, amountMax, ...service }) => ({
    ...service,
    amountMinMinor: amountMin,
    amountMaxMinor: amountMax,
  }));
const fileShape = z.array(serviceShape).min(1).max(servicesMax);
type ServiceInFile = z.output<typeof serviceShape>;

/** Reads a file of services, a JSON array. Refuses the whole of it and names services, fields and patterns at fault. */
export function parseServices(text: string): ServiceInFile[] {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new Refusal(
      `The file of services is not JSON (${(error as Error).message}); nothing was imported.`,
    );
  }
  const parsed = fileShape.safeParse(json);
  const problems = parsed.success
    ? repeatedIds(parsed.data)
    : parsed.error.issues.map((issue) => `${placeOf(json, issue.path)}: ${issue.message}`);
  if (problems.length > 0) refuseFile(problems);
  return parsed.data!;
}

function refuseFile(problems: readonly string[]): never {
  const shown = problems.slice(0, problemsShownMax).map((problem) => `  ${problem}`);
  const more = problems.length > problemsShownMax ? [`  and ${problems.length - problemsShownMax} more`] : [];
  throw new Refusal(
    [
      'The file of services has mistakes, nothing was imported; correct them and import again:',
      ...shown,
      ...more,
    ].join('\n'),
  );
}

function repeatedIds(services: readonly ServiceInFile[]): string[] {
  const seen = new Set<string>();
  return services.flatMap(({ serviceId }) => {
    if (!seen.has(serviceId)) {
      seen.add(serviceId);
      return [];
    }
    return [`service ${serviceId}: it is in the file twice`];
  });
}

/** `service P1012, inputs, field ev_account1, regexp`: by names where the file gives them, by positions where not. */
function placeOf(json: unknown, path: readonly PropertyKey[]): string {
  if (path.length === 0) return 'the file';
  const words: string[] = [];
  let value = json as Record<PropertyKey, unknown> | undefined;
  for (const [depth, key] of path.entries()) {
    value = value?.[key] as typeof value;
    if (depth === 0)
      words.push(
        `service ${typeof value?.serviceId === 'string' ? value.serviceId : `number ${Number(key) + 1}`}`,
      );
    else if (typeof key === 'number')
      words.push(`field ${typeof value?.name === 'string' ? value.name : key + 1}`);
    else words.push(String(key));
  }
  return words.join(', ');
}

export interface ImportOutcome {
  readonly added: readonly string[];
  /** What differs, by the names of ServiceRecord. */
  readonly changed: readonly {
    readonly serviceId: string;
    readonly fields: Readonly<Record<string, Change>>;
  }[];
  readonly unchangedCount: number;
}

interface Change {
  readonly from: unknown;
  readonly to: unknown;
}

/** Adds and updates the services of a file, all or none; services that it does not name stay as they are. */
export async function importServices(db: Database, text: string, operator: string): Promise<ImportOutcome> {
  const services = parseServices(text);
  return changing(db, operator, async (tx, audit) => {
    const { outcome, toWrite } = await planImport(tx, services);
    if (toWrite.length > 0) {
      await writeServices(tx, toWrite);
      await audit('service.import', 'services', { ...outcome });
    }
    return outcome;
  });
}

/** What importServices would do; changes nothing. */
export async function previewServices(db: Database, text: string): Promise<ImportOutcome> {
  const services = parseServices(text);
  return inTransaction(db, async (tx) => (await planImport(tx, services)).outcome);
}

async function planImport(tx: Queryable, services: readonly ServiceInFile[]) {
  const { rows: providers } = await tx.query<{ id: string }>('select provider_id as id from providers');
  const known = new Set(providers.map((each) => each.id));
  const strangers = services.filter((each) => !known.has(each.providerId));
  if (strangers.length > 0) {
    refuseFile(
      strangers.map(
        (each) => `service ${each.serviceId}, providerId: there is no provider "${each.providerId}"`,
      ),
    );
  }

  const present = new Map((await readServices(tx)).map((each) => [each.serviceId, each]));
  let lastPosition = Math.max(0, ...[...present.values()].map((each) => each.position));
  const toWrite: ServiceRecord[] = [];
  const added: string[] = [];
  const changed: ImportOutcome['changed'][number][] = [];
  for (const service of services) {
    const before = present.get(service.serviceId);
    if (service.position === undefined && !before) lastPosition += 10;
    const after: ServiceRecord = {
      ...service,
      position: service.position ?? before?.position ?? lastPosition,
      state: service.state ?? before?.state ?? 'on',
    };
    if (!before) added.push(service.serviceId);
    else {
      const differing = differences(before, after);
      if (Object.keys(differing).length === 0) continue;
      changed.push({ serviceId: service.serviceId, fields: differing });
    }
    toWrite.push(after);
  }
  const outcome: ImportOutcome = { added, changed, unchangedCount: services.length - toWrite.length };
  return { outcome, toWrite };
}

function differences(before: ServiceRecord, after: ServiceRecord): Record<string, Change> {
  const keys = Object.keys(before) as (keyof ServiceRecord)[];
  return Object.fromEntries(
    keys
      .filter((key) => !isDeepStrictEqual(before[key], after[key]))
      .map((key) => [key, { from: before[key], to: after[key] }]),
  );
}

async function writeServices(tx: Queryable, services: readonly ServiceRecord[]): Promise<void> {
  await tx.query(
    `insert into services (service_id, position, type, name, group_name, fixed_payment, country, inputs, displays,
       provider_id, provider_service_code, currency, amount_min_minor, amount_max_minor, identity_required,
       inquiry_required, state)
     select * from jsonb_to_recordset($1::jsonb) as t("serviceId" text, position integer, type smallint, name text,
       "group" text, "fixedPayment" boolean, country text, inputs jsonb, displays jsonb, "providerId" text,
       "providerServiceCode" text, currency text, "amountMinMinor" bigint, "amountMaxMinor" bigint,
       "identityRequired" boolean, "inquiryRequired" boolean, state text)
     on conflict (service_id) do update set position = excluded.position, type = excluded.type, name = excluded.name,
       group_name = excluded.group_name, fixed_payment = excluded.fixed_payment, country = excluded.country,
       inputs = excluded.inputs, displays = excluded.displays, provider_id = excluded.provider_id,
       provider_service_code = excluded.provider_service_code, currency = excluded.currency,
       amount_min_minor = excluded.amount_min_minor, amount_max_minor = excluded.amount_max_minor,
       identity_required = excluded.identity_required, inquiry_required = excluded.inquiry_required,
       state = excluded.state`,
    [JSON.stringify(services, (_, value) => (typeof value === 'bigint' ? value.toString() : value))],
  );
}

const selected = `select service_id as "serviceId", position, type, name, group_name as "group",
    fixed_payment as "fixedPayment", country, inputs, displays, provider_id as "providerId",
    provider_service_code as "providerServiceCode", currency, amount_min_minor as "amountMinMinor",
    amount_max_minor as "amountMaxMinor", identity_required as "identityRequired",
    inquiry_required as "inquiryRequired", state
  from services`;

/** Every service, in the order of the catalogue. */
export async function readServices(db: Queryable): Promise<ServiceRecord[]> {
  const { rows } = await db.query<ServiceRecord>(`${selected} order by position, service_id`);
  return rows;
}

/** Refuses an unknown id. */
export async function getService(db: Queryable, serviceId: string): Promise<ServiceRecord> {
  const { rows } = await db.query<ServiceRecord>(`${selected} where service_id = $1`, [serviceId]);
  return rows[0] ?? unknownService(serviceId);
}

/** `maintenance` answers 8 to payments, `off` hides the service and answers 155. */
export async function setServiceState(
  db: Database,
  serviceId: string,
  state: Service['state'],
  operator: string,
): Promise<ServiceRecord> {
  return changing(db, operator, async (tx, audit) => {
    const { rows } = await tx.query<{ state: string }>(
      'select state from services where service_id = $1 for update',
      [serviceId],
    );
    const from = (rows[0] ?? unknownService(serviceId)).state;
    if (from !== state) {
      await tx.query('update services set state = $2 where service_id = $1', [serviceId, state]);
      await audit('service.state', `service:${serviceId}`, { from, to: state });
    }
    return getService(tx, serviceId);
  });
}

/** Makes an exception from the agent's service policy, for this one service. */
export async function setServiceAllowed(
  db: Database,
  agentId: bigint,
  serviceId: string,
  allowed: boolean,
  operator: string,
): Promise<void> {
  await changing(db, operator, async (tx, audit) => {
    await lockAgent(tx, agentId);
    await getService(tx, serviceId);
    const { rowCount } = await tx.query(
      `insert into agent_services (agent_id, service_id, allowed) values ($1, $2, $3)
       on conflict (agent_id, service_id) do update set allowed = excluded.allowed
         where agent_services.allowed <> excluded.allowed`,
      [agentId, serviceId, allowed],
    );
    if (rowCount === 1)
      await audit(allowed ? 'service.allow' : 'service.deny', `agent:${agentId}`, { serviceId });
  });
}

/** agentId → serviceId → allowed; of one agent, or of all. */
export async function readExceptions(
  db: Queryable,
  agentId?: bigint,
): Promise<Map<bigint, Map<string, boolean>>> {
  const { rows } = await db.query<{ agentId: bigint; serviceId: string; allowed: boolean }>(
    `select agent_id as "agentId", service_id as "serviceId", allowed from agent_services
     where ($1::bigint is null or agent_id = $1) order by agent_id, service_id`,
    [agentId ?? null],
  );
  const exceptions = new Map<bigint, Map<string, boolean>>();
  for (const row of rows) {
    const ofAgent = exceptions.get(row.agentId) ?? new Map<string, boolean>();
    exceptions.set(row.agentId, ofAgent.set(row.serviceId, row.allowed));
  }
  return exceptions;
}

function unknownService(serviceId: string): never {
  throw new Refusal(`There is no service "${serviceId}"; look at the list of services.`);
}
