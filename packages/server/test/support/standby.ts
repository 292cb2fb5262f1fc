/** A PostgreSQL with a standby: two servers over TCP, whose roles change with every failover. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readdirSync, readlinkSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import pg from 'pg';
import { ensurePostgres } from '../../src/db/embedded.js';
import { guarded, type Postgres, postmasterOf, quietPort, signalFamily } from './processes.js';

const user = 'tolem_owner';
const database = 'tolem';
const standbyName = 'standby';
const startMsMax = 30_000;
const settings = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  max_connections: '60',
  shared_buffers: '64MB',
  max_wal_size: '256MB',
  wal_keep_size: '512MB',
  wal_sender_timeout: '5s',
  wal_retrieve_retry_interval: '200ms',
};

interface Node {
  readonly port: number;
  readonly directory: string;
}

interface Running extends Node {
  readonly pid: number;
  readonly ended: Promise<unknown>;
}

const isYes = (row: unknown) => (row as { yes: boolean }).yes;

export class Pair implements Postgres {
  /** For TOLEM_DATABASE_URL. */
  readonly connection: string;
  private primary!: Running;
  /** Null while it is away. */
  private standby: Running | null = null;
  /** The primary that was lost last, until a standby takes its place. */
  private gone: Running | null = null;

  private constructor(
    private readonly program: string,
    private readonly owner: { readonly uid: number; readonly gid: number },
    private readonly nodes: readonly [Node, Node],
  ) {
    const hosts = nodes.map(({ port }) => `127.0.0.1:${port}`);
    this.connection = `postgresql://${user}@${hosts}/${database}?target_session_attrs=read-write`;
  }

  /** In a data directory; the programs and the empty cluster are those of the packages. */
  static async open(dataDir: string): Promise<Pair> {
    const embedded = await ensurePostgres({ dataDir });
    const cluster = join(embedded.home, 'cluster');
    const program = readlinkSync(`/proc/${postmasterOf(dataDir)}/exe`);
    await embedded.stop();
    const { uid, gid } = statSync(cluster);
    const access = ['all', 'replication'].map((what) => `host ${what} all 127.0.0.1/32 trust\n`);
    writeFileSync(join(cluster, 'pg_hba.conf'), access.join(''));
    const nodes = [
      { port: await quietPort(), directory: cluster },
      { port: await quietPort(), directory: `${cluster}-2` },
    ] as const;
    const pair = new Pair(program, { uid, gid }, nodes);
    pair.primary = await pair.start(nodes[0]);
    await pair.addStandby();
    return pair;
  }

  /** Ends the primary for good: killed, or stopped as a machine that is gone without a word. */
  async losePrimary(how: 'killed' | 'hung'): Promise<void> {
    signalFamily(this.primary.pid, how === 'killed' ? 'SIGKILL' : 'SIGSTOP');
    if (how === 'killed') await this.primary.ended;
  }

  async promote(): Promise<void> {
    const old = this.primary;
    this.primary = this.standby!;
    this.standby = null;
    // A request that comes while the standby looks for its primary may pass it by.
    while ((await this.ask(this.primary, 'select pg_is_in_recovery() as yes')).some(isYes))
      await this.ask(this.primary, 'select pg_promote(true, 2)');
    this.gone = old;
  }

  /** Where the lost primary was, a copy of the new one follows it; resolves when commits wait for it. */
  async addStandby(): Promise<void> {
    const place = this.gone ?? this.nodes[1];
    if (this.gone) {
      signalFamily(this.gone.pid, 'SIGKILL');
      await this.gone.ended;
    }
    this.gone = null;
    const { uid, gid } = this.owner;
    rmSync(place.directory, { recursive: true, force: true });
    const client = await this.connect(this.primary);
    await client.query("select pg_backup_start('standby', true)");
    // Files come and go while it copies; the log that the standby gets from the primary makes up for it.
    await promisify(execFile)('cp', ['-a', this.primary.directory, place.directory]).catch(() => {});
    const { rows } = await client.query<{ label: string }>(
      'select labelfile as label from pg_backup_stop(false)',
    );
    await client.end();
    const at = (name: string) => join(place.directory, name);
    rmSync(at('postmaster.pid'), { force: true });
    for (const name of readdirSync(at('pg_wal')))
      rmSync(join(at('pg_wal'), name), { recursive: true, force: true });
    writeFileSync(at('backup_label'), rows[0]!.label);
    const primary = `host=127.0.0.1 port=${this.primary.port} user=${user} application_name=${standbyName}`;
    writeFileSync(at('postgresql.auto.conf'), `primary_conninfo = '${primary}'\n`);
    writeFileSync(at('standby.signal'), '');
    await promisify(execFile)('chown', ['-R', `${uid}:${gid}`, place.directory]);
    this.standby = await this.start(place);
    await this.until("select 1 from pg_stat_replication where state = 'streaming'");
    await this.ask(this.primary, `alter system set synchronous_standby_names = '${standbyName}'`);
    await this.ask(this.primary, 'select pg_reload_conf()');
    await this.until("select 1 from pg_stat_replication where sync_state = 'sync'");
  }

  /** The standby's machine is off until `bringStandbyBack`. */
  async loseStandby(): Promise<void> {
    signalFamily(this.standby!.pid, 'SIGKILL');
    await this.standby!.ended;
  }

  async bringStandbyBack(): Promise<void> {
    rmSync(join(this.standby!.directory, 'postmaster.pid'), { force: true });
    this.standby = await this.start(this.standby!);
  }

  /** Ends the waits for the standby that there are now; answers how many. */
  async cancelWaits(): Promise<number> {
    const rows = await this.ask(
      this.primary,
      `select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'`,
    );
    return rows.length;
  }

  async stop(): Promise<void> {
    for (const each of [this.primary, this.standby, this.gone]) {
      if (!each) continue;
      signalFamily(each.pid, 'SIGKILL');
      await each.ended;
    }
  }

  private async start(node: Node): Promise<Running> {
    const args = Object.entries({ ...settings, port: String(node.port) }).flatMap(([key, value]) => [
      '-c',
      `${key}=${value}`,
    ]);
    const log = openSync(`${node.directory}.log`, 'a');
    const child = guarded(
      spawn(this.program, ['-D', node.directory, ...args], {
        ...this.owner,
        ...{ cwd: '/', detached: true, stdio: ['ignore', log, log] },
      }),
    );
    closeSync(log);
    const running = { ...node, pid: child.pid!, ended: once(child, 'exit') };
    for (const until = performance.now() + startMsMax; ; await sleep(50)) {
      const answered = await this.ask(running, 'select 1').catch((error: Error) => error);
      if (Array.isArray(answered)) return running;
      if (performance.now() > until) throw new Error(`${node.directory} does not start: ${answered.message}`);
    }
  }

  private async connect({ port }: Node): Promise<pg.Client> {
    const client = new pg.Client({ host: '127.0.0.1', port, user, database, connectionTimeoutMillis: 2000 });
    client.on('error', () => {});
    await client.connect();
    return client;
  }

  private async ask(node: Node, sql: string): Promise<unknown[]> {
    const client = await this.connect(node);
    try {
      return (await client.query(sql)).rows;
    } finally {
      await client.end();
    }
  }

  private async until(sql: string): Promise<void> {
    for (const until = performance.now() + startMsMax; ; await sleep(50)) {
      if ((await this.ask(this.primary, sql)).length > 0) return;
      if (performance.now() > until) throw new Error(`the standby does not follow: ${sql}`);
    }
  }
}
