/**
 * A provider that speaks the sandbox's protocol and cannot be relied upon: it answers late or not at all, tells by
 * callbacks before, while and after it is asked, many times over, and tells things that cannot both be true. It writes
 * down what it told that reached the centre.
 */
import { createHmac } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Pool } from 'undici';

export type Story =
  /** All it tells agrees. */
  | 'agrees'
  | 'refused after success'
  | 'executed after failure'
  /** The request is mislaid, so that the status says not found; then it is executed after all. */
  | 'mislaid'
  /** Taken, and ended later. */
  | 'pending';

const stories: readonly Story[] = [
  'agrees',
  'refused after success',
  'executed after failure',
  'mislaid',
  'pending',
];

export interface Order {
  readonly externalId: string;
  readonly story: Story;
  account: string;
  amount: string;
  /** Requests to pay. */
  pays: number;
  /** What the centre has been told and has taken: the references of executions, and whether it was refused. */
  readonly executed: Set<string>;
  refused: boolean;
  /** An answer to pay that told an end has left. */
  answered: boolean;
  status: object;
  notFound: number;
  /** When what reached it, for whoever looks at a violation. */
  readonly log: string[];
}

/** How long the centre waits. An answer comes well within it or, the centre being gone by then, never. */
export const answerMsMax = 4000;
const soonMsMax = 300;
/** Later than the agent waits, and than callbacks about the same. */
const lateMs = () => 1000 + Math.random() * 800;
const callbackMsMax = 60_000;

const chance = (share: number) => Math.random() < share;
const executedAs = (reference: string) => ({ status: 'executed', reference });
const refused = { status: 'refused', code: 300 };

export type ContraryProvider = Awaited<ReturnType<typeof startContraryProvider>>;

export async function startContraryProvider(secret: string) {
  const orders = new Map<string, Order>();
  const counts = new Map<string, number>();
  const count = (what: string) => counts.set(what, (counts.get(what) ?? 0) + 1);
  /** What went as it must not: for the judge. */
  const strange: string[] = [];
  const underWay = new Set<Promise<void>>();
  let centres: Pool[] = [];

  function orderOf(externalId: string): Order {
    let order = orders.get(externalId);
    if (!order) {
      const story = stories[Math.floor(Math.random() * stories.length)]!;
      order = {
        ...{
          externalId,
          story,
          account: '',
          amount: '',
          pays: 0,
          executed: new Set<string>(),
          refused: false,
        },
        ...{ answered: false, status: { status: 'not_found' }, notFound: 0, log: [] },
      };
      orders.set(externalId, order);
    }
    return order;
  }

  const work = (promise: Promise<void>) => {
    underWay.add(promise);
    void promise.finally(() => underWay.delete(promise));
  };

  function reached(order: Order, what: object, by: string): void {
    order.log.push(`${new Date().toISOString().slice(17, 23)} ${by} ${(what as { status: string }).status}`);
    if ('reference' in what) order.executed.add(String(what.reference));
    if ('code' in what) order.refused = true;
  }

  /** Tells it at some moment in the time, once or ten times at once, and comes again until it is taken. */
  function call(order: Order, what: object, fromMs: number, toMs: number): void {
    const times = chance(0.4) ? 10 : 1;
    const atMs = fromMs + Math.random() * (toMs - fromMs);
    const body = JSON.stringify({ externalId: order.externalId, ...what });
    for (let i = 0; i < times; i += 1) {
      const spreadMs = chance(0.5) ? 0 : Math.random() * 500;
      work(sleep(atMs + spreadMs).then(() => untilTaken(order, what, body)));
    }
    if (chance(0.1)) work(sleep(atMs).then(() => forge(body)));
  }

  async function post(body: string, key: string): Promise<number> {
    const signature = `sha256=${createHmac('sha256', key).update(body).digest('hex')}`;
    const answer = await centres[Math.floor(Math.random() * centres.length)]!.request({
      method: 'POST',
      path: '/provider-callbacks/sandbox',
      headers: { 'content-type': 'application/json', 'x-sandbox-signature': signature },
      body,
    });
    await answer.body.dump();
    return answer.statusCode;
  }

  async function untilTaken(order: Order, what: object, body: string): Promise<void> {
    const endAtMs = performance.now() + callbackMsMax;
    while (performance.now() < endAtMs) {
      const before = !order.answered;
      const status = await post(body, secret).catch(() => 0);
      count(`callbacks answered ${status}`);
      if (status === 200) {
        if (before) count('callbacks taken before an answer');
        return reached(order, what, 'callback');
      }
      await sleep(50 + Math.random() * 250);
    }
    strange.push(`${order.externalId}: ${body} was not taken`);
  }

  async function forge(body: string): Promise<void> {
    const status = await post(body, 'a secret that is not the provider’s').catch(() => 0);
    count('forged');
    if (status !== 401) strange.push(`a forged callback was answered ${status}`);
  }

  /** Before anything was ordered: the centre does not know the payment yet. */
  function checked(order: Order): object {
    const { story, externalId } = order;
    if (story === 'agrees' && chance(0.3)) {
      order.status = executedAs(`A${externalId}`);
      call(order, order.status, 0, 20);
    }
    return { externalId, status: 'ok' };
  }

  function paid(order: Order): object | null {
    const { story, externalId } = order;
    const first = executedAs(`A${externalId}`);
    order.pays += 1;
    if (story === 'mislaid') {
      if (order.pays === 1) return null;
      // The second request is executed too, refused as a repeat, or lost.
      order.status = chance(0.5) ? executedAs(`B${externalId}`) : chance(0.5) ? refused : first;
      return order.status === first ? null : order.status;
    }
    order.log.push(`${new Date().toISOString().slice(17, 23)} asked to pay`);
    if (story === 'pending') {
      const end = chance(0.5) ? first : refused;
      order.status = { status: 'pending' };
      work(
        sleep(300 + Math.random() * 1500).then(() => {
          order.status = end;
          call(order, end, 0, 800);
          if (chance(0.5)) call(order, end === first ? refused : first, 0, 2000);
        }),
      );
      return { status: 'pending' };
    }
    const known = (order.status as { status: string }).status !== 'not_found';
    if (!known)
      order.status =
        story === 'executed after failure' || (story === 'agrees' && chance(0.4)) ? refused : first;
    if (chance(0.8)) call(order, order.status, 0, 1500);
    if (story === 'refused after success') call(order, refused, 0, 2500);
    if (story === 'executed after failure') call(order, first, 0, 2500);
    if (story === 'executed after failure' && chance(0.3)) call(order, executedAs(`C${externalId}`), 0, 2500);
    return order.status;
  }

  function asked(order: Order): object {
    const { story, externalId } = order;
    if (story === 'mislaid' && order.pays === 1) {
      order.notFound += 1;
      // It turns up now, about when the centre has trusted that it never came.
      if (order.notFound === 1) call(order, executedAs(`A${externalId}`), 0, 150);
      return { status: 'not_found' };
    }
    if (story === 'refused after success' && chance(0.3)) return refused;
    return order.status;
  }

  /** Soon, late, cut off, or never. */
  function answer(order: Order | null, response: ServerResponse, what: object | null): void {
    const dice = Math.random();
    if (order && dice > 0.9) {
      // The centre will have given up.
      count('answers that never come');
      return;
    }
    if (what === null || (order && dice < 0.15)) {
      count('answers cut');
      response.socket?.destroy();
      return;
    }
    const late = order !== null && dice < 0.35;
    if (late) count('answers late');
    let gone = false;
    response.on('close', () => {
      gone = true;
    });
    const leave = async () => {
      await sleep(late ? lateMs() : order ? Math.random() * soonMsMax : 0);
      if (gone) return;
      if (order) {
        order.answered ||= 'code' in what || 'reference' in what;
        reached(order, what, 'answer');
      }
      const body = JSON.stringify(what);
      response.writeHead(200, {
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(body),
      });
      response.end(body);
    };
    work(leave());
  }

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = request.url ?? '';
    let text = '';
    for await (const chunk of request) text += chunk;
    if (url.startsWith('/status/')) {
      const order = orderOf(decodeURIComponent(url.slice('/status/'.length)));
      count('inquiries');
      answer(order, response, { externalId: order.externalId, ...asked(order) });
      return;
    }
    const { externalId, account, amount } = JSON.parse(text);
    const order = orderOf(externalId);
    if (url === '/check') return answer(null, response, checked(order));
    order.account = account;
    order.amount = amount;
    const told = paid(order);
    answer(order, response, told && { externalId, ...told });
  }

  const server = createServer((request, response) => {
    void serve(request, response).catch(() => response.socket?.destroy());
  });
  server.keepAliveTimeout = 0;
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    orders,
    counts,
    strange,
    /** Where its callbacks go. */
    serveTo(urls: readonly string[]): void {
      centres = urls.map((url) => new Pool(url, { connections: 32 }));
    },
    /** Everything that was to be told has been told. */
    async done(): Promise<void> {
      while (underWay.size > 0) await Promise.all(underWay);
    },
    async close(): Promise<void> {
      server.closeAllConnections();
      await new Promise((closed) => server.close(closed));
      await Promise.all(centres.map((each) => each.destroy()));
    },
  };
}
