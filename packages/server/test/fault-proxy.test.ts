/** The laboratory's proxy does what it is told: a fault that does not happen makes a hollow experiment. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type FaultProxy, type Plan, startFaultProxy } from './support/fault-proxy.js';

const said = '{"status":"executed"}';
let asked: string[];
let provider: ReturnType<typeof createServer>;
let proxy: FaultProxy;

beforeEach(async () => {
  asked = [];
  provider = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk) => (body += chunk));
    request.on('end', () => {
      asked.push(body);
      response.setHeader('content-length', said.length).end(said);
    });
  }).listen(0, '127.0.0.1');
  await once(provider, 'listening');
  proxy = await startFaultProxy(`http://127.0.0.1:${(provider.address() as AddressInfo).port}`, 0);
});

afterEach(() => {
  proxy.close();
  provider.close();
  provider.closeAllConnections();
});

/** One request on a connection of its own: what came of it within the time, and how the connection ended. */
async function call(plan: Plan, withinMs = 300) {
  proxy.follow(plan);
  const socket = connect(Number(new URL(proxy.url).port), '127.0.0.1');
  let got = '';
  let end = '';
  socket.on('error', (error: NodeJS.ErrnoException) => (end += ` ${error.code}`));
  socket.on('data', (chunk) => (got += chunk));
  socket.on('end', () => (end += ' FIN'));
  socket.write('POST /pay HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n');
  socket.write('1234');
  await Promise.race([once(socket, 'close').catch(() => {}), sleep(withinMs)]);
  socket.destroy();
  return { body: got.split('\r\n\r\n')[1] ?? got, end: end.trim() || 'open' };
}

const half = said.slice(0, Math.floor(said.length / 2));

test('passes on what is not to be spoilt, several requests on one connection', async () => {
  const delivered: string[] = [];
  const plan: Plan = { delivered: (request, answer) => delivered.push(request.slice(-4), answer.slice(-21)) };
  expect(await call(plan)).toEqual({ body: said, end: 'open' });
  for (let i = 0; i < 3; i += 1)
    expect(await (await fetch(`${proxy.url}/pay`, { method: 'POST', body: 'more' })).text()).toBe(said);
  expect(asked).toEqual(['1234', 'more', 'more', 'more']);
  expect(delivered.slice(0, 4)).toEqual(['1234', said, 'more', said]);
  expect(proxy.did).toEqual(new Map([['pay: plain', 4]]));
});

test.each([
  { at: 'asked', reaches: 0, body: '' },
  { at: 'forwarded', reaches: 1, body: '' },
  { at: 'answered', reaches: 1, body: '' },
  { at: 'half', reaches: 1, body: half },
] as const)('cuts when $at, by FIN, RST and silence', async ({ at, reaches, body }) => {
  const delivered: string[] = [];
  for (const [by, end] of [
    ['close', 'FIN'],
    ['reset', 'ECONNRESET'],
    ['hang', 'open'],
  ] as const) {
    asked = [];
    const plan: Plan = {
      exchange: () => ({ cut: { at, by } }),
      delivered: (_, text) => delivered.push(text),
    };
    expect({ by, ...(await call(plan)) }).toEqual({ by, body, end });
    // What was passed on comes to its end at the provider, though nobody waits for it.
    await expect.poll(() => asked.length).toBe(reaches);
    expect(proxy.did.get(`pay: ${at}, ${by}`)).toBe(1);
  }
  expect(delivered).toEqual([]);
});

test.each([
  // Who is still writing may learn of the end by that.
  ['reset', ['ECONNRESET', 'EPIPE']],
  ['close', ['FIN', 'ECONNRESET', 'EPIPE']],
  ['hang', ['open']],
] as const)('a new connection: %s', async (by, ends) => {
  const got = await call({ connection: () => by });
  expect(got.body).toBe('');
  expect(ends).toContain(got.end);
  expect(asked).toEqual([]);
  expect(proxy.did).toEqual(new Map([[`connected, ${by}`, 1]]));
});

test('refuses connections and drops idle ones, then takes them again', async () => {
  const socket = connect(Number(new URL(proxy.url).port), '127.0.0.1').resume();
  await once(socket, 'connect');
  await sleep(20);
  const dropped = once(socket, 'close');
  proxy.refuse();
  await dropped;
  expect(await call({})).toEqual({ body: '', end: 'ECONNREFUSED' });
  await proxy.accept();
  expect(await call({})).toEqual({ body: said, end: 'open' });
});

test('holds an answer back, and lets it drip', async () => {
  const started = performance.now();
  expect((await call({ exchange: () => ({ delayMs: 200 }) }, 150)).body).toBe('');
  expect((await call({ exchange: () => ({ delayMs: 100 }) })).body).toBe(said);
  expect(performance.now() - started).toBeGreaterThan(240);
  // The head is dripped too.
  expect((await call({ exchange: () => ({ dripMs: 5 }) }, 100)).body.length).toBeLessThan(said.length);
  expect((await call({ exchange: () => ({ dripMs: 1 }) }, 1000)).body).toBe(said);
  expect(proxy.count('delayed')).toBe(1);
  expect(proxy.count('dripped')).toBe(1);
});
