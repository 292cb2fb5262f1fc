import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import {
  addAddress,
  listAddresses,
  readAddress,
  removeAddress,
  setKnownByAddress,
} from '../src/agents/addresses.js';
import { type AgentRecord, changeAgent, createAgent, getAgent, listAgents } from '../src/agents/agents.js';
import { correct, topUp } from '../src/agents/funds.js';
import { confirmToken, createToken, getToken, revokeToken, TokenUses } from '../src/agents/tokens.js';
import { changing, inTransaction, listAudit, Refusal } from '../src/audit.js';
import { maskSettings, setPaused, setProvider } from '../src/catalogue/providers.js';
import { direct, inverse, listRateHistory, ratesOf, readRates, setRate } from '../src/catalogue/rates.js';
import { readRules, removeRule, setRule } from '../src/catalogue/rules.js';
import {
  getService,
  importServices,
  parseServices,
  previewServices,
  readExceptions,
  readServices,
  setServiceAllowed,
  setServiceState,
} from '../src/catalogue/services.js';
import { getTariff, parseTariff, setTariff } from '../src/catalogue/tariffs.js';
import { parseRate } from '../src/core/money.js';
import { freshDatabase, type TestDatabase } from './support/database.js';

let database: TestDatabase;
let pool: pg.Pool;
let owner: pg.Pool;

const by = 'operator-1';
const line = {
  feePpm: 0,
  feeFixedMinor: 0n,
  feeMinMinor: 0n,
  feeMaxMinor: null,
  rewardPpm: 0,
  addedMaxPpm: 200_000,
};
const sample = readFileSync(new URL('../demo/services.json', import.meta.url), 'utf8');

beforeAll(async () => {
  database = await freshDatabase();
  pool = new pg.Pool({ ...database.appOptions, max: 8 });
  owner = new pg.Pool({ ...database.adminOptions, max: 2 });
  await setTariff(pool, { tariffId: 'main', name: 'Main', lines: [{ serviceId: null, ...line }] }, by);
  await setProvider(
    pool,
    {
      providerId: 'sandbox',
      name: 'Sandbox',
      connector: 'sandbox',
      settings: { baseUrl: 'http://127.0.0.1:1' },
    },
    () => {},
    by,
  );
  await importServices(pool, sample, by);
});

afterAll(async () => {
  await pool.end();
  await owner.end();
  await database.drop();
});

let agent: AgentRecord;
beforeEach(async () => {
  agent = await createAgent(pool, { name: 'Kiosks', currency: 'KZT', language: 'ru', tariffId: 'main' }, by);
});

async function auditOf(object: string) {
  const rows = await listAudit(owner, { object, limit: 100 });
  return rows.reverse().map(({ operator, action, detail }) => ({ operator, action, detail }));
}

async function availableOf(agentId: bigint) {
  return (await getAgent(pool, agentId)).availableMinor;
}

describe('audit', () => {
  test('a change and its audit row are committed together or not at all', async () => {
    await expect(
      changing(pool, by, async (tx, audit) => {
        await tx.query('update agents set name = $2 where agent_id = $1', [agent.agentId, 'Other']);
        await audit('test', 'agent:rollback', {});
        throw new Error('the work failed');
      }),
    ).rejects.toThrow('the work failed');
    expect((await getAgent(pool, agent.agentId)).name).toBe('Kiosks');
    expect(await auditOf('agent:rollback')).toEqual([]);
  });

  test.each(['', ' name', 'name ', 'x'.repeat(201)])('an operator named %j is refused', async (operator) => {
    await expect(topUp(pool, agent.agentId, 100n, null, operator)).rejects.toThrow(Refusal);
    expect(await availableOf(agent.agentId)).toBe(0n);
  });

  test.each([
    ['read', 'select 1 from audit'],
    ['change', `update audit set operator = 'nobody'`],
    ['delete', 'delete from audit'],
    ['empty', 'truncate audit'],
  ])('the application cannot %s the audit', async (_, sql) => {
    await expect(pool.query(sql)).rejects.toMatchObject({ code: '42501' });
  });

  test('changes inside an open transaction are undone with it', async () => {
    const client = await pool.connect();
    await expect(
      inTransaction(client, async () => {
        await topUp(client, agent.agentId, 500n, null, by);
        throw new Error('the caller changed its mind');
      }),
    ).rejects.toThrow('changed its mind');
    client.release();
    expect(await availableOf(agent.agentId)).toBe(0n);
  });
});

describe('agents', () => {
  test('a new agent has an empty balance, no credit, the next free id and an audit row', async () => {
    const next = await createAgent(
      pool,
      { name: 'Next', currency: 'KZT', language: 'kk', tariffId: 'main' },
      by,
    );
    expect(next).toMatchObject({
      agentId: agent.agentId + 1n,
      shard: 0,
      availableMinor: 0n,
      creditLimitMinor: 0n,
      notificationMinor: 0n,
      servicePolicy: 'all',
      blocked: false,
      language: 'kk',
    });
    expect(await auditOf(`agent:${next.agentId}`)).toEqual([
      {
        operator: by,
        action: 'agent.create',
        detail: expect.objectContaining({ name: 'Next', tariffId: 'main' }),
      },
    ]);
  });

  test('an explicit id is kept, the next one follows it, and a taken id is refused', async () => {
    const wanted = { name: 'N', currency: 'KZT', language: 'ru', tariffId: 'main' } as const;
    const explicit = await createAgent(pool, { ...wanted, agentId: agent.agentId + 1000n }, by);
    expect(explicit.agentId).toBe(agent.agentId + 1000n);
    expect((await createAgent(pool, wanted, by)).agentId).toBe(explicit.agentId + 1n);
    await expect(createAgent(pool, { ...wanted, agentId: explicit.agentId }, by)).rejects.toThrow(
      /exists already/,
    );
    await expect(createAgent(pool, { ...wanted, agentId: 0n }, by)).rejects.toThrow(Refusal);
  });

  test('many agents created at once get ids of their own', async () => {
    const created = await Promise.all(
      Array.from({ length: 16 }, () =>
        createAgent(pool, { name: 'Same', currency: 'KZT', language: 'ru', tariffId: 'main' }, by),
      ),
    );
    expect(new Set(created.map((each) => each.agentId)).size).toBe(16);
  });

  test.each([
    [{ tariffId: 'none' }, /no tariff "none"/],
    [{ currency: 'tenge' }, /not a currency/],
    [{ name: '' }, /1 to 200 characters/],
  ])('creating with %j is refused', async (wrong, message) => {
    const right = { name: 'N', currency: 'KZT', language: 'ru', tariffId: 'main' } as const;
    await expect(createAgent(pool, { ...right, ...wrong }, by)).rejects.toThrow(message);
  });

  test('agents are listed in pages by id', async () => {
    const page = await listAgents(pool, { afterAgentId: agent.agentId - 1n, limit: 1 });
    expect(page.map((each) => each.agentId)).toEqual([agent.agentId]);
  });

  test('each changed field is told in the audit as from and to; the e-mail without its name', async () => {
    await changeAgent(
      pool,
      agent.agentId,
      { language: 'en', notificationMinor: 100_00n, notificationEmail: 'someone@example.kz', name: 'Kiosks' },
      by,
    );
    expect((await auditOf(`agent:${agent.agentId}`)).at(-1)).toEqual({
      operator: by,
      action: 'agent.change',
      detail: {
        language: { from: 'ru', to: 'en' },
        notificationMinor: { from: '0', to: '10000' },
        notificationEmail: { from: null, to: '…@example.kz' },
      },
    });
    expect(await getAgent(pool, agent.agentId)).toMatchObject({
      language: 'en',
      notificationMinor: 100_00n,
      notificationEmail: 'someone@example.kz',
    });
  });

  test('a change that changes nothing leaves no audit row', async () => {
    const before = await auditOf(`agent:${agent.agentId}`);
    await changeAgent(pool, agent.agentId, { language: 'ru', blocked: false }, by);
    expect(await auditOf(`agent:${agent.agentId}`)).toEqual(before);
  });

  test('the credit limit may be lowered to the present debt and not below it', async () => {
    await changeAgent(pool, agent.agentId, { creditLimitMinor: 1000_00n }, by);
    await correct(pool, agent.agentId, -250_50n, { reason: 'debt', document: null }, by);
    await expect(changeAgent(pool, agent.agentId, { creditLimitMinor: 250_49n }, by)).rejects.toThrow(
      /owes 250\.50 now\. Set it to 250\.50 or more/,
    );
    const lowered = await changeAgent(pool, agent.agentId, { creditLimitMinor: 250_50n }, by);
    expect(lowered.creditLimitMinor).toBe(250_50n);
    await expect(changeAgent(pool, agent.agentId, { creditLimitMinor: -1n }, by)).rejects.toThrow(Refusal);
  });

  test('a blocked agent keeps the moment of its first blocking until it is unblocked', async () => {
    await changeAgent(pool, agent.agentId, { blocked: true }, by);
    await changeAgent(pool, agent.agentId, { servicePolicy: 'listed' }, by);
    expect(await getAgent(pool, agent.agentId)).toMatchObject({ blocked: true, servicePolicy: 'listed' });
    const { rows } = await owner.query(
      'select blocked_at < now() as before from agents where agent_id = $1',
      [agent.agentId],
    );
    expect(rows[0].before).toBe(true);
    expect((await changeAgent(pool, agent.agentId, { blocked: false }, by)).blocked).toBe(false);
  });

  test('an unknown agent is refused by name', async () => {
    await expect(changeAgent(pool, 999_999n, { blocked: true }, by)).rejects.toThrow(
      'There is no agent 999999',
    );
  });
});

describe('funds', () => {
  test('a top-up adds money, writes one balanced transfer and one audit row', async () => {
    const moved = await topUp(pool, agent.agentId, 1234_56n, 'PO-1', by);
    expect(moved).toMatchObject({ fresh: true, availableMinor: 1234_56n, currency: 'KZT' });
    const { rows } = await owner.query('select * from transfers where operation_id = $1', [
      moved.operationId,
    ]);
    expect(rows).toEqual([
      expect.objectContaining({
        kind: 'top_up',
        debit_account: 'settlement:KZT',
        credit_account: `agent:${agent.agentId}`,
        amount_minor: 1234_56n,
      }),
    ]);
    expect((await auditOf(`agent:${agent.agentId}`)).at(-1)).toEqual({
      operator: by,
      action: 'agent.top_up',
      detail: {
        operationId: moved.operationId.toString(),
        amount: '1234.56',
        currency: 'KZT',
        document: 'PO-1',
        reason: null,
      },
    });
  });

  test('the same document again moves nothing, also when many come at once', async () => {
    const moved = await Promise.all(
      Array.from({ length: 8 }, () => topUp(pool, agent.agentId, 100_00n, 'PO-2', by)),
    );
    expect(moved.filter((each) => each.fresh)).toHaveLength(1);
    expect(new Set(moved.map((each) => each.operationId)).size).toBe(1);
    expect(await availableOf(agent.agentId)).toBe(100_00n);
    expect(
      (await auditOf(`agent:${agent.agentId}`)).filter((each) => each.action === 'agent.top_up'),
    ).toHaveLength(1);
  });

  test('the same document with another amount or purpose is refused', async () => {
    await topUp(pool, agent.agentId, 100_00n, 'PO-3', by);
    await expect(topUp(pool, agent.agentId, 200_00n, 'PO-3', by)).rejects.toThrow(
      /"PO-3".*moved 100\.00 already/,
    );
    await expect(
      correct(pool, agent.agentId, 100_00n, { reason: 'r', document: 'PO-3' }, by),
    ).rejects.toThrow(Refusal);
    expect(await availableOf(agent.agentId)).toBe(100_00n);
  });

  test('another agent may use the same document number', async () => {
    const other = await createAgent(
      pool,
      { name: 'O', currency: 'KZT', language: 'ru', tariffId: 'main' },
      by,
    );
    await topUp(pool, agent.agentId, 1n, 'PO-4', by);
    expect((await topUp(pool, other.agentId, 1n, 'PO-4', by)).fresh).toBe(true);
  });

  test.each([0n, -1n])('a top-up of %s is refused', async (amountMinor) => {
    await expect(topUp(pool, agent.agentId, amountMinor, null, by)).rejects.toThrow(Refusal);
  });

  test('a correction goes both ways, needs a reason and keeps it in the audit', async () => {
    await topUp(pool, agent.agentId, 100_00n, null, by);
    await correct(pool, agent.agentId, -30_00n, { reason: 'entered twice', document: null }, by);
    const moved = await correct(pool, agent.agentId, 5n, { reason: 'rounding', document: null }, by);
    expect(moved.availableMinor).toBe(70_05n);
    expect((await auditOf(`agent:${agent.agentId}`)).at(-2)).toMatchObject({
      action: 'agent.correct',
      detail: { amount: '-30.00', reason: 'entered twice' },
    });
    for (const reason of ['', '  ', 'x'.repeat(501)]) {
      await expect(correct(pool, agent.agentId, 1n, { reason, document: null }, by)).rejects.toThrow(Refusal);
    }
    await expect(correct(pool, agent.agentId, 0n, { reason: 'r', document: null }, by)).rejects.toThrow(
      Refusal,
    );
  });

  test('a correction below the credit limit is refused and says how much can be taken', async () => {
    await changeAgent(pool, agent.agentId, { creditLimitMinor: 10_00n }, by);
    await topUp(pool, agent.agentId, 5_00n, null, by);
    await expect(correct(pool, agent.agentId, -15_01n, { reason: 'r', document: null }, by)).rejects.toThrow(
      /At most 15\.00 can be taken/,
    );
    expect(
      (await correct(pool, agent.agentId, -15_00n, { reason: 'r', document: null }, by)).availableMinor,
    ).toBe(-10_00n);
  });
});

describe('tokens', () => {
  test('a token is 32 random bytes, kept as SHA-256 only, and goes awaiting → confirmed → revoked', async () => {
    const { tokenId, token } = await createToken(pool, agent.agentId, 'kiosk', by);
    expect(token).toMatch(/^tlm_[A-Za-z0-9_-]{43}$/);
    const { rows } = await owner.query('select * from tokens where token_id = $1', [tokenId]);
    expect(rows[0].token_hash).toEqual(createHash('sha256').update(token).digest());
    expect((await getToken(pool, tokenId)).state).toBe('awaiting_confirmation');
    expect(await confirmToken(pool, tokenId, by)).toMatchObject({
      state: 'confirmed',
      confirmedAt: expect.any(Date),
    });
    expect(await revokeToken(pool, tokenId, by)).toMatchObject({
      state: 'revoked',
      revokedAt: expect.any(Date),
    });
    await expect(confirmToken(pool, tokenId, by)).rejects.toThrow(/revoked for good/);
    expect((await auditOf(`token:${tokenId}`)).map((each) => each.action)).toEqual([
      'token.create',
      'token.confirm',
      'token.revoke',
    ]);
    const { rows: kept } = await owner.query(
      `select (select string_agg(t::text, ' ') from tokens t) || (select string_agg(a::text, ' ') from audit a) as text`,
    );
    expect(kept[0].text).not.toContain(token.slice(4, 16));
  });

  test('confirming or revoking again changes nothing and leaves no second audit row', async () => {
    const { tokenId } = await createToken(pool, agent.agentId, '', by);
    const first = await confirmToken(pool, tokenId, by);
    expect(await confirmToken(pool, tokenId, by)).toEqual(first);
    await revokeToken(pool, tokenId, by);
    await revokeToken(pool, tokenId, by);
    expect(await auditOf(`token:${tokenId}`)).toHaveLength(3);
  });

  test('an agent has at most 50 tokens that are not revoked', async () => {
    const created = await Promise.all(
      Array.from({ length: 50 }, () => createToken(pool, agent.agentId, '', by)),
    );
    await expect(createToken(pool, agent.agentId, '', by)).rejects.toThrow(/50 tokens already/);
    await revokeToken(pool, created[0]!.tokenId, by);
    await createToken(pool, agent.agentId, '', by);
  });

  test('last uses are written together, the newest wins, an unknown token is told and forgotten', async () => {
    const { tokenId } = await createToken(pool, agent.agentId, '', by);
    const errors: Error[] = [];
    const uses = new TokenUses(pool, (error) => errors.push(error), 60_000);
    uses.touched(tokenId, '192.0.2.1');
    uses.touched(tokenId, '192.0.2.2');
    await uses.flush();
    expect(await getToken(pool, tokenId)).toMatchObject({ usedFrom: '192.0.2.2', usedAt: expect.any(Date) });
    uses.touched(999_999n, '192.0.2.3');
    await uses.flush();
    expect(errors).toHaveLength(1);
    uses.touched(tokenId, '192.0.2.4');
    await uses.close();
    expect((await getToken(pool, tokenId)).usedFrom).toBe('192.0.2.4');
  });
});

describe('addresses', () => {
  test.each([
    ['192.0.2.7', '192.0.2.7/32'],
    [' 192.0.2.7/24 ', '192.0.2.0/24'],
    ['::ffff:192.0.2.7', '192.0.2.7/32'],
    ['::FFFF:192.0.2.7/120', '192.0.2.0/24'],
    ['2001:DB8:0:0::1', '2001:db8::1/128'],
    ['2001:db8::1/32', '2001:db8::/32'],
    ['0.0.0.0/0', '0.0.0.0/0'],
  ])('%j is kept as %s', async (written, kept) => {
    expect(await addAddress(pool, agent.agentId, written, by)).toBe(kept);
    expect((await listAddresses(pool, agent.agentId)).map((each) => each.address)).toEqual([kept]);
  });

  test.each([
    '',
    '192.0.2',
    '192.0.2.256',
    '192.0.2.1/33',
    '192.0.2.1/',
    '192.0.2.1/8/8',
    '192.0.2.1/-1',
    'host',
    '2001:db8::/129',
    'fe80::1%eth0',
    '::ffff:192.0.2.7/95',
    '192.0.2.1/1e1',
  ])('%j is no address', (written) => {
    expect(() => readAddress(written)).toThrow(Refusal);
  });

  test('adding twice changes nothing, removing what is not there is refused', async () => {
    await addAddress(pool, agent.agentId, '192.0.2.9', by);
    await addAddress(pool, agent.agentId, '192.0.2.9/32', by);
    expect(await auditOf(`agent:${agent.agentId}`)).toHaveLength(2);
    expect(await removeAddress(pool, agent.agentId, '192.0.2.9', by)).toBe('192.0.2.9/32');
    await expect(removeAddress(pool, agent.agentId, '192.0.2.9', by)).rejects.toThrow(Refusal);
  });

  test('known by address alone needs an address, keeps its last one and shares none with another such', async () => {
    await expect(setKnownByAddress(pool, agent.agentId, true, by)).rejects.toThrow(/add one first/);
    await addAddress(pool, agent.agentId, '198.51.100.0/24', by);
    expect((await setKnownByAddress(pool, agent.agentId, true, by)).knownByAddress).toBe(true);
    await expect(removeAddress(pool, agent.agentId, '198.51.100.0/24', by)).rejects.toThrow(Refusal);

    const other = await createAgent(
      pool,
      { name: 'O', currency: 'KZT', language: 'ru', tariffId: 'main' },
      by,
    );
    await addAddress(pool, other.agentId, '198.51.100.7', by);
    await expect(setKnownByAddress(pool, other.agentId, true, by)).rejects.toThrow(
      /overlaps 198\.51\.100\.0\/24/,
    );
    await removeAddress(pool, other.agentId, '198.51.100.7', by);
    await addAddress(pool, other.agentId, '203.0.113.7', by);
    await setKnownByAddress(pool, other.agentId, true, by);
    await expect(addAddress(pool, other.agentId, '198.51.100.8', by)).rejects.toThrow(/overlaps/);
    expect((await listAddresses(pool, other.agentId)).map((each) => each.address)).toEqual([
      '203.0.113.7/32',
    ]);
    await setKnownByAddress(pool, agent.agentId, false, by);
    await addAddress(pool, other.agentId, '198.51.100.8', by);
  });
});

describe('services', () => {
  const minimal = {
    serviceId: 'T1',
    type: 0,
    name: 'Test',
    inputs: [{ name: 'account', required: true, title: 'Account', regexp: '^\\d+$' }],
    providerId: 'sandbox',
    providerServiceCode: 'mobile',
    currency: 'KZT',
    amountMin: '1.00',
    amountMax: '10.00',
  };
  const file = (...services: object[]) => JSON.stringify(services);

  test('what list prints is what import reads: nothing changes', async () => {
    const printed = (await readServices(pool)).map(({ amountMinMinor, amountMaxMinor, ...rest }) => ({
      ...rest,
      amountMin: `${amountMinMinor / 100n}.${String(amountMinMinor % 100n).padStart(2, '0')}`,
      amountMax: `${amountMaxMinor / 100n}.${String(amountMaxMinor % 100n).padStart(2, '0')}`,
    }));
    const outcome = await previewServices(pool, JSON.stringify(printed));
    expect(outcome).toMatchObject({ added: [], changed: [] });
    expect(outcome.unchangedCount).toBe(printed.length);
  });

  test('an import adds, updates and tells what changed; a preview changes nothing', async () => {
    const added = await importServices(pool, file(minimal), by);
    expect(added).toEqual({ added: ['T1'], changed: [], unchangedCount: 0 });
    const changedFile = file({ ...minimal, name: 'Renamed', amountMax: '20.00' });
    const expected = {
      added: [],
      changed: [
        {
          serviceId: 'T1',
          fields: {
            name: { from: 'Test', to: 'Renamed' },
            amountMaxMinor: { from: 10_00n, to: 20_00n },
          },
        },
      ],
      unchangedCount: 0,
    };
    expect(await previewServices(pool, changedFile)).toEqual(expected);
    expect((await getService(pool, 'T1')).name).toBe('Test');
    expect(await importServices(pool, changedFile, by)).toEqual(expected);
    expect(await getService(pool, 'T1')).toMatchObject({ name: 'Renamed', amountMaxMinor: 20_00n });
    expect((await auditOf('services')).at(-1)).toMatchObject({
      operator: by,
      action: 'service.import',
      detail: { changed: [{ serviceId: 'T1', fields: { amountMaxMinor: { from: '1000', to: '2000' } } }] },
    });
  });

  test('an import keeps place and switch of a service that it does not state, and puts new ones last', async () => {
    await importServices(pool, file({ ...minimal, serviceId: 'T2' }), by);
    await setServiceState(pool, 'T2', 'maintenance', by);
    const { position } = await getService(pool, 'T2');
    await importServices(
      pool,
      file({ ...minimal, serviceId: 'T3' }, { ...minimal, serviceId: 'T2', name: 'New' }),
      by,
    );
    expect(await getService(pool, 'T2')).toMatchObject({ name: 'New', state: 'maintenance', position });
    expect((await readServices(pool)).at(-1)!.serviceId).toBe('T3');
  });

  test.each<[string, string, RegExp]>([
    ['text that is no JSON', '[', /not JSON/],
    ['an object', '{}', /the file: .*array/],
    ['a missing field', file({ ...minimal, name: undefined }), /service T1, name: /],
    ['a field that is not known', file({ ...minimal, colour: 'red' }), /service T1: .*colour/],
    ['a service without id', file({ ...minimal, serviceId: undefined }), /service number 1, serviceId: /],
    ['an amount that is a number', file({ ...minimal, amountMin: 1 }), /service T1, amountMin: /],
    ['a third decimal', file({ ...minimal, amountMin: '1.001' }), /service T1, amountMin: /],
    [
      'limits the wrong way round',
      file({ ...minimal, amountMin: '11.00' }),
      /service T1, amountMin: it is above amountMax/,
    ],
    ['a provider that does not exist', file({ ...minimal, providerId: 'none' }), /no provider "none"/],
    ['one service twice', file(minimal, minimal), /service T1: it is in the file twice/],
    [
      'a pattern outside RE2',
      file({ ...minimal, inputs: [{ name: 'ev_order', regexp: '^(?=.*\\d).+$' }] }),
      /service T1, inputs, field ev_order, regexp: the pattern \^\(\?=\.\*\\d\)\.\+\$ cannot be used .*RE2/,
    ],
    [
      'a pattern with a back reference',
      file({ ...minimal, displays: [{ name: 'info', regexp: '(a)\\1' }] }),
      /service T1, displays, field info, regexp: the pattern \(a\)\\1 cannot be used/,
    ],
    [
      'a pattern too large to run',
      file({ ...minimal, inputs: [{ name: 'account', regexp: '((a{100}){100}){100}' }] }),
      /field account, regexp: .*cannot be used/,
    ],
    [
      'an input of a wrong name',
      file({ ...minimal, inputs: [{ name: 'order' }] }),
      /field order, name: write account or ev_NAME/,
    ],
    [
      'an input twice',
      file({ ...minimal, inputs: [{ name: 'account' }, { name: 'account' }] }),
      /field account: the name is there twice/,
    ],
  ])('an import with %s is refused whole', async (_, text, message) => {
    const before = await readServices(pool);
    await expect(importServices(pool, text, by)).rejects.toThrow(message);
    await expect(importServices(pool, text, by)).rejects.toThrow(Refusal);
    expect(await readServices(pool)).toEqual(before);
  });

  test('one wrong service keeps the right ones out, and at most 20 mistakes are told', () => {
    const many = Array.from({ length: 30 }, (_, index) => ({
      ...minimal,
      serviceId: `W${index}`,
      currency: 'x',
    }));
    expect(() => parseServices(file(minimal, ...many))).toThrow(/W19, currency[\s\S]*and 10 more$/);
  });

  test('a service is switched, and the switch is in the audit', async () => {
    expect((await setServiceState(pool, 'P0005', 'off', by)).state).toBe('off');
    await setServiceState(pool, 'P0005', 'off', by);
    await setServiceState(pool, 'P0005', 'on', by);
    expect(await auditOf('service:P0005')).toEqual([
      { operator: by, action: 'service.state', detail: { from: 'on', to: 'off' } },
      { operator: by, action: 'service.state', detail: { from: 'off', to: 'on' } },
    ]);
    await expect(setServiceState(pool, 'none', 'on', by)).rejects.toThrow(Refusal);
  });

  test('an exception for one agent is set, turned and audited', async () => {
    await setServiceAllowed(pool, agent.agentId, 'P1011', false, by);
    await setServiceAllowed(pool, agent.agentId, 'P1011', false, by);
    await setServiceAllowed(pool, agent.agentId, 'P1011', true, by);
    expect((await readExceptions(pool)).get(agent.agentId)).toEqual(new Map([['P1011', true]]));
    expect((await auditOf(`agent:${agent.agentId}`)).map((each) => each.action)).toEqual([
      'agent.create',
      'service.deny',
      'service.allow',
    ]);
    await expect(setServiceAllowed(pool, agent.agentId, 'none', true, by)).rejects.toThrow(Refusal);
    await expect(setServiceAllowed(pool, 999_999n, 'P1011', true, by)).rejects.toThrow(Refusal);
  });
});

describe('tariffs', () => {
  const written = {
    tariffId: 't',
    name: 'T',
    lines: [
      { serviceId: null, addedMaxPercent: '20' },
      {
        serviceId: 'P1011',
        feePercent: '1.25',
        feeFixed: '5.00',
        feeMin: '10.00',
        feeMax: '500',
        rewardPercent: '0.0001',
      },
    ],
  };

  test('shares are read exactly, lines replace all earlier ones, before and after are in the audit', async () => {
    const set = await setTariff(pool, parseTariff(JSON.stringify(written)), by);
    expect(set.lines).toEqual([
      { serviceId: null, ...line },
      {
        serviceId: 'P1011',
        feePpm: 12_500,
        feeFixedMinor: 5_00n,
        feeMinMinor: 10_00n,
        feeMaxMinor: 500_00n,
        rewardPpm: 1,
        addedMaxPpm: null,
      },
    ]);
    await setTariff(pool, { tariffId: 't', name: 'T2', lines: [{ serviceId: null, ...line }] }, by);
    expect(await getTariff(pool, 't')).toEqual({
      tariffId: 't',
      name: 'T2',
      lines: [{ serviceId: null, ...line }],
    });
    const last = (await auditOf('tariff:t')).at(-1)!;
    expect(last.detail).toMatchObject({
      from: { name: 'T', lines: [{}, {}] },
      to: { name: 'T2', lines: [{}] },
    });
  });

  test.each<[string, object, RegExp]>([
    ['no line for all services', { lines: [{ serviceId: 'P1011' }] }, /no line for all services/],
    ['two lines for one', { lines: [{ serviceId: null }, { serviceId: null }] }, /two lines/],
    ['a service that does not exist', { lines: [{ serviceId: null }, { serviceId: 'X' }] }, /no service "X"/],
    [
      'bounds the wrong way round',
      { lines: [{ serviceId: null, feeMin: '2', feeMax: '1' }] },
      /feeMax is below feeMin/,
    ],
    [
      'a fee above the whole',
      { lines: [{ serviceId: null, feePercent: '100.0001' }] },
      /lines\.0\.feePercent/,
    ],
    ['five decimals', { lines: [{ serviceId: null, feePercent: '0.00001' }] }, /4 decimals/],
    ['no lines', { lines: [] }, /lines/],
  ])('a tariff with %s is refused', async (_, wrong, message) => {
    const attempt = async () => setTariff(pool, parseTariff(JSON.stringify({ ...written, ...wrong })), by);
    await expect(attempt()).rejects.toThrow(message);
    await expect(attempt()).rejects.toThrow(Refusal);
  });
});

describe('rates', () => {
  test('the newest rate is valid, all are kept', async () => {
    await setRate(pool, { fromCurrency: 'KZT', toCurrency: 'USD', ...direct(parseRate('0.0021')!) }, by);
    await setRate(
      pool,
      { fromCurrency: 'KZT', toCurrency: 'USD', ...direct(parseRate('0.0020833333')!) },
      by,
    );
    expect(await readRates(pool)).toEqual([
      expect.objectContaining({ fromCurrency: 'KZT', toCurrency: 'USD', rateE10: 20_833_333n, operator: by }),
    ]);
    expect((await listRateHistory(pool, 10)).map((each) => each.rateE10)).toEqual([20_833_333n, 21_000_000n]);
    expect((await auditOf('rate:KZT/USD')).map((each) => each.detail)).toEqual([
      { from: null, to: '0.0021' },
      { from: '0.0021', to: '0.0020833333' },
    ]);
  });

  test.each([
    ['480', '0.0020833333'],
    ['0.5', '2'],
    ['3', '0.3333333333'],
    ['1.5', '0.6666666666'],
  ])('the inverse of %s is %s', (given, rate) => {
    expect(ratesOf(inverse(parseRate(given)!), 0)?.rateE10).toBe(parseRate(rate));
  });

  test.each([
    ['KZT', 'KZT', 1n],
    ['kzt', 'USD', 1n],
    ['KZT', 'USD', 0n],
  ])('%s → %s at %s is refused', async (fromCurrency, toCurrency, rateE10) => {
    await expect(setRate(pool, { fromCurrency, toCurrency, ...direct(rateE10) }, by)).rejects.toThrow(
      Refusal,
    );
  });

  test('the application cannot rewrite the history of rates', async () => {
    await expect(pool.query('update rates set rate_e10 = 1')).rejects.toMatchObject({ code: '42501' });
  });
});

describe('rules and providers', () => {
  test('a rule is set, replaced and removed, each with its audit row', async () => {
    const rule = { ruleId: 'big', amountAboveMinor: 500_000_00n, serviceId: null, agentId: agent.agentId };
    await setRule(pool, rule, by);
    await setRule(pool, { ...rule, amountAboveMinor: 1n }, by);
    expect(await readRules(pool)).toEqual([{ ...rule, amountAboveMinor: 1n }]);
    await removeRule(pool, 'big', by);
    await expect(removeRule(pool, 'big', by)).rejects.toThrow(Refusal);
    expect((await auditOf('rule:big')).map((each) => each.action)).toEqual([
      'rule.set',
      'rule.set',
      'rule.remove',
    ]);
    await expect(setRule(pool, { ...rule, serviceId: 'none' }, by)).rejects.toThrow(/no service/);
    await expect(setRule(pool, { ...rule, agentId: 999_999n }, by)).rejects.toThrow(/no agent/);
  });

  test('a provider is paused and resumed once each', async () => {
    expect((await setPaused(pool, 'sandbox', true, by)).paused).toBe(true);
    await setPaused(pool, 'sandbox', true, by);
    expect((await setPaused(pool, 'sandbox', false, by)).paused).toBe(false);
    expect((await auditOf('provider:sandbox')).slice(1).map((each) => each.action)).toEqual([
      'provider.pause',
      'provider.resume',
    ]);
  });

  test('settings that the connector refuses are not stored; secrets do not reach the audit', async () => {
    const provider = {
      providerId: 'p2',
      name: 'P2',
      connector: 'x',
      settings: { secretKey: 'hush', baseUrl: 'http://h' },
    };
    const refuse = () => {
      throw new Error('baseUrl is missing');
    };
    await expect(setProvider(pool, provider, refuse, by)).rejects.toThrow(
      /cannot be used: baseUrl is missing/,
    );
    await setProvider(pool, provider, () => {}, by);
    const audited = (await auditOf('provider:p2')).map((each) => each.detail);
    expect(audited).toHaveLength(1);
    expect(audited[0]).toMatchObject({ to: { settings: { secretKey: '***', baseUrl: 'http://h' } } });
  });

  test('secrets are masked at any depth, also inside addresses', () => {
    expect(
      maskSettings({
        apiToken: 'a',
        Password: 5,
        nested: { list: [{ privateKey: 'b', port: 1 }] },
        url: 'https://user:pass@host/path?key=1',
        baseUrl: 'http://127.0.0.1:8021',
        useTokens: true,
      }),
    ).toEqual({
      apiToken: '***',
      Password: '***',
      nested: { list: [{ privateKey: '***', port: 1 }] },
      url: 'https://***@host/path?***',
      baseUrl: 'http://127.0.0.1:8021',
      useTokens: true,
    });
  });
});
