import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { State } from '../src/core/states.js';
import { openClient } from '../src/db/connect.js';
import { findPayments, type HistoryEntry, maskAccount, paymentHistory } from '../src/payments/history.js';
import { freshDatabase, type TestDatabase } from './support/database.js';

let database: TestDatabase;
let owner: pg.Client;
let app: pg.Client;
let lastAgentTransactionId = 26801048196008n;

interface Accepting {
  readonly agentId?: bigint;
  readonly agentTransactionId?: bigint;
  readonly state?: State;
  readonly code?: number;
  readonly amountMinor?: bigint;
  readonly reason?: string;
  readonly details?: unknown;
  readonly shown?: unknown;
  readonly identity?: string;
}

const worker = '00000000-0000-4000-8000-000000000001';
const account = '7777731414';

/** Commit 1 for one payment with a fee of 1.50 and a reward of 0.50. */
async function accept(
  p: Accepting = {},
): Promise<{ id: bigint; lease: bigint | null; agentTransactionId: bigint }> {
  lastAgentTransactionId += 1n;
  const agentTransactionId = p.agentTransactionId ?? lastAgentTransactionId;
  const json = (value: unknown) => (value === undefined ? null : JSON.stringify(value));
  const { rows } = await owner.query(
    `select id, lease_id as lease from accept_payments(
       p_shard => 0::smallint, p_worker => $1::uuid, p_lease_ms => 30000, p_agent_id => array[$2::bigint],
       p_agent_transaction_id => array[$3::bigint], p_state => array[$4::smallint], p_code => array[$5::smallint],
       p_service_id => '{P1011}', p_provider_id => '{sandbox}', p_account => array[$6], p_amount_to => array[$7::bigint],
       p_amount_from => '{21000}', p_fee => '{150}', p_reward => '{50}', p_currency => '{KZT}',
       p_fingerprint => array[$1::uuid], p_agent_date => '{2026-01-02T03:04:05}', p_reason => array[$8],
       p_details => array[$9], p_shown => array[$10], p_identity => array[$11])`,
    [
      worker,
      p.agentId ?? 4n,
      agentTransactionId,
      p.state ?? State.sending,
      p.code ?? 1,
      account,
      p.amountMinor ?? 20000n,
      p.reason ?? null,
      json(p.details),
      json(p.shown),
      p.identity ?? null,
    ],
  );
  return { ...rows[0], agentTransactionId };
}

interface Settling {
  readonly from?: State;
  readonly code?: number;
  readonly reason?: string;
  readonly reference?: string;
  readonly what?: 'send' | 'inquire';
  readonly event?: { kind: string; data: unknown };
  readonly leases?: (bigint | null)[];
  readonly agentId?: bigint;
}

/** Commit 2. Answers whether the payment moved. */
async function settle(id: bigint, to: State, s: Settling = {}): Promise<boolean> {
  const { rows } = await owner.query(
    `select moved from settle_payments(
       p_shard => 0::smallint, p_id => array[$1::bigint], p_agent_id => array[$2::bigint],
       p_from_mask => array[1 << $3::integer], p_held => array[$3::integer in (2, 4, 5)], p_fence => '{NULL}',
       p_state => array[$4::smallint], p_code => array[$5::smallint], p_reason => array[$6], p_reference => array[$7],
       p_shown => '{NULL}', p_what => array[$8], p_next_ms => '{60000}', p_acknowledged => '{f}',
       p_event_kind => array[$9], p_event => array[$10], p_leases => $11::bigint[])`,
    [
      id,
      s.agentId ?? 4n,
      s.from ?? State.sending,
      to,
      s.code ?? 0,
      s.reason ?? null,
      s.reference ?? null,
      s.what ?? null,
      s.event?.kind ?? null,
      s.event ? JSON.stringify(s.event.data) : null,
      s.leases ?? [],
    ],
  );
  return rows[0].moved;
}

async function resume(
  id: bigint,
  from: State,
  to: State,
  kind: string,
  event: unknown,
  agentId = 4n,
): Promise<void> {
  await owner.query(
    'select resume_payments(0::smallint, array[$1::bigint], array[$2::bigint], array[1 << $3::integer], array[$4::smallint], $5, $6)',
    [id, agentId, from, to, kind, JSON.stringify(event)],
  );
}

const call = (
  kind: 'pay' | 'status',
  outcome: string,
  detail: string | null = null,
  httpStatus: number | null = 200,
) => ({
  kind: `provider_${kind}`,
  data: { call: kind, startedAt: '2026-01-02T03:04:05.000Z', durationMs: 812.4, httpStatus, outcome, detail },
});

beforeAll(async () => {
  database = await freshDatabase();
  owner = await openClient(database.adminOptions);
  app = await openClient(database.appOptions);
  await owner.query(`insert into tariffs values ('t', 'T')`);
  await owner.query(
    `insert into agents (agent_id, name, currency, tariff_id) values (4, 'Four', 'KZT', 't'), (5, 'Five', 'KZT', 't')`,
  );
  await owner.query('insert into agent_balances (agent_id, shard) values (4, 0), (5, 0)');
  await owner.query(`select move_funds(0::smallint, 4, 'top_up', 100000000, 'D-1', 'o')`);
});
afterAll(async () => {
  await owner?.end();
  await app?.end();
  await database?.drop();
});

const kinds = (entries: readonly HistoryEntry[]) => entries.map(({ kind }) => kind);
const texts = (entries: readonly HistoryEntry[]) => entries.map(({ text }) => text).join('\n');
/** Lets the clock step on, so that two commits are two moments. */
const tick = () => new Promise((done) => setTimeout(done, 3));

describe('finding', () => {
  it("finds a payment by the centre's id and by the agent's, with exact digits", async () => {
    const { id, agentTransactionId } = await accept({ agentTransactionId: 9223372036854775807n });
    for (const by of [{ transactionId: id }, { agentId: 4n, agentTransactionId }, { agentTransactionId }]) {
      const found = await findPayments(app, by);
      expect(found).toMatchObject([
        { transactionId: id, agentId: 4n, agentTransactionId: 9223372036854775807n },
      ]);
      expect(found[0]).toMatchObject({
        state: 'sending',
        code: 1,
        amountToMinor: 20000n,
        feeMinor: 150n,
        finalAt: null,
      });
    }
  });

  it("answers every agent's payment when only the agent's id is given", async () => {
    await accept({ agentTransactionId: 77n });
    await accept({ agentTransactionId: 77n, agentId: 5n });
    const found = await findPayments(app, { agentTransactionId: 77n });
    expect(found.map(({ agentId }) => agentId).sort()).toEqual([4n, 5n]);
    expect(await findPayments(app, { agentTransactionId: 77n, agentId: 5n })).toHaveLength(1);
  });

  it('answers nothing where the ids do not belong together or to anything', async () => {
    const { id } = await accept();
    expect(await findPayments(app, { transactionId: 5n })).toEqual([]);
    expect(await findPayments(app, { transactionId: id, agentId: 5n })).toEqual([]);
    expect(await findPayments(app, { transactionId: id, agentTransactionId: 1n })).toEqual([]);
    expect(await findPayments(app, { agentTransactionId: 3n })).toEqual([]);
    expect(await paymentHistory(app, 5n)).toEqual([]);
  });

  it('needs one of the ids', async () => {
    await expect(findPayments(app, { agentId: 4n })).rejects.toThrow(/give one of them/);
  });

  it('masks the account unless asked', async () => {
    const { id } = await accept();
    expect((await findPayments(app, { transactionId: id }))[0]!.account).toBe('777***1414');
    expect((await findPayments(app, { transactionId: id }, { showAccount: true }))[0]!.account).toBe(account);
  });

  it.each([
    ['', ''],
    ['1', '*'],
    ['123', '***'],
    ['1234', '1**4'],
    ['123456789', '12*****89'],
    ['1234567890', '123***7890'],
    ['77777731414', '777****1414'],
  ])('%j is masked as %j', (plain, masked) => {
    expect(maskAccount(plain)).toBe(masked);
  });
});

describe('the history', () => {
  it('tells a payment from acceptance to success, oldest first, with exact amounts', async () => {
    const { id, lease, agentTransactionId } = await accept();
    await tick();
    await settle(id, State.succeeded, { reference: 'S-17', event: call('pay', 'executed'), leases: [lease] });
    const entries = await paymentHistory(app, id);
    expect(kinds(entries)).toEqual([
      'accepted',
      'transfer',
      'provider_pay',
      'transfer',
      'transfer',
      'transfer',
      'final',
    ]);
    expect(entries.map(({ text }) => text)).toEqual([
      `Agent 4 sent payment ${agentTransactionId}, dated 2026-01-02T03:04:05 there: 200.00 KZT for service P1011, account ` +
        '777***1414; the payer gave 210.00 KZT; fee of the centre 1.50 KZT, reward of the agent 0.50 KZT. The rules let ' +
        'it through; 201.50 KZT were held.',
      'Held for the payment: 201.50 KZT from agent:4 to clearing:KZT.',
      'The provider was asked to execute the payment: it executed the payment (HTTP 200, 812 ms).',
      'Posted to the provider: 200.00 KZT from clearing:KZT to provider:sandbox:KZT.',
      'Fee of the centre: 1.50 KZT from clearing:KZT to income:KZT.',
      'Reward of the agent: 0.50 KZT from income:KZT to reward:4.',
      "Final: succeeded with code 0, OK; the provider's reference is S-17.",
    ]);
    expect(entries.at(-1)!.data).toEqual({ state: 'succeeded', code: 0, reason: null, reference: 'S-17' });
    expect(entries[0]!.data).toMatchObject({
      amountTo: '200.00',
      agentTransactionId: String(agentTransactionId),
    });
    expect(() => JSON.stringify(entries)).not.toThrow();
    const times = entries.map(({ at }) => at.getTime());
    expect(times).toEqual([...times].sort((left, right) => left - right));
  });

  it('says that the accepting process has it, until when', async () => {
    const { id } = await accept();
    const entries = await paymentHistory(app, id);
    expect(kinds(entries)).toEqual(['accepted', 'transfer', 'lease']);
    expect(entries[2]!.text).toMatch(/until \d{4}-/);
  });

  it('tells a refusal by the rules with its reason', async () => {
    const { id } = await accept({ state: State.failed, code: 241, reason: 'amount_below|1.00' });
    const entries = await paymentHistory(app, id);
    expect(kinds(entries)).toEqual(['accepted', 'final']);
    expect(entries[0]!.text).toContain(
      'Refused by the rules at once with 241: The amount is too small: at least 1.00.',
    );
    expect(entries[1]!.text).toBe('Final: failed with code 241, The amount is too small: at least 1.00.');
  });

  it('tells of a review, of the rule that asked for it, of who approved and why', async () => {
    const { id } = await accept({ state: State.inReview, code: 153, reason: 'security_rule|above-500000' });
    const before = await paymentHistory(app, id);
    expect(before[0]!.text).toContain(
      'held it for the security service by rule above-500000; 201.50 KZT were held',
    );
    expect(before.at(-1)!.text).toBe('It waits for an operator to approve or reject it.');
    await tick();
    await resume(id, State.inReview, State.sending, 'approved', {
      operator: 'operator',
      note: 'known payer',
    });
    const entries = await paymentHistory(app, id);
    expect(kinds(entries)).toEqual(['accepted', 'transfer', 'approved', 'waiting']);
    expect(entries[2]!.text).toBe('Approved by the security service by operator: known payer.');
    expect(entries[3]!.text).toMatch(
      /^Nothing was executed, and it is to be sent .* taken up 0 time\(s\) so far\.$/,
    );
  });

  it('tells of an unknown outcome, of the inquiries, and of a failure with what went back', async () => {
    const { id, lease } = await accept();
    await tick();
    await settle(id, State.uncertain, {
      code: 1,
      what: 'inquire',
      event: call('pay', 'unknown', 'connection cut', null),
      leases: [lease],
    });
    const open = await paymentHistory(app, id);
    expect(texts(open)).toContain(
      'asked to execute the payment: no answer that proves anything (no HTTP answer, 812 ms; its words: connection cut).',
    );
    expect(open.at(-1)).toMatchObject({ kind: 'waiting', data: { what: 'inquire', tries: 0 } });
    await tick();
    await settle(id, State.failed, {
      from: State.uncertain,
      code: 5,
      event: call('status', 'refused', 'no such line'),
    });
    const entries = await paymentHistory(app, id);
    expect(kinds(entries)).toEqual([
      'accepted',
      'transfer',
      'provider_pay',
      'provider_status',
      'transfer',
      'final',
    ]);
    expect(texts(entries)).toContain(
      'asked what became of the payment: it refused (HTTP 200, 812 ms; its words: no such line).',
    );
    expect(texts(entries)).toContain(
      'What was held went back to the agent: 201.50 KZT from clearing:KZT to agent:4.',
    );
  });

  it('tells of a contradiction that came too late and changed nothing', async () => {
    const { id } = await accept();
    await settle(id, State.succeeded, { event: call('pay', 'executed') });
    await tick();
    expect(
      await settle(id, State.failed, { from: State.uncertain, code: 5, event: call('status', 'refused') }),
    ).toBe(false);
    const entry = (await paymentHistory(app, id)).find(({ kind }) => kind === 'not_moved')!;
    expect(entry.text).toMatch(
      /^What came changed nothing where the payment was by then: The provider was asked what became/,
    );
  });

  it('tells of waiting for funds, of the top-up that moved it on, and when the money was held', async () => {
    const { id } = await accept({ agentId: 5n });
    const waiting = await paymentHistory(app, id);
    expect(kinds(waiting)).toEqual(['accepted', 'waiting']);
    expect(waiting[0]!.text).toContain(
      'The balance did not cover 201.50 KZT (220); nothing was held, the payment waited.',
    );
    expect(waiting[1]!.text).toBe('It waits for the balance to cover it, then it goes on to sending.');
    await tick();
    await owner.query(`select move_funds(0::smallint, 5, 'top_up', 30000, 'D-2', 'o')`);
    await resume(id, State.awaitingFunds, State.sending, 'funded', {}, 5n);
    const entries = await paymentHistory(app, id);
    expect(kinds(entries)).toEqual(['accepted', 'funded', 'transfer', 'waiting']);
    expect(entries[0]!.text).toContain('Nothing was held at once');
    expect(entries[1]!.text).toBe('The balance covers the payment now; it goes on.');
  });

  it('tells of a wait that ran out', async () => {
    const { id } = await accept({ agentId: 5n, amountMinor: 99999900n });
    await tick();
    const event = { kind: 'expired', data: { waited: 'funds', waitMs: 86400000 } };
    await settle(id, State.failed, { from: State.awaitingFunds, code: 250, event, agentId: 5n });
    const entries = await paymentHistory(app, id);
    expect(kinds(entries)).toEqual(['accepted', 'expired', 'final']);
    expect(entries[0]!.text).toContain('The balance did not cover 1000000.50 KZT (220)');
    expect(entries[2]!.text).toContain('Final: failed with code 250, The balance was not topped up in time');
  });

  it('tells of an added fee above the tariff', async () => {
    const { id } = await accept({ state: State.awaitingTerms, code: 255, reason: 'added_fee|40.00' });
    const entries = await paymentHistory(app, id);
    expect(entries[0]!.text).toContain(
      'The rules found the added fee above the tariff (255); nothing was held',
    );
    expect(entries[1]!.text).toBe('It waits for the added fee to be allowed.');
  });

  it('tells of a reversal after the success that it takes back', async () => {
    const { id } = await accept();
    await settle(id, State.succeeded);
    await tick();
    const event = { kind: 'reversed', data: { operator: 'operator', evidence: 'letter 12' } };
    await settle(id, State.reversed, { from: State.succeeded, event });
    const entries = await paymentHistory(app, id);
    expect(kinds(entries).slice(-5)).toEqual(['final', 'reversed', 'transfer', 'transfer', 'transfer']);
    expect(entries.find(({ kind }) => kind === 'final')!.text).toBe('Final: succeeded with code 0, OK.');
    expect(texts(entries)).toContain('Reversed with the agreement of the provider by operator: letter 12.');
    expect(texts(entries)).toContain(
      'Reversed to the agent: 200.00 KZT from provider:sandbox:KZT to agent:4.',
    );
    expect(texts(entries)).toContain('Fee reversed to the agent: 1.50 KZT from income:KZT to agent:4.');
    expect(texts(entries)).toContain('Reward taken back: 0.50 KZT from reward:4 to income:KZT.');
  });

  it('begins with the inquiry for the same id', async () => {
    lastAgentTransactionId += 1n;
    const agentTransactionId = lastAgentTransactionId;
    const offer = {
      displays: { fio: 'Secret Name' },
      contracts: [{ contractId: 'C1' }],
      amountMaxMinor: '500000',
    };
    await owner.query(
      `select record_quotes(0::smallint, '{4}', array[$1::bigint], array[$2::uuid], array[$3], '{20833333}', '{60000}')`,
      [agentTransactionId, worker, JSON.stringify(offer)],
    );
    await tick();
    const { id } = await accept({ agentTransactionId });
    const [quote, accepted] = await paymentHistory(app, id);
    expect(quote!.kind).toBe('quote');
    expect(quote!.text).toMatch(
      /the answer counts until .*Z\. It told displays: fio; 1 contract\(s\); at most 5000\.00; the rate 0\.0020833333\.$/,
    );
    expect(accepted!.kind).toBe('accepted');
    expect(JSON.stringify(quote)).not.toContain('Secret Name');
    const shown = await paymentHistory(app, id, { showAccount: true });
    expect(shown[0]!.data).toMatchObject({ offer: { displays: { fio: 'Secret Name' } } });
  });

  it('keeps accounts, extras, what the provider said of them, and identities to itself unless accounts are asked for', async () => {
    const { id } = await accept({
      details: {
        serviceCode: '11',
        extras: { account1: '870011223344' },
        extraServices: [{ subServiceId: '1', amountMinor: '20000', lastCount: '17' }],
        orderAmountMinor: '42',
        orderCurrency: 'USD',
      },
      shown: { displays: { fio: 'Secret Name' } },
      identity: Buffer.from('sealed').toString('base64'),
    });
    await settle(id, State.succeeded, { event: call('pay', 'executed', `account ${account} of Four paid`) });
    const masked = JSON.stringify(await paymentHistory(app, id));
    expect(masked).not.toContain(account);
    expect(masked).not.toContain('870011223344');
    expect(masked).not.toContain('Secret Name');
    expect(masked).not.toContain('sealed');
    expect(masked).toContain('account 777***1414 of Four paid');

    const entries = await paymentHistory(app, id, { showAccount: true });
    expect(entries[0]!.text).toContain(`account ${account}`);
    expect(entries[0]!.data).toMatchObject({
      account,
      extras: { account1: '870011223344' },
      extraServices: [{ subServiceId: '1', amount: '200.00', lastCount: '17' }],
      orderAmount: '0.42',
      orderCurrency: 'USD',
    });
    expect(entries.at(-1)!.data).toMatchObject({ shown: { displays: { fio: 'Secret Name' } } });
    const all = JSON.stringify(entries);
    expect(all).not.toContain('sealed');
    expect(all).not.toContain('c2VhbGVk');
  });

  it('keeps the first and the last events of a payment that was asked about for weeks', async () => {
    const { id } = await accept();
    await owner.query(
      `insert into payment_events select $1, 0, now() + n * interval '1 s', 'provider_status', json_build_object('n', n)
       from generate_series(1, 1500) n`,
      [id],
    );
    const events = (await paymentHistory(app, id)).filter(({ kind }) => kind === 'provider_status');
    expect(events).toHaveLength(1000);
    expect(events[0]!.data).toEqual({ n: 1 });
    expect(events[100]!.data).toEqual({ n: 601 });
    expect(events.at(-1)!.data).toEqual({ n: 1500 });
  });
});

describe('what is told of payments, by month', () => {
  const tell = (id: bigint, at: string) =>
    app.query(
      `insert into payment_events (payment_id, shard, at, kind, data) values ($1, 0, $2, 'provider_status', '{}')`,
      [id, at],
    );
  const places = async (id: bigint) =>
    (
      await owner.query<{ place: string }>(
        'select tableoid::regclass::text as place from payment_events where payment_id = $1 order by at',
        [id],
      )
    ).rows.map(({ place }) => place);
  const make = async (ahead: number) =>
    (await app.query<{ made: number }>('select make_event_months($1) as made', [ahead])).rows[0]!.made;
  /** So many after the first that is not the first table's. */
  const month = (ahead: number) => {
    const now = new Date();
    const first = new Date(
      Math.max(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + 2), Date.UTC(2027, 0)),
    );
    return new Date(Date.UTC(first.getUTCFullYear(), first.getUTCMonth() + ahead)).toISOString().slice(0, 7);
  };
  const tableOf = (name: string) => `payment_events_${name.replace('-', '_')}`;

  it('lies in the tables of its months, and is found whole', async () => {
    const { id } = await accept();
    await make(16);
    expect(await make(16)).toBe(0);
    await tell(id, `${month(0)}-15T10:00:00Z`);
    await tell(id, `${month(2)}-01T00:00:00Z`);
    await tell(id, '2199-01-01T00:00:00Z');
    expect(await places(id)).toEqual([tableOf(month(0)), tableOf(month(2)), 'payment_events_rest']);
    const entries = await paymentHistory(app, id);
    expect(entries.filter(({ kind }) => kind === 'provider_status')).toHaveLength(3);
  });

  it('a month that lies with the rest already stays there, and the ones after it are made', async () => {
    const { id } = await accept();
    await make(16);
    await tell(id, `${month(40)}-15T10:00:00Z`);
    await make(60);
    await tell(id, `${month(39)}-15T10:00:00Z`);
    await tell(id, `${month(40)}-16T10:00:00Z`);
    expect(await places(id)).toEqual([tableOf(month(39)), 'payment_events_rest', 'payment_events_rest']);
  });

  it('a month that is taken away takes nothing else with it; the application may not do so', async () => {
    const { id } = await accept();
    await make(16);
    const table = tableOf(month(1));
    await tell(id, `${month(1)}-15T10:00:00Z`);
    for (const sql of [
      `drop table ${table}`,
      `delete from payment_events`,
      `alter table payment_events detach partition ${table}`,
    ])
      await expect(app.query(sql)).rejects.toThrow(/must be owner|permission denied/);
    await owner.query(`alter table payment_events detach partition ${table}`);
    expect(await places(id)).toEqual([]);
    expect((await paymentHistory(app, id)).map(({ kind }) => kind)).toContain('accepted');
    await owner.query(
      `alter table payment_events attach partition ${table} for values from ('${month(1)}-01') to ('${month(2)}-01')`,
    );
    expect(await places(id)).toEqual([table]);
  });
});
