/**
 * Settings: the environment's `TOLEM_*` variables, checked once and frozen. The table below is the only list of them;
 * `tolem config` prints it. A variable that is empty counts as absent.
 */
import { randomBytes } from 'node:crypto';
import {
  accessSync,
  chmodSync,
  constants,
  linkSync,
  mkdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { isIP } from 'node:net';
import { join, resolve } from 'node:path';
import { type ConnectionOptions, parse as parseConnectionString } from 'pg-connection-string';
import { z } from 'zod';
import { isTimeZone } from './core/time.js';

/** What keeps the centre from starting. The message is one line for people: what, where, and what to do. */
export class SetupError extends Error {
  override readonly name: string = 'SetupError';
}

export class ConfigError extends SetupError {
  override readonly name = 'ConfigError';
}

interface Setting<T> {
  readonly name: `TOLEM_${string}`;
  readonly about: string;
  /** Completes "expected …" in an error, and is the kind that `tolem config` shows. */
  readonly expects: string;
  readonly schema: z.ZodType<T, string>;
  /** As it would be written in the environment; null: no value. */
  readonly default: string | null;
  readonly secret: boolean;
}

type Kind<T> = Pick<Setting<T>, 'expects' | 'schema'>;

/** A setting that always has a value. */
function setting<T>(name: `TOLEM_${string}`, kind: Kind<T>, byDefault: string, about: string): Setting<T> {
  return { name, ...kind, default: byDefault, about, secret: false };
}

/** A setting that may be absent. */
function optional<T>(
  name: `TOLEM_${string}`,
  kind: Kind<T>,
  about: string,
  secret = false,
): Setting<T | null> {
  return { name, ...kind, default: null, about, secret };
}

function whole(min: number, max: number): Kind<number> {
  const schema = z
    .string()
    .regex(/^\d{1,15}$/)
    .transform(Number)
    .pipe(z.number().min(min).max(max));
  return { expects: `a whole number from ${min} to ${max}`, schema };
}

function oneOf<const T extends readonly [string, ...string[]]>(...values: T): Kind<T[number]> {
  return { expects: `one of ${values.join(', ')}`, schema: z.enum(values) };
}

function text(expects: string, accepts: (value: string) => boolean): Kind<string> {
  return { expects, schema: z.string().refine(accepts) };
}

function list(expects: string, max: number, accepts: (value: string) => boolean): Kind<readonly string[]> {
  const split = (value: string) => value.split(',').map((each) => each.trim());
  const schema = z
    .string()
    .transform(split)
    .pipe(z.array(z.string().refine(accepts)).max(max))
    .transform((values): readonly string[] => Object.freeze(values));
  return { expects: `${expects}, at most ${max}, separated by commas`, schema };
}

function isAddressRange(value: string): boolean {
  const [address = '', bits, ...rest] = value.split('/');
  const version = isIP(address);
  if (version === 0 || rest.length > 0) return false;
  return bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= (version === 4 ? 32 : 128));
}

/**
 * What a PostgreSQL URL says, once for each of its hosts, which are spelled as libpq has it: `host1:5432,host2:5433`
 * before the path, or `host=…,…&port=…,…` after it. Throws when the URL cannot be read.
 */
export function readPostgresUrl(url: string): ConnectionOptions[] {
  const [, before, hosts, after] = /^([^:/]+:\/\/(?:[^@/?]*@)?)([^/?]*)(.*)$/s.exec(url) ?? [];
  if (hosts === undefined) throw new Error('not a URL');
  const places = hosts.split(',').flatMap((host) => {
    const one = parseConnectionString(`${before}${host}${after}`);
    const names = (one.host ?? '').split(',');
    const ports = String(one.port ?? '').split(',');
    if (ports.length > 1 && ports.length !== names.length) throw new Error('not a port for each host');
    return names.map((name, index) => ({ ...one, host: name, port: ports[index] ?? ports[0]! }));
  });
  if (places.length > 1 && places.some(({ host }) => !host)) throw new Error('a host without a name');
  return places;
}

/** The centre writes: with several hosts it uses the one that takes writes, so the attribute can say nothing else. */
const sessionAttributes = [undefined, 'read-write', 'primary'];

function isPostgresUrl(value: string): boolean {
  if (!/^postgres(ql)?:\/\//.test(value)) return false;
  try {
    return readPostgresUrl(value).every(
      (place) =>
        Boolean(place.database) &&
        sessionAttributes.includes((place as { target_session_attrs?: string }).target_session_attrs),
    );
  } catch {
    return false;
  }
}

function isHttpUrl(value: string): boolean {
  if (!URL.canParse(value)) return false;
  const { protocol, username, password } = new URL(value);
  return (protocol === 'http:' || protocol === 'https:') && username === '' && password === '';
}

const file = text('the path of a file', (value) => !value.includes('\0'));
const postgresUrl = text('a URL such as postgresql://user:password@host:5432/database', isPostgresUrl);
const smtpUrl = text('a URL such as smtps://user:password@host:465', (value) =>
  /^smtps?:\/\/[^/\s]+/.test(value),
);
const mailbox = text(
  'an e-mail address, or Name <address>',
  (value) =>
    /^(?:[^<>\r\n]{1,100}<)?[^\s<>@]+@[^\s<>@]+>?$/.test(value) &&
    value.includes('<') === value.includes('>'),
);
const host = text(
  'an address or a host name',
  (value) => isIP(value) > 0 || /^[a-z0-9]([a-z0-9.-]{0,252})$/i.test(value),
);
const httpUrl = text('a URL such as https://host/path', isHttpUrl);
const lookupUrl = text(
  'a URL with {phone} in it, such as https://host/operator?phone={phone}',
  (value) => value.split('{phone}').length === 2 && isHttpUrl(value) && placesOf(value).size === 1,
);
/** Where a URL leads for two numbers: the number may say what is asked, not who. */
function placesOf(value: string): Set<string> {
  return new Set(['0', '1'].map((digit) => new URL(value.replace('{phone}', digit)).origin));
}

const key32: Kind<Buffer> = {
  expects: '32 bytes in base64 (openssl rand -base64 32 makes some)',
  schema: z
    .base64()
    .transform((value) => Buffer.from(value, 'base64'))
    .refine((value) => value.length === 32),
};
const portOrOff: Kind<number | null> = {
  expects: `${whole(0, 65535).expects}, or off`,
  schema: z.union([z.literal('off').transform(() => null), whole(0, 65535).schema]),
};
const isPrefix = (value: string) => /^(\/[A-Za-z0-9._~-]+)+$/.test(value);

export const settings = {
  host: setting('TOLEM_HOST', host, '127.0.0.1', 'Address to listen on.'),
  port: setting('TOLEM_PORT', whole(0, 65535), '8020', 'Port to listen on; 0 takes any free one.'),
  monitorHost: setting(
    'TOLEM_MONITOR_HOST',
    host,
    '127.0.0.1',
    'Address of the monitor: /healthz, /readyz and /metrics, for those who run the centre.',
  ),
  monitorPort: setting(
    'TOLEM_MONITOR_PORT',
    portOrOff,
    '8022',
    'Port of the monitor; 0 takes any free one, off: there is none.',
  ),
  dataDir: setting(
    'TOLEM_DATA_DIR',
    text('the path of a directory', (value) => !value.includes('\0')),
    'data',
    'Where the embedded database, keys and demo data are kept; relative to the clone.',
  ),
  databaseUrl: optional(
    'TOLEM_DATABASE_URL',
    postgresUrl,
    'PostgreSQL 15 or newer to use, with a standby host1:5432,host2:5432; absent: an embedded one in the data directory.',
    true,
  ),
  databaseAdminUrl: optional(
    'TOLEM_DATABASE_ADMIN_URL',
    postgresUrl,
    'The same database as its owner, for migrations; absent: TOLEM_DATABASE_URL.',
    true,
  ),
  databasePoolMax: setting(
    'TOLEM_DATABASE_POOL_MAX',
    whole(1, 100),
    '4',
    'Connections for ordinary queries, beside those that write payments.',
  ),
  pathPrefixes: setting(
    'TOLEM_PATH_PREFIXES',
    list('paths such as /AirPayService', 16, isPrefix),
    '',
    'Further prefixes before /api/v20, for agents that moved from another centre.',
  ),
  catalogueKeys: setting(
    'TOLEM_CATALOGUE_KEYS',
    oneOf('both', 'latin', 'cyrillic'),
    'both',
    'Spelling of the key "services" in the catalogue.',
  ),
  timeZone: setting(
    'TOLEM_TIME_ZONE',
    text('a time zone such as Asia/Almaty', isTimeZone),
    'Asia/Almaty',
    'Zone of the dates in answers and reports.',
  ),
  trustedProxies: setting(
    'TOLEM_TRUSTED_PROXIES',
    list('addresses or ranges such as 10.0.0.0/8', 64, isAddressRange),
    '',
    'Proxies whose X-Forwarded-For is believed.',
  ),
  tlsCertPath: optional(
    'TOLEM_TLS_CERT',
    file,
    'Certificate chain in PEM; with TOLEM_TLS_KEY the centre serves HTTPS.',
  ),
  tlsKeyPath: optional('TOLEM_TLS_KEY', file, 'Private key of the certificate in PEM.'),
  payWaitMs: setting(
    'TOLEM_PAY_WAIT_MS',
    whole(1, 120_000),
    '8000',
    'How long pay waits for the provider before it answers 1.',
  ),
  quoteTtlMs: setting(
    'TOLEM_QUOTE_TTL_MS',
    whole(1000, 86_400_000),
    '1800000',
    'How long the answer of check is kept and its rate honoured.',
  ),
  fundsWaitMs: setting(
    'TOLEM_FUNDS_WAIT_MS',
    whole(1000, 2_592_000_000),
    '86400000',
    'How long a payment waits for funds (220) before 250.',
  ),
  ratesFeedUrl: optional(
    'TOLEM_RATES_FEED_URL',
    httpUrl,
    'Where rates are fetched, in the XML of the National Bank of Kazakhstan; absent: rates are set by people.',
  ),
  ratesFeedPeriodMs: setting(
    'TOLEM_RATES_FEED_PERIOD_MS',
    whole(10_000, 86_400_000),
    '3600000',
    'How often rates are fetched, by one of all processes.',
  ),
  operatorLookupUrl: optional(
    'TOLEM_OPERATOR_LOOKUP_URL',
    lookupUrl,
    'Who is asked which operator serves a number, before the numbering plan; absent: only the plan.',
    true,
  ),
  operatorLookupMs: setting(
    'TOLEM_OPERATOR_LOOKUP_MS',
    whole(1, 10_000),
    '1000',
    'How long operatorByPhone waits for that answer before it takes the plan.',
  ),
  operatorLookupCacheMs: setting(
    'TOLEM_OPERATOR_LOOKUP_CACHE_MS',
    whole(1, 86_400_000),
    '600000',
    'How long such an answer is kept in memory.',
  ),
  inflightMax: setting(
    'TOLEM_INFLIGHT_MAX',
    whole(1, 100_000),
    '4000',
    'Payments in progress at once before 503.',
  ),
  batchMax: setting('TOLEM_BATCH_MAX', whole(1, 10_000), '512', 'Payments written by one statement.'),
  secretKey: optional(
    'TOLEM_SECRET_KEY',
    key32,
    'Key of the data encrypted at rest; absent: secret.key in the data directory.',
    true,
  ),
  demo: setting(
    'TOLEM_DEMO',
    oneOf('auto', 'on', 'off'),
    'auto',
    'Demo data and the sandbox provider; auto: as the command that starts the centre says.',
  ),
  sandboxPort: setting('TOLEM_SANDBOX_PORT', whole(0, 65535), '8021', 'Port of the sandbox provider.'),
  smtpUrl: optional(
    'TOLEM_SMTP_URL',
    smtpUrl,
    'Mail server for notifications; absent: mails are written to files in the data directory.',
    true,
  ),
  mailFrom: optional('TOLEM_MAIL_FROM', mailbox, 'Sender of notifications.'),
  operator: optional(
    'TOLEM_OPERATOR',
    text('a name of at most 200 characters', (value) => value.length <= 200),
    'Who makes the changes that the tolem command records.',
  ),
  logLevel: setting(
    'TOLEM_LOG_LEVEL',
    oneOf('trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'),
    'info',
    'The least important messages that are logged.',
  ),
} as const;

type Settings = typeof settings;
type Values = { readonly [K in keyof Settings]: Settings[K] extends Setting<infer T> ? T : never };

/** Paths are absolute; names carry units. */
export type Config = Values & { readonly root: string };

/** The settings from `env`, or a ConfigError with one line. Paths are relative to `root`, the clone. */
export function loadConfig(env: NodeJS.ProcessEnv, { root }: { root: string }): Config {
  refuseUnknown(env);
  const entries = Object.entries(settings).map(([key, each]) => [key, read(each as Setting<unknown>, env)]);
  const values = Object.fromEntries(entries) as Values;
  const config: Config = Object.freeze({
    ...values,
    root,
    dataDir: resolve(root, values.dataDir),
    databaseAdminUrl: values.databaseAdminUrl ?? values.databaseUrl,
    tlsCertPath: readable('TOLEM_TLS_CERT', root, values.tlsCertPath),
    tlsKeyPath: readable('TOLEM_TLS_KEY', root, values.tlsKeyPath),
  });
  requireTogether('TOLEM_TLS_CERT', values.tlsCertPath, 'TOLEM_TLS_KEY', values.tlsKeyPath);
  if (values.smtpUrl) requireTogether('TOLEM_SMTP_URL', values.smtpUrl, 'TOLEM_MAIL_FROM', values.mailFrom);
  if (values.databaseAdminUrl) {
    requireTogether(
      'TOLEM_DATABASE_ADMIN_URL',
      values.databaseAdminUrl,
      'TOLEM_DATABASE_URL',
      values.databaseUrl,
    );
  }
  return config;
}

export interface SettingRow {
  readonly name: string;
  readonly value: string;
  readonly source: 'environment' | 'default';
  readonly default: string;
  readonly expects: string;
  readonly about: string;
}

/** Every setting as it stands in `env`, for people; secrets are masked. */
export function listSettings(env: NodeJS.ProcessEnv): SettingRow[] {
  return Object.values(settings).map((each) => ({
    name: each.name,
    value: env[each.name] ? (each.secret ? '(secret)' : env[each.name]!) : (each.default ?? ''),
    source: env[each.name] ? 'environment' : 'default',
    default: each.default ?? '',
    expects: each.expects,
    about: each.about,
  }));
}

function read<T>(
  { name, schema, expects, secret, default: byDefault }: Setting<T>,
  env: NodeJS.ProcessEnv,
): unknown {
  const value = env[name] || byDefault;
  if (value === null) return null;
  if (value === '') return Object.freeze([]);
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const shown = secret ? 'has a wrong value' : `is ${JSON.stringify(value.slice(0, 80))}`;
  throw new ConfigError(`${name} ${shown}: expected ${expects}`);
}

function readable(name: string, root: string, path: string | null): string | null {
  if (path === null) return null;
  const absolute = resolve(root, path);
  try {
    readFileSync(absolute);
    return absolute;
  } catch (error) {
    throw new ConfigError(
      `${name} is ${JSON.stringify(path)}: the file cannot be read (${(error as NodeJS.ErrnoException).code})`,
    );
  }
}

function requireTogether(nameA: string, a: unknown, nameB: string, b: unknown): void {
  if ((a === null) === (b === null)) return;
  const [given, missing] = a === null ? [nameB, nameA] : [nameA, nameB];
  throw new ConfigError(`${given} is set and ${missing} is not: set both or neither`);
}

function refuseUnknown(env: NodeJS.ProcessEnv): void {
  const known = Object.values(settings).map((each): string => each.name);
  const unknown = Object.keys(env).find((name) => name.startsWith('TOLEM_') && !known.includes(name));
  if (unknown === undefined) return;
  const nearest = known.reduce((best, each) =>
    distance(unknown, each) < distance(unknown, best) ? each : best,
  );
  throw new ConfigError(
    `${unknown} is not a setting: did you mean ${nearest}? "npx tolem config" lists them all`,
  );
}

/** Levenshtein's distance. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}

/** Makes the data directory, or throws a SetupError when this user cannot write there. */
export function makeDataDir(dataDir: string): void {
  try {
    if (mkdirSync(dataDir, { recursive: true })) {
      // Under root the database's own user must be able to pass through; the files in it guard themselves.
      chmodSync(dataDir, process.getuid?.() === 0 ? 0o711 : 0o700);
    }
    accessSync(dataDir, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw new SetupError(
      `the data directory ${dataDir} cannot be used (${(error as NodeJS.ErrnoException).code}): let this user write there or set TOLEM_DATA_DIR`,
    );
  }
}

type KeyPlace = Pick<Config, 'secretKey' | 'dataDir'>;

/** The 32 bytes that encrypt data at rest: from the settings, or from `secret.key` in the data directory, made once. */
export function secretKey(config: KeyPlace): Buffer {
  const known = knownSecretKey(config);
  if (known) return known;
  makeDataDir(config.dataDir);
  const path = keyFile(config);
  const draft = `${path}.${process.pid}`;
  // Written aside and linked, so that of two processes starting at once both end with the first one's key.
  writeFileSync(draft, `${randomBytes(32).toString('base64')}\n`, { mode: 0o600, flush: true });
  try {
    linkSync(draft, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  } finally {
    rmSync(draft);
  }
  return decodeKey(path);
}

/** The same; null where there is none yet, or it is kept where the centre runs. */
export function knownSecretKey(config: KeyPlace): Buffer | null {
  if (config.secretKey) return config.secretKey;
  try {
    return decodeKey(keyFile(config));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

const keyFile = ({ dataDir }: KeyPlace) => join(dataDir, 'secret.key');

function decodeKey(path: string): Buffer {
  const key = Buffer.from(readFileSync(path, 'utf8').trim(), 'base64');
  if (key.length !== 32)
    throw new SetupError(`${path} is not a key of 32 bytes in base64: restore it from a backup`);
  return key;
}
