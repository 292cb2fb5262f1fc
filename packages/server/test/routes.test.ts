import { createHmac } from 'node:crypto';
import { rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { correct, topUp } from '../src/agents/funds.js';
import { claimAsking, noteTold, payIn, readDeposits, sumSpent } from '../src/catalogue/deposits.js';
import { removeRoute, setRoute } from '../src/catalogue/routes.js';
import { chooseRoute, namedFor, type Route, type Standing } from '../src/core/routes.js';
import { reverse } from '../src/payments/operator.js';
import { Breaker } from '../src/providers/breaker.js';
import { type Sandbox, startSandbox } from '../src/providers/sandbox/server.js';
import { isWithin, windowsShape } from '../src/providers/windows.js';
import { callbackSecret, demoAgent, openCentre, payRequest } from './support/centre.js';
import { temporaryDirectory } from './support/database.js';
import { type FaultProxy, startFaultProxy } from './support/fault-proxy.js';

const route = (providerId: string, over: Partial<Route> = {}): Route => ({
  ...{ providerId, providerServiceCode: 'x', fields: {}, priority: 0, share: 1, on: true },
  ...{ amountMinMinor: 0n, amountMaxMinor: 0n, dayMaxMinor: null, costPpm: 0, costFixedMinor: 0n },
  ...over,
});
const standings = (of: Record<string, Standing> = {}, spent: Record<string, bigint> = {}) => ({
  of: (providerId: string): Standing => of[providerId] ?? 'well',
  spentTodayMinor: ({ providerId }: Route) => spent[providerId] ?? 0n,
});
const chosen = (...args: Parameters<typeof chooseRoute>) => {
  const choice = chooseRoute(...args);
  return choice.kind === 'route' ? choice.route.providerId : choice.why;
};

describe('the choice of a route', () => {
  const [a, b, c] = [route('a'), route('b', { priority: 1 }), route('c', { priority: 2 })];

  test('the lowest priority goes first; who is well comes before who is behind, and both before who is away', () => {
    expect(chosen([b, a, c], 1n, standings(), 0)).toBe('a');
    expect(chosen([a, b, c], 1n, standings({ a: 'behind' }), 0)).toBe('b');
    expect(chosen([a, b, c], 1n, standings({ a: 'away', b: 'behind', c: 'behind' }), 0)).toBe('b');
    expect(chosen([a, b, c], 1n, standings({ a: 'away', b: 'away', c: 'away' }), 0)).toBe('a');
    expect(chosen([a, b], 1n, standings({ a: 'paused', b: 'away' }), 0)).toBe('b');
    expect(chosen([a, { ...b, on: false }], 1n, standings({ a: 'paused' }), 0)).toBe('closed');
  });

  test('bounds of an amount and of a day', () => {
    const small = route('small', { amountMaxMinor: 100n });
    const large = route('large', { amountMinMinor: 101n, dayMaxMinor: 1000n });
    expect(chosen([small, large], 100n, standings(), 0)).toBe('small');
    expect(chosen([small, large], 101n, standings(), 0)).toBe('large');
    expect(chosen([small, large], 101n, standings({}, { large: 899n }), 0)).toBe('large');
    expect(chosen([small, large], 101n, standings({}, { large: 900n }), 0)).toBe('closed');
    expect(chosen([small], 101n, standings(), 0)).toBe('amount_above');
    expect(chosen([large], 100n, standings(), 0)).toBe('amount_below');
    expect(chosen([small, large], null, standings(), 0)).toBe('small');
  });

  test('routes of one priority share by their shares', () => {
    const routes = [route('a', { share: 1 }), route('b', { share: 3 }), route('c', { priority: 1 })];
    const counts = { a: 0, b: 0, c: 0 };
    for (let i = 0; i < 400; i += 1)
      counts[chosen(routes, 1n, standings(), i / 400) as keyof typeof counts] += 1;
    expect(counts).toEqual({ a: 100, b: 300, c: 0 });
  });

  test('whatever the routes and the standings: what is chosen may be, and none is chosen only when none may be', () => {
    const standing = fc.constantFrom<Standing>('well', 'behind', 'away', 'paused');
    const any = fc.array(
      fc.record({
        priority: fc.integer({ min: 0, max: 999 }),
        share: fc.integer({ min: 1, max: 5 }),
        amountMinMinor: fc.bigInt({ min: 0n, max: 10n }),
        amountMaxMinor: fc.bigInt({ min: 0n, max: 20n }),
        dayMaxMinor: fc.option(fc.bigInt({ min: 1n, max: 30n })),
        on: fc.boolean(),
        standing,
        spent: fc.bigInt({ min: 0n, max: 30n }),
      }),
      { minLength: 1, maxLength: 6 },
    );
    fc.assert(
      fc.property(
        any,
        fc.bigInt({ min: 1n, max: 25n }),
        fc.double({ min: 0, max: 0.999999, noNaN: true }),
        (given, amount, dice) => {
          const routes = given.map(({ standing: _, spent: __, ...over }, index) =>
            route(String(index), over),
          );
          const may = given.map(
            (each) =>
              each.on &&
              each.standing !== 'paused' &&
              amount >= each.amountMinMinor &&
              (each.amountMaxMinor === 0n || amount <= each.amountMaxMinor) &&
              (each.dayMaxMinor === null || each.spent + amount <= each.dayMaxMinor),
          );
          const known = standings(
            Object.fromEntries(given.map((each, index) => [String(index), each.standing])),
            Object.fromEntries(given.map((each, index) => [String(index), each.spent])),
          );
          const choice = chooseRoute(routes, amount, known, dice);
          if (choice.kind === 'none') return !may.includes(true);
          const at = Number(choice.route.providerId);
          const better = given.some((each, index) => may[index] && each.standing === 'well');
          return may[at]! && (!better || given[at]!.standing === 'well');
        },
      ),
    );
  });

  test('extras go under the names that the provider has for them', () => {
    const extras = { account1: '7', other: '8' };
    expect(namedFor({ account1: 'msisdn' }, extras)).toEqual({ msisdn: '7', other: '8' });
    expect(namedFor(undefined, extras)).toBe(extras);
  });
});

describe('a breaker', () => {
  const settings = { calls: 4, share: 0.75, openMs: 1000 };

  test('opens when that share of the latest calls had no answer, and not before there were so many', () => {
    const breaker = new Breaker(settings);
    for (const answered of [false, false, false]) breaker.note(answered, 0);
    expect(breaker.isOpen).toBe(false);
    breaker.note(true, 0);
    expect(breaker.isOpen).toBe(false);
    breaker.note(false, 0);
    expect(breaker.isOpen).toBe(true);
  });

  test('lets one call try when its time is over; the answer closes it, none doubles the time', () => {
    const breaker = new Breaker(settings);
    for (let i = 0; i < 4; i += 1) breaker.note(false, 0);
    expect([breaker.admits(999), breaker.tryAt]).toEqual([false, 1000]);
    expect([breaker.admits(1000), breaker.admits(1000), breaker.tryAt]).toEqual([true, false, null]);
    breaker.note(false, 1500);
    expect([breaker.admits(3499), breaker.admits(3500)]).toEqual([false, true]);
    breaker.forgo();
    expect(breaker.admits(3500)).toBe(true);
    breaker.note(true, 3600);
    expect([breaker.isOpen, breaker.admits(3600)]).toEqual([false, true]);
  });

  test('what was sent before it opened says nothing new when it fails, and closes it when it is answered', () => {
    const breaker = new Breaker(settings);
    for (let i = 0; i < 8; i += 1) breaker.note(false, i);
    expect(breaker.tryAt).toBe(1003);
    breaker.note(true, 10);
    expect(breaker.isOpen).toBe(false);
  });
});

describe('windows of maintenance', () => {
  const at = (text: string) => new Date(text);
  const almaty = (windows: unknown, text: string) =>
    isWithin(windowsShape.parse(windows), 'Asia/Almaty', at(text));

  test('once, by the clock, over midnight, on some days', () => {
    const once = [{ from: '2026-11-24T10:00:00Z', to: '2026-11-24T16:00:00+05:00' }];
    expect(almaty(once, '2026-11-24T10:59:59Z')).toBe(true);
    expect(almaty(once, '2026-11-24T11:00:00Z')).toBe(false);
    // 23:30 to 01:00 in Almaty is 18:30 to 20:00 UTC.
    const nightly = [{ from: '23:30', to: '01:00' }];
    expect(
      ['18:29', '18:30', '19:59', '20:00'].map((time) => almaty(nightly, `2026-11-24T${time}:00Z`)),
    ).toEqual([...[false, true, true, false]]);
    // The 24th of November 2026 is a Tuesday; what begins on it runs into Wednesday.
    const tuesdays = [{ from: '23:30', to: '01:00', days: [2] }];
    expect(almaty(tuesdays, '2026-11-24T19:30:00Z')).toBe(true);
    expect(almaty(tuesdays, '2026-11-25T18:45:00Z')).toBe(false);
    expect(almaty([{ from: '00:00', to: '00:00' }], '2026-11-25T18:45:00Z')).toBe(true);
    expect(windowsShape.safeParse([{ from: '24:00', to: '01:00' }]).success).toBe(false);
  });
});

describe('what lies at a provider', () => {
  test('what was paid in less what was spent, reversals given back; a document counts once', async () => {
    const centre = await openCentre();
    const left = async () =>
      (await readDeposits(centre.pool)).map((each) => [each.providerId, each.leftMinor]);
    const deposit = { providerId: 'sandbox', currency: 'KZT', amountMinor: 100_000n, document: 'order 1' };
    expect((await payIn(centre.pool, deposit, 'op')).fresh).toBe(true);
    expect((await payIn(centre.pool, deposit, 'op')).fresh).toBe(false);
    await expect(payIn(centre.pool, { ...deposit, amountMinor: 1n }, 'op')).rejects.toThrow(/another amount/);
    expect(await left()).toEqual([['sandbox', 100_000n]]);
    const first = await centre.pay(payRequest({ amountToMinor: 30_000n }));
    await centre.pay(payRequest({ amountToMinor: 20_000n, account: '7770000007' }));
    expect(await left()).toEqual([['sandbox', 70_000n]]);
    // A minute and an hour later: the same by the sums.
    await centre.owner.query("update provider_spent_until set until = now() - interval '3 h'");
    await centre.owner.query('alter table transfers disable trigger all');
    await centre.owner.query("update transfers set created_at = created_at - interval '90 m'");
    while ((await sumSpent(centre.pool)) > 0);
    const { rows } = await centre.owner.query('select amount_minor from provider_spent');
    expect(rows).toEqual([{ amount_minor: 30_000n }]);
    expect(await left()).toEqual([['sandbox', 70_000n]]);
    await reverse(centre.pool, first.transactionId!, 'agreed', 'op');
    expect(await left()).toEqual([['sandbox', 100_000n]]);
    await sumSpent(centre.pool);
    expect(await left()).toEqual([['sandbox', 100_000n]]);
    await payIn(centre.pool, { ...deposit, amountMinor: -40_000n, document: 'order 2' }, 'op');
    expect(await left()).toEqual([['sandbox', 60_000n]]);
    await centre.close();
  });

  test('a balance that the provider tells counts instead, asked by one process at a time', async () => {
    const centre = await openCentre();
    await payIn(
      centre.pool,
      { providerId: 'sandbox', currency: 'KZT', amountMinor: 5n, document: '1' },
      'op',
    );
    const claims = await Promise.all([1, 2, 3].map(() => claimAsking(centre.pool, 'sandbox', 60_000)));
    expect(claims.filter(Boolean)).toHaveLength(1);
    await noteTold(centre.pool, 'sandbox', { amountMinor: 777n, currency: 'KZT' });
    expect(await readDeposits(centre.pool)).toMatchObject([
      { leftMinor: 777n, toldMinor: 777n, paidInMinor: 5n },
    ]);
    await centre.owner.query("update provider_balances set told_at = now() - interval '31 m'");
    expect(await readDeposits(centre.pool)).toMatchObject([{ leftMinor: 5n, toldMinor: null }]);
    await centre.close();
  });
});

describe('a service with two providers', () => {
  let centre: Awaited<ReturnType<typeof openCentre>>;
  let second: Sandbox;
  let secondDir: string;
  let proxy: FaultProxy;
  const service = 'P1013';
  beforeAll(async () => {
    centre = await openCentre();
    secondDir = temporaryDirectory();
    second = await startSandbox({
      ...{ port: 0, host: '127.0.0.1', dataDir: secondDir, delayMs: 0, settleMs: 300, slowMs: 5000 },
    });
    proxy = await startFaultProxy(centre.sandbox.url, 0);
    await centre.owner.query(
      `insert into providers (provider_id, name, connector, settings) values ('second', 'Second', 'sandbox', $1)`,
      [{ baseUrl: second.url, answerMsMax: 1500, notFoundTrustedAfterMs: 100 }],
    );
    await setRoute(centre.pool, service, 'second', { providerServiceCode: 'mobile', priority: 5 }, 'op');
  });
  afterAll(async () => {
    proxy.close();
    await centre.close();
    await second.close();
    rmSync(secondDir, { recursive: true });
  });
  beforeEach(async () => {
    proxy.follow({});
    await settle('sandbox', { baseUrl: proxy.url, breaker: null, connectTimeoutMs: 300, whenAway: 'queue' });
    await settle('second', { breaker: null, whenAway: 'queue', maintenance: [] });
    await setRoute(
      centre.pool,
      service,
      'sandbox',
      { amountMaxMinor: 0n, dayMaxMinor: null, on: true },
      'op',
    );
    await setRoute(centre.pool, service, 'second', { amountMinMinor: 0n, on: true }, 'op');
    await centre.watch.refresh();
  });
  /** A difference in the settings makes the line, and its breaker, anew. */
  const settle = async (providerId: string, settings: object) => {
    await centre.owner.query('update providers set settings = settings || $2 where provider_id = $1', [
      providerId,
      { ...settings, queueMsMax: 1000 + Math.floor(Math.random() * 50_000) },
    ]);
    await centre.watch.refresh();
  };
  const order = (over: Parameters<typeof payRequest>[0] = {}) => payRequest({ serviceId: service, ...over });
  const providerOf = async (id: bigint) => (await centre.payment(id)).provider_id;
  const executedAt = async (id: bigint) => {
    const count = async (sandbox: Sandbox) =>
      (await sandbox.registry()).filter(({ externalId }) => externalId === `4-${id}`).length;
    return { sandbox: await count(centre.sandbox), second: await count(second) };
  };

  test('the first one has the payments, and the other one while it is paused or switched off', async () => {
    const one = order();
    expect((await centre.pay(one)).code).toBe(0);
    expect(await executedAt(one.agentTransactionId)).toEqual({ sandbox: 1, second: 0 });
    await setRoute(centre.pool, service, 'sandbox', { on: false }, 'op');
    await centre.watch.refresh();
    const two = order();
    expect((await centre.pay(two)).code).toBe(0);
    expect(await executedAt(two.agentTransactionId)).toEqual({ sandbox: 0, second: 1 });
    await setRoute(centre.pool, service, 'second', { on: false }, 'op');
    await centre.watch.refresh();
    expect((await centre.pay(order())).code).toBe(8);
    // The repeat of what was paid is answered as ever.
    expect((await centre.pay(two)).code).toBe(0);
  });

  test('amounts go where they fit, and are refused where they fit nowhere', async () => {
    await setRoute(centre.pool, service, 'sandbox', { amountMaxMinor: 10_000n }, 'op');
    await setRoute(centre.pool, service, 'second', { amountMinMinor: 20_000n }, 'op');
    await centre.watch.refresh();
    const [small, large] = [order({ amountToMinor: 10_000n }), order({ amountToMinor: 20_000n })];
    expect([(await centre.pay(small)).code, (await centre.pay(large)).code]).toEqual([0, 0]);
    expect([await providerOf(small.agentTransactionId), await providerOf(large.agentTransactionId)]).toEqual([
      ...['sandbox', 'second'],
    ]);
    expect([241, 242]).toContain((await centre.pay(order({ amountToMinor: 15_000n }))).code);
  });

  test('the bound of a day is shared by the processes, and what failed does not count', async () => {
    await centre.owner.query('delete from route_days');
    await setRoute(centre.pool, service, 'sandbox', { dayMaxMinor: 50_000n }, 'op');
    await centre.watch.refresh();
    const other = await centre.start();
    await other.watch.refresh();
    expect((await centre.pay(order({ account: '7010000007', amountToMinor: 50_000n }))).code).toBe(7);
    expect((await centre.pay(order({ amountToMinor: 30_000n }))).code).toBe(0);
    await expect
      .poll(
        async () => {
          const request = order({ amountToMinor: 20_001n });
          await other.pay(request);
          return providerOf(request.agentTransactionId);
        },
        { timeout: 10_000, interval: 1500 },
      )
      .toBe('second');
    await other.stop();
  });

  test('what waited for funds counts for the day on which it is sent', async () => {
    await centre.owner.query('delete from route_days');
    await setRoute(centre.pool, service, 'sandbox', { dayMaxMinor: 50_000n }, 'op');
    await centre.watch.refresh();
    // What was counted before is forgotten by then.
    await sleep(1500);
    const available = await centre.available();
    await correct(centre.pool, demoAgent, -available, { reason: 'a test', document: null }, 'op');
    const waits = order({ amountToMinor: 30_000n });
    expect((await centre.pay(waits)).code).toBe(220);
    await topUp(centre.pool, demoAgent, available, 'and back again', 'op');
    expect((await centre.payUntil(waits, (code) => code === 0)).code).toBe(0);
    expect(await providerOf(waits.agentTransactionId)).toBe('sandbox');
    const [tooMuch, fits] = [order({ amountToMinor: 20_001n }), order({ amountToMinor: 20_000n })];
    expect([(await centre.pay(tooMuch)).code, (await centre.pay(fits)).code]).toEqual([0, 0]);
    expect(await providerOf(tooMuch.agentTransactionId)).toBe('second');
    expect(await providerOf(fits.agentTransactionId)).toBe('sandbox');
  });

  test('what could not be sent is sent to the other one, once, and new payments go there at once', async () => {
    // Without an inquiry the payment is accepted before anybody is asked.
    await centre.owner.query('update services set inquiry_required = false where service_id = $1', [service]);
    const nobody = 'http://127.0.0.1:1';
    await settle('sandbox', { baseUrl: nobody, breaker: { calls: 3, share: 1, openMs: 60_000 } });
    const first = Array.from({ length: 3 }, () => order());
    const answers = await Promise.all(first.map((each) => centre.pay(each)));
    expect(answers.map(({ code }) => code)).toEqual([1, 1, 1]);
    for (const each of first) {
      expect((await centre.payUntil(each, (code) => code !== 1)).code).toBe(0);
      expect(await executedAt(each.agentTransactionId)).toEqual({ sandbox: 0, second: 1 });
      expect(await providerOf(each.agentTransactionId)).toBe('second');
    }
    const next = order();
    expect((await centre.pay(next)).code).toBe(0);
    expect(await providerOf(next.agentTransactionId)).toBe('second');
    const { rows } = await centre.owner.query(
      "select count(*)::int as n from payment_events where kind = 'rerouted' and payment_id = $1",
      [answers[0]!.transactionId],
    );
    expect(rows[0].n).toBe(1);
    // Should the first one have executed it all the same, people hear of it; it cannot speak of others.
    const tell = (id: bigint) => {
      const body = Buffer.from(
        JSON.stringify({ externalId: `4-${id}`, status: 'executed', reference: 'late' }),
      );
      const signature = `sha256=${createHmac('sha256', callbackSecret).update(body).digest('hex')}`;
      return centre.centre.callback('sandbox', { headers: { 'x-sandbox-signature': signature }, body });
    };
    expect(await tell(first[0]!.agentTransactionId)).toBe('taken');
    expect(await tell(first[0]!.agentTransactionId)).toBe('taken');
    expect(await tell(next.agentTransactionId)).toBe('not_known');
    const contradictions = await centre.owner.query('select kind, reference, payment_id from contradictions');
    expect(contradictions.rows).toEqual([
      { kind: 'executed_unsent', reference: 'late', payment_id: answers[0]!.transactionId },
    ]);
    await centre.owner.query('update services set inquiry_required = true where service_id = $1', [service]);
  });

  test('what may have been executed is asked about where it was sent, however long that takes', async () => {
    await settle('sandbox', { breaker: { calls: 2, share: 1, openMs: 60_000 } });
    // Executed there, and no word of it comes back, nor of its status.
    proxy.follow({
      exchange: (request) => (/\/(pay|status)/.test(request) ? { cut: { at: 'answered', by: 'close' } } : {}),
    });
    const lost = Array.from({ length: 3 }, () => order());
    for (const each of lost) expect((await centre.pay(each)).code).toBe(1);
    await sleep(2500);
    for (const each of lost) {
      const { agentTransactionId: id } = each;
      expect((await centre.payment(id)).state).toBe(5);
      expect(await providerOf(id)).toBe('sandbox');
      expect(await executedAt(id)).toEqual({ sandbox: 1, second: 0 });
    }
    const next = order();
    expect((await centre.pay(next)).code).toBe(0);
    expect(await providerOf(next.agentTransactionId)).toBe('second');
    // Its breaker is open and stays so; what was sent is asked about all the same.
    proxy.follow({});
    for (const each of lost) {
      expect((await centre.payUntil(each, (code) => code !== 1, 20_000)).code).toBe(0);
      expect(await executedAt(each.agentTransactionId)).toEqual({ sandbox: 1, second: 0 });
    }
  }, 60_000);

  test('in a window of maintenance payments wait for it to end, or are refused', async () => {
    await setRoute(centre.pool, service, 'sandbox', { on: false }, 'op');
    await settle('second', { maintenance: [{ from: '00:00', to: '00:00' }] });
    const waits = order();
    expect((await centre.pay(waits)).code).toBe(1);
    await settle('second', { whenAway: 'refuse' });
    expect((await centre.pay(order())).code).toBe(7);
    expect(
      (await second.registry()).some(({ externalId }) => externalId === `4-${waits.agentTransactionId}`),
    ).toBe(false);
    await settle('second', { maintenance: [] });
    expect((await centre.payUntil(waits, (code) => code !== 1, 20_000)).code).toBe(0);
    expect(await executedAt(waits.agentTransactionId)).toEqual({ sandbox: 0, second: 1 });
  }, 30_000);

  test('a probe closes the breaker without costing a payment', async () => {
    await settle('sandbox', {
      breaker: { calls: 2, share: 1, openMs: 300 },
      probe: { serviceCode: 'mobile', account: '7010017718' },
    });
    proxy.follow({ exchange: () => ({ cut: { at: 'asked', by: 'close' } }) });
    for (let i = 0; i < 2; i += 1) await centre.pay(order());
    const while_ = order();
    await centre.pay(while_);
    expect(await providerOf(while_.agentTransactionId)).toBe('second');
    proxy.follow({});
    await expect
      .poll(
        async () => {
          const request = order();
          expect((await centre.pay(request)).code).toBe(0);
          return providerOf(request.agentTransactionId);
        },
        { timeout: 5000, interval: 200 },
      )
      .toBe('sandbox');
  });

  test('inquiries of one that answers nobody leave room for those of others', async () => {
    await setRoute(centre.pool, service, 'second', { on: false }, 'op');
    await settle('sandbox', { answerMsMax: 6000 });
    // Executed, the answer lost; then every inquiry hangs.
    proxy.follow({
      exchange: (request) =>
        request.includes('/pay')
          ? { cut: { at: 'answered', by: 'close' } }
          : request.includes('/status')
            ? { cut: { at: 'asked', by: 'hang' } }
            : {},
    });
    await Promise.all(Array.from({ length: 80 }, () => centre.pay(order())));
    await sleep(1500);
    const load = () => centre.centre.calls().find(({ providerId }) => providerId === 'sandbox')!;
    expect(load().underWay).toBe(24);
    await centre.owner.query("update services set provider_id = 'second' where service_id = 'P1014'");
    await centre.watch.refresh();
    const other = payRequest({ serviceId: 'P1014', account: '7770000001' });
    expect((await centre.pay(other)).code).toBe(1);
    expect((await centre.payUntil(other, (code) => code !== 1, 3000)).code).toBe(0);
    expect(load().underWay).toBe(24);
    await centre.owner.query("update services set provider_id = 'sandbox' where service_id = 'P1014'");
    proxy.follow({});
  }, 30_000);

  test('the last route cannot be removed', async () => {
    await removeRoute(centre.pool, service, 'second', 'op');
    await expect(removeRoute(centre.pool, service, 'sandbox', 'op')).rejects.toThrow(/last route/);
    await setRoute(centre.pool, service, 'second', { providerServiceCode: 'mobile', priority: 5 }, 'op');
  });
});
