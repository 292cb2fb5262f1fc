/** Commands about what is sold and at what price: service, tariff, rate, rule, numbering. */
import { Argument, type Command, InvalidArgumentError, Option } from 'commander';
import { Refusal } from '../audit.js';
import { importPorted, importPrefixes, lookUp, numberingFacts } from '../catalogue/numbering.js';
import { inverseRate, listRateHistory, type RateRecord, readRates, setRate } from '../catalogue/rates.js';
import { readRules, removeRule, setRule } from '../catalogue/rules.js';
import {
  getService,
  type ImportOutcome,
  importServices,
  previewServices,
  readServices,
  type ServiceRecord,
  setServiceAllowed,
  setServiceState,
} from '../catalogue/services.js';
import { getTariff, parseTariff, readTariffs, setTariff } from '../catalogue/tariffs.js';
import type { Service, Tariff } from '../core/catalogue.js';
import { formatRate, parseRate } from '../core/money.js';
import { amount, type Context, count, id, money, type Run, readTextFile } from './context.js';
import { facts, formatPercent, table } from './print.js';

export function addCatalogueCommands(program: Command, run: Run): void {
  addServiceCommands(program, run);
  addTariffCommands(program, run);
  addRateCommands(program, run);
  addRuleCommands(program, run);
  addNumberingCommands(program, run);
}

function addServiceCommands(program: Command, run: Run): void {
  const service = program.command('service').description('services: what is sold, and by whom');

  service
    .command('list')
    .description('all services; --json prints them as import reads them')
    .action(
      run(async (cli: Context) => {
        const services = await readServices(await cli.database());
        cli.show(services, () =>
          table(
            ['service', 'name', 'type', 'state', 'provider', 'code', 'currency', 'from', 'to'],
            services.map((each) => [
              each.serviceId,
              each.name,
              each.type,
              each.state,
              each.providerId,
              each.providerServiceCode,
              each.currency,
              money(each.amountMinMinor),
              money(each.amountMaxMinor),
            ]),
          ),
        );
      }),
    );

  service
    .command('show')
    .description('a service with its inputs and displays')
    .argument('<serviceId>')
    .action(
      run(async (cli: Context, serviceId: string) => {
        const shown = await getService(await cli.database(), serviceId);
        cli.show(shown, () => serviceWords(shown));
      }),
    );

  service
    .command('import')
    .description('add and update services from a JSON file, all of it or nothing')
    .argument('<file>')
    .option('--dry-run', 'show what would change, and change nothing')
    .addHelpText('after', '\nA sample of the file is packages/server/demo/services.json.')
    .action(
      run(async (cli: Context, path: string, options: { dryRun?: true }) => {
        const text = readTextFile(path);
        let outcome: ImportOutcome;
        if (options.dryRun) outcome = await previewServices(await cli.database(), text);
        else {
          const { db, operator } = await cli.change();
          outcome = await importServices(db, text, operator);
        }
        cli.show(outcome, () => importWords(outcome, options.dryRun === true));
      }),
    );

  for (const verb of ['allow', 'deny'] as const) {
    service
      .command(verb)
      .description(`${verb} a service to an agent, whatever its policy says`)
      .argument('<serviceId>')
      .argument('<agentId>', 'agent id', id)
      .action(
        run(async (cli: Context, serviceId: string, agentId: bigint) => {
          const allowed = verb === 'allow';
          const { db, operator } = await cli.change();
          await setServiceAllowed(db, agentId, serviceId, allowed, operator);
          cli.show(
            { agentId, serviceId, allowed },
            () => `Agent ${agentId} ${allowed ? 'may' : 'may not'} sell ${serviceId}.`,
          );
        }),
      );
  }

  const switchTo = async (cli: Context, serviceId: string, state: Service['state']) => {
    const { db, operator } = await cli.change();
    const changed = await setServiceState(db, serviceId, state, operator);
    cli.show(changed, () => `Service ${serviceId} is ${stateWords[changed.state]}.`);
  };
  service
    .command('maintenance')
    .description('answer 8 to payments for a while, or end that')
    .argument('<serviceId>')
    .addArgument(new Argument('<switch>').choices(['on', 'off']))
    .action(
      run(async (cli: Context, serviceId: string, onOrOff: 'on' | 'off') => {
        const { db } = await cli.change();
        const { state } = await getService(db, serviceId);
        if (state === 'off') {
          throw new Refusal(
            `Service ${serviceId} is switched off, so it has no maintenance; switch it on first.`,
          );
        }
        await switchTo(cli, serviceId, onOrOff === 'on' ? 'maintenance' : 'on');
      }),
    );
  for (const state of ['on', 'off'] as const) {
    service
      .command(state)
      .description(state === 'on' ? 'sell the service' : 'hide the service from all agents')
      .argument('<serviceId>')
      .action(run((cli: Context, serviceId: string) => switchTo(cli, serviceId, state)));
  }
}

const stateWords: Readonly<Record<Service['state'], string>> = {
  on: 'on',
  maintenance: 'in maintenance: payments are answered 8',
  off: 'off: hidden, payments are answered 155',
};

function serviceWords(service: ServiceRecord): string {
  const { inputs, displays, ...rest } = service;
  const fields = [
    ...inputs.map((each) => ['input', each] as const),
    ...displays.map((each) => ['display', each] as const),
  ];
  return [
    facts([
      ['service', rest.serviceId],
      ['name', rest.name],
      ['group', rest.group],
      ['country', rest.country],
      ['scheme', ['0 simple', '1 complex', '2 with choice'][rest.type]!],
      ['fixed payment', rest.fixedPayment],
      ['provider', `${rest.providerId}, code ${rest.providerServiceCode}`],
      ['currency', rest.currency],
      ['amounts', `${money(rest.amountMinMinor)} to ${money(rest.amountMaxMinor)}`],
      ['identity required', rest.identityRequired],
      ['inquiry required', rest.inquiryRequired],
      ['state', stateWords[rest.state]],
    ]),
    table(
      ['field', 'name', 'required', 'title', 'pattern'],
      fields.map(([kind, each]) => [kind, each.name, each.required, each.title, each.regexp ?? null]),
    ),
  ].join('\n');
}

function importWords({ added, changed, unchangedCount }: ImportOutcome, dryRun: boolean): string {
  return [
    ...added.map((serviceId) => `new      ${serviceId}`),
    ...changed.map((each) => `changed  ${each.serviceId}: ${Object.keys(each.fields).join(', ')}`),
    `${added.length} new, ${changed.length} changed, ${unchangedCount} as they were.`,
    ...(dryRun ? ['Nothing was changed: this was a dry run.'] : []),
  ].join('\n');
}

function addTariffCommands(program: Command, run: Run): void {
  const tariff = program
    .command('tariff')
    .description("tariffs: the centre's fee, agents' rewards and added fees");

  tariff
    .command('list')
    .description('all tariffs')
    .action(
      run(async (cli: Context) => {
        const tariffs = [...(await readTariffs(await cli.database())).values()];
        cli.show(tariffs, () =>
          table(
            ['tariff', 'name', 'lines'],
            tariffs.map((each) => [each.tariffId, each.name, each.lines.length]),
          ),
        );
      }),
    );

  tariff
    .command('show')
    .description('a tariff with its lines')
    .argument('<tariffId>')
    .action(
      run(async (cli: Context, tariffId: string) => {
        const shown = await getTariff(await cli.database(), tariffId);
        cli.show(shown, () => tariffWords(shown));
      }),
    );

  tariff
    .command('set')
    .description('create a tariff from a JSON file, or replace it; show --json prints such a file')
    .argument('<file>')
    .addHelpText(
      'after',
      `
The file: { "tariffId": "main", "name": "Main", "lines": [
  { "serviceId": null, "feePercent": "1.5", "feeFixed": "0.00", "feeMin": "10.00", "feeMax": null,
    "rewardPercent": "0.5", "addedMaxPercent": "20" } ] }
The line without a service is the rule, lines with one are exceptions. What is left out is zero or no bound.`,
    )
    .action(
      run(async (cli: Context, path: string) => {
        const parsed = parseTariff(readTextFile(path));
        const { db, operator } = await cli.change();
        const shown = await setTariff(db, parsed, operator);
        cli.show(shown, () => tariffWords(shown));
      }),
    );
}

function tariffWords({ tariffId, name, lines }: Tariff): string {
  return [
    `Tariff ${tariffId}: ${name}`,
    table(
      ['service', 'fee %', 'fixed', 'at least', 'at most', 'reward %', 'may add %'],
      lines.map((line) => [
        line.serviceId ?? 'all',
        formatPercent(line.feePpm),
        money(line.feeFixedMinor),
        money(line.feeMinMinor),
        money(line.feeMaxMinor),
        formatPercent(line.rewardPpm),
        line.addedMaxPpm === null ? 'any' : formatPercent(line.addedMaxPpm),
      ]),
    ),
  ].join('\n');
}

function addRateCommands(program: Command, run: Run): void {
  const rate = program.command('rate').description('conversion rates of international services');

  rate
    .command('set')
    .description('set a rate from now on: KZT USD 0.0020833333, or KZT USD --inverse 480')
    .argument('<from>', 'currency of the agent')
    .argument('<to>', 'currency of the provider')
    .argument('[rate]', 'what one unit of the first buys, up to 10 decimals', rateText)
    .addOption(new Option('--inverse <rate>', 'what one unit of the second costs').argParser(rateText))
    .action(
      run(
        async (
          cli: Context,
          fromCurrency: string,
          toCurrency: string,
          direct: bigint | undefined,
          options: { inverse?: bigint },
        ) => {
          if ((direct === undefined) === (options.inverse === undefined)) {
            throw new InvalidArgumentError(
              'error: give the rate, or --inverse with what the other currency costs',
            );
          }
          const rateE10 = direct ?? inverseRate(options.inverse!);
          const { db, operator } = await cli.change();
          const set = await setRate(db, { fromCurrency, toCurrency, rateE10 }, operator);
          cli.show(set, () => `1 ${fromCurrency} = ${formatRate(set.rateE10)} ${toCurrency} from now on.`);
        },
      ),
    );

  rate
    .command('list')
    .description('valid rates')
    .option('--history', 'all rates there were, the newest first')
    .addOption(
      new Option('--limit <n>', 'at most so many of the history').default(100).argParser(count(10_000)),
    )
    .action(
      run(async (cli: Context, options: { history?: true; limit: number }) => {
        const db = await cli.database();
        const rates: RateRecord[] = options.history
          ? await listRateHistory(db, options.limit)
          : await readRates(db);
        cli.show(rates, () =>
          table(
            ['from', 'to', 'rate', 'since', 'operator'],
            rates.map((each) => [
              each.fromCurrency,
              each.toCurrency,
              formatRate(each.rateE10),
              cli.time(each.validFrom),
              each.operator,
            ]),
          ),
        );
      }),
    );
}

function rateText(text: string): bigint {
  const parsed = parseRate(text);
  if (parsed !== null) return parsed;
  throw new InvalidArgumentError('Expected a number above zero with at most 10 decimals.');
}

function addRuleCommands(program: Command, run: Run): void {
  const rule = program
    .command('rule')
    .description('security rules: which payments wait for an operator (153)');

  rule
    .command('set')
    .description('hold payments above an amount; replaces the rule of that id')
    .argument('<ruleId>')
    .requiredOption('--above <amount>', 'hold payments above it', amount)
    .option('--service <id>', 'only of this service')
    .option('--agent <id>', 'only of this agent', id)
    .action(
      run(
        async (
          cli: Context,
          ruleId: string,
          options: { above: bigint; service?: string; agent?: bigint },
        ) => {
          const { above: amountAboveMinor, service: serviceId = null, agent: agentId = null } = options;
          const { db, operator } = await cli.change();
          const set = await setRule(db, { ruleId, amountAboveMinor, serviceId, agentId }, operator);
          cli.show(set, () => `Rule ${ruleId} holds payments above ${money(amountAboveMinor)}.`);
        },
      ),
    );

  rule
    .command('list')
    .description('all rules')
    .action(
      run(async (cli: Context) => {
        const rules = await readRules(await cli.database());
        cli.show(rules, () =>
          table(
            ['rule', 'above', 'service', 'agent'],
            rules.map((each) => [
              each.ruleId,
              money(each.amountAboveMinor),
              each.serviceId ?? 'all',
              each.agentId ?? 'all',
            ]),
          ),
        );
      }),
    );

  rule
    .command('remove')
    .description('remove a rule; what it held goes on waiting for an operator')
    .argument('<ruleId>')
    .action(
      run(async (cli: Context, ruleId: string) => {
        const { db, operator } = await cli.change();
        await removeRule(db, ruleId, operator);
        cli.show({ ruleId, removed: true }, () => `Rule ${ruleId} was removed.`);
      }),
    );
}

function addNumberingCommands(program: Command, run: Run): void {
  const numbering = program
    .command('numbering')
    .description('numbering plan: which operator serves a phone number');
  const imports = { 'import-prefixes': importPrefixes, 'import-ported': importPorted };
  const words = {
    'import-prefixes': 'replace the prefixes by those of a CSV file: prefix,service_id',
    'import-ported': 'replace the ported numbers by those of a CSV file: phone,service_id',
  };

  for (const verb of ['import-prefixes', 'import-ported'] as const) {
    numbering
      .command(verb)
      .description(words[verb])
      .argument('<file>')
      .action(
        run(async (cli: Context, path: string) => {
          const progress = ({ rows }: { readonly rows: number }) => cli.tell(`${rows} rows`);
          const { db, operator } = await cli.change();
          const imported = await imports[verb](db, path, operator, progress);
          cli.show(imported, () => `${imported.rows} rows were imported.`);
        }),
      );
  }

  numbering
    .command('lookup')
    .description('the service of a phone number')
    .argument('<phone>', '10 digits; +7 or 8 before them is dropped')
    .action(
      run(async (cli: Context, phone: string) => {
        const found = await lookUp(await cli.database(), phone);
        if (found.kind === 'malformed')
          throw new Refusal(`"${phone}" is no phone number; give its 10 digits.`);
        const serviceId = found.kind === 'found' ? found.serviceId : null;
        cli.show({ phone, serviceId }, () =>
          serviceId === null ? `${phone} is in no operator's range.` : `${phone} is served by ${serviceId}.`,
        );
      }),
    );

  numbering
    .command('show')
    .description('what is loaded')
    .action(
      run(async (cli: Context) => {
        const loaded = await numberingFacts(await cli.database());
        cli.show(loaded, () =>
          table(
            ['what', 'rows', 'imported'],
            (['prefixes', 'ported'] as const).map((kind) => [
              kind,
              loaded[kind].rows,
              cli.time(loaded[kind].importedAt),
            ]),
          ),
        );
      }),
    );
}
