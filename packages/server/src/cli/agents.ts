/** Commands about agents: agent, token, address. */
import { Argument, type Command, Option } from 'commander';
import { addAddress, listAddresses, removeAddress, setKnownByAddress } from '../agents/addresses.js';
import {
  type AgentChanges,
  type AgentRecord,
  changeAgent,
  createAgent,
  getAgent,
  listAgents,
  type NewAgent,
} from '../agents/agents.js';
import { correct, type Moved, topUp } from '../agents/funds.js';
import {
  confirmToken,
  createToken,
  listTokens,
  revokeToken,
  type TokenRecord,
  type TokenState,
  tokenStateWords,
} from '../agents/tokens.js';
import { readExceptions } from '../catalogue/services.js';
import type { Language } from '../core/catalogue.js';
import { amount, type Context, count, id, money, type Run, signedAmount } from './context.js';
import { type Cell, facts, table } from './print.js';

const language = () => new Option('--language <code>', 'language of the answers').choices(['ru', 'kk', 'en']);
const limit = (most: number) =>
  new Option('--limit <n>', 'at most so many').default(most).argParser(count(10_000));

export function addAgentCommands(program: Command, run: Run): void {
  const agent = program.command('agent').description('agents: who sells, from which balance, how far');

  agent
    .command('create')
    .description('create an agent with an empty balance and no credit')
    .argument('<name>')
    .requiredOption('--tariff <id>', 'tariff of the agent')
    .option('--currency <code>', 'currency of the balance', 'KZT')
    .addOption(language().default('ru'))
    .option('--id <n>', 'agent id; the next free one when absent', id)
    .addOption(new Option('--shard <n>', 'where its money lives, for life').default(0).argParser(shard))
    .action(
      run(async (cli: Context, name: string, options: CreateOptions) => {
        const { db, operator } = await cli.change();
        const created = await createAgent(
          db,
          {
            name,
            currency: options.currency,
            language: options.language,
            tariffId: options.tariff,
            shard: options.shard,
            ...(options.id === undefined ? {} : { agentId: options.id }),
          },
          operator,
        );
        cli.show(created, () => `Agent ${created.agentId} was created.\n${agentFacts(cli, created)}`);
      }),
    );

  agent
    .command('list')
    .description('agents with their balances')
    .option('--after <id>', 'only agents with greater ids', id)
    .addOption(limit(1000))
    .action(
      run(async (cli: Context, options: { after?: bigint; limit: number }) => {
        const agents = await listAgents(await cli.database(), {
          limit: options.limit,
          ...(options.after === undefined ? {} : { afterAgentId: options.after }),
        });
        cli.show(agents, () =>
          table(
            ['agent', 'name', 'available', 'currency', 'limit', 'tariff', 'policy', 'blocked'],
            agents.map((each) => [
              each.agentId,
              each.name,
              money(each.availableMinor),
              each.currency,
              money(each.creditLimitMinor),
              each.tariffId,
              each.servicePolicy,
              each.blocked,
            ]),
          ),
        );
      }),
    );

  agent
    .command('show')
    .description('an agent with its tokens, addresses and service exceptions')
    .argument('<agentId>', 'agent id', id)
    .action(
      run(async (cli: Context, agentId: bigint) => {
        const db = await cli.database();
        const shown = await getAgent(db, agentId);
        const tokens = await listTokens(db, { agentId, limit: 1000 });
        const addresses = (await listAddresses(db, agentId)).map((each) => each.address);
        const services = [...((await readExceptions(db, agentId)).get(agentId) ?? [])].map(
          ([serviceId, allowed]) => ({ serviceId, allowed }),
        );
        cli.show({ ...shown, tokens, addresses, services }, () =>
          [
            agentFacts(cli, shown),
            `Addresses: ${addresses.join(', ') || 'any'}`,
            'Services by exception:',
            table(
              ['service', 'allowed'],
              services.map((each) => [each.serviceId, each.allowed]),
            ),
            'Tokens:',
            tokenTable(cli, tokens),
          ].join('\n'),
        );
      }),
    );

  agent
    .command('top-up')
    .description('add money; a document moves money once')
    .argument('<agentId>', 'agent id', id)
    .argument('<amount>', 'above zero', amount)
    .option('--document <number>', 'payment order or the like')
    .action(
      run(async (cli: Context, agentId: bigint, amountMinor: bigint, options: { document?: string }) => {
        const { document = null } = options;
        const { db, operator } = await cli.change();
        const moved = await topUp(db, agentId, amountMinor, document, operator);
        cli.show(moved, () => movedWords(agentId, amountMinor, document, moved, 'topped up'));
      }),
    );

  agent
    .command('correct')
    .description('correct the balance either way, for a stated reason')
    .argument('<agentId>', 'agent id', id)
    .argument('<amount>', 'with a minus to take it away', signedAmount)
    .requiredOption('--reason <text>', 'why')
    .option('--document <number>', 'paper behind it')
    .action(
      run(async (cli: Context, agentId: bigint, amountMinor: bigint, options: CorrectOptions) => {
        const { reason, document = null } = options;
        const { db, operator } = await cli.change();
        const moved = await correct(db, agentId, amountMinor, { reason, document }, operator);
        cli.show(moved, () => movedWords(agentId, amountMinor, document, moved, 'corrected'));
      }),
    );

  const change = async (cli: Context, agentId: bigint, changes: AgentChanges) => {
    const { db, operator } = await cli.change();
    const changed = await changeAgent(db, agentId, changes, operator);
    cli.show(changed, () => agentFacts(cli, changed));
  };

  agent
    .command('limit')
    .description('credit limit: how far below zero the balance may go')
    .argument('<agentId>', 'agent id', id)
    .argument('<amount>', 'zero or more', amount)
    .action(
      run((cli: Context, agentId: bigint, creditLimitMinor: bigint) =>
        change(cli, agentId, { creditLimitMinor }),
      ),
    );

  agent
    .command('notify')
    .description('at which balance the agent is told, and where')
    .argument('<agentId>', 'agent id', id)
    .argument('[amount]', 'threshold; it stays as it is when absent', signedAmount)
    .option('--email <address>', 'where to')
    .option('--no-email', 'tell nobody')
    .action(
      run(
        (
          cli: Context,
          agentId: bigint,
          notificationMinor: bigint | undefined,
          options: { email?: string | boolean },
        ) =>
          change(cli, agentId, {
            ...(notificationMinor === undefined ? {} : { notificationMinor }),
            ...(typeof options.email === 'string' ? { notificationEmail: options.email } : {}),
            ...(options.email === false ? { notificationEmail: null } : {}),
          }),
      ),
    );

  agent
    .command('language')
    .description('language of the answers')
    .argument('<agentId>', 'agent id', id)
    .addArgument(new Argument('<language>').choices(['ru', 'kk', 'en']))
    .action(run((cli: Context, agentId: bigint, code: Language) => change(cli, agentId, { language: code })));

  agent
    .command('tariff')
    .description('put the agent on another tariff')
    .argument('<agentId>', 'agent id', id)
    .argument('<tariffId>')
    .action(run((cli: Context, agentId: bigint, tariffId: string) => change(cli, agentId, { tariffId })));

  agent
    .command('block')
    .description('close the API to the agent')
    .argument('<agentId>', 'agent id', id)
    .action(run((cli: Context, agentId: bigint) => change(cli, agentId, { blocked: true })));

  agent
    .command('unblock')
    .description('open the API again')
    .argument('<agentId>', 'agent id', id)
    .action(run((cli: Context, agentId: bigint) => change(cli, agentId, { blocked: false })));

  agent
    .command('policy')
    .description('sell all services but those denied, or only those allowed')
    .argument('<agentId>', 'agent id', id)
    .addArgument(new Argument('<policy>').choices(['all', 'listed']))
    .action(
      run((cli: Context, agentId: bigint, servicePolicy: 'all' | 'listed') =>
        change(cli, agentId, { servicePolicy }),
      ),
    );

  addTokenCommands(program, run);
  addAddressCommands(program, run);
}

function addTokenCommands(program: Command, run: Run): void {
  const token = program.command('token').description('tokens: created, confirmed by an operator, revoked');

  token
    .command('create')
    .description('create a token; its text is shown this once')
    .argument('<agentId>', 'agent id', id)
    .option('--name <text>', 'to tell it from others', '')
    .action(
      run(async (cli: Context, agentId: bigint, options: { name: string }) => {
        const { db, operator } = await cli.change();
        const created = await createToken(db, agentId, options.name, operator);
        cli.show(
          created,
          () =>
            `${created.token}\n` +
            `Token ${created.tokenId} of agent ${agentId}: ${tokenStateWords.awaiting_confirmation}. ` +
            `It is shown only now; keep it, then confirm it: tolem token confirm ${created.tokenId}.`,
        );
      }),
    );

  const changed = (cli: Context, record: TokenRecord) =>
    cli.show(
      worded(record),
      () => `Token ${record.tokenId} of agent ${record.agentId}: ${tokenStateWords[record.state]}.`,
    );

  token
    .command('confirm')
    .description('open the API to a token')
    .argument('<tokenId>', 'token id', id)
    .action(
      run(async (cli: Context, tokenId: bigint) => {
        const { db, operator } = await cli.change();
        changed(cli, await confirmToken(db, tokenId, operator));
      }),
    );

  token
    .command('revoke')
    .description('close the API to a token, for good')
    .argument('<tokenId>', 'token id', id)
    .action(
      run(async (cli: Context, tokenId: bigint) => {
        const { db, operator } = await cli.change();
        changed(cli, await revokeToken(db, tokenId, operator));
      }),
    );

  token
    .command('list')
    .description('tokens with their states, the newest first')
    .option('--agent <id>', 'of one agent', id)
    .addOption(new Option('--state <state>', 'in one state').choices(Object.keys(tokenStateWords)))
    .addOption(limit(1000))
    .action(
      run(async (cli: Context, options: { agent?: bigint; state?: TokenState; limit: number }) => {
        const tokens = await listTokens(await cli.database(), {
          limit: options.limit,
          ...(options.agent === undefined ? {} : { agentId: options.agent }),
          ...(options.state === undefined ? {} : { state: options.state }),
        });
        cli.show(tokens.map(worded), () => tokenTable(cli, tokens));
      }),
    );
}

function addAddressCommands(program: Command, run: Run): void {
  const address = program.command('address').description('addresses that requests of an agent may come from');
  const text = ['<address>', '192.0.2.7, 192.0.2.0/24 or 2001:db8::/32'] as const;

  address
    .command('add')
    .description('allow an address or a network; with the first one all others are refused')
    .argument('<agentId>', 'agent id', id)
    .argument(...text)
    .action(
      run(async (cli: Context, agentId: bigint, written: string) => {
        const { db, operator } = await cli.change();
        const added = await addAddress(db, agentId, written, operator);
        cli.show({ agentId, address: added }, () => `Requests of agent ${agentId} may come from ${added}.`);
      }),
    );

  address
    .command('remove')
    .description('no longer allow it; without the last one any address is allowed')
    .argument('<agentId>', 'agent id', id)
    .argument(...text)
    .action(
      run(async (cli: Context, agentId: bigint, written: string) => {
        const { db, operator } = await cli.change();
        const removed = await removeAddress(db, agentId, written, operator);
        const left = (await listAddresses(db, agentId)).map((each) => each.address);
        cli.show(
          { agentId, address: removed, left },
          () =>
            `${removed} was removed from agent ${agentId}; ` +
            `its requests may come from ${left.join(', ') || 'any address now'}.`,
        );
      }),
    );

  address
    .command('list')
    .description('addresses of an agent; none means any')
    .argument('<agentId>', 'agent id', id)
    .action(
      run(async (cli: Context, agentId: bigint) => {
        const addresses = await listAddresses(await cli.database(), agentId);
        cli.show(addresses, () =>
          table(
            ['address', 'since'],
            addresses.map((each) => [each.address, cli.time(each.createdAt)]),
          ),
        );
      }),
    );

  address
    .command('only')
    .description('know the agent by its address alone, without a token')
    .argument('<agentId>', 'agent id', id)
    .addArgument(new Argument('<switch>').choices(['on', 'off']))
    .action(
      run(async (cli: Context, agentId: bigint, onOrOff: 'on' | 'off') => {
        const { db, operator } = await cli.change();
        const changed = await setKnownByAddress(db, agentId, onOrOff === 'on', operator);
        cli.show(changed, () => agentFacts(cli, changed));
      }),
    );
}

interface CreateOptions {
  readonly tariff: string;
  readonly currency: string;
  readonly language: NewAgent['language'];
  readonly id?: bigint;
  readonly shard: number;
}

interface CorrectOptions {
  readonly reason: string;
  readonly document?: string;
}

function shard(text: string): number {
  return text === '0' ? 0 : count(63)(text);
}

function agentFacts(cli: Context, agent: AgentRecord): string {
  const pairs: [string, Cell][] = [
    ['agent', agent.agentId],
    ['name', agent.name],
    ['available', `${money(agent.availableMinor)} ${agent.currency}`],
    ['credit limit', money(agent.creditLimitMinor)],
    ['notification', money(agent.notificationMinor)],
    ['e-mail', agent.notificationEmail],
    ['language', agent.language],
    ['tariff', agent.tariffId],
    ['service policy', agent.servicePolicy],
    ['known by address', agent.knownByAddress],
    ['blocked', agent.blocked],
    ['shard', agent.shard],
    ['created', cli.time(agent.createdAt)],
  ];
  return facts(pairs);
}

function movedWords(
  agentId: bigint,
  amountMinor: bigint,
  document: string | null,
  moved: Moved,
  done: string,
): string {
  const now = `${money(moved.availableMinor)} ${moved.currency} available`;
  if (!moved.fresh) {
    const before = `Document ${document} moved this money before (operation ${moved.operationId})`;
    return `${before}; nothing was moved now. Agent ${agentId}: ${now}.`;
  }
  const what = `Agent ${agentId} was ${done} by ${money(amountMinor)} ${moved.currency}`;
  return `${what} (operation ${moved.operationId}); ${now}.`;
}

function worded(token: TokenRecord) {
  return { ...token, stateText: tokenStateWords[token.state] };
}

function tokenTable(cli: Context, tokens: readonly TokenRecord[]): string {
  return table(
    ['token', 'agent', 'name', 'state', 'created', 'last used', 'from'],
    tokens.map((each) => [
      each.tokenId,
      each.agentId,
      each.name,
      tokenStateWords[each.state],
      cli.time(each.createdAt),
      cli.time(each.usedAt),
      each.usedFrom,
    ]),
  );
}
