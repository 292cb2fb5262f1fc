import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer as createHttpsServer } from 'node:https';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import type { TLSSocket } from 'node:tls';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { elapsedMs } from '../src/clock.js';
import { connectors } from '../src/providers/connectors.js';
import {
  type Connector,
  type ConnectorFactory,
  NotWritable,
  type Order,
  type Sender,
} from '../src/providers/contract.js';
import { receivedWords, sentWords } from '../src/providers/mask.js';
import { createSender } from '../src/providers/send.js';
import { selfSigned } from './support/self-signed.js';

const never = Number.POSITIVE_INFINITY;
const account = '77011234567';
let serial = 0;
const freshId = () => {
  serial += 1;
  return `4-${serial}`;
};
const undo: (() => Promise<unknown> | unknown)[] = [];
afterEach(async () => {
  for (const each of undo.splice(0).reverse()) await each();
});

interface Seen {
  readonly line: string;
  readonly externalId: string;
}

interface Provider {
  readonly url: string;
  readonly seen: Seen[];
  readonly sockets: Set<Socket>;
  connections: number;
}

/** A provider on a bare socket: `onRequest` is called when a request has been read whole. */
async function provider(onRequest: (socket: Socket, seen: Seen) => void): Promise<Provider> {
  const server = createServer((socket) => {
    told.connections += 1;
    told.sockets.add(socket);
    socket.on('error', () => {}).on('close', () => told.sockets.delete(socket));
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk.toString('utf8');
      for (;;) {
        const headEnd = text.indexOf('\r\n\r\n');
        if (headEnd < 0) return;
        const length = Number(/content-length: (\d+)/i.exec(text.slice(0, headEnd))?.[1] ?? 0);
        if (text.length < headEnd + 4 + length) return;
        const line = text.slice(0, text.indexOf('\r\n'));
        const body = text.slice(headEnd + 4, headEnd + 4 + length);
        text = text.slice(headEnd + 4 + length);
        const seen = { line, externalId: body ? JSON.parse(body).externalId : line.split(/[/ ]/).at(-3) };
        told.seen.push(seen);
        onRequest(socket, seen);
      }
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const told: Provider = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen: [],
    sockets: new Set(),
    connections: 0,
  };
  undo.push(() => {
    for (const socket of told.sockets) socket.destroy();
    server.close();
  });
  return told;
}

function answerText(externalId: string, extraHeaders = ''): string {
  const body = JSON.stringify({ externalId, status: 'executed', reference: 'S1' });
  return `HTTP/1.1 200 OK\r\n${extraHeaders}content-length: ${body.length}\r\n\r\n${body}`;
}
const answer = (socket: Socket, seen: Seen) => socket.write(answerText(seen.externalId));

const factsOf = (settings: Record<string, unknown>, connector = 'sandbox') => ({
  providerId: 'sandbox',
  name: 'Sandbox',
  connector,
  settings,
  paused: false,
});

function senderTo(
  baseUrl: string,
  settings: Record<string, unknown> = {},
  log: (fields: object, message: string) => void = (_, message) => expect.fail(message),
  factory: ConnectorFactory = connectors.get('sandbox')!,
): Sender {
  const facts = factsOf({ baseUrl, answerMsMax: 2000, ...settings });
  const sender = createSender({
    providers: () => new Map([['sandbox', facts]]),
    connectors: new Map([['sandbox', factory]]),
    log: { error: log },
  });
  undo.push(() => sender.close(0));
  return sender;
}

const cannot = () => {
  throw new NotWritable('no {{name}}');
};

const order = (): Order => ({
  again: false,
  externalId: freshId(),
  serviceCode: 'mobile',
  account,
  amountMinor: 20_000n,
  currency: 'KZT',
  extras: {},
  extraServices: null,
  transactionId: 64n,
  acceptedAt: new Date('2026-01-31T10:00:00.000Z'),
});
const inquiry = () => ({ ...order(), amountMinor: null });
const pay = (sender: Sender, sendBefore = never) => sender.pay('sandbox', order(), sendBefore);

/** Keeps the event loop from turning. */
function standStill(ms: number): void {
  const untilMs = performance.now() + ms;
  while (performance.now() < untilMs);
}

async function closedPort(): Promise<string> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return `http://127.0.0.1:${port}`;
}

describe('not sent: provably nothing was written', () => {
  it('a refused connection', async () => {
    const sender = senderTo(await closedPort());
    const outcome = { kind: 'not_sent', detail: 'the request could not leave: ECONNREFUSED' };
    expect((await pay(sender)).outcome).toEqual(outcome);
    expect((await sender.check('sandbox', inquiry())).outcome).toEqual(outcome);
    expect((await sender.status('sandbox', order())).outcome).toEqual(outcome);
    const many = await Promise.all(Array.from({ length: 200 }, () => pay(sender)));
    expect(new Set(many.map(({ outcome: { kind } }) => kind))).toEqual(new Set(['not_sent']));
  });

  it('no connection in time; the next call gets its turn', async () => {
    // A stopped process with a full backlog takes no connections.
    const script = `require('http').createServer((request, response) => {
      let text = '';
      request.on('data', (chunk) => { text += chunk; });
      request.on('end', () => {
        const { externalId } = JSON.parse(text);
        console.log(externalId);
        response.end(JSON.stringify({ externalId, status: 'executed', reference: 'S1' }));
      });
    }).listen(0, '127.0.0.1', 1, function () { console.log(this.address().port); });`;
    const child = spawn(process.execPath, ['-e', script]);
    undo.push(() => child.kill('SIGKILL'));
    const lines: string[] = [];
    const reader = createInterface(child.stdout).on('line', (line) => lines.push(line));
    const [port] = await once(reader, 'line');
    child.kill('SIGSTOP');
    const fillers = Array.from({ length: 6 }, () => connect(Number(port), '127.0.0.1').on('error', () => {}));
    await delay(100);

    const sender = senderTo(`http://127.0.0.1:${port}`, { connectTimeoutMs: 200, concurrencyMax: 1 });
    const { outcome, record } = await pay(sender);
    expect(outcome).toEqual({
      kind: 'not_sent',
      detail: 'no connection within 200 ms or the time to send by',
    });
    expect(record.durationMs).toBeLessThan(900);

    for (const each of fillers) each.destroy();
    child.kill('SIGCONT');
    const next = order();
    expect((await sender.pay('sandbox', next, never)).outcome.kind).toBe('executed');
    // What the child prints comes by another way than its answer.
    await vi.waitFor(() => expect(lines).toEqual([port, next.externalId]));
  });

  it('a machine that slept past the time to send by', async () => {
    const quick = await provider(answer);
    const sender = senderTo(quick.url);
    const sendBefore = elapsedMs() + 60_000;
    const awake = Date.now;
    undo.push(() => {
      Date.now = awake;
    });
    Date.now = () => awake() + 59_000;
    expect((await pay(sender, sendBefore)).outcome.kind).toBe('executed');
    Date.now = () => awake() + 61_000;
    expect((await pay(sender, sendBefore)).outcome).toEqual({
      kind: 'not_sent',
      detail: 'the time to send by has passed',
    });
    // A clock that is set back gives nothing back.
    Date.now = awake;
    expect((await pay(sender, sendBefore)).outcome.kind).toBe('not_sent');
    expect(quick.seen).toHaveLength(1);
  });

  it('the clock does not gather the unevenness of the two it is made of', () => {
    const startedMs = performance.now();
    const from = elapsedMs();
    for (let i = 0; i < 100_000; i += 1) elapsedMs();
    expect(Math.abs(elapsedMs() - from - (performance.now() - startedMs))).toBeLessThan(1);
  });

  it('a connection that comes up after the call was given up', async () => {
    const quick = await provider(answer);
    const sender = senderTo(quick.url, { connectTimeoutMs: 50, concurrencyMax: 1 });
    const late = pay(sender);
    standStill(150);
    expect((await late).outcome.kind).toBe('not_sent');
    expect((await pay(sender)).outcome.kind).toBe('executed');
    expect(quick.seen).toHaveLength(1);
    expect(quick.connections).toBe(2);
  });

  it('the time to send by has passed, before the call or while it waits', async () => {
    const busy = await provider((socket, seen) => setTimeout(() => answer(socket, seen), 300));
    const sender = senderTo(busy.url, { concurrencyMax: 1 });
    expect((await pay(sender, elapsedMs() - 1)).outcome.kind).toBe('not_sent');
    expect(busy.connections).toBe(0);

    const first = pay(sender);
    const second = await pay(sender, elapsedMs() + 100);
    expect(second.outcome).toEqual({
      kind: 'not_sent',
      detail: expect.stringMatching(/^no free connection/),
    });
    expect((await first).outcome.kind).toBe('executed');
    expect((await pay(sender, elapsedMs() + 1000)).outcome.kind).toBe('executed');
    expect(busy.seen).toHaveLength(2);
  });

  it('the time to send by passes while the event loop stands still', async () => {
    const quick = await provider(answer);
    const sender = senderTo(quick.url, { concurrencyMax: 1 });
    await pay(sender);
    const late = pay(sender, elapsedMs() + 20);
    standStill(40);
    expect((await late).outcome).toEqual({ kind: 'not_sent', detail: 'the time to send by has passed' });
    expect(quick.seen).toHaveLength(1);
    expect((await pay(sender)).outcome.kind).toBe('executed');
  });

  it('the queue is full, or the wait in it was too long', async () => {
    const busy = await provider((socket, seen) => setTimeout(() => answer(socket, seen), 400));
    const sender = senderTo(busy.url, { concurrencyMax: 2, queueMax: 3, queueMsMax: 150 });
    const calls = Array.from({ length: 8 }, () => pay(sender));
    const full = await Promise.race(calls);
    expect(full.outcome).toEqual({ kind: 'not_sent', detail: 'the queue is full, 3 calls wait' });
    const ends = (await Promise.all(calls)).map(({ outcome }) =>
      outcome.kind === 'not_sent' ? outcome.detail.slice(0, 12) : outcome.kind,
    );
    expect(ends).toEqual([
      ...Array(2).fill('executed'),
      ...Array(3).fill('no free conn'),
      ...Array(3).fill('the queue is'),
    ]);
    expect(busy.seen).toHaveLength(2);
  });

  it('where the breaker is open, what is new is not sent, and questions are', async () => {
    const dead = await provider((socket) => socket.destroy());
    const sender = senderTo(dead.url, { breaker: { calls: 2, share: 1, openMs: 60_000 } });
    for (let call = 0; call < 2; call += 1) expect((await pay(sender)).outcome.kind).toBe('unknown');
    expect((await pay(sender)).outcome.kind).toBe('not_sent');
    expect(dead.seen).toHaveLength(2);
    const question = await sender.pay('sandbox', { ...order(), again: true }, never);
    expect([question.outcome.kind, (await sender.status('sandbox', order())).outcome.kind]).toEqual([
      ...['unknown', 'unknown'],
    ]);
    expect(dead.seen).toHaveLength(4);
  });

  it('what cannot be written is refused, but where the request is a question', async () => {
    const quick = await provider(answer);
    const unable: ConnectorFactory = (settings) => ({
      ...connectors.get('sandbox')!(settings),
      buildCheck: cannot,
      buildPay: cannot,
    });
    const logged: unknown[] = [];
    const sender = senderTo(quick.url, {}, (...line) => logged.push(line), unable);
    const refused = {
      kind: 'refused',
      code: 7,
      detail: 'it cannot be written for the provider: no {{name}}',
    };
    const { outcome, record } = await pay(sender);
    expect(outcome).toEqual(refused);
    expect(record).toMatchObject({ outcome: 'refused', detail: `7: ${refused.detail}`, httpStatus: null });
    expect((await sender.check('sandbox', { ...order(), amountMinor: null })).outcome).toEqual(refused);
    expect(logged).toEqual([]);

    const question = await sender.pay('sandbox', { ...order(), again: true }, never);
    expect(question.outcome.kind).toBe('not_sent');
    expect(quick.seen).toEqual([]);
  });

  it('a connector that cannot build, a provider that is not known, wrong settings', async () => {
    const quick = await provider(answer);
    const broken: ConnectorFactory = (settings) => ({
      ...connectors.get('sandbox')!(settings),
      buildPay: () => {
        throw new TypeError(`cannot do ${account}`);
      },
    });
    const logged: unknown[] = [];
    const sender = senderTo(quick.url, {}, (fields, message) => logged.push(fields, message), broken);
    expect((await pay(sender)).outcome).toEqual({ kind: 'not_sent', detail: 'connector failed: TypeError' });
    expect(JSON.stringify(logged)).toContain('"at"');
    expect(JSON.stringify(logged)).not.toContain(account);

    expect((await sender.pay('other', order(), never)).outcome).toEqual({
      kind: 'not_sent',
      detail: 'provider other is not known; add it or correct the service',
    });

    const wrong = senderTo('ftp://x', { queueMax: -1 }, (_, message) => logged.push(message));
    const sentence =
      /^provider sandbox cannot be called, correct its settings: baseUrl: must be http.*; queueMax: /;
    await pay(wrong);
    logged.splice(0);
    const { outcome } = await pay(wrong);
    expect(outcome).toEqual({ kind: 'not_sent', detail: expect.stringMatching(sentence) });
    expect(() => wrong.offers('sandbox')).toThrow(sentence);
    expect(logged).toEqual([]);
    expect(quick.seen).toEqual([]);
  });
});

describe('unknown: the request left and no whole answer came', () => {
  const cases: [string, (socket: Socket, seen: Seen) => void, RegExp][] = [
    ['the connection is closed', (socket) => socket.end(), /UND_ERR_SOCKET/],
    ['the connection is reset', (socket) => socket.resetAndDestroy(), /ECONNRESET/],
    ['half of the head', (socket) => socket.end('HTTP/1.1 200 OK\r\ncontent-le'), /UND_ERR_SOCKET|HPE/],
    ['half of the body', (socket, seen) => socket.end(answerText(seen.externalId).slice(0, -5)), /UND_ERR/],
    ['half of a chunked body', (socket) => socket.end(chunked('5\r\n{"ext\r\n')), /UND_ERR_SOCKET|HPE/],
    ['no HTTP at all', (socket) => socket.end('220 mail.test ESMTP\r\n'), /HTTPParserError/],
    ['an answer that never comes', () => {}, /^no whole answer within 300 ms$/],
    ['an answer byte by byte', (socket, seen) => drip(socket, seen), /^no whole answer within 300 ms$/],
    [
      'a protocol change',
      (socket) => socket.write('HTTP/1.1 101 Go\r\nupgrade: x\r\n\r\n'),
      /^the connection failed: /,
    ],
    ['an error', (socket) => socket.write('HTTP/1.1 502 Bad\r\ncontent-length: 0\r\n\r\n'), /^HTTP 502$/],
  ];
  const chunked = (text: string) => `HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n${text}`;
  function drip(socket: Socket, seen: Seen): void {
    const text = answerText(seen.externalId);
    let at = 0;
    const timer = setInterval(() => socket.write(text[at++]!), 20);
    socket.on('close', () => clearInterval(timer));
  }

  it.each(cases)('%s', async (_, onRequest, detail) => {
    let bad = true;
    const fake = await provider((socket, seen) => (bad ? onRequest : answer)(socket, seen));
    const sender = senderTo(fake.url, { answerMsMax: 300, concurrencyMax: 1 });
    const { outcome, record } = await pay(sender);
    expect(outcome).toEqual({ kind: 'unknown', detail: expect.stringMatching(detail) });
    expect(record).toMatchObject({ call: 'pay', outcome: 'unknown' });
    expect(record.durationMs).toBeLessThan(900);

    // The payment was asked for once, and the connection that is left serves the next call.
    bad = false;
    const next = order();
    expect((await sender.pay('sandbox', next, never)).outcome.kind).toBe('executed');
    await delay(20);
    expect(fake.seen).toHaveLength(2);
    expect(fake.seen[1]!.externalId).toBe(next.externalId);
  });

  it('an answer of 100 MB is cut at the limit', async () => {
    const block = Buffer.alloc(1024 * 1024, 0x20);
    let written = 0;
    const fake = await provider((socket) => {
      socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${100 * block.length}\r\n\r\n`);
      const more = () => {
        while (!socket.destroyed && written < 100 * block.length) {
          written += block.length;
          if (!socket.write(block)) return socket.once('drain', more);
        }
      };
      more();
    });
    const sender = senderTo(fake.url, { responseBytesMax: 100_000 });
    expect((await pay(sender)).outcome).toEqual({
      kind: 'unknown',
      detail: 'the answer is longer than 100000 bytes',
    });
    await delay(50);
    expect(written).toBeLessThan(20 * block.length);
  });

  it('a connector that cannot parse, and nothing of the answer in the log or the record', async () => {
    const fake = await provider((socket, seen) => answer(socket, seen));
    const broken: ConnectorFactory = (settings) => ({
      ...connectors.get('sandbox')!(settings),
      parsePay: (response) => JSON.parse(`${account} ${response.body}`),
    });
    const logged: unknown[] = [];
    const sender = senderTo(fake.url, {}, (fields, message) => logged.push(fields, message), broken);
    const { outcome, record } = await pay(sender);
    expect(outcome).toEqual({ kind: 'unknown', detail: 'connector failed: SyntaxError' });
    expect(record).toMatchObject({
      httpStatus: 200,
      outcome: 'unknown',
      detail: 'connector failed: SyntaxError',
    });
    expect(logged).toHaveLength(2);
    expect(JSON.stringify(logged)).not.toMatch(/7701|externalId|S1/);
    expect(JSON.stringify(record)).not.toMatch(/7701/);
  });
});

describe('a request leaves once', () => {
  it('when the provider drops a kept connection after reading the next request from it', async () => {
    const fake = await provider((socket, seen) =>
      fake.seen.length % 2 === 1 ? answer(socket, seen) : socket.destroy(),
    );
    const sender = senderTo(fake.url, { concurrencyMax: 1 });
    for (let i = 0; i < 20; i += 1) {
      expect((await pay(sender)).outcome.kind).toBe('executed');
      expect((await pay(sender)).outcome.kind).toBe('unknown');
    }
    await delay(50);
    expect(fake.seen).toHaveLength(40);
    expect(fake.connections).toBe(20);
  });

  it('when the provider closes a kept connection at any moment around the next request', async () => {
    const fake = await provider((socket, seen) => {
      answer(socket, seen);
      setTimeout(() => socket.destroy(), Math.random() * 3);
    });
    const sender = senderTo(fake.url, { concurrencyMax: 4 });
    const outcomes: string[] = [];
    const worker = async () => {
      for (let i = 0; i < 100; i += 1) {
        outcomes.push((await pay(sender)).outcome.kind);
        await delay(Math.random() * 4);
      }
    };
    await Promise.all([worker(), worker(), worker(), worker()]);
    expect(outcomes.filter((kind) => kind === 'executed').length).toBeGreaterThan(100);
    expect(outcomes).not.toContain('not_sent');
    expect(new Set(fake.seen.map(({ externalId }) => externalId)).size).toBe(fake.seen.length);
  });

  it('also a status inquiry, which HTTP would allow to repeat', async () => {
    const fake = await provider((socket) => socket.destroy());
    const sender = senderTo(fake.url);
    expect((await sender.status('sandbox', order())).outcome.kind).toBe('unknown');
    await delay(50);
    expect(fake.seen).toHaveLength(1);
  });

  it('a redirect is an answer, not a direction', async () => {
    const other = await provider(answer);
    const fake = await provider((socket) =>
      socket.write(`HTTP/1.1 307 Go\r\nlocation: ${other.url}/pay\r\ncontent-length: 0\r\n\r\n`),
    );
    expect((await pay(senderTo(fake.url))).outcome).toEqual({ kind: 'unknown', detail: 'HTTP 307' });
    expect(other.connections).toBe(0);
  });
});

describe('connections', () => {
  it('are never more than the bound, one call on each at a time', async () => {
    let open = 0;
    let openMax = 0;
    const fake = await provider((socket, seen) => {
      open += 1;
      openMax = Math.max(openMax, open);
      setTimeout(() => {
        open -= 1;
        answer(socket, seen);
      }, 3);
    });
    const sender = senderTo(fake.url, { concurrencyMax: 5 });
    const calls = await Promise.all(Array.from({ length: 300 }, () => pay(sender)));
    expect(new Set(calls.map(({ outcome }) => outcome.kind))).toEqual(new Set(['executed']));
    expect(openMax).toBe(5);
    expect(fake.connections).toBe(5);
  });

  it('are kept between calls, and followed to where the provider has moved', async () => {
    const before = await provider(answer);
    const after = await provider(answer);
    let facts = factsOf({ baseUrl: `${before.url}/gate/v1/` });
    const sender = createSender({
      providers: () => new Map([['sandbox', facts]]),
      connectors,
      log: { error: (_, message) => expect.fail(message) },
    });
    undo.push(() => sender.close(0));
    await pay(sender);
    facts = structuredClone(facts);
    await pay(sender);
    await sender.status('sandbox', { ...order(), externalId: '4/ü' });
    expect(before.connections).toBe(1);
    expect(before.seen.map(({ line }) => line)).toEqual([
      'POST /gate/v1/pay HTTP/1.1',
      'POST /gate/v1/pay HTTP/1.1',
      'GET /gate/v1/status/4%2F%C3%BC HTTP/1.1',
    ]);
    facts = factsOf({ baseUrl: after.url });
    await pay(sender);
    await delay(50);
    expect([before.seen.length, after.seen.length]).toEqual([3, 1]);
    expect(before.sockets.size).toBe(0);
  });

  it('close gives calls under way their time, refuses the others, then cuts', async () => {
    const fake = await provider((socket, seen) => {
      if (fake.seen.length === 1) setTimeout(() => answer(socket, seen), 100);
    });
    const sender = senderTo(fake.url, { concurrencyMax: 2 });
    const calls = Array.from({ length: 3 }, () => pay(sender));
    await delay(50);
    const startedMs = performance.now();
    await sender.close(200);
    expect(performance.now() - startedMs).toBeLessThan(300);
    const after = pay(sender);
    const kinds = await Promise.all([...calls, after].map(async (each) => (await each).outcome.kind));
    expect(kinds).toEqual(['executed', 'unknown', 'not_sent', 'not_sent']);
    expect(fake.seen).toHaveLength(2);
  });
});

describe('TLS', () => {
  it('the provider is known by its authority, and is shown a certificate where it wants one', async () => {
    const [theirs, ours] = [selfSigned('provider.test'), selfSigned('centre.test')];
    const seen: unknown[] = [];
    const server = createHttpsServer(
      {
        key: theirs.key,
        cert: theirs.cert,
        ca: ours.cert,
        requestCert: true,
        rejectUnauthorized: true,
      },
      (request, response) => {
        seen.push((request.socket as TLSSocket).getPeerCertificate().subject.CN);
        let body = '';
        request.on('data', (chunk) => (body += chunk));
        request.on('end', () =>
          response.end(
            JSON.stringify({ externalId: JSON.parse(body).externalId, status: 'executed', reference: 'S1' }),
          ),
        );
      },
    ).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const outcomeWith = async (tls: object | undefined) =>
      (await pay(senderTo(url, tls ? { tls } : {}))).outcome.kind;
    const known = { ca: theirs.cert, serverName: 'provider.test' };
    expect(await outcomeWith({ ...known, certificate: ours.cert, key: ours.key })).toBe('executed');
    expect(seen).toEqual(['centre.test']);
    // Not known, of another name, and without our certificate: nothing is sent, or nothing is answered.
    expect(await outcomeWith({ certificate: ours.cert, key: ours.key })).toBe('not_sent');
    expect(
      await outcomeWith({
        ...known,
        serverName: 'another.test',
        certificate: ours.cert,
        key: ours.key,
      }),
    ).toBe('not_sent');
    expect(['not_sent', 'unknown']).toContain(await outcomeWith(known));
    expect(seen).toHaveLength(1);
    for (const [tls, problem] of [
      [{ ...known, certificate: ours.cert }, /a certificate and its key go together/],
      [{ ca: 'no certificate' }, /tls: the certificates or the key cannot be read/],
      [{ certificate: ours.cert, key: theirs.key }, /tls: the certificates or the key cannot be read/],
    ] as const)
      expect((await pay(senderTo(url, { tls }))).outcome).toMatchObject({
        kind: 'not_sent',
        detail: expect.stringMatching(problem),
      });
    server.close();
  });
});

describe('the record of a call', () => {
  const fixed = (outcome: ReturnType<Connector['parsePay']>): ConnectorFactory => {
    return (settings) => ({ ...connectors.get('sandbox')!(settings), parsePay: () => outcome });
  };

  it('tells what was called, when, how long, with which HTTP status and end', async () => {
    const fake = await provider((socket, seen) =>
      socket.write(`HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n${answerText(seen.externalId)}`),
    );
    const { record } = await pay(senderTo(fake.url));
    expect(record).toEqual({
      call: 'pay',
      startedAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
      durationMs: expect.any(Number),
      httpStatus: 200,
      outcome: 'executed',
      detail: null,
      // Of an answer only what the connector calls plain.
      sent: expect.stringMatching(
        /^POST \/pay \{"externalId":"[^"*]+","service":"mobile","account":"\*{3}","amount":"\*{3}","currency":"KZT"/,
      ),
      received: expect.stringMatching(/^200 \{"externalId":"[^"*]+","status":"executed","reference":"S1"\}$/),
    });
  });

  it('keeps what was said where the settings want it', async () => {
    const fake = await provider(answer);
    const kept = async (settings: Record<string, unknown>) => {
      const { record } = await pay(senderTo(fake.url, settings));
      return [record.sent !== undefined, record.received !== undefined];
    };
    expect(await kept({ exchanges: 'all' })).toEqual([true, true]);
    expect(await kept({ exchanges: 'trouble' })).toEqual([false, false]);
    expect(await kept({ exchanges: 'none' })).toEqual([false, false]);
    const hung = await provider((socket) => socket.destroy());
    const { record } = await pay(senderTo(hung.url, { exchanges: 'trouble' }));
    expect(record.outcome).toBe('unknown');
    expect([record.sent !== undefined, record.received]).toEqual([true, undefined]);
  });

  it('what it masks, by the form of what was said', () => {
    const plain = new Set(['result', 'command', 'osmp_txn_id', 'id']);
    const received = (body: string, status = 200) => receivedWords({ status, headers: {}, body }, plain);
    expect(
      received('{"id":12345678901234567890,"fio":"Имя","list":["a",1,{"result":"5","x":null}],"y":""}'),
    ).toBe('200 {"id":12345678901234567890,"fio":"***","list":["***","***",{"result":"5","x":null}],"y":""}');
    const xml =
      '<response><osmp_txn_id>7</osmp_txn_id><fio kind="f">Имя</fio><result fatal="true">5</result></response>';
    expect(received(xml)).toBe(
      '200 <response><osmp_txn_id>7</osmp_txn_id><fio kind="***">***</fio><result fatal="***">5</result></response>',
    );
    expect(received('result=0&phone=7770001122')).toBe('200 result=0&phone=***');
    for (const spoilt of ['{"phone":"7770001122"', '<a>7770001122', 'Абонент 7770001122', '[7770001122'])
      expect(received(spoilt, 500)).toMatch(/^500 \(\d+ bytes that are not [\w ]+\)$/);
    expect(received('')).toBe('200 (empty)');
    const path = '/pay/7770001122?command=pay&account=7770001122&id=7';
    expect(sentWords({ method: 'GET', path, headers: {}, body: null }, plain)).toBe(
      'GET /pay/***?command=pay&account=***&id=7',
    );
  });

  it('masks the numbers in the words of a provider and cuts them short', async () => {
    const fake = await provider(answer);
    const detail = `абонент ${account} не найден${'.'.repeat(500)}`;
    const sender = senderTo(fake.url, {}, undefined, fixed({ kind: 'refused', code: 5, detail }));
    const { record } = await pay(sender);
    expect(record.detail).toMatch(/^5: абонент \*\*\* не найден\.+$/);
    expect(record.detail!.length).toBe(200);
  });

  it('the longest a call can take is the sum of its phases', async () => {
    const sender = senderTo('http://127.0.0.1:9', { connectTimeoutMs: 700, answerMsMax: 5000 });
    expect(sender.callMsMax('sandbox')).toBe(5800);
    expect(sender.offers('sandbox').status).toBe(true);
  });
});
