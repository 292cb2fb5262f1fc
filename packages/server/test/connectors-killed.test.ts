/**
 * What experiment 1 does before the sandbox, before the simulators of the other protocols: whatever a provider speaks,
 * a killed server costs nobody a payment.
 */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { survive } from './chaos/kills.js';
import { Lab } from './chaos/lab.js';
import { everyFate, type Fate, plainFate } from './support/crowd.js';

const described = JSON.parse(
  readFileSync(new URL('../demo/described-provider.json', import.meta.url), 'utf8'),
) as { settings: Record<string, unknown> };

/** Simulators look for the id before all else, so that what they refuse a repeat is true of the first request too. */
const refusals = [4, 5, 7, 79, 241, 242, 300];
/** Without the refusals that its results do not tell apart. */
const kaspiFates = everyFate.filter(({ code }) => code === null || [0, 5, 7].includes(code));

interface Provider {
  readonly protocol: string;
  readonly settings: Record<string, unknown>;
  readonly fates?: readonly Fate[];
}

const providers: readonly Provider[] = [
  { protocol: 'agent-v20', settings: { token: 'any' } },
  { protocol: 'described', settings: described.settings },
  { protocol: 'kaspi', settings: { alreadyPaid: 'ours', repeatsAreLookedUp: true }, fates: kaspiFates },
  {
    protocol: 'osmp',
    settings: { path: '/pay', txnId: 'externalId', fatal: refusals, fatalAgain: refusals },
  },
  // A voucher is chosen by the service, not by the account: all of them are sold.
  { protocol: 'voucher', settings: {}, fates: [plainFate] },
];

test.each(providers)(
  'servers are killed before a provider that speaks $protocol',
  async ({ fates = everyFate, ...simulate }) => {
    const { violations, figures } = await survive(new Lab(simulate.protocol), {
      ...{ processes: 2, kills: 10, eachFailPoint: 0, fates, providerDelayMs: 20, simulate },
    });
    const told = violations.map(({ rule, object, found }) => `; ${rule}: ${object}: ${found}`).join('');
    console.log(`${simulate.protocol}: ${JSON.stringify(figures)}${told}`);
    expect(violations.slice(0, 20)).toEqual([]);
    // The kills met payments on their way.
    expect(Number(figures.orphaned)).toBeGreaterThan(10);
    expect(Number(figures.payments)).toBeGreaterThan(200);
  },
  240_000,
);
