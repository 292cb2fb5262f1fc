/** Spans over OTLP/HTTP. Loaded only where OpenTelemetry's own variables name a collector; see main.ts. */
import {
  type Context,
  DiagLogLevel,
  diag,
  ROOT_CONTEXT,
  SpanStatusCode,
  type Tracer,
  trace,
} from '@opentelemetry/api';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { detectResources, envDetector, resourceFromAttributes } from '@opentelemetry/resources';
import {
  AlwaysOffSampler,
  AlwaysOnSampler,
  BatchSpanProcessor,
  type Sampler,
  TraceIdRatioBasedSampler,
  TracerProvider,
} from '@opentelemetry/sdk-trace';
import { SetupError } from '../config.js';
import type { Span, Spans } from '../core/way.js';

export interface TracingParts {
  readonly env: NodeJS.ProcessEnv;
  readonly version: string;
  readonly log: { warn(facts: object, message: string): void };
}

export interface Tracing {
  readonly spans: Spans;
  /** Sends what is still here, at most some seconds. */
  close(): Promise<void>;
}

const flushMsMax = 2000;

/** The exporter reads OTEL_EXPORTER_OTLP_* itself. Throws SetupError when OTEL_TRACES_SAMPLER is not understood. */
export function startTracing({ env, version, log }: TracingParts): Tracing {
  const warn = (message: string) => log.warn({ trouble: message.slice(0, 500) }, 'traces could not be sent');
  diag.setLogger({ error: warn, warn, info() {}, debug() {}, verbose() {} }, DiagLogLevel.WARN);
  const service = resourceFromAttributes({ 'service.name': 'tolem', 'service.version': version });
  const provider = new TracerProvider({
    // What the environment says goes before.
    resource: service.merge(detectResources({ detectors: [envDetector] })),
    sampler: samplerOf(env),
    spanProcessors: [new BatchSpanProcessor({ exporter: new OTLPTraceExporter() })],
  });
  const tracer = provider.getTracer('tolem', version);
  return {
    spans: below(tracer, ROOT_CONTEXT),
    async close() {
      await provider.forceFlush({ timeoutMillis: flushMsMax }).catch(() => {});
      await Promise.race([provider.shutdown(), new Promise((done) => setTimeout(done, 500))]).catch(() => {});
    },
  };
}

function below(tracer: Tracer, parent: Context): Spans {
  return {
    begin(name): Span {
      const span = tracer.startSpan(name, {}, parent);
      return {
        begin: (child) => below(tracer, trace.setSpan(parent, span)).begin(child),
        end(facts) {
          span.setAttributes(facts);
          if ('error.type' in facts) span.setStatus({ code: SpanStatusCode.ERROR });
          span.end();
        },
      };
    },
  };
}

function samplerOf({
  OTEL_TRACES_SAMPLER: name,
  OTEL_TRACES_SAMPLER_ARG: share,
}: NodeJS.ProcessEnv): Sampler {
  // Every trace begins here, so a sampler that follows its parent is the sampler of its root.
  switch (name?.replace(/^parentbased_/, '') || 'always_on') {
    case 'always_on':
      return new AlwaysOnSampler();
    case 'always_off':
      return new AlwaysOffSampler();
    case 'traceidratio': {
      const ratio = Number(share || 1);
      if (!(ratio >= 0 && ratio <= 1))
        throw new SetupError(
          `OTEL_TRACES_SAMPLER_ARG is ${JSON.stringify(share)}: expected a number from 0 to 1`,
        );
      return new TraceIdRatioBasedSampler(ratio);
    }
    default:
      throw new SetupError(
        `OTEL_TRACES_SAMPLER is ${JSON.stringify(name)}: expected always_on, always_off or traceidratio`,
      );
  }
}
