/**
 * Numbers for Prometheus that cost next to nothing to count. Whoever counts finds its series once and keeps it; from
 * then on it is a plain number. prom-client's own counters look their labels up at every count, which for a payment's
 * ten counts costs several microseconds. Its registry prints these: it asks a metric only for its name and `get()`.
 */
import type { Metric, Registry } from 'prom-client';

export interface Definition {
  readonly name: string;
  readonly help: string;
  readonly labels: readonly string[];
}

interface Value {
  readonly labels: Readonly<Record<string, string | number>>;
  readonly value: number;
  /** Where it is not the metric's own name. */
  readonly metricName?: string;
}

export interface Count {
  total: number;
}

/** Above it, further series are counted together, with `other` for every label. */
const seriesMax = 2000;

function register(
  registry: Registry,
  { name, help }: Definition,
  type: 'counter' | 'gauge' | 'histogram',
  values: () => Value[],
): void {
  const metric = {
    name,
    help,
    type,
    aggregator: 'sum',
    get: async () => ({ name, help, type, values: values() }),
  };
  registry.registerMetric(metric as unknown as Metric);
}

/** The series of one metric by their labels' values. */
class Family<Series> {
  private readonly series = new Map<
    string,
    { readonly labels: Record<string, string>; readonly series: Series }
  >();

  constructor(
    private readonly definition: Definition,
    private readonly create: () => Series,
  ) {}

  of(...values: string[]): Series {
    const key = values.join('\n');
    const known = this.series.get(key);
    if (known) return known.series;
    const { labels } = this.definition;
    if (this.series.size >= seriesMax && values.some((value) => value !== 'other'))
      return this.of(...labels.map(() => 'other'));
    const made = this.create();
    this.series.set(key, {
      labels: Object.fromEntries(labels.map((label, index) => [label, values[index]!])),
      series: made,
    });
    return made;
  }

  all() {
    return [...this.series.values()];
  }
}

export class Counter {
  private readonly family: Family<Count>;

  constructor(registry: Registry, definition: Definition) {
    this.family = new Family(definition, () => ({ total: 0 }));
    register(registry, definition, 'counter', () =>
      this.family.all().map(({ labels, series }) => ({ labels, value: series.total })),
    );
  }

  of(...values: string[]): Count {
    return this.family.of(...values);
  }
}

/** Counts of values by size, and their sum. */
export class Sizes {
  readonly counts: Float64Array;
  sum = 0;

  constructor(private readonly bounds: readonly number[]) {
    this.counts = new Float64Array(bounds.length + 1);
  }

  observe(value: number): void {
    const { bounds } = this;
    let at = 0;
    while (at < bounds.length && value > bounds[at]!) at += 1;
    this.counts[at]! += 1;
    this.sum += value;
  }
}

export class Histogram {
  private readonly family: Family<Sizes>;

  constructor(registry: Registry, definition: Definition, bounds: readonly number[]) {
    this.family = new Family(definition, () => new Sizes(bounds));
    const { name } = definition;
    register(registry, definition, 'histogram', () =>
      this.family.all().flatMap(({ labels, series }) => {
        let count = 0;
        const buckets = [...bounds, '+Inf'].map((le, index) => {
          count += series.counts[index]!;
          return { metricName: `${name}_bucket`, labels: { ...labels, le }, value: count };
        });
        return [
          ...buckets,
          { metricName: `${name}_sum`, labels, value: series.sum },
          { metricName: `${name}_count`, labels, value: count },
        ];
      }),
    );
  }

  of(...values: string[]): Sizes {
    return this.family.of(...values);
  }
}

/** A gauge whose series are read when they are asked for. Each is its labels' values and then the number. */
export function gauge(
  registry: Registry,
  definition: Definition,
  read: () => Iterable<readonly [...labels: string[], value: number]>,
): void {
  register(registry, definition, 'gauge', () =>
    [...read()].map((series) => ({
      labels: Object.fromEntries(definition.labels.map((label, index) => [label, series[index] as string])),
      value: series.at(-1) as number,
    })),
  );
}
