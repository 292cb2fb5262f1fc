import { randomBytes } from 'node:crypto';
import { STATUS_CODES } from 'node:http';
import type { Server as HttpsServer } from 'node:https';
import type { Socket } from 'node:net';
import fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  LogController,
} from 'fastify';
import { Overloaded, type UseCases } from '../core/answers.js';
import type { Agent, Language, Reference } from '../core/catalogue.js';
import { type HttpError, httpErrors } from '../core/codes.js';
import { localTimeIn } from '../core/time.js';
import { type Span, type Spans, step } from '../core/way.js';
import { type CallbackParts, serveCallbacks } from './callbacks.js';
import { type ArrayKey, CatalogueAnswers } from './catalogue.js';
import { type Directory, identify } from './credentials.js';
import { type Answer, codeOnly, type Method, methodsOf, type Received, readCall } from './methods.js';
import { renderCode } from './render.js';
import { readTls, reloadTls, type TlsFiles } from './tls.js';

export interface ProtocolConfig {
  /** Served beside the bare `/api/v20`: `/AirPayService` opens `/AirPayService/api/v20/pay`. */
  readonly prefixes: readonly string[];
  /** The centre's time zone, `Asia/Almaty`. */
  readonly zone: string;
  readonly catalogueKey: ArrayKey;
  /** Addresses and networks of the proxies whose `X-Forwarded-For` is believed. */
  readonly trustedProxies: readonly string[];
  readonly connectionsMax: number;
  /** How long `close()` waits for requests under way before it cuts their connections. */
  readonly drainMsMax: number;
}

export interface ServerParts {
  readonly config: ProtocolConfig;
  readonly useCases: UseCases;
  /** Absent: providers tell nothing by themselves here. */
  readonly callback?: CallbackParts['callback'];
  readonly reference: () => Reference;
  readonly directory: Directory;
  readonly tls?: TlsFiles;
  readonly logger: FastifyBaseLogger;
  /** Told of every answer to a request that came to one of the six paths. */
  readonly onAnswer?: OnAnswer | undefined;
  readonly spans?: Spans | undefined;
}

/** `code`: the result code; undefined where the answer has none. */
export type OnAnswer = (answer: {
  readonly route: string;
  readonly status: number;
  readonly code?: number | undefined;
  readonly ms?: number;
  readonly agentId?: string | undefined;
}) => void;

const bodyBytesMax = 64 * 1024;
const requestMsMax = 30_000;
const headersMsMax = 15_000;
/** Longer than the longest time that `pay` may be set to wait for a provider. */
const silenceMsMax = 150_000;
const keepAliveMs = 72_000;
const idleSweepMs = 50;
const retryAfterS = 5;
const jsonType = 'application/json; charset=utf-8';

/**
 * The agents' server: six methods under `/api/v20`, `GET /healthz`, plain errors for all else. Not listening yet, so
 * that other routes can be registered. `close()` answers what is under way and then lets the connections go.
 */
export function buildServer(parts: ServerParts): FastifyInstance {
  const { config, logger } = parts;
  const requestIdPrefix = randomBytes(4).toString('hex');
  let requestCount = 0;
  const app = fastify({
    loggerInstance: logger,
    logController: new LogController({ disableRequestLogging: true }),
    genReqId: () => {
      requestCount += 1;
      return `${requestIdPrefix}-${requestCount.toString(36)}`;
    },
    trustProxy: config.trustedProxies.length > 0 ? [...config.trustedProxies] : false,
    return503OnClosing: false,
    requestTimeout: requestMsMax,
    connectionTimeout: silenceMsMax,
    keepAliveTimeout: keepAliveMs,
    clientErrorHandler,
    frameworkErrors: (_error, _request, reply) => {
      sendError(reply as unknown as FastifyReply, 'not_found');
    },
    ...(parts.tls ? { https: readTls(parts.tls) } : {}),
  }) as unknown as FastifyInstance;
  app.server.headersTimeout = headersMsMax;
  app.server.maxConnections = Math.min(config.connectionsMax, affordableConnections());
  closeInTime(app, config.drainMsMax);
  if (parts.tls) {
    const stop = reloadTls(app.server as unknown as HttpsServer, parts.tls, logger);
    app.addHook('onClose', async () => stop());
  }

  app.setNotFoundHandler((_request, reply) => sendError(reply, 'not_found'));
  app.setErrorHandler((error, request, reply) => {
    if (request.is404) return sendError(reply, 'not_found');
    return sendHttpError(error, request, reply, undefined);
  });
  app.get('/healthz', async (_request, reply) => {
    reply.header('content-type', jsonType);
    return '{"status":"ok"}';
  });
  const { callback } = parts;
  if (callback) app.register(async (api) => serveCallbacks(api, { callback, logger }));
  app.register(async (api) => serveProtocol(api, parts));
  return app;
}

/**
 * A connection takes a descriptor, and a process without one left reaches neither its database nor a provider: a
 * quarter of what the system allows, but at most 1000, is kept from the agents.
 */
function affordableConnections(): number {
  const { userLimits } = process.report.getReport() as {
    readonly userLimits?: { readonly open_files?: { readonly soft: number | 'unlimited' } };
  };
  const descriptorsMax = userLimits?.open_files?.soft;
  if (typeof descriptorsMax !== 'number') return Number.POSITIVE_INFINITY;
  return descriptorsMax - Math.min(1000, Math.ceil(descriptorsMax / 4));
}

function serveProtocol(api: FastifyInstance, parts: ServerParts): void {
  const { config, directory, logger, onAnswer } = parts;
  const methods = methodsOf(
    parts.useCases,
    parts.reference,
    new CatalogueAnswers(config.catalogueKey),
    localTimeIn(config.zone),
  );
  let closing = false;
  api.addHook('preClose', async () => {
    closing = true;
  });

  api.setChildLoggerFactory((base) => base);
  api.removeAllContentTypeParsers();
  api.addContentTypeParser<Buffer>(
    ['application/json', 'text/json'],
    { parseAs: 'buffer', bodyLimit: bodyBytesMax },
    (_request, body, done) => done(null, body),
  );
  api.addContentTypeParser<Buffer>(
    '*',
    { parseAs: 'buffer', bodyLimit: bodyBytesMax },
    (request, body, done) => {
      const acceptable = body.length === 0 || request.headers['content-type'] === undefined;
      done(null, acceptable ? body : null);
    },
  );

  const serve = async (
    name: string,
    method: Method,
    request: FastifyRequest,
    reply: FastifyReply,
    body: Received,
  ) => {
    const startedMs = performance.now();
    const caller = identify(directory, parts.reference(), request.headers.authorization, request.ip);
    const agent = caller.ok || caller.error !== 'unauthorized' ? caller.agent : undefined;
    const answer = caller.ok
      ? await step(
          parts.spans,
          name,
          (span) => answerTo(name, method, caller.agent, request, reply, body, span),
          (done) => spanFacts(request, reply, caller.agent, done),
        )
      : null;
    // Asked only now: the server may have begun to close while the answer was made.
    if (closing) reply.header('connection', 'close');
    if (!caller.ok) sendError(reply, caller.error, agent?.language);
    const facts = {
      reqId: request.id,
      method: request.method,
      route: name,
      agentId: agent?.agentId.toString(),
      status: reply.statusCode,
      code: answer?.code,
      ms: Math.round((performance.now() - startedMs) * 10) / 10,
      transactionId: answer?.transactionId?.toString(),
    };
    logger.debug(facts, 'answered');
    onAnswer?.(facts);
    if (!answer) return reply;
    reply.header('content-type', jsonType);
    if (!answer.gzipped || !acceptsGzip(request)) return answer.body;
    reply.header('content-encoding', 'gzip');
    return answer.gzipped();
  };

  const answerTo = async (
    name: string,
    method: Method,
    agent: Agent,
    request: FastifyRequest,
    reply: FastifyReply,
    received: Received,
    span: Span | null,
  ): Promise<Answer> => {
    const read = readCall(method, agent, received);
    if (!read.ok) return read.answer;
    try {
      return await method.answer(read.call, { reqId: request.id, span });
    } catch (error) {
      // Nothing is known of the payment, so this must not read as final.
      logFailure(logger, error, request.id, name, agent);
      reply.code(503).header('retry-after', error instanceof Overloaded ? error.retryAfterS : retryAfterS);
      return codeOnly(1, null, agent, read.call.agentTransactionId);
    }
  };

  const otherHttpMethods = api.supportedMethods.filter((each) => each !== 'POST');
  for (const [name, method] of Object.entries(methods)) {
    for (const prefix of new Set(['', ...config.prefixes])) {
      const url = `${prefix}/api/v20/${name}`;
      api.route({
        method: 'POST',
        url,
        handler: (request, reply) => serve(name, method, request, reply, request.body as Received),
        errorHandler: (error, request, reply) => {
          // A media type that cannot even be read is one more wrong type.
          if (error.code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE')
            return serve(name, method, request, reply.code(200), null);
          return sendHttpError(error, request, reply, { name, onAnswer });
        },
      });
      api.route({
        method: otherHttpMethods,
        url,
        handler: (request, reply) => methodNotAllowed(request, reply, { name, onAnswer }),
        errorHandler: (_error, request, reply) => methodNotAllowed(request, reply, { name, onAnswer }),
      });
    }
  }
}

function acceptsGzip(request: FastifyRequest): boolean {
  const accepted = String(request.headers['accept-encoding'] ?? '');
  return /\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))/i.test(accepted);
}

function methodNotAllowed(request: FastifyRequest, reply: FastifyReply, route: Route): FastifyReply {
  return refuse(request, reply.header('allow', 'POST'), 'method_not_allowed', route);
}

/** Which of the six paths a request came to; undefined: none of them. */
type Route = { readonly name: string; readonly onAnswer: OnAnswer | undefined } | undefined;

function spanFacts(request: FastifyRequest, reply: FastifyReply, agent: Agent, answer: Answer | undefined) {
  return {
    'tolem.request_id': request.id,
    'tolem.agent_id': String(agent.agentId),
    'http.response.status_code': reply.statusCode,
    ...(answer && { 'tolem.result': answer.code }),
    ...(answer?.transactionId && { 'tolem.transaction_id': String(answer.transactionId) }),
  };
}

/** For requests that came to one of the six paths and got no further. */
function refuse(request: FastifyRequest, reply: FastifyReply, error: HttpError, route: Route): FastifyReply {
  const { status } = httpErrors[error];
  route?.onAnswer?.({ route: route.name, status });
  request.log.debug(
    { reqId: request.id, method: request.method, route: request.routeOptions.url, status },
    error,
  );
  return sendError(reply, error);
}

/** What went wrong before a route could answer: a body too large or not as long as announced, or a bug. */
function sendHttpError(
  error: unknown,
  request: FastifyRequest,
  reply: FastifyReply,
  route: Route,
): FastifyReply {
  const { code, statusCode } = error as { code?: string; statusCode?: number };
  if (code === 'FST_ERR_CTP_BODY_TOO_LARGE') {
    // The rest of the body is read and dropped: cutting the connection could cost the client this answer.
    reply.removeHeader('connection');
    return refuse(request, reply, 'body_too_large', route);
  }
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500)
    return refuse(request, reply, 'malformed_http', route);
  logFailure(request.log, error, request.id, request.routeOptions.url ?? '', undefined);
  route?.onAnswer?.({ route: route.name, status: 503, code: 1 });
  reply.code(503).header('retry-after', retryAfterS).header('content-type', jsonType);
  return reply.send(renderCode(1, null, 'ru'));
}

/** No `result` in these: the agent must not read them as an answer to the business question. */
function sendError(reply: FastifyReply, error: HttpError, language: Language = 'ru'): FastifyReply {
  const { status } = httpErrors[error];
  if (status === 401)
    reply.header('www-authenticate', 'Bearer realm="tolem", Basic realm="tolem", charset="UTF-8"');
  return reply.code(status).header('content-type', jsonType).send(errorBody(error, language));
}

function errorBody(error: HttpError, language: Language): string {
  return JSON.stringify({ error, message: httpErrors[error].text[language] });
}

const clientErrors: Readonly<Record<string, HttpError>> = {
  HPE_HEADER_OVERFLOW: 'headers_too_large',
  ERR_HTTP_REQUEST_TIMEOUT: 'request_timeout',
};

/** For what is not HTTP enough to reach a route. */
function clientErrorHandler(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const key = clientErrors[error.code ?? ''] ?? 'malformed_http';
  const { status } = httpErrors[key];
  const body = errorBody(key, 'ru');
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nConnection: close\r\n` +
      `Content-Type: ${jsonType}\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}

/** Where it happened and what it was. Digits are masked: a message may quote an account. */
function logFailure(
  logger: FastifyBaseLogger,
  error: unknown,
  reqId: string,
  route: string,
  agent: Agent | undefined,
): void {
  const cause = (error instanceof Error ? error.stack : String(error))?.replace(/\d{5,}/g, '#');
  const facts = { reqId, route, agentId: agent?.agentId.toString(), cause };
  if (error instanceof Overloaded) logger.warn(facts, 'overloaded; the agent was told when to come back');
  else logger.error(facts, 'a request failed inside the centre; the agent was told to repeat it');
}

/** Lets go of connections as they fall idle, and of all of them when the time is over. */
function closeInTime(app: FastifyInstance, drainMsMax: number): void {
  let sweep: NodeJS.Timeout;
  let deadline: NodeJS.Timeout;
  app.addHook('preClose', async () => {
    sweep = setInterval(() => app.server.closeIdleConnections(), idleSweepMs);
    deadline = setTimeout(() => app.server.closeAllConnections(), drainMsMax);
  });
  app.addHook('onClose', async () => {
    clearInterval(sweep);
    clearTimeout(deadline);
  });
}
