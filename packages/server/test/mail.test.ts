import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { tellLowBalances } from '../src/agents/low-balance.js';
import { openClient } from '../src/db/connect.js';
import { createMailer, type Mail, type Mailer } from '../src/mail.js';
import { freshDatabase, type TestDatabase } from './support/database.js';

const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const each of undo.splice(0).reverse()) await each();
});

interface Line {
  readonly facts: Record<string, unknown>;
  readonly message: string;
}

function recordingLog() {
  const lines: Line[] = [];
  const write = (facts: object, message: string) => void lines.push({ facts: { ...facts }, message });
  return { lines, info: write, warn: write };
}

/** A mail server: keeps what it took. `refuse` answers RCPT with 550, `silent` never says a word. */
async function smtpServer(manner: 'take' | 'refuse' | 'silent' = 'take') {
  const taken: { rcpt: string; data: string }[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {}).on('close', () => sockets.delete(socket));
    if (manner === 'silent') return;
    let text = '';
    let rcpt = '';
    let inData = false;
    socket.write('220 test\r\n');
    socket.on('data', (chunk) => {
      text += chunk.toString('utf8');
      for (;;) {
        const end = text.indexOf(inData ? '\r\n.\r\n' : '\r\n');
        if (end < 0) return;
        const part = text.slice(0, end);
        text = text.slice(end + (inData ? 5 : 2));
        if (inData) {
          taken.push({ rcpt, data: part });
          inData = false;
          socket.write('250 taken\r\n');
        } else if (part.startsWith('RCPT')) {
          rcpt = /<(.*)>/.exec(part)?.[1] ?? '';
          socket.write(manner === 'refuse' ? `550 no such person ${rcpt}\r\n` : '250 ok\r\n');
        } else if (part === 'DATA') {
          inData = true;
          socket.write('354 go on\r\n');
        } else {
          socket.write(part === 'QUIT' ? '221 bye\r\n' : '250 ok\r\n');
        }
      }
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  undo.push(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { url: `smtp://127.0.0.1:${(server.address() as AddressInfo).port}`, taken, sockets };
}

async function temporaryDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'tolem-mail-'));
  undo.push(() => rm(directory, { recursive: true }));
  return directory;
}

/** The text of a mail whose body was encoded for transport. */
function bodyOf(source: string): string {
  const [head = '', body = ''] = source.split(/\r?\n\r?\n([\s\S]*)/);
  return /base64/i.test(head)
    ? Buffer.from(body, 'base64').toString('utf8')
    : Buffer.from(
        body
          .replace(/=\r?\n/g, '')
          .replace(/=([0-9A-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16))),
        'latin1',
      ).toString('utf8');
}

const mail: Mail = { to: 'cashier@example.org', subject: 'Баланс', text: 'Остаток 12.00 KZT\n' };

describe('the mailer', () => {
  it('hands a mail to the SMTP server, one recipient', async () => {
    const { url, taken } = await smtpServer();
    const log = recordingLog();
    const mailer = createMailer({
      smtpUrl: url,
      from: 'Centre <centre@example.org>',
      dataDir: '/nowhere',
      log,
    });
    await mailer.send(mail);
    expect(taken).toHaveLength(1);
    expect(taken[0]!.rcpt).toBe('cashier@example.org');
    expect(taken[0]!.data).toContain('From: Centre <centre@example.org>');
    expect(bodyOf(taken[0]!.data)).toContain('Остаток 12.00 KZT');
    expect(log.lines).toEqual([]);
  });

  it('takes an address for one recipient even when it looks like a list', async () => {
    const { url, taken } = await smtpServer();
    const mailer = createMailer({
      smtpUrl: url,
      from: 'c@example.org',
      dataDir: '/nowhere',
      log: recordingLog(),
    });
    await mailer.send({ ...mail, to: 'a@example.org,b@example.org' }).catch(() => {});
    expect(taken.map(({ rcpt }) => rcpt)).not.toContain('b@example.org');
  });

  it('rejects what the server refuses', async () => {
    const { url } = await smtpServer('refuse');
    const mailer = createMailer({
      smtpUrl: url,
      from: 'c@example.org',
      dataDir: '/nowhere',
      log: recordingLog(),
    });
    await expect(mailer.send(mail)).rejects.toMatchObject({ responseCode: 550 });
  });

  it('gives up a silent server in time and lets go of the connection', async () => {
    const { url, sockets } = await smtpServer('silent');
    const log = recordingLog();
    const mailer = createMailer({
      smtpUrl: url,
      from: 'c@example.org',
      dataDir: '/nowhere',
      log,
      sendMsMax: 200,
    });
    const startedAt = performance.now();
    await expect(mailer.send(mail)).rejects.toThrow();
    expect(performance.now() - startedAt).toBeLessThan(3000);
    await expect.poll(() => sockets.size).toBe(0);
  });

  it('without SMTP writes each mail as a file that only its owner may read, and says so once', async () => {
    const dataDir = await temporaryDirectory();
    const log = recordingLog();
    const mailer = createMailer({ smtpUrl: null, from: null, dataDir, log });
    await mailer.send(mail);
    await mailer.send(mail);
    const names = await readdir(join(dataDir, 'mail'));
    expect(names).toHaveLength(2);
    for (const name of names) {
      expect(name).toMatch(/\.eml$/);
      const path = join(dataDir, 'mail', name);
      expect((await stat(path)).mode & 0o777).toBe(0o600);
      const source = await readFile(path, 'utf8');
      expect(source).toContain('To: cashier@example.org');
      expect(bodyOf(source)).toContain('Остаток 12.00 KZT');
    }
    expect(log.lines).toHaveLength(1);
    expect(log.lines[0]!.message).toContain('TOLEM_SMTP_URL');
  });
});

describe('notices of low balances', () => {
  let database: TestDatabase;
  let owner: pg.Client;
  let app: pg.Client;

  beforeAll(async () => {
    database = await freshDatabase();
    owner = await openClient(database.adminOptions);
    app = await openClient(database.appOptions);
    await owner.query(`insert into tariffs values ('t', 'T')`);
  });
  afterAll(async () => {
    await owner?.end();
    await app?.end();
    await database?.drop();
  });

  beforeEach(async () => {
    await owner.query('truncate agents, agent_balances');
    await owner.query(
      `insert into agents (agent_id, name, currency, language, tariff_id, notification_email) values
         (1, 'Киоск', 'KZT', 'ru', 't', 'one@example.org'), (2, 'Дүңгіршек', 'KZT', 'kk', 't', 'two@example.org'),
         (3, 'Kiosk', 'USD', 'en', 't', 'three@example.org'), (4, 'Silent', 'KZT', 'en', 't', null)`,
    );
    await owner.query(
      `insert into agent_balances (agent_id, shard, available_minor, credit_limit_minor, notification_minor)
       select agent_id, 0, 100000, 5000, 20000 from agents`,
    );
  });

  const fallTo = (agentId: number, minor: number) =>
    owner.query('update agent_balances set available_minor = $2 where agent_id = $1', [agentId, minor]);

  function outbox(fails: (mail: Mail) => boolean = () => false): Mailer & { sent: Mail[] } {
    const sent: Mail[] = [];
    return {
      sent,
      async send(each) {
        if (fails(each))
          throw Object.assign(new Error(`refused ${each.to}`), { code: 'EENVELOPE', responseCode: 550 });
        sent.push(each);
      },
    };
  }

  const look = (mailer: Mailer, log = recordingLog(), resting = new Map<bigint, number>()) =>
    tellLowBalances(app, mailer, log, resting);

  it('one mail tells of a crossing, in the language of the agent, with balance, threshold and credit limit', async () => {
    await fallTo(1, 20000);
    await fallTo(2, 19999);
    await fallTo(3, -4000);
    const mailer = outbox();
    expect(await look(mailer)).toBe(3);
    const [ru, kk, en] = mailer.sent;
    expect(ru).toMatchObject({
      to: 'one@example.org',
      subject: 'Баланс снизился до порога уведомления: 200.00 KZT',
    });
    expect(ru!.text).toContain(
      'Баланс сейчас: 200.00 KZT\nПорог уведомления: 200.00 KZT\nКредитный лимит: 50.00 KZT',
    );
    expect(kk!.text).toContain('Қазіргі теңгерім: 199.99 KZT');
    expect(en!.text).toContain('Balance now: -40.00 USD');
    expect(await look(mailer)).toBe(0);
    expect(mailer.sent).toHaveLength(3);
  });

  it('several crossings since the last look make one mail, and a later one makes another', async () => {
    for (const minor of [100, 90000, 200, 90000, 300]) await fallTo(1, minor);
    const mailer = outbox();
    await look(mailer);
    expect(mailer.sent).toHaveLength(1);
    await fallTo(1, 90000);
    expect(await look(mailer)).toBe(0);
    await fallTo(1, 50);
    expect(await look(mailer)).toBe(1);
  });

  it('a balance that stays low makes no further mail', async () => {
    await fallTo(1, 100);
    const mailer = outbox();
    await look(mailer);
    await fallTo(1, 50);
    expect(await look(mailer)).toBe(0);
  });

  it('an agent without an address is told once it has one', async () => {
    await fallTo(4, 100);
    const mailer = outbox();
    expect(await look(mailer)).toBe(0);
    await owner.query(`update agents set notification_email = 'four@example.org' where agent_id = 4`);
    expect(await look(mailer)).toBe(1);
  });

  it('two processes that look at once send one mail', async () => {
    await fallTo(1, 100);
    // The other process has claimed the crossing and not committed it yet.
    await owner.query('begin');
    await owner.query('update agent_balances set low_told = low_crossings where agent_id = 1');
    const mailer = outbox();
    const looking = look(mailer);
    await new Promise((done) => setTimeout(done, 100));
    await owner.query('commit');
    expect(await looking).toBe(0);
    expect(mailer.sent).toEqual([]);
  });

  it('a mail that fails is put back, logged without the address, and sent later; others are not kept waiting', async () => {
    await fallTo(1, 100);
    await fallTo(2, 100);
    const log = recordingLog();
    const resting = new Map<bigint, number>();
    const refused = outbox(({ to }) => to === 'one@example.org');
    expect(await look(refused, log, resting)).toBe(1);
    expect(log.lines).toHaveLength(1);
    expect(log.lines[0]!.facts).toEqual({ agentId: '1', code: 'EENVELOPE', responseCode: 550 });
    expect(JSON.stringify(log.lines)).not.toContain('example.org');

    const mailer = outbox();
    expect(await look(mailer, log, resting)).toBe(0);
    resting.set(1n, performance.now());
    expect(await look(mailer, log, resting)).toBe(1);
    expect(mailer.sent[0]!.to).toBe('one@example.org');
  });

  it('a mail server that is down is not tried for every agent', async () => {
    for (const id of [1, 2, 3]) await fallTo(id, 100);
    await owner.query(
      `with more as (
         insert into agents (agent_id, name, currency, tariff_id, notification_email)
         select n, 'A', 'KZT', 't', 'a@example.org' from generate_series(10, 30) n returning agent_id
       ) insert into agent_balances (agent_id, shard, low_crossings) select agent_id, 0, 1 from more`,
    );
    let tries = 0;
    const down = outbox(() => {
      tries += 1;
      return true;
    });
    expect(await look(down)).toBe(0);
    expect(tries).toBe(3);
    const { rows } = await owner.query(
      'select count(*) as due from agent_balances where low_crossings > low_told',
    );
    expect(rows[0].due).toBe(24n);
  });

  it('what crosses while its mail is being sent is told by another mail', async () => {
    await fallTo(1, 100);
    const sent: Mail[] = [];
    const mailer: Mailer = {
      async send(each) {
        sent.push(each);
        if (sent.length > 1) return;
        await fallTo(1, 90000);
        await fallTo(1, 50);
      },
    };
    await look(mailer);
    expect(sent).toHaveLength(2);
  });
});
