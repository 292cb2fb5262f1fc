/** What a stranger needs for a first payment: kept in the data directory, readable by its owner only. */
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type pg from 'pg';
import { confirmToken, createToken } from './agents/tokens.js';
import { loadDemo } from './catalogue/demo.js';
import { type Config, SetupError } from './config.js';
import { openClient } from './db/connect.js';

export interface DemoFile {
  readonly baseUrl: string;
  readonly agentId: number;
  readonly token: string;
  /** For the cabinet and the operators' console. */
  readonly agentLogin: string;
  readonly agentPassword: string;
  readonly operatorLogin: string;
  readonly operatorPassword: string;
  readonly sandboxUrl: string;
}

/** Loads the demo data where there are none, and writes `demo.json` with what is true now. */
export async function demoFile(
  database: pg.ClientConfig,
  config: Config,
  sandboxUrl: string,
): Promise<DemoFile> {
  const path = join(config.dataDir, 'demo.json');
  const before: Partial<DemoFile> = existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : {};
  const client = await openClient(database);
  const { agentId, token } = await loadDemo(client, { sandboxUrl })
    .then(async (demo) => ({
      ...demo,
      token: demo.token ?? before.token ?? (await newToken(client, demo.agentId)),
    }))
    .finally(() => client.end());
  const secret = () => randomBytes(18).toString('base64url');
  const facts: DemoFile = {
    baseUrl: `${config.tlsCertPath ? 'https' : 'http'}://${config.host}:${config.port}`,
    agentId: Number(agentId),
    token,
    agentLogin: before.agentLogin ?? 'agent',
    agentPassword: before.agentPassword ?? secret(),
    operatorLogin: before.operatorLogin ?? 'operator',
    operatorPassword: before.operatorPassword ?? secret(),
    sandboxUrl,
  };
  const draft = `${path}.${process.pid}`;
  writeFileSync(draft, `${JSON.stringify(facts, null, 2)}\n`, { mode: 0o600 });
  renameSync(draft, path);
  return facts;
}

/** For an installation whose demo.json was lost: tokens are kept as hashes only. */
async function newToken(client: pg.Client, agentId: bigint): Promise<string> {
  const { tokenId, token } = await createToken(client, agentId, 'demo', 'demo').catch((error: Error) => {
    throw new SetupError(
      `the database holds agents and not the demo's (${error.message}): set TOLEM_DEMO=off for it`,
    );
  });
  await confirmToken(client, tokenId, 'demo');
  return token;
}

/** The first payment, to be copied into a terminal. */
export function firstPayment({ baseUrl, token }: DemoFile): string {
  const now = new Date();
  const body = JSON.stringify({
    serviceId: 'P1011',
    account: '7770017711',
    agentTransactionId: Math.floor(now.getTime() / 1000),
    agentTransactionDate: now.toISOString().slice(0, 19),
    amountTo: 200,
  });
  return `
Your first payment — copy this into another terminal:

curl -sS ${baseUrl.startsWith('https') ? '-k ' : ''}${baseUrl}/api/v20/pay \\
  -H 'Authorization: Bearer ${token}' -H 'Content-Type: application/json' \\
  -d '${body}'
`;
}
