/** The centre as a process: settings, database, use cases, server; and the way down again. Wired by hand. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import pg from 'pg';
import { type Logger, pino } from 'pino';
import { tellLowBalances } from './agents/low-balance.js';
import { watchReference } from './catalogue/reference.js';
import { type Centre, startCentre } from './centre.js';
import { type Config, loadConfig, makeDataDir, SetupError, secretKey } from './config.js';
import type { Spans } from './core/way.js';
import { connectOptions, type DatabaseAddress, newClient, openPool } from './db/connect.js';
import { ensurePostgres } from './db/embedded.js';
import { migrate, migrationNames } from './db/migrate.js';
import { type DemoFile, demoFile, firstPayment } from './demo-file.js';
import { createMailer } from './mail.js';
import { createMonitor, databaseMsMax, type Monitor } from './monitor/monitor.js';
import type { Phase } from './monitor/readiness.js';
import { buildServer } from './protocol/server.js';
import type { Sender } from './providers/contract.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const packageFile = fileURLToPath(new URL('../package.json', import.meta.url));
const sqlDirectory = fileURLToPath(new URL('../sql/', import.meta.url));
const stopMsMax = 9500;
const echoMs = 1000;
const connectionsMax = 20_000;

export interface MainOptions {
  /** Load the demo data and start the sandbox provider, unless TOLEM_DEMO says otherwise. */
  readonly demo: boolean;
  /** For measurements: what stands between the centre and its providers. */
  readonly wrapSender?: (sender: Sender) => Sender;
}

/**
 * Runs the centre until SIGINT or SIGTERM. Trouble at the start is one line on stderr and exit code 1; what was started
 * by then is stopped again.
 */
export async function main(options: MainOptions): Promise<void> {
  // Little outlives a request: collecting the old sooner keeps memory small at hardly a cost.
  setFlagsFromString('--heap-growing-percent=100');
  const startedAt = performance.now();
  const say = (line: string) =>
    console.log(`[${((performance.now() - startedAt) / 1000).toFixed(1)} s] ${line}`);
  const undo: (() => Promise<void>)[] = [];
  let stoppingSince: number | null = null;
  const stop = async () => {
    for (const step of undo.reverse()) await step().catch((error: unknown) => console.error(String(error)));
  };
  const onSignal = (signal: NodeJS.Signals) => {
    if (stoppingSince !== null) {
      // npm passes on the Ctrl-C that the terminal has sent to this process already.
      if (performance.now() - stoppingSince > echoMs) process.exit(1);
      return;
    }
    stoppingSince = performance.now();
    console.log(`${signal}: finishing what is under way; again to leave at once`);
    setTimeout(() => {
      console.error('stopping took too long; payments under way go on at the next start');
      process.exit(1);
    }, stopMsMax).unref();
    void ready.then(stop).then(() => process.exit(0));
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);

  const ready = start(options, say, undo).catch(async (error: unknown) => {
    const known = error instanceof SetupError || (error as NodeJS.ErrnoException).syscall === 'listen';
    console.error(known ? `tolem: ${explain(error as Error, 'TOLEM')}` : error);
    await stop();
    process.exit(1);
  });
  await ready;
}

async function start(
  options: MainOptions,
  say: (line: string) => void,
  undo: (() => Promise<void>)[],
): Promise<void> {
  const config = loadConfig(process.env, { root });
  let phase: Phase = 'starting';
  const demo = config.demo === 'auto' ? options.demo : config.demo === 'on';
  const log = pino({ level: config.logLevel, base: null, timestamp: pino.stdTimeFunctions.isoTime });
  makeDataDir(config.dataDir);
  const key = secretKey(config);

  const { app, owner } = await database(config, say, undo);
  const connection = connectOptions(app, { name: 'centre', role: 'app' });
  const applied = await migrate(connectOptions(owner, { name: 'migrate', role: 'owner' }), {
    directory: sqlDirectory,
    appUser: typeof app === 'string' ? newClient(connection).user : undefined,
  });
  if (applied.length > 0)
    say(`Database schema: ${applied.length} migration(s) applied, up to ${applied.at(-1)}`);

  const pool = await openPool(connection, { max: config.databasePoolMax });
  undo.push(() => pool.end());

  let demoFacts: DemoFile | null = null;
  if (demo) {
    const sandboxUrl = await startSandbox(config, undo);
    say(`Sandbox provider on ${sandboxUrl}`);
    demoFacts = await demoFile(connection, config, sandboxUrl);
  }

  const watch = await watchReference(connection, pool, (error) =>
    log.warn({ error: error.message }, 'the reference data could not be read; the last ones are used'),
  );
  undo.push(() => watch.close());
  const mailer = createMailer({
    smtpUrl: config.smtpUrl,
    from: config.mailFrom,
    dataDir: config.dataDir,
    log,
  });
  const version = JSON.parse(readFileSync(packageFile, 'utf8')).version as string;
  const spans = await tracing(version, log, undo);
  const { monitorHost, monitorPort } = config;
  const monitorPool = new pg.Pool({
    ...connectOptions(app, {
      name: 'monitor',
      role: 'app',
      settings: { statement_timeout: `${databaseMsMax}ms` },
    }),
    connectionTimeoutMillis: databaseMsMax,
    query_timeout: databaseMsMax,
    max: 1,
  });
  monitorPool.on('error', () => {});
  const monitor = createMonitor({
    pool: monitorPool,
    migrations: migrationNames(sqlDirectory),
    version,
    reference: () => watch.current().reference,
    phase: () => phase,
  });
  const centre = startCentre({
    connection,
    pool,
    reference: () => watch.current().reference,
    secretKey: key,
    payWaitMs: config.payWaitMs,
    quoteTtlMs: config.quoteTtlMs,
    fundsWaitMs: config.fundsWaitMs,
    inflightMax: config.inflightMax,
    batchMax: config.batchMax,
    wrapSender: options.wrapSender,
    zone: config.timeZone,
    ratesFeed: config.ratesFeedUrl
      ? { url: config.ratesFeedUrl, everyMs: config.ratesFeedPeriodMs }
      : undefined,
    operatorLookup: config.operatorLookupUrl
      ? {
          url: config.operatorLookupUrl,
          waitMs: config.operatorLookupMs,
          cacheMs: config.operatorLookupCacheMs,
        }
      : undefined,
    chores: [{ name: 'low balances', everyMs: 5000, step: () => tellLowBalances(pool, mailer, log) }],
    watch: monitorPort === null ? undefined : monitor.watch,
    spans,
    // Without the level no line is even put together.
    log: log.isLevelEnabled('debug')
      ? log
      : { info: log.info.bind(log), warn: log.warn.bind(log), error: log.error.bind(log) },
  });

  const server = buildServer({
    config: {
      prefixes: config.pathPrefixes,
      zone: config.timeZone,
      catalogueKey: config.catalogueKeys,
      trustedProxies: config.trustedProxies,
      connectionsMax,
      drainMsMax: 5000,
    },
    useCases: centre.useCases,
    callback: centre.callback,
    reference: () => watch.current().reference,
    directory: watch.directory,
    ...(config.tlsCertPath && config.tlsKeyPath
      ? { tls: { certFile: config.tlsCertPath, keyFile: config.tlsKeyPath } }
      : {}),
    logger: log,
    onAnswer: monitorPort === null ? undefined : monitor.answered,
    spans,
  });
  // Closed after all that follows, so that it shows the way down too.
  undo.push(() => monitor.close());
  // New requests are refused while those under way end; the centre answers 1 for what its provider has not answered.
  undo.push(async () => {
    phase = 'draining';
    await Promise.all([server.close(), centre.stop()]);
  });
  const monitorUrl =
    monitorPort === null ? undefined : await startMonitor(monitor, centre, monitorHost, monitorPort);
  if (monitorUrl) say(`The monitor answers on ${monitorUrl}/metrics`);
  await server.listen({ host: config.host, port: config.port });
  phase = 'serving';

  const { port } = server.server.address() as { port: number };
  const baseUrl = `${config.tlsCertPath ? 'https' : 'http'}://${config.host}:${port}`;
  say(`The centre answers on ${baseUrl}/api/v20/`);
  if (demoFacts) console.log(firstPayment(demoFacts));
  // For programs that start the centre, wait for it and measure it.
  process.on('message', (message) => {
    if (message !== 'report') return;
    const { active } = performance.eventLoopUtilization();
    process.send?.({ batches: centre.batches(), memory: process.memoryUsage(), busyMs: active });
  });
  process.send?.({ ready: true, baseUrl, monitorUrl });
}

async function startMonitor(monitor: Monitor, centre: Centre, host: string, port: number) {
  try {
    return await monitor.start(centre, host, port);
  } catch (error) {
    throw new SetupError(explain(error as Error, 'TOLEM_MONITOR'));
  }
}

/** Where OpenTelemetry's variables name a collector; otherwise none of it is loaded. */
async function tracing(
  version: string,
  log: Logger,
  undo: (() => Promise<void>)[],
): Promise<Spans | undefined> {
  const { env } = process;
  if (env.OTEL_SDK_DISABLED === 'true') return undefined;
  if (!env.OTEL_EXPORTER_OTLP_ENDPOINT && !env.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) return undefined;
  const { startTracing } = await import('./monitor/tracing.js');
  const started = startTracing({ env, version, log });
  undo.push(() => started.close());
  return started.spans;
}

async function database(
  config: Config,
  say: (line: string) => void,
  undo: (() => Promise<void>)[],
): Promise<{ app: DatabaseAddress; owner: DatabaseAddress }> {
  if (config.databaseUrl)
    return { app: config.databaseUrl, owner: config.databaseAdminUrl ?? config.databaseUrl };
  const postgres = await ensurePostgres({ dataDir: config.dataDir, onProgress: say });
  undo.push(() => postgres.stop());
  say(postgres.adopted ? 'Database: the one already running' : 'Database is up');
  return { app: postgres.connection, owner: postgres.connection };
}

/** The sandbox as a process of its own, which ends with this one; started anew when it dies. */
async function startSandbox(config: Config, undo: (() => Promise<void>)[]): Promise<string> {
  const dataDir = join(config.dataDir, 'sandbox');
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  const program = fileURLToPath(new URL('./providers/sandbox/main.js', import.meta.url));
  let child: ChildProcess | null = null;
  let ended = false;
  undo.push(async () => {
    ended = true;
    child?.kill('SIGTERM');
  });

  const launch = (port: number) =>
    new Promise<string>((resolve, reject) => {
      const process_ = spawn(
        process.execPath,
        [program, '--port', String(port), '--data-dir', dataDir, '--with-parent'],
        { stdio: ['ignore', 'pipe', 'pipe', 'ipc'], detached: true },
      );
      child = process_;
      let said = '';
      process_.stdout?.on('data', (chunk) => {
        said += String(chunk);
        const url = /listening on (\S+)/.exec(said)?.[1];
        if (url) resolve(url);
      });
      process_.stderr?.on('data', (chunk) => {
        said += String(chunk);
      });
      process_.once('exit', () => {
        reject(new SetupError(said.trim() || 'the sandbox provider ended by itself'));
        if (!ended) setTimeout(() => void launch(port).catch(() => {}), 1000).unref();
      });
    });
  try {
    return await launch(config.sandboxPort);
  } catch (error) {
    ended = true;
    throw new SetupError(`${(error as Error).message}: free the port or set TOLEM_SANDBOX_PORT`);
  }
}

/** `settings`: what the two settings of the address and the port begin with. */
function explain(error: Error, settings: 'TOLEM' | 'TOLEM_MONITOR'): string {
  const { code, port, address } = error as NodeJS.ErrnoException & { port?: number; address?: string };
  if (code === 'EADDRINUSE')
    return `port ${port} on ${address} is in use: stop what listens there or set ${settings}_PORT`;
  if (code === 'EACCES')
    return `port ${port} on ${address} may not be opened by this user: set ${settings}_PORT above 1023`;
  if (code === 'EADDRNOTAVAIL') return `address ${address} is not one of this machine: set ${settings}_HOST`;
  return error.message;
}
