/** What the log lines and spans of one request, or of one step of the queue, have in common. */
export interface Way {
  /** In every line of a request, beside the transactionId once there is one; null: no request waits for the work. */
  readonly reqId: string | null;
  /** Null: nothing is traced. */
  readonly span: Span | null;
}

/** Where spans begin: at the top, or below another span. */
export interface Spans {
  begin(name: string): Span;
}

export interface Span extends Spans {
  end(facts: Facts): void;
}

/** Ids, codes and kinds of outcome; nothing personal. */
export type Facts = Readonly<Record<string, string | number | boolean>>;

/** Does one step, within a span where there are any. `factsOf` is told what came of it; undefined: it threw. */
export function step<T>(
  spans: Spans | null | undefined,
  name: string,
  work: (span: Span | null) => Promise<T>,
  factsOf: (done: T | undefined) => Facts,
): Promise<T> {
  if (!spans) return work(null);
  const span = spans.begin(name);
  return work(span).then(
    (done) => {
      span.end(factsOf(done));
      return done;
    },
    (error: unknown) => {
      span.end({ ...factsOf(undefined), 'error.type': error instanceof Error ? error.name : typeof error });
      throw error;
    },
  );
}
