/** Commands about who executes the payments: provider, route, simulate. */
import { join } from 'node:path';
import { Argument, type Command, InvalidArgumentError, Option } from 'commander';
import { z } from 'zod';
import { Refusal } from '../audit.js';
import { type Deposit, payIn, readDeposits } from '../catalogue/deposits.js';
import { getProvider, maskSettings, readProviders, setPaused, setProvider } from '../catalogue/providers.js';
import {
  ownRoute,
  type RouteChange,
  type RouteRecord,
  readRoutes,
  removeRoute,
  setRoute,
} from '../catalogue/routes.js';
import { getService } from '../catalogue/services.js';
import type { ProviderFacts } from '../core/catalogue.js';
import { formatMinor } from '../core/money.js';
import { connectors } from '../providers/connectors.js';
import { createSender } from '../providers/send.js';
import { startSimulator } from '../providers/simulators/simulator.js';
import { simulators } from '../providers/simulators/simulators.js';
import { tryCheck } from '../providers/try.js';
import { amount, type Context, count, money, type Run, readTextFile, signedAmount } from './context.js';
import { facts, formatPercent, table } from './print.js';

export function addProviderCommands(program: Command, run: Run): void {
  const provider = program.command('provider').description('providers: who executes the payments');

  provider
    .command('list')
    .description('all providers')
    .action(
      run(async (cli: Context) => {
        const providers = (await readProviders(await cli.database())).map(masked);
        cli.show(providers, () =>
          table(
            ['provider', 'name', 'connector', 'paused'],
            providers.map((each) => [each.providerId, each.name, each.connector, each.paused]),
          ),
        );
      }),
    );

  const show = (cli: Context, facts: ProviderFacts) =>
    cli.show(masked(facts), () => providerWords(masked(facts)));

  provider
    .command('show')
    .description('a provider with its settings; secrets are masked')
    .argument('<providerId>')
    .action(
      run(async (cli: Context, providerId: string) =>
        show(cli, await getProvider(await cli.database(), providerId)),
      ),
    );

  for (const verb of ['pause', 'resume'] as const) {
    provider
      .command(verb)
      .description(
        verb === 'pause'
          ? 'answer 8 to payments of its services for now'
          : 'take payments of its services again',
      )
      .argument('<providerId>')
      .action(
        run(async (cli: Context, providerId: string) => {
          const { db, operator } = await cli.change();
          show(cli, await setPaused(db, providerId, verb === 'pause', operator));
        }),
      );
  }

  provider
    .command('set')
    .alias('add')
    .description('create a provider from a JSON file, or replace its name, connector and settings')
    .argument('<providerId>')
    .argument('<file>')
    .addHelpText(
      'after',
      `
The file: { "name": "Sandbox", "connector": "sandbox", "settings": { "baseUrl": "http://127.0.0.1:8021" } }
Connectors: ${[...connectors.keys()].join(', ')}.`,
    )
    .action(
      run(async (cli: Context, providerId: string, path: string) => {
        const read = readProvider(readTextFile(path));
        const { db, operator } = await cli.change();
        show(cli, await setProvider(db, { providerId, ...read }, checkSettings, operator));
      }),
    );

  provider
    .command('test')
    .description('ask the provider about an account and explain what came back; nothing is paid')
    .argument('<providerId>')
    .argument('<code>', "the provider's own code of a service")
    .argument('<account>')
    .addOption(new Option('--amount <amount>', 'as a payment would have it: 200.00').argParser(amount))
    .addOption(new Option('--currency <currency>', 'of the service').default('KZT'))
    .addOption(new Option('--extra <name=value>', 'repeat it for more').default([]).argParser(extra))
    .action(
      run(
        async (
          cli: Context,
          providerId: string,
          serviceCode: string,
          account: string,
          options: { amount?: bigint; currency: string; extra: readonly (readonly [string, string])[] },
        ) => {
          const found = await getProvider(await cli.database(), providerId);
          cli.tell(`asking ${found.name} by ${found.connector}`);
          const tried = await tryCheck(found, connectors, {
            ...{ serviceCode, account, currency: options.currency, amountMinor: options.amount ?? null },
            extras: Object.fromEntries(options.extra),
          });
          cli.show(tried, () =>
            [
              facts([
                ['asked', tried.sent],
                ['answered', tried.httpStatus === null ? 'not at all' : `HTTP ${tried.httpStatus}`],
                ['took', `${tried.durationMs} ms`],
              ]),
              '',
              table(
                ['field', 'value', 'in the history'],
                tried.fields.map(({ name, value, plain }) => [name, value, plain ? 'as it is' : '***']),
              ),
              '',
              facts([...tried.means]),
            ].join('\n'),
          );
        },
      ),
    );

  provider
    .command('deposit')
    .description('what lies at providers of ours; with an amount: write down what was paid in')
    .argument('[providerId]')
    .argument('[amount]', 'with a minus: taken back', signedAmount)
    .argument('[document]', 'number of the payment order: it counts once')
    .addOption(new Option('--currency <currency>', 'of the amount').default('KZT'))
    .action(
      run(
        async (
          cli: Context,
          providerId: string | undefined,
          amountMinor: bigint | undefined,
          document: string | undefined,
          { currency }: { currency: string },
        ) => {
          const show = (deposits: readonly Deposit[]) =>
            cli.show(deposits, () =>
              table(
                ['provider', 'currency', 'left', 'paid in', 'spent', 'told', 'told at'],
                deposits.map((each) => [
                  ...[
                    each.providerId,
                    each.currency,
                    formatMinor(each.leftMinor),
                    formatMinor(each.paidInMinor),
                  ],
                  ...[
                    formatMinor(each.spentMinor),
                    money(each.toldMinor),
                    each.toldAt && cli.time(each.toldAt),
                  ],
                ]),
              ),
            );
          if (providerId === undefined || amountMinor === undefined) {
            const all = await readDeposits(await cli.database());
            return show(all.filter((each) => providerId === undefined || each.providerId === providerId));
          }
          if (document === undefined)
            throw new Refusal('A deposit needs the number of its document, so that it counts once.');
          const { db, operator } = await cli.change();
          const { fresh, deposits } = await payIn(
            db,
            { providerId, amountMinor, document, currency },
            operator,
          );
          if (!fresh) cli.tell(`Document ${document} was written down before; nothing was changed.`);
          show(deposits);
        },
      ),
    );

  addRouteCommands(program, run);
  addSimulateCommand(program, run);
}

/** For people who write against a provider's protocol. Runs until it is stopped; needs no database. */
function addSimulateCommand(program: Command, run: Run): void {
  program
    .command('simulate')
    .description(
      'run a simulated provider that speaks one of the protocols; the end of an account scripts what happens',
    )
    .addArgument(new Argument('<protocol>').choices([...simulators.keys()]))
    .addOption(new Option('--port <n>', '0: any free one').default(8030).argParser(count(65_535, 0)))
    .option('--host <host>', 'where it listens', '127.0.0.1')
    .option('--data-dir <directory>', 'where it keeps what it executed; absent: data/simulators/<protocol>')
    .addOption(
      new Option('--delay-ms <n>', 'how long every answer is held back')
        .default(0)
        .argParser(count(600_000, 0)),
    )
    .addOption(
      new Option('--slow-ms <n>', 'how long a slow one takes').default(30_000).argParser(count(600_000, 0)),
    )
    .addOption(
      new Option('--settle-ms <n>', 'when what ends later ends').default(3000).argParser(count(600_000, 0)),
    )
    .addOption(
      new Option('--variant <word>', 'of the protocol; repeat it for more').default([]).argParser(words),
    )
    .action(
      run(async (cli: Context, protocol: string, options: SimulateOptions) => {
        const { port, host, delayMs, slowMs, settleMs, variant } = options;
        const dataDir = options.dataDir ?? join(cli.config.dataDir, 'simulators', protocol);
        const simulator = await startSimulator(simulators.get(protocol)!(variant), {
          ...{ port, host, dataDir, delayMs, slowMs, settleMs },
        });
        cli.show(
          { protocol, url: simulator.url },
          () => `${protocol} simulator on ${simulator.url}; what it executed: ${simulator.url}/registry`,
        );
        await new Promise<void>((stop) => {
          for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop());
        });
        await simulator.close();
      }),
    );
}

interface SimulateOptions {
  readonly port: number;
  readonly host: string;
  readonly dataDir?: string;
  readonly delayMs: number;
  readonly slowMs: number;
  readonly settleMs: number;
  readonly variant: readonly string[];
}

const words = (text: string, before: readonly string[] = []) => [...before, text];

function extra(
  text: string,
  before: readonly (readonly [string, string])[] = [],
): (readonly [string, string])[] {
  const at = text.indexOf('=');
  if (at < 1) throw new InvalidArgumentError('Expected name=value.');
  return [...before, [text.slice(0, at), text.slice(at + 1)]];
}

function addRouteCommands(program: Command, run: Run): void {
  const routes = program.command('route').description('routes: by which providers a service is executed');
  const show = (cli: Context, all: readonly RouteRecord[]) =>
    cli.show(all, () =>
      table(
        ['service', 'provider', 'code', 'priority', 'share', 'from', 'to', 'a day', 'cost', 'on', 'fields'],
        all.map((each) => [
          ...[each.serviceId, each.providerId, each.providerServiceCode, each.priority, each.share],
          each.amountMinMinor === 0n ? null : formatMinor(each.amountMinMinor),
          each.amountMaxMinor === 0n ? null : formatMinor(each.amountMaxMinor),
          each.dayMaxMinor === null ? null : formatMinor(each.dayMaxMinor),
          `${formatPercent(each.costPpm)} % + ${formatMinor(each.costFixedMinor)}`,
          each.on,
          Object.entries(each.fields)
            .map(([ours, theirs]) => `${ours}=${theirs}`)
            .join(' '),
        ]),
      ),
    );

  routes
    .command('list')
    .description('the routes of a service, or all that are written down')
    .argument('[serviceId]')
    .action(
      run(async (cli: Context, serviceId: string | undefined) => {
        const db = await cli.database();
        const all = await readRoutes(db, serviceId ?? null);
        if (all.length > 0 || serviceId === undefined) return show(cli, all);
        const service = await getService(db, serviceId);
        show(cli, [{ ...ownRoute(service), serviceId }]);
      }),
    );

  routes
    .command('set')
    .description('write a route down, or change what is given of it')
    .argument('<serviceId>')
    .argument('<providerId>')
    .option('--code <code>', "the provider's own code of the service")
    .addOption(new Option('--priority <n>', 'from 0; the lowest goes first').argParser(count(999, 0)))
    .addOption(
      new Option('--share <n>', 'of the payments of its priority, against the others').argParser(
        count(1_000_000),
      ),
    )
    .addOption(new Option('--from <amount>', 'the smallest payment; 0: no bound').argParser(amount))
    .addOption(new Option('--to <amount>', 'the largest payment; 0: no bound').argParser(amount))
    .addOption(new Option('--day <amount>', 'the most of a day; 0: no bound').argParser(amount))
    .addOption(new Option('--cost <percent>', 'what the provider keeps, of the amount').argParser(percent))
    .addOption(new Option('--cost-fixed <amount>', 'and of each payment').argParser(amount))
    .addOption(
      new Option('--field <ours=theirs>', "the provider's name of an extra; repeat it for more").argParser(
        extra,
      ),
    )
    .action(
      run(async (cli: Context, serviceId: string, providerId: string, options: RouteOptions) => {
        const { db, operator } = await cli.change();
        show(cli, await setRoute(db, serviceId, providerId, changeOf(options), operator));
      }),
    );

  for (const verb of ['on', 'off'] as const) {
    routes
      .command(verb)
      .description(verb === 'on' ? 'send payments by it' : 'send no new payments by it')
      .argument('<serviceId>')
      .argument('<providerId>')
      .action(
        run(async (cli: Context, serviceId: string, providerId: string) => {
          const { db, operator } = await cli.change();
          show(cli, await setRoute(db, serviceId, providerId, { on: verb === 'on' }, operator));
        }),
      );
  }

  routes
    .command('remove')
    .description('forget a route')
    .argument('<serviceId>')
    .argument('<providerId>')
    .action(
      run(async (cli: Context, serviceId: string, providerId: string) => {
        const { db, operator } = await cli.change();
        show(cli, await removeRoute(db, serviceId, providerId, operator));
      }),
    );
}

interface RouteOptions {
  readonly code?: string;
  readonly priority?: number;
  readonly share?: number;
  readonly from?: bigint;
  readonly to?: bigint;
  readonly day?: bigint;
  readonly cost?: number;
  readonly costFixed?: bigint;
  readonly field?: readonly (readonly [string, string])[];
}

function changeOf({
  code,
  priority,
  share,
  from,
  to,
  day,
  cost,
  costFixed,
  field,
}: RouteOptions): RouteChange {
  return {
    ...(code !== undefined && { providerServiceCode: code }),
    ...(priority !== undefined && { priority }),
    ...(share !== undefined && { share }),
    ...(from !== undefined && { amountMinMinor: from }),
    ...(to !== undefined && { amountMaxMinor: to }),
    ...(day !== undefined && { dayMaxMinor: day === 0n ? null : day }),
    ...(cost !== undefined && { costPpm: cost }),
    ...(costFixed !== undefined && { costFixedMinor: costFixed }),
    ...(field !== undefined && { fields: Object.fromEntries(field) }),
  };
}

/** `1.25` → millionths. */
function percent(text: string): number {
  if (/^\d{1,3}(\.\d{1,4})?$/.test(text) && Number(text) <= 100) return Math.round(Number(text) * 10_000);
  throw new InvalidArgumentError('Expected a percentage from 0 to 100 with at most 4 decimals.');
}

const providerShape = z.strictObject({
  name: z.string(),
  connector: z.string(),
  settings: z.record(z.string(), z.unknown()),
});

function readProvider(text: string): z.output<typeof providerShape> {
  try {
    return providerShape.parse(JSON.parse(text));
  } catch (error) {
    const why = error instanceof z.ZodError ? z.prettifyError(error) : (error as Error).message;
    throw new Refusal(`The file of the provider cannot be used, nothing was changed; correct it: ${why}`);
  }
}

/** The judgement of those who will read the settings: the sender and the connector. */
function checkSettings(connector: string, settings: ProviderFacts['settings']): void {
  const candidate = { providerId: 'new', name: 'new', connector, settings, paused: false };
  const providers = new Map([['new', candidate]]);
  try {
    createSender({ providers: () => providers, connectors, log: { error: () => {} } }).offers('new');
  } catch (error) {
    throw new Error((error as Error).message.replace(/^provider new .*?: /, ''));
  }
}

function masked(provider: ProviderFacts): ProviderFacts {
  return { ...provider, settings: maskSettings(provider.settings) };
}

function providerWords(provider: ProviderFacts): string {
  return facts([
    ['provider', provider.providerId],
    ['name', provider.name],
    ['connector', provider.connector],
    ['paused', provider.paused],
    ...Object.entries(provider.settings).map(
      ([name, value]) => [name, typeof value === 'string' ? value : JSON.stringify(value)] as const,
    ),
  ]);
}
