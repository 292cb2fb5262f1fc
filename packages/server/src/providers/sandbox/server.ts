/**
 * The sandbox provider: a simulated provider behind the demo services, with a small JSON protocol of its own.
 *
 *   POST /check   { externalId, service, account }          → status "ok" with displays, contracts or invoices;
 *                                                             status "refused" with code
 *   POST /pay     { externalId, service, account, amount }  → status "executed" with reference; "pending"; "unknown";
 *                                                             "refused" with code
 *   GET  /status/<externalId>                               → as pay, or status "not_found"
 *   GET  /registry                                          → [{ externalId, account, amount, executedAt }]
 *   GET  /healthz                                           → { status: "ok" }
 *
 * Every answer names the external id it is about. Amounts are strings with two decimals. Codes of refusal are 5, 7,
 * 241, 242 and 300; "refused" says that nothing was executed. The end of the account scripts the outcome (data.ts).
 * With callbacks switched on it also tells the end of a payment by itself (callbacks.ts):
 *   POST <url>, header x-sandbox-signature: sha256=<HMAC-SHA256 of the body, hex>, the body as an answer of /status
 *
 * Nothing is deduplicated: an external id that is paid twice is executed twice.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { type CallbackOptions, tellEnd } from './callbacks.js';
import { offers, type Script, scriptOf } from './data.js';
import { type Listening, later, listen, sendRegistry } from './http.js';
import { Registry } from './registry.js';

export interface SandboxOptions {
  /** 0: any free port. */
  readonly port: number;
  readonly host: string;
  readonly dataDir: string;
  /** How long every answer to check and pay is held back. */
  readonly delayMs: number;
  /** When a payment that was accepted for later comes to its end. */
  readonly settleMs: number;
  /** How long a slow answer takes. */
  readonly slowMs: number;
  /** Absent: the sandbox tells nothing by itself. */
  readonly callbacks?: CallbackOptions | undefined;
}

export type Sandbox = Listening;

const bodyBytesMax = 64 * 1024;
const hangMsMax = 120_000;

interface Request {
  readonly externalId: string;
  readonly service: string;
  readonly account: string;
  readonly amount: string;
}

interface Reply {
  readonly manner: 'plain' | 'cut' | 'slow' | 'hang';
  readonly httpStatus: number;
  readonly body: string;
}

/** Throws when the port is taken or the registry is damaged. */
export async function startSandbox(options: SandboxOptions): Promise<Sandbox> {
  const registry = await Registry.open(options.dataDir);
  // Requests of one turn of the event loop are worked on together: one write to the registry, then all the answers.
  let turn: { kind: 'check' | 'pay'; request: Request; response: ServerResponse }[] = [];

  function take(kind: 'check' | 'pay', request: Request, response: ServerResponse): void {
    if (turn.push({ kind, request, response }) === 1) setImmediate(workOff);
  }

  function workOff(): void {
    const works = turn;
    turn = [];
    const nowMs = Date.now();
    const now = new Date(nowMs).toISOString();
    const settledAt = new Date(nowMs + options.settleMs).toISOString();
    const replies = works.map(({ kind, request }) =>
      kind === 'check' ? check(request) : pay(registry, request, now, settledAt),
    );
    registry.flush();
    if (options.callbacks) for (const { kind, request } of works) if (kind === 'pay') tellOnceEnded(request);
    const answer = () => {
      for (let i = 0; i < works.length; i += 1) send(works[i]!.response, replies[i]!, options.slowMs);
    };
    if (options.delayMs === 0) answer();
    else setTimeout(answer, options.delayMs);
  }

  /** What ends later is told when it has ended. */
  function tellOnceEnded({ externalId, account }: Request): void {
    const tell = () =>
      tellEnd(options.callbacks!, externalId, registry.status(externalId, new Date().toISOString()));
    if (scriptOf(account).later) setTimeout(() => void tell(), options.settleMs + 1).unref();
    else void tell();
  }

  const server = createServer((request, response) => {
    response.sendDate = false;
    const url = request.url ?? '';
    if (request.method === 'POST' && (url === '/pay' || url === '/check')) {
      readBody(request, response, (text) => {
        const parsed = parseRequest(text, url === '/pay');
        if (!parsed) end(response, 400, '{"error":"the body is not a request of this protocol"}');
        else if (registry.full)
          end(response, 503, '{"error":"the registry is full; start with a new data directory"}');
        else take(url === '/pay' ? 'pay' : 'check', parsed, response);
      });
    } else if (request.method === 'GET' && url.startsWith('/status/')) {
      const externalId = decoded(url.slice('/status/'.length));
      if (externalId === null) end(response, 400, '{"error":"the external id is malformed"}');
      else
        end(
          response,
          200,
          JSON.stringify({ externalId, ...registry.status(externalId, new Date().toISOString()) }),
        );
    } else if (request.method === 'GET' && url === '/registry') {
      sendRegistry(response, registry);
    } else if (request.method === 'GET' && url === '/healthz') {
      end(response, 200, '{"status":"ok"}');
    } else {
      end(response, 404, '{"error":"no such path"}');
    }
  });
  return listen(server, registry, options);
}

function check(request: Request): Reply {
  const script = scriptOf(request.account);
  if (script.check === 'hangs') return { manner: 'hang', httpStatus: 200, body: '' };
  const externalId = request.externalId;
  return plainly(
    script.check === 'ok'
      ? { externalId, status: 'ok', ...offers.get(request.service) }
      : { externalId, status: 'refused', code: script.check },
  );
}

function pay(registry: Registry, request: Request, now: string, settledAt: string): Reply {
  const { externalId, account, amount } = request;
  const script = scriptOf(account);
  const at = script.later ? settledAt : now;

  if (script.pay === 'cut_first' && !registry.wasCut(externalId)) {
    registry.add({ end: 'cut', externalId }, now);
    return { manner: 'cut', httpStatus: 200, body: '' };
  }
  if (script.pay === 'lost') registry.add({ end: 'lost', externalId }, now);
  else if (typeof script.pay === 'number')
    registry.add({ end: 'refused', externalId, code: script.pay, at }, now);
  else registry.add({ externalId, account, amount, executedAt: at }, now);

  return inManner(script.answer, plainly({ externalId, ...registry.status(externalId, now) }));
}

function plainly(answer: object): Reply {
  return { manner: 'plain', httpStatus: 200, body: JSON.stringify(answer) };
}

function inManner(manner: Script['answer'], reply: Reply): Reply {
  if (manner === 'http_500') return { manner: 'plain', httpStatus: 500, body: '{"error":"internal error"}' };
  if (manner === 'malformed') return { ...reply, body: reply.body.slice(0, -10) };
  return { ...reply, manner };
}

function send(response: ServerResponse, reply: Reply, slowMs: number): void {
  if (reply.manner === 'cut') response.socket?.destroy();
  else if (reply.manner === 'slow')
    later(response, slowMs, () => end(response, reply.httpStatus, reply.body));
  else if (reply.manner === 'hang') later(response, hangMsMax, () => response.socket?.destroy());
  else end(response, reply.httpStatus, reply.body);
}

function end(response: ServerResponse, httpStatus: number, body: string): void {
  response.writeHead(httpStatus, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
  });
  response.end(body);
}

function readBody(request: IncomingMessage, response: ServerResponse, done: (text: string) => void): void {
  let text = '';
  request.setEncoding('utf8');
  request.on('data', (chunk: string) => {
    text += chunk;
    if (text.length > bodyBytesMax) {
      end(response, 413, '{"error":"the body is too long"}');
      request.destroy();
    }
  });
  request.on('end', () => done(text));
}

function parseRequest(text: string, withAmount: boolean): Request | null {
  let request: Partial<Request> | null;
  try {
    request = JSON.parse(text);
  } catch {
    return null;
  }
  const wellFormed =
    isText(request?.externalId, 64) &&
    isText(request.service, 64) &&
    isText(request.account, 200) &&
    (!withAmount || (typeof request.amount === 'string' && /^\d{1,13}\.\d\d$/.test(request.amount)));
  return wellFormed ? (request as Request) : null;
}

function isText(value: unknown, lengthMax: number): value is string {
  return typeof value === 'string' && value.length > 0 && value.length <= lengthMax;
}

function decoded(text: string): string | null {
  try {
    const externalId = decodeURIComponent(text);
    return isText(externalId, 64) ? externalId : null;
  } catch {
    return null;
  }
}
