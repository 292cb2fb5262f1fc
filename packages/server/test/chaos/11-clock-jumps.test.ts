/**
 * The clock of one of three processes jumps by days, forth and back, under load; also while the process stands still,
 * as a machine's does that is suspended and then set right; and, forward only, together with the clock that never goes
 * back by itself, as after a pause of a virtual machine. Other processes and the database keep the right time.
 */
import { renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { correct } from '../../src/agents/funds.js';
import { Crowd, countsText, everyFate, type Payment } from '../support/crowd.js';
import { judgeScene, type Violation } from '../support/oracle.js';
import { brokenBuild, openScene, type Scene } from '../support/processes.js';
import { missingFile } from './debian.js';
import { experiment, type Lab, type Outcome } from './lab.js';

const library = '/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1';
const fundsWaitMs = 4000;
/** The provider's bounds are narrow, so that a lease is over in less than five seconds: see leaseMsFor. */
const provider = {
  ...{ connectTimeoutMs: 200, answerMsMax: 600, notFoundTrustedAfterMs: 300 },
  // So few that payments which were accepted wait for a connection, when their process is made to stand still.
  concurrencyMax: 2,
};
const stallMs = 14_000;
const agents = { rich: 60, poor: 10 };

const early250 = 'no payment ends 250 before its time';
const stolen = 'no lease is taken before it ends';
const dated = 'the books are dated by the database';
const dayTotals = 'the totals of a day are right';

interface Plan {
  readonly jumps: number;
  readonly stalls: number;
  readonly monotonicJumps: number;
  readonly build?: string;
}

/** The clock of a process under libfaketime, as a file that says how far it is off. */
class OtherClock {
  private readonly file: string;

  constructor(directory: string) {
    this.file = join(directory, 'clock');
    this.set('+0');
  }

  /** `+2d`, `-2d`, `+0`: from the right time. */
  set(offset: string): void {
    writeFileSync(`${this.file}.new`, `${offset}\n`);
    renameSync(`${this.file}.new`, this.file);
  }

  env(monotonicToo: boolean): Record<string, string> {
    return {
      ...{ LD_PRELOAD: library, FAKETIME_TIMESTAMP_FILE: this.file, FAKETIME_NO_CACHE: '1' },
      ...(monotonicToo ? {} : { FAKETIME_DONT_FAKE_MONOTONIC: '1', DONT_FAKE_MONOTONIC: '1' }),
    };
  }
}

async function jump(lab: Lab, plan: Plan): Promise<Outcome> {
  const scene = await openScene({
    agents: agents.rich + agents.poor,
    fundsMinor: 10_000_000_00n,
    sandbox: { delayMs: 150, slowMs: 1500 },
    env: { TOLEM_FUNDS_WAIT_MS: String(fundsWaitMs) },
    provider,
  });
  try {
    return await jumpOverAndOver(lab, scene, plan);
  } finally {
    await scene.close();
  }
}

async function jumpOverAndOver(lab: Lab, scene: Scene, plan: Plan): Promise<Outcome> {
  const { owner, fundsMinor } = scene;
  const { timeline } = lab;
  const [rich, poor] = [scene.callers.slice(agents.poor), scene.callers.slice(0, agents.poor)];
  for (const { agentId } of poor)
    await correct(owner, agentId, -fundsMinor, { reason: 'for those who wait', document: null }, 'op');
  await watchLeases(owner);
  const startedAt = await now(owner);

  const clock = new OtherClock(scene.dataDir);
  const ports = [await scene.newPort(), await scene.newPort(), await scene.newPort()];
  const start = (index: number, monotonicToo = false) =>
    scene.start({
      ...{ port: ports[index]!, build: plan.build },
      env: index === 0 ? clock.env(monotonicToo) : {},
    });
  let jumping = start(0);
  const servers = [jumping, start(1), start(2)];
  await Promise.all(servers.map(({ ready }) => ready));
  const common = { ports, onAnswer: timeline.answer };
  const crowd = new Crowd({ ...common, callers: rich, fates: everyFate, thinkMsMax: 20 });
  const waiting = { ending: '', code: 250, weight: 1 };
  const waiters = new Crowd({ ...common, callers: poor, fates: [waiting], thinkMsMax: 500 });
  await crowd.nextAnswer();

  const offsets = ['+2d', '-2d', '+0'];
  for (let i = 0; i < plan.jumps; i += 1) {
    const offset = offsets[i % offsets.length]!;
    clock.set(offset);
    timeline.fault(`clock ${offset}`);
    await sleep(1000 + Math.random() * 600);
    if ((i + 1) % 20 === 0) lab.say(`${i + 1} jumps, ${crowd.finished} payments finished`);
  }

  let heldAtStalls = 0;
  for (let i = 0; i < plan.stalls; i += 1) {
    clock.set('+0');
    await sleep(1500);
    heldAtStalls += await stall(scene, jumping.pid, () => clock.set(i % 2 === 0 ? '-2d' : '+2d'));
    timeline.fault('stood still');
    await crowd.nextAnswer();
    lab.say(`stood still ${i + 1} times; ${heldAtStalls} payments were under way there`);
  }

  if (plan.monotonicJumps > 0) {
    clock.set('+0');
    jumping.signal('SIGKILL');
    await jumping.ended;
    jumping = start(0, true);
    servers[0] = jumping;
    await jumping.ready;
    for (let i = 1; i <= plan.monotonicJumps; i += 1) {
      await sleep(1000 + Math.random() * 500);
      clock.set(`+${2 * i}d`);
      timeline.fault(`both clocks +${2 * i}d`);
    }
    await sleep(1500);
  }

  await Promise.all([crowd.finish(60_000), waiters.finish(60_000)]);
  const payments = [...crowd.payments, ...waiters.payments];
  const cutShort = forgiveCutRequests(payments);
  const violations = await judgeScene(scene, payments, rich);
  violations.push(...(await judgeTimes(scene, crowd.payments, startedAt)));
  for (const [index, server] of servers.entries()) {
    const alive = await Promise.race([server.ended.then(() => false), sleep(10, true)]);
    if (!alive) violations.push({ rule: 'no process ends', object: `server ${index}`, found: server.said() });
  }

  const { rows } = await owner.query<{ off: number; early: number; funds: number; slowest: number }>(
    `select
       (select count(*)::int from payment_events e where e.kind like 'provider_%'
         and abs(extract(epoch from e.at - (e.data ->> 'startedAt')::timestamptz)) > 86400) as off,
       (select count(*)::int from lease_ends where not lapsed) as early,
       (select count(*)::int from payments where code = 250) as funds,
       (select coalesce(max(extract(epoch from final_at - accepted_at) * 1000), 0)::int
         from payments where code = 250) as slowest`,
  );
  const { off, funds, slowest } = rows[0]!;
  const figures = {
    jumps: plan.jumps + plan.monotonicJumps,
    payments: payments.length,
    // Calls to the provider that the process with the other clock dated a day or more off: it believed its clock.
    'calls dated by another day': off,
    'under way when it stood still': heldAtStalls,
    'requests whose time was over (408)': cutShort,
    'ended 250': funds,
    'the latest 250 after, ms': slowest,
    answers: countsText(crowd.statuses),
  };
  return { violations, figures };
}

/** Lets the process stand still for longer than a lease, its clock set meanwhile; answers what it had under way. */
async function stall({ owner }: Scene, pid: number, setClock: () => void): Promise<number> {
  let held = 0;
  // More than are with the provider: what matters is what has been accepted and not sent yet.
  for (let tries = 0; held < 4 * provider.concurrencyMax && tries < 30; tries += 1) {
    if (tries > 0) process.kill(pid, 'SIGCONT');
    await sleep(Math.random() * 200);
    process.kill(pid, 'SIGSTOP');
    await sleep(1000);
    // What the others had they have ended within this second; what is left is the stopped process's.
    const { rows } = await owner.query<{ count: number }>(
      `select count(*)::int as count
       from leases l, unnest(l.payment_ids) as i (id) join payments p on p.id = i.id
       where l.until < now() + interval '4 seconds' and p.state = 4`,
    );
    held = rows[0]!.count;
  }
  setClock();
  await sleep(stallMs - 1000);
  process.kill(pid, 'SIGCONT');
  return held;
}

/**
 * A request that was being read when all clocks leapt has taken two days, and is refused with 408: no answer to the
 * question. Answers how many there were.
 */
function forgiveCutRequests(payments: readonly Payment[]): number {
  let count = 0;
  for (const { strange } of payments) {
    const others = strange.filter((each) => !each.startsWith('{"httpStatus":408,"code":null'));
    count += strange.length - others.length;
    strange.splice(0, strange.length, ...others);
  }
  return count;
}

async function now(owner: pg.Pool): Promise<Date> {
  return (await owner.query<{ at: Date }>('select clock_timestamp() as at')).rows[0]!.at;
}

/** Writes down every lease that another process took, and every claim of a waiting payment before it was due. */
async function watchLeases(owner: pg.Pool): Promise<void> {
  await owner.query(`
    create table lease_ends (what text, id bigint, until timestamptz, at timestamptz, lapsed boolean);
    create function note_lease_end() returns trigger language plpgsql security definer set search_path = tolem as $$
    begin
      if tg_table_name = 'leases' then
        if current_setting('application_name') not like 'tolem lane %' then
          insert into lease_ends values ('lease', old.id, old.until, clock_timestamp(), old.until < clock_timestamp());
        end if;
      else
        insert into lease_ends
          values ('claim', old.payment_id, old.next_at, clock_timestamp(), old.next_at <= clock_timestamp());
      end if;
      return null;
    end $$;
    create trigger note_lease_end after delete on leases for each row execute function note_lease_end();
    create trigger note_claim after update on waiting for each row when (new.tries > old.tries)
      execute function note_lease_end();`);
}

/** What must be so of the times in the books, whatever a process takes the time to be. */
async function judgeTimes(scene: Scene, paid: readonly Payment[], startedAt: Date): Promise<Violation[]> {
  const { owner } = scene;
  const violations: Violation[] = [];
  const { rows: early } = await owner.query<{ id: bigint; ms: number }>(
    `select id, (extract(epoch from final_at - accepted_at) * 1000)::int as ms from payments
     where code = 250 and final_at - accepted_at < $1 * interval '1 ms'`,
    [fundsWaitMs],
  );
  for (const { id, ms } of early)
    violations.push({ rule: early250, object: `payment ${id}`, found: `after ${ms} of ${fundsWaitMs} ms` });

  const { rows: taken } = await owner.query<{ what: string; id: bigint; until: Date; at: Date }>(
    'select what, id, until, at from lease_ends where not lapsed',
  );
  for (const { what, id, until, at } of taken)
    violations.push({
      ...{ rule: stolen, object: `${what} ${id}` },
      found: `taken at ${at.toISOString()}, it ran until ${until.toISOString()}`,
    });

  const { rows: strays } = await owner.query<{ name: string; count: number }>(
    `select name, count(*)::int as count from (
       select 'payments.accepted_at' as name, accepted_at as at from payments
       union all select 'payments.final_at', final_at from payments where final_at is not null
       union all select 'transfers.created_at', created_at from transfers where kind not in ('top_up', 'correction')
       union all select 'payment_events.at', at from payment_events
       union all select 'token_uses.used_at', used_at from token_uses
     ) as moments where at < $1 or at > clock_timestamp() group by name`,
    [startedAt],
  );
  for (const { name, count } of strays)
    violations.push({ rule: dated, object: name, found: `${count} moments outside the run` });

  // As a registry of the day would sum them: by receipt, in the centre's zone.
  const { rows: days } = await owner.query<{ total: bigint }>(
    `select coalesce(sum(amount_to_minor), 0)::bigint as total from payments
     where state = 6 and (accepted_at at time zone 'Asia/Almaty')::date
       between ($1::timestamptz at time zone 'Asia/Almaty')::date
       and (clock_timestamp() at time zone 'Asia/Almaty')::date`,
    [startedAt],
  );
  const expected = paid.reduce((sum, each) => (each.finalCodes.has(0) ? sum + each.amountMinor : sum), 0n);
  if (days[0]!.total !== expected)
    violations.push({
      rule: dayTotals,
      object: 'successes',
      found: `${days[0]!.total} instead of ${expected}`,
    });
  return violations;
}

experiment({
  number: 11,
  name: 'the clock of one process jumps by days',
  minutesMax: { short: 4, full: 30 },
  unless: () => missingFile(library, 'faketime'),
  async run(lab) {
    const outcome = await jump(lab, {
      ...{ jumps: lab.size(6, 200), stalls: lab.size(1, 20), monotonicJumps: lab.size(2, 30) },
    });
    const violations = [...outcome.violations];
    for (const [name, atLeast] of Object.entries({
      'calls dated by another day': lab.size(30, 1000),
      'under way when it stood still': 1,
      'ended 250': lab.size(20, 400),
    })) {
      const count = Number(outcome.figures[name]);
      if (count < atLeast) violations.push({ rule: 'the fault hits', object: name, found: String(count) });
    }
    return { ...outcome, violations };
  },
  controls: [
    {
      broken: 'a build that tells by its own clock who has waited for funds in vain',
      rule: early250,
      run: (lab) =>
        jump(lab, {
          ...{ jumps: 1, stalls: 0, monotonicJumps: 0 },
          build: brokenBuild([
            {
              file: 'payments/waiting.js',
              from: "since < now() - $1 * interval '1 ms'\n     order by since limit 200`, [waitMs]);",
              to: "since < $2::timestamptz - $1 * interval '1 ms'\n     order by since limit 200`, [waitMs, new Date()]);",
            },
          ]),
        }),
    },
    {
      broken: 'a build that tells by its own clock whether its lease still runs',
      rule: 'nothing is executed twice',
      run: (lab) =>
        jump(lab, {
          // The first and the third set the clock back.
          ...{ jumps: 0, stalls: 3, monotonicJumps: 0 },
          build: brokenBuild([
            { file: 'clock.js', from: 'return nowMs + leapsMs;', to: 'return Date.now();' },
          ]),
        }),
    },
    {
      broken: 'a build that takes leases by its own clock',
      rule: stolen,
      run: (lab) =>
        jump(lab, {
          ...{ jumps: 1, stalls: 0, monotonicJumps: 0 },
          build: brokenBuild([
            {
              file: 'payments/waiting.js',
              from: "const { rows } = await db.query('select * from take_expired_leases($1)', [100]);",
              to: `const { rows } = await db.query(
                     \`with gone as (delete from leases l where l.until < $1 returning l.shard, l.payment_ids, l.until),
                      orphan as (select g.shard, g.until, unnest(g.payment_ids) as id from gone g),
                      moved as (update payments p set state = 5 from orphan o
                        where p.id = o.id and p.shard = o.shard and p.state = 4
                        returning p.id, p.shard, p.agent_id, o.until)
                      insert into waiting (payment_id, shard, agent_id, what, attempt_until)
                      select m.id, m.shard, m.agent_id, 'inquire', m.until from moved m
                      on conflict do nothing returning payment_id\`, [new Date()]);`,
            },
          ]),
        }),
    },
    {
      broken: 'a build that dates payments by its own clock',
      rule: [dated, dayTotals],
      run: (lab) =>
        jump(lab, {
          ...{ jumps: 1, stalls: 0, monotonicJumps: 0 },
          build: brokenBuild([
            {
              file: 'payments/store.js',
              from: 'if (row.fresh && stateFacts[row.state].final)',
              to: `await client.query('update payments set accepted_at = $1 where id = $2', [new Date(), row.id]);
                   if (row.fresh && stateFacts[row.state].final)`,
            },
          ]),
        }),
    },
  ],
});
