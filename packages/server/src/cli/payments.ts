/** Commands about payments and the books: review, payments, verify, audit, config. */
import { Argument, type Command, InvalidArgumentError, Option } from 'commander';
import { z } from 'zod';
import { listAudit, Refusal } from '../audit.js';
import { knownSecretKey, listSettings } from '../config.js';
import { verify } from '../ledger/verify.js';
import {
  type Contradiction,
  closeContradiction,
  contradictionWords,
  getContradiction,
  listContradictions,
} from '../payments/contradictions.js';
import { findPayments, maskAccount, type PaymentSummary, paymentHistory } from '../payments/history.js';
import {
  approve,
  type Given,
  listReview,
  listUncertain,
  reject,
  reverse,
  settleByEvidence,
} from '../payments/operator.js';
import { seal } from '../payments/seal.js';
import { agentTransaction, type Context, count, id, money, type Run, readTextFile } from './context.js';
import { facts, table } from './print.js';

interface Sight {
  readonly showAccount?: true;
}

const transaction = ['<transactionId>', 'transaction id of the centre', id] as const;
const showAccount = () =>
  new Option('--show-account', 'show accounts whole, and what was told of their holders');
const evidence = () =>
  new Option('--evidence <text>', 'what the provider said, where and when').makeOptionMandatory();

export function addPaymentCommands(program: Command, run: Run): void {
  addReviewCommands(program, run);
  addPaymentsCommands(program, run);
  addBooksCommands(program, run);
}

function addReviewCommands(program: Command, run: Run): void {
  const review = program.command('review').description('payments held for the security service (153)');

  review
    .command('list')
    .description('held payments, the longest waiting first')
    .addOption(showAccount())
    .action(
      run(async (cli: Context, options: Sight) => {
        const held = (await listReview(await cli.database())).map((each) => sighted(each, options));
        cli.show(held, () =>
          table(
            ['transaction', 'agent', 'agent id', 'service', 'account', 'amount', 'currency', 'rule', 'since'],
            held.map((each) => [
              each.transactionId,
              each.agentId,
              each.agentTransactionId,
              each.serviceId,
              each.account,
              money(each.amountToMinor),
              each.currency,
              each.reason?.split('|')[1] ?? null,
              cli.time(each.since),
            ]),
          ),
        );
      }),
    );

  for (const [verb, decide, words] of [
    ['approve', approve, 'was approved and goes on to the provider'],
    ['reject', reject, 'was rejected: it ended with 300, and what was held went back to the agent'],
  ] as const) {
    review
      .command(verb)
      .description(
        verb === 'approve' ? 'let it go on to the provider' : 'end it with 300 and give the money back',
      )
      .argument(...transaction)
      .requiredOption('--note <text>', 'why')
      .action(
        run(async (cli: Context, transactionId: bigint, options: { note: string }) => {
          const { db, operator } = await cli.change();
          await decide(db, transactionId, operator, options.note);
          await showPayment(cli, transactionId, words);
        }),
      );
  }
}

function addPaymentsCommands(program: Command, run: Run): void {
  const payments = program
    .command('payments')
    .description('payments: find them, see their story, end what is uncertain');

  payments
    .command('find')
    .description("by the centre's id, or by the agent's")
    .argument('[transactionId]', 'transaction id of the centre', id)
    .option('--agent-transaction <id>', "the agent's own id of the payment", agentTransaction)
    .option('--agent <id>', 'only of this agent', id)
    .addOption(showAccount())
    .action(
      run(async (cli: Context, transactionId: bigint | undefined, options: FindOptions & Sight) => {
        if (transactionId === undefined && options.agentTransaction === undefined) {
          throw new InvalidArgumentError(
            'error: give the transaction id, or --agent-transaction with the id of the agent',
          );
        }
        const found = await findPayments(
          await cli.database(),
          {
            ...(transactionId === undefined ? {} : { transactionId }),
            ...(options.agent === undefined ? {} : { agentId: options.agent }),
            ...(options.agentTransaction === undefined
              ? {}
              : { agentTransactionId: options.agentTransaction }),
          },
          options,
        );
        cli.show(found, () => summaryTable(cli, found));
      }),
    );

  payments
    .command('show')
    .description('the story of a payment')
    .argument(...transaction)
    .addOption(showAccount())
    .action(
      run(async (cli: Context, transactionId: bigint, options: Sight) => {
        const db = await cli.database();
        const payment = (await findPayments(db, { transactionId }, options))[0];
        if (!payment) {
          throw new Refusal(
            `There is no payment ${transactionId}; ` +
              'look for it by the id of the agent: tolem payments find --agent-transaction ID.',
          );
        }
        const history = await paymentHistory(db, transactionId, options);
        cli.show({ ...payment, history }, () =>
          [
            summaryTable(cli, [payment]),
            ...history.map((entry) => `${cli.time(entry.at)}  ${entry.text}`),
          ].join('\n'),
        );
      }),
    );

  payments
    .command('uncertain')
    .description('payments whose end the provider has not told, the oldest first')
    .addOption(showAccount())
    .action(
      run(async (cli: Context, options: Sight) => {
        const open = (await listUncertain(await cli.database())).map((each) => sighted(each, options));
        cli.show(open, () =>
          table(
            [
              'transaction',
              'agent',
              'agent id',
              'provider',
              'service',
              'account',
              'amount',
              'currency',
              'next',
              'tries',
              'at',
              'since',
            ],
            open.map((each) => [
              each.transactionId,
              each.agentId,
              each.agentTransactionId,
              each.providerId,
              each.serviceId,
              each.account,
              money(each.amountToMinor),
              each.currency,
              each.what,
              each.tries,
              cli.time(each.nextAt),
              cli.time(each.since),
            ]),
          ),
        );
      }),
    );

  payments
    .command('settle')
    .description('end a payment by evidence from the provider: executed (0) or not-executed (300)')
    .argument(...transaction)
    .addArgument(new Argument('<result>').choices(['executed', 'not-executed']))
    .addOption(evidence())
    .option('--secrets <file>', 'JSON file of what the provider gave with it, such as {"code": "1234-5678"}')
    .action(
      run(
        async (
          cli: Context,
          transactionId: bigint,
          result: 'executed' | 'not-executed',
          options: { evidence: string; secrets?: string },
        ) => {
          const given = options.secrets === undefined ? null : readGiven(cli, options.secrets);
          const { db, operator } = await cli.change();
          await settleByEvidence(db, transactionId, result, options.evidence, operator, given);
          await showPayment(cli, transactionId, `was ended as ${result.replace('-', ' ')}`);
        },
      ),
    );

  payments
    .command('reverse')
    .description('give the money of a done payment back to the agent, the provider having agreed')
    .argument(...transaction)
    .addOption(evidence())
    .action(
      run(async (cli: Context, transactionId: bigint, options: { evidence: string }) => {
        const { db, operator } = await cli.change();
        await reverse(db, transactionId, options.evidence, operator);
        await showPayment(cli, transactionId, 'was reversed: its money went back to the agent');
      }),
    );

  addContradictionCommands(payments, run);
}

/** Encrypted with the centre's key, and never with a new one: the centre could not read it. */
function readGiven({ config }: Context, file: string): Given {
  const text = readTextFile(file);
  let secrets: Given['secrets'];
  try {
    secrets = givenShape.parse(JSON.parse(text));
  } catch {
    throw new Refusal(
      `The file ${file} is not a JSON object of texts; write it as {"code": "1234-5678"}, with the names that the provider uses.`,
    );
  }
  const key = knownSecretKey(config);
  if (!key)
    throw new Refusal(
      "The centre's key is not here, and codes are only kept encrypted; set TOLEM_SECRET_KEY, or do this where the centre runs.",
    );
  return { secrets, sealing: { seal: (text) => seal(key, text) } };
}

const givenShape = z
  .record(z.string().regex(/^[A-Za-z]\w{0,63}$/), z.string().min(1).max(500))
  .refine((given) => Object.keys(given).length > 0);

function addContradictionCommands(payments: Command, run: Run): void {
  const contradictions = payments
    .command('contradictions')
    .description('what providers told and what cannot be true beside what they told before');
  const number = ['<contradictionId>', 'number of the contradiction', id] as const;

  contradictions
    .command('list')
    .description('open ones, the oldest first')
    .option('--all', 'closed ones too, the newest first')
    .addOption(showAccount())
    .action(
      run(async (cli: Context, options: Sight & { all?: true }) => {
        const rows = await listContradictions(await cli.database(), options.all);
        const told = rows.map((each) => sighted(each, options));
        cli.show(told, () =>
          table(
            [
              'number',
              'transaction',
              'provider',
              'told',
              'state',
              'code',
              'amount',
              'currency',
              'at',
              'closed by',
            ],
            told.map((each) => [
              each.contradictionId,
              each.transactionId,
              each.providerId,
              each.kind,
              each.state,
              each.code,
              money(each.amountToMinor),
              each.currency,
              cli.time(each.at),
              each.closedBy,
            ]),
          ),
        );
      }),
    );

  contradictions
    .command('show')
    .description('one with all that is known of it')
    .argument(...number)
    .addOption(showAccount())
    .action(
      run(async (cli: Context, contradictionId: bigint, options: Sight) => {
        const found = await getContradiction(await cli.database(), contradictionId);
        cli.show(sighted(found, options), () => contradictionText(cli, sighted(found, options)));
      }),
    );

  contradictions
    .command('close')
    .description('take it off the queue; money is moved by other commands')
    .argument(...number)
    .requiredOption('--reason <text>', 'what was found out, and what was done')
    .action(
      run(async (cli: Context, contradictionId: bigint, options: { reason: string }) => {
        const { db, operator } = await cli.change();
        await closeContradiction(db, contradictionId, options.reason, operator);
        const closed = sighted(await getContradiction(db, contradictionId), {});
        cli.show(
          closed,
          () => `Contradiction ${contradictionId} is closed.\n${contradictionText(cli, closed)}`,
        );
      }),
    );
}

function contradictionText(cli: Context, told: Contradiction): string {
  return [
    contradictionWords[told.kind] ?? told.kind,
    facts([
      ['transaction', told.transactionId],
      ['agent', told.agentId],
      ['agent id', told.agentTransactionId],
      ['provider', told.providerId],
      ['reference told', told.reference],
      ['reference of the payment', told.paymentReference],
      ['account', told.account],
      ['amount', `${money(told.amountToMinor)} ${told.currency}`],
      ['the payment is', `${told.state}, code ${told.code}`],
      ['told at', cli.time(told.at)],
      ['closed at', cli.time(told.closedAt)],
      ['closed by', told.closedBy],
      ['reason', told.reason],
    ]),
  ].join('\n');
}

interface FindOptions {
  readonly agent?: bigint;
  readonly agentTransaction?: bigint;
}

function addBooksCommands(program: Command, run: Run): void {
  program
    .command('verify')
    .description('recompute the books from the transfers; exit code 1 when something disagrees')
    .action(
      run(async (cli: Context) => {
        const verified = await verify(await cli.database(), (payments) =>
          cli.tell(`${payments} payments checked`),
        );
        const { payments, transfers, agents } = verified.counts;
        const counted = `${payments} payments, ${transfers} transfers and ${agents} agents were checked`;
        cli.show(verified, () =>
          verified.ok
            ? `The books are right: ${counted}.`
            : table(
                ['what', 'object', 'expected', 'found'],
                verified.problems.map((each) => [each.what, each.object, each.expected, each.found]),
              ),
        );
        if (!verified.ok) {
          throw new Refusal(
            `The books are wrong: ${verified.problems.length} problems (${counted}). ` +
              'Stop paying and look at the first of them.',
          );
        }
      }),
    );

  program
    .command('audit')
    .description('who changed what')
    .command('list')
    .description('the newest changes first; needs the connection of the owner of the database')
    .option('--by <operator>', 'only of this operator')
    .option('--object <object>', 'only of this object, agent:4 for one')
    .addOption(new Option('--limit <n>', 'at most so many').default(100).argParser(count(10_000)))
    .action(
      run(async (cli: Context, options: { by?: string; object?: string; limit: number }) => {
        const rows = await listAudit(await cli.database('owner'), {
          limit: options.limit,
          ...(options.by === undefined ? {} : { operator: options.by }),
          ...(options.object === undefined ? {} : { object: options.object }),
        });
        cli.show(rows, () =>
          table(
            ['id', 'at', 'operator', 'action', 'object', 'detail'],
            rows.map((each) => [
              each.id,
              cli.time(each.at),
              each.operator,
              each.action,
              each.object,
              short(JSON.stringify(each.detail)),
            ]),
          ),
        );
      }),
    );

  program
    .command('config')
    .description('every setting with its value, default and meaning; secrets are masked')
    .action(
      run(async (cli: Context) => {
        const rows = listSettings(cli.env);
        cli.show(rows, () =>
          table(
            ['setting', 'value', 'from', 'default', 'expected', 'meaning'],
            rows.map((each) => [each.name, each.value, each.source, each.default, each.expects, each.about]),
          ),
        );
      }),
    );
}

async function showPayment(cli: Context, transactionId: bigint, words: string): Promise<void> {
  const payment = (await findPayments(await cli.database(), { transactionId }))[0]!;
  cli.show(payment, () => `Payment ${transactionId} ${words}.\n${summaryTable(cli, [payment])}`);
}

function summaryTable(cli: Context, payments: readonly PaymentSummary[]): string {
  return table(
    [
      'transaction',
      'agent',
      'agent id',
      'service',
      'account',
      'amount',
      'currency',
      'state',
      'code',
      'accepted',
      'final',
    ],
    payments.map((each) => [
      each.transactionId,
      each.agentId,
      each.agentTransactionId,
      each.serviceId,
      each.account,
      money(each.amountToMinor),
      each.currency,
      each.state,
      each.code,
      cli.time(each.acceptedAt),
      cli.time(each.finalAt),
    ]),
  );
}

function sighted<T extends { readonly account: string }>(row: T, options: Sight): T {
  return options.showAccount ? row : { ...row, account: maskAccount(row.account) };
}

function short(text: string): string {
  return text.length <= 160 ? text : `${text.slice(0, 159)}…`;
}
