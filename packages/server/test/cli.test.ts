import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'lossless-json';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { run } from '../src/cli.js';
import { settings } from '../src/config.js';
import { openCentre, payRequest } from './support/centre.js';
import { temporaryDirectory } from './support/database.js';

let centre: Awaited<ReturnType<typeof openCentre>>;
let directory: string;

beforeAll(async () => {
  centre = await openCentre();
  directory = temporaryDirectory();
});

afterAll(async () => {
  await centre.close();
  rmSync(directory, { recursive: true, force: true });
});

async function tolem(args: readonly string[], env: NodeJS.ProcessEnv = {}) {
  let out = '';
  let err = '';
  const code = await run(
    args,
    { TOLEM_DATABASE_URL: centre.database.url, TOLEM_OPERATOR: 'operator-1', ...env },
    { stdout: { write: (text) => (out += text) }, stderr: { write: (text) => (err += text) } },
  );
  return { code, out, err };
}

/** The JSON that a command prints; integers of any length as bigint. */
async function tolemJson(...args: string[]) {
  const { code, out, err } = await tolem([...args, '--json']);
  expect(err).toBe('');
  expect(code).toBe(0);
  // biome-ignore lint/suspicious/noExplicitAny: what was printed is checked by the tests.
  return parse(out, null, BigInt) as any;
}

function written(name: string, content: unknown): string {
  const path = join(directory, name);
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
  return path;
}

describe('usage', () => {
  test.each<[string, string[], number]>([
    ['no command', [], 2],
    ['an unknown command', ['agents'], 2],
    ['an unknown subcommand', ['agent', 'remove'], 2],
    ['an unknown option', ['agent', 'list', '--all'], 2],
    ['a missing argument', ['agent', 'show'], 2],
    ['an id that is no number', ['agent', 'show', 'four'], 2],
    ['an id in exponent form', ['agent', 'show', '4e0'], 2],
    ['an amount with a comma', ['agent', 'top-up', '4', '1,00'], 2],
    ['a third decimal', ['agent', 'top-up', '4', '1.001'], 2],
    ['a negative top-up', ['agent', 'top-up', '4', '-1.00'], 2],
    ['a choice that is none', ['agent', 'language', '4', 'de'], 2],
    ['a correction without reason', ['agent', 'correct', '4', '1.00'], 2],
    ['a rate given twice', ['rate', 'set', 'KZT', 'USD', '0.002', '--inverse', '480'], 2],
    ['no rate', ['rate', 'set', 'KZT', 'USD'], 2],
    ['eleven decimals', ['rate', 'set', 'KZT', 'USD', '0.00208333333'], 2],
    ['nothing to find by', ['payments', 'find', '--agent', '4'], 2],
    ['an unknown agent', ['agent', 'show', '999'], 1],
    ['help', ['--help'], 0],
    ['help of a command', ['agent', 'top-up', '--help'], 0],
  ])('%s: exit code as documented, words on the right stream', async (_, args, code) => {
    const ended = await tolem(args);
    expect(ended.code).toBe(code);
    expect(ended.out === '').toBe(code !== 0);
    expect(ended.err === '').toBe(code === 0);
  });

  test('every command has a description, and its help says --json and --operator', async () => {
    const { out } = await tolem(['--help']);
    const groups = [...out.matchAll(/^ {2}([a-z]+) /gm)]
      .map((match) => match[1]!)
      .filter((each) => each !== 'help');
    expect(groups).toEqual([
      'agent',
      'token',
      'address',
      'service',
      'tariff',
      'rate',
      'rule',
      'numbering',
      'provider',
      'route',
      'simulate',
      'review',
      'payments',
      'verify',
      'audit',
      'config',
    ]);
    for (const group of groups) {
      const help = (await tolem([group, '--help'])).out;
      expect(help).toMatch(/--json/);
      expect(help).toMatch(/--operator/);
      const commands = help.split('Commands:\n')[1]?.trimEnd().split('\n') ?? [];
      for (const line of commands) expect(line, line).toMatch(/^ {2,}\S.* {2,}\S|^ {10,}\S/);
    }
  });
});

describe('operators', () => {
  test.each([
    [['agent', 'create', 'X', '--tariff', 'demo']],
    [['agent', 'top-up', '4', '1.00']],
    [['agent', 'correct', '4', '-1.00', '--reason', 'r']],
    [['agent', 'limit', '4', '1.00']],
    [['agent', 'notify', '4', '1.00']],
    [['agent', 'block', '4']],
    [['token', 'create', '4']],
    [['token', 'revoke', '1']],
    [['address', 'add', '4', '192.0.2.1']],
    [['address', 'only', '4', 'on']],
    [['service', 'off', 'P1011']],
    [['service', 'deny', 'P1011', '4']],
    [['rate', 'set', 'KZT', 'USD', '1']],
    [['rule', 'set', 'r', '--above', '1.00']],
    [['rule', 'remove', 'above-500000']],
    [['provider', 'pause', 'sandbox']],
    [['route', 'off', 'P1011', 'sandbox']],
    [['review', 'approve', '1', '--note', 'n']],
    [['payments', 'settle', '1', 'executed', '--evidence', 'e']],
    [['payments', 'reverse', '1', '--evidence', 'e']],
  ])('%j is refused without an operator, and nothing is audited', async (args) => {
    const count = async () => (await centre.owner.query('select count(*) from audit')).rows[0].count;
    const before = await count();
    const { code, err } = await tolem(args, { TOLEM_OPERATOR: '' });
    expect(code).toBe(1);
    expect(err).toMatch(/--operator NAME or set TOLEM_OPERATOR/);
    expect(await count()).toBe(before);
  });

  test('the option goes before the environment, and stands before or after the command', async () => {
    await tolem(['--operator', 'first', 'agent', 'language', '4', 'kk']);
    await tolem(['agent', 'language', '4', 'ru', '--operator', 'second']);
    await tolem(['agent', 'language', '4', 'en']);
    await tolem(['agent', 'language', '4', 'ru']);
    const rows = await tolemJson('audit', 'list', '--object', 'agent:4', '--limit', '4');
    expect(rows.map((each: { operator: string }) => each.operator)).toEqual([
      'operator-1',
      'operator-1',
      'second',
      'first',
    ]);
  });
});

describe('agents', () => {
  test('from creation to correction, in words and in exact JSON', async () => {
    const created = await tolemJson(
      'agent',
      'create',
      'Киоски',
      '--tariff',
      'demo',
      '--language',
      'kk',
      '--id',
      '999999999999',
    );
    expect(created).toMatchObject({
      agentId: 999_999_999_999n,
      name: 'Киоски',
      available: '0.00',
      creditLimit: '0.00',
    });
    const id = '999999999999';

    const topUp = await tolem(['agent', 'top-up', id, '1234567890123.45', '--document', 'PO-7']);
    expect(topUp.out).toMatch(
      /^Agent \d+ was topped up by 1234567890123\.45 KZT \(operation \d+\); 1234567890123\.45 KZT available\.\n$/,
    );
    const again = await tolem(['agent', 'top-up', id, '1234567890123.45', '--document', 'PO-7']);
    expect(again.out).toMatch(/^Document PO-7 moved this money before .* nothing was moved now/);
    expect(again.code).toBe(0);

    const corrected = await tolem(['agent', 'correct', id, '-0.45', '--reason', 'entered wrongly']);
    expect(corrected.out).toMatch(/was corrected by -0\.45 KZT .*; 1234567890123\.00 KZT available/);
    expect(await tolemJson('agent', 'correct', id, '-23.00', '--reason', 'r')).toMatchObject({
      fresh: true,
      available: '1234567890100.00',
      operationId: expect.any(BigInt),
    });

    await tolemJson('agent', 'limit', id, '500.00');
    await tolemJson('agent', 'notify', id, '100.00', '--email', 'someone@example.kz');
    await tolemJson('agent', 'policy', id, 'listed');
    await tolemJson('agent', 'block', id);
    await tolemJson('service', 'allow', 'P1011', id);
    await tolemJson('address', 'add', id, '192.0.2.7/24');
    const shown = await tolemJson('agent', 'show', id);
    expect(shown).toMatchObject({
      creditLimit: '500.00',
      notification: '100.00',
      notificationEmail: 'someone@example.kz',
      servicePolicy: 'listed',
      blocked: true,
      addresses: ['192.0.2.0/24'],
      services: [{ serviceId: 'P1011', allowed: true }],
      tokens: [],
    });
    expect(await tolemJson('agent', 'notify', id, '--no-email')).toMatchObject({
      notification: '100.00',
      notificationEmail: null,
    });
    expect((await tolemJson('agent', 'unblock', id)).blocked).toBe(false);
    expect((await tolem(['agent', 'show', id])).out).toMatch(/available +1234567890100\.00 KZT\n/);

    const refused = await tolem(['agent', 'correct', id, '-1234567890600.01', '--reason', 'r']);
    expect(refused).toMatchObject({ code: 1, out: '' });
    expect(refused.err).toMatch(/At most 1234567890600\.00 can be taken/);
  });

  test('a table is aligned, numbers to the right, and names cannot steer the terminal', async () => {
    const { agentId } = await tolemJson('agent', 'create', 'evil\u001b[2J\u202ename', '--tariff', 'demo');
    const { out } = await tolem(['agent', 'list']);
    const lines = out.trimEnd().split('\n');
    const [heading, first] = lines as [string, string];
    expect(heading).toMatch(/^ +agent {2}name/);
    expect(first.indexOf('10000000.00') + '10000000.00'.length).toBe(
      heading.indexOf('available') + 'available'.length,
    );
    expect(out).not.toMatch(/[\u001b\u202e]/);
    expect(lines.find((line) => line.includes(`${agentId}  evil?[2J?name`))).toBeDefined();
  });

  test('an address book: add, know by address alone, list, remove', async () => {
    const { agentId } = await tolemJson('agent', 'create', 'A', '--tariff', 'demo');
    const id = String(agentId);
    expect((await tolem(['address', 'only', id, 'on'])).err).toMatch(/add one first/);
    await tolemJson('address', 'add', id, '203.0.113.9');
    expect((await tolemJson('address', 'only', id, 'on')).knownByAddress).toBe(true);
    expect((await tolemJson('address', 'only', id, 'off')).knownByAddress).toBe(false);
    expect((await tolem(['address', 'list', id])).out).toMatch(/203\.0\.113\.9\/32 /);
    expect((await tolem(['address', 'remove', id, '203.0.113.9'])).out).toMatch(
      /may come from any address now/,
    );
  });
});

describe('tokens', () => {
  test("the text is shown once, states carry the contract's words, the token pays only between", async () => {
    const { out } = await tolem(['token', 'create', '4', '--name', 'kiosk']);
    const [token, words] = out.split('\n') as [string, string];
    expect(token).toMatch(/^tlm_[A-Za-z0-9_-]{43}$/);
    expect(words).toContain('Ожидайте подтверждения');
    const tokenId = /Token (\d+)/.exec(words)![1]!;
    expect((await tolem(['token', 'confirm', tokenId])).out).toBe(
      `Token ${tokenId} of agent 4: Токен подтвержден.\n`,
    );
    expect(await tolemJson('token', 'list', '--agent', '4', '--state', 'confirmed')).toContainEqual(
      expect.objectContaining({ tokenId: BigInt(tokenId), name: 'kiosk', stateText: 'Токен подтвержден' }),
    );
    expect((await tolem(['token', 'revoke', tokenId])).out).toBe(
      `Token ${tokenId} of agent 4: Токен отозван.\n`,
    );
    const listed = await tolem(['token', 'list']);
    expect(listed.out).toContain('Токен отозван');
    expect(listed.out).not.toContain(token.slice(4));
    expect((await tolem(['token', 'confirm', tokenId])).code).toBe(1);
  });
});

describe('catalogue', () => {
  test('services printed as JSON are a file that import reads; a dry run needs no operator and changes nothing', async () => {
    const { out } = await tolem(['service', 'list', '--json']);
    const same = written('same.json', out);
    expect(await tolemJson('service', 'import', same)).toEqual({
      added: [],
      changed: [],
      unchangedCount: 9n,
    });

    const changed = written('changed.json', out.replaceAll('"1000000.00"', '"2000000.00"'));
    const dry = await tolem(['service', 'import', changed, '--dry-run'], { TOLEM_OPERATOR: '' });
    expect(dry.code).toBe(0);
    expect(dry.out).toMatch(/^changed {2}P1011: amountMaxMinor$/m);
    expect(dry.out).toMatch(/0 new, 9 changed, 0 as they were\.\nNothing was changed/);
    expect(await tolemJson('service', 'show', 'P1011')).toMatchObject({ amountMax: '1000000.00' });

    const wrong = written('wrong.json', out.replace('^\\\\d{10}$', '(?!x)'));
    const refused = await tolem(['service', 'import', wrong]);
    expect(refused.code).toBe(1);
    expect(refused.err).toMatch(
      /service P1011, inputs, field account, regexp: the pattern \(\?!x\) cannot be used/,
    );
    expect((await tolem(['service', 'import', join(directory, 'none.json')])).err).toMatch(
      /cannot be read \(ENOENT\)/,
    );
  });

  test('maintenance and off are switched and said', async () => {
    expect((await tolem(['service', 'maintenance', 'P0006', 'on'])).out).toMatch(/in maintenance: .* 8/);
    expect((await tolemJson('service', 'maintenance', 'P0006', 'off')).state).toBe('on');
    expect((await tolem(['service', 'off', 'P0006'])).out).toMatch(/155/);
    expect((await tolem(['service', 'maintenance', 'P0006', 'on'])).err).toMatch(/switch it on first/);
    expect((await tolemJson('service', 'on', 'P0006')).state).toBe('on');
    expect((await tolem(['service', 'deny', 'P0006', '4'])).out).toBe('Agent 4 may not sell P0006.\n');
    expect((await tolem(['service', 'show', 'P1012'])).out).toMatch(/input +ev_account1 +yes +Номер заказа/);
  });

  test('a tariff printed as JSON is a file that set reads', async () => {
    const main = {
      tariffId: 'main',
      name: 'Main',
      lines: [
        { serviceId: null, feePercent: '1.5', feeMin: '10.00', addedMaxPercent: '20' },
        { serviceId: 'P1011', rewardPercent: '0.0001', feeMax: '0.00' },
      ],
    };
    await tolemJson('tariff', 'set', written('tariff.json', main));
    const { out } = await tolem(['tariff', 'show', 'main', '--json']);
    expect(parse(out)).toMatchObject({
      lines: [{ feePercent: '1.5', feeMax: null }, { rewardPercent: '0.0001' }],
    });
    expect((await tolem(['tariff', 'set', written('again.json', out), '--json'])).out).toBe(out);
    expect((await tolemJson('tariff', 'list')).map((each: { tariffId: string }) => each.tariffId)).toEqual([
      'demo',
      'main',
    ]);
    expect((await tolem(['agent', 'tariff', '4', 'none'])).err).toMatch(/no tariff "none"/);
  });

  test('rates are set either way round and listed with their history', async () => {
    expect(await tolemJson('rate', 'set', 'KZT', 'EUR', '--inverse', '480')).toMatchObject({
      rate: '0.0020833333',
    });
    expect((await tolem(['rate', 'set', 'KZT', 'EUR', '0.0019'])).out).toBe(
      '1 KZT = 0.0019 EUR from now on.\n',
    );
    const rates = await tolemJson('rate', 'list', '--history');
    expect(
      rates
        .filter((each: { toCurrency: string }) => each.toCurrency === 'EUR')
        .map((each: { rate: string }) => each.rate),
    ).toEqual(['0.0019', '0.0020833333']);
    expect(await tolemJson('rate', 'list')).toHaveLength(2);
  });

  test('a pair has its margin, greatest age and jump; files and what is yet to begin are shown', async () => {
    expect(
      await tolemJson('rate', 'pair', 'KZT', 'CHF', '--margin', '1.5', '--max-age', '96', '--jump', '3'),
    ).toMatchObject({ marginPercent: '1.5', ageMaxS: 345_600n, jumpMaxPercent: '3', fed: false });
    expect(await tolemJson('rate', 'pair', 'KZT', 'CHF', '--max-age', 'off', '--feed', 'on')).toMatchObject({
      marginPercent: '1.5',
      ageMaxS: null,
      fed: true,
    });
    expect(await tolemJson('rate', 'pair')).toHaveLength(1);
    const file = written('rates.csv', 'from,to,inverse\nKZT,CHF,480\n');
    expect((await tolem(['rate', 'import', file])).out).toMatch(
      /^KZT +CHF +0.0020525451 +0.0020833333 +1.5 /m,
    );
    expect((await tolem(['rate', 'list'])).out).toMatch(/^KZT +CHF .* yes +file/m);
    expect((await tolem(['rate', 'feed'])).out).toMatch(/^last tried/);
    const later = await tolem(['rate', 'set', 'KZT', 'CHF', '1', '--from', '2099-01-01T00:00:00+05:00']);
    expect(later.out).toBe('1 KZT = 0.9852216748 CHF from 2099-01-01 00:00:00 on.\n');
    for (const wrong of [
      ['pair', 'KZT', 'CHF'],
      ['pair', 'KZT'],
      ['pair', 'KZT', 'CHF', '--margin', '1,5'],
      ['pair', 'KZT', 'CHF', '--max-age', '0'],
      ['set', 'KZT', 'CHF', '1', '--from', '2099-01-01'],
      ['import', written('wrong.csv', 'from,to,inverse\nKZT,CHF,x\n')],
    ])
      expect((await tolem(['rate', ...wrong])).code, wrong.join(' ')).not.toBe(0);
  });

  test('rules are set, listed and removed', async () => {
    await tolemJson('rule', 'set', 'games', '--above', '100.00', '--service', 'P2001');
    expect((await tolem(['rule', 'list'])).out).toMatch(/^games +100\.00 +P2001 +all$/m);
    expect((await tolem(['rule', 'remove', 'games'])).code).toBe(0);
    expect((await tolem(['rule', 'remove', 'games'])).code).toBe(1);
  });

  test('a provider is set only with settings that its connector takes, and is shown without secrets', async () => {
    const file = (settings: object) =>
      written('provider.json', { name: 'P', connector: 'sandbox', settings });
    const refused = await tolem(['provider', 'set', 'p2', file({ baseUrl: 'ftp://x' })]);
    expect(refused.code).toBe(1);
    expect(refused.err).toMatch(/p2 cannot be used: .*baseUrl/);
    expect((await tolem(['provider', 'set', 'p2', written('p.json', { name: 'P' })])).err).toMatch(
      /connector/,
    );
    const right = file({ baseUrl: 'http://127.0.0.1:9', apiKey: 'hush' });
    expect(await tolemJson('provider', 'set', 'p2', right)).toMatchObject({
      settings: { apiKey: '***' },
      paused: false,
    });
    expect((await tolemJson('provider', 'pause', 'p2')).paused).toBe(true);
    expect((await tolemJson('provider', 'resume', 'p2')).paused).toBe(false);
    for (const args of [
      ['provider', 'show', 'p2'],
      ['provider', 'list', '--json'],
      ['audit', 'list', '--json'],
    ]) {
      expect((await tolem(args)).out).not.toContain('hush');
    }
  });

  test('routes are set, changed, listed and removed', async () => {
    const other = written('other.json', {
      name: 'O',
      connector: 'sandbox',
      settings: { baseUrl: 'http://127.0.0.1:9' },
    });
    await tolemJson('provider', 'add', 'other', other);
    expect((await tolem(['route', 'list', 'P1014'])).out).toMatch(
      /^P1014 +sandbox +mobile +0 +1 +0 % \+ 0\.00 +yes$/m,
    );
    expect((await tolem(['route', 'set', 'P1014', 'other'])).err).toMatch(/--code/);
    expect((await tolem(['route', 'set', 'P1014', 'nobody', '--code', 'x'])).err).toMatch(
      /no provider "nobody"/,
    );
    const set = await tolemJson(
      ...[
        'route',
        'set',
        'P1014',
        'other',
        '--code',
        'x',
        '--priority',
        '2',
        '--to',
        '500.00',
        '--day',
        '10000.00',
      ],
      ...['--cost', '1.25', '--field', 'account1=msisdn'],
    );
    expect(set).toMatchObject([
      { providerId: 'sandbox', priority: 0n, on: true },
      {
        ...{
          providerId: 'other',
          providerServiceCode: 'x',
          priority: 2n,
          amountMax: '500.00',
          dayMax: '10000.00',
        },
        ...{ costPercent: '1.25', fields: { account1: 'msisdn' }, on: true },
      },
    ]);
    expect(await tolemJson('route', 'off', 'P1014', 'sandbox')).toMatchObject([{ on: false }, { on: true }]);
    expect(await tolemJson('route', 'set', 'P1014', 'other', '--day', '0')).toMatchObject([
      {},
      { dayMax: null, priority: 2n },
    ]);
    expect(await tolemJson('route', 'remove', 'P1014', 'other')).toHaveLength(1);
    expect((await tolem(['route', 'remove', 'P1014', 'sandbox'])).err).toMatch(/last route/);
    await tolemJson('route', 'on', 'P1014', 'sandbox');
  });

  test('a provider is tested by a question whose answer is told field by field', async () => {
    const well = await tolem([
      'provider',
      'test',
      'sandbox',
      'herbalife',
      '7770017718',
      '--amount',
      '200.00',
    ]);
    expect(well.code).toBe(0);
    expect(well.out).toMatch(/^asked +POST \/check \{.*"account":"7770017718"/m);
    expect(well.out).toMatch(/^answered +HTTP 200$/m);
    expect(well.out).toMatch(/^\/status +ok +as it is$/m);
    expect(well.out).toMatch(/^\/displays\/fio +Test fio +\*{3}$/m);
    expect(well.out).toMatch(/^shown as fixedAmount +20000\.00$/m);
    const refused = await tolem(['provider', 'test', 'sandbox', 'mobile', '7770000005']);
    expect(refused.out).toMatch(/refused: agents are answered 5/);
    const away = await tolem(['provider', 'test', 'p2', 'mobile', '7770017718']);
    expect(away.out).toMatch(/^answered +not at all$/m);
    expect(away.out).toMatch(/it was not sent: .*ECONNREFUSED/);
  });

  test('the numbering plan is imported, looked up and shown', async () => {
    expect(await tolemJson('numbering', 'lookup', '7777731414')).toEqual({
      phone: '7777731414',
      serviceId: 'P1011',
    });
    expect(await tolemJson('numbering', 'lookup', '3007731414')).toMatchObject({ serviceId: null });
    expect((await tolem(['numbering', 'lookup', 'abc'])).code).toBe(1);
    const ported = written('ported.csv', 'phone,service_id\n7777731414,P1015\n');
    expect((await tolem(['numbering', 'import-ported', ported])).out).toBe('1 rows were imported.\n');
    expect((await tolem(['numbering', 'lookup', '7777731414'])).out).toBe('7777731414 is served by P1015.\n');
    const prefixes = written('prefixes.csv', '777,P1011\n70,P1013\n');
    expect((await tolem(['numbering', 'import-prefixes', prefixes])).out).toBe('2 rows were imported.\n');
    expect((await tolem(['numbering', 'show'])).out).toMatch(/prefixes +2 [\s\S]*ported +1 /);
    expect((await tolem(['numbering', 'import-prefixes', written('bad.csv', '777,NONE\n')])).code).toBe(1);
  });
});

describe('payments', () => {
  test('a held payment is listed, approved or rejected, and its story is told', async () => {
    const first = payRequest({ amountToMinor: 600_000_00n });
    const second = payRequest({ amountToMinor: 600_000_00n });
    const held = await centre.pay(first);
    expect(held.code).toBe(153);
    const rejected = await centre.pay(second);
    const ids = [held, rejected].map((each) => String(each.transactionId)) as [string, string];

    const listed = await tolem(['review', 'list']);
    for (const id of ids) expect(listed.out).toContain(id);
    expect(listed.out).toContain('777***7711');
    expect(listed.out).not.toContain('7770017711');
    expect((await tolem(['review', 'list', '--show-account'])).out).toContain('7770017711');

    expect((await tolem(['review', 'approve', ids[0], '--note', 'known payer'])).out).toMatch(/was approved/);
    expect((await centre.payUntil(first, (code) => code === 0)).code).toBe(0);
    expect(await tolemJson('review', 'reject', ids[1], '--note', 'stolen card')).toMatchObject({
      state: 'failed',
      code: 300n,
    });
    expect((await tolem(['review', 'reject', ids[1], '--note', 'again'])).code).toBe(1);

    expect(await tolemJson('payments', 'find', ids[0])).toEqual([
      expect.objectContaining({
        transactionId: held.transactionId,
        amountTo: '600000.00',
        state: 'succeeded',
      }),
    ]);
    const byAgent = ['--agent-transaction', String(first.agentTransactionId), '--agent', '4'];
    expect((await tolem(['payments', 'find', ...byAgent])).out).toContain(ids[0]);
    const story = await tolem(['payments', 'show', ids[0]]);
    expect(story.out).toMatch(/known payer/);
    expect(story.out).not.toContain('7770017711');
    expect((await tolemJson('payments', 'show', ids[0])).history.length).toBeGreaterThan(2);
    expect((await tolem(['payments', 'show', '1'])).code).toBe(1);
  });

  test('a done payment is reversed once, an uncertain one is ended by evidence', async () => {
    const done = await centre.pay(payRequest());
    const id = String(done.transactionId);
    const before = await centre.available();
    expect((await tolem(['payments', 'reverse', id, '--evidence', 'letter 5'])).out).toMatch(/was reversed/);
    expect(await centre.available()).toBe(before + 200_00n);
    expect((await tolem(['payments', 'reverse', id, '--evidence', 'letter 5'])).code).toBe(1);

    const lost = await centre.pay(payRequest({ account: '7770010093' }));
    expect(lost.code).toBe(1);
    const lostId = String(lost.transactionId);
    expect((await tolem(['payments', 'uncertain'])).out).toContain(lostId);
    const settled = await tolemJson(
      'payments',
      'settle',
      lostId,
      'not-executed',
      '--evidence',
      'their register of today',
    );
    expect(settled).toMatchObject({ transactionId: lost.transactionId, code: 300n });
    expect((await tolem(['payments', 'uncertain'])).out).not.toContain(lostId);
  });

  test('what the provider gave with a payment is typed in with its end, and lies encrypted', async () => {
    const request = payRequest({ account: '7770020093' });
    const { transactionId } = await centre.pay(request);
    const key = { TOLEM_SECRET_KEY: Buffer.alloc(32, 7).toString('base64'), TOLEM_DATA_DIR: directory };
    const settle = (result: string, file: string, env: NodeJS.ProcessEnv = key) =>
      tolem(
        [
          ...['payments', 'settle', String(transactionId), result],
          ...['--evidence', 'their letter', '--secrets', file],
        ],
        env,
      );
    const file = written('codes.json', { code: '1234-5678' });
    const refused = [
      await settle('not-executed', file),
      await settle('executed', written('wrong.json', { code: 12 })),
      await settle('executed', written('none.json', '{')),
      await settle('executed', file, { TOLEM_DATA_DIR: directory }),
    ];
    expect(
      refused.map(({ code, err }) => [code, /nothing to show|not a JSON|key is not/.exec(err)?.[0]]),
    ).toEqual([
      ...[
        [1, 'nothing to show'],
        [1, 'not a JSON'],
        [1, 'not a JSON'],
        [1, 'key is not'],
      ],
    ]);
    expect(await centre.pay(request)).toMatchObject({ code: 1 });

    expect((await settle('executed', file)).out).toMatch(/was ended as executed/);
    expect(await centre.pay(request)).toMatchObject({ code: 0, shown: { displays: { code: '1234-5678' } } });
    const { rows } = await centre.owner.query(
      `select (select string_agg(p::text, '') from payments p) || (select string_agg(e::text, '') from payment_events e)
         || (select string_agg(a::text, '') from audit a) as all`,
    );
    expect(rows[0].all).not.toContain('1234-5678');
    expect(rows[0].all).toContain('given');
  });

  test('verify answers 0 for right books, and 1 with the row for wrong ones', async () => {
    const right = await tolem(['verify']);
    expect(right.out).toMatch(/^The books are right: /);
    expect(right.code).toBe(0);
    await centre.owner.query(
      'update agent_balances set available_minor = available_minor + 1 where agent_id = 4',
    );
    const wrong = await tolem(['verify', '--json']);
    expect(wrong.code).toBe(1);
    expect(parse(wrong.out)).toMatchObject({ ok: false, problems: [expect.objectContaining({})] });
    expect(wrong.err).toMatch(/The books are wrong: 1 problems/);
    await centre.owner.query(
      'update agent_balances set available_minor = available_minor - 1 where agent_id = 4',
    );
  });
});

describe('installation', () => {
  test('config lists every setting, and masks what is secret', async () => {
    const rows = await tolemJson('config');
    expect(rows.map((each: { name: string }) => each.name)).toEqual(
      Object.values(settings).map((each) => each.name),
    );
    const { out } = await tolem(['config']);
    expect(out).not.toContain(centre.database.url);
    expect(out).toMatch(/TOLEM_DATABASE_URL +\(secret\) +environment/);
  });

  test('a wrong setting and a database that is away are one line and exit code 1', async () => {
    for (const env of [{ TOLEM_PORT: 'x' }, { TOLEM_DATABASE_URL: 'postgresql://nobody@127.0.0.1:1/none' }]) {
      const { code, out, err } = await tolem(['agent', 'list'], env);
      expect({ code, out }).toEqual({ code: 1, out: '' });
      expect(err.trimEnd().split('\n')).toHaveLength(1);
    }
  });

  test('before the first start the embedded database is made, started for the command, and stopped after it', async () => {
    const dataDir = temporaryDirectory();
    const own = { TOLEM_DATABASE_URL: '', TOLEM_DATA_DIR: dataDir };
    try {
      const rate = await tolem(['rate', 'set', 'KZT', 'USD', '--inverse', '480'], own);
      expect(rate.out).toBe('1 KZT = 0.0020833333 USD from now on.\n');
      const audit = await tolem(['audit', 'list'], own);
      expect(audit.out).toMatch(/operator-1 +rate\.set +rate:KZT\/USD/);
      expect(existsSync(join(dataDir, 'postgres/cluster/postmaster.pid'))).toBe(false);
    } finally {
      rmSync(dataDir, { recursive: true, force: true });
    }
  });
});
