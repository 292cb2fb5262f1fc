/**
 * Ten times more payments arrive than can be done, and they keep arriving whatever is answered: once the provider is
 * what limits, once the database. What fits is done at that pace; the rest is refused at once with a 503 that asks to
 * come again, and is not taken at all.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Pool } from 'undici';
import { verify } from '../../src/ledger/verify.js';
import { payBody } from '../support/crowd.js';
import { executionCounts, type Violation } from '../support/oracle.js';
import { breakFunction, brokenBuild, openScene, type Scene } from '../support/processes.js';
import { experiment, type Lab, mayBeNoise, type Outcome, together } from './lab.js';

const providerMs = 50;
const concurrency = 16;
/** Of each of a payment's two commits, where the database limits. */
const writeMs = 4;
const times = 10;

const goodputRule = 'goodput is at least 80 % of the peak';
const takenRule = 'what is taken is answered within 2 s';
const refusedRule = 'refusals come at once';
const normalRule = 'normal within 30 s';
const notTakenRule = 'what is refused is not taken';
const timed = [goodputRule, takenRule, refusedRule, normalRule];

interface Asked {
  readonly id: bigint;
  readonly ms: number;
  readonly answeredAtMs: number;
  readonly httpStatus: number;
  readonly code: number | null;
  readonly retryAfter: boolean;
}

class Agent {
  private readonly pool: Pool;
  private lastId = 0n;
  /** Every request that got no answer at all. */
  failures = 0;

  constructor(
    baseUrl: string,
    private readonly token: string,
    private readonly lab: Lab,
  ) {
    this.pool = new Pool(baseUrl, { connections: 2000, pipelining: 1 });
  }

  async pay(repeated?: bigint): Promise<Asked | null> {
    this.lastId += repeated === undefined ? 1n : 0n;
    const id = repeated ?? this.lastId;
    const startedAt = performance.now();
    try {
      const answer = await this.pool.request({
        method: 'POST',
        path: '/api/v20/pay',
        headers: { authorization: `Bearer ${this.token}`, 'content-type': 'application/json' },
        body: payBody(id, 5, { serviceId: 'OVER' }),
        headersTimeout: 30_000,
      });
      const text = await answer.body.text();
      const code = /"result":(\d+)/.exec(text)?.[1];
      const answeredAtMs = performance.now();
      const asked = {
        ...{ id, ms: answeredAtMs - startedAt, answeredAtMs, httpStatus: answer.statusCode },
        ...{
          code: code === undefined ? null : Number(code),
          retryAfter: answer.headers['retry-after'] !== undefined,
        },
      };
      this.lab.timeline.answer(
        asked.httpStatus === 503 ? 'unavailable' : asked.code === 0 ? 'final' : 'open',
      );
      return asked;
    } catch {
      this.failures += 1;
      this.lab.timeline.answer('failed');
      return null;
    }
  }

  /** So many at a time, each new one after an answer. */
  async closedLoop(atOnce: number, seconds: number): Promise<Asked[]> {
    const answers: Asked[] = [];
    const endAt = performance.now() + seconds * 1000;
    const one = async () => {
      while (performance.now() < endAt) {
        const asked = await this.pay();
        if (asked) answers.push(asked);
      }
    };
    await Promise.all(Array.from({ length: atOnce }, one));
    return answers;
  }

  /** So many a second, whatever is answered, and when the last one was sent. */
  async openLoop(perSecond: number, seconds: number): Promise<{ answers: Asked[]; endedAtMs: number }> {
    const pending: Promise<Asked | null>[] = [];
    const answers: Asked[] = [];
    const startedAt = performance.now();
    for (let sent = 0; performance.now() - startedAt < seconds * 1000; ) {
      const due = Math.floor(((performance.now() - startedAt) / 1000) * perSecond);
      for (; sent < due; sent += 1) {
        pending.push(
          this.pay().then((asked) => {
            if (asked) answers.push(asked);
            return asked;
          }),
        );
      }
      await sleep(5);
    }
    const endedAtMs = performance.now();
    await Promise.all(pending);
    return { answers, endedAtMs };
  }

  close(): Promise<void> {
    return this.pool.destroy();
  }
}

/** What there is too little of. */
interface Limit {
  readonly what: string;
  readonly impose: (scene: Scene) => Promise<void>;
}

const provider: Limit = { what: 'provider', impose: (scene) => addService(scene, concurrency) };

const database: Limit = {
  what: 'database',
  impose: async (scene) => {
    await addService(scene, 1000);
    const start = /\nbegin\n/;
    const slowly = `\nbegin\n  perform pg_sleep(${writeMs / 1000} * cardinality(p_agent_id));\n`;
    for (const name of ['accept_payments', 'settle_payments'])
      await breakFunction(scene.owner, name, start, slowly);
  },
};

/** A provider that takes so many at once, so long for each. */
async function addService({ owner, sandbox }: Scene, concurrencyMax: number): Promise<void> {
  await owner.query(
    `insert into providers (provider_id, name, connector, settings) values ('narrow', 'Narrow', 'sandbox', $1)`,
    [{ baseUrl: sandbox.url, concurrencyMax }],
  );
  await owner.query(
    `insert into services (service_id, position, type, name, inputs, provider_id, provider_service_code, currency,
       amount_min_minor, amount_max_minor, inquiry_required)
     select 'OVER', 5000, type, name, inputs, 'narrow', 'mobile', currency, amount_min_minor, amount_max_minor, false
     from services where service_id = 'P1011'`,
  );
}

async function overload(lab: Lab, limit: Limit, seconds: number, build?: string): Promise<Outcome> {
  const scene = await openScene({
    agents: 1,
    fundsMinor: 1_000_000_000_00n,
    sandbox: { delayMs: providerMs },
  });
  const violations: Violation[] = [];
  const expectThat = (rule: string, holds: boolean, found: string) => {
    if (!holds) violations.push({ rule, object: limit.what, found });
  };
  try {
    await limit.impose(scene);
    const server = scene.start({ port: 0, build, env: { TOLEM_PAY_WAIT_MS: '8000' } });
    const agent = new Agent(await server.ready, scene.callers[0]!.token, lab);

    await agent.closedLoop(concurrency * 2, 2);
    const calm = await agent.closedLoop(concurrency * 2, 4);
    const peak = calm.filter(({ code }) => code === 0).length / 4;
    const calmP99 = percentile(calm, 0.99);
    lab.say(
      `the ${limit.what} limits: peak ${peak.toFixed(0)}/s, p99 ${calmP99.toFixed(0)} ms; now ${times} times as many`,
    );

    lab.timeline.fault(`${times} × what the ${limit.what} can`);
    const { answers, endedAtMs } = await agent.openLoop(peak * times, seconds);
    lab.timeline.fault('arrivals end');
    const refused = answers.filter(({ httpStatus }) => httpStatus === 503);
    const taken = answers.filter(({ httpStatus }) => httpStatus === 200);
    const done = taken.filter(({ code }) => code === 0);
    const inTime = done.filter(({ answeredAtMs }) => answeredAtMs <= endedAtMs);
    const goodput = inTime.length / seconds;
    expectThat(goodputRule, goodput >= 0.8 * peak, `${goodput.toFixed(0)}/s of ${peak.toFixed(0)}/s`);
    const takenP99 = percentile(taken, 0.99);
    expectThat(takenRule, takenP99 <= 2000, `p99 ${takenP99.toFixed(0)} ms`);
    expectThat(
      'what is taken is done',
      done.length >= 0.99 * taken.length,
      `${taken.length - done.length} of ${taken.length} open`,
    );
    const refusedP99 = percentile(refused, 0.99);
    expectThat(refusedRule, refusedP99 <= 250, `p99 ${refusedP99.toFixed(0)} ms`);
    const unclear = refused.filter(({ code, retryAfter }) => code !== 1 || !retryAfter).length;
    expectThat('a refusal says 1 and when to come again', unclear === 0, `${unclear} do not`);
    expectThat('everybody is answered', agent.failures === 0, `${agent.failures} were not`);
    expectThat(
      'the fault hits',
      refused.length > answers.length / 2,
      `${refused.length} of ${answers.length} refused`,
    );
    const { rows } = await scene.owner.query<{ count: number }>(
      'select count(*)::int as count from payments where agent_transaction_id = any ($1)',
      [refused.map(({ id }) => id)],
    );
    expectThat(notTakenRule, rows[0]!.count === 0, `${rows[0]!.count} were`);

    // What comes after only makes sense when it held so far.
    if (violations.length > 0 && !mayBeNoise(violations, timed)) return { violations, figures: {} };

    let normalMs = Number.POSITIVE_INFINITY;
    while (normalMs === Number.POSITIVE_INFINITY && performance.now() - endedAtMs < 30_000) {
      const after = await agent.closedLoop(concurrency, 1);
      const well =
        after.every(({ code }) => code === 0) && percentile(after, 0.99) <= Math.max(1.5 * calmP99, 250);
      if (well) normalMs = performance.now() - endedAtMs;
    }
    expectThat(normalRule, normalMs <= 30_000, 'not so');

    // Who was refused comes again, and what was left open ends.
    const again = [...taken.filter(({ code }) => code !== 0), ...refused.slice(0, 300)];
    let left = again.map(({ id }) => id);
    for (const untilAt = performance.now() + 60_000; left.length > 0 && performance.now() < untilAt; ) {
      const portion = left.slice(0, 200);
      const ends = await Promise.all(portion.map((id) => agent.pay(id)));
      left = [...portion.filter((_, index) => ends[index]?.code !== 0), ...left.slice(200)];
    }
    expectThat('who comes again is served', left.length === 0, `${left.length} were not`);
    await agent.close();

    const executed = executionCounts(await scene.sandbox.registry());
    const twice = [...executed].filter(([, count]) => count > 1);
    expectThat('nothing is executed twice', twice.length === 0, `${twice.length} were`);
    for (const { what, object } of (await verify(scene.owner)).problems)
      violations.push({ rule: 'the books agree with themselves', object, found: what });
    return {
      violations,
      figures: {
        'peak, payments/s': Math.round(peak),
        'arrivals/s': Math.round(answers.length / seconds),
        'done, payments/s': Math.round(goodput),
        'taken p99, ms': Math.round(takenP99),
        'refused p99, ms': Math.round(refusedP99),
        'normal after, s': Math.round(normalMs / 100) / 10,
      },
    };
  } finally {
    await scene.close();
  }
}

function percentile(answers: readonly Asked[], share: number): number {
  const sorted = answers.map(({ ms }) => ms).sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
}

experiment({
  number: 14,
  name: 'ten times more than fits',
  timed,
  minutesMax: { short: 6, full: 30 },
  run: async (lab) => {
    const seconds = lab.size(8, 300);
    const byProvider = await overload(lab, provider, seconds);
    return together({ provider: byProvider, database: await overload(lab, database, seconds) });
  },
  controls: [
    {
      broken: 'a build that takes whatever comes for a provider',
      rule: 'what is taken is done',
      run: (lab) =>
        overload(
          lab,
          provider,
          8,
          brokenBuild([
            {
              file: 'providers/send.js',
              from: "return line.isBehind ? 'behind' : 'well';",
              to: "return 'well';",
            },
          ]),
        ),
    },
    {
      broken: 'a build that goes by how long the oldest payment has waited, and not by how many there are',
      rule: notTakenRule,
      run: (lab) =>
        overload(
          lab,
          database,
          6,
          brokenBuild([
            {
              file: 'db/lane.js',
              from: 'return Math.max(atPace, this.oldestMs);',
              to: 'return this.oldestMs;',
            },
          ]),
        ),
    },
  ],
});
