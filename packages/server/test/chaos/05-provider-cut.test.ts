/**
 * The way to the provider is cut, in five kinds: no connection comes about, the request is lost, the answer is lost,
 * half of the answer's body comes, the connection is reset at any moment. Payments and status inquiries are cut alike,
 * and a payment may be cut again and again. What became of it is only what the provider has said in a whole answer.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Crowd, everyFate, type Fate, type Payment, plainFate } from '../support/crowd.js';
import {
  callOf,
  type FaultProxy,
  type Manner,
  type Moment,
  moments,
  type Plan,
  startFaultProxy,
} from '../support/fault-proxy.js';
import { judge, type Violation } from '../support/oracle.js';
import { brokenBuild, openScene, type Scene } from '../support/processes.js';
import { experiment, type Lab, type Outcome } from './lab.js';

const processes = 3;
/** As openScene sets the provider's record. */
const notFoundTrustedAfterMs = 1000;
/** Of the calls that meet a fault. */
const share = { pay: 0.6, status: 0.4 };

interface Cut {
  readonly name: string;
  /** The fault; null: the system refuses connections, now and again. */
  readonly plan: (() => Plan) | null;
}

const anyOf = <T>(all: readonly T[]): T => all[Math.floor(Math.random() * all.length)]!;
/** Mostly the connection ends, sometimes there is silence until the centre gives up. */
const gone = (): Manner => (Math.random() < 0.8 ? 'close' : 'hang');
const at = (moment: Moment) => (): Plan => ({ exchange: () => ({ cut: { at: moment, by: gone() } }) });

const cuts: readonly Cut[] = [
  { name: 'before connect', plan: null },
  { name: 'request lost', plan: at('asked') },
  { name: 'answer lost', plan: at('answered') },
  { name: 'half a body', plan: at('half') },
  {
    name: 'reset',
    plan: () => ({
      connection: () => (Math.random() < 0.2 ? 'reset' : null),
      exchange: () => ({ cut: { at: anyOf(moments), by: 'reset' } }),
    }),
  },
];

/** What the proxy saw pass: when each payment was sent, and what the provider said of it in whole answers. */
class Witness {
  /** Payments of which the centre does not know whether they were executed, with the moment they were sent. */
  private readonly openSince = new Map<string, number>();
  private readonly words = new Map<string, Set<string>>();
  readonly sentUnproven: string[] = [];

  asked(request: string): void {
    if (callOf(request) !== 'pay') return;
    const id = idOf(request);
    if (this.openSince.has(id)) this.sentUnproven.push(id);
    this.openSince.set(id, performance.now());
  }

  delivered(request: string, answer: string): void {
    const id = idOf(request);
    const word = /"status":"(\w+)"}?/.exec(answer)?.[1];
    if (word === undefined || !/^HTTP\/1.1 200/.test(answer) || !answer.endsWith('}')) return;
    this.words.set(id, (this.words.get(id) ?? new Set()).add(word));
    const since = this.openSince.get(id) ?? Number.POSITIVE_INFINITY;
    if (word === 'not_found' && performance.now() - since >= notFoundTrustedAfterMs)
      this.openSince.delete(id);
  }

  judge(payments: readonly Payment[]): Violation[] {
    const guessed = payments.flatMap(({ agentId, id, finalCodes }) =>
      [...finalCodes]
        .filter((code) => !this.words.get(`${agentId}-${id}`)?.has(code === 0 ? 'executed' : 'refused'))
        .map((code) => ({ object: `${agentId}-${id}`, found: `code ${code}` })),
    );
    return [
      ...this.sentUnproven.map((object) => ({
        rule: 'nothing is sent again without proof of non-execution',
        ...{ object, found: 'sent again' },
      })),
      ...guessed.map((each) => ({ rule: 'a final code is what the provider has said', ...each })),
    ];
  }
}

const idOf = (request: string) =>
  /"externalId":"([^"]+)"/.exec(request)?.[1] ?? /^GET \/status\/(\S+)/.exec(request)?.[1] ?? '';

interface Run {
  readonly cuts: readonly Cut[];
  /** So many payments must have had their `pay` cut, and so many their `status`, in each kind. */
  readonly wanted: { readonly pay: number; readonly status: number };
  readonly fates: readonly Fate[];
  readonly build?: string;
}

async function cutTheWay(lab: Lab, run: Run): Promise<Outcome> {
  const scene = await openScene({ agents: 100, fundsMinor: 10_000_000_00n, sandbox: { delayMs: 10 } });
  const proxy = await startFaultProxy(scene.sandbox.url, await scene.newPort());
  try {
    await scene.owner.query('update providers set settings = settings || $1', [{ baseUrl: proxy.url }]);
    // Else a payment would rarely meet a refused connection: its inquiry would.
    await scene.owner.query("update services set inquiry_required = false where service_id = 'P1011'");
    return await payThrough(lab, scene, proxy, run);
  } finally {
    proxy.close();
    await scene.close();
  }
}

async function payThrough(lab: Lab, scene: Scene, proxy: FaultProxy, run: Run): Promise<Outcome> {
  const { callers, owner, fundsMinor } = scene;
  const violations: Violation[] = [];
  const servers = Array.from({ length: processes }, () => scene.start({ port: 0, build: run.build }));
  const ports = (await Promise.all(servers.map((each) => each.ready))).map((url) =>
    Number(new URL(url).port),
  );
  const witness = new Witness();
  const watched = (plan: Plan): Plan => ({
    connection: () => plan.connection?.() ?? null,
    exchange: (request) => {
      witness.asked(request);
      return plan.exchange?.(request) ?? {};
    },
    delivered: (request, answer) => witness.delivered(request, answer),
  });
  proxy.follow(watched({}));
  const crowd = new Crowd({
    ...{ ports, callers, fates: run.fates, thinkMsMax: 400 },
    onAnswer: lab.timeline.answer,
  });

  const figures: Record<string, number | string> = {};
  for (const cut of run.cuts) {
    lab.timeline.fault(cut.name);
    const hit = { pay: new Set<string>(), status: new Set<string>() };
    const enough = () => hit.pay.size >= run.wanted.pay && hit.status.size >= run.wanted.status;
    const endAtMs = performance.now() + 20_000 + run.wanted.status * 1000;
    if (cut.plan === null) {
      const { rows } = await owner.query<{ last: Date }>('select clock_timestamp() as last');
      while (!enough() && performance.now() < endAtMs) {
        proxy.refuse();
        await sleep(100);
        await proxy.accept();
        await sleep(100);
        for (const { id, call } of await refusedSince(scene, rows[0]!.last)) hit[call].add(id);
      }
    } else {
      const plan = cut.plan();
      proxy.follow(
        watched({
          connection: plan.connection,
          exchange: (request) => {
            const call = callOf(request) as keyof typeof share;
            if (Math.random() >= share[call]) return {};
            hit[call].add(idOf(request));
            return plan.exchange!(request);
          },
        }),
      );
      while (!enough() && performance.now() < endAtMs) await sleep(50);
      proxy.follow(watched({}));
    }
    figures[cut.name] = `pay of ${hit.pay.size}, status of ${hit.status.size}`;
    if (!enough())
      violations.push({ rule: 'the fault hits', object: cut.name, found: `${figures[cut.name]}` });
    lab.say(`${cut.name}: ${figures[cut.name]}; ${crowd.finished} payments finished`);
  }

  const healedAtMs = performance.now();
  await crowd.finish(60_000);
  const finishedMs = Math.round(performance.now() - healedAtMs);
  const { payments } = crowd;
  const registry = await scene.sandbox.registry();
  violations.push(...(await judge({ payments, registry, owner, callers, fundsMinor })));
  violations.push(...witness.judge(payments));
  const cutCalls = [...proxy.did].filter(([what]) => what.includes(', ')).toSorted();
  return {
    violations,
    figures: {
      ...figures,
      payments: crowd.finished,
      'all final after, ms': finishedMs,
      cuts: cutCalls.map((each) => each.join(' × ')).join('; '),
    },
  };
}

/** Payments whose call met a refused connection, by their external ids. */
async function refusedSince(
  { owner }: Scene,
  since: Date,
): Promise<{ id: string; call: 'pay' | 'status' }[]> {
  const { rows } = await owner.query<{ id: string; call: 'pay' | 'status' }>(
    `select distinct p.agent_id || '-' || p.agent_transaction_id as id, e.data ->> 'call' as call
     from payment_events e join payments p on p.id = e.payment_id and p.shard = e.shard
     where e.at > $1 and e.kind in ('provider_pay', 'provider_status')
       and e.data ->> 'outcome' = 'not_sent' and e.data ->> 'detail' like '%ECONNREFUSED%'`,
    [since],
  );
  return rows;
}

const cutNamed = (name: string) => cuts.filter((each) => each.name === name);
const small = { wanted: { pay: 5, status: 0 }, fates: [plainFate] };

experiment({
  number: 5,
  name: 'the way to the provider is cut',
  minutesMax: { short: 4, full: 40 },
  run(lab) {
    const payments = lab.size(10, 200);
    return cutTheWay(lab, { cuts, wanted: { pay: payments, status: payments }, fates: everyFate });
  },
  controls: [
    {
      broken: 'a build that takes a lost answer for “not sent” and sends again',
      rule: 'nothing is executed twice',
      run: (lab) =>
        cutTheWay(lab, {
          ...small,
          cuts: cutNamed('answer lost'),
          build: brokenBuild([
            {
              file: 'providers/send.js',
              from: "this.finish({ kind: 'unknown', detail: `the connection failed",
              to: "this.finish({ kind: 'not_sent', detail: `the connection failed",
            },
          ]),
        }),
    },
    {
      broken: 'a build that takes every “not found” for proof',
      rule: 'nothing is sent again without proof of non-execution',
      run: (lab) =>
        cutTheWay(lab, {
          ...small,
          cuts: cutNamed('request lost'),
          build: brokenBuild([
            { file: 'payments/outcome.js', from: 'return notFoundProves', to: 'return true' },
          ]),
        }),
    },
    ...(['failure', 'success'] as const).map((guess) => ({
      broken: `a build that guesses a ${guess} from a cut`,
      rule: 'a final code is what the provider has said',
      run: (lab: Lab) =>
        cutTheWay(lab, {
          ...small,
          cuts: cutNamed('answer lost'),
          build: brokenBuild([
            {
              file: 'payments/outcome.js',
              from: "case 'unknown':",
              to: `case 'unknown': return { kind: 'end', to: State.${guess === 'failure' ? 'failed' : 'succeeded'},
                     code: ${guess === 'failure' ? 300 : 0}, reference: null, displays: null };
                   case 'never':`,
            },
          ]),
        }),
    })),
  ],
});
