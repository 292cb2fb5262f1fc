/** Connections to PostgreSQL: where it is, as whom, and with which bounds. */
import pg from 'pg';
import { parse } from 'pg-connection-string';
import { SetupError } from '../config.js';

/** A URL, or the embedded server's socket directory. */
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

/** Options for a `pg` client or pool. int8 arrives as bigint; date and timestamp without zone as their text. */
export function connectOptions(address: DatabaseAddress, { name, role, settings }: Purpose): pg.ClientConfig {
  const base = typeof address === 'string' ? (parse(address) as pg.ClientConfig) : { ...address, ssl: false };
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
  };
}

/** An address as a URL that TOLEM_DATABASE_URL accepts. */
export function databaseUrl({ host, port, user, database }: SocketAddress): string {
  return `postgresql://${user}@/${database}?host=${encodeURIComponent(host)}&port=${port}`;
}

/** A connected client, or a SetupError that names the server and what to do. The caller ends it. */
export async function openClient(options: pg.ClientConfig): Promise<pg.Client> {
  const client = new pg.Client(options);
  // Without a listener a connection lost between two queries would end the process; the next query reports it.
  client.on('error', () => {});
  try {
    await client.connect();
  } catch (error) {
    const where = `${client.user}@${client.host}:${client.port}/${client.database}`;
    throw new SetupError(
      `cannot connect to the database ${where} (${(error as Error).message}): start it or correct TOLEM_DATABASE_URL`,
    );
  }
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

/** A bounded pool for ordinary queries, after a first connection has succeeded. Lost connections are replaced. */
export async function openPool(options: pg.ClientConfig, { max }: { max: number }): Promise<pg.Pool> {
  await (await openClient(options)).end();
  const pool = new pg.Pool({ ...options, max, idleTimeoutMillis: 60_000 });
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
