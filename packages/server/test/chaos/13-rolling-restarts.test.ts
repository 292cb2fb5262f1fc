/**
 * Processes behind nginx are told to end and are started anew, one by one, under load; in between a newer build brings
 * a migration, while the older ones serve on. nginx runs by the very text of docs/operations.md.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { migrationNames } from '../../src/db/migrate.js';
import { type AnswerKind, Crowd, countsText, everyFate } from '../support/crowd.js';
import { sqlDirectory } from '../support/database.js';
import { judgeScene, type Violation } from '../support/oracle.js';
import { brokenBuild, guarded, openScene, type Scene, type Server } from '../support/processes.js';
import { missingFile } from './debian.js';
import { experiment, type Lab, type Outcome } from './lab.js';

const program = '/usr/sbin/nginx';
const documented = join(import.meta.dirname, '../../../../docs/operations.md');
const processes = 3;

const unseen = 'no agent sees a reset connection or a bad gateway';
const drained = 'a process that is told to end goes in order within 10 s';
const drainMsMax = 10_000;
const handedOver = 'a process that is told to end leaves no lease behind';
const besides = 'old processes serve on beside the new tables';
/** Longer than the crowd's patience, less its own delays. */
const hungMs = 9900;

interface Plan {
  readonly restarts: number;
  /** Another build than the one under test; then there is no migration. */
  readonly build?: string;
  /** Whether nginx sends a request again as the documents say, or as it does by itself. */
  readonly repeats: boolean;
}

async function roll(lab: Lab, plan: Plan): Promise<Outcome> {
  const scene = await openScene({
    agents: 60,
    fundsMinor: 10_000_000_00n,
    sandbox: { delayMs: 50 },
    env: { TOLEM_TRUSTED_PROXIES: '127.0.0.1' },
  });
  let proxy: Nginx | undefined;
  try {
    const ports: number[] = [];
    while (ports.length < processes) ports.push(await scene.newPort());
    proxy = new Nginx(join(scene.dataDir, 'nginx'), await scene.newPort(), ports, plan.repeats);
    return await rollOverAndOver(lab, scene, ports, proxy, plan);
  } finally {
    await proxy?.end();
    await scene.close();
  }
}

async function rollOverAndOver(
  lab: Lab,
  scene: Scene,
  ports: readonly number[],
  proxy: Nginx,
  plan: Plan,
): Promise<Outcome> {
  const { owner, callers } = scene;
  const { timeline } = lab;
  const violations: Violation[] = [];
  const violate = (rule: string, object: string, found: string) => violations.push({ rule, object, found });
  await watchLeases(owner);
  let { build } = plan;
  const told = new Set<Server>();
  const start = (port: number) => {
    const server = scene.start({ port, build });
    void server.ended.then(({ code, signal }) => {
      if (!told.has(server))
        violate('no process ends by itself', `${code ?? signal}`, server.said().slice(-500));
    });
    return server;
  };
  const servers = ports.map(start);
  await Promise.all([...servers.map(({ ready }) => ready), proxy.ready()]);
  let hung = 0;
  const onAnswer = (kind: AnswerKind, waitedMs: number) => {
    timeline.answer(kind);
    if (waitedMs > hungMs) hung += 1;
  };
  const crowd = new Crowd({ ports: [proxy.port], callers, fates: everyFate, thinkMsMax: 30, onAnswer });
  await crowd.nextAnswer();

  const drainsMs: number[] = [];
  const end = async (server: Server, name: string) => {
    const startedAtMs = performance.now();
    timeline.fault('SIGTERM');
    told.add(server);
    server.signal('SIGTERM');
    const { code, signal } = await server.ended;
    const ms = performance.now() - startedAtMs;
    drainsMs.push(ms);
    const inOrder = code === 0 && ms <= drainMsMax;
    if (!inOrder) violate(drained, name, `${code ?? signal} after ${Math.round(ms)} ms: ${server.said()}`);
  };

  const migrateAt = plan.build === undefined ? Math.floor(plan.restarts / 2) : 0;
  let migration = 'none';
  for (let i = 0; i < plan.restarts; i += 1) {
    if (i === migrateAt && i > 0) {
      const old = servers.map(({ pid }) => pid);
      build = buildWithMigration();
      const fourth = start(await scene.newPort());
      await fourth.ready;
      timeline.fault('migration');
      migration = await newestMigration(owner);
      // Old processes serve beside it for a while.
      await sleep(2000);
      for (const [index, server] of servers.entries()) {
        const problem = await unfitness(server);
        if (problem !== null) violate(besides, `process ${old[index]}`, problem);
      }
      await end(fourth, 'the process with the migration');
    }
    const index = i % processes;
    await end(servers[index]!, `process ${index}`);
    servers[index] = start(ports[index]!);
    await servers[index].ready;
    await crowd.nextAnswer();
    await sleep(Math.random() * 300);
    if ((i + 1) % Math.ceil(plan.restarts / 5) === 0)
      lab.say(`${i + 1} restarts, ${crowd.finished} payments finished`);
  }

  await crowd.finish(60_000);
  violations.push(...(await judgeScene(scene, crowd.payments)));
  const leases = await leasesLeft(owner);
  if (leases > 0) violate(handedOver, 'all', `${leases} leases ran out`);
  const fine = new Set(['200', '503', 'TimeoutError']);
  for (const [status, count] of crowd.statuses)
    if (!fine.has(status)) violate(unseen, status, `${count} times`);
  if (hung > 0) violate(unseen, 'no answer within 10 s', `${hung} times`);
  for (const server of servers) told.add(server);
  return {
    violations,
    figures: {
      restarts: plan.restarts,
      migration,
      payments: crowd.finished,
      'the slowest drain, ms': Math.round(Math.max(...drainsMs)),
      // What nginx sent to a second process, or a third, because one was going or gone.
      'sent again by nginx': proxy.sentAgain(),
      'leases that ran out': leases,
      answers: countsText(crowd.statuses),
    },
  };
}

/** nginx as a child, one process, by the text of the documents; all its files are in the directory. */
class Nginx {
  private readonly child: ChildProcess;
  private readonly ended: Promise<unknown>;
  private said = '';

  constructor(
    private readonly directory: string,
    readonly port: number,
    ports: readonly number[],
    repeats: boolean,
  ) {
    mkdirSync(directory);
    const file = join(directory, 'nginx.conf');
    writeFileSync(file, this.configuration(ports, repeats));
    const args = ['-p', directory, '-e', join(directory, 'error.log'), '-c', file];
    this.child = guarded(spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] }));
    this.child.stderr!.on('data', (chunk) => (this.said += chunk));
    this.ended = new Promise((resolve) => this.child.once('exit', resolve).once('error', resolve));
  }

  /** Takes connections. */
  async ready(): Promise<void> {
    for (let i = 0; i < 100; i += 1) {
      const socket = connect(this.port, '127.0.0.1');
      const open = await new Promise((resolve) =>
        socket.once('connect', () => resolve(true)).once('error', () => resolve(false)),
      );
      socket.destroy();
      if (open) return;
      await sleep(50);
    }
    throw new Error(`nginx does not listen: ${this.said}`);
  }

  /** So many requests went to more than one process. */
  sentAgain(): number {
    const lines = readFileSync(join(this.directory, 'access.log'), 'utf8').split('\n');
    return lines.filter((line) => line.includes(',')).length;
  }

  async end(): Promise<void> {
    this.child.kill('SIGKILL');
    await this.ended;
  }

  private configuration(ports: readonly number[], repeats: boolean): string {
    const sample = /```nginx\n([\s\S]*?)```/.exec(readFileSync(documented, 'utf8'))?.[1];
    if (!sample) throw new Error('docs/operations.md shows no configuration of nginx any more');
    const left = [...ports];
    const site = sample
      .replace(/server 10\.0\.0\.\d+:8020/g, () => `server 127.0.0.1:${left.shift()}`)
      .replace('listen 443 ssl;', `listen 127.0.0.1:${this.port};`)
      .replace(/^ *ssl_.*\n/gm, '')
      .replace(/proxy_next_upstream .*;/, (line) => (repeats ? line : ''));
    if (left.length > 0 || site.includes('443')) throw new Error('the sample of nginx has another shape');
    const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
      (each) => `${each}_temp_path ${join(this.directory, each)};`,
    );
    return `
      daemon off; master_process off; pid ${join(this.directory, 'pid')};
      events { worker_connections 1024; }
      http {
        log_format upstreams '$status $upstream_addr';
        access_log ${join(this.directory, 'access.log')} upstreams;
        ${temporary.join(' ')}
        ${site}
      }`;
  }
}

/** The build under test with one more migration: columns in all tables of a payment, and an index. */
function buildWithMigration(): string {
  const build = brokenBuild([]);
  const directory = join(build, 'sql');
  rmSync(directory);
  cpSync(sqlDirectory, directory, { recursive: true });
  const number = String(migrationNames(sqlDirectory).length + 1).padStart(4, '0');
  const columns = [
    'payments',
    'transfers',
    'waiting',
    'leases',
    'quotes',
    'agent_balances',
    'payment_events',
  ].map((table) => `alter table ${table} add column later text;`);
  const index = 'create index payments_later on payments (later) where later is not null;';
  writeFileSync(join(directory, `${number}_later.sql`), [...columns, index].join('\n'));
  return build;
}

async function newestMigration(owner: pg.Pool): Promise<string> {
  const { rows } = await owner.query<{ name: string }>('select max(name) as name from migrations');
  return rows[0]!.name;
}

/** What keeps a process from serving, as it says itself; null: nothing. */
async function unfitness(server: Server): Promise<string | null> {
  const answer = await fetch(`${await server.monitor}/readyz`).catch((error: unknown) => String(error));
  if (typeof answer === 'string') return answer;
  return answer.ok ? null : await answer.text();
}

/** Counts the leases that are not given back by who has them, but taken when their time is over. */
async function watchLeases(owner: pg.Pool): Promise<void> {
  await owner.query(`
    create table lapsed_leases (id bigint);
    create function note_lapse() returns trigger language plpgsql security definer set search_path = tolem as $$
    begin
      if current_setting('application_name') not like 'tolem lane %' then
        insert into lapsed_leases values (old.id);
      end if;
      return null;
    end $$;
    create trigger note_lapse after delete on leases for each row execute function note_lapse();`);
}

async function leasesLeft(owner: pg.Pool): Promise<number> {
  return (await owner.query<{ count: number }>('select count(*)::int as count from lapsed_leases')).rows[0]!
    .count;
}

/** Ends at once, as a process without a way down. */
const exitAtOnce = () =>
  brokenBuild([
    {
      file: 'main.js',
      from: 'stoppingSince = performance.now();',
      to: 'process.exit(0);',
    },
  ]);

experiment({
  number: 13,
  name: 'rolling restarts and a migration behind nginx',
  minutesMax: { short: 4, full: 40 },
  unless: () => missingFile(program, 'nginx-light'),
  async run(lab) {
    const outcome = await roll(lab, { restarts: lab.size(6, 50), repeats: true });
    const violations = [...outcome.violations];
    if (Number(outcome.figures['sent again by nginx']) === 0)
      violations.push({ rule: 'the fault hits', object: 'sent again by nginx', found: '0' });
    if (!String(outcome.figures.migration).endsWith('_later'))
      violations.push({
        rule: 'the fault hits',
        object: 'migration',
        found: String(outcome.figures.migration),
      });
    return { ...outcome, violations };
  },
  controls: [
    {
      broken: 'a build that ends at once when it is told to',
      rule: handedOver,
      run: (lab) => roll(lab, { restarts: 3, build: exitAtOnce(), repeats: true }),
    },
    {
      broken: 'such a build behind a proxy that does not send again',
      rule: unseen,
      run: (lab) => roll(lab, { restarts: 3, build: exitAtOnce(), repeats: false }),
    },
  ],
});
