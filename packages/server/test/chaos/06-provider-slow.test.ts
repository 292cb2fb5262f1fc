/**
 * One provider becomes slow: it answers after 0.1 to 120 s, short times as often as long ones, and one answer in twenty
 * never comes. Two others stay well. Agents of the others must not notice, and those of the slow one are told 1 in
 * time. The provider does its work at once and is slow to say so; inquiries are as slow as payments.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type AnswerKind, Crowd, countsText, type Fate, plainFate } from '../support/crowd.js';
import { type FaultProxy, startFaultProxy, type Treatment } from '../support/fault-proxy.js';
import { judge, type Violation } from '../support/oracle.js';
import { brokenBuild, openScene, type Scene } from '../support/processes.js';
import { experiment, type Lab, type Outcome } from './lab.js';

const processes = 3;
const agents = { slow: 120, well: 20 };
const wellServices = ['WELL1', 'WELL2'] as const;
const hangShare = 0.05;
/** Of the provider's slow answers, as a share of the longest one. */
const shortest = 0.1 / 120;
const p99TimesMax = 1.5;

const paceRule = 'other providers keep their pace';
const waitRule = 'the agent is answered within its wait';

/** All times in milliseconds; the short form's are a fifth of the full one's. */
interface Times {
  readonly payWaitMs: number;
  readonly answerMsMax: number;
  readonly delayMsMax: number;
  readonly undisturbedMs: number;
  readonly disturbedMs: number;
}

async function slowDown(lab: Lab, times: Times, build?: string): Promise<Outcome> {
  const { payWaitMs, answerMsMax } = times;
  const scene = await openScene({
    agents: agents.slow + agents.well * wellServices.length,
    fundsMinor: 10_000_000_00n,
    sandbox: { delayMs: 5 },
    provider: { answerMsMax },
    env: { TOLEM_PAY_WAIT_MS: String(payWaitMs) },
  });
  const proxy = await startFaultProxy(scene.sandbox.url, 0);
  try {
    await addWellProviders(scene);
    await scene.owner.query(
      `update providers set settings = settings || $1 where provider_id = (
         select provider_id from services where service_id = 'P1011')`,
      [{ baseUrl: proxy.url, concurrencyMax: 32 }],
    );
    return await comparePaces(lab, scene, proxy, times, build);
  } finally {
    proxy.close();
    await scene.close();
  }
}

/** The same sandbox, asked directly. */
async function addWellProviders({ owner, sandbox }: Scene): Promise<void> {
  for (const [index, serviceId] of wellServices.entries()) {
    await owner.query(
      `insert into providers (provider_id, name, connector, settings) values ($1, $1, 'sandbox', $2)`,
      [serviceId.toLowerCase(), { baseUrl: sandbox.url }],
    );
    await owner.query(
      `insert into services (service_id, position, type, name, inputs, provider_id, provider_service_code, currency,
         amount_min_minor, amount_max_minor, inquiry_required)
       select $1, 6000 + $3, type, $1, inputs, $2, provider_service_code, currency, amount_min_minor, amount_max_minor,
         inquiry_required
       from services where service_id = 'P1011'`,
      [serviceId, serviceId.toLowerCase(), index],
    );
  }
}

async function comparePaces(
  lab: Lab,
  scene: Scene,
  proxy: FaultProxy,
  times: Times,
  build: string | undefined,
): Promise<Outcome> {
  const { callers, owner, fundsMinor } = scene;
  const servers = Array.from({ length: processes }, () => scene.start({ port: 0, build }));
  const ports = (await Promise.all(servers.map((each) => each.ready))).map((url) =>
    Number(new URL(url).port),
  );

  /** Where the times of the well providers' answers go now; before the first part, nowhere. */
  let part: number[] | null = null;
  const slowAnswers: Record<AnswerKind, number> = { final: 0, open: 0, unavailable: 0, failed: 0 };
  let slowestMs = 0;
  const fates: readonly Fate[] = [plainFate];
  const crowdOf = (from: number, count: number, thinkMsMax: number, serviceId: string, seen: typeof note) =>
    new Crowd({
      ...{ ports, callers: callers.slice(from, from + count), fates, thinkMsMax, serviceId },
      onAnswer(kind, ms) {
        lab.timeline.answer(kind);
        seen(kind, ms);
      },
    });
  const note = (kind: AnswerKind, ms: number) => {
    // Some agents hang up early by themselves.
    if (kind !== 'failed') part?.push(ms);
  };
  const slow = crowdOf(0, agents.slow, 3000, 'P1011', (kind, ms) => {
    slowAnswers[kind] += 1;
    slowestMs = Math.max(slowestMs, ms);
  });
  const well = wellServices.map((serviceId, index) =>
    crowdOf(agents.slow + index * agents.well, agents.well, 250, serviceId, note),
  );
  const measure = async (ms: number) => {
    const answers: number[] = [];
    part = answers;
    await sleep(ms);
    part = null;
    return answers;
  };

  // Compiled, planned and connected before anything is counted.
  await sleep(3000);
  const before = await measure(times.undisturbedMs);
  lab.timeline.fault('slow');
  proxy.follow({ exchange: () => slowness(times.delayMsMax) });
  const answers = await measure(times.disturbedMs);
  lab.timeline.fault('well again');
  proxy.follow({});
  const healedAtMs = performance.now();
  // What the slow time left is worked off before the second look.
  await sleep(times.payWaitMs + times.answerMsMax);
  const undisturbed = p99([...before, ...(await measure(times.undisturbedMs))]);
  const disturbed = p99(answers);
  const bound = times.payWaitMs + 500;

  await Promise.all([slow, ...well].map((each) => each.finish(60_000)));
  const finishedMs = Math.round(performance.now() - healedAtMs);
  const payments = [slow, ...well].flatMap((each) => each.payments);
  const registry = await scene.sandbox.registry();
  const violations: Violation[] = await judge({ payments, registry, owner, callers, fundsMinor });
  const violate = (rule: string, object: string, found: string) => violations.push({ rule, object, found });
  if (answers.length === 0 || disturbed > p99TimesMax * undisturbed) {
    const found = `${disturbed.toFixed(1)} ms instead of ${undisturbed.toFixed(1)} ms`;
    violate(paceRule, `p99 of ${answers.length} answers`, found);
  }
  // Where too many wait for it already, a payment is not taken; that is seldom.
  const { unavailable, open } = slowAnswers;
  if (unavailable > 0.02 * open)
    violate('the slow provider is told as 1', 'slow provider', `${unavailable} answers 503, ${open} with 1`);
  if (slowestMs > bound) violate(waitRule, 'slow provider', `${Math.round(slowestMs)} ms`);
  const [late, hung] = [proxy.count('the caller has gone'), proxy.count('hang')];
  const hits = { delayed: proxy.count('delayed'), late, hung };
  for (const [object, count] of Object.entries(hits))
    if (count < 5) violate('the fault hits', object, String(count));
  return {
    violations,
    figures: {
      payments: payments.length,
      'well p99 undisturbed, ms': undisturbed.toFixed(1),
      'well p99 disturbed, ms': disturbed.toFixed(1),
      'well answers disturbed': answers.length,
      'slow: longest wait, ms': Math.round(slowestMs),
      'slow: answers': countsText(Object.entries(slowAnswers)),
      ...hits,
      'all final after, ms': finishedMs,
    },
  };
}

function slowness(delayMsMax: number): Treatment {
  if (Math.random() < hangShare) return { cut: { at: 'answered', by: 'hang' } };
  return { delayMs: Math.round(delayMsMax * shortest ** Math.random()) };
}

function p99(times: readonly number[]): number {
  return times.toSorted((a, b) => a - b)[Math.floor(times.length * 0.99)] ?? 0;
}

const shortTimes: Times = {
  ...{ payWaitMs: 1600, answerMsMax: 2000, delayMsMax: 24_000 },
  ...{ undisturbedMs: 4000, disturbedMs: 8000 },
};
const fullTimes: Times = {
  ...{ payWaitMs: 8000, answerMsMax: 10_000, delayMsMax: 120_000 },
  ...{ undisturbedMs: 60_000, disturbedMs: 300_000 },
};
const controlTimes: Times = { ...shortTimes, undisturbedMs: 2500, disturbedMs: 5000 };

experiment({
  number: 6,
  name: 'a provider is slow',
  timed: [paceRule, waitRule],
  minutesMax: { short: 6, full: 40 },
  run: (lab) => slowDown(lab, lab.size(0, 1) === 1 ? fullTimes : shortTimes),
  controls: [
    {
      broken: 'a build in which all providers share one line of 16 calls',
      rule: paceRule,
      run: (lab) =>
        slowDown(
          lab,
          controlTimes,
          brokenBuild([
            {
              file: 'providers/send.js',
              from: 'const reply = mayGo ? await line.send(request, sendBefore) : closed;',
              to: `const shared = (globalThis.sharedLine ??= { free: 16, waiting: [] });
                   if (shared.free > 0) shared.free -= 1;
                   else await new Promise((go) => shared.waiting.push(go));
                   const reply = mayGo ? await line.send(request, sendBefore) : closed;
                   const next = shared.waiting.shift();
                   if (next) next();
                   else shared.free += 1;`,
            },
          ]),
        ),
    },
    {
      broken: 'a build that waits for an inquiry as long as it takes',
      rule: waitRule,
      run: (lab) =>
        slowDown(
          lab,
          controlTimes,
          brokenBuild([
            {
              file: 'payments/pay.js',
              from: 'progress.tell = () => this.number(agent, request, service);',
              to: '',
            },
          ]),
        ),
    },
  ],
});
