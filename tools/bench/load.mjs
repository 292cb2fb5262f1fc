/**
 * Drives one method over HTTP with keep-alive: each connection sends its next request when the last one is answered.
 * Plain sockets, so that the driver takes as little of a shared machine as it can. Answers a JSON line on stdout.
 *
 *   node load.mjs '{"port":8020,"token":"…","path":"/api/v20/pay","connections":64,"seconds":10,"serviceId":"P1011","firstId":1}'
 */
import { connect } from 'node:net';

const options = JSON.parse(process.argv[2]);
const { port, tokens, path, connections, seconds, warmupSeconds = 1, serviceId, firstId } = options;

let nextId = BigInt(firstId);
const codes = {};
const statuses = {};
let counting = false;
let answered = 0;
let failures = 0;
let total = 0;
// Latencies in a histogram of 0.1 ms up to 20 s: a list of millions would be measured along.
const histogram = new Uint32Array(200_000);
let ending = false;

const date = new Date().toISOString().slice(0, 19);
function request(index) {
  const id = nextId;
  nextId += 1n;
  const account = String(7_000_000_000n + (id % 999_000_000n)).slice(0, 6) + '1111';
  const body = `{"serviceId":"${serviceId}","account":"${account}","agentTransactionId":${id},"agentTransactionDate":"${date}","amountTo":200.00,"amountFrom":200.00}`;
  return (
    `POST ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer ${tokens[index % tokens.length]}\r\n` +
    `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`
  );
}

function drive(index) {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true });
    let sentAt = 0;
    let buffer = '';
    const send = () => {
      if (ending) {
        socket.end();
        return resolve();
      }
      sentAt = performance.now();
      socket.write(request(index));
    };
    socket.setEncoding('latin1');
    socket.on('connect', send);
    socket.on('data', (chunk) => {
      buffer = buffer === '' ? chunk : buffer + chunk;
      const headEnd = buffer.indexOf('\r\n\r\n');
      if (headEnd < 0) return;
      const lengthAt = buffer.search(/content-length: /i);
      const length = Number.parseInt(buffer.slice(lengthAt + 16, lengthAt + 26), 10);
      if (buffer.length < headEnd + 4 + length) return;
      total += 1;
      if (counting) {
        answered += 1;
        const tenths = Math.min(Math.floor((performance.now() - sentAt) * 10), histogram.length - 1);
        histogram[tenths] += 1;
        const status = buffer.slice(9, 12);
        statuses[status] = (statuses[status] ?? 0) + 1;
        const at = buffer.indexOf('"result":', headEnd);
        const code = at < 0 ? 'none' : String(Number.parseInt(buffer.slice(at + 9, at + 14), 10));
        codes[code] = (codes[code] ?? 0) + 1;
      }
      buffer = '';
      send();
    });
    socket.on('error', () => {
      failures += 1;
    });
    socket.on('close', () => resolve());
  });
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
counting = true;
const startedAt = performance.now();
await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
counting = false;
const elapsed = (performance.now() - startedAt) / 1000;
ending = true;
await Promise.race([done, new Promise((resolve) => setTimeout(resolve, 15_000))]);
console.log(
  JSON.stringify({
    perSecond: Math.round((answered / elapsed) * 10) / 10,
    p50Ms: percentile(0.5),
    p99Ms: percentile(0.99),
    answered,
    total,
    failures,
    codes,
    statuses,
    lastId: String(nextId - 1n),
  }),
);
process.exit(0);
