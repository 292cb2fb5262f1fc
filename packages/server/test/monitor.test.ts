/** The centre seen from outside: the monitor's three pages, the metrics' truth, log lines of one payment, and traces. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { pino } from 'pino';
import { Registry } from 'prom-client';
import { Client } from 'undici';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parse as parseYaml } from 'yaml';
import { createAgent } from '../src/agents/agents.js';
import { topUp } from '../src/agents/funds.js';
import { confirmToken, createToken } from '../src/agents/tokens.js';
import { inTransaction } from '../src/audit.js';
import { State } from '../src/core/states.js';
import { Lane } from '../src/db/lane.js';
import { migrationNames } from '../src/db/migrate.js';
import { runLoops } from '../src/jobs/loops.js';
import { createMetrics } from '../src/monitor/metrics.js';
import type { Insight } from '../src/monitor/monitor.js';
import { readiness } from '../src/monitor/readiness.js';
import { createReader } from '../src/monitor/readings.js';
import { Counter, gauge, Histogram } from '../src/monitor/tally.js';
import { open, PaymentStore } from '../src/payments/store.js';
import { buildServer } from '../src/protocol/server.js';
import type { CallRecord, Sender } from '../src/providers/contract.js';
import { demoAgent, openCentre, payRequest } from './support/centre.js';
import { ask } from './support/crowd.js';
import { sqlDirectory, temporaryDirectory } from './support/database.js';
import { openScene, type Scene, type Server } from './support/processes.js';
import { anAgent, aReference, testConfig } from './support/protocol.js';

const root = join(import.meta.dirname, '../../..');
const idle: Insight = { lanes: () => [], calls: () => [], loops: () => [] };

interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

function samples(text: string): Sample[] {
  return text
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => {
      const [, name, list = '', value] = /^([a-z_0-9]+)(?:\{(.*)\})? (\S+)$/i.exec(line)!;
      const labels = Object.fromEntries(
        [...list.matchAll(/(\w+)="([^"]*)"/g)].map(([, key, text]) => [key!, text!]),
      );
      return { name: name!, labels, value: Number(value) };
    });
}

/** The value of the one series with these labels among its own; undefined when there is none. */
function seriesValue(
  text: string,
  name: string,
  labels: Readonly<Record<string, string>> = {},
): number | undefined {
  const found = samples(text).filter(
    (each) =>
      each.name === name && Object.entries(labels).every(([key, value]) => each.labels[key] === value),
  );
  if (found.length > 1) throw new Error(`${name} has ${found.length} series with ${JSON.stringify(labels)}`);
  return found[0]?.value;
}

describe('counting', () => {
  test('a histogram counts a value in every bucket that is not below it', async () => {
    const registry = new Registry();
    const sizes = new Histogram(registry, { name: 'h', help: 'h', labels: ['lane'] }, [1, 10]).of('accept');
    for (const value of [0.5, 1, 1.5, 10, 11]) sizes.observe(value);
    expect(
      samples(await registry.metrics()).map(({ name, labels, value }) => [name, labels.le, value]),
    ).toEqual([
      ['h_bucket', '1', 2],
      ['h_bucket', '10', 4],
      ['h_bucket', '+Inf', 5],
      ['h_sum', undefined, 24],
      ['h_count', undefined, 5],
    ]);
  });

  test('the same labels are one series; beyond the bound all are counted as other, and none is lost', async () => {
    const registry = new Registry();
    const counter = new Counter(registry, { name: 'c_total', help: 'c', labels: ['a', 'b'] });
    expect(counter.of('x', 'y')).toBe(counter.of('x', 'y'));
    for (let i = 0; i < 5000; i += 1) counter.of(String(i), 'z').total += 1;
    const all = samples(await registry.metrics());
    expect(all.length).toBe(2001);
    expect(all.reduce((sum, { value }) => sum + value, 0)).toBe(5000);
    expect(all.at(-1)).toEqual({ name: 'c_total', labels: { a: 'other', b: 'other' }, value: 3001 });
  });

  test('a gauge without series is absent', async () => {
    const registry = new Registry();
    gauge(registry, { name: 'g', help: 'g', labels: [] }, () => []);
    expect(samples(await registry.metrics())).toEqual([]);
  });

  test('agents beyond the first ones by id are counted as other', async () => {
    const agentList = [7n, 5n, 9n].map((agentId) => ({ ...anAgent, agentId }));
    const reference = aReference({ agentList });
    const metrics = createMetrics({
      version: '1',
      reference: () => reference,
      reader: { read: async () => null },
      checks: async () => [],
      now: () => idle,
      agentsMax: 2,
    });
    for (const agent of agentList) metrics.watch.held(agent, 100n);
    metrics.watch.returned(agentList[0]!, 30n);
    for (const agentId of ['5', '9', '9']) {
      metrics.answered({ route: 'pay', status: 200, code: 220, ms: 1, agentId });
    }
    metrics.answered({ route: 'pay', status: 200, code: 0, ms: 1, agentId: '5' });
    const text = await metrics.text();
    const spent = (agent: string) =>
      seriesValue(text, 'tolem_agent_spent_minor_total', { agent, currency: 'KZT' });
    expect(['5', '7', '9', 'other'].map(spent)).toEqual([100, 100, undefined, 100]);
    expect(seriesValue(text, 'tolem_agent_returned_minor_total', { agent: '7' })).toBe(30);
    expect(seriesValue(text, 'tolem_agent_short_answers_total', { agent: '5' })).toBe(1);
    expect(seriesValue(text, 'tolem_agent_short_answers_total', { agent: 'other' })).toBe(2);
    expect(seriesValue(text, 'tolem_requests_total', { method: 'pay', status: '200', code: '220' })).toBe(3);
  });
});

describe('a lane and a loop', () => {
  test('a lane tells how long each item waited and how long writing took; its oldest item ages while it is written', async () => {
    const centre = await openCentre();
    const told: { size: number; waited: number[]; ms: number }[] = [];
    const failures: number[] = [];
    let release = () => {};
    const held = new Promise<void>((done) => {
      release = done;
    });
    const lane = new Lane<number, number>({
      name: 'test',
      connection: centre.database.appOptions,
      batchMax: 10,
      waitMsMax: 1000,
      write: async (_client, batch) => {
        if (batch.includes(13)) throw Object.assign(new Error('refused'), { code: '23514' });
        await held;
        return batch;
      },
      watch: {
        wrote: (_lane, batch, startedAt, endedAt) =>
          told.push({
            size: batch.length,
            waited: batch.map(({ queuedAt }) => startedAt - queuedAt),
            ms: endedAt - startedAt,
          }),
        failed: (_lane, items) => failures.push(items),
      },
    });
    expect(lane.oldestMs).toBe(0);
    const first = [lane.submit(1), lane.submit(2)];
    await sleep(300);
    const second = lane.submit(3);
    await sleep(100);
    expect(lane.waiting).toBe(1);
    expect(lane.oldestMs).toBeGreaterThan(390);
    release();
    await Promise.all([...first, second]);
    await expect(lane.submit(13)).rejects.toThrow('refused');
    await expect.poll(() => lane.oldestMs).toBe(0);
    expect(told.map(({ size }) => size)).toEqual([2, 1]);
    expect(told[0]!.ms).toBeGreaterThan(300);
    expect(told[1]!.waited[0]).toBeGreaterThan(90);
    expect(failures).toEqual([1]);
    await lane.close();
    await centre.close();
  });

  test('a loop whose step fails or hangs has not turned', async () => {
    const loops = runLoops(
      [
        { name: 'well', everyMs: 10, step: async () => 0 },
        { name: 'failing', everyMs: 10, step: () => Promise.reject(new Error('no')) },
      ],
      { info() {}, warn() {}, error() {} },
    );
    await sleep(1300);
    const since = Object.fromEntries(loops.turns().map(({ loop, sinceMs }) => [loop, sinceMs]));
    expect(since.well).toBeLessThan(200);
    expect(since.failing).toBeGreaterThan(1250);
    await loops.stop();
  });
});

describe('what the database knows', () => {
  let centre: Awaited<ReturnType<typeof openCentre>>;
  let pool: pg.Pool;
  beforeAll(async () => {
    centre = await openCentre({ answerMsMax: 300 });
    pool = new pg.Pool({ ...centre.database.appOptions, max: 1 });
    pool.on('error', () => {});
  });
  afterAll(async () => {
    await pool.end();
    await centre.close();
  });
  const reader = (over: { everyMs?: number; agentsMax?: number; pool?: pg.Pool } = {}) =>
    createReader({ pool, everyMs: 0, msMax: 1000, agentsMax: 1000, ...over });
  const metricsOf = (parts: { agentsMax?: number; pool?: pg.Pool } = {}) =>
    createMetrics({
      version: '1',
      reference: () => centre.watch.current().reference,
      reader: reader(parts),
      checks: async () => [],
      now: () => idle,
      agentsMax: 1000,
    });

  test('payments by what they wait for with the oldest one, and those without a known end', async () => {
    const none = await metricsOf().text();
    expect(seriesValue(none, 'tolem_payments_waiting', { what: 'review' })).toBe(0);
    expect(seriesValue(none, 'tolem_payments_uncertain_oldest_seconds')).toBe(0);

    await centre.owner.query("insert into security_rules values ('big', 5000000, null, null)");
    const known = () => centre.watch.current().reference.rules.some(({ ruleId }) => ruleId === 'big');
    await expect.poll(known, { timeout: 5000 }).toBe(true);
    expect((await centre.pay(payRequest({ amountToMinor: 6_000_000n }))).code).toBe(153);
    expect((await centre.pay(payRequest({ account: '7770000093' }))).code).toBe(1);
    const poor = await inTransaction(centre.owner, (tx) =>
      createAgent(tx, { name: 'Poor', currency: 'KZT', language: 'en', tariffId: 'demo' }, 'op'),
    );
    await expect.poll(() => centre.watch.current().reference.agents.has(poor.agentId)).toBe(true);
    expect((await centre.centre.useCases.pay(poor.agentId, payRequest())).code).toBe(220);
    await centre.owner.query("update waiting set since = now() - interval '90 s' where what = 'review'");

    const text = await metricsOf().text();
    const counts = ['funds', 'review', 'terms', 'send'].map((what) =>
      seriesValue(text, 'tolem_payments_waiting', { what }),
    );
    expect(counts).toEqual([1, 1, 0, 0]);
    expect(
      seriesValue(text, 'tolem_payments_waiting_oldest_seconds', { what: 'review' }),
    ).toBeGreaterThanOrEqual(90);
    expect(seriesValue(text, 'tolem_payments_waiting_oldest_seconds', { what: 'funds' })).toBeLessThan(60);
    expect(seriesValue(text, 'tolem_payments_uncertain')).toBe(1);
    expect(seriesValue(text, 'tolem_payments_uncertain_oldest_seconds')).toBeLessThan(60);
    expect(seriesValue(text, 'tolem_leases')).toBe(0);
    expect(seriesValue(text, 'tolem_leased_oldest_seconds')).toBe(0);
    expect(seriesValue(text, 'tolem_database_up')).toBe(1);
  });

  test('the age of the oldest payment that is with its provider', async () => {
    const lease = async (...accounts: string[]) => {
      const ids = await Promise.all(
        accounts.map(async (account) => (await centre.pay(payRequest({ account }))).transactionId!),
      );
      await centre.owner.query(
        "insert into leases (shard, worker, until, payment_ids) values (0, $1, now() + interval '1 h', $2)",
        ['00000000-0000-0000-0000-000000000002', ids],
      );
      return ids;
    };
    const [uncertain] = await lease('7770000093', '7770017718');
    await lease('7770017718');
    const age = async (state: number, seconds: number) => {
      await centre.owner.query(
        "update payments set state = $2, accepted_at = now() - $3 * interval '1 s' where id = $1",
        [uncertain, state, seconds],
      );
      return seriesValue(await metricsOf().text(), 'tolem_leased_oldest_seconds');
    };
    expect(await age(State.sending, 45)).toBeGreaterThanOrEqual(45);
    expect(await age(State.uncertain, 45)).toBe(0);
    await centre.owner.query('delete from leases');
  });

  test('balances, limits and thresholds of agents by id and currency; those beyond the bound are summed', async () => {
    const id = await inTransaction(centre.owner, async (tx) => {
      const { agentId } = await createAgent(
        tx,
        { name: 'Secret Name', currency: 'KZT', language: 'en', tariffId: 'demo' },
        'op',
      );
      await topUp(tx, agentId, 12_345n, null, 'op');
      return agentId;
    });
    await centre.owner.query(
      'update agent_balances set credit_limit_minor = 500, notification_minor = 70 where agent_id = $1',
      [id],
    );
    const figures = (text: string, agent: string) =>
      ['available', 'credit_limit', 'low_balance'].map((what) =>
        seriesValue(text, `tolem_agent_${what}_minor`, { agent, currency: 'KZT' }),
      );
    const text = await metricsOf().text();
    expect(figures(text, String(id))).toEqual([12_345, 500, 70]);
    expect(text).not.toContain('Secret Name');

    const { rows } = await centre.owner.query('select available_minor from agent_balances order by agent_id');
    const cut = await metricsOf({ agentsMax: 1 }).text();
    const rest = rows.slice(1).reduce((sum, row) => sum + Number(row.available_minor), 0);
    expect(figures(cut, 'other')[0]).toBe(rest);
    expect(figures(cut, String(id))).toEqual([undefined, undefined, undefined]);
    expect(figures(cut, String(demoAgent))[0]).toBe(Number(rows[0].available_minor));
  });

  test('is read at most every few seconds, however many ask', async () => {
    let asked = 0;
    const counting = {
      query: (...args: [string]) => {
        asked += 1;
        return pool.query(...args);
      },
    } as unknown as pg.Pool;
    const one = reader({ pool: counting, everyMs: 400 });
    const readings = await Promise.all([one.read(), one.read(), one.read()]);
    const atFirst = asked;
    expect(atFirst).toBeGreaterThan(0);
    expect(readings.every((each) => each !== null)).toBe(true);
    await one.read();
    expect(asked).toBe(atFirst);
    await sleep(450);
    await one.read();
    expect(asked).toBe(2 * atFirst);
  });

  test('is absent when the database hangs, and no scrape is held', async () => {
    const silent = createServer(() => {}).listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const { port } = silent.address() as AddressInfo;
    const away = new pg.Pool({ host: '127.0.0.1', port, max: 1, connectionTimeoutMillis: 1000 });
    const startedAt = performance.now();
    const text = await metricsOf({ pool: away }).text();
    const checks = await readiness({
      pool: away,
      migrations: [],
      phase: () => 'serving',
      now: () => idle,
      databaseMsMax: 1000,
    });
    expect(performance.now() - startedAt).toBeLessThan(3000);
    expect(seriesValue(text, 'tolem_database_up')).toBe(0);
    expect(samples(text).filter(({ name }) => /payments_|_leases$|agent_available/.test(name))).toEqual([]);
    expect(checks.filter(({ ok }) => !ok).map(({ name }) => name)).toEqual(['database', 'migrations']);
    await away.end();
    silent.close();
  });

  test('readiness names what is wrong: a migration that is missing, a lane that stands, a loop that stands', async () => {
    const failing = async (over: { migrations?: string[]; now?: Insight; phase?: 'draining' }) =>
      (
        await readiness({
          pool,
          migrations: over.migrations ?? migrationNames(sqlDirectory),
          phase: () => over.phase ?? 'serving',
          now: () => over.now ?? idle,
          databaseMsMax: 1000,
        })
      )
        .filter(({ ok }) => !ok)
        .map(({ name, detail }) => `${name}: ${detail}`);
    const lane = (oldestMs: number) => ({ ...idle, lanes: () => [{ lane: 'settle', waiting: 1, oldestMs }] });
    const loop = (name: string, sinceMs: number) => ({
      ...idle,
      loops: () => [{ loop: name, everyMs: 1000, sinceMs }],
    });
    expect(await failing({})).toEqual([]);
    // One that is newer than this build serves on while others are upgraded.
    expect(await failing({ migrations: [] })).toEqual([]);
    expect(await failing({ migrations: [...migrationNames(sqlDirectory), '9999_later'] })).toEqual([
      'migrations: the database has not: 9999_later',
    ]);
    expect(await failing({ now: lane(2900) })).toEqual([]);
    expect(await failing({ now: lane(3100) })).toEqual(['lanes: settle has waited 3.1 s']);
    expect(await failing({ now: loop('queue', 15_900) })).toEqual([]);
    expect(await failing({ now: loop('queue', 16_100) })).toEqual(['loops: queue last turned 16.1 s ago']);
    expect(await failing({ now: loop('low balances', 99_000) })).toEqual([]);
    expect(await failing({ phase: 'draining' })).toEqual(['serving: the process is draining']);
  });

  test('a contradiction is counted where the history has one; the same outcome told again is none', async () => {
    let contradictions = 0;
    const ended: string[] = [];
    const store = new PaymentStore({
      connection: centre.database.appOptions,
      shard: 0,
      worker: '00000000-0000-0000-0000-000000000001',
      leaseMs: () => 1000,
      batchMax: 10,
      waitMsMax: 1000,
      onContradiction: () => {
        contradictions += 1;
      },
      onEnded: (providerId, code) => ended.push(`${providerId} ${code}`),
    });
    const { transactionId } = await centre.pay(payRequest());
    const settle = (to: typeof State.succeeded | typeof State.failed, code: number) =>
      store.settle({
        ...{ transactionId: transactionId!, agentId: demoAgent, to, code, from: open, fence: null },
        ...{ reason: null, reference: null, shown: null, what: null, nextMs: 0, acknowledged: false },
        ...{ event: { kind: 'provider_status', data: {} }, leaseId: null, providerId: 'demo' },
      });
    await settle(State.succeeded, 0);
    expect(contradictions).toBe(0);
    await settle(State.failed, 7);
    expect(contradictions).toBe(1);
    // Ended by the centre's own store.
    expect(ended).toEqual([]);
    const { rows } = await centre.owner.query(
      "select count(*)::int as n from payment_events where payment_id = $1 and kind = 'not_moved'",
      [transactionId],
    );
    expect(rows[0].n).toBe(1);
    await store.close();
  });
});

/** Lines of a centre and its edge at the level debug, as they would be written. */
async function withLines(
  work: (told: {
    readonly token: string;
    readonly lines: Record<string, unknown>[];
    post(
      method: string,
      body: object | string,
      token?: string,
    ): Promise<{ result?: number; transactionId?: number }>;
  }) => Promise<void>,
): Promise<void> {
  const lines: Record<string, unknown>[] = [];
  // Providers may say anything about a payer; it belongs into the payment's history only.
  const wrapSender = (sender: Sender): Sender => {
    const gossip = async <T extends { record: CallRecord }>(call: Promise<T>): Promise<T> => {
      const told = await call;
      return { ...told, record: { ...told.record, detail: 'Zhanabergenova has moved' } };
    };
    return {
      ...sender,
      check: (...asked) => gossip(sender.check(...asked)),
      pay: (...asked) => gossip(sender.pay(...asked)),
      status: (...asked) => gossip(sender.status(...asked)),
    };
  };
  const log = pino({ level: 'debug', base: null }, { write: (line) => lines.push(JSON.parse(line)) });
  const centre = await openCentre({
    answerMsMax: 300,
    settleMs: 100,
    payWaitMs: 2000,
    parts: { log, wrapSender },
  });
  const { tokenId, token } = await createToken(centre.pool, demoAgent, 'lines', 'op');
  await confirmToken(centre.pool, tokenId, 'op');
  const app = buildServer({
    config: { ...testConfig, prefixes: [] },
    useCases: centre.centre.useCases,
    reference: () => centre.watch.current().reference,
    directory: centre.watch.directory,
    logger: log,
  });
  const send = (method: string, payload: string, as: string) =>
    app.inject({
      method: 'POST',
      url: `/api/v20/${method}`,
      headers: { authorization: `Bearer ${as}`, 'content-type': 'application/json' },
      payload,
    });
  try {
    await expect.poll(async () => (await send('balance', '', token)).statusCode, { timeout: 5000 }).toBe(200);
    lines.length = 0;
    await work({
      token,
      lines,
      post: async (method, body, as = token) =>
        JSON.parse((await send(method, typeof body === 'string' ? body : JSON.stringify(body), as)).payload),
    });
  } finally {
    await app.close();
    await centre.close();
  }
}

const payBody = (id: number, over: object = {}) => ({
  ...{ serviceId: 'P1011', account: '7770017711', agentTransactionId: id },
  ...{ agentTransactionDate: '2026-02-17T16:48:37', amountTo: 200, ...over },
});

describe('log lines', () => {
  test('one payment can be followed by its transactionId from the request to its end, over the queue', async () => {
    await withLines(async ({ post, lines }) => {
      // Executed, and the answer cut: the first answer is 1, and the queue finds out.
      const body = payBody(70_001, { account: '7770000090' });
      const first = await post('pay', body);
      expect(first.result).toBe(1);
      await expect.poll(async () => (await post('pay', body)).result, { timeout: 10_000 }).toBe(0);
      const id = String(first.transactionId);
      const own = lines.filter((line) => line.transactionId === id);
      const told = own.map(({ msg, call, outcome, what, code, fresh, moved }) =>
        [msg, call, outcome, what, code, fresh, moved].filter((each) => each !== undefined).join(' '),
      );
      expect(told.slice(0, 4)).toEqual([
        'claimed 1 true',
        'provider called pay unknown 1',
        'settled 1 true',
        'answered 1',
      ]);
      const queue = told.slice(4).filter((line) => !/^(answered|claimed) \d/.test(line));
      expect(queue).toEqual(
        expect.arrayContaining([
          'claimed from the queue inquire',
          'provider called status executed',
          'settled 0 true',
        ]),
      );
      expect(told.at(-1)).toBe('answered 0');
      // The request's own id ties to it what was told before there was a transactionId: the inquiry.
      const reqIds = new Set(own.slice(0, 4).map(({ reqId }) => reqId));
      expect(reqIds.size).toBe(1);
      const [reqId] = reqIds;
      const request = lines.filter((line) => line.reqId === reqId).map(({ msg, call }) => [msg, call]);
      expect(request[0]).toEqual(['provider called', 'check']);
      expect(request.length).toBe(5);
    });
  });

  test('hold nothing personal and nothing secret, whatever the payment comes to', async () => {
    await withLines(async ({ post, lines, token }) => {
      const marks = ['765432', 'Zhanabergenova', '900417300555', 'extramark', '83920017', token, 'Test fio'];
      const personal = { fullName: 'Zhanabergenova Aigul', identityCard: '900417300555' };
      const endings = [
        '1111',
        '0005',
        '0007',
        '0090',
        '0091',
        '0092',
        '0093',
        '0094',
        '0095',
        '0096',
        '0001',
        '0002',
      ];
      await Promise.all(
        endings.map((ending, index) =>
          post('pay', payBody(80_000 + index, { account: `765432${ending}`, ...personal })),
        ),
      );
      await post(
        'check',
        payBody(80_100, { serviceId: 'P1012', account: '7654321111', ev_account1: '8392001700' }),
      );
      await post(
        'pay',
        payBody(80_101, {
          serviceId: 'P1012',
          account: '7654321111',
          ev_account1: '8392001700',
          amountTo: 20000,
        }),
      );
      await post('pay', payBody(80_102, { account: '7654321x', ev_any: 'extramark', ...personal }));
      await post('pay', payBody(80_103, { serviceId: 'extramark' }));
      await post('pay', `{"account":"7654321","fullName":"Zhanabergenova`);
      await post('operatorByPhone', { phoneNumber: '7654321000' });
      await post('pay', payBody(80_104), `wrong-${token}`);
      // The queue's turn on what was cut or left open.
      await expect
        .poll(() => lines.some(({ msg, code }) => msg === 'settled' && code === 0), { timeout: 10_000 })
        .toBe(true);
      await sleep(1500);
      expect(lines.filter(({ msg }) => msg === 'provider called').length).toBeGreaterThan(15);
      const found = lines
        .map((line) => JSON.stringify(line))
        .filter((line) => marks.some((mark) => line.includes(mark)));
      expect(found).toEqual([]);
    });
  });
});

describe('the process', () => {
  let scene: Scene;
  let server: Server;
  let monitor: string;
  let metrics: string;
  const get = async (path: string, method = 'GET') => {
    const answer = await fetch(`${monitor}${path}`, { method, signal: AbortSignal.timeout(5000) });
    return { status: answer.status, text: await answer.text() };
  };
  const readyz = async () => {
    const { status, text } = await get('/readyz');
    const { ready, checks } = JSON.parse(text) as { ready: boolean; checks: { name: string; ok: boolean }[] };
    return { status, ready, failing: checks.filter(({ ok }) => !ok).map(({ name }) => name), checks };
  };
  const pay = async (id: number, over: object = {}) => {
    const client = new Client(await server.ready);
    try {
      return await ask(client, scene.callers[0]!.token, JSON.stringify(payBody(id, over)));
    } finally {
      await client.close();
    }
  };
  beforeAll(async () => {
    scene = await openScene({ agents: 1, fundsMinor: 1_000_000n });
    await scene.owner.query('update tariff_lines set fee_fixed_minor = 700');
    await scene.owner.query(
      "insert into provider_deposits (provider_id, currency, amount_minor, document, operator) values ('sandbox', 'KZT', 900, '1', 'op')",
    );
    server = scene.start({ port: 0, env: { TOLEM_LOG_LEVEL: 'debug' } });
    monitor = await server.monitor;
  });
  afterAll(() => scene.close());

  test('answers that it lives and that it is ready, and nothing else', async () => {
    expect(await get('/healthz')).toEqual({ status: 200, text: '{"status":"ok"}\n' });
    const { status, ready, checks } = await readyz();
    expect({ status, ready, names: checks.map(({ name }) => name) }).toEqual({
      status: 200,
      ready: true,
      names: ['serving', 'database', 'migrations', 'lanes', 'loops'],
    });
    expect((await get('/')).status).toBe(404);
    expect((await get('/api/v20/pay', 'POST')).status).toBe(404);
    expect((await get('/metrics', 'POST')).status).toBe(405);
    // The agents' port has none of it.
    const agents = await server.ready;
    expect((await fetch(`${agents}/metrics`)).status).toBe(404);
    expect((await fetch(`${agents}/readyz`)).status).toBe(404);
  });

  test('counts answers, calls, batches and money', async () => {
    expect((await pay(1)).code).toBe(0);
    expect((await pay(1)).code).toBe(0);
    expect((await pay(2, { account: '7770000007' })).code).toBe(7);
    expect((await pay(3, { amountTo: 50_000 })).code).toBe(220);
    expect((await pay(40, { serviceId: 'NONE' })).code).toBe(130);
    expect((await fetch(`${await server.ready}/api/v20/pay`)).status).toBe(405);
    expect((await fetch(`${await server.ready}/api/v20/pay`, { method: 'POST' })).status).toBe(401);
    metrics = (await get('/metrics')).text;
    const { agentId } = scene.callers[0]!;
    const requests = (labels: Record<string, string>) => seriesValue(metrics, 'tolem_requests_total', labels);
    expect(requests({ method: 'pay', status: '200', code: '0' })).toBe(2);
    expect(requests({ method: 'pay', status: '200', code: '7' })).toBe(1);
    expect(requests({ method: 'pay', status: '200', code: '220' })).toBe(1);
    expect(requests({ method: 'pay', status: '401', code: 'none' })).toBe(1);
    expect(requests({ method: 'pay', status: '405', code: 'none' })).toBe(1);
    expect(seriesValue(metrics, 'tolem_request_duration_seconds_count', { method: 'pay' })).toBe(6);
    const ended = (provider: string, code: string) =>
      seriesValue(metrics, 'tolem_payments_ended_total', { provider, code });
    expect([ended('sandbox', '0'), ended('sandbox', '7'), ended('none', '130')]).toEqual([1, 1, 1]);
    const calls = (call: string, outcome: string) =>
      seriesValue(metrics, 'tolem_provider_calls_total', { provider: 'sandbox', call, outcome });
    expect([calls('check', 'ok'), calls('pay', 'executed'), calls('pay', 'refused')]).toEqual([3, 1, 1]);
    expect(seriesValue(metrics, 'tolem_provider_call_duration_seconds_count', { call: 'pay' })).toBe(2);
    expect(seriesValue(metrics, 'tolem_provider_calls_under_way', { provider: 'sandbox' })).toBe(0);
    expect(seriesValue(metrics, 'tolem_lane_batch_size_sum', { lane: 'accept' })).toBe(4);
    expect(seriesValue(metrics, 'tolem_lane_wait_seconds_count', { lane: 'settle' })).toBe(2);
    // Twice 200.00 and a fee of 7.00 were set aside, and once they came back.
    const spent = seriesValue(metrics, 'tolem_agent_spent_minor_total', { agent: String(agentId) })!;
    const returned = seriesValue(metrics, 'tolem_agent_returned_minor_total', { agent: String(agentId) })!;
    expect(spent).toBe(41_400);
    expect(returned).toBe(20_700);
    const left = await scene.owner.query('select available_minor from agent_balances where agent_id = $1', [
      agentId,
    ]);
    expect(Number(left.rows[0].available_minor)).toBe(1_000_000 - (spent - returned));
    expect(seriesValue(metrics, 'tolem_agent_short_answers_total', { agent: String(agentId) })).toBe(1);
    const deposit = { provider: 'sandbox', currency: 'KZT' };
    expect(seriesValue(metrics, 'tolem_provider_deposit_minor', deposit)).toBe(900 - 20_000);
    expect(seriesValue(metrics, 'tolem_ready')).toBe(1);
    expect(seriesValue(metrics, 'tolem_build_info', { node: process.versions.node })).toBe(1);
    expect(seriesValue(metrics, 'process_resident_memory_bytes')).toBeGreaterThan(1e7);
  });

  test('the dashboard and the alerts name only metrics and labels that are there', async () => {
    // A young process may not have collected garbage yet; each page makes some.
    await expect
      .poll(async () => (metrics = (await get('/metrics')).text), { timeout: 30_000, interval: 20 })
      .toContain('nodejs_gc_duration_seconds_sum');
    const known = new Map<string, Set<string>>([['up', new Set(['job', 'instance'])]]);
    for (const { name, labels } of samples(metrics)) {
      known.set(name, new Set([...(known.get(name) ?? ['job', 'instance']), ...Object.keys(labels)]));
    }
    const wrong: string[] = [];
    for (const expression of [...alertExpressions(), ...panelExpressions()]) {
      const names = [...expression.matchAll(/\b((?:tolem|nodejs|process)_\w+|up)\b(?:\{([^}]*)\})?/g)];
      if (names.length === 0) wrong.push(`no metric: ${expression}`);
      const anywhere = new Set(names.flatMap(([, name]) => [...(known.get(name!) ?? [])]));
      for (const [, name, matchers = ''] of names) {
        if (!known.has(name!)) wrong.push(`${name}: ${expression}`);
        for (const [, label] of matchers.matchAll(/(\w+) *(?:=~|!~|!=|=)/g))
          if (!known.get(name!)?.has(label!)) wrong.push(`${name}{${label}}: ${expression}`);
      }
      for (const [, list] of expression.matchAll(/\bby \(([^)]*)\)/g))
        for (const label of list!.split(', '))
          if (!anywhere.has(label)) wrong.push(`by ${label}: ${expression}`);
    }
    expect(wrong).toEqual([]);
  });

  test('a database that holds back does not hold a scrape, and a lane that stands is seen', async () => {
    const blocker = await scene.owner.connect();
    let stuck: ReturnType<typeof pay> | null = null;
    try {
      await blocker.query('begin');
      await blocker.query('lock table waiting in access exclusive mode');
      stuck = pay(4);
      let slowest = 0;
      await expect
        .poll(
          async () => {
            const startedAt = performance.now();
            const { text } = await get('/metrics');
            slowest = Math.max(slowest, performance.now() - startedAt);
            return seriesValue(text, 'tolem_database_up');
          },
          { timeout: 15_000, interval: 200 },
        )
        .toBe(0);
      expect(slowest).toBeLessThan(3000);
      await expect.poll(async () => (await readyz()).failing, { timeout: 10_000 }).toEqual(['lanes']);
      expect(await readyz()).toMatchObject({ status: 503, ready: false });
    } finally {
      await blocker.query('rollback');
      blocker.release();
    }
    // It went on after the agent was answered 1.
    expect((await stuck)?.code).toBe(1);
    await expect.poll(async () => (await pay(4)).code, { timeout: 10_000 }).toBe(0);
    await expect.poll(async () => (await readyz()).status, { timeout: 15_000 }).toBe(200);
  });

  test('a port in use is one line that names the setting', async () => {
    const second = scene.start({ port: 0, env: { TOLEM_MONITOR_PORT: new URL(monitor).port } });
    expect(await second.ended).toMatchObject({ code: 1 });
    expect(second.said().match(/^tolem: .*$/gm)).toEqual([
      `tolem: port ${new URL(monitor).port} on 127.0.0.1 is in use: stop what listens there or set TOLEM_MONITOR_PORT`,
    ]);
  });

  test('while it drains it is alive and not ready', async () => {
    const slow = pay(5, { account: '7770000092' });
    await sleep(200);
    server.signal('SIGTERM');
    await expect
      .poll(async () => (await readyz()).failing, { timeout: 3000, interval: 10 })
      .toEqual(expect.arrayContaining(['serving']));
    expect((await get('/healthz')).status).toBe(200);
    expect((await slow).code).toBe(1);
    expect((await server.ended).code).toBe(0);
    await expect(fetch(`${monitor}/healthz`)).rejects.toThrow();
  });

  test('OpenTelemetry is loaded only where a collector is named, and there is no monitor where it is off', async () => {
    const directory = temporaryDirectory();
    const probe = join(directory, 'probe.cjs');
    writeFileSync(
      probe,
      `process.on('exit', () => require('node:fs').writeFileSync(
         ${JSON.stringify(directory)} + '/' + process.env.PROBE,
         Object.keys(require('node:module')._cache).join('\\n')));`,
    );
    const loaded = async (name: string, env: Record<string, string>) => {
      const one = scene.start({
        port: 0,
        env: { NODE_OPTIONS: `--require ${probe}`, PROBE: name, TOLEM_MONITOR_PORT: 'off', ...env },
      });
      expect(await one.monitor).toBeUndefined();
      one.signal('SIGTERM');
      await one.ended;
      const paths = readFileSync(join(directory, name), 'utf8').matchAll(/@opentelemetry\/([\w-]+)/g);
      return [...new Set([...paths].map(([, each]) => each!))];
    };
    // prom-client itself brings the api.
    expect(await loaded('without', {})).toEqual(['api']);
    expect(
      await loaded('disabled', {
        OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:9',
        OTEL_SDK_DISABLED: 'true',
      }),
    ).toEqual(['api']);
    expect(await loaded('with', { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:9' })).toEqual(
      expect.arrayContaining(['sdk-trace', 'exporter-trace-otlp-http']),
    );
    rmSync(directory, { recursive: true });
  });

  test('a payment is one trace: the request, and in it accept, the call, settle; a queue step has the same id', async () => {
    interface SentSpan {
      readonly traceId: string;
      readonly spanId: string;
      readonly parentSpanId?: string;
      readonly name: string;
      readonly attributes: readonly { readonly key: string; readonly value: Record<string, unknown> }[];
    }
    const received: string[] = [];
    const paths = new Set<string>();
    const collector = createHttpServer(async (request, response) => {
      paths.add(request.url!);
      const chunks: Buffer[] = [];
      for await (const chunk of request) chunks.push(chunk);
      received.push(Buffer.concat(chunks).toString());
      response.writeHead(200, { 'content-type': 'application/json' }).end('{}');
    }).listen(0, '127.0.0.1');
    await once(collector, 'listening');
    const { port } = collector.address() as AddressInfo;
    server = scene.start({
      port: 0,
      env: { OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}`, OTEL_SERVICE_NAME: 'tolem-test' },
    });
    const personal = { fullName: 'Zhanabergenova Aigul', identityCard: '900417300555' };
    const plain = await pay(10, { account: '7654321111', ...personal });
    const cut = await pay(11, { account: '7654320090', ...personal });
    expect([plain.code, cut.code]).toEqual([0, 1]);
    await expect
      .poll(async () => (await pay(11, { account: '7654320090', ...personal })).code, { timeout: 10_000 })
      .toBe(0);
    server.signal('SIGTERM');
    await server.ended;
    collector.close();

    expect([...paths]).toEqual(['/v1/traces']);
    const resources = received.flatMap((body) => JSON.parse(body).resourceSpans);
    const spans: SentSpan[] = resources.flatMap((each) =>
      each.scopeSpans.flatMap((scope: { spans: SentSpan[] }) => scope.spans),
    );
    expect(JSON.stringify(resources[0].resource)).toContain('tolem-test');
    const facts = ({ attributes }: SentSpan) =>
      Object.fromEntries(attributes.map(({ key, value }) => [key, Object.values(value)[0]]));
    const treeOf = (top: SentSpan) =>
      spans.filter((span) => span.parentSpanId === top.spanId && span.traceId === top.traceId);
    const requests = spans.filter((span) => span.name === 'pay' && !span.parentSpanId);
    const first = (id: string | null) => requests.find((span) => facts(span)['tolem.transaction_id'] === id)!;

    expect(
      treeOf(first(plain.transactionId))
        .map(({ name }) => name)
        .sort(),
    ).toEqual(['accept', 'provider check', 'provider pay', 'settle']);
    expect(facts(first(plain.transactionId))).toMatchObject({
      'tolem.result': 0,
      'tolem.agent_id': String(scene.callers[0]!.agentId),
      'http.response.status_code': 200,
    });
    const call = treeOf(first(plain.transactionId)).find(({ name }) => name === 'provider pay')!;
    expect(facts(call)).toEqual({ 'tolem.provider': 'sandbox', 'tolem.outcome': 'executed' });

    const steps = spans.filter((span) => span.name === 'queue step');
    const last = steps.find((span) => treeOf(span).some(({ name }) => name === 'settle'))!;
    expect(facts(last)).toMatchObject({ 'tolem.transaction_id': cut.transactionId, 'tolem.what': 'inquire' });
    expect(
      treeOf(last)
        .map(({ name }) => name)
        .sort(),
    ).toEqual(['provider status', 'settle']);
    for (const mark of ['765432', 'Zhanabergenova', '900417300555', scene.callers[0]!.token])
      expect(received.join('\n')).not.toContain(mark);
  });
});

interface Rule {
  readonly alert: string;
  readonly expr: string;
}
interface Panel {
  readonly targets?: readonly { readonly expr: string }[];
  readonly panels?: readonly Panel[];
}

const alertsPath = join(root, 'monitoring/alerts.yaml');

function alertExpressions(): string[] {
  const { groups } = parseYaml(readFileSync(alertsPath, 'utf8')) as { groups: { rules: Rule[] }[] };
  return groups.flatMap(({ rules }) => rules.map(({ expr }) => expr));
}

/** As Prometheus is asked, with the dashboard's variables filled in. */
function panelExpressions(): string[] {
  const { panels } = JSON.parse(readFileSync(join(root, 'monitoring/grafana-dashboard.json'), 'utf8'));
  const all = (list: readonly Panel[]): string[] =>
    list.flatMap(({ targets = [], panels = [] }) => [...targets.map(({ expr }) => expr), ...all(panels)]);
  return all(panels).map((expr) => expr.replaceAll('$__rate_interval', '1m').replaceAll('$job', 'tolem'));
}

const hasPromtool = ['/usr/bin/promtool', '/usr/local/bin/promtool'].some(existsSync);

describe.runIf(hasPromtool)('by promtool', () => {
  const directory = temporaryDirectory();
  afterAll(() => rmSync(directory, { recursive: true }));
  const promtool = (...args: string[]) => execFileSync('promtool', args, { encoding: 'utf8', stdio: 'pipe' });

  test('alerts and panels are PromQL', () => {
    expect(promtool('check', 'rules', alertsPath)).toContain('SUCCESS');
    const rules = panelExpressions().map((expr, index) => ({ record: `panel:${index}`, expr }));
    const path = join(directory, 'panels.json');
    writeFileSync(path, JSON.stringify({ groups: [{ name: 'panels', rules }] }));
    expect(promtool('check', 'rules', path)).toContain(`SUCCESS: ${rules.length} rules found`);
  });

  test('the page of metrics is as Prometheus wants it', async () => {
    const metrics = createMetrics({
      version: '1',
      reference: () => aReference(),
      reader: { read: async () => null },
      checks: async () => [],
      now: () => idle,
      agentsMax: 10,
    });
    metrics.answered({ route: 'pay', status: 200, code: 0, ms: 1.5, agentId: '4' });
    metrics.watch.wrote('accept', [{ queuedAt: 1 }], 2, 3);
    const own = (await metrics.text()).split('\n\n').filter((each) => each.includes('tolem_'));
    execFileSync('promtool', ['check', 'metrics'], { input: `${own.join('\n')}\n`, stdio: 'pipe' });
  });

  test('the alerts fire on what they are for, and not on a quiet centre', () => {
    const fire: [alert: string, at: string, series: [string, string][], labels: Record<string, string>][] = [
      [
        'TolemAgentNearLimit',
        '70m',
        [
          // 400 000 and a limit of 100 000; 10 000 a minute go and 1 000 come back: 56 minutes are left.
          ['tolem_agent_available_minor{job="tolem",instance="a",agent="5",currency="KZT"}', '400000x90'],
          ['tolem_agent_credit_limit_minor{job="tolem",instance="a",agent="5",currency="KZT"}', '100000x90'],
          ['tolem_agent_spent_minor_total{job="tolem",instance="a",agent="5",currency="KZT"}', '0+10000x90'],
          [
            'tolem_agent_returned_minor_total{job="tolem",instance="a",agent="5",currency="KZT"}',
            '0+1000x90',
          ],
          // This one has more than a day.
          ['tolem_agent_available_minor{job="tolem",instance="a",agent="6",currency="KZT"}', '90000000x90'],
          ['tolem_agent_credit_limit_minor{job="tolem",instance="a",agent="6",currency="KZT"}', '0x90'],
          ['tolem_agent_spent_minor_total{job="tolem",instance="a",agent="6",currency="KZT"}', '0+10000x90'],
          ['tolem_agent_returned_minor_total{job="tolem",instance="a",agent="6",currency="KZT"}', '0x90'],
        ],
        { severity: 'warning', agent: '5', currency: 'KZT' },
      ],
      [
        'TolemProviderFailing',
        '15m',
        [
          ['tolem_provider_calls_total{provider="acme",call="pay",outcome="executed"}', '0+60x30'],
          ['tolem_provider_calls_total{provider="acme",call="pay",outcome="unknown"}', '0+20x30'],
          ['tolem_provider_calls_total{provider="good",call="pay",outcome="executed"}', '0+60x30'],
          ['tolem_provider_calls_total{provider="good",call="pay",outcome="unknown"}', '0+1x30'],
        ],
        { severity: 'critical', provider: 'acme' },
      ],
      [
        'TolemProviderRefusing',
        '20m',
        [
          ['tolem_payments_ended_total{provider="acme",code="0"}', '0+20x30'],
          ['tolem_payments_ended_total{provider="acme",code="7"}', '0+30x30'],
          ['tolem_payments_ended_total{provider="good",code="0"}', '0+60x30'],
          ['tolem_payments_ended_total{provider="good",code="5"}', '0+20x30'],
          // Agents' own mistakes are nobody's outage.
          ['tolem_payments_ended_total{provider="none",code="8"}', '0+60x30'],
        ],
        { severity: 'warning', provider: 'acme' },
      ],
      [
        'TolemProviderDepositLow',
        '100m',
        [
          // 10 000 a minute of 4 000 000: four hours and a half are left.
          ['tolem_provider_deposit_minor{instance="a",provider="acme",currency="KZT"}', '4000000-10000x120'],
          ['tolem_provider_deposit_minor{instance="a",provider="good",currency="KZT"}', '90000000-10000x120'],
        ],
        { severity: 'warning', provider: 'acme', currency: 'KZT' },
      ],
      [
        'TolemUnknownOutcomesAgeing',
        '5m',
        [['tolem_payments_uncertain_oldest_seconds{instance="a"}', '3590+60x10']],
        { severity: 'warning' },
      ],
      [
        'TolemLaneStalled',
        '5m',
        [
          ['tolem_lane_oldest_seconds{instance="a",lane="settle"}', '0+60x10'],
          ['tolem_lane_oldest_seconds{instance="a",lane="accept"}', '0.01x10'],
        ],
        { severity: 'critical', lane: 'settle' },
      ],
      [
        'TolemAnswers503',
        '5m',
        [['tolem_requests_total{method="pay",status="503",code="1"}', '0 0 5 9 12 20 30']],
        { severity: 'critical' },
      ],
      ['TolemDatabaseAway', '5m', [['tolem_database_up{instance="a"}', '1 0x10']], { severity: 'critical' }],
      [
        'TolemNotReady',
        '5m',
        [['tolem_ready_check{instance="a",check="lanes"}', '1 0x10']],
        { severity: 'critical', instance: 'a', check: 'lanes' },
      ],
      [
        'TolemReviewWaitsLong',
        '5m',
        [['tolem_payments_waiting_oldest_seconds{what="review"}', '3590+60x10']],
        { severity: 'warning' },
      ],
      [
        'TolemContradiction',
        '5m',
        [['tolem_contradictions_open{instance="a"}', '0 0 1x10']],
        { severity: 'critical' },
      ],
    ];
    const quiet = samplesOfQuietCentre();
    const tests = fire.map(([alertname, eval_time, series, exp_labels]) => ({
      interval: '1m',
      input_series: series.map(([name, values]) => ({ series: name, values })),
      // What the alert says is for people; that it fires, and for whom, is compared.
      promql_expr_test: [
        {
          expr: `sum by (${['alertname', 'alertstate', ...Object.keys(exp_labels)].join(', ')}) (ALERTS)`,
          eval_time,
          exp_samples: [
            {
              labels: `{${Object.entries({ alertname, alertstate: 'firing', ...exp_labels })
                .map(([key, value]) => `${key}="${value}"`)
                .join(', ')}}`,
              value: 1,
            },
          ],
        },
      ],
    }));
    const still = {
      interval: '1m',
      input_series: quiet.map((series) => ({
        series,
        values: series.startsWith('tolem_ready') || series.includes('_up') ? '1x60' : '0x60',
      })),
      promql_expr_test: [{ expr: 'ALERTS', eval_time: '50m', exp_samples: [] }],
    };
    const path = join(directory, 'alerts.test.json');
    writeFileSync(path, JSON.stringify({ rule_files: [alertsPath], tests: [...tests, still] }));
    expect(promtool('test', 'rules', path)).toContain('SUCCESS');
  });
});

/** A series of every metric that the alerts look at. */
function samplesOfQuietCentre(): string[] {
  const names = new Set(alertExpressions().flatMap((expr) => expr.match(/\btolem_\w+/g) ?? []));
  return [...names].map(
    (name) =>
      `${name}{job="tolem",instance="a",lane="settle",what="review",loop="queue",check="lanes",provider="p",outcome="unknown",agent="5",currency="KZT",status="503",le="+Inf"}`,
  );
}
