/**
 * How the sandbox tells the end of a payment by itself: a signed POST, repeated until it is answered 2xx. It can tell
 * it late, several times, and then the opposite too, as providers do.
 */
import { createHmac } from 'node:crypto';
import type { Status } from './registry.js';

export interface CallbackOptions {
  /** Where to, with the provider's name in it. */
  readonly url: string;
  readonly secret: string;
  /** Told at some moment up to so long after the end; 0: at once, so mostly before the answer to pay. */
  readonly delayMs: number;
  /** How often the same is told. */
  readonly times: number;
  /** Afterwards the opposite is told as often. */
  readonly contradicting: boolean;
}

const attemptsMax = 120;
const attemptPauseMs = 500;
const answerMsMax = 5000;

/** Tells what became of a payment; never rejects. What is pending or unknown is no end and is not told. */
export async function tellEnd(options: CallbackOptions, externalId: string, end: Status): Promise<void> {
  if (end.status !== 'executed' && end.status !== 'refused') return;
  await tell(options, { externalId, ...end });
  if (!options.contradicting) return;
  const opposite =
    end.status === 'executed'
      ? { status: 'refused', code: 300 }
      : { status: 'executed', reference: `C${externalId}`.slice(0, 64) };
  await tell(options, { externalId, ...opposite });
}

async function tell({ url, secret, delayMs, times }: CallbackOptions, what: object): Promise<void> {
  const body = JSON.stringify(what);
  const signature = `sha256=${createHmac('sha256', secret).update(body).digest('hex')}`;
  const headers = { 'content-type': 'application/json', 'x-sandbox-signature': signature };
  const once = async () => {
    await pause(Math.random() * delayMs);
    for (let attempt = 1; attempt <= attemptsMax; attempt += 1) {
      const signal = AbortSignal.timeout(answerMsMax);
      const answer = await fetch(url, { method: 'POST', headers, body, signal }).catch(() => null);
      await answer?.arrayBuffer().catch(() => {});
      if (answer?.ok) return;
      await pause(attemptPauseMs);
    }
  };
  await Promise.all(Array.from({ length: times }, once));
}

/** Does not keep the process alive. */
function pause(ms: number): Promise<void> {
  return new Promise((done) => {
    setTimeout(done, ms).unref();
  });
}
