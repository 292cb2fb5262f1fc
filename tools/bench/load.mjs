/**
 * Drives one method over HTTP with keep-alive: each connection sends its next request when the last one is answered,
 * or with `ratePerSecond` at that pace. Plain sockets, so that the driver takes as little of a shared machine as it can.
 * Answers a JSON line on stdout; with `everySeconds` one for each such part of the time besides.
 *
 *   node load.mjs '{"ports":[8020],"token":"…","path":"/api/v20/pay","connections":64,"seconds":10,"serviceId":"P1011","firstId":1}'
 */
import { connect } from 'node:net';
import { bodyOf } from './body.mjs';
import { storedAgent, storedId } from './fill.mjs';

const options = JSON.parse(process.argv[2]);
const {
  ports,
  tokens,
  path,
  connections,
  seconds,
  warmupSeconds = 1,
  serviceId,
  firstId,
  repeatFrom,
  stored,
  date = new Date().toISOString().slice(0, 19),
  ratePerSecond,
  everySeconds = seconds,
} = options;

// Fixed-width ids, so that a request is written once per connection and only its digits change.
const idDigits = 18;
let nextId = BigInt(firstId);
/**
 * With `repeatFrom`, ids of payments made before, from there to `firstId`, by chance; with `stored`, ids of this agent
 * among the `count` payments from the number `first` on that fill.mjs wrote; else every id is new.
 */
const repeatable = repeatFrom === undefined ? 0 : Number(BigInt(firstId) - BigInt(repeatFrom));
function idToSend(agent) {
  if (stored) {
    const rounds = Math.floor(stored.count / tokens.length);
    const from = BigInt(stored.first) + BigInt(Math.floor(Math.random() * rounds) * tokens.length);
    const ahead = (agent - storedAgent(from, tokens.length) + tokens.length) % tokens.length;
    return storedId(from + BigInt(ahead));
  }
  if (repeatable > 0) return BigInt(repeatFrom) + BigInt(Math.floor(Math.random() * repeatable));
  nextId += 1n;
  return nextId - 1n;
}
let codes = {};
let statuses = {};
let counting = false;
let answered = 0;
let failures = 0;
let total = 0;
// Latencies in a histogram of 0.1 ms up to 20 s: a list of millions would be measured along.
const histogram = new Uint32Array(200_000);
let ending = false;

const noId = '0'.repeat(idDigits);

function newRequest() {
  const body = bodyOf(serviceId, noId, date);
  const text =
    `POST ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer ${tokens[0]}\r\n` +
    `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  return { bytes: Buffer.from(text, 'latin1'), idAt: text.indexOf(noId), tokenAt: text.indexOf(tokens[0]) };
}

function drive(index) {
  return new Promise((resolve) => {
    const socket = connect({ port: ports[index % ports.length], host: '127.0.0.1', noDelay: true });
    const { bytes, idAt, tokenAt } = newRequest();
    // When the request was to be sent: a server that stands still must not hide the waits it causes.
    let sentAt = 0;
    let part = null;
    // The agents take turns, and with them their tokens, which are equally long.
    let agent = index % tokens.length;
    const paceMs = ratePerSecond ? (connections * 1000) / ratePerSecond : 0;
    let dueAt = performance.now() + Math.random() * paceMs;
    const send = () => {
      if (ending) {
        socket.end();
        return resolve();
      }
      if (tokens.length > 1) {
        agent = (agent + connections) % tokens.length;
        bytes.latin1Write(tokens[agent], tokenAt);
      }
      bytes.latin1Write(String(idToSend(agent)), idAt, idDigits);
      // A timer may be early by a little; who is late is late from when it was due.
      sentAt = paceMs === 0 ? performance.now() : Math.min(dueAt, performance.now());
      socket.write(bytes);
    };
    const sendInTime = () => {
      if (paceMs === 0) return send();
      dueAt += paceMs;
      const inMs = dueAt - performance.now();
      if (inMs <= 0) send();
      else setTimeout(send, inMs);
    };
    socket.on('connect', sendInTime);
    socket.on('data', (chunk) => {
      const answer = part === null ? chunk : Buffer.concat([part, chunk]);
      const headEnd = answer.indexOf('\r\n\r\n');
      const lengthAt = answer.indexOf('ontent-length: ') + 15;
      const length = headEnd < 0 ? 0 : Number.parseInt(answer.latin1Slice(lengthAt, lengthAt + 8), 10);
      if (headEnd < 0 || answer.length < headEnd + 4 + length) {
        part = answer;
        return;
      }
      part = null;
      total += 1;
      if (counting) note(answer, headEnd, performance.now() - sentAt);
      sendInTime();
    });
    // What comes after it is counted.
    socket.on('error', () => {});
    socket.on('close', () => {
      if (!ending) failures += 1;
      resolve();
    });
  });
}

function note(answer, headEnd, ms) {
  answered += 1;
  histogram[Math.min(Math.floor(ms * 10), histogram.length - 1)] += 1;
  const status = answer.latin1Slice(9, 12);
  statuses[status] = (statuses[status] ?? 0) + 1;
  const at = answer.indexOf('"result":', headEnd) + 9;
  const code = at < 9 ? 'none' : Number.parseInt(answer.latin1Slice(at, at + 4), 10);
  codes[code] = (codes[code] ?? 0) + 1;
}

function percentile(share) {
  const wanted = Math.ceil(answered * share);
  let seen = 0;
  for (let i = 0; i < histogram.length; i += 1) {
    seen += histogram[i];
    if (seen >= wanted) return (i + 0.5) / 10;
  }
  return 0;
}

const done = Promise.all(Array.from({ length: connections }, (_, index) => drive(index)));
await new Promise((resolve) => setTimeout(resolve, warmupSeconds * 1000));
let startedAt = performance.now();
const parts = Math.round(seconds / everySeconds);
counting = true;
for (let part = 1; part <= parts; part += 1) {
  await new Promise((resolve) => setTimeout(resolve, everySeconds * 1000));
  if (part === parts) break;
  console.log(JSON.stringify(counted()));
  answered = 0;
  codes = {};
  statuses = {};
  histogram.fill(0);
  startedAt = performance.now();
}
counting = false;
const last = counted();
ending = true;
await Promise.race([done, new Promise((resolve) => setTimeout(resolve, 15_000))]);
const { user, system } = process.cpuUsage();
const lastId = String(nextId - 1n);
console.log(JSON.stringify({ ...last, total, lastId, cpuMicros: Math.round((user + system) / total) }));
process.exit(0);

/** Of the time since `startedAt`. */
function counted() {
  const elapsed = (performance.now() - startedAt) / 1000;
  return {
    perSecond: Math.round((answered / elapsed) * 10) / 10,
    p50Ms: percentile(0.5),
    p99Ms: percentile(0.99),
    answered,
    failures,
    codes,
    statuses,
  };
}
