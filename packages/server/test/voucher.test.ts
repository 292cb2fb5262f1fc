/** Vouchers: the agent has its code on every repeat, and nobody else finds it anywhere. */
import { rmSync } from 'node:fs';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Overloaded } from '../src/core/answers.js';
import { verify } from '../src/ledger/verify.js';
import { paymentHistory } from '../src/payments/history.js';
import { seal, sealSecrets, unseal, unsealSecrets } from '../src/payments/seal.js';
import type { HttpResponse, Notice, Order } from '../src/providers/contract.js';
import { type Simulator, startSimulator } from '../src/providers/simulators/simulator.js';
import { codeOf, voucherWords } from '../src/providers/simulators/voucher.js';
import { voucherConnector } from '../src/providers/voucher-connector.js';
import { demoAgent, openCentre, payRequest } from './support/centre.js';
import { temporaryDirectory } from './support/database.js';
import { type FaultProxy, manners, moments, startFaultProxy } from './support/fault-proxy.js';

const order: Order = {
  externalId: '4-1795491977',
  serviceCode: 'game/ü 500',
  account: '7770017711',
  amountMinor: 20_000n,
  currency: 'KZT',
  extras: {},
  extraServices: null,
  transactionId: 1_234_567n,
  again: false,
  acceptedAt: new Date('2026-01-31T20:15:07.999Z'),
};

const connector = voucherConnector({ notFoundTrustedAfterMs: 100 });
const raw = (body: string, status = 200): HttpResponse => ({ status, headers: {}, body });
const answer = (members: object, status = 200) => raw(JSON.stringify(members), status);
const parsePay = (response: HttpResponse) => connector.parsePay(response, order);
const parseStatus = (response: HttpResponse) => connector.parseStatus(response, order);
const parseCheck = (response: HttpResponse) =>
  connector.parseCheck(response, { ...order, amountMinor: order.amountMinor });

const orderId = order.externalId;
const sold = { orderId, status: 'sold', reference: 'R-77', code: '1111222233334444' };
const executed = { kind: 'executed', reference: 'R-77', secrets: { code: '1111222233334444' } };

describe('the connector', () => {
  it('sends an order, a question about it and one about the product', () => {
    expect(connector.buildPay(order)).toEqual({
      method: 'POST',
      path: '/vouchers',
      headers: { accept: 'application/json', 'content-type': 'application/json' },
      body: '{"orderId":"4-1795491977","product":"game/ü 500","amount":"200.00"}',
    });
    const withToken = voucherConnector({ token: 'abc' });
    const headers = { accept: 'application/json', authorization: 'Bearer abc' };
    expect(withToken.buildStatus(order)).toEqual({
      ...{ method: 'GET', path: '/vouchers/4-1795491977', headers, body: null },
    });
    expect(withToken.buildCheck(order).path).toBe('/products/game%2F%C3%BC%20500?amount=200.00');
    expect(withToken.buildCheck({ ...order, amountMinor: null }).path).toBe('/products/game%2F%C3%BC%20500');
  });

  it('reads every word of the protocol, in answer to an order and to a question', () => {
    const more = { serial: 'N-1', validUntil: '2030-12-31' };
    for (const parse of [parsePay, parseStatus]) {
      expect(parse(answer(sold))).toEqual(executed);
      expect(parse(answer({ ...sold, ...more }))).toEqual({
        ...executed,
        secrets: { ...executed.secrets, ...more },
      });
      expect(parse(answer({ orderId, status: 'pending' }))).toEqual({ kind: 'pending', reference: null });
      for (const code of [4, 5, 7, 241, 242, 300])
        expect(parse(answer({ orderId, status: 'refused', code }))).toEqual({
          ...{ kind: 'refused', code, detail: `code ${code}` },
        });
    }
    expect(parseStatus(answer({ orderId, status: 'unknown_order' }))).toEqual({ kind: 'not_found' });
    const product = order.serviceCode;
    expect(parseCheck(answer({ product, status: 'available' }))).toEqual({ kind: 'ok' });
    expect(parseCheck(answer({ product, status: 'refused', code: 5 }))).toMatchObject({ code: 5 });
  });

  it('keeps no reference that gives the code away', () => {
    expect(parsePay(answer({ ...sold, reference: `R-${sold.code}` }))).toEqual({
      ...executed,
      reference: null,
    });
  });

  it.each([
    ['another order', answer({ ...sold, orderId: `${orderId}9` })],
    ['no order', answer({ ...sold, orderId: undefined })],
    ['no code', answer({ ...sold, code: undefined })],
    ['an empty code', answer({ ...sold, code: '' })],
    ['a code that is a number', answer({ ...sold, code: 5 })],
    ['no reference', answer({ ...sold, reference: undefined })],
    ['a refusal with a code that there is none of', answer({ orderId, status: 'refused', code: 6 })],
    ['a refusal with a code of text', answer({ orderId, status: 'refused', code: '5' })],
    ['another order refused', answer({ orderId: '4-1', status: 'refused', code: 5 })],
    ['an unknown status', answer({ ...sold, status: 'done' })],
    ['two statuses', raw(JSON.stringify(sold).replace('}', ',"status":"refused"}'))],
    ['HTTP 201', answer(sold, 201)],
    ['HTTP 500', answer({ orderId, status: 'refused', code: 5 }, 500)],
    ['more than one answer', raw(JSON.stringify(sold) + JSON.stringify(sold))],
    ['half an answer', raw(JSON.stringify(sold).slice(0, -5))],
    ['no JSON', raw('sold')],
    ['nothing', raw('')],
  ])('takes %s for no proof, and tells no word of it', (_, response) => {
    for (const outcome of [parsePay(response), parseStatus(response)]) {
      expect(outcome.kind).toBe('unknown');
      expect(JSON.stringify(outcome)).not.toContain(sold.code);
    }
  });

  it('takes unknown_order for no answer to an order, and another product for none to a question', () => {
    expect(parsePay(answer({ orderId, status: 'unknown_order' })).kind).toBe('unknown');
    expect(parseCheck(answer({ product: 'game', status: 'refused', code: 5 })).kind).toBe('unknown');
    expect(parseCheck(answer({ product: 'game', status: 'available' })).kind).toBe('unknown');
  });

  it('no answer about another order is ever final', () => {
    const words = fc.record(
      {
        orderId: fc.oneof(
          fc.string(),
          fc.nat().map((n) => `4-${n}`),
        ),
        status: fc.constantFrom('sold', 'refused', 'pending', 'unknown_order'),
        reference: fc.string(),
        code: fc.oneof(fc.string(), fc.constantFrom(4, 5, 7, 241, 242, 300)),
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(words, (members) => {
        fc.pre(members.orderId !== orderId);
        expect(parsePay(answer(members)).kind).toBe('unknown');
        expect(parseStatus(answer(members)).kind).toBe('unknown');
      }),
      { numRuns: 1000 },
    );
  });

  it('has settings that are judged, and says what the shop can do', () => {
    expect(() => voucherConnector({ notFoundTrustedAfterMs: -1 })).toThrow(
      /^notFoundTrustedAfterMs: must be whole/,
    );
    expect(() => voucherConnector({ token: 'a\nb' })).toThrow(
      /^token: must be a token of 1 to 500 characters/,
    );
    expect(voucherConnector({}).offers).toEqual({
      ...{ deduplicates: true, status: true, notFoundTrustedAfterMs: 3000 },
    });
    expect(connector.plain?.has('code')).toBe(false);
  });

  it('builds and parses in less than 100 µs', () => {
    const response = answer(sold);
    const us = Array.from({ length: 4000 }, () => {
      const startedMs = performance.now();
      connector.buildPay(order);
      parsePay(response);
      return (performance.now() - startedMs) * 1000;
    });
    expect(us.sort((left, right) => left - right)[2000]).toBeLessThan(100);
  });
});

it('what is sealed for one payment is not read for another, nor with another key, nor when it was changed', () => {
  const sealingOf = (key: Buffer) => ({
    seal: (text: string) => seal(key, text),
    unseal: (sealed: string) => unseal(key, Buffer.from(sealed, 'base64')),
  });
  const ours = sealingOf(Buffer.alloc(32, 1));
  const secrets = { code: '1111', note: 'ü€𝄞' };
  const sealed = sealSecrets(ours, 64n, secrets);
  expect(unsealSecrets(ours, 64n, sealed)).toEqual(secrets);
  expect(() => unsealSecrets(ours, 128n, sealed)).toThrow();
  expect(() => unsealSecrets(sealingOf(Buffer.alloc(32, 2)), 64n, sealed)).toThrow();
  const changed = Buffer.from(sealed, 'base64');
  changed[changed.length - 1]! ^= 1;
  expect(() => unsealSecrets(ours, 64n, changed.toString('base64'))).toThrow();
  expect(() => unsealSecrets(ours, 64n, '')).toThrow();
});

describe('through a centre', () => {
  const lines: string[] = [];
  const write = (facts: object, message: string) => lines.push(`${JSON.stringify(facts)} ${message}`);
  const parts = {
    secretKey: Buffer.alloc(32, 7),
    log: { debug: write, info: write, warn: write, error: write } as never,
    wrapSender: (sender: import('../src/providers/contract.js').Sender) => ({
      ...sender,
      readCallback: () => notice,
    }),
  };
  let notice: Notice | null = null;
  let centre: Awaited<ReturnType<typeof openCentre>>;
  let shop: Simulator;
  let proxy: FaultProxy;
  let dataDir: string;

  beforeAll(async () => {
    dataDir = temporaryDirectory();
    shop = await startSimulator(voucherWords, {
      ...{ port: 0, host: '127.0.0.1', dataDir, delayMs: 0, settleMs: 300, slowMs: 5000 },
    });
    proxy = await startFaultProxy(shop.url, 0);
    centre = await openCentre({ payWaitMs: 5000, parts });
    const settings = { answerMsMax: 300, notFoundTrustedAfterMs: 100 };
    await centre.owner.query(
      `insert into providers (provider_id, name, connector, settings)
       values ('shop', 'Shop', 'voucher', $1), ('direct', 'Shop', 'voucher', $2)`,
      [
        { ...settings, baseUrl: proxy.url },
        { ...settings, baseUrl: shop.url },
      ],
    );
    const ends = '1234 0001 0002 0005 0007 0080 0081 0082 0083 0084 0090 0091 0093 0094 0095'.split(' ');
    for (const end of ['proxied', ...ends])
      await centre.owner.query(
        `insert into services select (jsonb_populate_record(s, $1)).* from services s where service_id = 'P1011'`,
        [
          {
            ...{ service_id: `V${end}`, provider_id: end === 'proxied' ? 'shop' : 'direct' },
            provider_service_code: `game-${end}`,
          },
        ],
      );
    await centre.watch.refresh();
  });
  afterAll(async () => {
    expect((await verify(centre.owner)).problems).toEqual([]);
    await centre.close();
    proxy.close();
    await shop.close();
    rmSync(dataDir, { recursive: true, force: true });
  });

  const isFinal = (code: number) => code !== 1;
  const nameOf = (request: { agentTransactionId: bigint }) => `${demoAgent}-${request.agentTransactionId}`;
  const voucherOf = (request: { agentTransactionId: bigint }) => ({
    code: codeOf(nameOf(request)),
    serial: `N-${codeOf(`${nameOf(request)}/serial`)}`,
    validUntil: '2030-12-31',
  });
  const soldTimes = async (request: { agentTransactionId: bigint }) =>
    (await shop.registry()).filter((row) => row.externalId === nameOf(request)).length;

  /** Every row of every table, as text. */
  async function everything(): Promise<string> {
    const { rows } = await centre.owner.query(
      `select format('%I.%I', table_schema, table_name) as name from information_schema.tables
       where table_schema not in ('pg_catalog', 'information_schema') and table_type = 'BASE TABLE'`,
    );
    const texts = await Promise.all(
      rows.map(async ({ name }) => {
        const dump = await centre.owner.query(`select t::text as row from ${name} t`);
        return dump.rows.map(({ row }) => `${name} ${row}`).join('\n');
      }),
    );
    return texts.join('\n');
  }

  async function expectNowhere(
    request: { agentTransactionId: bigint },
    transactionId: bigint,
  ): Promise<void> {
    const { code, serial } = voucherOf(request);
    const dump = await everything();
    expect(dump).toContain(`payments (${transactionId},`);
    expect(dump).toContain(`payment_events (${transactionId},`);
    const history = await paymentHistory(centre.owner, transactionId, { showAccount: true });
    const places = { dump, lines: lines.join('\n'), history: JSON.stringify(history) };
    for (const [place, text] of Object.entries(places))
      for (const secret of [code, serial, Buffer.from(code).toString('hex'), btoa(code)])
        expect(text.includes(secret), `${secret} in ${place}`).toBe(false);
    expect(history.at(-1)).toMatchObject({
      kind: 'final',
      text: expect.stringContaining('it has a code that only the agent is shown'),
      data: { sealed: '***', shown: { sealed: '***' } },
    });
    const plainly = await paymentHistory(centre.owner, transactionId);
    expect(plainly.at(-1)!.data).toMatchObject({ sealed: '***' });
    expect(plainly.at(-1)!.data).not.toHaveProperty('shown');
    const { rows } = await centre.owner.query('select shown from payments where id = $1', [transactionId]);
    for (const entries of [history, plainly])
      expect(JSON.stringify(entries)).not.toContain(rows[0].shown.sealed);
  }

  it('the code is in the answer and in every repeat, of any process, and readable nowhere else', async () => {
    const request = payRequest({ serviceId: 'V1234' });
    const first = await centre.pay(request);
    expect(first).toMatchObject({ code: 0, shown: { displays: voucherOf(request) } });
    expect(Object.keys(first.shown!)).toEqual(['displays']);
    for (let n = 0; n < 3; n += 1) expect(await centre.pay(request)).toEqual(first);
    const other = await centre.start();
    expect(await other.pay(request)).toEqual(first);
    await other.stop();
    const restarted = await centre.start();
    expect(await restarted.pay(request)).toEqual(first);
    await restarted.stop();
    // A repeat with other words is not told the code.
    const another = await centre.pay({ ...request, amountToMinor: 10_000n, amountFromMinor: 10_000n });
    expect(another).toMatchObject({ code: 215, shown: null });
    expect(await soldTimes(request)).toBe(1);
    await expectNowhere(request, first.transactionId!);
  });

  it('the code that came by an inquiry is in the answer as well', async () => {
    for (const end of ['0001', '0080', '0081', '0082', '0083', '0084', '0090', '0091', '0094', '0095']) {
      const request = payRequest({ serviceId: `V${end}` });
      const told = await centre.payUntil(request, isFinal, 20_000);
      expect({ end, ...told }).toMatchObject({ end, code: 0, shown: { displays: voucherOf(request) } });
      expect(await soldTimes(request)).toBe(1);
      await expectNowhere(request, told.transactionId!);
    }
  });

  it('what is refused has no code, and what is not told stays open', async () => {
    for (const [end, code] of [
      ['0005', 5],
      ['0007', 7],
      ['0002', 300],
    ] as const) {
      const request = payRequest({ serviceId: `V${end}` });
      expect(await centre.payUntil(request, isFinal)).toMatchObject({ code, shown: null });
      expect(await soldTimes(request)).toBe(0);
    }
    const request = payRequest({ serviceId: 'V0093' });
    expect((await centre.payUntil(request, isFinal, 6000)).code).toBe(1);
  });

  it('the code that came by a callback is in the answer as well', async () => {
    const request = payRequest({ serviceId: 'V0093' });
    const waits = await centre.pay(request);
    expect(waits.code).toBe(1);
    const secrets = voucherOf(request);
    notice = { externalId: nameOf(request), outcome: { kind: 'executed', reference: 'C-1', secrets } };
    expect(await centre.centre.callback('direct', { headers: {}, body: Buffer.alloc(0) })).toBe('taken');
    // Told again with another code, it changes nothing.
    notice = { ...notice, outcome: { kind: 'executed', reference: 'C-1', secrets: { code: '999' } } };
    expect(await centre.centre.callback('direct', { headers: {}, body: Buffer.alloc(0) })).toBe('taken');
    const told = await centre.pay(request);
    expect(told).toMatchObject({ code: 0, shown: { displays: secrets } });
    await expectNowhere(request, told.transactionId!);
  });

  it('cut in every way, one voucher is sold, and its code is told', async () => {
    const cuts = moments.flatMap((at) => manners.map((by) => ({ at, by })));
    let ordered = 0;
    proxy.follow({
      exchange: (request) => {
        if (!request.startsWith('POST')) return {};
        ordered += 1;
        return ordered > cuts.length ? {} : { cut: cuts[ordered - 1]! };
      },
    });
    const requests = cuts.map(() => payRequest({ serviceId: 'Vproxied' }));
    const answers = await Promise.all(requests.map((request) => centre.payUntil(request, isFinal, 20_000)));
    for (const [index, told] of answers.entries()) {
      const request = requests[index]!;
      expect(told).toMatchObject({ code: 0, shown: { displays: voucherOf(request) } });
      expect(await soldTimes(request)).toBe(1);
      await expectNowhere(request, told.transactionId!);
    }
    for (const { at, by } of cuts) expect(proxy.count(`${at}, ${by}`)).toBe(1);
  });

  it('with another key there is no answer, rather than one without the code; the payment is as it was', async () => {
    const request = payRequest({ serviceId: 'V1234' });
    const first = await centre.pay(request);
    const before = await centre.payment(request.agentTransactionId);
    parts.secretKey = Buffer.alloc(32, 8);
    const stranger = await centre.start();
    parts.secretKey = Buffer.alloc(32, 7);
    for (let n = 0; n < 2; n += 1) {
      const failed = await stranger.pay(request).catch((error: unknown) => error);
      expect(failed).toBeInstanceOf(Overloaded);
      expect(failed).toMatchObject({ retryAfterS: 60 });
    }
    expect(lines.at(-1)).toBe(
      `{"transactionId":"${first.transactionId}"} what a payment shows was encrypted with another key; ` +
        'give the centre the key it had then',
    );
    // Payments without codes are answered as ever.
    expect((await stranger.pay(payRequest())).code).toBe(0);
    await stranger.stop();
    expect(await centre.payment(request.agentTransactionId)).toEqual(before);
    expect(await centre.pay(request)).toEqual(first);
  });

  it("another payment's code put into the row is not told", async () => {
    const [request, victim] = [payRequest({ serviceId: 'V1234' }), payRequest({ serviceId: 'V1234' })];
    await Promise.all([centre.pay(request), centre.pay(victim)]);
    await centre.owner.query(
      `update payments set shown = (select shown from payments where agent_transaction_id = $2)
       where agent_transaction_id = $1`,
      [request.agentTransactionId, victim.agentTransactionId],
    );
    await expect(centre.pay(request)).rejects.toBeInstanceOf(Overloaded);
  });
});
