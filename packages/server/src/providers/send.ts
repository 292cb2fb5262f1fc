/**
 * The only way out to providers. One line per provider: so many connections, so many calls waiting, so long for each
 * phase. Nothing is ever sent twice from here: no redirects, no retries.
 *
 * What a call may be told to have been:
 *   not_sent  no byte of the request was handed to a socket, and none will be;
 *   unknown   everything else that ends without an answer the connector takes for proof.
 */
import { X509Certificate } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { createSecureContext } from 'node:tls';
import { TextDecoder } from 'node:util';
import { type buildConnector, Client, type Dispatcher } from 'undici';
import { z } from 'zod';
import { elapsedMs } from '../clock.js';
import type { ProviderFacts } from '../core/catalogue.js';
import { isTimeZone } from '../core/time.js';
import { Breaker } from './breaker.js';
import {
  type CallbackRequest,
  type CallRecord,
  type Connector,
  type ConnectorFactory,
  type HttpRequest,
  type HttpResponse,
  type Notice,
  type NotSent,
  NotWritable,
  type Refused,
  type Sender,
  type Unknown,
} from './contract.js';
import { receivedWords, sentWords } from './mask.js';
import { isWithin, windowsShape } from './windows.js';

export interface SenderLog {
  error(fields: object, message: string): void;
}

export interface SenderOptions {
  /** The providers as they are now; asked at every call, so a change of settings counts from the next one. */
  readonly providers: () => ReadonlyMap<string, ProviderFacts>;
  readonly connectors: ReadonlyMap<string, ConnectorFactory>;
  readonly log: SenderLog;
  /** Told of every call that ended, `not_sent` included; the time is from the asking to the answer. */
  readonly onCall?:
    | ((providerId: string, call: CallRecord['call'], outcome: string, ms: number) => void)
    | undefined;
}

/** What the sender reads of a provider's settings; connectors read their own keys. */
const settingsShape = z.object({
  baseUrl: z
    .string()
    .refine(isBaseUrl, 'must be http(s)://host[:port][/path] without login, query and fragment'),
  concurrencyMax: z.int().min(1).max(4096).default(64),
  queueMax: z.int().min(0).max(100_000).default(2000),
  queueMsMax: z.int().min(1).max(60_000).default(2000),
  connectTimeoutMs: z.int().min(1).max(60_000).default(1000),
  /** From the moment the request leaves to the last byte of the answer. */
  answerMsMax: z.int().min(1).max(600_000).default(10_000),
  responseBytesMax: z
    .int()
    .min(1)
    .max(64 * 1024 * 1024)
    .default(1024 * 1024),
  /** Where the provider has its own authority, or wants to be shown a certificate. All of it PEM. */
  tls: z
    .strictObject({
      ca: z.string().optional(),
      certificate: z.string().optional(),
      key: z.string().optional(),
      serverName: z.string().optional(),
    })
    .optional(),
  /** Stops what is new when the provider does not answer of late; null: never. */
  breaker: z
    .strictObject({
      calls: z.int().min(1).max(1000).default(20),
      share: z.number().min(0.05).max(1).default(0.8),
      openMs: z.int().min(100).max(600_000).default(5000),
    })
    .nullable()
    .default({ calls: 20, share: 0.8, openMs: 5000 }),
  /** What an open breaker asks to see whether the provider answers again; absent: the next payment is the try. */
  probe: z
    .strictObject({
      serviceCode: z.string().min(1).max(64),
      account: z.string().min(1).max(200),
      currency: z.string().length(3).default('KZT'),
    })
    .optional(),
  /** What is kept of calls in the payment's history, masked: of all, of those without success, or of none. */
  exchanges: z.enum(['all', 'trouble', 'none']).default('all'),
  maintenance: windowsShape.default([]),
  /** Of the windows of maintenance. */
  timeZone: z.string().refine(isTimeZone, 'must be a time zone, Asia/Almaty for one').default('Asia/Almaty'),
  /** New payments while nothing is sent: taken and answered 1, to be sent later, or refused with 7. */
  whenAway: z.enum(['queue', 'refuse']).default('queue'),
  /** How long an idle connection is kept, where the provider does not name a shorter time. */
  keepAliveMs: z.int().min(1).max(600_000).default(4000),
});
type Settings = z.infer<typeof settingsShape>;

/** Calls over which the mean of their time moves. */
const usualOver = 16;

/** Deadlines are looked at this often, for all calls of a line together. */
const sweepMs = 50;

/** A question about what was sent always goes; what is new waits while the provider is away. */
type Purpose = 'new' | 'question' | 'probe';

const none: ReadonlySet<string> = new Set();

function orRefused(build: () => HttpRequest): HttpRequest | Refused {
  try {
    return build();
  } catch (error) {
    if (!(error instanceof NotWritable)) throw error;
    return { kind: 'refused', code: 7, detail: `it cannot be written for the provider: ${error.message}` };
  }
}

/** The breaker is open, or the provider is closed for maintenance. */
const closed: NotSent = { kind: 'not_sent', detail: 'nothing is sent to the provider for now' };

type Reply = { readonly kind: 'answered'; readonly response: HttpResponse } | NotSent | Unknown;

export function createSender({ providers, connectors, log, onCall }: SenderOptions): Sender {
  interface Entry {
    facts: ProviderFacts;
    readonly key: string;
    readonly ready: { readonly connector: Connector; readonly line: Line } | { readonly problem: string };
  }
  const entries = new Map<string, Entry>();
  const lines = new Set<Line>();

  /** The provider's connector and line, made anew when its settings have changed. Throws a plain sentence. */
  function entryOf(providerId: string): { readonly connector: Connector; readonly line: Line } {
    const facts = providers().get(providerId);
    if (!facts) throw new Error(`provider ${providerId} is not known; add it or correct the service`);
    let entry = entries.get(providerId);
    if (entry?.facts !== facts) {
      const key = JSON.stringify([facts.connector, facts.settings]);
      if (entry?.key === key) {
        entry.facts = facts;
      } else {
        if (entry && 'line' in entry.ready) retire(entry.ready.line);
        entry = { facts, key, ready: prepare(facts) };
        entries.set(providerId, entry);
      }
    }
    if ('problem' in entry.ready) throw new Error(entry.ready.problem);
    return entry.ready;
  }

  function prepare(facts: ProviderFacts): Entry['ready'] {
    try {
      const factory = connectors.get(facts.connector);
      if (!factory) throw new Error(`there is no connector ${facts.connector}`);
      const parsed = settingsShape.safeParse(facts.settings);
      if (!parsed.success) {
        throw new Error(
          parsed.error.issues.map((each) => `${each.path.join('.')}: ${each.message}`).join('; '),
        );
      }
      const connector = factory(facts.settings);
      const line = new Line(parsed.data, connector.charset);
      lines.add(line);
      return { connector, line };
    } catch (error) {
      const reason = (error as Error).message;
      const problem = `provider ${facts.providerId} cannot be called, correct its settings: ${reason}`;
      log.error({ providerId: facts.providerId }, problem);
      return { problem };
    }
  }

  function retire(line: Line): void {
    void line.close(line.callMsMax).then(() => lines.delete(line));
  }

  async function call<Outcome extends { readonly kind: string }>(
    name: CallRecord['call'],
    providerId: string,
    sendBefore: number,
    build: (connector: Connector) => HttpRequest | Extract<Outcome, Refused>,
    parse: (connector: Connector, response: HttpResponse) => Outcome,
    purpose: Purpose = 'new',
  ): Promise<{ outcome: Outcome | NotSent | Unknown; record: CallRecord }> {
    const startedAt = new Date().toISOString();
    const startedMs = performance.now();
    const kept: { sent?: string; received?: string } = {};
    const [outcome, httpStatus] = await talk();
    const ms = performance.now() - startedMs;
    onCall?.(providerId, name, outcome.kind, ms);
    return {
      outcome,
      record: {
        call: name,
        startedAt,
        durationMs: Math.round(ms),
        httpStatus,
        outcome: outcome.kind,
        detail: recordDetail(outcome),
        ...kept,
      },
    };

    async function talk(): Promise<[Outcome | NotSent | Unknown, number | null]> {
      let connector: Connector;
      let line: Line;
      let request: HttpRequest | Extract<Outcome, Refused>;
      try {
        ({ connector, line } = entryOf(providerId));
      } catch (error) {
        return [{ kind: 'not_sent', detail: (error as Error).message }, null];
      }
      try {
        request = build(connector);
      } catch (error) {
        return [{ kind: 'not_sent', detail: connectorFailed(error) }, null];
      }
      if ('kind' in request) return [request, null];
      const mayGo = purpose === 'question' || line.admits(purpose === 'probe');
      const reply = mayGo ? await line.send(request, sendBefore) : closed;
      if (reply.kind !== 'answered') {
        keep(connector, line, request, null, reply.kind);
        return [reply, null];
      }
      try {
        const outcome = parse(connector, reply.response);
        line.note(outcome.kind !== 'unknown');
        keep(connector, line, request, reply.response, outcome.kind);
        return [outcome, reply.response.status];
      } catch (error) {
        line.note(false);
        keep(connector, line, request, reply.response, 'unknown');
        return [{ kind: 'unknown', detail: connectorFailed(error) }, reply.response.status];
      }
    }

    function keep(
      { plain = none }: Connector,
      { settings }: Line,
      request: HttpRequest,
      response: HttpResponse | null,
      kind: string,
    ): void {
      const { exchanges } = settings;
      // What provably never left was not said.
      if (exchanges === 'none' || kind === 'not_sent') return;
      if (exchanges === 'trouble' && (kind === 'executed' || kind === 'ok')) return;
      kept.sent = sentWords(request, plain);
      if (response) kept.received = receivedWords(response, plain);
    }

    function connectorFailed(error: unknown): string {
      return noteFailure(providerId, name, error);
    }
  }

  /** Only the kind and the place: the message of an error may quote what was parsed. */
  function noteFailure(providerId: string, call: string, error: unknown): string {
    const kind = error instanceof Error ? error.name : typeof error;
    const at = error instanceof Error ? error.stack?.match(/^ {4}at .*$/m)?.[0].trim() : undefined;
    log.error({ providerId, call, error: kind, at }, 'a connector failed; correct it');
    return `connector failed: ${kind}`;
  }

  /** Nobody waits for it; what came of it is noted as of any call. */
  function probe(
    providerId: string,
    { serviceCode, account, currency }: NonNullable<Settings['probe']>,
  ): void {
    const inquiry = { externalId: 'probe', serviceCode, account, amountMinor: null, currency, extras: {} };
    void call(
      'check',
      providerId,
      Number.POSITIVE_INFINITY,
      (connector) => connector.buildCheck(inquiry),
      (connector, response) => connector.parseCheck(response, inquiry),
      'probe',
    );
  }

  function readCallback(providerId: string, request: CallbackRequest): Notice | null {
    let connector: Connector;
    try {
      ({ connector } = entryOf(providerId));
    } catch {
      return null;
    }
    try {
      return connector.parseCallback?.(request) ?? null;
    } catch (error) {
      noteFailure(providerId, 'callback', error);
      return null;
    }
  }

  return {
    check: (providerId, inquiry) =>
      call(
        'check',
        providerId,
        Number.POSITIVE_INFINITY,
        (connector) => orRefused(() => connector.buildCheck(inquiry)),
        (connector, response) => connector.parseCheck(response, inquiry),
      ),
    pay: (providerId, order, sendBefore) =>
      call(
        'pay',
        providerId,
        sendBefore,
        // Of a question nothing follows: the first request may have been written by other settings.
        (connector) => (order.again ? connector.buildPay(order) : orRefused(() => connector.buildPay(order))),
        (connector, response) => connector.parsePay(response, order),
        order.again ? 'question' : 'new',
      ),
    status: (providerId, order) =>
      call(
        'status',
        providerId,
        Number.POSITIVE_INFINITY,
        (connector) => connector.buildStatus(order),
        (connector, response) => connector.parseStatus(response, order),
        'question',
      ),
    balance: (providerId) => {
      let told: Connector['balance'];
      try {
        told = entryOf(providerId).connector.balance;
      } catch {
        return null;
      }
      if (!told) return null;
      const { build, parse } = told;
      return async () => {
        const forEver = Number.POSITIVE_INFINITY;
        return (await call('balance', providerId, forEver, build, (_, came) => parse(came))).outcome;
      };
    },
    readCallback,
    offers: (providerId) => entryOf(providerId).connector.offers,
    callMsMax: (providerId) => entryOf(providerId).line.callMsMax,
    standing: (providerId) => {
      try {
        const { line } = entryOf(providerId);
        if (line.isAway) {
          if (line.probeIsDue) probe(providerId, line.settings.probe!);
          return 'away';
        }
        return line.isBehind ? 'behind' : 'well';
      } catch {
        return 'behind';
      }
    },
    whenAway: (providerId) => {
      try {
        return entryOf(providerId).line.settings.whenAway;
      } catch {
        return 'queue';
      }
    },
    loads: () =>
      [...entries].flatMap(([providerId, { ready }]) =>
        'line' in ready ? [{ providerId, ...ready.line.load }] : [],
      ),
    close: async (ms) => {
      await Promise.all([...lines].map((line) => line.close(ms)));
    },
  };
}

/**
 * One connection with the call that has it now. Not a set of calls: one that changes at every call makes V8 carry dead
 * calls into the old generation, since the tables a Set has outgrown point to the newer ones.
 */
interface Slot {
  readonly client: Client;
  call: Call | null;
}

/** The connections to one provider, each with one call at a time, and the calls that wait for one. */
class Line {
  readonly callMsMax: number;
  private readonly origin: string;
  private readonly pathPrefix: string;
  private readonly slots: Slot[] = [];
  private readonly free: Slot[] = [];
  private waiting: Call[] = [];
  private sweeper: NodeJS.Timeout | null = null;
  /** A moving mean of how long a call has a connection. */
  private usualMs = 0;
  private closing = false;
  private readonly breaker: Breaker | null;
  private closed: { readonly readAtMs: number; readonly byWindow: boolean } | null = null;
  private readonly connect: buildConnector.BuildOptions;
  private readonly decoder: TextDecoder | null;

  /** Throws when the certificates or the charset cannot be used. */
  constructor(
    readonly settings: Settings,
    charset?: string,
  ) {
    const url = new URL(settings.baseUrl);
    this.connect = connectOptionsOf(settings);
    this.breaker = settings.breaker && new Breaker(settings.breaker);
    this.decoder = charset === undefined ? null : new TextDecoder(charset);
    this.origin = url.origin;
    this.pathPrefix = url.pathname.replace(/\/$/, '');
    this.callMsMax = settings.connectTimeoutMs + settings.answerMsMax + 2 * sweepMs;
  }

  /** Nothing new would be sent now. Without a probe the next payment is the try when one is due. */
  get isAway(): boolean {
    if (this.inMaintenance) return true;
    return this.breaker?.isOpen === true && (this.settings.probe !== undefined || !this.isTryDue);
  }

  get probeIsDue(): boolean {
    return this.settings.probe !== undefined && !this.inMaintenance && this.isTryDue;
  }

  /** Whether a call that could wait may go. */
  admits(isProbe: boolean): boolean {
    if (this.inMaintenance) return false;
    if (!this.breaker?.isOpen) return true;
    return (isProbe || this.settings.probe === undefined) && this.breaker.admits(elapsedMs());
  }

  note(answered: boolean): void {
    this.breaker?.note(answered, elapsedMs());
  }

  /** It was to be sent and never left. */
  untried(): void {
    this.breaker?.forgo();
  }

  private get isTryDue(): boolean {
    const tryAt = this.breaker?.tryAt ?? null;
    return tryAt !== null && elapsedMs() >= tryAt;
  }

  /** Looked at once a second: a zone's clock is slow to read. */
  private get inMaintenance(): boolean {
    const { maintenance, timeZone } = this.settings;
    if (maintenance.length === 0) return false;
    const nowMs = elapsedMs();
    if (this.closed === null || nowMs - this.closed.readAtMs >= 1000)
      this.closed = { readAtMs: nowMs, byWindow: isWithin(maintenance, timeZone, new Date()) };
    return this.closed.byWindow;
  }

  /** What came, as text; bytes that are none in the charset become replacement characters. */
  textOf(bytes: Buffer): string {
    return this.decoder?.decode(bytes) ?? bytes.toString('utf8');
  }

  /** By what waits and how long calls have taken of late: by the time a wait is seen to be long it is too late. */
  get isBehind(): boolean {
    if (this.waiting.length === 0) return false;
    const { concurrencyMax, queueMax, queueMsMax } = this.settings;
    const expectedMs = (this.waiting.length / concurrencyMax) * this.usualMs;
    return this.waiting.length >= queueMax || expectedMs > queueMsMax / 2;
  }

  get load(): { readonly underWay: number; readonly waiting: number } {
    return { underWay: this.slots.filter((slot) => slot.call).length, waiting: this.waiting.length };
  }

  /** Sends once, if the request can leave before that moment of `elapsedMs()`. Never rejects. */
  send(request: HttpRequest, sendBefore: number): Promise<Reply> {
    return new Promise((resolve) => {
      const call = new Call(this, request, sendBefore, resolve);
      if (this.closing) return call.refuse('the connections to the provider are being closed');
      if (elapsedMs() >= sendBefore) return call.refuse('the time to send by has passed');
      const slot = this.free.pop() ?? this.newSlot();
      if (slot) this.start(call, slot);
      else if (this.waiting.length < this.settings.queueMax) this.wait(call);
      else call.refuse(`the queue is full, ${this.waiting.length} calls wait`);
    });
  }

  /** Refuses what waits, gives calls under way at most `ms`, then cuts them. */
  async close(ms: number): Promise<void> {
    this.closing = true;
    const untilMs = performance.now() + ms;
    for (const call of this.waiting) call.refuse('the connections to the provider are being closed');
    this.waiting = [];
    while (this.slots.some((slot) => slot.call) && performance.now() < untilMs) await delay(10);
    await Promise.all(this.slots.map((slot) => slot.client.destroy()));
  }

  /** A connection has done its call. */
  release(slot: Slot): void {
    if (slot.call) this.usualMs += (elapsedMs() - slot.call.leftAtMs - this.usualMs) / usualOver;
    slot.call = null;
    // Not at once: undici is still in the middle of its own bookkeeping for this client.
    queueMicrotask(() => {
      const next = this.waiting.shift();
      if (next) this.start(next, slot);
      else this.free.push(slot);
    });
  }

  private newSlot(): Slot | undefined {
    if (this.slots.length >= this.settings.concurrencyMax) return undefined;
    // A client is one connection. Its own time-outs for the answer are off, since the sweep keeps one deadline for the
    // whole of it; its time-out for connecting frees the client after the sweep has given the call up.
    const client = new Client(this.origin, {
      pipelining: 1,
      headersTimeout: 0,
      bodyTimeout: 0,
      keepAliveTimeout: this.settings.keepAliveMs,
      keepAliveMaxTimeout: this.settings.keepAliveMs,
      connect: this.connect,
    });
    const slot: Slot = { client, call: null };
    this.slots.push(slot);
    return slot;
  }

  private wait(call: Call): void {
    call.deadlineMs = Math.min(elapsedMs() + this.settings.queueMsMax, call.sendBefore);
    this.waiting.push(call);
  }

  private start(call: Call, slot: Slot): void {
    this.sweeper ??= setInterval(() => this.sweep(), sweepMs).unref();
    call.leave(slot);
    const { method, path, headers, body } = call.request;
    slot.client.dispatch({ method, path: this.pathPrefix + path, headers, body }, call);
  }

  private sweep(): void {
    const nowMs = elapsedMs();
    let idle = true;
    for (const { call } of this.slots) {
      if (call) idle = false;
      if (call && call.deadlineMs <= nowMs) call.expire();
    }
    const late = this.waiting.filter((call) => call.deadlineMs <= nowMs);
    if (late.length > 0) {
      this.waiting = this.waiting.filter((call) => call.deadlineMs > nowMs);
      for (const call of late) call.expire();
    }
    if (idle && this.sweeper) {
      clearInterval(this.sweeper);
      this.sweeper = null;
    }
  }
}

/** One request on its way; undici's handler of it. */
class Call implements Dispatcher.DispatchHandler {
  /** When the sweep ends the present phase, on the clock of `elapsedMs()`. */
  deadlineMs = 0;
  /** When it got a connection. */
  leftAtMs = 0;
  private phase: 'waiting' | 'connecting' | 'sent' | 'over' = 'waiting';
  private slot: Slot | null = null;
  private controller: Dispatcher.DispatchController | null = null;
  private status = 0;
  private headers: HttpResponse['headers'] = {};
  private readonly chunks: Buffer[] = [];
  private bytes = 0;

  constructor(
    private readonly line: Line,
    readonly request: HttpRequest,
    readonly sendBefore: number,
    private readonly resolve: (reply: Reply) => void,
  ) {}

  refuse(detail: string): void {
    this.settle({ kind: 'not_sent', detail });
  }

  leave(slot: Slot): void {
    this.slot = slot;
    slot.call = this;
    this.phase = 'connecting';
    this.leftAtMs = elapsedMs();
    this.deadlineMs = Math.min(this.leftAtMs + this.line.settings.connectTimeoutMs, this.sendBefore);
  }

  expire(): void {
    const { queueMsMax, connectTimeoutMs, answerMsMax } = this.line.settings;
    if (this.phase === 'waiting') {
      this.refuse(`no free connection within ${queueMsMax} ms or the time to send by`);
    } else if (this.phase === 'connecting') {
      // Should the connection come up later, onRequestStart stops the request before its first byte.
      this.deadlineMs = Number.POSITIVE_INFINITY;
      this.refuse(`no connection within ${connectTimeoutMs} ms or the time to send by`);
    } else if (this.phase === 'sent') {
      this.giveUp(`no whole answer within ${answerMsMax} ms`);
    }
  }

  /** The connection is there and undici is about to write: the last moment at which nothing has left. */
  onRequestStart(controller: Dispatcher.DispatchController): void {
    const nowMs = elapsedMs();
    if (this.phase === 'connecting' && nowMs < this.sendBefore) {
      this.phase = 'sent';
      this.controller = controller;
      this.deadlineMs = nowMs + this.line.settings.answerMsMax;
      return;
    }
    if (this.phase === 'connecting') this.refuse('the time to send by has passed');
    // Also reached by a call given up meanwhile, and should undici ever begin to write a request again: it must not.
    controller.abort(new Error('not to be sent'));
  }

  onResponseStart(_: Dispatcher.DispatchController, status: number, headers: HttpResponse['headers']): void {
    this.status = status;
    this.headers = headers;
  }

  onResponseData(_: Dispatcher.DispatchController, chunk: Buffer): void {
    this.bytes += chunk.length;
    if (this.bytes > this.line.settings.responseBytesMax) {
      this.giveUp(`the answer is longer than ${this.line.settings.responseBytesMax} bytes`);
    } else {
      this.chunks.push(chunk);
    }
  }

  onResponseEnd(): void {
    const body = this.line.textOf(this.chunks.length === 1 ? this.chunks[0]! : Buffer.concat(this.chunks));
    this.finish({ kind: 'answered', response: { status: this.status, headers: this.headers, body } });
  }

  onResponseError(_: Dispatcher.DispatchController | null, error: Error): void {
    const reason = (error as NodeJS.ErrnoException).code ?? error.name;
    if (this.phase === 'connecting')
      this.finish({ kind: 'not_sent', detail: `the request could not leave: ${reason}` });
    else this.finish({ kind: 'unknown', detail: `the connection failed: ${reason}` });
  }

  private settle(reply: Reply): void {
    // Set when it has left the queue.
    const hasLeft = this.leftAtMs > 0;
    this.phase = 'over';
    if (reply.kind !== 'answered' && hasLeft) this.line.note(false);
    else if (reply.kind === 'not_sent') this.line.untried();
    this.resolve(reply);
  }

  private giveUp(detail: string): void {
    this.settle({ kind: 'unknown', detail });
    this.controller?.abort(new Error(detail));
  }

  private finish(reply: Reply): void {
    const slot = this.slot;
    if (!slot) return;
    this.slot = null;
    if (this.phase !== 'over') this.settle(reply);
    this.line.release(slot);
  }
}

function connectOptionsOf({ connectTimeoutMs, tls }: Settings): buildConnector.BuildOptions {
  if (!tls) return { timeout: connectTimeoutMs };
  const { ca, certificate: cert, key, serverName: servername } = tls;
  if ((cert === undefined) !== (key === undefined))
    throw new Error('tls: a certificate and its key go together; give both or neither');
  try {
    createSecureContext({ ca, cert, key });
    // What is no certificate at all is passed over there.
    if (ca !== undefined) new X509Certificate(ca);
  } catch (error) {
    throw new Error(
      `tls: the certificates or the key cannot be read: ${(error as NodeJS.ErrnoException).code}`,
    );
  }
  return { timeout: connectTimeoutMs, ca, cert, key, servername };
}

function isBaseUrl(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const url = new URL(text);
  return (
    (url.protocol === 'http:' || url.protocol === 'https:') &&
    url.username === '' &&
    url.password === '' &&
    url.search === '' &&
    url.hash === ''
  );
}

/** For the payment's history: short, and without the long numbers in which accounts and phones come. */
function recordDetail(outcome: {
  readonly kind: string;
  readonly detail?: string;
  readonly code?: number;
}): string | null {
  if (outcome.detail === undefined) return null;
  const text = outcome.kind === 'refused' ? `${outcome.code}: ${outcome.detail}` : outcome.detail;
  return text.replace(/\d{6,}/g, '***').slice(0, 200);
}
