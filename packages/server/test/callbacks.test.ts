/** What a provider tells by itself, over the real edge: who is believed, what it does in which state, what is kept. */
import { createHmac } from 'node:crypto';
import type { FastifyInstance } from 'fastify';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { correct, topUp } from '../src/agents/funds.js';
import { run } from '../src/cli.js';
import { verify } from '../src/ledger/verify.js';
import { closeContradiction, getContradiction, listContradictions } from '../src/payments/contradictions.js';
import { paymentHistory } from '../src/payments/history.js';
import { reverse, settleByEvidence } from '../src/payments/operator.js';
import { buildServer } from '../src/protocol/server.js';
import { callbackSecret, demoAgent, openCentre, payRequest } from './support/centre.js';
import { TestLogger, testConfig } from './support/protocol.js';

type Opened = Awaited<ReturnType<typeof openCentre>>;
let centre: Opened;
let app: FastifyInstance;
const logger = new TestLogger();
beforeAll(async () => {
  centre = await openCentre({ settleMs: 60_000, notFoundTrustedAfterMs: 60_000 });
  app = edgeOf(centre);
});
afterAll(async () => {
  await app.close();
  expect((await verify(centre.owner)).problems).toEqual([]);
  await centre.close();
});

function edgeOf({ centre, watch }: Opened): FastifyInstance {
  return buildServer({
    config: testConfig,
    useCases: centre.useCases,
    callback: centre.callback,
    reference: () => watch.current().reference,
    directory: watch.directory,
    logger: logger as never,
  });
}

const sign = (body: string, secret = callbackSecret) =>
  `sha256=${createHmac('sha256', secret).update(body).digest('hex')}`;

async function post(body: string, signature = sign(body), providerId = 'sandbox') {
  const answer = await app.inject({
    method: 'POST',
    url: `/provider-callbacks/${providerId}`,
    headers: { 'content-type': 'application/json', 'x-sandbox-signature': signature },
    payload: body,
  });
  return { status: answer.statusCode, said: answer.json().status as string, headers: answer.headers };
}

const executed = (reference = 'R1') => ({ status: 'executed', reference });
const refused = (code = 300) => ({ status: 'refused', code });
const tell = (id: bigint, what: object) =>
  post(JSON.stringify({ externalId: `${demoAgent}-${id}`, ...what }));

const queue = async (id: bigint) =>
  (await listContradictions(centre.pool))
    .filter((each) => each.agentTransactionId === id)
    .map(({ kind, reference }) => ({ kind, reference }));
const events = async (id: bigint) => {
  const { rows } = await centre.owner.query(
    `select e.kind, e.data from payment_events e join payments p on p.id = e.payment_id
     where p.agent_transaction_id = $1 order by e.at`,
    [id],
  );
  return rows as { kind: string; data: Record<string, unknown> }[];
};
const outcomes = async (id: bigint) => {
  const { rows } = await centre.owner.query(
    `select t.kind from transfers t join payments p on p.id = t.operation_id
     where p.agent_transaction_id = $1 and t.leg < 3 order by t.leg`,
    [id],
  );
  return rows.map(({ kind }) => kind as string);
};

/** A payment in the state that its account and the centre's settings lead to. */
async function paid(account: string, code: number): Promise<bigint> {
  const request = payRequest({ account });
  expect((await centre.pay(request)).code).toBe(code);
  return request.agentTransactionId;
}
const succeeded = () => paid('7770017711', 0);
const failed = () => paid('7770000007', 7);
/** The provider was asked, and what it did with it is not known. */
const uncertain = () => paid('7770000093', 1);
/** The provider took it and has not ended it. */
const pending = () => paid('7770000001', 1);

describe('who is believed', () => {
  let id: bigint;
  let body: string;
  beforeEach(async () => {
    id = await uncertain();
    body = JSON.stringify({ externalId: `${demoAgent}-${id}`, ...executed() });
  });

  test.each([
    ['no signature', () => post(body, '')],
    ['another secret', () => post(body, sign(body, 'another secret of nobody'))],
    ['the signature of another body', () => post(body, sign(`${body} `))],
    ['a signature cut short', () => post(body, sign(body).slice(0, -2))],
    ['a provider that is not there', () => post(body, sign(body), 'nobody')],
    ['words of another protocol', () => post(body.replace('executed', 'done'), undefined)],
    ['no JSON', () => post('executed')],
    ['no body', () => post('')],
  ])('%s is answered 401, and nothing happens', async (_, send) => {
    const before = await events(id);
    expect(await send()).toMatchObject({ status: 401, said: 'not_authentic' });
    expect((await centre.payment(id)).code).toBe(1);
    expect(await events(id)).toEqual(before);
  });

  test('a provider without a secret is not believed, whatever the signature', async () => {
    await centre.owner.query(
      `insert into providers (provider_id, name, connector, settings)
       select 'open', name, connector, settings - 'callbackSecret' from providers where provider_id = 'sandbox'`,
    );
    await expect.poll(() => centre.watch.current().reference.providers.has('open')).toBe(true);
    expect(await post(body, sign(body, ''), 'open')).toMatchObject({ status: 401 });
  });

  test("a provider cannot end another provider's payment", async () => {
    await centre.owner.query(
      `insert into providers (provider_id, name, connector, settings)
       select 'other', name, connector, settings from providers where provider_id = 'sandbox'`,
    );
    await expect.poll(() => post(body, sign(body), 'other')).toMatchObject({ status: 404 });
    expect((await centre.payment(id)).code).toBe(1);
  });

  test('a body above 64 KiB is answered 413', async () => {
    const answer = await app.inject({
      method: 'POST',
      url: '/provider-callbacks/sandbox',
      payload: 'x'.repeat(70_000),
    });
    expect(answer.statusCode).toBe(413);
  });

  test.each(['4-999', '999-1', '4-0', 'nothing', '4-99999999999999999999', `4-${2n ** 63n}`])(
    'of %s nothing is known: 404, and the provider is to come again',
    async (externalId) => {
      const answer = await post(JSON.stringify({ externalId, ...executed() }));
      expect(answer).toMatchObject({ status: 404, said: 'not_known' });
      expect(answer.headers['retry-after']).toBe('5');
    },
  );
});

describe('what is told of a payment that is with the provider', () => {
  test.each([
    ['uncertain', uncertain],
    ['taken by the provider', pending],
  ])('executed ends one that is %s, once; told again it is taken and adds nothing', async (_, make) => {
    const id = await make();
    const before = await centre.available();
    expect(await tell(id, executed())).toMatchObject({ status: 200, said: 'taken' });
    const after = await events(id);
    expect(after.at(-1)).toMatchObject({ kind: 'provider_callback', data: { outcome: 'executed' } });
    for (let i = 0; i < 10; i += 1) expect((await tell(id, executed())).status).toBe(200);
    expect(await events(id)).toEqual(after);
    expect(await outcomes(id)).toEqual(['hold', 'post']);
    expect(await centre.available()).toBe(before);
    expect(await centre.payment(id)).toMatchObject({ code: 0, provider_reference: 'R1' });
    expect(await queue(id)).toEqual([]);
  });

  test.each([
    ['uncertain', uncertain],
    ['taken by the provider', pending],
  ])('refused ends one that is %s when no request can be on its way', async (_, make) => {
    const id = await make();
    const before = await centre.available();
    expect(await tell(id, refused(241))).toMatchObject({ status: 200, said: 'taken' });
    expect(await tell(id, refused(241))).toMatchObject({ status: 200, said: 'taken' });
    expect((await centre.payment(id)).code).toBe(241);
    expect(await outcomes(id)).toEqual(['hold', 'void']);
    expect(await centre.available()).toBe(before + 20_000n);
    expect(await queue(id)).toEqual([]);
  });

  test('refused while a request may be on its way ends nothing: 503, and what the request proves counts', async () => {
    const request = payRequest({ account: '7770000092' });
    const paying = centre.pay(request);
    const id = request.agentTransactionId;
    await expect.poll(async () => (await centre.payment(id))?.state).toBe(4);
    const answer = await tell(id, refused());
    expect(answer).toMatchObject({ status: 503, said: 'later' });
    expect(answer.headers['retry-after']).toBe('5');
    expect((await centre.payment(id)).code).toBe(1);
    expect((await paying).code).toBe(1);
    await expect.poll(async () => (await centre.payment(id)).code, { timeout: 5000 }).toBe(0);
    expect(await tell(id, refused())).toMatchObject({ status: 200, said: 'taken' });
    expect(await queue(id)).toEqual([{ kind: 'refused_after_success', reference: null }]);
  });

  test('refused does not end one that was claimed to be sent again', async () => {
    const id = await uncertain();
    await centre.owner.query(
      `update waiting w set attempt_until = now() + interval '1 minute', next_at = now() + interval '1 minute'
       from payments p where p.id = w.payment_id and p.agent_transaction_id = $1`,
      [id],
    );
    expect(await tell(id, refused())).toMatchObject({ status: 503 });
    expect((await centre.payment(id)).code).toBe(1);
    expect(await tell(id, executed())).toMatchObject({ status: 200 });
  });

  test('executed before the answer of pay counts at once, and the answer that comes then adds nothing', async () => {
    const request = payRequest({ account: '7770000092' });
    const paying = centre.pay(request);
    const id = request.agentTransactionId;
    await expect.poll(async () => (await centre.payment(id))?.state).toBe(4);
    const before = await centre.available();
    expect(await tell(id, executed())).toMatchObject({ status: 200 });
    expect((await paying).code).toBe(0);
    expect(await outcomes(id)).toEqual(['hold', 'post']);
    expect(await centre.available()).toBe(before);
  });

  test.each([{ status: 'pending' }, { status: 'not_found' }, { status: 'unknown' }])(
    '$status proves nothing and stands in the history',
    async (what) => {
      const id = await uncertain();
      expect(await tell(id, what)).toMatchObject({ status: 200, said: 'taken' });
      expect((await centre.payment(id)).code).toBe(1);
      const texts = (await paymentHistory(centre.pool, (await centre.payment(id)).id)).map(
        ({ text }) => text,
      );
      expect(texts.some((text) => text.startsWith('The provider told by itself'))).toBe(true);
    },
  );

  test('logs hold neither the account nor the signature', async () => {
    const id = await succeeded();
    await tell(id, executed('R9'));
    expect(logger.lines.length).toBeGreaterThan(0);
    expect(logger.lines.join('\n')).not.toMatch(/7770|sha256|secret/);
  });
});

describe('what contradicts', () => {
  test.each([
    ['refused after success', succeeded, refused(), 'refused_after_success', null],
    ['executed after failure', failed, executed('R2'), 'executed_after_failure', 'R2'],
    ['executed again under another reference', succeeded, executed('R2'), 'executed_twice', 'R2'],
  ] as const)('%s moves nothing and is in the queue once', async (_, make, what, kind, reference) => {
    const id = await make();
    const [before, code, legs] = [
      await centre.available(),
      (await centre.payment(id)).code,
      await outcomes(id),
    ];
    for (let i = 0; i < 10; i += 1)
      expect(await tell(id, what)).toMatchObject({ status: 200, said: 'taken' });
    expect(await queue(id)).toEqual([{ kind, reference }]);
    expect(await outcomes(id)).toEqual(legs);
    expect((await centre.payment(id)).code).toBe(code);
    expect(await centre.available()).toBe(before);
  });

  test('executed, of a payment that waits for funds, was never sent', async () => {
    const request = payRequest();
    const below = (await centre.available()) - request.amountToMinor + 1n;
    await correct(centre.pool, demoAgent, -below, { reason: 'for a test', document: null }, 'op');
    expect((await centre.pay(request)).code).toBe(220);
    expect(await tell(request.agentTransactionId, executed())).toMatchObject({ status: 200 });
    expect((await centre.payment(request.agentTransactionId)).code).toBe(220);
    expect(await queue(request.agentTransactionId)).toEqual([{ kind: 'executed_unsent', reference: 'R1' }]);
    await topUp(centre.pool, demoAgent, below, null, 'op');
  });

  test('executed, when “not found” was trusted and the payment is to be sent again, ends it and is in the queue', async () => {
    const id = await uncertain();
    await centre.owner.query(
      `update waiting w set what = 'send', next_at = now() + interval '1 minute'
       from payments p where p.id = w.payment_id and p.agent_transaction_id = $1`,
      [id],
    );
    expect(await tell(id, executed())).toMatchObject({ status: 200 });
    expect((await centre.payment(id)).code).toBe(0);
    expect(await queue(id)).toEqual([{ kind: 'executed_unsent', reference: 'R1' }]);
  });

  test('executed, when it is to be sent again only as a question, contradicts nothing', async () => {
    const id = await uncertain();
    await centre.owner.query(
      `update waiting w set what = 'send', next_at = now() + interval '1 minute', attempt_until = 'infinity'
       from payments p where p.id = w.payment_id and p.agent_transaction_id = $1`,
      [id],
    );
    expect(await tell(id, executed())).toMatchObject({ status: 200 });
    expect(await queue(id)).toEqual([]);
  });

  test.each(['executed', 'not-executed'] as const)(
    'what an operator decided against a word that came before is no contradiction: %s',
    async (result) => {
      const id = await uncertain();
      await settleByEvidence(centre.pool, (await centre.payment(id)).id, result, 'letter 1', 'ann');
      expect(await queue(id)).toEqual([]);
      await tell(id, result === 'executed' ? refused() : executed());
      expect(await queue(id)).toHaveLength(1);
    },
  );

  test.each([refused(), executed('S7')])('a reversed payment agrees with $status', async (what) => {
    const id = await succeeded();
    await reverse(centre.pool, (await centre.payment(id)).id, 'act 9', 'ann');
    expect(await tell(id, what)).toMatchObject({ status: 200, said: 'taken' });
    expect(await queue(id)).toEqual([]);
  });

  test('another code of refusal is none', async () => {
    const id = await failed();
    expect(await tell(id, refused(5))).toMatchObject({ status: 200 });
    expect(await queue(id)).toEqual([]);
    expect((await centre.payment(id)).code).toBe(7);
  });

  test('one that meets another commit sees what that one made of the payment', async () => {
    const id = await uncertain();
    const other = await centre.owner.connect();
    await other.query('begin');
    await other.query(
      `select s.* from payments p, lateral settle_payments(0::smallint, array[p.id], array[p.agent_id], '{48}', '{t}',
         '{null}', '{7}', '{300}', '{null}', '{null}', '{null}', '{null}', '{0}', '{f}', '{null}', '{null}', '{}') s
       where p.agent_transaction_id = $1`,
      [id],
    );
    const telling = tell(id, executed('R3'));
    await new Promise((done) => setTimeout(done, 300));
    await other.query('commit');
    other.release();
    expect(await telling).toMatchObject({ status: 200, said: 'taken' });
    expect(await queue(id)).toEqual([{ kind: 'executed_after_failure', reference: 'R3' }]);
    expect((await centre.payment(id)).code).toBe(300);
  });

  test('executed, when the request then proves never to have left, is in the queue', async () => {
    const id = await uncertain();
    await tell(id, executed());
    const { id: transactionId } = await centre.payment(id);
    const unsent = `select s.moved from settle_payments(0::smallint, array[$1::bigint], array[$2::bigint], '{48}', '{t}',
      '{0}', '{5}', '{1}', '{null}', '{null}', '{null}', '{send}', '{500}', '{f}', '{provider_pay}', '{"{}"}', '{}') s`;
    expect((await centre.owner.query(unsent, [transactionId, demoAgent])).rows).toEqual([{ moved: false }]);
    expect(await queue(id)).toEqual([{ kind: 'executed_unsent', reference: 'R1' }]);
  });

  test('a success leaves nothing in the queue of inquiries that another commit has put there meanwhile', async () => {
    const request = payRequest({ account: '7770000092' });
    const paying = centre.pay(request);
    const id = request.agentTransactionId;
    await expect.poll(async () => (await centre.payment(id))?.state).toBe(4);
    const other = await centre.owner.connect();
    await other.query('begin');
    await other.query(
      `select s.* from payments p, lateral settle_payments(0::smallint, array[p.id], array[p.agent_id], '{16}', '{t}',
         '{0}', '{5}', '{1}', '{null}', '{null}', '{null}', '{inquire}', '{60000}', '{f}', '{null}', '{null}', '{}') s
       where p.agent_transaction_id = $1`,
      [id],
    );
    const telling = tell(id, executed());
    await new Promise((done) => setTimeout(done, 300));
    await other.query('commit');
    other.release();
    expect(await telling).toMatchObject({ status: 200 });
    const { rows } = await centre.owner.query(
      'select what from waiting w join payments p on p.id = w.payment_id where p.agent_transaction_id = $1',
      [id],
    );
    expect(rows).toEqual([]);
    await paying;
  });

  test('refused does not end one that is sent again by a commit that it met', async () => {
    const id = await uncertain();
    const other = await centre.owner.connect();
    await other.query('begin');
    await other.query('select 1 from payments where agent_transaction_id = $1 for update', [id]);
    const telling = tell(id, refused());
    await new Promise((done) => setTimeout(done, 300));
    await other.query(
      `update waiting w set tries = tries + 1, attempt_until = now() + interval '1 minute',
         next_at = now() + interval '1 minute'
       from payments p where p.id = w.payment_id and p.agent_transaction_id = $1`,
      [id],
    );
    await other.query('commit');
    other.release();
    expect(await telling).toMatchObject({ status: 503 });
    expect((await centre.payment(id)).code).toBe(1);
    expect(await tell(id, executed())).toMatchObject({ status: 200 });
  });

  test('a closed one stays closed when it is told again, and is closed once, by whom and why', async () => {
    const id = await succeeded();
    await tell(id, refused());
    const { contradictionId } = (await listContradictions(centre.pool)).at(-1)!;
    await expect(closeContradiction(centre.pool, contradictionId, ' ', 'ann')).rejects.toThrow(/reason/);
    await closeContradiction(centre.pool, contradictionId, 'their letter 3: executed', 'ann');
    await expect(closeContradiction(centre.pool, contradictionId, 'again', 'boris')).rejects.toThrow(
      /was closed by ann already/,
    );
    await tell(id, refused());
    expect(await queue(id)).toEqual([]);
    expect(await getContradiction(centre.pool, contradictionId)).toMatchObject({
      closedBy: 'ann',
      reason: 'their letter 3: executed',
      state: 'succeeded',
    });
    const { rows } = await centre.owner.query("select * from audit where action = 'contradiction.close'");
    expect(rows).toHaveLength(1);
    await expect(getContradiction(centre.pool, 999_999n)).rejects.toThrow(/There is no contradiction/);
  });
});

test('the sandbox tells by itself: late, many times, and the opposite', async () => {
  let to = '';
  const opened = await openCentre({
    notFoundTrustedAfterMs: 60_000,
    settleMs: 200,
    callbacks: {
      get url() {
        return to;
      },
      ...{ secret: callbackSecret, delayMs: 100, times: 3, contradicting: true },
    },
  });
  const edge = edgeOf(opened);
  try {
    to = `${await edge.listen({ port: 0, host: '127.0.0.1' })}/provider-callbacks/sandbox`;
    const [done, denied, late] = ['7770017711', '7770000007', '7770000002'].map((account) =>
      payRequest({ account }),
    );
    for (const request of [done!, denied!, late!]) await opened.pay(request);
    await expect.poll(() => listContradictions(opened.pool), { timeout: 5000 }).toHaveLength(3);
    const kinds = new Map(
      (await listContradictions(opened.pool)).map(({ agentTransactionId, kind }) => [
        agentTransactionId,
        kind,
      ]),
    );
    expect(kinds.get(done!.agentTransactionId)).toBe('refused_after_success');
    expect(kinds.get(denied!.agentTransactionId)).toBe('executed_after_failure');
    expect(kinds.get(late!.agentTransactionId)).toBe('executed_after_failure');
    // Without a callback it would have been asked about: nothing but the callback ended it so soon.
    expect((await opened.payment(late!.agentTransactionId)).code).toBe(300);
  } finally {
    await edge.close();
    await opened.close();
  }
});

test('the command lists contradictions, shows one and closes it, with the name of who does it', async () => {
  const id = await succeeded();
  await tell(id, refused());
  const env = { TOLEM_DATABASE_URL: centre.database.url };
  const tolem = async (...argv: string[]) => {
    let out = '';
    const sink = { write: (text: string) => (out += text) };
    const exitCode = await run(['payments', 'contradictions', ...argv], env, { stdout: sink, stderr: sink });
    return { exitCode, out };
  };
  const number = String((await listContradictions(centre.pool)).at(-1)!.contradictionId);
  const listed = await tolem('list');
  expect(listed.out).toContain('refused_after_success');
  expect(listed.out).not.toContain('7770017711');
  expect((await tolem('show', number)).out).toMatch(
    /it refused a payment.*777\*\*\*7711.*succeeded, code 0/s,
  );
  expect(await tolem('close', number, '--reason', 'their letter 5')).toMatchObject({ exitCode: 1 });
  const closed = await tolem('close', number, '--reason', 'their letter 5', '--operator', 'ann');
  expect(closed).toMatchObject({ exitCode: 0 });
  expect(closed.out).toMatch(/is closed.*closed by +ann.*their letter 5/s);
  expect((await tolem('list')).out).not.toMatch(new RegExp(`^ *${number} `, 'm'));
  expect((await tolem('list', '--all')).out).toMatch(new RegExp(`^ *${number} .* ann$`, 'm'));
  expect(await tolem('close', number, '--reason', 'again', '--operator', 'ann')).toMatchObject({
    exitCode: 1,
  });
});
