import { createHash } from 'node:crypto';
import { connect, createServer, type Socket } from 'node:net';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { addAddress, setKnownByAddress } from '../src/agents/addresses.js';
import { changeAgent, createAgent, getAgent } from '../src/agents/agents.js';
import { confirmToken, createToken, getToken, revokeToken } from '../src/agents/tokens.js';
import { listAudit } from '../src/audit.js';
import { loadDemo } from '../src/catalogue/demo.js';
import { getProvider, setPaused } from '../src/catalogue/providers.js';
import { loadReference, patternOf, type ReferenceWatch, watchReference } from '../src/catalogue/reference.js';
import { setServiceAllowed, setServiceState } from '../src/catalogue/services.js';
import { mayBeSold, tariffLine } from '../src/core/catalogue.js';
import type { Directory } from '../src/protocol/credentials.js';
import { freshDatabase, type TestDatabase } from './support/database.js';

let database: TestDatabase;
let pool: pg.Pool;
let owner: pg.Pool;
let demo: { agentId: bigint; token: string | null };
const by = 'operator-1';
const sandboxUrl = 'http://127.0.0.1:8021';

beforeAll(async () => {
  database = await freshDatabase();
  pool = new pg.Pool({ ...database.appOptions, max: 4 });
  pool.on('error', () => {});
  owner = new pg.Pool({ ...database.adminOptions, max: 2 });
  demo = await inClient((client) => loadDemo(client, { sandboxUrl }));
});

afterAll(async () => {
  await pool.end();
  await owner.end();
  await database.drop();
});

async function inClient<T>(work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
  const client = await pool.connect();
  return work(client).finally(() => client.release());
}

const hex = (token: string) => createHash('sha256').update(token).digest('hex');

async function within(ms: number, holds: () => boolean): Promise<number> {
  const startedAt = performance.now();
  while (!holds()) {
    if (performance.now() - startedAt > ms) throw new Error(`it did not come true in ${ms} ms`);
    await new Promise((done) => setTimeout(done, 10));
  }
  return performance.now() - startedAt;
}

describe('demo data', () => {
  test('the catalogue is the one of the contract, in its order, and is sold by the sandbox', async () => {
    const { reference } = await loadReference(pool);
    expect([...reference.services.keys()]).toEqual([
      'P1011',
      'P1012',
      'P0005',
      'P0006',
      'P1013',
      'P1014',
      'P1015',
      'P1016',
      'P2001',
    ]);
    const services = [...reference.services.values()];
    expect(services.slice(0, 4).map((each) => [each.type, each.name, each.fixedPayment])).toEqual([
      [0, 'Билайн Казахстан', true],
      [0, 'Herbalife', true],
      [1, 'Алсеко', false],
      [2, 'XXX банк', false],
    ]);
    const herbalife = reference.services.get('P1012')!;
    expect(
      herbalife.inputs.map((each) => [each.name, each.key, each.required, each.pattern?.source]),
    ).toEqual([
      ['account', 'account', true, '^\\d{10}$'],
      ['ev_account1', 'account1', true, '^\\d{10}$'],
    ]);
    expect(herbalife.displays.map((each) => [each.name, each.title])).toEqual([
      ['fio', 'ФИО'],
      ['info', 'Сумма к оплате'],
      ['fixedAmount', ''],
    ]);
    for (const each of services) {
      expect(each).toMatchObject({
        routes: [{ providerId: 'sandbox' }],
        amountMinMinor: 1_00n,
        amountMaxMinor: 1_000_000_00n,
      });
    }
    expect(reference.services.get('P2001')!.currency).toBe('USD');
    expect(reference.rates.get('KZT/USD')).toBe(20_833_333n);
    expect(reference.providers.get('sandbox')).toMatchObject({
      connector: 'sandbox',
      settings: { baseUrl: sandboxUrl },
    });
    expect(reference.rules).toEqual([expect.objectContaining({ amountAboveMinor: 500_000_00n })]);
  });

  test('agent 4 has ten millions, a confirmed token and may sell all with no fee and 20 % on top', async () => {
    const { reference, directory } = await loadReference(pool);
    expect(await getAgent(pool, 4n)).toMatchObject({
      currency: 'KZT',
      availableMinor: 10_000_000_00n,
      creditLimitMinor: 0n,
    });
    expect(directory.byTokenHash(hex(demo.token!))?.agentId).toBe(4n);
    const agent = reference.agents.get(4n)!;
    expect([...reference.services.values()].every((service) => mayBeSold(reference, agent, service))).toBe(
      true,
    );
    expect(tariffLine(reference.tariffs.get(agent.tariffId)!, 'P1011')).toMatchObject({
      feePpm: 0,
      feeFixedMinor: 0n,
      feeMinMinor: 0n,
      rewardPpm: 0,
      addedMaxPpm: 200_000,
    });
  });

  test('the prefixes lead to the operators of Kazakhstan', async () => {
    const { rows } = await owner.query('select prefix, service_id from numbering_prefixes order by prefix');
    expect(rows.map((row) => `${row.prefix} ${row.service_id}`)).toEqual([
      '700 P1016',
      '701 P1013',
      '702 P1014',
      '705 P1011',
      '706 P1011',
      '707 P1015',
      '708 P1016',
      '747 P1015',
      '771 P1011',
      '775 P1013',
      '776 P1011',
      '777 P1011',
      '778 P1014',
    ]);
  });

  test('a second start keeps what people changed and follows the sandbox to another port', async () => {
    await setServiceState(pool, 'P1016', 'off', by);
    await changeAgent(pool, 4n, { name: 'Renamed' }, by);
    await pool.query(`update providers set settings = settings || '{"answerMsMax": 1234}'`);
    const count = async () => (await listAudit(owner, { limit: 1000 })).length;
    const before = await count();
    const again = await inClient((client) => loadDemo(client, { sandboxUrl: 'http://127.0.0.1:9999' }));
    expect(again).toEqual({ agentId: 4n, token: null });
    const third = await inClient((client) => loadDemo(client, { sandboxUrl: 'http://127.0.0.1:9999' }));
    expect(third).toEqual(again);
    expect(await count()).toBe(before + 1);
    expect(await getAgent(pool, 4n)).toMatchObject({ name: 'Renamed', availableMinor: 10_000_000_00n });
    expect((await getProvider(pool, 'sandbox')).settings).toEqual({
      baseUrl: 'http://127.0.0.1:9999',
      answerMsMax: 1234,
    });
    expect((await loadReference(pool)).reference.services.get('P1016')!.state).toBe('off');
    await setServiceState(pool, 'P1016', 'on', by);
  });

  test('started at once by many, it is loaded once', async () => {
    const other = await freshDatabase();
    const clients = await Promise.all(
      Array.from({ length: 4 }, async () => {
        const client = new pg.Client(other.appOptions);
        await client.connect();
        return client;
      }),
    );
    const loaded = await Promise.all(clients.map((client) => loadDemo(client, { sandboxUrl })));
    expect(loaded.filter((each) => each.token !== null)).toHaveLength(1);
    expect(await getAgent(clients[0]!, 4n)).toMatchObject({ availableMinor: 10_000_000_00n });
    await Promise.all(clients.map((client) => client.end()));
    await other.drop();
  });
});

describe('patterns', () => {
  test.each<[string, string, boolean]>([
    ['^\\d{10}$', '7770017711', true],
    ['^\\d{10}$', '77700177111', false],
    ['^\\d{10}$', '7770017711\n', false],
    ['\\d{10}', '7770017711', true],
    ['\\d{10}', 'x7770017711', false],
    ['\\d{10}', '7770017711x', false],
    ['^\\d{3}', '1234', false],
    ['\\d{3}$', '1234', false],
    ['a|ab', 'ab', true],
    ['^a|b$', 'ax', false],
    ['^a|b$', 'xb', false],
    ['^a|b$', 'b', true],
    ['(?m)^\\d{3}$', '123\n456', false],
    ['\\d+', '٣', false],
    ['\\p{L}+', 'Әлия', true],
    ['(?i)abc', 'ABC', true],
    ['^.+$', 'a\nb', false],
    ['^.+$', '', false],
    ['', '', true],
    ['', 'a', false],
    ['^\\d{1,9}\\.\\d{2}$', '20000.00', true],
    ['^\\d{1,9}\\.\\d{2}$', '20000,00', false],
  ])('%j against %j: the whole value or nothing', (source, value, expected) => {
    expect(patternOf(source).matches(value)).toBe(expected);
  });

  test('a pattern that explodes elsewhere takes linear time', () => {
    const pattern = patternOf('^(a+)+$');
    const startedAt = performance.now();
    expect(pattern.matches(`${'a'.repeat(200)}!`)).toBe(false);
    expect(performance.now() - startedAt).toBeLessThan(100);
  });

  test('a reload keeps the patterns it knows', async () => {
    const patternIn = async () =>
      (await loadReference(pool)).reference.services.get('P1011')!.inputs[0]!.pattern;
    expect(await patternIn()).toBe(await patternIn());
  });

  test('a reload keeps the services that did not change, and makes anew the one that did', async () => {
    const services = async () => (await loadReference(pool)).reference.services;
    const before = await services();
    await pool.query(`update services set name = name || '!' where service_id = 'P1013'`);
    const after = await services();
    expect(after.get('P1011')).toBe(before.get('P1011'));
    expect(after.get('P1013')!.name).toBe(`${before.get('P1013')!.name}!`);
  });
});

describe('callers', () => {
  test('only confirmed tokens of existing agents are known', async () => {
    const { tokenId, token } = await createToken(pool, 4n, '', by);
    const known = async () => (await loadReference(pool)).directory.byTokenHash(hex(token));
    expect(await known()).toBeUndefined();
    await confirmToken(pool, tokenId, by);
    expect(await known()).toEqual({ agentId: 4n, tokenId });
    await revokeToken(pool, tokenId, by);
    expect(await known()).toBeUndefined();

    const orphan = 'tlm_orphan';
    await owner.query(`insert into tokens (agent_id, token_hash, state) values (777, $1, 'confirmed')`, [
      createHash('sha256').update(orphan).digest(),
    ]);
    expect((await loadReference(pool)).directory.byTokenHash(hex(orphan))).toBeUndefined();
  });

  test('agents known by address are found by address, network and IPv6; others are not', async () => {
    const make = async (...addresses: string[]) => {
      const { agentId } = await createAgent(
        pool,
        { name: 'A', currency: 'KZT', language: 'ru', tariffId: 'demo' },
        by,
      );
      for (const address of addresses) await addAddress(pool, agentId, address, by);
      return agentId;
    };
    const single = await make('192.0.2.7');
    const network = await make('198.51.100.0/24', '2001:db8::/32');
    await make('203.0.113.5');
    await setKnownByAddress(pool, single, true, by);
    await setKnownByAddress(pool, network, true, by);
    const { directory } = await loadReference(pool);
    expect(directory.addressesOf(network)).toEqual(['198.51.100.0/24', '2001:db8::/32']);
    expect(directory.addressesOf(4n)).toEqual([]);
    expect(directory.agentsKnownByAddress('192.0.2.7')).toEqual([single]);
    expect(directory.agentsKnownByAddress('198.51.100.200')).toEqual([network]);
    expect(directory.agentsKnownByAddress('2001:db8::7')).toEqual([network]);
    expect(directory.agentsKnownByAddress('203.0.113.5')).toEqual([]);
    expect(directory.agentsKnownByAddress('192.0.2.8')).toEqual([]);
  });
});

describe('watching', () => {
  async function watching(
    work: (watch: ReferenceWatch, errors: Error[]) => Promise<void>,
    connection = database.appOptions,
  ) {
    const errors: Error[] = [];
    const watch = await watchReference(connection, pool, (error) => errors.push(error));
    try {
      await work(watch, errors);
    } finally {
      await watch.close();
    }
  }

  const stateOf = (watch: ReferenceWatch, serviceId: string) =>
    watch.current().reference.services.get(serviceId)!.state;

  test('a change is seen at once, and what was handed out before does not change', async () => {
    await watching(async (watch) => {
      const before = watch.current();
      await setServiceState(pool, 'P1013', 'maintenance', by);
      expect(await within(1000, () => stateOf(watch, 'P1013') === 'maintenance')).toBeLessThan(1000);
      expect(before.reference.services.get('P1013')!.state).toBe('on');
      await setServiceState(pool, 'P1013', 'on', by);
      await watch.refresh();
      expect(stateOf(watch, 'P1013')).toBe('on');
    });
  });

  test('a change whose notification is lost is seen within 3 seconds', async () => {
    await watching(async (watch) => {
      const client = await owner.connect();
      // Without triggers nothing is notified; the version alone tells.
      await client.query('begin');
      await client.query(`set local session_replication_role = replica`);
      await client.query(`update services set state = 'maintenance' where service_id = 'P1014'`);
      await client.query('update reference_version set version = version + 1');
      await client.query('commit');
      client.release();
      await within(3000, () => stateOf(watch, 'P1014') === 'maintenance');
    });
    await setServiceState(pool, 'P1014', 'on', by);
  });

  test('a lost connection is replaced, and a change made meanwhile is seen within 3 seconds', async () => {
    await watching(async (watch, errors) => {
      await owner.query(
        `select pg_terminate_backend(pid) from pg_stat_activity
         where application_name = 'tolem reference' and datname = current_database()`,
      );
      await setServiceAllowed(pool, 4n, 'P1015', false, by);
      await within(3000, () => watch.current().reference.exceptions.get(4n)?.get('P1015') === false);
      await setServiceAllowed(pool, 4n, 'P1015', true, by);
      await within(1000, () => watch.current().reference.exceptions.get(4n)?.get('P1015') === true);
      expect(errors.length).toBeLessThanOrEqual(1);
    });
  });

  test('a burst of changes is read in a few loads, the last one included', async () => {
    await watching(async (watch) => {
      const seen = new Set<bigint>();
      const timer = setInterval(() => seen.add(watch.current().reference.version), 1);
      for (let i = 0; i < 60; i += 1) await setPaused(pool, 'sandbox', i % 2 === 0, by);
      await watch.refresh();
      clearInterval(timer);
      expect(watch.current().reference.providers.get('sandbox')!.paused).toBe(false);
      expect(seen.size).toBeLessThan(30);
    });
  });

  test('a change under way is not seen', async () => {
    await watching(async (watch) => {
      const versionBefore = watch.current().reference.version;
      const client = await owner.connect();
      await client.query('begin');
      await client.query(`update services set state = 'off' where service_id = 'P0005'`);
      await watch.refresh();
      expect(watch.current().reference.version).toBe(versionBefore);
      await client.query('rollback');
      client.release();
    });
  });

  test('a load never holds half of a change that is committed while it reads', async () => {
    const blocker = await owner.connect();
    await blocker.query('begin');
    await blocker.query('lock table security_rules in access exclusive mode');
    const loading = loadReference(pool);
    const { rows } = await owner.query(`select current_database() as name`);
    const stuck = () =>
      blocker.query('select 1 from pg_stat_activity where datname = $1 and wait_event_type = $2', [
        rows[0].name,
        'Lock',
      ]);
    while ((await stuck()).rowCount === 0) await new Promise((done) => setTimeout(done, 10));
    // The services are read by now, and the providers are not.
    await setServiceState(pool, 'P0005', 'off', by);
    await setPaused(pool, 'sandbox', true, by);
    await blocker.query('rollback');
    blocker.release();
    const { reference } = await loading;
    expect(reference.services.get('P0005')!.state).toBe('on');
    expect(reference.providers.get('sandbox')!.paused).toBe(false);
    await setServiceState(pool, 'P0005', 'on', by);
    await setPaused(pool, 'sandbox', false, by);
  });

  test('while the database is away the last data stay, one error is told, and it catches up by itself', async () => {
    const gate = await openGate(database.address);
    await watching(
      async (watch, errors) => {
        gate.shut();
        await setServiceState(pool, 'P2001', 'maintenance', by);
        await expect(watch.refresh()).rejects.toThrow();
        await new Promise((done) => setTimeout(done, 1500));
        expect(stateOf(watch, 'P2001')).toBe('on');
        expect(errors).toHaveLength(1);
        gate.open();
        await within(3000, () => stateOf(watch, 'P2001') === 'maintenance');
      },
      { ...database.appOptions, host: '127.0.0.1', port: gate.port },
    );
    gate.close();
    await setServiceState(pool, 'P2001', 'on', by);
  });

  test('the first load failing is an error of the start', async () => {
    const gate = await openGate(database.address);
    gate.shut();
    await expect(
      watchReference({ ...database.appOptions, host: '127.0.0.1', port: gate.port }, pool, () => {}),
    ).rejects.toThrow();
    gate.close();
  });

  test('the directory follows the data, and uses of tokens are written down', async () => {
    await watching(async (watch) => {
      const directory: Directory = watch.directory;
      const { tokenId, token } = await createToken(pool, 4n, '', by);
      await confirmToken(pool, tokenId, by);
      await within(1000, () => directory.byTokenHash(hex(token)) !== undefined);
      directory.touched(tokenId, '192.0.2.1');
      await revokeToken(pool, tokenId, by);
      await within(1000, () => directory.byTokenHash(hex(token)) === undefined);
      await watch.close();
      expect(await getToken(pool, tokenId)).toMatchObject({ usedFrom: '192.0.2.1' });
    });
  });
});

test('5 000 services and 1 000 agents are loaded in under half a second', async () => {
  const big = await freshDatabase();
  const client = new pg.Client(big.adminOptions);
  await client.connect();
  await client.query(`
    insert into tariffs values ('t', 'T');
    insert into tariff_lines (tariff_id) values ('t');
    insert into providers (provider_id, name, connector) values ('p', 'P', 'sandbox');
    insert into agents (agent_id, name, currency, tariff_id)
      select n, 'Agent ' || n, 'KZT', 't' from generate_series(1, 1000) n;
    insert into tokens (agent_id, token_hash, state)
      select n, sha256(n::text::bytea), 'confirmed' from generate_series(1, 1000) n;
    insert into services (service_id, position, type, name, group_name, inputs, provider_id, provider_service_code,
        currency, amount_min_minor, amount_max_minor)
      select 'S' || n, n, 0, 'Услуга ' || n, 'Группа',
        jsonb_build_array(jsonb_build_object('name', 'account', 'required', true, 'title', 'Счёт',
          'regexp', '^\\d{' || n % 100 + 1 || '}$')),
        'p', 'c', 'KZT', 100, 100000000
      from generate_series(1, 5000) n;
    analyze;
  `);
  let loaded = await loadReference(client);
  // A neighbour on the machine may slow one load down, and not ten.
  let fastestMs = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 10 && fastestMs >= 500; i += 1) {
    const startedAt = performance.now();
    loaded = await loadReference(client);
    fastestMs = Math.min(fastestMs, performance.now() - startedAt);
  }
  await client.end();
  await big.drop();
  expect([loaded.reference.services.size, loaded.reference.agents.size]).toEqual([5000, 1000]);
  expect(fastestMs).toBeLessThan(500);
});

/** A door before the database's socket that can be shut, as when the network fails. */
async function openGate({ host, port }: { host: string; port: number }) {
  const open = new Set<Socket>();
  let shut = false;
  const server = createServer((inside) => {
    if (shut) return void inside.destroy();
    const outside = connect(`${host}/.s.PGSQL.${port}`);
    for (const socket of [inside, outside]) {
      open.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => {
        open.delete(socket);
        inside.destroy();
        outside.destroy();
      });
    }
    inside.pipe(outside).pipe(inside);
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  return {
    port: (server.address() as { port: number }).port,
    shut() {
      shut = true;
      for (const socket of open) socket.destroy();
    },
    open() {
      shut = false;
    },
    close() {
      this.shut();
      server.close();
    },
  };
}
