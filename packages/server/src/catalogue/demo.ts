/** The demo data: enough to send the first payment with, and nothing that people have changed is touched again. */
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import type pg from 'pg';
import { createAgent } from '../agents/agents.js';
import { topUp } from '../agents/funds.js';
import { confirmToken, createToken } from '../agents/tokens.js';
import { inTransaction, type Queryable } from '../audit.js';
import { parseRate } from '../core/money.js';
import { importPrefixes } from './numbering.js';
import { readProviders, setProvider } from './providers.js';
import { direct, setRate } from './rates.js';
import { setRule } from './rules.js';
import { importServices } from './services.js';
import { setTariff } from './tariffs.js';

export interface Demo {
  readonly agentId: bigint;
  /** The agent's confirmed token; null when the demo data were there already, or an agent that is no demo. */
  readonly token: string | null;
}

const operator = 'demo';
const agentId = 4n;
const demoDir = new URL('../../demo/', import.meta.url);
/** 0x64656d6f: held while the demo data are loaded, so that two processes starting at once load them once. */
const demoLock = 1_684_368_751;

/**
 * Loads the demo data into a centre that has no agents, and keeps the demo provider's address current in one that has.
 * `sandboxUrl` is the base URL of the sandbox provider.
 */
export async function loadDemo(
  client: pg.ClientBase,
  { sandboxUrl }: { readonly sandboxUrl: string },
): Promise<Demo> {
  return inTransaction(client, async (tx) => {
    await tx.query('select pg_advisory_xact_lock($1)', [demoLock]);
    const sandbox = (await readProviders(tx)).find((each) => each.providerId === 'sandbox');
    if (await hasAgents(tx)) {
      if (sandbox?.connector === 'sandbox' && sandbox.settings.baseUrl !== sandboxUrl) {
        const settings = { ...sandbox.settings, baseUrl: sandboxUrl };
        await setProvider(tx, { ...sandbox, settings }, unchecked, operator);
      }
      return { agentId, token: null };
    }
    await setProvider(
      tx,
      { providerId: 'sandbox', name: 'Sandbox', connector: 'sandbox', settings: { baseUrl: sandboxUrl } },
      unchecked,
      operator,
    );
    await importServices(tx, await readFile(new URL('services.json', demoDir), 'utf8'), operator);
    await importPrefixes(tx, fileURLToPath(new URL('prefixes.csv', demoDir)), operator);
    await setRate(
      tx,
      { fromCurrency: 'KZT', toCurrency: 'USD', ...direct(parseRate('0.0020833333')!) },
      operator,
    );
    await setTariff(tx, demoTariff, operator);
    await setRule(
      tx,
      { ruleId: 'above-500000', amountAboveMinor: 500_000_00n, serviceId: null, agentId: null },
      operator,
    );
    await createAgent(
      tx,
      { agentId, name: 'Демо-агент', currency: 'KZT', language: 'ru', tariffId: demoTariff.tariffId },
      operator,
    );
    await topUp(tx, agentId, 10_000_000_00n, 'demo', operator);
    const { tokenId, token } = await createToken(tx, agentId, 'demo', operator);
    await confirmToken(tx, tokenId, operator);
    return { agentId, token };
  });
}

const demoTariff = {
  tariffId: 'demo',
  name: 'Demo: no fee, the agent may add up to 20 %',
  lines: [
    {
      serviceId: null,
      feePpm: 0,
      feeFixedMinor: 0n,
      feeMinMinor: 0n,
      feeMaxMinor: null,
      rewardPpm: 0,
      addedMaxPpm: 200_000,
    },
  ],
};

/** The sandbox itself said where it listens. */
const unchecked = () => {};

async function hasAgents(db: Queryable): Promise<boolean> {
  const { rows } = await db.query<{ has: boolean }>('select exists (select 1 from agents) as has');
  return rows[0]!.has;
}
