/**
 * Real processes for the tests that kill: servers of the built code, the sandbox provider, PostgreSQL with fsync on.
 * Whatever is started here is ended by its number when the test ends, however it ends.
 */
import { type ChildProcess, execFileSync, type StdioOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { createAgent } from '../../src/agents/agents.js';
import { topUp } from '../../src/agents/funds.js';
import { confirmToken, createToken } from '../../src/agents/tokens.js';
import { inTransaction } from '../../src/audit.js';
import { loadDemo } from '../../src/catalogue/demo.js';
import { connectOptions, type DatabaseAddress, databaseUrl, openClient } from '../../src/db/connect.js';
import { ensurePostgres } from '../../src/db/embedded.js';
import { migrate } from '../../src/db/migrate.js';
import type { RegistryRow } from '../../src/providers/sandbox/registry.js';
import { upstreamNumber } from '../../src/providers/v20-connector.js';
import { sqlDirectory, temporaryDirectory } from './database.js';

const packageDir = join(import.meta.dirname, '../..');
const rootDir = join(packageDir, '../..');

/**
 * A process that outlives this one, however that ends: it kills the numbers and removes the directories, with the
 * PostgreSQL in them, that are on its list by then.
 */
const guard = spawn(
  process.execPath,
  [
    '-e',
    `const { spawnSync } = require('node:child_process');
    const { readFileSync, rmSync } = require('node:fs');
    const list = new Set();
    let text = '';
    process.stdin.setEncoding('utf8').on('data', (chunk) => {
      const lines = (text + chunk).split('\\n');
      text = lines.pop();
      for (const line of lines) list[line[0] === '+' ? 'add' : 'delete'](line.slice(1));
    });
    process.stdin.on('end', () => {
      const directories = [...list].filter((each) => each.startsWith('/'));
      const pidIn = (directory) => {
        try {
          return readFileSync(directory + '/postgres/cluster/postmaster.pid', 'utf8').split('\\n')[0];
        } catch {}
      };
      for (const pid of [...list, ...directories.map(pidIn)]) {
        try {
          if (Number(pid) > 1) process.kill(Number(pid), 'SIGKILL');
        } catch {}
      }
      // A small disk of a test, mounted there.
      for (const each of directories) spawnSync('umount', ['-l', each + '/postgres'], { stdio: 'ignore' });
      const remove = (path) => rmSync(path, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
      setTimeout(() => directories.forEach(remove), 500);
    });`,
  ],
  { detached: true, stdio: ['pipe', 'ignore', 'ignore'] },
);
guard.unref();
(guard.stdin as Socket).unref();

export function guarded(child: ChildProcess): ChildProcess {
  guard.stdin!.write(`+${child.pid}\n`);
  child.once('exit', () => guard.stdin!.write(`-${child.pid}\n`));
  return child;
}

const runs = (child: ChildProcess) => child.exitCode === null && child.signalCode === null;

/** For PostgreSQL and other files of a test. */
export function guardedDirectory(): string {
  const path = temporaryDirectory();
  guard.stdin!.write(`+${path}\n`);
  return path;
}

/** A postmaster and what it has started, by number. */
export function familyOf(postmaster: number): number[] {
  const parentOf = (pid: string) => {
    try {
      return Number(/\) \S (\d+)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'))?.[1]);
    } catch {
      return null;
    }
  };
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return [postmaster, ...pids.filter((pid) => parentOf(pid) === postmaster).map(Number)];
}

/** To a postmaster first, so that it starts nothing more, and then to what it has started. */
export function signalFamily(postmaster: number, name: NodeJS.Signals): void {
  const tell = (pid: number) => {
    try {
      process.kill(pid, name);
    } catch {
      // It has ended meanwhile.
    }
  };
  const [, ...before] = familyOf(postmaster);
  tell(postmaster);
  for (const pid of new Set([...before, ...familyOf(postmaster).slice(1)])) tell(pid);
}

/** The postmaster of the cluster in a data directory; null when none runs. */
export function postmasterOf(dataDir: string): number | null {
  try {
    const file = readFileSync(join(dataDir, 'postgres/cluster/postmaster.pid'), 'utf8');
    const pid = Number(file.split('\n')[0]);
    // A number left behind may by now be another program's.
    const comm = `/proc/${pid}/comm`;
    if (existsSync('/proc/self') && !readFileSync(comm, 'utf8').startsWith('postgres')) return null;
    return pid > 1 ? pid : null;
  } catch {
    return null;
  }
}

/** Builds the server where a source is younger than the last build. Throws what the compiler says. */
function ensureBuilt(): void {
  const builtAtMs = statSync(join(packageDir, 'dist/.tsbuildinfo'), { throwIfNoEntry: false })?.mtimeMs ?? 0;
  const sources = readdirSync(join(packageDir, 'src'), { recursive: true, encoding: 'utf8' });
  if (sources.every((name) => statSync(join(packageDir, 'src', name)).mtimeMs < builtAtMs)) return;
  execFileSync(process.execPath, [join(rootDir, 'node_modules/typescript/bin/tsc'), '-p', packageDir], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
}

export interface Change {
  /** Below dist. */
  readonly file: string;
  readonly from: string;
  readonly to: string;
}

/**
 * A copy of the built server with changes, each of which must fit in exactly one place. Answers its package directory.
 */
export function brokenBuild(changes: readonly Change[]): string {
  ensureBuilt();
  const root = guardedDirectory();
  const copy = join(root, 'packages/server');
  mkdirSync(copy, { recursive: true });
  symlinkSync(join(rootDir, 'node_modules'), join(root, 'node_modules'));
  for (const name of ['dist', 'bin', 'package.json'])
    cpSync(join(packageDir, name), join(copy, name), { recursive: true });
  for (const name of ['sql', 'demo']) symlinkSync(join(packageDir, name), join(copy, name));
  for (const { file, from, to } of changes) {
    const path = join(copy, 'dist', file);
    const pieces = readFileSync(path, 'utf8').split(from);
    if (pieces.length !== 2) throw new Error(`${file} holds ${pieces.length - 1} times: ${from}`);
    writeFileSync(path, pieces.join(to));
  }
  return copy;
}

export interface Server {
  readonly pid: number;
  /** The base URL; rejects with what the process said when it ended before it was ready. */
  readonly ready: Promise<string>;
  /** The monitor's base URL, once it is ready. */
  readonly monitor: Promise<string>;
  readonly ended: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>;
  /** The last of its output. */
  said(): string;
  /** To its process group, as a terminal or a service manager would. */
  signal(name: NodeJS.Signals): void;
}

function startServer(
  env: Readonly<Record<string, string>>,
  directory: string,
  descriptorsMax: number | undefined,
): Server {
  const inherited = Object.entries(process.env).filter(([name]) => !/^(TOLEM_|VITEST|NODE_)/.test(name));
  const options = {
    env: { ...Object.fromEntries(inherited), ...env },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'] as StdioOptions,
    detached: true,
  };
  const command = [process.execPath, join(directory, 'bin/serve.mjs')];
  // prlimit becomes the server: its number, and the channel to it, stay the same.
  if (descriptorsMax !== undefined) command.unshift('prlimit', `--nofile=${descriptorsMax}`);
  const child = guarded(spawn(command[0]!, command.slice(1), options));
  let said = '';
  for (const stream of [child.stdout!, child.stderr!])
    stream.on('data', (chunk) => (said = (said + chunk).slice(-8000)));
  const ended = once(child, 'exit').then(([code, signal]) => ({ code, signal }));
  const urls = new Promise<{ baseUrl: string; monitorUrl: string }>((resolve, reject) => {
    child.on('message', (message) => {
      if ((message as { ready?: true }).ready) resolve(message as { baseUrl: string; monitorUrl: string });
    });
    void ended.then(({ code, signal }) =>
      reject(new Error(`the server ended with ${code ?? signal}: ${said}`)),
    );
  });
  // A server that is killed on purpose before it is ready has nobody waiting for it.
  const [ready, monitor] = [urls.then(({ baseUrl }) => baseUrl), urls.then(({ monitorUrl }) => monitorUrl)];
  for (const each of [ready, monitor]) each.catch(() => {});
  return {
    pid: child.pid!,
    ready,
    monitor,
    ended,
    said: () => said,
    signal(name) {
      if (runs(child)) process.kill(-child.pid!, name);
    },
  };
}

export interface SandboxTimes {
  readonly delayMs: number;
  readonly settleMs: number;
  readonly slowMs: number;
}

interface Simulate {
  /** By the name of its connector. */
  readonly protocol: string;
  /** Of the provider's record, besides its base URL. */
  readonly settings: Readonly<Record<string, unknown>>;
}

/** The sandbox, or one of the simulators: they keep the same registry. */
async function startProvider(dataDir: string, times: SandboxTimes, simulate?: Simulate) {
  const args = [
    ...['--port', '0', '--data-dir', dataDir, '--delay-ms', String(times.delayMs)],
    ...['--settle-ms', String(times.settleMs), '--slow-ms', String(times.slowMs)],
  ];
  const command = simulate
    ? [join(packageDir, 'bin/tolem.mjs'), 'simulate', simulate.protocol]
    : [join(packageDir, 'dist/providers/sandbox/main.js'), '--with-parent'];
  const stdio: StdioOptions = ['ignore', 'pipe', 'inherit', 'ipc'];
  const child = guarded(spawn(process.execPath, [...command, ...args], { stdio }));
  const ended = once(child, 'exit');
  let said = '';
  for await (const chunk of child.stdout!) {
    said += chunk;
    if (said.includes('\n')) break;
  }
  const url = / on (http:\S+)/.exec(said)?.[1]?.replace(/;$/, '');
  if (!url) throw new Error(`the provider did not start: ${said}`);
  return {
    url,
    alive: () => runs(child),
    registry: async () => (await (await fetch(`${url}/registry`)).json()) as RegistryRow[],
    async stop() {
      child.kill('SIGKILL');
      await ended;
    },
  };
}

/**
 * A port that only servers use: below the range from which the system takes ports for outgoing connections, or an agent
 * that calls a dead server could be given the server's port and would be talking to itself.
 */
export async function quietPort(): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 10_000);
    const probe = createServer().listen(port, '127.0.0.1');
    const free = await Promise.race([
      once(probe, 'listening').then(() => true),
      once(probe, 'error').then(() => false),
    ]);
    if (free) await new Promise((done) => probe.close(done));
    if (free) return port;
  }
}

export interface Caller {
  readonly agentId: bigint;
  readonly token: string;
}

async function hire(client: pg.Client, count: number, fundsMinor: bigint): Promise<Caller[]> {
  return inTransaction(client, async (tx) => {
    const callers: Caller[] = [];
    for (let i = 1; i <= count; i += 1) {
      const name = `Agent ${i}`;
      const { agentId } = await createAgent(
        tx,
        { name, currency: 'KZT', language: 'en', tariffId: 'demo' },
        'op',
      );
      if (fundsMinor > 0n) await topUp(tx, agentId, fundsMinor, null, 'op');
      const { tokenId, token } = await createToken(tx, agentId, 'test', 'op');
      await confirmToken(tx, tokenId, 'op');
      callers.push({ agentId, token });
    }
    return callers;
  });
}

export interface SceneOptions {
  readonly agents: number;
  /** Of each agent at the start. */
  readonly fundsMinor: bigint;
  readonly sandbox?: Partial<SandboxTimes>;
  /** Settings of the sandbox provider's record. */
  readonly provider?: Readonly<Record<string, unknown>>;
  /** In place of the sandbox. */
  readonly simulate?: Simulate | undefined;
  readonly env?: Readonly<Record<string, string>>;
  /** The server brings and watches its own PostgreSQL instead of using the test's. */
  readonly embedded?: boolean;
  /** Another PostgreSQL than the one that comes with the packages, started in the data directory. */
  readonly postgres?: (dataDir: string) => Promise<Postgres>;
  /** Before anything is in the data directory; what it answers is called when PostgreSQL has ended. */
  readonly prepare?: (dataDir: string) => () => void;
}

export interface Postgres {
  readonly connection: DatabaseAddress;
  stop(): Promise<void>;
}

/** Changes a function of the database, where the text must fit in exactly one place: for controls. */
export async function breakFunction(owner: pg.Pool, name: string, from: RegExp, to: string): Promise<void> {
  const { rows } = await owner.query<{ text: string }>('select pg_get_functiondef($1::regproc) as text', [
    name,
  ]);
  const pieces = rows[0]!.text.split(from);
  if (pieces.length !== 2) throw new Error(`${name} holds ${pieces.length - 1} times: ${from}`);
  await owner.query(pieces.join(to));
}

/**
 * Some protocols know a payment by the centre's number only, or by one made of its name; judges know it by the agent's.
 * And who sells vouchers knows no account.
 */
async function named(
  owner: pg.Pool,
  protocol: string | undefined,
  registry: readonly RegistryRow[],
): Promise<RegistryRow[]> {
  if (protocol === 'voucher') {
    const { rows } = await owner.query<{ name: string; account: string }>(
      `select agent_id || '-' || agent_transaction_id as name, account from payments`,
    );
    const accounts = new Map(rows.map(({ name, account }) => [name, account]));
    return registry.map((row) => ({ ...row, account: accounts.get(row.externalId) ?? row.account }));
  }
  if (protocol === 'agent-v20') {
    const { rows } = await owner.query<{ name: string }>(
      `select agent_id || '-' || agent_transaction_id as name from payments`,
    );
    return renamed(registry, new Map(rows.map(({ name }) => [upstreamNumber(name), name])));
  }
  const numbers = registry.flatMap(({ externalId }) => (/^\d{1,18}$/.test(externalId) ? [externalId] : []));
  if (numbers.length === 0) return [...registry];
  const { rows } = await owner.query<{ id: bigint; name: string }>(
    `select id, agent_id || '-' || agent_transaction_id as name from payments where id = any ($1::bigint[])`,
    [numbers],
  );
  return renamed(registry, new Map(rows.map(({ id, name }) => [String(id), name])));
}

function renamed(registry: readonly RegistryRow[], names: ReadonlyMap<string, string>): RegistryRow[] {
  return registry.map((row) => ({ ...row, externalId: names.get(row.externalId) ?? row.externalId }));
}

export type Scene = Awaited<ReturnType<typeof openScene>>;

/** Everything around the servers of one test: a database with the demo catalogue and agents, and a sandbox provider. */
export async function openScene(options: SceneOptions) {
  ensureBuilt();
  const dataDir = guardedDirectory();
  const undoPrepared = options.prepare?.(dataDir);
  const postgres: Postgres = await (options.postgres?.(dataDir) ?? ensurePostgres({ dataDir }));
  const { connection } = postgres;
  const adminOptions = connectOptions(postgres.connection, { name: 'test', role: 'owner' });
  const appOptions = connectOptions(postgres.connection, { name: 'test', role: 'app' });
  await migrate(adminOptions, { directory: sqlDirectory });
  const { simulate } = options;
  const times = { delayMs: 0, settleMs: 500, slowMs: 4000, ...options.sandbox };
  const sandbox = await startProvider(join(dataDir, 'sandbox'), times, simulate);
  const client = await openClient(adminOptions);
  await loadDemo(client, { sandboxUrl: sandbox.url });
  await client.query('update providers set settings = settings || $1', [
    {
      ...{ connectTimeoutMs: 500, answerMsMax: 1500, notFoundTrustedAfterMs: 1000 },
      // Experiments make providers fail for long, and want every payment to meet it.
      ...{ breaker: null, ...options.provider },
    },
  ]);
  if (simulate) {
    const settings = { ...simulate.settings, baseUrl: sandbox.url };
    await client.query('update providers set connector = $1, settings = settings || $2', [
      simulate.protocol,
      settings,
    ]);
  }
  const callers = await hire(client, options.agents, options.fundsMinor);
  await client.end();
  if (options.embedded) await postgres.stop();

  const owner = new pg.Pool({ ...adminOptions, max: 2, idleTimeoutMillis: 1000 });
  owner.on('error', () => {});
  const pool = new pg.Pool({ ...appOptions, max: 2, idleTimeoutMillis: 1000 });
  pool.on('error', () => {});
  const servers = new Set<Server>();

  return {
    dataDir,
    callers,
    fundsMinor: options.fundsMinor,
    sandbox: { ...sandbox, registry: async () => named(owner, simulate?.protocol, await sandbox.registry()) },
    /** As the owner of the schema. */
    owner,
    /** As the application. */
    pool,
    port: await quietPort(),
    /** What an agent can spend, in minor units, its credit limit not counted. */
    async available(agentId: bigint): Promise<bigint> {
      const { rows } = await owner.query<{ available: bigint }>(
        'select available_minor as available from agent_balances where agent_id = $1',
        [agentId],
      );
      return rows[0]!.available;
    },
    /** Another port that only servers use. */
    newPort: quietPort,
    /** `port` 0: any; `build`: another one than the one under test. */
    start(over: {
      readonly port: number;
      readonly build?: string | undefined;
      readonly env?: Readonly<Record<string, string>>;
      /** The most descriptors the system lets it have; absent: as many as this process may. */
      readonly descriptorsMax?: number | undefined;
    }): Server {
      const env = {
        TOLEM_PORT: String(over.port),
        TOLEM_MONITOR_PORT: '0',
        TOLEM_DATA_DIR: options.embedded ? dataDir : join(dataDir, 'server'),
        ...(options.embedded
          ? {}
          : { TOLEM_DATABASE_URL: typeof connection === 'string' ? connection : databaseUrl(connection) }),
        TOLEM_LOG_LEVEL: 'warn',
        TOLEM_PAY_WAIT_MS: '1000',
        ...options.env,
        ...over.env,
      };
      const server = startServer(env, over.build ?? packageDir, over.descriptorsMax);
      servers.add(server);
      return server;
    },
    async close() {
      for (const server of servers) server.signal('SIGKILL');
      await Promise.all([...servers].map((server) => server.ended));
      for (const each of [owner, pool]) if (!each.ended) await each.end();
      await sandbox.stop();
      await postgres.stop();
      const pid = postmasterOf(dataDir);
      if (pid !== null) process.kill(pid, 'SIGQUIT');
      for (let i = 0; i < 100 && postmasterOf(dataDir) !== null; i += 1) await sleep(50);
      undoPrepared?.();
      rmSync(dataDir, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
      guard.stdin!.write(`-${dataDir}\n`);
    },
  };
}
