/**
 * Databases for tests: one PostgreSQL for the run, started by vitest's globalSetup, and in it a migrated template that
 * `freshDatabase` copies for each file.
 */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmodSync, mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import type pg from 'pg';
import { inject } from 'vitest';
import type { TestProject } from 'vitest/node';
import { connectOptions, databaseUrl, openClient, type SocketAddress } from '../../src/db/connect.js';
import { ensurePostgres } from '../../src/db/embedded.js';
import { migrate } from '../../src/db/migrate.js';

declare module 'vitest' {
  interface ProvidedContext {
    postgres: SocketAddress;
  }
}

export interface TestDatabase {
  readonly address: SocketAddress;
  /** As the owner of the schema. */
  readonly adminOptions: pg.ClientConfig;
  /** As the application, with its rights and time-outs. */
  readonly appOptions: pg.ClientConfig;
  /** For TOLEM_DATABASE_URL of a server that the test starts. */
  readonly url: string;
  /** Removes the database, whoever is connected. */
  drop(): Promise<void>;
}

export const sqlDirectory = join(import.meta.dirname, '../../sql');
const template = 'tolem_template';

/** A migrated database of the caller's own, empty but for what the migrations put there. */
export async function freshDatabase(): Promise<TestDatabase> {
  const address = { ...inject('postgres'), database: `test_${randomBytes(6).toString('hex')}` };
  await asOwner(`create database ${address.database} template ${template} strategy file_copy`);
  return {
    address,
    adminOptions: connectOptions(address, { name: 'test', role: 'owner' }),
    appOptions: connectOptions(address, { name: 'test', role: 'app' }),
    url: databaseUrl(address),
    drop: () => asOwner(`drop database if exists ${address.database} with (force)`),
  };
}

/** A directory under /tmp that the database's user may enter too; the caller removes it. */
export function temporaryDirectory(): string {
  const path = mkdtempSync('/tmp/tolem-test-');
  chmodSync(path, 0o711);
  return path;
}

async function asOwner(sql: string, server: SocketAddress = inject('postgres')): Promise<void> {
  const client = await openClient(connectOptions(server, { name: 'test', role: 'owner' }));
  await client.query(sql).finally(() => client.end());
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const directory = temporaryDirectory();
  const guard = startGuard(directory);
  // Only this server may lose data with the machine: nothing in it outlives the run.
  const server = await ensurePostgres({
    dataDir: directory,
    settings: { fsync: 'off', shared_buffers: '64MB' },
  });
  await asOwner(`create database ${template}`, server.connection);
  const options = connectOptions(
    { ...server.connection, database: template },
    { name: 'test', role: 'owner' },
  );
  await migrate(options, { directory: sqlDirectory });
  project.provide('postgres', server.connection);
  return async () => {
    await server.stop();
    guard.stdin!.end();
    await once(guard, 'exit');
  };
}

/** A process that outlives the run, however that ends, stops its server and removes its files. */
function startGuard(directory: string) {
  const script = `
    const { readFileSync, realpathSync, rmSync } = require('node:fs');
    process.stdin.resume().once('end', () => {
      const [, directory] = process.argv;
      const home = () => realpathSync(directory + '/postgres');
      try {
        process.kill(Number(readFileSync(home() + '/cluster/postmaster.pid', 'utf8').split('\\n')[0]), 'SIGQUIT');
      } catch {}
      setTimeout(() => {
        try {
          rmSync(home(), { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
        } catch {}
        rmSync(directory, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
      }, 300);
    });`;
  return spawn(process.execPath, ['-e', script, directory], {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
}
