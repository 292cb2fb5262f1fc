/**
 * What the simulators have in common: a real HTTP server with a registry on disk and the fault dials. A simulator adds
 * only the words of its protocol: how a request is read and how an answer is written.
 *
 * The end of an account scripts the outcome as for the sandbox (sandbox/data.ts), and these besides, which spoil the
 * answer to an executed payment:
 *   0080  nonsense instead of the protocol's words
 *   0081  a drip: one byte every 100 ms, without end
 *   0082  an answer without end, as fast as it goes
 *   0083  the answer, and after it what the protocol never says
 *   0084  an answer about another payment
 */
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http';
import { type Script, scriptOf } from '../sandbox/data.js';
import { type Listening, later, listen, sendRegistry } from '../sandbox/http.js';
import { Registry, type Status } from '../sandbox/registry.js';

/** A request as it came. */
export interface Arrived {
  readonly method: string;
  /** Without the query. */
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

/** What a request of the protocol asks for. */
export interface Asked {
  readonly kind: 'check' | 'pay' | 'status';
  /** The centre's id of the payment. */
  readonly externalId: string;
  readonly service: string;
  readonly account: string;
  /** `200.00`; empty where the request has none. */
  readonly amount: string;
}

export interface Answer {
  readonly httpStatus: number;
  readonly contentType: string;
  readonly body: string | Buffer;
  readonly headers?: Readonly<Record<string, string>>;
}

/** How a check stands: the account may be paid for, or the refusal's code. */
export type Checked = { readonly status: 'ok' } | { readonly status: 'refused'; readonly code: number };

export interface Words {
  readonly name: string;
  /** A repeat under one external id executes nothing more; the answer is that of the first time. */
  readonly deduplicates: boolean;
  /** Null: the request is not one of this protocol. Codes of refusal are the sandbox's: 5, 7, 241, 242 and 300. */
  read(request: Arrived): Asked | null;
  write(asked: Asked, state: Checked | Status, again: boolean): Answer;
  /** The answer to what is not a request of this protocol. */
  readonly notUnderstood: Answer;
}

export interface SimulatorOptions {
  /** 0: any free port. */
  readonly port: number;
  readonly host: string;
  readonly dataDir: string;
  /** How long every answer is held back. */
  readonly delayMs: number;
  /** When a payment that was accepted for later comes to its end. */
  readonly settleMs: number;
  /** How long a slow answer takes. */
  readonly slowMs: number;
}

export type Simulator = Listening;

type Spoilt = 'nonsense' | 'drip' | 'endless' | 'trailing' | 'another';
type Manner = Script['answer'] | 'hang' | Spoilt;

const spoilt: ReadonlyMap<string, Spoilt> = new Map([
  ['0080', 'nonsense'],
  ['0081', 'drip'],
  ['0082', 'endless'],
  ['0083', 'trailing'],
  ['0084', 'another'],
]);

const bodyBytesMax = 256 * 1024;
const hangMsMax = 120_000;

/** Throws when the port is taken or the registry is damaged. */
export async function startSimulator(words: Words, options: SimulatorOptions): Promise<Simulator> {
  const registry = await Registry.open(options.dataDir);

  function take(asked: Asked): { manner: Manner; answer: Answer } {
    const { kind, externalId, account } = asked;
    const nowMs = Date.now();
    const now = new Date(nowMs).toISOString();
    const script = scriptOf(account);
    const plainly = (state: Checked | Status, again = false) => ({
      manner: 'plain' as Manner,
      answer: words.write(asked, state, again),
    });
    if (kind === 'status') return plainly(registry.status(externalId, now));
    if (kind === 'check') {
      if (script.check === 'hangs') return { ...plainly({ status: 'ok' }), manner: 'hang' };
      return plainly(script.check === 'ok' ? { status: 'ok' } : { status: 'refused', code: script.check });
    }
    const before = registry.status(externalId, now);
    const again = before.status !== 'not_found' && words.deduplicates;
    if (!again) {
      const cut = script.pay === 'cut_first' && !registry.wasCut(externalId);
      execute(asked, cut, script, now, nowMs);
      if (cut) return { ...plainly({ status: 'not_found' }), manner: 'cut' };
    }
    const manner = again ? 'plain' : (spoilt.get(account.slice(-4)) ?? script.answer);
    const told = manner === 'another' ? { ...asked, externalId: `${externalId}9` } : asked;
    return { manner, answer: words.write(told, registry.status(externalId, now), again) };
  }

  function execute(asked: Asked, cut: boolean, script: Script, now: string, nowMs: number): void {
    const { externalId, account, amount } = asked;
    const at = script.later ? new Date(nowMs + options.settleMs).toISOString() : now;
    if (cut) registry.add({ end: 'cut', externalId }, now);
    else if (script.pay === 'lost') registry.add({ end: 'lost', externalId }, now);
    else if (typeof script.pay === 'number')
      registry.add({ end: 'refused', externalId, code: script.pay, at }, now);
    else registry.add({ externalId, account, amount, executedAt: at }, now);
    // Written before it is answered.
    registry.flush();
  }

  const server = createServer((request, response) => {
    response.sendDate = false;
    response.on('error', () => {});
    const url = new URL(request.url ?? '/', 'http://simulator');
    if (request.method === 'GET' && url.pathname === '/registry') {
      sendRegistry(response, registry);
      return;
    }
    readBody(request, response, (body) => {
      const { method = 'GET', headers } = request;
      const asked = words.read({ method, path: url.pathname, query: url.searchParams, headers, body });
      const { manner, answer } = asked
        ? take(asked)
        : { manner: 'plain' as const, answer: words.notUnderstood };
      const answerIt = () => send(response, manner, answer, options.slowMs);
      if (options.delayMs === 0) answerIt();
      else later(response, options.delayMs, answerIt);
    });
  });
  return listen(server, registry, options);
}

function send(response: ServerResponse, manner: Manner, answer: Answer, slowMs: number): void {
  const whole = typeof answer.body === 'string' ? Buffer.from(answer.body) : answer.body;
  const end = (httpStatus: number, body: Buffer) => {
    const { contentType, headers } = answer;
    response.writeHead(httpStatus, {
      'content-type': contentType,
      'content-length': body.length,
      ...headers,
    });
    response.end(body);
  };
  if (manner === 'cut') response.socket?.destroy();
  else if (manner === 'hang') later(response, hangMsMax, () => response.socket?.destroy());
  else if (manner === 'slow') later(response, slowMs, () => end(answer.httpStatus, whole));
  else if (manner === 'drip') neverEnd(response, answer, ' ', 100);
  else if (manner === 'endless') neverEnd(response, answer, ' '.repeat(64 * 1024), 0);
  else if (manner === 'http_500') end(500, Buffer.from('internal error'));
  else end(answer.httpStatus, spoil(manner, whole));
}

function spoil(manner: 'plain' | 'malformed' | Spoilt, whole: Buffer): Buffer {
  if (manner === 'malformed') return whole.subarray(0, Math.max(0, whole.length - 10));
  if (manner === 'nonsense') return Buffer.from('\u0000<{"?\u0000');
  if (manner === 'trailing') return Buffer.concat([whole, Buffer.from('\n<extra>{"more":1}</extra>')]);
  return whole;
}

function neverEnd(response: ServerResponse, answer: Answer, piece: string, everyMs: number): void {
  response.writeHead(answer.httpStatus, { 'content-type': answer.contentType });
  if (everyMs > 0) {
    const timer = setInterval(() => response.write(piece), everyMs);
    response.once('close', () => clearInterval(timer));
    return;
  }
  const next = () => {
    if (response.destroyed) return;
    if (response.write(piece)) setImmediate(next);
    else response.once('drain', next);
  };
  next();
}

function readBody(request: IncomingMessage, response: ServerResponse, done: (body: Buffer) => void): void {
  const chunks: Buffer[] = [];
  let bytes = 0;
  request.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > bodyBytesMax) {
      response.writeHead(413).end();
      request.destroy();
    } else chunks.push(chunk);
  });
  request.on('end', () => done(Buffer.concat(chunks)));
}
