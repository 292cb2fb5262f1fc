/** Connections to PostgreSQL: where it is, as whom, and with which bounds. */
import pg from 'pg';
import { readPostgresUrl, SetupError } from '../config.js';

/** A URL, which may name several hosts, or the embedded server's socket directory. */
export type DatabaseAddress = string | SocketAddress;

export interface SocketAddress {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly database: string;
}

export interface Purpose {
  /** Ends the application_name `tolem …`; the embedded server stays up while such sessions are open. */
  readonly name: string;
  /** `app` may do what the migrations granted to tolem_app; `owner` owns the schema and knows no time-outs. */
  readonly role: 'app' | 'owner';
  /** Further PostgreSQL settings of the session, such as `plan_cache_mode`. */
  readonly settings?: Readonly<Record<string, string>>;
}

const oldestMajor = 15;

const appSettings = {
  role: 'tolem_app',
  statement_timeout: '30s',
  lock_timeout: '10s',
  idle_in_transaction_session_timeout: '15s',
};

/** For `newClient`, and for a pool, which makes its clients by `Client`. */
export interface SessionOptions extends pg.ClientConfig {
  readonly Client?: typeof Session;
  /** Shared by all sessions that are to be with the same server. */
  readonly hosts?: Hosts;
}

/** Options for a session or a pool. int8 arrives as bigint; date and timestamp without zone as their text. */
export function connectOptions(address: DatabaseAddress, { name, role, settings }: Purpose): SessionOptions {
  const places = (
    typeof address === 'string' ? readPostgresUrl(address) : [{ ...address, ssl: false }]
  ) as (pg.ClientConfig & { target_session_attrs?: string })[];
  const base = places[0]!;
  const session = {
    search_path: 'tolem',
    TimeZone: 'UTC',
    ...(role === 'app' ? appSettings : {}),
    ...settings,
  };
  const flags = Object.entries(session).map(([key, value]) => `-c ${key}=${value.replace(/[\\ ]/g, '\\$&')}`);
  return {
    ...base,
    application_name: `tolem ${name}`,
    options: [base.options, ...flags].filter(Boolean).join(' '),
    connectionTimeoutMillis: 5000,
    // Behind the server's own time-out, for a server that cannot answer any more.
    ...(role === 'app' ? { query_timeout: 40_000 } : {}),
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
    types: exactTypes,
    Client: Session,
    ...(places.length > 1 || base.target_session_attrs ? { hosts: new Hosts(places) } : {}),
  };
}

type Place = Pick<pg.ClientConfig, 'host' | 'port'>;

/** Servers of which one takes writes: the one last seen to, or, when that failed, the next to try. */
export class Hosts {
  private at = 0;
  private readonly sessions = new Set<Session>();
  readonly places: readonly Place[];

  constructor(places: readonly Place[]) {
    this.places = places.map(({ host, port }) => ({ host, port }));
  }

  get place(): Place {
    return this.places[this.at]!;
  }

  failed(place: Place): void {
    if (place === this.place) this.at = (this.at + 1) % this.places.length;
  }

  /** Ends the sessions elsewhere: those servers take no writes any more, or are gone without a word. */
  took(session: Session): void {
    this.at = this.places.indexOf(session.place!);
    this.sessions.add(session);
    session.once('end', () => this.sessions.delete(session));
    for (const each of this.sessions) if (each.place !== session.place) each.connection.stream.destroy();
  }
}

/**
 * A client that goes where writes are taken, when there are several hosts: each one tries one of them, and after a
 * failure the next goes to another. It also does not take for done what a synchronous standby may not have.
 */
export class Session extends pg.Client {
  private readonly hosts: Hosts | null;
  readonly place: Place | null;

  constructor(options: SessionOptions = {}) {
    const place = options.hosts?.place ?? null;
    super({ ...options, ...place });
    this.hosts = options.hosts ?? null;
    this.place = place;
    // Without a listener a connection lost between two queries would end the process; the next query reports it.
    this.on('error', () => {});
    // PostgreSQL ends a cancelled wait for the standby with a warning and success. Whether the commit lasts is unknown
    // then, as after a lost connection, and this is one for whoever asked.
    this.on('notice', ({ routine }) => {
      if (routine === 'SyncRepWaitForLSN') this.connection.emit('error', new Error(unreplicated));
    });
  }

  override connect(): Promise<pg.Client>;
  override connect(callback: (error: Error | null) => void): void;
  override connect(callback?: (error: Error | null) => void): Promise<pg.Client> | undefined {
    const connected = this.hosts ? this.connectToWrite(this.hosts, this.place!) : super.connect();
    if (!callback) return connected;
    connected.then(() => callback(null), callback);
    return undefined;
  }

  private async connectToWrite(hosts: Hosts, place: Place): Promise<pg.Client> {
    try {
      await super.connect();
      const { rows } = await this.query<{ transaction_read_only: string }>('show transaction_read_only');
      if (rows[0]!.transaction_read_only === 'on')
        throw new Error(`${place.host}:${this.port} takes no writes`);
    } catch (error) {
      hosts.failed(place);
      this.end().catch(() => {});
      throw error;
    }
    hosts.took(this);
    return this;
  }
}

const unreplicated =
  'the wait for the synchronous standby was cancelled: the commit may be lost with this server';

/** A client that is not connected yet. */
export function newClient(options: SessionOptions): pg.Client {
  return new Session(options);
}

/** An address as a URL that TOLEM_DATABASE_URL accepts. */
export function databaseUrl({ host, port, user, database }: SocketAddress): string {
  return `postgresql://${user}@/${database}?host=${encodeURIComponent(host)}&port=${port}`;
}

/** A connected client, or a SetupError that names the server and what to do. The caller ends it. */
export async function openClient(options: SessionOptions): Promise<pg.Client> {
  const client = await firstThatConnects(options);
  const { rows } = await client.query<{ version: string }>(
    "select current_setting('server_version_num') as version",
  );
  const major = Math.floor(Number(rows[0]!.version) / 10_000);
  if (major >= oldestMajor) return client;
  await client.end();
  throw new SetupError(
    `the database is PostgreSQL ${major}: ${oldestMajor} or newer is needed; upgrade it or set TOLEM_DATABASE_URL to another`,
  );
}

/** Tries every host once. */
async function firstThatConnects(options: SessionOptions): Promise<pg.Client> {
  const { places } = options.hosts ?? { places: [null] };
  const reasons: string[] = [];
  for (;;) {
    const client = newClient(options);
    try {
      return await client.connect();
    } catch (error) {
      reasons.push((error as Error).message);
      if (reasons.length < places.length) continue;
      const hosts = places.map((place) => `${place?.host ?? client.host}:${place?.port || client.port}`);
      const where = `${client.user}@${hosts.join(',')}/${client.database}`;
      throw new SetupError(
        `cannot connect to the database ${where} (${reasons.join('; ')}): start it or correct TOLEM_DATABASE_URL`,
      );
    }
  }
}

/** A bounded pool for ordinary queries, after a first connection has succeeded. Lost connections are replaced. */
export async function openPool(options: SessionOptions, { max }: { max: number }): Promise<pg.Pool> {
  await (await openClient(options)).end();
  // With several hosts a session is not kept long at a server that takes no writes any more.
  const lifetime = options.hosts ? { maxLifetimeSeconds: 60 } : {};
  const pool = new pg.Pool({ ...options, max, idleTimeoutMillis: 60_000, ...lifetime });
  pool.on('error', () => {});
  return pool;
}

const oid = { int8: 20, int8Array: 1016, date: 1082, timestamp: 1114, timestamptz: 1184 };

const exactTypes = new pg.TypeOverrides(pg.types);
const parseInt8Array = pg.types.getTypeParser(oid.int8Array) as unknown as (
  text: string,
) => (string | null)[];
const parseMoment = pg.types.getTypeParser(oid.timestamptz) as (text: string) => Date;
exactTypes.setTypeParser(oid.int8, BigInt);
exactTypes.setTypeParser(oid.timestamptz, readMoment);
exactTypes.setTypeParser(oid.int8Array, (text) =>
  parseInt8Array(text).map((each) => (each === null ? null : BigInt(each))),
);
exactTypes.setTypeParser(oid.date, (text) => text);
exactTypes.setTypeParser(oid.timestamp, (text) => text);

let last: { text: string; moment: Date } = { text: '', moment: new Date(0) };
let beforeLast = last;

/**
 * `2026-02-17 11:48:37.123456+00`, as sessions in UTC print moments, to the millisecond. The driver's own reader serves
 * every style there is and takes several times as long. The rows of a batch tell the same one or two moments.
 */
function readMoment(text: string): Date {
  if (text === last.text) return last.moment;
  if (text !== beforeLast.text) {
    beforeLast = last;
    last = { text, moment: newMoment(text) };
    return last.moment;
  }
  return beforeLast.moment;
}

function newMoment(text: string): Date {
  const plain = text.length >= 22 && text.charCodeAt(4) === 45 && text.endsWith('+00');
  if (!plain) return parseMoment(text);
  return new Date(`${text.slice(0, 10)}T${text.slice(11, Math.min(text.length - 3, 23))}Z`);
}
