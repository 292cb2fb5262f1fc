/**
 * Measures the centre on this machine: `npm run bench [-- --seconds 10 --connections 1,64,256,1000]`.
 * `--only 'instant'` measures the rows whose name matches, `--skip-pgbench` leaves the comparison out, `--stored 20000000`
 * begins with so many payments in the database, `--soak 60` ends with so many minutes at half the rate of pay.
 *
 * Starts an embedded PostgreSQL with fsync and synchronous_commit on, two sandbox providers over real HTTP (one answers
 * at once, one after 50 ms), the centre as a process, and the load as another. The instant provider, and one more of
 * 50 ms, are inside the centre's process (serve.mjs), so that what is measured is the centre. Where pgbench is
 * installed, TPC-B runs on the same server before and after, and every figure is given as a ratio to it as well: to the
 * one of scale 1, pgbench's own, in which one row is hot as an agent's balance is, and to the one of scale 50.
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  closeSync,
  existsSync,
  fdatasyncSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { bodyOf } from './body.mjs';
import { fill, storedAgent, storedId } from './fill.mjs';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const server = (path) => import(`../../packages/server/dist/${path}`);
const run = promisify(execFile);

const { values: options } = parseArgs({
  options: {
    seconds: { type: 'string', default: '8' },
    connections: { type: 'string', default: '1,64,256,1000' },
    agents: { type: 'string', default: '500' },
    stored: { type: 'string', default: '0' },
    soak: { type: 'string', default: '0' },
    delays: { type: 'string', default: '0,50' },
    only: { type: 'string', default: '' },
    'skip-pgbench': { type: 'boolean', default: false },
    out: { type: 'string', default: here('../../bench-results/latest.json') },
  },
});
const seconds = Number(options.seconds);
const connectionCounts = options.connections.split(',').map(Number);
const delays = options.delays.split(',').map(Number);
const scales = [1, 50];
/** As npm start has them. */
const startFlags = ['--max-semi-space-size=64'];
const twoProcesses = 'pay, instant provider, two processes';
const besideHanging = 'pay, instant provider, beside one that hangs';
const besideNobody = `${besideHanging}: without it`;
/** Measured in turn: what the machine does otherwise is as large as what is looked for. */
const hangingPairs = 3;

const directory = mkdtempSync(join(tmpdir(), 'tolem-bench-'));
chmodSync(directory, 0o711);
const undo = [];
let failed = false;
process.once('SIGINT', () => void finish(130));
process.once('SIGTERM', () => void finish(143));

async function finish(code) {
  for (const step of undo.reverse())
    await Promise.resolve(step()).catch((error) => console.error(String(error)));
  rmSync(directory, { recursive: true, force: true });
  process.exit(code);
}

try {
  await bench();
} catch (error) {
  failed = true;
  console.error(error);
}
await finish(failed ? 1 : 0);

/** A provider that takes every request and never says a word. */
async function startSilence() {
  const server = createServer((socket) => socket.on('error', () => {}).resume()).listen(0, '127.0.0.1');
  await once(server, 'listening');
  undo.push(() => server.close());
  return `http://127.0.0.1:${server.address().port}`;
}

async function bench() {
  const [
    { ensurePostgres },
    { connectOptions, databaseUrl, openClient },
    { migrate },
    { loadDemo },
    { createAgent },
    { topUp },
    { createToken, confirmToken },
  ] = await Promise.all(
    [
      'db/embedded.js',
      'db/connect.js',
      'db/migrate.js',
      'catalogue/demo.js',
      'agents/agents.js',
      'agents/funds.js',
      'agents/tokens.js',
    ].map(server),
  );
  step('starting PostgreSQL');
  const postgres = await ensurePostgres({ dataDir: join(directory, 'data') });
  undo.push(() => postgres.stop());
  const owner = connectOptions(postgres.connection, { name: 'bench', role: 'owner' });
  await migrate(owner, { directory: here('../../packages/server/sql/') });

  const sandboxes = [];
  for (const delay of delays) sandboxes.push(await startSandbox(delay));
  const client = await openClient(owner);
  undo.push(() => client.end());
  await loadDemo(client, { sandboxUrl: sandboxes[0].url });
  const providers = [
    { id: 'bench-instant', service: 'BI', settings: { baseUrl: sandboxes[0].url } },
    { id: 'bench-late', service: 'BL', settings: { baseUrl: sandboxes[0].url } },
    { id: 'bench-hanging', service: 'BH', settings: { baseUrl: await startSilence(), concurrencyMax: 64 } },
    ...sandboxes.map(({ delay, url }) => ({
      id: `bench-${delay}`,
      service: `B${delay}`,
      settings: { baseUrl: url, concurrencyMax: 1000 },
    })),
  ];
  for (const [index, { id, service, settings }] of providers.entries()) {
    await client.query(
      `insert into providers (provider_id, name, connector, settings) values ($1, $1, 'sandbox', $2)`,
      [id, settings],
    );
    await client.query(
      `insert into services (service_id, position, type, name, inputs, provider_id, provider_service_code, currency,
         amount_min_minor, amount_max_minor, inquiry_required)
       select $1, 1000 + $3, type, $1, inputs, $2, 'mobile', currency, amount_min_minor, amount_max_minor, false
       from services where service_id = 'P1011'`,
      [service, id, index],
    );
  }
  const tokens = [];
  const agents = [];
  for (let i = 0; i < Number(options.agents); i += 1) {
    const agent = await createAgent(
      client,
      { name: `Bench ${i}`, currency: 'KZT', language: 'ru', tariffId: 'demo' },
      'bench',
    );
    await topUp(client, agent.agentId, 1_000_000_000_00n, null, 'bench');
    const { tokenId, token } = await createToken(client, agent.agentId, 'bench', 'bench');
    await confirmToken(client, tokenId, 'bench');
    tokens.push(token);
    agents.push(agent.agentId);
  }
  const { rows } = await client.query(
    `select version(), current_setting('fsync') fsync, current_setting('synchronous_commit') sync`,
  );
  const machine = {
    cpus: cpus().length,
    cpu: cpus()[0]?.model,
    node: process.version,
    postgres: rows[0].version.split(' on ')[0],
    fsync: rows[0].fsync,
    synchronousCommit: rows[0].sync,
  };

  const date = new Date().toISOString().slice(0, 19);
  let stored = null;
  if (Number(options.stored) > 0) {
    step(`writing ${options.stored} payments`);
    const count = Number(options.stored);
    const first = await fill(client, agents, count, await fingerprintOfLoad('BI', date), step);
    stored = { first: String(first), count };
  }

  step('starting the centre');
  const centre = await startCentre(databaseUrl(postgres.connection));
  const idle = await report(centre);
  const flushMs = flushMilliseconds();
  const tpcb = [];
  const before = await pgbench(postgres.connection);
  if (before !== null) tpcb.push(before);

  const table = [];
  // Above those of stored payments.
  let firstId = 200_000_000_000_000_001n;
  const load = async ({ onPart, ...facts }) => {
    const options = {
      ...{ ports: [centre.port], tokens: tokens.slice(0, 1), seconds, firstId: String(firstId), date },
      ...facts,
    };
    const walFrom = await walPosition(client);
    const result = await drive(options, onPart);
    firstId = BigInt(result.lastId) + 1n;
    const walBytes = (await walPosition(client)) - walFrom;
    return { ...result, walBytes: Math.round(Number(walBytes) / result.total) };
  };
  const wanted = new RegExp(options.only);
  const measure = async (name, facts) => {
    if (!wanted.test(name)) return;
    step(`${name}, ${facts.connections} connection(s)`);
    const memory = watchMemory(centre.pid);
    const from = await report(centre);
    const cpuFrom = cpuSeconds(centre.pid);
    const databaseFrom = databaseCpuSeconds();
    const startedAt = performance.now();
    const result = await load(facts);
    const to = await report(centre);
    const spent = cpuSeconds(centre.pid) - cpuFrom;
    const spentByDatabase = databaseCpuSeconds() - databaseFrom;
    const row = {
      name,
      connections: facts.connections,
      ...result,
      loadCpuMicros: result.cpuMicros,
      acceptBatch: mean(from, to, 'accept'),
      settleBatch: mean(from, to, 'settle'),
      // The share of the time in which the centre's event loop had something to do; the load's start and end included.
      busy: Math.round(((to.busyMs - from.busyMs) / (performance.now() - startedAt)) * 100) / 100,
      memoryMiB: memory(),
      // The warm-up included, so per answer of the whole run.
      cpuMicros: Math.round((spent * 1e6) / result.total),
      databaseCpuMicros: Math.round((spentByDatabase * 1e6) / result.total),
    };
    table.push(row);
  };
  // Compiled and planned before anything is counted.
  await load({ path: '/api/v20/pay', serviceId: 'BI', connections: 256, seconds: 6 });
  const pays = [
    ['pay, instant provider', 'BI'],
    ['pay, provider of 50 ms', 'BL'],
    ...delays.map((delay) => [`pay, provider over HTTP, ${delay} ms`, `B${delay}`]),
  ];
  for (const [name, serviceId] of pays) {
    for (const connections of connectionCounts) {
      await measure(name, { path: '/api/v20/pay', serviceId, connections });
    }
  }
  for (const connections of connectionCounts.filter((each) => each === 256)) {
    const pay = { path: '/api/v20/pay', serviceId: 'BI', connections };
    const repeatFrom = String(firstId);
    await measure('pay, instant provider, again', pay);
    if (repeatFrom !== String(firstId)) await measure('repeat of a final payment', { ...pay, repeatFrom });
    await measure(`pay, instant provider, ${tokens.length} agents`, { ...pay, tokens });
    if (stored) {
      await measure('repeat of a stored payment', { ...pay, tokens, stored });
      // What an agent waits for it where the machine is not full.
      await measure('repeat of a stored payment, 1000/s', { ...pay, tokens, stored, ratePerSecond: 1000 });
    }
    for (let pair = 1; pair <= hangingPairs && wanted.test(besideHanging); pair += 1) {
      await measure(besideNobody, pay);
      // A thousand agents of it, each of whom comes again every eight seconds.
      const facts = { ports: [centre.port], tokens: tokens.slice(1, 2), firstId: String(firstId), date };
      const paced = { connections: 1000, ratePerSecond: 125, seconds: seconds + 8 };
      const hanging = drive({ ...pay, serviceId: 'BH', ...facts, ...paced });
      await new Promise((done) => setTimeout(done, 4000));
      await measure(besideHanging, pay);
      await hanging;
    }
    await measure('balance', { ...pay, path: '/api/v20/balance' });
    if (!wanted.test(twoProcesses)) continue;
    const second = await startCentre(databaseUrl(postgres.connection));
    await measure(twoProcesses, { ...pay, ports: [centre.port, second.port] });
    await second.stop();
  }
  for (const connections of connectionCounts.filter((each) => each === 1 || each === 256)) {
    await measure('pay with inquiry, HTTP', { path: '/api/v20/pay', serviceId: 'P1011', connections });
    await measure('check, instant provider', { path: '/api/v20/check', serviceId: 'BI', connections });
    await measure('check, provider over HTTP', { path: '/api/v20/check', serviceId: 'P1011', connections });
  }
  const lookUps = stored && (await lookUp(client, agents, stored));
  const tables = await tablesNow(client);
  const after = await pgbench(postgres.connection);
  if (after !== null) tpcb.push(after);
  const soaked = [];
  if (Number(options.soak) > 0) {
    const rates = table.filter(({ name }) => name === pays[0][0]).map(({ perSecond }) => perSecond);
    if (rates.length === 0) throw new Error(`--soak needs the row “${pays[0][0]}” to take half of its rate`);
    const ratePerSecond = Math.round(Math.max(...rates) / 2);
    const everySeconds = 60;
    step(`${options.soak} minutes at ${ratePerSecond}/s`);
    await load({
      ...{ path: '/api/v20/pay', serviceId: 'BI', connections: 256, tokens, ratePerSecond, everySeconds },
      seconds: Number(options.soak) * everySeconds,
      onPart: async (part) => {
        const { memory } = await report(centre);
        soaked.push({ ...part, memoryMiB: mib(memory.rss), tables: await tablesNow(client) });
        step(JSON.stringify(soaked.at(-1)));
      },
    });
  }
  step('verifying the books');
  const { verify } = await server('ledger/verify.js');
  const verified = await verify(client);
  if (!verified.ok)
    throw new Error(
      `the books do not agree: ${JSON.stringify(verified.problems[0], (_, value) => (typeof value === 'bigint' ? String(value) : value))}`,
    );

  print({
    machine,
    idleMemoryMiB: mib(idle.memory.rss),
    tpcb,
    flushMs,
    table,
    lookUps,
    tables,
    soaked,
    verified: { payments: Number(verified.counts.payments) },
  });
}

function print(result) {
  const { table, tpcb, idleMemoryMiB, machine, flushMs, lookUps } = result;
  const base = tpcb.length > 0 ? meanBy(scales, (scale) => tpcb.map((each) => each[scale])) : null;
  for (const row of table)
    row.timesTpcb = base && Object.fromEntries(scales.map((scale) => [scale, row.perSecond / base[scale]]));
  const times = (row, scale) => (row.timesTpcb ? row.timesTpcb[scale].toFixed(2) : '-');
  const columns = [
    ['what', (row) => row.name],
    ['conn', (row) => row.connections],
    ['per s', (row) => row.perSecond.toFixed(0)],
    ...scales.map((scale) => [`x TPC-B s${scale}`, (row) => times(row, scale)]),
    ['p50 ms', (row) => row.p50Ms.toFixed(1)],
    ['p99 ms', (row) => row.p99Ms.toFixed(1)],
    ['batch 1', (row) => row.acceptBatch?.toFixed(1) ?? '-'],
    ['batch 2', (row) => row.settleBatch?.toFixed(1) ?? '-'],
    ['busy', (row) => row.busy.toFixed(2)],
    ['MiB', (row) => row.memoryMiB ?? '-'],
    ['load us', (row) => row.loadCpuMicros],
    ['cpu us', (row) => row.cpuMicros],
    ['db us', (row) => row.databaseCpuMicros],
    ['WAL B', (row) => row.walBytes],
    [
      'codes',
      (row) =>
        Object.entries(row.codes)
          .map(([code, count]) => `${code}:${count}`)
          .join(' '),
    ],
  ];
  const cells = [
    columns.map(([name]) => name),
    ...table.map((row) => columns.map(([, value]) => String(value(row)))),
  ];
  const widths = columns.map((_, index) => Math.max(...cells.map((line) => line[index].length)));
  console.log(
    `\n${machine.postgres}, fsync ${machine.fsync}, synchronous_commit ${machine.synchronousCommit}, Node ${machine.node}, ${machine.cpus} x ${machine.cpu}`,
  );
  for (const line of cells) {
    console.log(
      line
        .map((cell, index) =>
          index === 0 || index === columns.length - 1
            ? cell.padEnd(widths[index])
            : cell.padStart(widths[index]),
        )
        .join('  ')
        .trimEnd(),
    );
  }
  if (base) console.log('TPC-B on the same server, pgbench -c 32 -j 2 -M prepared, transactions/s:');
  else console.log('no TPC-B: pgbench is not installed or was skipped');
  for (const scale of base ? scales : []) {
    const runs = tpcb.map((each) => each[scale].toFixed(0)).join(' before, ');
    console.log(
      `  scale ${scale}${scale === 1 ? ' (one hot row)' : ''}: ${runs} after; mean ${base[scale].toFixed(0)}`,
    );
  }
  console.log(`one flush of this disk (fdatasync of 8 KiB): ${flushMs.toFixed(2)} ms, median`);
  console.log(`idle centre: ${idleMemoryMiB} MiB`);
  const [alone, beside] = [besideNobody, besideHanging].map((name) =>
    table.flatMap((row) => (row.name === name ? [row.perSecond] : [])),
  );
  const shares = beside.map((perSecond, pair) => perSecond / alone[pair]);
  if (shares.length > 0 && alone.length === shares.length) {
    const said = shares.map((share) => share.toFixed(2)).join(', ');
    const median = shares.toSorted((a, b) => a - b)[shares.length >> 1];
    console.log(`beside a provider that hangs: ${median.toFixed(2)} of the rate without it (${said})`);
  }
  for (const [by, { p50Ms, p99Ms }] of Object.entries(lookUps ?? {}))
    console.log(`a stored payment by ${by}: p50 ${p50Ms.toFixed(1)} ms, p99 ${p99Ms.toFixed(1)} ms`);
  mkdirSync(fileURLToPath(new URL('./', `file://${options.out}`)), { recursive: true });
  writeFileSync(options.out, `${JSON.stringify(result, null, 2)}\n`);
  console.log(`written to ${options.out}`);
}

/** Runs the load and answers with its last line; `onPart` is told of each part as it ends. */
async function drive(options, onPart) {
  const child = spawn(process.execPath, [here('load.mjs'), JSON.stringify(options)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let result = null;
  for await (const line of createInterface(child.stdout)) {
    result = JSON.parse(line);
    if (result.lastId === undefined) await onPart?.(result);
  }
  if (result?.lastId === undefined) throw new Error('the load ended without a result');
  return result;
}

/** Of the words that load.mjs sends to `pay`. */
async function fingerprintOfLoad(serviceId, date) {
  const [{ shapePay }, { parseBody }, { paymentWords }, { fingerprintOf }] = await Promise.all(
    ['protocol/requests.js', 'protocol/json.js', 'core/decide.js', 'payments/order.js'].map(server),
  );
  const body = parseBody(Buffer.from(bodyOf(serviceId, '1', date)));
  const shaped = shapePay(body.value, () => date);
  if (!shaped.ok) throw new Error(`the load's own body is refused: ${shaped.why}`);
  return fingerprintOf(paymentWords(shaped.request));
}

/** How long an operator's look-ups of stored payments take, one after another. */
async function lookUp(client, agents, { first, count }) {
  const { findPayments } = await server('payments/history.js');
  const find = {
    transactionId: (n) => ({ transactionId: n * 64n }),
    "agent's id": (n) => ({ agentTransactionId: storedId(n) }),
    "agent and agent's id": (n) => ({
      agentId: agents[storedAgent(n, agents.length)],
      agentTransactionId: storedId(n),
    }),
  };
  const times = {};
  for (const [by, keyOf] of Object.entries(find)) {
    step(`looking payments up by ${by}`);
    const each = [];
    for (let i = 0; i < 2000; i += 1) {
      const n = BigInt(first) + BigInt(Math.floor(Math.random() * count));
      const startedAt = performance.now();
      const found = await findPayments(client, keyOf(n));
      each.push(performance.now() - startedAt);
      if (found.length !== 1) throw new Error(`payment ${n} was not found by ${by}`);
    }
    each.sort((a, b) => a - b);
    times[by] = { p50Ms: each[1000], p99Ms: each[1980] };
  }
  return times;
}

/** Of the tables that every payment writes: rows, dead ones, how often they were vacuumed, and their sizes. */
async function tablesNow(client) {
  const { rows } = await client.query(
    `select substring(relname from $1) as name, sum(n_live_tup)::int8 as live, sum(n_dead_tup)::int8 as dead,
       sum(autovacuum_count)::int8 as vacuums, sum(pg_total_relation_size(relid))::int8 as bytes
     from pg_stat_user_tables where relname ~ $1 group by 1 order by 1`,
    ['^(payments|transfers|payment_events|leases|agent_balances)'],
  );
  return Object.fromEntries(
    rows.map(({ name, live, dead, vacuums, bytes }) => [
      name,
      { live: Number(live), dead: Number(dead), vacuums: Number(vacuums), MiB: mib(Number(bytes)) },
    ]),
  );
}

async function startSandbox(delay) {
  const dataDir = join(directory, `sandbox-${delay}`);
  mkdirSync(dataDir);
  const child = spawn(
    process.execPath,
    [
      here('../../packages/server/dist/providers/sandbox/main.js'),
      '--port',
      '0',
      '--data-dir',
      dataDir,
      '--delay-ms',
      String(delay),
      '--with-parent',
    ],
    { stdio: ['ignore', 'pipe', 'inherit', 'ipc'] },
  );
  undo.push(() => child.kill());
  const url = await new Promise((resolve, reject) => {
    child.stdout.on('data', (chunk) => {
      const match = /listening on (\S+)/.exec(String(chunk));
      if (match) resolve(match[1]);
    });
    child.once('exit', () => reject(new Error('the sandbox provider ended')));
  });
  return { delay, url };
}

async function startCentre(url) {
  const child = spawn(process.execPath, [...startFlags, here('serve.mjs')], {
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    env: {
      ...process.env,
      TOLEM_DATABASE_URL: url,
      TOLEM_PORT: '0',
      TOLEM_MONITOR_PORT: '0',
      TOLEM_DATA_DIR: join(directory, 'centre'),
    },
  });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  const stop = async () => {
    child.kill('SIGTERM');
    await ended;
  };
  undo.push(stop);
  const { baseUrl } = await new Promise((resolve, reject) => {
    child.once('message', resolve);
    child.once('exit', () => reject(new Error('the centre ended')));
  });
  return { child, pid: child.pid, port: Number(new URL(baseUrl).port), stop };
}

async function walPosition(client) {
  const { rows } = await client.query(
    "select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::int8 as position",
  );
  return rows[0].position;
}

function report({ child }) {
  return new Promise((resolve) => {
    child.once('message', resolve);
    child.send('report');
  });
}

/** The largest resident size since the call, in MiB. */
function watchMemory(pid) {
  let largest = 0;
  const look = () => {
    if (!existsSync(`/proc/${pid}/status`)) return;
    largest = Math.max(
      largest,
      Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) * 1024,
    );
  };
  const timer = setInterval(look, 200);
  return () => {
    look();
    clearInterval(timer);
    return mib(largest);
  };
}

/** User and system time of a process, from Linux's /proc; 0 elsewhere. */
function cpuSeconds(pid) {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /, '')
      .split(' ');
    return (Number(fields[11]) + Number(fields[12])) / 100;
  } catch {
    return 0;
  }
}

/** Of the sessions that live now; those of the lanes live as long as the centre. */
function databaseCpuSeconds() {
  if (!existsSync('/proc')) return 0;
  let sum = 0;
  for (const pid of readdirSync('/proc').filter((each) => /^\d+$/.test(each))) {
    try {
      const isSession = /^postgres: tolem_owner tolem /.test(readFileSync(`/proc/${pid}/cmdline`, 'utf8'));
      if (isSession) sum += cpuSeconds(pid);
    } catch {
      // It ended while we looked.
    }
  }
  return sum;
}

function meanBy(keys, valuesOf) {
  return Object.fromEntries(
    keys.map((key) => {
      const values = valuesOf(key);
      return [key, values.reduce((sum, each) => sum + each, 0) / values.length];
    }),
  );
}

/** The median of what PostgreSQL waits for at every commit it does not share. */
function flushMilliseconds() {
  const file = openSync(join(directory, 'flush'), 'w');
  const block = Buffer.alloc(8192);
  const times = Array.from({ length: 500 }, (_, index) => {
    const startedAt = performance.now();
    writeSync(file, block, 0, block.length, index * block.length);
    fdatasyncSync(file);
    return performance.now() - startedAt;
  });
  closeSync(file);
  return times.sort((a, b) => a - b)[250];
}

function mib(bytes) {
  return Math.round(bytes / 2 ** 20);
}

/** Payments a batch, over all shards. */
function mean(from, to, lane) {
  const total = (report, what) =>
    Object.values(report.batches).reduce((sum, shard) => sum + shard[lane][what], 0);
  const batches = total(to, 'batches') - total(from, 'batches');
  return batches > 0 ? (total(to, 'items') - total(from, 'items')) / batches : null;
}

/**
 * TPC-B transactions per second by scale, or null where pgbench is not to be had. Scale 1 is pgbench's own: every
 * transaction updates one branch, as every payment of an agent updates one balance. At scale 50 they hardly meet.
 */
async function pgbench({ host, port, user }) {
  if (options['skip-pgbench']) return null;
  const program = [process.env.PGBENCH, '/usr/lib/postgresql/15/bin/pgbench', 'pgbench'].find(
    (each) => each && (each === 'pgbench' || existsSync(each)),
  );
  const common = ['-h', host, '-p', String(port), '-U', user];
  const { openClient, connectOptions } = await server('db/connect.js');
  const query = async (database, text) => {
    const client = await openClient(
      connectOptions({ host, port, user, database }, { name: 'bench', role: 'owner' }),
    );
    await client.query(text).finally(() => client.end());
  };
  const perSecond = {};
  try {
    for (const scale of scales) {
      const database = `pgbench_${scale}`;
      if (!pgbench.ready?.has(scale)) {
        step(`preparing TPC-B at scale ${scale}`);
        await query('postgres', `create database ${database}`);
        await run(program, [...common, '-i', '-s', String(scale), '-q', database]);
        // What filling its tables left to be written must not fall into anybody's measurement.
        await query(database, 'checkpoint');
        pgbench.ready = new Set([...(pgbench.ready ?? []), scale]);
      }
      step(`TPC-B at scale ${scale}: pgbench -c 32 -j 2 -M prepared`);
      const time = ['-T', String(Math.max(seconds, 5))];
      const { stdout } = await run(program, [
        ...common,
        ...'-c 32 -j 2 -M prepared'.split(' '),
        ...time,
        database,
      ]);
      perSecond[scale] = Number(/tps = ([\d.]+)/.exec(stdout)[1]);
    }
    return perSecond;
  } catch (error) {
    if (error.code === 'ENOENT') return null;
    throw error;
  }
}

function step(text) {
  console.error(`[${(performance.now() / 1000).toFixed(0).padStart(4)} s] ${text}`);
}
