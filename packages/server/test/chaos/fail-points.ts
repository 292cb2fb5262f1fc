/**
 * Places after each step of a payment's way at which a process can be made to kill itself. They are written into a copy
 * of the build: the product has none.
 */
import { brokenBuild, type Change } from '../support/processes.js';

interface FailPoint {
  readonly name: string;
  /** Where it stands: before this code of the built server. */
  readonly file: string;
  readonly before: string;
}

const inPay = (name: string, before: string) => ({ name, file: 'payments/pay.js', before });
const inQueue = (name: string, before: string) => ({ name, file: 'payments/waiting.js', before });

export const failPoints: readonly FailPoint[] = [
  inPay('pay: decided', 'const claimed = await step('),
  inPay('pay: accepted', 'if (!claimed.fresh)'),
  inPay('pay: about to send', "const { outcome, record } = await step(way?.span, 'provider pay'"),
  inPay('pay: the provider has answered', 'const consequence = consequenceOf(outcome, 0, false);'),
  inPay('pay: settled', 'return settled;'),
  inQueue('resolve: claimed', 'const offers = sender.offers(row.provider_id);'),
  inQueue('resolve: asked', 'const trustedAfterMs = offers.notFoundTrustedAfterMs;'),
  inQueue('resolve: about to settle', 'const settled = await step('),
  inQueue('resolve: about to postpone', "const acknowledged = consequence.kind === 'inquire'"),
  inQueue('resolve: postponed', 'log.debug?.({ transactionId, what: consequence.kind,'),
];

/** In the lanes a batch is killed while the database has it, and when it is committed and nobody has been told. */
const lanes: readonly Change[] = [
  {
    file: 'db/lane.js',
    from: 'const out = await this.options.write(client, batch.map((each) => each.item));',
    to: `const writing = this.options.write(client, batch.map((each) => each.item));
         failPoint(this.options.name + ': a batch is with the database');
         const out = await writing;
         failPoint(this.options.name + ': a batch is committed');`,
  },
];

export const failPointNames: readonly string[] = [
  ...failPoints.map(({ name }) => name),
  ...['accept', 'settle'].flatMap((lane) =>
    ['a batch is with the database', 'a batch is committed'].map((what) => `${lane}: ${what}`),
  ),
];

const prelude = `
  let hits = Number(process.env.FAIL_POINT_HITS ?? 1);
  globalThis.failPoint = (name) => {
    if (name === process.env.FAIL_POINT && (hits -= 1) <= 0) process.kill(process.pid, 'SIGKILL');
  };
`;

/**
 * A build whose processes kill themselves when they come to the place named by FAIL_POINT for the FAIL_POINT_HITS-th
 * time.
 */
export function buildWithFailPoints(): string {
  return brokenBuild([
    { file: 'main.js', from: 'export async function main(', to: `${prelude}export async function main(` },
    ...failPoints.map(({ name, file, before }) => ({
      file,
      from: before,
      to: `failPoint(${JSON.stringify(name)}); ${before}`,
    })),
    ...lanes,
  ]);
}
