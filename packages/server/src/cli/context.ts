/** What every command is given: the settings, the database, the operator's name, and a place to print. */
import { readFileSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { InvalidArgumentError } from 'commander';
import type pg from 'pg';
import { Refusal } from '../audit.js';
import { type Config, loadConfig } from '../config.js';
import { formatMinor, parseAmount } from '../core/money.js';
import { localTimeIn } from '../core/time.js';
import { connectOptions, type DatabaseAddress, openClient, type Purpose } from '../db/connect.js';
import { type EmbeddedPostgres, ensurePostgres } from '../db/embedded.js';
import { migrate } from '../db/migrate.js';
import { json } from './print.js';

export interface Stdio {
  readonly stdout: { write(text: string): unknown };
  readonly stderr: { write(text: string): unknown };
}

export interface GlobalOptions {
  readonly json?: true;
  readonly operator?: string;
}

/** Wraps what a command does: gives it a context and closes that afterwards. */
export type Run = <Args extends unknown[]>(
  action: (cli: Context, ...args: Args) => Promise<void>,
) => (...args: Args) => Promise<void>;

const sqlDirectory = fileURLToPath(new URL('../../sql/', import.meta.url));
const fileBytesMax = 64 * 1024 * 1024;

export class Context {
  readonly config: Config;
  private embedded: EmbeddedPostgres | null = null;
  private readonly clients = new Map<Purpose['role'], pg.Client>();
  private readonly localTime: (moment: Date) => string;

  constructor(
    private readonly options: GlobalOptions,
    readonly env: NodeJS.ProcessEnv,
    private readonly stdio: Stdio,
    root: string,
  ) {
    this.config = loadConfig(env, { root });
    this.localTime = localTimeIn(this.config.timeZone);
  }

  /** For a change: who makes it, and a connection. Refuses when nobody says who. */
  async change(): Promise<{ readonly db: pg.Client; readonly operator: string }> {
    const operator = this.options.operator ?? this.config.operator;
    if (operator) return { db: await this.database(), operator };
    throw new Refusal(
      'This changes money or access and is not done without the name of who does it; ' +
        'add --operator NAME or set TOLEM_OPERATOR.',
    );
  }

  /** A connection; starts the embedded server when it does not run. `owner` may read what the application may not. */
  async database(role: Purpose['role'] = 'app'): Promise<pg.Client> {
    const open = this.clients.get(role);
    if (open) return open;
    const { app, owner } = await this.addresses();
    await migrate(connectOptions(owner, { name: 'migrate', role: 'owner' }), { directory: sqlDirectory });
    const address = role === 'owner' ? owner : app;
    const client = await openClient(connectOptions(address, { name: 'command', role }));
    this.clients.set(role, client);
    return client;
  }

  private async addresses(): Promise<{ app: DatabaseAddress; owner: DatabaseAddress }> {
    const { databaseUrl, databaseAdminUrl, dataDir } = this.config;
    if (databaseUrl) return { app: databaseUrl, owner: databaseAdminUrl ?? databaseUrl };
    this.embedded ??= await ensurePostgres({ dataDir, onProgress: (line) => this.tell(line) });
    return { app: this.embedded.connection, owner: this.embedded.connection };
  }

  /** Prints the result: the value itself for programs, the words for people. */
  show(value: unknown, words: () => string): void {
    this.stdio.stdout.write(`${this.options.json ? json(value) : words()}\n`);
  }

  /** A line about what goes on, beside the result. */
  tell(line: string): void {
    this.stdio.stderr.write(`${line}\n`);
  }

  /** Local time of the centre, to the second. */
  time(moment: Date | null): string | null {
    return moment && this.localTime(moment).slice(0, 19).replace('T', ' ');
  }

  async close(): Promise<void> {
    for (const client of this.clients.values()) await client.end().catch(() => {});
    await this.embedded?.stop();
  }
}

export function readTextFile(path: string): string {
  try {
    const { size } = statSync(path);
    if (size > fileBytesMax) {
      throw new Refusal(`The file ${path} is larger than ${fileBytesMax >> 20} MiB; split it.`);
    }
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (error instanceof Refusal) throw error;
    const { code } = error as NodeJS.ErrnoException;
    throw new Refusal(`The file ${path} cannot be read (${code}); check its name and who may read it.`);
  }
}

// ── Arguments, read exactly ────────────────────────────────────────────────────────────────────────────────────────

export function id(text: string): bigint {
  if (/^[1-9]\d{0,17}$/.test(text)) return BigInt(text);
  throw new InvalidArgumentError('Expected a whole number above zero.');
}

/** An agent's own id of a payment: up to 2^63 − 1. */
export function agentTransaction(text: string): bigint {
  const value = /^[1-9]\d{0,18}$/.test(text) ? BigInt(text) : 0n;
  if (value > 0n && value < 2n ** 63n) return value;
  throw new InvalidArgumentError('Expected a whole number above zero.');
}

export function count(max: number, min = 1): (text: string) => number {
  return (text) => {
    const value = /^\d{1,9}$/.test(text) ? Number(text) : -1;
    if (value >= min && value <= max) return value;
    throw new InvalidArgumentError(`Expected a whole number from ${min} to ${max}.`);
  };
}

export function amount(text: string): bigint {
  const parsed = parseAmount(text);
  if (parsed.ok) return parsed.amountMinor;
  throw new InvalidArgumentError('Expected an amount such as 200.00.');
}

export function signedAmount(text: string): bigint {
  return text.startsWith('-') ? -amount(text.slice(1)) : amount(text);
}

export function money(amountMinor: bigint | null): string | null {
  return amountMinor === null ? null : formatMinor(amountMinor);
}
