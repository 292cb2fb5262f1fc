/**
 * Agents as the contract wants them: one connection to each server; the same body again until a final code, whatever
 * went wrong meanwhile; then a new id. They write down everything they were ever told.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'undici';
import type { Caller } from './processes.js';

export interface Reply {
  readonly httpStatus: number;
  readonly code: number | null;
  /** Digits: ids may be above 2^53. */
  readonly transactionId: string | null;
  readonly id: string | null;
}

/** One request; rejects when there is no whole answer within the time. */
export async function ask(
  client: Client,
  token: string,
  body: string | Buffer,
  timeoutMs = 30_000,
  method = 'pay',
): Promise<Reply> {
  const answer = await client.request({
    method: 'POST',
    path: `/api/v20/${method}`,
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    body,
    signal: AbortSignal.timeout(timeoutMs),
  });
  const text = await answer.body.text();
  const digits = (name: string) => new RegExp(`"${name}":(\\d+)`).exec(text)?.[1] ?? null;
  const code = digits('result');
  return {
    httpStatus: answer.statusCode,
    code: code === null ? null : Number(code),
    transactionId: digits('transactionId'),
    id: digits('agentTransactionId'),
  };
}

export const isFinal = (code: number | null) => code !== null && ![1, 153, 220, 255].includes(code);

/** A pay of this amount, in digits as JSON has them. The account is one that the sandbox executes at once. */
export function payBody(
  id: bigint,
  amount: string | number,
  { account = '7770017718', serviceId = 'P1011' } = {},
): string {
  return `{"serviceId":"${serviceId}","account":"${account}","agentTransactionId":${id},"agentTransactionDate":"2026-02-17T16:48:37","amountTo":${amount}}`;
}

/** `200 × 17, 503 × 2` */
export function countsText(counts: Iterable<readonly [what: unknown, count: number]>): string {
  return Array.from(counts, ([what, count]) => `${what} × ${count}`).join(', ');
}

/** The same body again until its code is one that ends the wait, for at most a minute. `note` is told every answer. */
export async function repeatUntil(
  client: Client,
  token: string,
  body: string,
  until: (code: number | null) => boolean,
  { note, pauseMs = 100 }: { note?: (reply: Reply) => void; pauseMs?: number } = {},
): Promise<Reply> {
  for (const endAtMs = performance.now() + 60_000; ; await sleep(pauseMs)) {
    const reply = await ask(client, token, body);
    note?.(reply);
    if (until(reply.code) || performance.now() > endAtMs) return reply;
  }
}

export const repeatUntilFinal = (client: Client, token: string, body: string) =>
  repeatUntil(client, token, body, isFinal);

/** What the end of an account makes the provider do, and the final code that must come of it; null: never one. */
export interface Fate {
  readonly ending: string;
  readonly code: number | null;
  /** How often agents choose it, against the others. */
  readonly weight: number;
}

export const plainFate: Fate = { ending: '', code: 0, weight: 40 };
/** All of the sandbox's outcomes that the contract's `pay` can meet, but for an inquiry that never answers (0096). */
export const everyFate: readonly Fate[] = [
  plainFate,
  ...['0001', '0090', '0091', '0092', '0094', '0095'].map((ending) => ({ ending, code: 0, weight: 4 })),
  ...[5, 7, 241, 242, 300].map((code) => ({ ending: String(code).padStart(4, '0'), code, weight: 3 })),
  { ending: '0002', code: 300, weight: 4 },
  { ending: '0093', code: null, weight: 0.5 },
];

/** A payment as its agent knows it. */
export interface Payment {
  readonly agentId: bigint;
  readonly id: bigint;
  readonly account: string;
  readonly amountMinor: bigint;
  readonly fate: Fate;
  readonly body: string;
  readonly token: string;
  /** Every final code it was ever told, and every transactionId. */
  readonly finalCodes: Set<number>;
  readonly transactionIds: Set<string>;
  /** Answers that may not be: another id, a status that is no answer, a code out of place. */
  readonly strange: string[];
  asked: number;
}

/** What an agent got: a final code, one that is not, a 503, or no answer at all. */
export type AnswerKind = 'final' | 'open' | 'unavailable' | 'failed';

export interface CrowdOptions {
  /** One for each server process; every request goes to one of them by chance. */
  readonly ports: readonly number[];
  readonly callers: readonly Caller[];
  readonly fates: readonly Fate[];
  /** The longest pause between two payments of one agent. */
  readonly thinkMsMax: number;
  /** Absent: `P1011`. */
  readonly serviceId?: string;
  /** Told also how long the agent has waited for it. */
  readonly onAnswer?: (kind: AnswerKind, waitedMs: number) => void;
}

/** An agent's connections, one to each server process. */
class Way {
  private readonly clients: readonly Client[];

  constructor(ports: readonly number[]) {
    this.clients = ports.map((port) => new Client(`http://127.0.0.1:${port}`));
  }

  client(): Client {
    return this.clients[Math.floor(Math.random() * this.clients.length)]!;
  }

  async close(): Promise<void> {
    await Promise.all(this.clients.map((each) => each.close()));
  }

  async destroy(): Promise<void> {
    await Promise.all(this.clients.map((each) => each.destroy()));
  }
}

/** Above 2^53, as some agents number their payments. */
const firstId = 9_000_000_000_000_000_000n;

export class Crowd {
  readonly payments: Payment[] = [];
  readonly statuses = new Map<string, number>();
  private serial = 0n;
  private endAtMs = Number.POSITIVE_INFINITY;
  private watchers: { readonly sinceMs: number; readonly seen: () => void }[] = [];
  private readonly lives: Promise<unknown>;

  constructor(private readonly options: CrowdOptions) {
    this.lives = Promise.all(options.callers.map((caller) => this.live(caller)));
    this.lives.catch(() => {});
  }

  get finished(): number {
    return this.payments.reduce((count, payment) => count + (payment.finalCodes.size > 0 ? 1 : 0), 0);
  }

  /** Resolves with the milliseconds until a request that begins after now has been answered in the business sense. */
  nextAnswer(): Promise<number> {
    const sinceMs = performance.now();
    return new Promise((resolve) => {
      this.watchers.push({ sinceMs, seen: () => resolve(performance.now() - sinceMs) });
    });
  }

  /** Lets everyone see their present payment through, for at most so long, and then asks about each one once more. */
  async finish(msMax: number): Promise<void> {
    this.endAtMs = performance.now() + msMax;
    await this.lives;
    const left = [...this.payments];
    await Promise.all(
      this.options.callers.map(async () => {
        const way = this.connect();
        for (let payment = left.pop(); payment; payment = left.pop()) await this.pay(way, payment);
        await way.close();
      }),
    );
  }

  private connect(): Way {
    return new Way(this.options.ports);
  }

  private async live(caller: Caller): Promise<void> {
    const way = this.connect();
    const own: Payment[] = [];
    while (this.endAtMs === Number.POSITIVE_INFINITY) {
      const payment = this.order(caller);
      this.payments.push(payment);
      own.push(payment);
      await this.seeThrough(way, payment);
      // What was final once is final for ever, over all kills in between.
      if (Math.random() < 0.2) await this.pay(way, own[Math.floor(Math.random() * own.length)]!);
      await sleep(Math.random() * this.options.thinkMsMax);
    }
    await way.destroy();
  }

  private order({ agentId, token }: Caller): Payment {
    const fate = this.chooseFate();
    this.serial += 1n;
    const id = firstId + this.serial;
    const free = 10 - fate.ending.length;
    const number = 10 ** (free - 1) * (1 + 9 * Math.random());
    // The last digits of an account without a fate must not spell one.
    const account = fate.ending ? String(Math.floor(number)) + fate.ending : `${Math.floor(number / 10)}8`;
    const amountMinor = BigInt(100 + Math.floor(Math.random() * 50_000));
    const amount = `${amountMinor / 100n}.${String(amountMinor % 100n).padStart(2, '0')}`;
    const body = payBody(id, amount, { account, serviceId: this.options.serviceId });
    return {
      ...{ agentId, id, account, amountMinor, fate, body, token },
      ...{ finalCodes: new Set(), transactionIds: new Set(), strange: [], asked: 0 },
    };
  }

  private chooseFate(): Fate {
    const { fates } = this.options;
    let at = Math.random() * fates.reduce((sum, { weight }) => sum + weight, 0);
    for (const fate of fates) {
      at -= fate.weight;
      if (at < 0) return fate;
    }
    return fates[0]!;
  }

  private async seeThrough(way: Way, payment: Payment): Promise<void> {
    for (let pauseMs = 20; ; pauseMs = Math.min(pauseMs * 1.5, 500)) {
      if (await this.pay(way, payment)) return;
      if (payment.fate.code === null && payment.transactionIds.size > 0 && payment.asked >= 4) return;
      if (performance.now() > this.endAtMs) return;
      await sleep(pauseMs * (0.5 + Math.random()));
    }
  }

  /** Asks once and writes down what is said. Answers whether it was final. */
  private async pay(way: Way, payment: Payment): Promise<boolean> {
    const startedAtMs = performance.now();
    payment.asked += 1;
    // Some hang up early and come again while the first request is still being worked on.
    const timeoutMs = Math.random() < 0.1 ? Math.round(20 + Math.random() * 300) : 10_000;
    let reply: Reply;
    try {
      reply = await ask(way.client(), payment.token, payment.body, timeoutMs);
    } catch (error) {
      const { code, name } = error as NodeJS.ErrnoException;
      this.count(typeof code === 'string' ? code : name);
      this.options.onAnswer?.('failed', performance.now() - startedAtMs);
      return false;
    }
    const { httpStatus, code, transactionId, id } = reply;
    this.count(String(httpStatus));
    const kind = httpStatus === 503 ? 'unavailable' : isFinal(code) ? 'final' : 'open';
    this.options.onAnswer?.(kind, performance.now() - startedAtMs);
    if (httpStatus === 200) {
      this.watchers = this.watchers.filter(({ sinceMs, seen }) => {
        if (startedAtMs < sinceMs) return true;
        seen();
        return false;
      });
    }
    const noAnswer = httpStatus === 503 && code === 1 && transactionId === null;
    const answered = httpStatus === 200 && code !== null && transactionId !== null;
    if (!(noAnswer || answered) || id !== String(payment.id)) payment.strange.push(JSON.stringify(reply));
    if (transactionId !== null) payment.transactionIds.add(transactionId);
    if (!isFinal(code)) return false;
    payment.finalCodes.add(code!);
    return true;
  }

  private count(status: string): void {
    this.statuses.set(status, (this.statuses.get(status) ?? 0) + 1);
  }
}
