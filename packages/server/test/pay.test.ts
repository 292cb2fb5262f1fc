import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { correct, topUp } from '../src/agents/funds.js';
import { setPaused } from '../src/catalogue/providers.js';
import { setServiceAllowed, setServiceState } from '../src/catalogue/services.js';
import { Overloaded } from '../src/core/answers.js';
import { State } from '../src/core/states.js';
import { FinalPayments } from '../src/payments/finals.js';
import {
  approve,
  listReview,
  listUncertain,
  reject,
  reverse,
  settleByEvidence,
} from '../src/payments/operator.js';
import { unseal } from '../src/payments/seal.js';
import type { StoredPayment } from '../src/payments/store.js';
import { demoAgent, openCentre, payRequest } from './support/centre.js';

type Opened = Awaited<ReturnType<typeof openCentre>>;
let centre: Opened;
beforeAll(async () => {
  centre = await openCentre();
});
afterAll(() => centre.close());

const isFinal = (code: number) => ![1, 153, 220, 255].includes(code);

describe('what the provider answers', () => {
  test.each([
    ['7770017711', 0, 1],
    ['7770000005', 5, 0],
    ['7770000007', 7, 0],
    ['7770000241', 241, 0],
    ['7770000242', 242, 0],
    ['7770000300', 300, 0],
    ['7770000001', 0, 1],
    ['7770000002', 300, 0],
    ['7770000090', 0, 1],
    ['7770000091', 0, 1],
    ['7770000092', 0, 1],
    ['7770000094', 0, 1],
    ['7770000095', 0, 1],
  ])(
    'an account …%s ends in %i with %i execution(s), and repeats say the same',
    async (account, code, executions) => {
      const request = payRequest({ account });
      const before = await centre.available();
      const answer = await centre.payUntil(request, isFinal);
      expect(answer.code).toBe(code);
      expect(await centre.executed(request.agentTransactionId)).toBe(executions);
      expect(await centre.available()).toBe(before - (code === 0 ? request.amountToMinor : 0n));
      const again = await centre.pay({ ...request, agentTransactionDate: '2026-02-18T00:00:00' });
      expect(again).toEqual(answer);
      expect(answer.transactionId! > 0n && answer.transactionId! < 10n ** 18n).toBe(true);
      expect(answer.finalAt).not.toBeNull();
    },
  );

  test('what never resolves stays 1, keeps the money held, and is ended by an operator with evidence', async () => {
    const [first, second] = [payRequest({ account: '7770000093' }), payRequest({ account: '7770000093' })];
    const before = await centre.available();
    const answers = await Promise.all([centre.pay(first), centre.pay(second)]);
    expect(answers.map((each) => each.code)).toEqual([1, 1]);
    await new Promise((done) => setTimeout(done, 1500));
    expect((await centre.pay(first)).code).toBe(1);
    expect(await centre.available()).toBe(before - 2n * first.amountToMinor);
    const ids = answers.map((each) => each.transactionId!);
    expect((await listUncertain(centre.owner)).map((row) => row.transactionId)).toEqual(
      expect.arrayContaining(ids),
    );
    await expect(settleByEvidence(centre.pool, ids[0]!, 'executed', '  ', 'op')).rejects.toThrow('evidence');
    await settleByEvidence(centre.pool, ids[0]!, 'executed', 'statement of 17 February, line 4', 'op');
    await settleByEvidence(centre.pool, ids[1]!, 'not-executed', 'letter 12', 'op');
    expect((await centre.pay(first)).code).toBe(0);
    expect((await centre.pay(second)).code).toBe(300);
    expect(await centre.available()).toBe(before - first.amountToMinor);
    await expect(settleByEvidence(centre.pool, ids[0]!, 'not-executed', 'x', 'op')).rejects.toThrow(
      'cannot be',
    );
    const { rows } = await centre.owner.query(`select operator, action from audit where object = $1`, [
      `payment:${ids[0]}`,
    ]);
    expect(rows).toEqual([{ operator: 'op', action: 'payment.settled_as_executed' }]);
  });

  test('an inquiry that times out is 1, names a transactionId and takes no money', async () => {
    const request = payRequest({ account: '7770000096' });
    const before = await centre.available();
    const answer = await centre.pay(request);
    expect(answer.code).toBe(1);
    expect(answer.transactionId).not.toBeNull();
    expect(await centre.available()).toBe(before);
    expect((await centre.check(request)).code).toBe(1);
  });

  test('a success can be reversed once, gives the money back, and its code stays', async () => {
    const request = payRequest();
    const before = await centre.available();
    const { transactionId } = await centre.pay(request);
    await reverse(centre.pool, transactionId!, 'agreed by letter 7', 'op');
    expect(await centre.available()).toBe(before);
    expect((await centre.pay(request)).code).toBe(0);
    await expect(reverse(centre.pool, transactionId!, 'again', 'op')).rejects.toThrow('cannot be');
  });
});

describe('what the catalogue refuses', () => {
  test.each([
    ['an unknown service', 130, { serviceId: 'P9999' }, null],
    ['a service the agent may not sell', 155, {}, () => allow(false)],
    ['a service that is off', 155, {}, () => setState('off')],
    ['a service in maintenance', 8, {}, () => setState('maintenance')],
    ['a service of a paused provider', 8, {}, () => pause(true)],
    ['an account not of its pattern', 4, { account: '77700177' }, null],
    ['an amount below the least', 241, { amountToMinor: 1n }, null],
    ['an amount above the most', 242, { amountToMinor: 999_999_999_99n }, null],
  ])('%s is %i at check and at pay, kept, and the provider hears nothing', async (_, code, over, change) => {
    const request = payRequest(over);
    const before = await centre.available();
    try {
      await change?.();
      await centre.watch.refresh();
      expect((await centre.check(request)).code).toBe(code);
      const answer = await centre.pay(request);
      expect(answer).toMatchObject({ code, transactionId: expect.any(BigInt) });
      await Promise.all([allow(true), setState('on'), pause(false)]);
      await centre.watch.refresh();
      expect(await centre.pay(request)).toEqual(answer);
      expect((await centre.pay(payRequest())).code).toBe(0);
    } finally {
      await Promise.all([allow(true), setState('on'), pause(false)]);
      await centre.watch.refresh();
    }
    expect(await centre.executed(request.agentTransactionId)).toBe(0);
    expect(await centre.available()).toBe(before - 20_000n);
  });

  const allow = (allowed: boolean) => setServiceAllowed(centre.pool, demoAgent, 'P1011', allowed, 'op');
  const setState = (state: 'on' | 'maintenance' | 'off') =>
    setServiceState(centre.pool, 'P1011', state, 'op');
  const pause = (paused: boolean) => setPaused(centre.pool, 'sandbox', paused, 'op');
});

describe('the same id again', () => {
  test('typed values are compared: extras in another order are the same, another amount is 215', async () => {
    const request = payRequest({ extras: { a: '1', b: '2' } });
    const answer = await centre.pay(request);
    expect(await centre.pay({ ...request, extras: { b: '2', a: '1' } })).toEqual(answer);
    const altered = await centre.pay({ ...request, amountToMinor: 19_900n });
    expect(altered).toMatchObject({ code: 215, transactionId: answer.transactionId });
    expect(await centre.pay(request)).toEqual(answer);
    expect(await centre.executed(request.agentTransactionId)).toBe(1);
  });

  test('what has become final here is said again without the database, to the same body only', async () => {
    const request = payRequest();
    const written = () => JSON.stringify(Object.values(centre.centre.batches()));
    const answer = await centre.pay(request);
    expect(answer).toMatchObject({ code: 0, shown: null });
    const first = written();
    expect(await centre.pay(request)).toEqual(answer);
    expect(written()).toBe(first);
    expect((await centre.pay({ ...request, account: '7770017718' })).code).toBe(215);
    expect(written()).not.toBe(first);
    const { rows } = await centre.pool.query(
      'select accepted_at as "acceptedAt", final_at as "finalAt" from payments where id = $1',
      [answer.transactionId],
    );
    expect(answer).toMatchObject(rows[0]);
  });

  test('when a session is lost the database is asked again: it may be one that has less', async () => {
    const request = payRequest();
    const written = () => JSON.stringify(Object.values(centre.centre.batches()));
    const answer = await centre.pay(request);
    const { rowCount } = await centre.owner.query(
      `select pg_terminate_backend(pid) from pg_stat_activity
       where application_name = 'tolem lane settle' and datname = current_database()`,
    );
    expect(rowCount).toBe(1);
    const before = written();
    await expect.poll(async () => [await centre.pay(request), written() === before]).toEqual([answer, false]);
  });

  test('of final payments the latest are kept, and nothing that is not final or has more than numbers', () => {
    const finals = new FinalPayments(8);
    const words = '01234567-89ab-cdef-0123-456789abcdef';
    const at = (n: number, changes: Partial<StoredPayment> = {}): StoredPayment => ({
      ...{ transactionId: 64n * BigInt(n), state: State.failed, code: 404, fingerprint: words, reason: null },
      ...{ acceptedAt: new Date(n), finalAt: new Date(n + 1), shown: null, ...changes },
    });
    for (let n = 1; n <= 1000; n += 1) finals.keep(4n, BigInt(n), at(n));
    const found = Array.from({ length: 1000 }, (_, index) => finals.get(4n, BigInt(index + 1), words));
    const kept = found.flatMap((answer, index) => (answer ? [index + 1] : []));
    expect(kept.length).toBeGreaterThan(150);
    expect(kept.length).toBeLessThanOrEqual(256);
    expect(Math.min(...kept.slice(-100))).toBeGreaterThan(850);
    for (const n of kept) {
      const { code, reason, transactionId, shown, acceptedAt, finalAt } = at(n);
      expect(found[n - 1]).toEqual({ code, reason, transactionId, shown, acceptedAt, finalAt });
    }
    expect(finals.get(5n, 1000n, words)).toBeNull();
    expect(finals.get(4n, 1000n + 2n ** 62n, words)).toBeNull();
    // Each of the fingerprint's digits counts.
    for (let digit = 0; digit < words.length; digit += 1) {
      if (words[digit] === '-') continue;
      const other = `${words.slice(0, digit)}${words[digit] === '0' ? '1' : '0'}${words.slice(digit + 1)}`;
      expect(finals.get(4n, 1000n, other), other).toBeNull();
    }
    const id = 2n ** 62n + 7n;
    for (const changes of [{ finalAt: null }, { shown: { displays: { pin: '1' } } }, { reason: 'why' }]) {
      finals.keep(4n, id, at(1, changes));
      expect(finals.get(4n, id, words)).toBeNull();
    }
    finals.keep(4n, id, at(1));
    expect(finals.get(4n, id, words)?.transactionId).toBe(64n);
  });

  test('a body that would be 202 on its own is 202, and the payment goes on', async () => {
    const request = payRequest({ account: '7770000001' });
    expect((await centre.pay(request)).code).toBe(1);
    const bad = await centre.pay({ ...request, amountFromMinor: 1n });
    expect(bad.code).toBe(202);
    expect((await centre.payUntil(request, isFinal)).code).toBe(0);
  });

  test('a 202 names no payment: the corrected body with the same id is a first one', async () => {
    const request = payRequest();
    expect((await centre.pay({ ...request, amountFromMinor: 1n })).code).toBe(202);
    expect(await centre.payment(request.agentTransactionId)).toBeUndefined();
    expect((await centre.pay(request)).code).toBe(0);
  });

  test('a refusal by rule is stored: the same answer for ever, also when the rule is gone', async () => {
    const request = payRequest({ amountToMinor: 50n });
    const answer = await centre.pay(request);
    expect(answer.code).toBe(241);
    await centre.owner.query(`update services set amount_min_minor = 1 where service_id = 'P1011'`);
    await centre.watch.refresh();
    expect(await centre.pay(request)).toEqual(answer);
    await centre.owner.query(`update services set amount_min_minor = 100 where service_id = 'P1011'`);
    await centre.watch.refresh();
  });

  test('an account too long is 4, kept like every refusal, and the id is taken', async () => {
    const request = payRequest({ account: '7'.repeat(5000) });
    const answer = await centre.pay(request);
    expect(answer.code).toBe(4);
    expect(await centre.pay(request)).toEqual(answer);
    expect((await centre.pay({ ...request, account: '7'.repeat(5001) })).code).toBe(215);
    expect((await centre.payment(request.agentTransactionId)).account).toHaveLength(200);
  });

  test('100 at once, over two processes: one provider call, one debit, one transactionId', async () => {
    const second = await centre.start();
    const request = payRequest();
    const before = await centre.available();
    const answers = await Promise.all(
      Array.from({ length: 100 }, (_, index) => (index % 2 ? second : centre).pay(request)),
    );
    expect(new Set(answers.map((each) => each.transactionId)).size).toBe(1);
    expect(answers.every((each) => [0, 1].includes(each.code))).toBe(true);
    expect((await centre.payUntil(request, isFinal)).code).toBe(0);
    expect(await centre.executed(request.agentTransactionId)).toBe(1);
    expect(await centre.available()).toBe(before - request.amountToMinor);
    await second.stop();
  });

  test('50 at once with half the bodies altered: one payment, the others are 215', async () => {
    const request = payRequest();
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, index) =>
        centre.pay(index % 2 ? { ...request, account: '7770017712' } : request),
      ),
    );
    const codes = new Set(answers.map((each) => each.code));
    expect([...codes].every((code) => [0, 1, 215].includes(code))).toBe(true);
    expect(codes.has(215)).toBe(true);
    expect(await centre.executed(request.agentTransactionId)).toBe(1);
  });
});

describe('check', () => {
  test('names the transactionId that pay will carry, before and after', async () => {
    const request = payRequest();
    const checked = await centre.check(request);
    expect(checked.code).toBe(0);
    const again = await centre.check(request);
    expect(again.transactionId).toBe(checked.transactionId);
    const paid = await centre.pay(request);
    expect(paid.transactionId).toBe(checked.transactionId);
    expect((await centre.check(request)).transactionId).toBe(checked.transactionId);
  });

  test('a pay that comes first gives its transactionId to later checks', async () => {
    const request = payRequest();
    const paid = await centre.pay(request);
    expect((await centre.check(request)).transactionId).toBe(paid.transactionId);
  });

  test('check and pay with one id at once agree on the transactionId', async () => {
    for (let round = 0; round < 20; round += 1) {
      const request = payRequest();
      const [checked, paid] = await Promise.all([centre.check(request), centre.pay(request)]);
      expect(checked.transactionId).toBe(paid.transactionId);
    }
  });

  test('asks the provider and tells what it says', async () => {
    expect((await centre.check(payRequest({ account: '7770000005' }))).code).toBe(5);
    const complex = await centre.check(payRequest({ serviceId: 'P0005', account: '1234567890' }));
    expect(complex.shown?.invoices?.[0]?.lines.map((line) => line.subServiceId)).toEqual(['36', '13', '2']);
    const choice = await centre.check(payRequest({ serviceId: 'P0006', account: '123456789012' }));
    expect(choice.shown?.contracts?.map((each) => each.contractId)).toEqual([
      '000000587',
      '000000588',
      '000000589',
    ]);
  });

  test('220 without funds for the amount, and the amount may be absent', async () => {
    const request = payRequest({ amountToMinor: 50_000_000n });
    const poor = await centre.available();
    await correct(centre.pool, demoAgent, -(poor - 100n), { reason: 'test', document: null }, 'op');
    expect((await centre.check(request)).code).toBe(220);
    expect((await centre.check({ ...request, amountToMinor: null, amountFromMinor: null })).code).toBe(0);
    await topUp(centre.pool, demoAgent, poor - 100n, null, 'op');
    expect((await centre.check(request)).code).toBe(0);
  });
});

describe('schemes', () => {
  const invoiceLine = (subServiceId: string, amountMinor: bigint, lastCount: string | null = null) => ({
    subServiceId,
    amountMinor,
    lastCount,
  });

  test('complex: lines of the quote that add up are paid, and the invoice is repeated', async () => {
    const request = payRequest({
      serviceId: 'P0005',
      account: '1234567890',
      amountToMinor: 45_000n,
      extraServices: [invoiceLine('36', 30_000n, '4900'), invoiceLine('13', 15_000n)],
    });
    const answer = await centre.pay(request);
    expect(answer.code).toBe(0);
    expect(answer.shown?.invoices?.[0]?.lines).toHaveLength(3);
    expect(await centre.pay(request)).toEqual(answer);
    expect(
      (
        await centre.pay({
          ...request,
          agentTransactionId: request.agentTransactionId + 500_000n,
          amountToMinor: 45_001n,
          amountFromMinor: 45_001n,
        })
      ).code,
    ).toBe(202);
  });

  test('choice: a contract of the quote is paid, another is 202', async () => {
    const request = payRequest({
      serviceId: 'P0006',
      account: '123456789012',
      extras: { contractId: '000000588' },
    });
    expect((await centre.check(request)).code).toBe(0);
    expect((await centre.pay({ ...request, extras: { contractId: '1' } })).code).toBe(202);
    const answer = await centre.pay(request);
    expect(answer.code).toBe(0);
    expect(answer.shown?.contracts).toHaveLength(3);
  });

  test('a fixed amount must be met to the tiyn', async () => {
    const request = payRequest({
      serviceId: 'P1012',
      account: '1234567890',
      extras: { account1: '1234567890' },
    });
    const { shown } = await centre.check(request);
    const fixed = BigInt(shown!.displays!.fixedAmount!.replace('.', ''));
    expect((await centre.pay({ ...request, amountToMinor: fixed - 1n, amountFromMinor: fixed })).code).toBe(
      202,
    );
    expect((await centre.pay({ ...request, amountToMinor: fixed, amountFromMinor: fixed })).code).toBe(0);
  });

  test('international: the quote’s rate and finalAmount are honoured by pay after the rate has changed', async () => {
    const request = payRequest({ serviceId: 'P2001', account: 'player1', amountToMinor: 84_000n });
    const checked = await centre.check(request);
    expect(checked.shown?.conversion).toMatchObject({
      to: 'USD',
      rateE10: 20_833_333n,
      finalAmountMinor: 175n,
    });
    await centre.owner.query(
      `insert into rates (from_currency, to_currency, rate_e10, operator) values ('KZT', 'USD', 30000000, 'op')`,
    );
    await centre.watch.refresh();
    const paid = await centre.pay(request);
    expect(paid.code).toBe(0);
    expect(paid.shown?.conversion).toEqual(checked.shown?.conversion);
    const executed = (await centre.sandbox.registry()).find(
      (row) => row.externalId === `4-${request.agentTransactionId}`,
    );
    expect(executed?.amount).toBe('1.75');
    const later = await centre.pay(
      payRequest({ serviceId: 'P2001', account: 'player1', amountToMinor: 84_000n }),
    );
    expect(later.shown?.conversion).toMatchObject({ rateE10: 30_000_000n, finalAmountMinor: 252n });
  });

  test('a quote serves only the account it was asked for', async () => {
    const request = payRequest({
      serviceId: 'P0006',
      account: '123456789012',
      extras: { contractId: '000000588' },
    });
    await centre.check(request);
    const other = await centre.pay({ ...request, account: '123456780005' });
    expect(other.code).toBe(5);
  });
});

describe('identity', () => {
  test('is demanded by the service, encrypted at rest and no part of the payment’s details', async () => {
    await centre.owner.query(`update services set identity_required = true where service_id = 'P1013'`);
    await centre.watch.refresh();
    const request = payRequest({ serviceId: 'P1013' });
    expect(await centre.pay(request)).toMatchObject({ code: 202, reason: 'field_missing|identityCard' });
    const known = { ...request, identityCard: '123456789', fullName: 'Тест Тестов' };
    const answer = await centre.pay(known);
    expect(answer.code).toBe(0);
    expect(await centre.pay({ ...known, fullName: 'Другой Тест' })).toEqual(answer);
    const { identity } = await centre.payment(request.agentTransactionId);
    expect(identity.toString('latin1')).not.toContain('123456789');
    expect(JSON.parse(unseal(Buffer.alloc(32, 7), identity))).toEqual({
      identityCard: '123456789',
      fullName: 'Тест Тестов',
    });
    expect(() => unseal(Buffer.alloc(32, 8), identity)).toThrow();
  });
});

describe('review', () => {
  test('a held payment waits with its money set aside; approval sends it, rejection gives the money back', async () => {
    const large = { amountToMinor: 50_000_001n };
    const [good, bad] = [payRequest(large), payRequest(large)];
    const before = await centre.available();
    const ids = (await Promise.all([centre.pay(good), centre.pay(bad)])).map((each) => {
      expect(each.code).toBe(153);
      return each.transactionId!;
    });
    expect(await centre.available()).toBe(before - 2n * large.amountToMinor);
    expect((await listReview(centre.owner)).map((row) => row.transactionId)).toEqual(ids);
    expect(await centre.executed(good.agentTransactionId)).toBe(0);
    await approve(centre.pool, ids[0]!, 'op', 'known payer');
    await reject(centre.pool, ids[1]!, 'op', 'stolen card');
    expect((await centre.payUntil(good, isFinal)).code).toBe(0);
    expect(await centre.pay(bad)).toMatchObject({ code: 300, reason: 'review_rejected' });
    expect(await centre.executed(good.agentTransactionId)).toBe(1);
    expect(await centre.executed(bad.agentTransactionId)).toBe(0);
    expect(await centre.available()).toBe(before - large.amountToMinor);
    await expect(approve(centre.pool, ids[1]!, 'op', '')).rejects.toThrow('cannot be');
  });
});

describe('funds', () => {
  let poor: Opened;
  beforeAll(async () => {
    poor = await openCentre({ answerMsMax: 20_000 });
    await correct(
      poor.pool,
      demoAgent,
      -((await poor.available()) - 500_00n),
      { reason: 'test', document: null },
      'op',
    );
  });
  afterAll(() => poor.close());

  test('500 of 1000 equal payments at once are funded, the rest wait on 220, a top-up finishes them', async () => {
    const requests = Array.from({ length: 1000 }, () => payRequest({ amountToMinor: 100n }));
    const answers = await Promise.all(requests.map((request) => poor.pay(request)));
    const count = (code: number) => answers.filter((each) => each.code === code).length;
    expect([count(0) + count(1), count(220)]).toEqual([500, 500]);
    expect(await poor.available()).toBe(0n);
    await topUp(poor.pool, demoAgent, 500_00n, 'bank 1', 'op');
    const done = await Promise.all(requests.map((request) => poor.payUntil(request, isFinal)));
    expect(done.every((each) => each.code === 0)).toBe(true);
    expect(await poor.available()).toBe(0n);
    expect((await poor.sandbox.registry()).length).toBe(1000);
  });

  test('a top-up resumes the oldest first', async () => {
    const requests = [payRequest({ amountToMinor: 300n }), payRequest({ amountToMinor: 300n })];
    for (const request of requests) expect((await poor.pay(request)).code).toBe(220);
    await topUp(poor.pool, demoAgent, 300n, 'bank 2', 'op');
    expect((await poor.payUntil(requests[0]!, isFinal)).code).toBe(0);
    expect((await poor.pay(requests[1]!)).code).toBe(220);
    await topUp(poor.pool, demoAgent, 300n, 'bank 2b', 'op');
    expect((await poor.payUntil(requests[1]!, isFinal)).code).toBe(0);
    expect(await poor.available()).toBe(0n);
  });

  test('the money of a failed payment resumes what waits', async () => {
    await topUp(poor.pool, demoAgent, 400n, 'bank 3', 'op');
    const failing = payRequest({ amountToMinor: 400n, account: '7770000002' });
    expect((await poor.pay(failing)).code).toBe(1);
    const waiting = payRequest({ amountToMinor: 400n });
    expect((await poor.pay(waiting)).code).toBe(220);
    expect((await poor.payUntil(failing, isFinal)).code).toBe(300);
    expect((await poor.payUntil(waiting, isFinal)).code).toBe(0);
  });

  test('a credit limit is spent to its end and not further', async () => {
    await poor.owner.query('update agent_balances set credit_limit_minor = 1000');
    const fits = payRequest({ amountToMinor: 1000n });
    expect((await poor.pay(fits)).code).toBe(0);
    expect(await poor.available()).toBe(-1000n);
    expect((await poor.pay(payRequest({ amountToMinor: 100n }))).code).toBe(220);
  });
});

describe('time', () => {
  test('a payment that is not funded in time is 250, one whose terms are not met 300, and neither was sent', async () => {
    const hasty = await openCentre({ fundsWaitMs: 1000 });
    await correct(
      hasty.pool,
      demoAgent,
      -(await hasty.available()),
      { reason: 'test', document: null },
      'op',
    );
    const [unfunded, unmet] = [payRequest(), payRequest({ amountFromMinor: 30_000n })];
    expect((await hasty.pay(unfunded)).code).toBe(220);
    expect((await hasty.pay(unmet)).code).toBe(255);
    expect((await hasty.payUntil(unfunded, isFinal)).code).toBe(250);
    expect((await hasty.payUntil(unmet, isFinal)).code).toBe(300);
    await topUp(hasty.pool, demoAgent, 1_000_000n, null, 'op');
    expect((await hasty.pay(unfunded)).code).toBe(250);
    expect(await hasty.sandbox.registry()).toEqual([]);
    await hasty.close();
  });
});

describe('terms', () => {
  test('an added fee above the tariff is 255 until the tariff allows it', async () => {
    const request = payRequest({ amountFromMinor: 30_000n });
    const before = await centre.available();
    expect((await centre.pay(request)).code).toBe(255);
    expect((await centre.pay(request)).code).toBe(255);
    expect(await centre.available()).toBe(before);
    await centre.owner.query('update tariff_lines set added_max_ppm = 500000');
    await centre.watch.refresh();
    expect((await centre.payUntil(request, isFinal)).code).toBe(0);
    expect(await centre.executed(request.agentTransactionId)).toBe(1);
    await centre.owner.query('update tariff_lines set added_max_ppm = 200000');
    await centre.watch.refresh();
  });
});

describe('fees and rewards', () => {
  test('the agent is debited amount and fee, income gets the fee, the reward accrues apart', async () => {
    await centre.owner.query('update tariff_lines set fee_ppm = 10000, reward_ppm = 5000');
    await centre.watch.refresh();
    const [paid, refused] = [payRequest(), payRequest({ account: '7770000007' })];
    const before = await centre.available();
    const { transactionId } = await centre.pay(paid);
    expect((await centre.pay(refused)).code).toBe(7);
    expect(await centre.available()).toBe(before - 20_200n);
    const { rows } = await centre.owner.query(
      'select kind, debit_account, credit_account, amount_minor from transfers where operation_id = $1 order by leg',
      [transactionId],
    );
    expect(rows.map((row) => Object.values(row))).toEqual([
      ['hold', 'agent:4', 'clearing:KZT', 20_200n],
      ['post', 'clearing:KZT', 'provider:sandbox:KZT', 20_000n],
      ['fee', 'clearing:KZT', 'income:KZT', 200n],
      ['reward', 'income:KZT', 'reward:4', 100n],
    ]);
    await reverse(centre.pool, transactionId!, 'agreed', 'op');
    expect(await centre.available()).toBe(before);
    const sums = await centre.owner.query(
      `select account, sum(amount)::bigint as sum from (
         select debit_account as account, -amount_minor as amount from transfers where operation_id = $1
         union all select credit_account, amount_minor from transfers where operation_id = $1) t
       group by account having sum(amount) <> 0`,
      [transactionId],
    );
    expect(sums.rows).toEqual([]);
    await centre.owner.query('update tariff_lines set fee_ppm = 0, reward_ppm = 0');
    await centre.watch.refresh();
  });
});

describe('bounds', () => {
  test('beyond the bound of payments in progress the centre says so at once', async () => {
    const small = await openCentre({ inflightMax: 5 });
    const answers = await Promise.allSettled(
      Array.from({ length: 20 }, () => small.pay(payRequest({ account: '7770000092' }))),
    );
    expect(answers.filter((each) => each.status === 'rejected')).toHaveLength(15);
    await small.close();
  });

  test('the agent is answered 1 within the wait bound and the work goes on', async () => {
    const patient = await openCentre({ payWaitMs: 200, slowMs: 1000, answerMsMax: 3000 });
    const request = payRequest({ account: '7770000092' });
    const startedAt = performance.now();
    expect((await patient.pay(request)).code).toBe(1);
    expect(performance.now() - startedAt).toBeLessThan(900);
    expect((await patient.payUntil(request, isFinal)).code).toBe(0);
    expect(await patient.executed(request.agentTransactionId)).toBe(1);
    await patient.close();
  });

  test('a database that does not answer holds no agent for two seconds, and what it was to write goes on', async () => {
    const quiet = await openCentre();
    /** Stops the session of one lane, until the answer. */
    const silenced = async (lane: string, ask: () => Promise<unknown>) => {
      const { rows } = await quiet.owner.query(
        'select pid from pg_stat_activity where datname = current_database() and application_name = $1',
        [`tolem lane ${lane}`],
      );
      expect(rows).toHaveLength(1);
      process.kill(rows[0].pid, 'SIGSTOP');
      try {
        const startedAt = performance.now();
        const answer = await ask().catch((error: unknown) => error);
        return { answer, ms: performance.now() - startedAt };
      } finally {
        process.kill(rows[0].pid, 'SIGCONT');
      }
    };
    const check = () => quiet.check(payRequest());
    expect((await quiet.pay(payRequest())).code).toBe(0);
    expect((await check()).code).toBe(0);
    await quiet.available();

    for (const [lane, code] of [
      ['accept', null],
      ['settle', 1],
    ] as const) {
      const request = payRequest();
      const { answer, ms } = await silenced(lane, () => quiet.pay(request));
      expect(ms).toBeLessThan(2300);
      if (code === null) expect(answer).toBeInstanceOf(Overloaded);
      else expect(answer).toMatchObject({ code, transactionId: expect.any(BigInt) });
      // It ends by itself, long before another process would take it up.
      await expect
        .poll(async () => (await quiet.payment(request.agentTransactionId))?.code, { timeout: 3000 })
        .toBe(0);
      expect(await quiet.executed(request.agentTransactionId)).toBe(1);
    }
    for (const [lane, ask] of [
      ['quote', check],
      ['balance', quiet.available],
    ] as const) {
      const { answer, ms } = await silenced(lane, ask);
      expect(answer).toBeInstanceOf(Overloaded);
      expect(ms).toBeLessThan(2300);
    }
    expect((await check()).code).toBe(0);
    await quiet.close();
  });

  test('the database refuses to change a final code', async () => {
    const request = payRequest();
    const { transactionId } = await centre.pay(request);
    await expect(
      centre.owner.query('update payments set code = 300 where id = $1', [transactionId]),
    ).rejects.toThrow('is final');
    await expect(
      centre.owner.query('update payments set state = $2 where id = $1', [transactionId, State.failed]),
    ).rejects.toThrow('is final');
  });
});
