/** Commands about payments and the books: review, payments, verify, audit, config. */
import { Argument, type Command, InvalidArgumentError, Option } from 'commander';
import { listAudit, Refusal } from '../audit.js';
import { listSettings } from '../config.js';
import { stateName } from '../core/states.js';
import { verify } from '../ledger/verify.js';
import { findPayments, paymentHistory } from '../payments/history.js';
import { approve, listReview, listUncertain, reject, reverse, settleByEvidence } from '../payments/operator.js';
import { type Context, count, id, money, type Run } from './context.js';
import { table } from './print.js';

export function addPaymentCommands(program: Command, run: Run): void {
  addReviewCommands(program, run);

  const payments = program.command('payments').description('payments: find them, see their story, end what is uncertain');
  const transaction = ['<transactionId>', 'transaction id of the centre', id] as const;
  const evidence = new Option('--evidence <text>', 'what the provider said, where and when').makeOptionMandatory();

  payments
    .command('find')
    .description("by the centre's id, by agent, or by agent and the agent's id")
    .argument('[transactionId]', 'transaction id of the centre', id)
    .option('--agent <id>', 'agent id', id)
    .option('--agent-transaction <id>', "the agent's own id of the payment", agentTransaction)
    .action(
      run(async (cli: Context, transactionId: bigint | undefined, options: FindOptions) => {
        if (transactionId === undefined && options.agent === undefined) {
          throw new InvalidArgumentError('error: give the transaction id, or --agent');
        }
        const found = await findPayments(await cli.database(), {
          ...(transactionId === undefined ? {} : { transactionId }),
          ...(options.agent === undefined ? {} : { agentId: options.agent }),
          ...(options.agentTransaction === undefined ? {} : { agentTransactionId: options.agentTransaction }),
        });
        cli.show(found, () =>
          table(
            ['transaction', 'agent', 'agent id', 'service', 'account', 'amount', 'currency', 'state', 'code', 'accepted'],
            found.map((each) => [
              each.transactionId,
              each.agentId,
              each.agentTransactionId,
              each.serviceId,
              each.account,
              money(each.amountToMinor),
              each.currency,
              stateName(each.state),
              each.code,
              cli.time(each.acceptedAt),
            ]),
          ),
        );
      }),
    );
