import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { connectors } from '../src/providers/connectors.js';
import type { HttpResponse, Order, Sender } from '../src/providers/contract.js';
import type { RegistryRow } from '../src/providers/sandbox/registry.js';
import { type Sandbox, startSandbox } from '../src/providers/sandbox/server.js';
import { sandboxConnector } from '../src/providers/sandbox-connector.js';
import { createSender } from '../src/providers/send.js';

const scratch = mkdtempSync(join(tmpdir(), 'tolem-sandbox-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

let serial = 0;
const next = () => {
  serial += 1;
  return serial;
};
const freshDir = () => join(scratch, `data-${next()}`);
const freshId = () => `4-${next()}`;
const never = Number.POSITIVE_INFINITY;

function orderFor(account: string, externalId = freshId()): Order {
  return {
    externalId,
    serviceCode: 'mobile',
    account,
    amountMinor: 20_000n,
    currency: 'KZT',
    extras: {},
    extraServices: null,
    transactionId: 64n,
    again: false,
    acceptedAt: new Date('2026-01-31T10:00:00.000Z'),
  };
}

const inquiryFor = (account: string, serviceCode = 'mobile') => ({
  externalId: freshId(),
  serviceCode,
  account,
  amountMinor: 20_000n,
  currency: 'KZT',
  extras: {},
});

function senderTo(baseUrl: string, answerMsMax = 3000): Sender {
  const facts = {
    providerId: 'sandbox',
    name: 'Sandbox',
    connector: 'sandbox',
    settings: { baseUrl, answerMsMax, queueMsMax: 20_000 },
    paused: false,
  };
  return createSender({
    providers: () => new Map([['sandbox', facts]]),
    connectors,
    log: { error: (_, message) => expect.fail(message) },
  });
}

describe('the end of the account scripts the outcome', () => {
  const settleMs = 600;
  const slowMs = 400;
  let sandbox: Sandbox;
  let sender: Sender;

  beforeAll(async () => {
    sandbox = await startSandbox({
      port: 0,
      host: '127.0.0.1',
      dataDir: freshDir(),
      delayMs: 0,
      settleMs,
      slowMs,
    });
    sender = senderTo(sandbox.url);
  });
  afterAll(async () => {
    await sender.close(0);
    await sandbox.close();
  });

  const executed = { kind: 'executed', reference: expect.stringMatching(/^S\d+$/) };
  const refused = (code: number) => ({ kind: 'refused', code, detail: `code ${code}` });
  const unknown = (detail: string | RegExp) => ({ kind: 'unknown', detail: expect.stringMatching(detail) });
  const cut = unknown(/^the connection failed: UND_ERR_SOCKET$/);

  // account end, answer of pay, status at once, executions
  it.each([
    ['0005', refused(5), refused(5), 0],
    ['0007', refused(7), refused(7), 0],
    ['0241', refused(241), refused(241), 0],
    ['0242', refused(242), refused(242), 0],
    ['0300', refused(300), refused(300), 0],
    ['0001', { kind: 'pending', reference: null }, { kind: 'pending', reference: null }, 0],
    ['0002', { kind: 'pending', reference: null }, { kind: 'pending', reference: null }, 0],
    ['0090', cut, executed, 1],
    ['0091', cut, { kind: 'not_found' }, 0],
    ['0092', executed, executed, 1],
    ['0093', unknown(/^the provider says unknown$/), unknown(/^the provider says unknown$/), 0],
    ['0094', unknown(/^HTTP 500$/), executed, 1],
    ['0095', unknown(/^the answer is not JSON$/), executed, 1],
    ['0096', executed, executed, 1],
    ['1234', executed, executed, 1],
    ['7', executed, executed, 1],
  ])('pay to an account that ends with %s', async (end, payOutcome, statusOutcome, executions) => {
    const order = orderFor(end.length === 4 ? `777${end}` : end);
    const startedMs = performance.now();
    expect((await sender.pay('sandbox', order, never)).outcome).toEqual(payOutcome);
    if (end === '0092') expect(performance.now() - startedMs).toBeGreaterThan(slowMs - 5);
    expect((await sender.status('sandbox', order)).outcome).toEqual(statusOutcome);
    const rows = (await sandbox.registry()).filter((row) => row.externalId === order.externalId);
    expect(rows).toHaveLength(executions);
    for (const row of rows) {
      expect(row).toEqual({
        externalId: order.externalId,
        account: order.account,
        amount: '200.00',
        executedAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
      });
    }
  });

  const okAtCheck = '0007 0241 0242 0300 0001 0002 0090 0091 0092 0093 0094 0095 1234'.split(' ');
  const checks: [string, object][] = [
    ['0005', refused(5)],
    ...okAtCheck.map((end): [string, object] => [end, { kind: 'ok' }]),
  ];
  it.each(checks)('check of an account that ends with %s', async (end, outcome) => {
    expect((await sender.check('sandbox', inquiryFor(`777${end}`))).outcome).toEqual(outcome);
  });

  it('check of an account that ends with 0096 is never answered', async () => {
    const impatient = senderTo(sandbox.url, 300);
    const { outcome } = await impatient.check('sandbox', inquiryFor('7770096'));
    expect(outcome).toEqual({ kind: 'unknown', detail: 'no whole answer within 300 ms' });
    await impatient.close(0);
  });

  it('0001 is executed when its time has come, 0002 is refused then', async () => {
    const good = orderFor('7770001');
    const bad = orderFor('7770002');
    const beforeMs = Date.now();
    await Promise.all([sender.pay('sandbox', good, never), sender.pay('sandbox', bad, never)]);
    const afterMs = Date.now();
    await delay(settleMs + 5);
    expect((await sender.status('sandbox', good)).outcome).toEqual(executed);
    expect((await sender.status('sandbox', bad)).outcome).toEqual(refused(300));
    const rows = (await sandbox.registry()).filter((row) =>
      [good, bad].some((order) => order.externalId === row.externalId),
    );
    expect(rows.map((row) => row.externalId)).toEqual([good.externalId]);
    expect(Date.parse(rows[0]!.executedAt)).toBeGreaterThanOrEqual(beforeMs + settleMs);
    expect(Date.parse(rows[0]!.executedAt)).toBeLessThanOrEqual(afterMs + settleMs);
  });

  it('0091 executes when asked again', async () => {
    const order = orderFor('7770091');
    await sender.pay('sandbox', order, never);
    expect((await sender.pay('sandbox', order, never)).outcome).toEqual(executed);
    expect((await sender.status('sandbox', order)).outcome).toEqual(executed);
  });

  it('an external id paid twice is executed twice', async () => {
    const order = orderFor('7771234');
    await Promise.all([sender.pay('sandbox', order, never), sender.pay('sandbox', order, never)]);
    const rows = (await sandbox.registry()).filter((row) => row.externalId === order.externalId);
    expect(rows).toHaveLength(2);
  });

  it('an id never seen is not found', async () => {
    const outcome = (await sender.status('sandbox', { externalId: '4/never ü', serviceCode: 'mobile' }))
      .outcome;
    expect(outcome).toEqual({ kind: 'not_found' });
  });

  it("check offers the contract's own examples, by service", async () => {
    const offer = async (service: string) =>
      (await sender.check('sandbox', inquiryFor('7771234', service))).outcome;
    expect(await offer('mobile')).toEqual({ kind: 'ok' });
    expect(await offer('game')).toEqual({ kind: 'ok' });
    expect(await offer('herbalife')).toEqual({
      kind: 'ok',
      displays: { fio: 'Test fio', info: 'Сумма к оплате 20000.00 тенге', fixedAmount: '20000.00' },
    });
    expect(await offer('bank')).toEqual({
      kind: 'ok',
      contracts: [
        ['000000587', '1/00-Ф', '1000.00', '20200215000000'],
        ['000000588', '2/00-Ф', '2000.00', '20200216000000'],
        ['000000589', '3/00-Ф', '3000.00', '20200217000000'],
      ].map(([contractId, contractNumber, contractSum, contractDate]) => ({
        name: 'Петров',
        contractId,
        contractNumber,
        contractSum,
        contractDate,
      })),
    });
    const line = { minSumMinor: 0n, maxSumMinor: 0n, debtInfo: '0.00', lastCount: '0.00', comment: '' };
    expect(await offer('alseco')).toEqual({
      kind: 'ok',
      invoices: [
        {
          invoiceId: '2020020003535444',
          formedDate: '20200201000000',
          expireDate: '20200229000000',
          clientName: 'Иванов Иван Иванович',
          clientAddress: 'микрорайон 2, дом 42, кв.4',
          lines: [
            {
              ...line,
              subServiceId: '36',
              subServiceName: 'Электроэнергия',
              paySumMinor: 35_980n,
              tariffMinor: 0n,
              isMeter: true,
              prevCount: '4870.00',
              si: 'тг/м2',
            },
            {
              ...line,
              subServiceId: '13',
              subServiceName: 'ТО газа ',
              paySumMinor: 8_000n,
              tariffMinor: 0n,
              isMeter: false,
              prevCount: '0.00',
              si: 'тг/плита',
            },
            {
              ...line,
              subServiceId: '2',
              subServiceName: 'Отопление',
              paySumMinor: 92_520n,
              tariffMinor: 50_000n,
              isMeter: false,
              prevCount: '0.00',
              si: 'тг/м2',
            },
          ],
        },
      ],
    });
  });

  it.each([
    ['no JSON', 'account=1', 400],
    ['no amount', JSON.stringify({ externalId: '1', service: 'mobile', account: '1' }), 400],
    [
      'an amount that is a number',
      JSON.stringify({ externalId: '1', service: 'm', account: '1', amount: 2 }),
      400,
    ],
    ['too long', 'x'.repeat(70_000), 413],
  ])('a pay request that is wrong (%s) executes nothing', async (_, body, status) => {
    const before = await sandbox.registry();
    const response = await fetch(`${sandbox.url}/pay`, { method: 'POST', body }).catch(() => null);
    if (response) expect(response.status).toBe(status);
    expect(await sandbox.registry()).toEqual(before);
  });
});

it('answers to check and pay are held back by --delay-ms, the execution is not', async () => {
  const sandbox = await startSandbox({
    port: 0,
    host: '127.0.0.1',
    dataDir: freshDir(),
    delayMs: 150,
    settleMs: 0,
    slowMs: 0,
  });
  const sender = senderTo(sandbox.url);
  const startedMs = performance.now();
  const paid = sender.pay('sandbox', orderFor('7771234'), never);
  await delay(70);
  expect(await sandbox.registry()).toHaveLength(1);
  await paid;
  expect(performance.now() - startedMs).toBeGreaterThan(145);
  await sender.close(0);
  await sandbox.close();
});

describe('the process', () => {
  const compiled = join(scratch, 'compiled');
  const running: ChildProcess[] = [];

  beforeAll(() => {
    const typescript = dirname(createRequire(import.meta.url).resolve('typescript/package.json'));
    const server = join(import.meta.dirname, '..');
    execFileSync(process.execPath, [
      join(typescript, 'bin/tsc'),
      ...['--project', server, '--incremental', 'false', '--tsBuildInfoFile', 'null'],
      ...['--outDir', compiled, '--noCheck'],
    ]);
    writeFileSync(join(compiled, 'package.json'), '{"type":"module"}');
  });
  afterEach(() => {
    for (const child of running.splice(0)) child.kill('SIGKILL');
  });

  async function run(dataDir: string, ...options: string[]): Promise<{ child: ChildProcess; url: string }> {
    const child = spawn(process.execPath, [
      join(compiled, 'providers/sandbox/main.js'),
      ...['--port', '0', '--data-dir', dataDir, ...options],
    ]);
    running.push(child);
    const [line] = await once(createInterface(child.stdout!), 'line');
    expect(line).toMatch(/^sandbox provider listening on http:\/\/127\.0\.0\.1:\d+$/);
    return { child, url: line.split(' ').at(-1) };
  }

  async function kill(child: ChildProcess): Promise<void> {
    const gone = once(child, 'exit');
    child.kill('SIGKILL');
    await gone;
  }

  const registryOf = async (url: string) => (await (await fetch(`${url}/registry`)).json()) as RegistryRow[];

  it('killed under load, it has kept every payment that it said was executed, and each line is whole', async () => {
    const dataDir = freshDir();
    const first = await run(dataDir);
    const sender = senderTo(first.url);
    const said = new Set<string>();
    const orders = Array.from({ length: 1500 }, () => orderFor('7771234'));
    const calls = orders.map(async (order) => {
      const { outcome } = await sender.pay('sandbox', order, never);
      if (outcome.kind === 'executed') said.add(order.externalId);
      if (said.size === 300) first.child.kill('SIGKILL');
    });
    await Promise.all(calls);
    await sender.close(0);
    expect(said.size).toBeGreaterThanOrEqual(300);
    expect(said.size).toBeLessThan(1500);

    const second = await run(dataDir);
    const rows = await registryOf(second.url);
    const kept = new Set(rows.map((row) => row.externalId));
    expect([...said].filter((externalId) => !kept.has(externalId))).toEqual([]);
    expect(kept.size).toBe(rows.length);
    const again = senderTo(second.url);
    const statuses = await Promise.all(
      orders.map(async (order) => {
        const { outcome } = await again.status('sandbox', order);
        return [order.externalId, outcome.kind];
      }),
    );
    expect(statuses).toEqual(
      orders.map(({ externalId }) => [externalId, kept.has(externalId) ? 'executed' : 'not_found']),
    );
    await again.close(0);
  }, 20_000);

  it('a restart continues 0001 and 0002, remembers that 0091 was cut, and what was lost or refused', async () => {
    const dataDir = freshDir();
    const orders = Object.fromEntries(
      ['0001', '0002', '0091', '0093', '0007', '1234'].map((end) => [end, orderFor(`777${end}`)]),
    );
    const first = await run(dataDir, '--settle-ms', '2000');
    let sender = senderTo(first.url);
    const beforeMs = Date.now();
    await Promise.all(Object.values(orders).map((order) => sender.pay('sandbox', order, never)));
    const acceptedMs = Date.now();
    await sender.close(0);
    await kill(first.child);

    // Another settle time: what was accepted before keeps the one it was accepted with.
    const second = await run(dataDir, '--settle-ms', '60000');
    sender = senderTo(second.url);
    const kindOf = async (end: string) => {
      const { outcome } = await sender.status('sandbox', orders[end]!);
      return outcome.kind === 'refused' ? outcome.code : outcome.kind;
    };
    expect(await kindOf('0001')).toBe('pending');
    expect(await kindOf('0002')).toBe('pending');
    expect((await registryOf(second.url)).map((row) => row.account)).toEqual(['7771234']);
    expect(await kindOf('0091')).toBe('not_found');
    expect(await kindOf('0093')).toBe('unknown');
    expect(await kindOf('0007')).toBe(7);
    expect(await kindOf('1234')).toBe('executed');
    expect((await sender.pay('sandbox', orders['0091']!, never)).outcome.kind).toBe('executed');

    await delay(acceptedMs + 2005 - Date.now());
    expect(await kindOf('0001')).toBe('executed');
    expect(await kindOf('0002')).toBe(300);
    const late = (await registryOf(second.url)).find((row) => row.account === '7770001');
    expect(Date.parse(late!.executedAt)).toBeGreaterThanOrEqual(beforeMs + 2000);
    expect(Date.parse(late!.executedAt)).toBeLessThanOrEqual(acceptedMs + 2000);
    await sender.close(0);
  });

  it.each([
    ['an unfinished line', '{"externalId":"4-x","account":"77'],
    ['a garbled line', '\0\0\0garbage\n'],
  ])('%s at the end of the registry is cut off', async (_, tail) => {
    const dataDir = freshDir();
    const first = await run(dataDir);
    let sender = senderTo(first.url);
    await sender.pay('sandbox', orderFor('7771234'), never);
    await kill(first.child);
    await sender.close(0);
    appendFileSync(join(dataDir, 'registry.jsonl'), tail);

    const second = await run(dataDir);
    sender = senderTo(second.url);
    await sender.pay('sandbox', orderFor('7775678'), never);
    await sender.close(0);
    expect((await registryOf(second.url)).map((row) => row.account)).toEqual(['7771234', '7775678']);
    expect(readFileSync(join(dataDir, 'registry.jsonl'), 'utf8')).not.toContain(tail);
  });

  it('with damage elsewhere it does not start', async () => {
    const dataDir = freshDir();
    const first = await run(dataDir);
    await kill(first.child);
    appendFileSync(join(dataDir, 'registry.jsonl'), 'garbage\n{"externalId":"4-x"}\n');
    const child = spawn(process.execPath, [
      join(compiled, 'providers/sandbox/main.js'),
      ...['--port', '0', '--data-dir', dataDir],
    ]);
    running.push(child);
    const [line] = await once(createInterface(child.stderr!), 'line');
    expect(line).toMatch(/registry\.jsonl: line 1 is damaged/);
  });

  it('with --with-parent it ends when its parent is gone, on SIGTERM at once', async () => {
    const orphan = await run(freshDir(), '--with-parent');
    const orphanGone = once(orphan.child, 'exit');
    orphan.child.stdin!.destroy();
    expect(await orphanGone).toEqual([0, null]);

    const told = await run(freshDir());
    const toldGone = once(told.child, 'exit');
    told.child.stdin!.destroy();
    await delay(50);
    expect(told.child.exitCode).toBeNull();
    told.child.kill('SIGTERM');
    expect(await toldGone).toEqual([0, null]);
  });
});

describe('only an answer in the words of the protocol proves anything', () => {
  const order = orderFor('7771234', '4-77');
  const inquiry = { ...inquiryFor('7771234'), externalId: '4-77' };
  const connector = sandboxConnector({});
  const answer = (body: unknown, status = 200): HttpResponse => ({
    status,
    headers: {},
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });

  it.each([
    ['HTTP 404 with a refusal', answer({ externalId: '4-77', status: 'refused', code: 5 }, 404)],
    ['HTTP 302', answer({ externalId: '4-77', status: 'executed', reference: 'S1' }, 302)],
    ['an empty body', answer('')],
    ['an array', answer([])],
    ['null', answer('null')],
    ['a page', answer('<html>executed</html>')],
    ['half an answer', answer('{"externalId":"4-77","status":"executed","refe')],
    ['no status', answer({ externalId: '4-77', reference: 'S1' })],
    ['a status not in the list', answer({ externalId: '4-77', status: 'done', reference: 'S1' })],
    ['a status in capitals', answer({ externalId: '4-77', status: 'EXECUTED', reference: 'S1' })],
    ['no reference', answer({ externalId: '4-77', status: 'executed' })],
    ['another payment', answer({ externalId: '4-78', status: 'executed', reference: 'S1' })],
    ['no payment', answer({ status: 'executed', reference: 'S1' })],
    ['a refusal of another payment', answer({ externalId: '4-78', status: 'refused', code: 5 })],
    ['a refusal without a code', answer({ externalId: '4-77', status: 'refused' })],
    ['a refusal with a code not in the list', answer({ externalId: '4-77', status: 'refused', code: 99 })],
    ['a refusal with a code in words', answer({ externalId: '4-77', status: 'refused', code: '5' })],
  ])('%s', (_, response) => {
    expect(connector.parsePay(response, order).kind).toBe('unknown');
    expect(connector.parseStatus(response, order).kind).toBe('unknown');
    expect(connector.parseCheck(response, inquiry).kind).toBe('unknown');
  });

  it('"not found" in answer to a payment', () => {
    const response = answer({ externalId: '4-77', status: 'not_found' });
    expect(connector.parsePay(response, order).kind).toBe('unknown');
    expect(connector.parseStatus(response, order).kind).toBe('not_found');
  });

  it.each([
    ['an amount that is no amount', { subServiceId: '1', subServiceName: 'x', paySum: '1,5' }],
    ['an amount with tenths of a tiyn', { subServiceId: '1', subServiceName: 'x', paySum: '1.005' }],
    ['a line without an id', { subServiceName: 'x', paySum: '1.50' }],
  ])('an invoice with %s', (_, line) => {
    const response = answer({ externalId: '4-77', status: 'ok', invoices: [{ services: [line] }] });
    expect(connector.parseCheck(response, inquiry).kind).toBe('unknown');
  });

  it('settings: not found is trusted after 3 s unless told otherwise', () => {
    expect(connector.offers).toEqual({ deduplicates: false, status: true, notFoundTrustedAfterMs: 3000 });
    expect(sandboxConnector({ notFoundTrustedAfterMs: null }).offers.notFoundTrustedAfterMs).toBeNull();
    expect(() => sandboxConnector({ notFoundTrustedAfterMs: '3 s' })).toThrow(
      /^notFoundTrustedAfterMs: must be/,
    );
  });
});
