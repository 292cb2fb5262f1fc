/**
 * Servers are killed with SIGKILL, over and over, while agents pay: at random moments, and by themselves after every
 * step of a payment's way. Everything is real: three processes on one database, HTTP, PostgreSQL with fsync on, and a
 * provider that is not killed and remembers what it did.
 */
import { everyFate, plainFate } from '../support/crowd.js';
import { brokenBuild } from '../support/processes.js';
import { survive } from './kills.js';
import { experiment } from './lab.js';

const brokenPlan = { processes: 1, kills: 8, eachFailPoint: 0, fates: [plainFate], providerDelayMs: 50 };

experiment({
  number: 1,
  name: 'servers are killed',
  minutesMax: { short: 20, full: 180 },
  async run(lab) {
    const outcome = await survive(lab, {
      ...{ processes: 3, kills: lab.size(100, 1000), eachFailPoint: lab.size(1, 50) },
      ...{ fates: everyFate, providerDelayMs: 20 },
    });
    // The kills must have hit where it hurts, or the rest proves nothing.
    const violations = [...outcome.violations];
    const { payments, orphaned, uncertain, recovered, kills } = outcome.figures;
    const atLeast = { payments, orphaned, uncertain, recovered: Number(recovered) * 2 };
    for (const [name, count] of Object.entries(atLeast)) {
      if (Number(count) <= Number(kills))
        violations.push({ rule: 'the fault hits', object: name, found: String(count) });
    }
    return { ...outcome, violations };
  },
  controls: [
    {
      broken: 'a build that books success before the provider has the payment',
      rule: 'a success was executed',
      run: (lab) =>
        survive(lab, {
          ...brokenPlan,
          concurrencyMax: 16,
          build: brokenBuild([
            {
              file: 'payments/pay.js',
              from: '() => sender.pay(providerId, order, sendBefore)',
              to: `async () => ({
                outcome: { kind: 'executed', reference: null },
                record: { call: 'pay', startedAt: '', durationMs: 0, httpStatus: null, outcome: 'executed', detail: null },
              })`,
            },
            {
              file: 'payments/pay.js',
              from: 'return settled;',
              to: `void sender.pay(providerId, order, sendBefore);
                   return settled;`,
            },
          ]),
        }),
    },
    {
      broken: 'a build that sends again without asking first',
      rule: 'nothing is executed twice',
      run: (lab) =>
        survive(lab, {
          ...brokenPlan,
          build: brokenBuild([
            {
              file: 'centre.js',
              from: 'const rows = await claim(queue, free, busy);',
              to: "const rows = (await claim(queue, free, busy)).map((row) => ({ ...row, what: 'send' }));",
            },
          ]),
        }),
    },
  ],
});
