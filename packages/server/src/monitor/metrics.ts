/** What the centre counts and shows to Prometheus. Labels are ids, codes and kinds: nothing personal, no names. */
import { collectDefaultMetrics, Registry } from 'prom-client';
import type { Agent, Reference } from '../core/catalogue.js';
import type { Insight } from './monitor.js';
import type { Check } from './readiness.js';
import type { Reader, Readings } from './readings.js';
import { type Count, Counter, gauge, Histogram, type Sizes } from './tally.js';

export interface MetricsParts {
  readonly version: string;
  readonly reference: () => Reference;
  readonly reader: Reader;
  readonly checks: () => Promise<readonly Check[]>;
  readonly now: () => Insight;
  /** As many agents as the reader gives figures of their own. */
  readonly agentsMax: number;
}

interface Answered {
  readonly route: string;
  readonly status: number;
  readonly code?: number | undefined;
  readonly ms?: number;
  readonly agentId?: string | undefined;
}

const durations = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
const batchSizes = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
const whats = ['funds', 'review', 'terms', 'send', 'inquire'];

export type Metrics = ReturnType<typeof createMetrics>;

export function createMetrics(parts: MetricsParts) {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });

  let readings: Readings | null = null;
  let checks: readonly Check[] = [];

  const metric = (name: string, help: string, labels: readonly string[] = []) => ({ name, help, labels });
  const answers = answerCounts(registry);
  const calls = callCounts(registry);
  const lanes = laneCounts(registry);
  const funds = fundsCounts(registry, parts);
  const ended = new Counter(
    registry,
    metric(
      'tolem_payments_ended_total',
      'Payments that came to their final code; provider none: refused before one was chosen.',
      ['provider', 'code'],
    ),
  );
  const endedOf = new Map<string | null, Map<number, Count>>();
  const contradictions = new Counter(
    registry,
    metric(
      'tolem_contradictions_total',
      'Outcomes that contradicted what their payment was already, each time they were told.',
    ),
  ).of();

  gauge(registry, metric('tolem_build_info', 'What runs here: always 1.', ['version', 'node']), () => [
    [parts.version, process.versions.node, 1],
  ]);
  gauge(registry, metric('tolem_ready', 'Whether all checks of /readyz pass.'), () => [
    [Number(checks.every(({ ok }) => ok))],
  ]);
  gauge(registry, metric('tolem_ready_check', 'Whether this check of /readyz passes.', ['check']), () =>
    checks.map(({ name, ok }) => [name, Number(ok)]),
  );
  gauge(
    registry,
    metric('tolem_loop_idle_seconds', 'Since a step of this loop last ended well.', ['loop']),
    () =>
      parts
        .now()
        .loops()
        .map(({ loop, sinceMs }) => [loop, sinceMs / 1000]),
  );
  gauge(registry, metric('tolem_lane_waiting', 'Items waiting to be written by this lane.', ['lane']), () =>
    byLane(
      parts.now().lanes(),
      ({ waiting }) => waiting,
      (a, b) => a + b,
    ),
  );
  gauge(
    registry,
    metric('tolem_lane_oldest_seconds', 'Age of the oldest item of this lane, being written or waiting.', [
      'lane',
    ]),
    () => byLane(parts.now().lanes(), ({ oldestMs }) => oldestMs / 1000, Math.max),
  );
  gauge(
    registry,
    metric('tolem_provider_calls_under_way', 'Calls that have a connection to this provider.', ['provider']),
    () =>
      parts
        .now()
        .calls()
        .map(({ providerId, underWay }) => [providerId, underWay]),
  );
  gauge(
    registry,
    metric('tolem_provider_calls_waiting', 'Calls that wait for a connection to this provider.', [
      'provider',
    ]),
    () =>
      parts
        .now()
        .calls()
        .map(({ providerId, waiting }) => [providerId, waiting]),
  );

  gauge(
    registry,
    metric('tolem_rate_too_old', 'Whether the rate of this pair is too old, so that nothing is sold by it.', [
      'pair',
    ]),
    () => [...parts.reference().rates].map(([pair, rate]) => [pair, Number(rate === 'too_old')]),
  );
  gauge(
    registry,
    metric('tolem_database_up', 'Whether the database gave the figures below in time; 0: they are absent.'),
    () => [[Number(readings !== null)]],
  );
  const ofDatabase = (
    name: string,
    help: string,
    labels: readonly string[],
    read: (from: Readings) => Iterable<readonly [...string[], number]>,
  ) => gauge(registry, metric(name, help, labels), () => (readings ? read(readings) : []));
  ofDatabase('tolem_payments_waiting', 'Payments waiting, by what for.', ['what'], ({ waiting }) =>
    whats.map((what) => [what, waiting.get(what)?.count ?? 0]),
  );
  ofDatabase(
    'tolem_payments_waiting_oldest_seconds',
    'For how long the oldest of them has waited.',
    ['what'],
    ({ waiting }) => whats.map((what) => [what, waiting.get(what)?.oldestS ?? 0]),
  );
  ofDatabase(
    'tolem_payments_uncertain',
    'Payments whose end the provider has not told, as listed by: tolem payments uncertain.',
    [],
    ({ waiting }) => [[(waiting.get('send')?.count ?? 0) + (waiting.get('inquire')?.count ?? 0)]],
  );
  ofDatabase('tolem_payments_uncertain_oldest_seconds', 'Age of the oldest of them.', [], ({ waiting }) => [
    [Math.max(waiting.get('send')?.oldestS ?? 0, waiting.get('inquire')?.oldestS ?? 0)],
  ]);
  ofDatabase(
    'tolem_contradictions_open',
    'Contradictions that wait for people, as listed by: tolem payments contradictions list.',
    [],
    ({ contradictionsOpen }) => [[contradictionsOpen]],
  );
  ofDatabase('tolem_leases', 'Batches of payments that processes work on.', [], ({ leases }) => [
    [leases.count],
  ]);
  ofDatabase('tolem_leased_payments', 'Payments in these batches.', [], ({ leases }) => [[leases.payments]]);
  ofDatabase(
    'tolem_leased_oldest_seconds',
    'For how long the oldest of them that is with its provider was accepted.',
    [],
    ({ leases }) => [[leases.oldestS]],
  );
  ofDatabase(
    'tolem_lease_overdue_seconds',
    'For how long the oldest lease has run out without being taken over.',
    [],
    ({ leases }) => [[leases.overdueS]],
  );
  ofDatabase(
    'tolem_provider_deposit_minor',
    'What may still be spent at this provider, in minor units; only where it is known.',
    ['provider', 'currency'],
    ({ deposits }) => deposits.map(({ provider, currency, left }) => [provider, currency, left]),
  );
  const ofAgents = (name: string, help: string, pick: (agent: Readings['agents'][number]) => number) =>
    ofDatabase(name, help, ['agent', 'currency'], ({ agents }) =>
      agents.map((each) => [each.agent, each.currency, pick(each)]),
    );
  ofAgents('tolem_agent_available_minor', 'Balance in minor units.', ({ available }) => available);
  ofAgents(
    'tolem_agent_credit_limit_minor',
    'Credit limit in minor units.',
    ({ creditLimit }) => creditLimit,
  );
  ofAgents(
    'tolem_agent_low_balance_minor',
    'Balance below which the agent is told, in minor units; 0: never.',
    ({ notification }) => notification,
  );

  return {
    answered: answers,
    watch: {
      called: calls,
      contradicted: () => {
        contradictions.total += 1;
      },
      ended(providerId: string | null, code: number) {
        let ofProvider = endedOf.get(providerId);
        if (!ofProvider) {
          ofProvider = new Map();
          endedOf.set(providerId, ofProvider);
        }
        let count = ofProvider.get(code);
        if (!count) {
          count = ended.of(providerId ?? 'none', String(code));
          ofProvider.set(code, count);
        }
        count.total += 1;
      },
      ...lanes,
      ...funds,
    },
    contentType: registry.contentType,
    async text(): Promise<string> {
      [readings, checks] = await Promise.all([parts.reader.read(), parts.checks()]);
      return registry.metrics();
    },
  };

  function answerCounts(registry: Registry) {
    const total = new Counter(
      registry,
      metric('tolem_requests_total', 'Requests answered, by method, HTTP status and result code.', [
        'method',
        'status',
        'code',
      ]),
    );
    const seconds = new Histogram(
      registry,
      metric('tolem_request_duration_seconds', 'Time until requests were answered.', ['method']),
      durations,
    );
    const short = new Counter(
      registry,
      metric('tolem_agent_short_answers_total', 'Answers 220 to this agent: its funds did not suffice.', [
        'agent',
      ]),
    );
    // There from the start, so that the first of them is seen to be one more.
    for (const method of ['check', 'pay']) total.of(method, '503', '1');
    const shortOf = new Map<string, Count>();
    const routes = new Map<string, { readonly counts: Map<number, Count>; readonly seconds: Sizes }>();
    return ({ route, status, code, ms, agentId }: Answered) => {
      let known = routes.get(route);
      if (!known) {
        known = { counts: new Map(), seconds: seconds.of(route) };
        routes.set(route, known);
      }
      const key = status * 1000 + (code ?? 999);
      let count = known.counts.get(key);
      if (!count) {
        count = total.of(route, String(status), code === undefined ? 'none' : String(code));
        known.counts.set(key, count);
      }
      count.total += 1;
      if (ms !== undefined) known.seconds.observe(ms / 1000);
      if (code === 220 && agentId !== undefined) {
        let count = shortOf.get(agentId);
        if (!count) {
          count = short.of(funds.nameOf(BigInt(agentId)));
          shortOf.set(agentId, count);
        }
        count.total += 1;
      }
    };
  }

  function callCounts(registry: Registry) {
    const total = new Counter(
      registry,
      metric('tolem_provider_calls_total', 'Calls of providers that ended, by what came of them.', [
        'provider',
        'call',
        'outcome',
      ]),
    );
    const seconds = new Histogram(
      registry,
      metric('tolem_provider_call_duration_seconds', 'Time of calls, waiting for a connection included.', [
        'provider',
        'call',
      ]),
      durations,
    );
    const providers = new Map<
      string,
      Map<string, { readonly counts: Map<string, Count>; readonly seconds: Sizes }>
    >();
    return (providerId: string, call: string, outcome: string, ms: number) => {
      let ofProvider = providers.get(providerId);
      if (!ofProvider) {
        ofProvider = new Map();
        providers.set(providerId, ofProvider);
      }
      let known = ofProvider.get(call);
      if (!known) {
        known = { counts: new Map(), seconds: seconds.of(providerId, call) };
        ofProvider.set(call, known);
      }
      let count = known.counts.get(outcome);
      if (!count) {
        count = total.of(providerId, call, outcome);
        known.counts.set(outcome, count);
      }
      count.total += 1;
      known.seconds.observe(ms / 1000);
    };
  }

  function laneCounts(registry: Registry) {
    const sizes = new Histogram(
      registry,
      metric('tolem_lane_batch_size', 'Items written by one statement.', ['lane']),
      batchSizes,
    );
    const waits = new Histogram(
      registry,
      metric('tolem_lane_wait_seconds', 'Time an item waited for its batch.', ['lane']),
      durations,
    );
    const writes = new Histogram(
      registry,
      metric('tolem_lane_write_seconds', 'Time the database took for a batch.', ['lane']),
      durations,
    );
    const failures = new Counter(
      registry,
      metric('tolem_lane_failures_total', 'Items that were refused or are not known to be written.', [
        'lane',
      ]),
    );
    const known = new Map<string, { readonly size: Sizes; readonly wait: Sizes; readonly write: Sizes }>();
    const of = (lane: string) => {
      let found = known.get(lane);
      if (!found) {
        found = { size: sizes.of(lane), wait: waits.of(lane), write: writes.of(lane) };
        failures.of(lane);
        known.set(lane, found);
      }
      return found;
    };
    return {
      wrote(
        lane: string,
        batch: readonly { readonly queuedAt: number }[],
        startedAt: number,
        endedAt: number,
      ) {
        const { size, wait, write } = of(lane);
        size.observe(batch.length);
        write.observe((endedAt - startedAt) / 1000);
        for (const { queuedAt } of batch) wait.observe((startedAt - queuedAt) / 1000);
      },
      failed(lane: string, items: number) {
        failures.of(lane).total += items;
      },
    };
  }
}

/** What agents spend. Agents beyond the first `agentsMax`, by id, are counted together, as the reader sums them. */
function fundsCounts(registry: Registry, { reference, agentsMax }: MetricsParts) {
  const labels = ['agent', 'currency'];
  const spent = new Counter(registry, {
    name: 'tolem_agent_spent_minor_total',
    help: 'Set aside for accepted payments, fees included, in minor units; not those that had to wait for funds.',
    labels,
  });
  const returned = new Counter(registry, {
    name: 'tolem_agent_returned_minor_total',
    help: 'Given back by payments that failed at the first call, in minor units.',
    labels,
  });
  // Ids only grow, so an agent that is among the first stays there.
  const nameOf = (agentId: bigint) => {
    let before = 0;
    for (const id of reference().agents.keys()) if (id < agentId) before += 1;
    return before < agentsMax ? String(agentId) : 'other';
  };
  const known = new Map<bigint, { readonly spent: Count; readonly returned: Count }>();
  const of = ({ agentId, currency }: Agent) => {
    let found = known.get(agentId);
    if (!found) {
      const name = nameOf(agentId);
      found = { spent: spent.of(name, currency), returned: returned.of(name, currency) };
      known.set(agentId, found);
    }
    return found;
  };
  return {
    nameOf,
    held: (agent: Agent, minor: bigint) => {
      of(agent).spent.total += Number(minor);
    },
    returned: (agent: Agent, minor: bigint) => {
      of(agent).returned.total += Number(minor);
    },
  };
}

/** The lanes of all shards under one name. */
function byLane<T extends { readonly lane: string }>(
  all: readonly T[],
  pick: (each: T) => number,
  join: (a: number, b: number) => number,
): [string, number][] {
  const joined = new Map<string, number>();
  for (const each of all) joined.set(each.lane, join(joined.get(each.lane) ?? 0, pick(each)));
  return [...joined];
}
