/** The reference data in memory: loaded whole in one snapshot, replaced whole when anything in it changes. */
import { BlockList, isIPv6 } from 'node:net';
import pg from 'pg';
import { RE2JS } from 're2js';
import { readAgents } from '../agents/agents.js';
import { TokenUses } from '../agents/tokens.js';
import type { Database, Queryable } from '../audit.js';
import { elapsedMs } from '../clock.js';
import type { Agent, Field, Pattern, Reference, Service } from '../core/catalogue.js';
import type { Route } from '../core/routes.js';
import { newClient } from '../db/connect.js';
import { readProviders } from './providers.js';
import { type RateSchedule, ratesAt, readSchedule } from './rates.js';
import { ownRoute, readRoutes } from './routes.js';
import { readRules } from './rules.js';
import { type FieldRecord, readExceptions, readServices, type ServiceRecord } from './services.js';
import { readTariffs } from './tariffs.js';

/** Who may call: tokens and addresses. */
export interface Callers {
  /** A confirmed token by its SHA-256 in lower-case hex. */
  byTokenHash(hashHex: string): { readonly agentId: bigint; readonly tokenId: bigint } | undefined;
  /** Addresses and networks; empty: any address. */
  addressesOf(agentId: bigint): readonly string[];
  /** Agents set to be known by address alone whose addresses contain this one. */
  agentsKnownByAddress(address: string): readonly bigint[];
}

export interface Loaded {
  readonly reference: Reference;
  readonly directory: Callers;
  /** The rates of the reference and what becomes of them, counted from `readAtMs` of `elapsedMs()`. */
  readonly schedule: RateSchedule;
  readonly readAtMs: number;
}

/** Reads all reference data as they are at one moment. */
export async function loadReference(db: Database): Promise<Loaded> {
  if (db instanceof pg.Pool) {
    const client = await db.connect();
    try {
      return await loadReference(client);
    } finally {
      client.release(client.getTransactionStatus() !== 'I');
    }
  }
  // Before the database's own now, so that a rate is rather too old too soon than too late.
  const readAtMs = elapsedMs();
  await db.query('begin isolation level repeatable read, read only');
  try {
    const agents = await readAgents(db);
    const patterns = new Map<string, Pattern>();
    const made = new Map<string, Made>();
    const routes = new Map<string, Route[]>();
    for (const { serviceId, ...route } of await readRoutes(db)) append(routes, serviceId, route);
    const services = (await readServices(db)).map((each) =>
      serviceOf(each, routes.get(each.serviceId) ?? [ownRoute(each)], patterns, made),
    );
    const schedule = await readSchedule(db);
    const reference: Reference = {
      version: await readVersion(db),
      agents,
      services: new Map(services.map((each) => [each.serviceId, each])),
      tariffs: await readTariffs(db),
      rules: await readRules(db),
      rates: ratesAt(schedule, 0).rates,
      providers: new Map((await readProviders(db)).map((each) => [each.providerId, each])),
      exceptions: await readExceptions(db),
    };
    const directory = await readCallers(db, agents);
    lastPatterns = patterns;
    lastMade = made;
    return { reference, directory, schedule, readAtMs };
  } finally {
    await db.query('rollback').catch(() => {});
  }
}

async function readVersion(db: Queryable): Promise<bigint> {
  const { rows } = await db.query<{ version: bigint }>('select version from reference_version');
  return rows[0]!.version;
}

/** Patterns of the last load, so that a reload compiles only what is new. */
let lastPatterns: ReadonlyMap<string, Pattern> = new Map();

interface Made {
  readonly record: string;
  readonly service: Service;
}

/** Services of the last load: one that has not changed stays the same object, and what is kept with it stays too. */
let lastMade: ReadonlyMap<string, Made> = new Map();

/** A pattern that must match the whole value, anchored or not; compiled when it is first used. */
export function patternOf(source: string): Pattern {
  let compiled: RE2JS | null = null;
  return {
    source,
    matches: (value) => {
      compiled ??= RE2JS.compile(source);
      return compiled.testExact(value);
    },
  };
}

function serviceOf(
  { position: _, providerId: __, providerServiceCode: ___, ...facts }: ServiceRecord,
  routes: readonly Route[],
  patterns: Map<string, Pattern>,
  made: Map<string, Made>,
): Service {
  const service = { ...facts, routes };
  const record = JSON.stringify(service, (_key, value) =>
    typeof value === 'bigint' ? String(value) : value,
  );
  const before = lastMade.get(service.serviceId);
  const same = before?.record === record ? before.service : null;
  for (const field of same ? [...same.inputs, ...same.displays] : []) {
    if (field.pattern) patterns.set(field.pattern.source, field.pattern);
  }
  const whole = same ?? newService(service, patterns);
  made.set(service.serviceId, { record, service: whole });
  return whole;
}

function newService(
  service: Omit<ServiceRecord, 'position' | 'providerId' | 'providerServiceCode'> & Pick<Service, 'routes'>,
  patterns: Map<string, Pattern>,
): Service {
  const fieldOf = ({ name, required, title, regexp }: FieldRecord): Field => ({
    name,
    key: name.replace(/^ev_/, ''),
    required,
    title,
    pattern: regexp === undefined ? null : pattern(regexp),
  });
  const pattern = (source: string): Pattern => {
    const known = patterns.get(source) ?? lastPatterns.get(source) ?? patternOf(source);
    patterns.set(source, known);
    return known;
  };
  return { ...service, inputs: service.inputs.map(fieldOf), displays: service.displays.map(fieldOf) };
}

const none: readonly never[] = [];

async function readCallers(db: Queryable, agents: ReadonlyMap<bigint, Agent>): Promise<Callers> {
  const { rows: tokens } = await db.query<{ hash: string; agentId: bigint; tokenId: bigint }>(
    `select encode(token_hash, 'hex') as hash, agent_id as "agentId", token_id as "tokenId"
     from tokens where state = 'confirmed'`,
  );
  const { rows: addresses } = await db.query<{ agentId: bigint; address: string }>(
    'select agent_id as "agentId", address::text from addresses order by agent_id, address',
  );
  const byHash = new Map(
    tokens.flatMap(({ hash, ...token }) => (agents.has(token.agentId) ? [[hash, token] as const] : [])),
  );
  const byAgent = new Map<bigint, string[]>();
  for (const { agentId, address } of addresses) append(byAgent, agentId, address);

  // Single IPv4 addresses are looked up; only the rest is searched, so that a stranger's request stays cheap.
  const singles = new Map<string, bigint[]>();
  const networks: { readonly agentId: bigint; readonly list: BlockList }[] = [];
  for (const { agentId, address } of addresses) {
    if (!agents.get(agentId)?.knownByAddress) continue;
    const [base, bits] = address.split('/') as [string, string];
    if (!isIPv6(base) && bits === '32') append(singles, base, agentId);
    else {
      const list = new BlockList();
      list.addSubnet(base, Number(bits), isIPv6(base) ? 'ipv6' : 'ipv4');
      networks.push({ agentId, list });
    }
  }
  return {
    byTokenHash: (hashHex) => byHash.get(hashHex),
    addressesOf: (agentId) => byAgent.get(agentId) ?? none,
    agentsKnownByAddress: (address) => {
      const family = isIPv6(address) ? 'ipv6' : 'ipv4';
      const found = networks.filter(({ list }) => list.check(address, family)).map((each) => each.agentId);
      return [...new Set([...(singles.get(address) ?? none), ...found])];
    },
  };
}

function append<K, V>(lists: Map<K, V[]>, key: K, value: V): void {
  const list = lists.get(key);
  if (list) list.push(value);
  else lists.set(key, [value]);
}

const pollMs = 2000;
/** A burst of changes makes one reload, and a lost connection is tried again after this. */
const burstMs = 50;
const reconnectMs = 500;

/**
 * Keeps the reference data current: told by the database at once, and looking by itself every two seconds in case it
 * was not. While the database is away the last data stay; `onError` hears of it once, and again after it was back.
 * Throws when the first load fails.
 */
export async function watchReference(
  connection: pg.ClientConfig,
  pool: pg.Pool,
  onError: (error: Error) => void,
): Promise<ReferenceWatch> {
  const watch = new ReferenceWatch(connection, new TokenUses(pool, onError), onError);
  await watch.start();
  return watch;
}

export class ReferenceWatch {
  private loaded: Loaded | null = null;
  /** When a rate begins or becomes too old next, on the clock of `elapsedMs()`. */
  private ratesUntilMs = Number.POSITIVE_INFINITY;
  private turned = false;
  private client: pg.Client | null = null;
  private closed = false;
  private troubled = false;
  /** Something may have changed since the last look. */
  private due = false;
  private burst: NodeJS.Timeout | null = null;
  private endRest: () => void = () => {};
  private waiters: { readonly resolve: () => void; readonly reject: (error: Error) => void }[] = [];
  private running: Promise<void> = Promise.resolve();

  /** Answers by the newest data; the same object for as long as the watch lives. */
  readonly directory: Callers & { touched(tokenId: bigint, address: string): void } = {
    byTokenHash: (hashHex) => this.current().directory.byTokenHash(hashHex),
    addressesOf: (agentId) => this.current().directory.addressesOf(agentId),
    agentsKnownByAddress: (address) => this.current().directory.agentsKnownByAddress(address),
    touched: (tokenId, address) => this.uses.touched(tokenId, address),
  };

  constructor(
    private readonly connection: pg.ClientConfig,
    private readonly uses: TokenUses,
    private readonly onError: (error: Error) => void,
  ) {}

  async start(): Promise<void> {
    try {
      await this.look();
    } catch (error) {
      await this.close();
      throw error;
    }
    this.running = this.run();
  }

  current(): Loaded {
    if (elapsedMs() >= this.ratesUntilMs) {
      this.turnRates();
      // Asked anew too: this process's clock may have been set.
      this.turned = true;
      this.wake();
    }
    return this.loaded!;
  }

  /** Resolves when what was committed before this call is in `current()`; rejects when the database cannot be asked. */
  refresh(): Promise<void> {
    if (this.closed) return Promise.reject(new Error('the watch of the reference data is closed'));
    return new Promise((resolve, reject) => {
      this.waiters.push({ resolve, reject });
      this.wake();
    });
  }

  async close(): Promise<void> {
    this.closed = true;
    this.wake();
    await this.running;
    if (this.burst) clearTimeout(this.burst);
    await this.client?.end().catch(() => {});
    await this.uses.close();
  }

  private async run(): Promise<void> {
    while (!this.closed) {
      await this.rest(this.client ? pollMs : reconnectMs);
      const waiters = this.waiters;
      this.waiters = [];
      try {
        await this.look();
        this.troubled = false;
        for (const each of waiters) each.resolve();
      } catch (error) {
        this.drop(this.client);
        if (!this.troubled) this.onError(error as Error);
        this.troubled = true;
        for (const each of waiters) each.reject(error as Error);
      }
    }
    for (const each of this.waiters) each.reject(new Error('the watch of the reference data is closed'));
  }

  private async rest(ms: number): Promise<void> {
    if (!this.due) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, ms);
        this.endRest = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    this.due = false;
  }

  private wake(): void {
    this.due = true;
    this.endRest();
  }

  private async look(): Promise<void> {
    const client = this.client ?? (await this.connect());
    const turned = this.turned;
    if ((await readVersion(client)) === this.loaded?.reference.version && !turned) return;
    this.turned = false;
    this.loaded = await loadReference(client);
    this.turnRates();
  }

  /** Rates begin and become too old by themselves, also while the database is away. */
  private turnRates(): void {
    const { reference, schedule, readAtMs, ...rest } = this.loaded!;
    const { rates, untilMs } = ratesAt(schedule, elapsedMs() - readAtMs);
    this.loaded = { ...rest, schedule, readAtMs, reference: { ...reference, rates } };
    this.ratesUntilMs = readAtMs + untilMs;
  }

  private async connect(): Promise<pg.Client> {
    const client = newClient({
      ...this.connection,
      query_timeout: 10_000,
      application_name: 'tolem reference',
    });
    client.on('error', () => {
      this.drop(client);
      this.wake();
    });
    client.on('notification', () => {
      this.burst ??= setTimeout(() => {
        this.burst = null;
        this.wake();
      }, burstMs);
    });
    try {
      await client.connect();
      await client.query('listen tolem_reference');
    } catch (error) {
      this.drop(client);
      throw error;
    }
    this.client = client;
    return client;
  }

  private drop(client: pg.Client | null): void {
    if (this.client === client) this.client = null;
    client?.end().catch(() => {});
  }
}
