/** Commands about what is sold and at what price: service, tariff, rate, rule, numbering. */
import { Argument, type Command, InvalidArgumentError, Option } from 'commander';
import { Refusal } from '../audit.js';
import { readFeedState } from '../catalogue/feed.js';
import { importPorted, importPrefixes, lookUp, numberingFacts } from '../catalogue/numbering.js';
import {
  direct,
  importRates,
  inverse,
  listRateHistory,
  type Pair,
  type PairSettings,
  type RateRecord,
  readPairs,
  readRates,
  setPair,
  setRate,
} from '../catalogue/rates.js';
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
    .description('set a rate: KZT USD 0.0020833333, or KZT USD --inverse 480')
    .argument('<from>', 'currency of the agent')
    .argument('<to>', 'currency of the provider')
    .argument('[rate]', 'what one unit of the first buys, up to 10 decimals', rateText)
    .addOption(new Option('--inverse <rate>', 'what one unit of the second costs').argParser(rateText))
    .addOption(
      new Option(
        '--from <moment>',
        'when it begins, 2026-12-01T00:00:00+05:00 for one; absent: now',
      ).argParser(moment),
    )
    .addHelpText('after', '\nThe margin of the pair is taken off it: see tolem rate pair.')
    .action(
      run(
        async (
          cli: Context,
          fromCurrency: string,
          toCurrency: string,
          rateE10: bigint | undefined,
          options: { inverse?: bigint; from?: Date },
        ) => {
          if ((rateE10 === undefined) === (options.inverse === undefined)) {
            throw new InvalidArgumentError(
              'error: give the rate, or --inverse with what the other currency costs',
            );
          }
          const market = rateE10 === undefined ? inverse(options.inverse!) : direct(rateE10);
          const { db, operator } = await cli.change();
          const set = await setRate(
            db,
            { fromCurrency, toCurrency, ...market, validFrom: options.from },
            operator,
          );
          const since = options.from ? `from ${cli.time(options.from)} on` : 'from now on';
          cli.show(set, () => `1 ${fromCurrency} = ${formatRate(set.rateE10)} ${toCurrency} ${since}.`);
        },
      ),
    );

  rate
    .command('import')
    .description('set the rates of a CSV or JSON file, all of it or nothing')
    .argument('<file>')
    .addHelpText(
      'after',
      `
CSV: a header of from,to,rate,inverse,valid_from, in any order; give the rate or the inverse, and leave valid_from
out for now. JSON: [{ "from": "KZT", "to": "USD", "inverse": "480.50", "valid_from": "2026-12-01T00:00:00+05:00" }].`,
    )
    .action(
      run(async (cli: Context, path: string) => {
        const text = readTextFile(path);
        const { db, operator } = await cli.change();
        const added = await importRates(db, text, operator);
        cli.show(added, () => rateTable(cli, added));
      }),
    );

  rate
    .command('pair')
    .description(
      'settings of a pair: margin, greatest age, whether it follows the feed; without options: all pairs',
    )
    .argument('[from]', 'currency of the agent')
    .argument('[to]', 'currency of the provider')
    .addOption(
      new Option('--margin <percent>', 'sold so much dearer, from the next rate on').argParser(percent(0)),
    )
    .addOption(
      new Option('--max-age <hours>', 'not sold by an older rate; off: by any').argParser(hoursOrOff),
    )
    .addOption(
      new Option('--jump <percent>', 'the feed may move the rate so far at once').argParser(percent(1)),
    )
    .addOption(new Option('--feed <switch>', 'follow the feed').choices(['on', 'off']))
    .action(
      run(
        async (
          cli: Context,
          fromCurrency: string | undefined,
          toCurrency: string | undefined,
          options: {
            margin?: number;
            maxAge?: { seconds: number | null };
            jump?: number;
            feed?: 'on' | 'off';
          },
        ) => {
          const { margin, maxAge, jump, feed } = options;
          const change = {
            ...(margin !== undefined && { marginPpm: margin }),
            ...(maxAge && { ageMaxS: maxAge.seconds }),
            ...(jump !== undefined && { jumpMaxPpm: jump }),
            ...(feed && { fed: feed === 'on' }),
          };
          if (fromCurrency === undefined || toCurrency === undefined) {
            if (fromCurrency !== undefined || Object.keys(change).length > 0)
              throw new InvalidArgumentError('error: name the two currencies of the pair');
            const pairs = await readPairs(await cli.database());
            cli.show(pairs, () => pairTable(pairs));
            return;
          }
          if (Object.keys(change).length === 0) throw new InvalidArgumentError('error: name what to change');
          const { db, operator } = await cli.change();
          const set = await setPair(db, { fromCurrency, toCurrency }, change, operator);
          cli.show(set, () => pairTable([set]));
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
        if (options.history) {
          const history = await listRateHistory(db, options.limit);
          cli.show(history, () => rateTable(cli, history));
          return;
        }
        const rates = await readRates(db);
        const { problem, held } = await readFeedState(db);
        cli.show(rates, () =>
          [
            table(
              [
                'from',
                'to',
                'rate',
                'market',
                'margin %',
                'since',
                'age h',
                'at most h',
                'sold',
                'source',
                'operator',
              ],
              rates.map((each) => [
                each.fromCurrency,
                each.toCurrency,
                formatRate(each.rateE10),
                formatRate(each.marketE10),
                formatPercent(each.marginPpm),
                cli.time(each.validFrom),
                hours(each.ageS),
                hours(each.ageMaxS),
                each.tooOld ? 'no, too old' : 'yes',
                each.source,
                each.operator,
              ]),
            ),
            ...(problem === null ? [] : [`The feed cannot be used: ${problem}.`]),
            ...Object.entries(held).map(([pair, why]) => `${pair} does not follow the feed: ${why}.`),
          ].join('\n'),
        );
      }),
    );

  rate
    .command('feed')
    .description('how it stands with the feed of rates')
    .action(
      run(async (cli: Context) => {
        const state = await readFeedState(await cli.database());
        cli.show(state, () =>
          facts([
            ['last tried', cli.time(state.triedAt)],
            ['last understood', cli.time(state.readAt)],
            ['of the date', state.feedDate],
            ['problem', state.problem],
            ...Object.entries(state.held).map(([pair, why]) => [pair, why] as const),
          ]),
        );
      }),
    );
}

function rateTable(cli: Context, rates: readonly RateRecord[]): string {
  return table(
    ['from', 'to', 'rate', 'market', 'margin %', 'since', 'source', 'operator'],
    rates.map((each) => [
      each.fromCurrency,
      each.toCurrency,
      formatRate(each.rateE10),
      formatRate(each.marketE10),
      formatPercent(each.marginPpm),
      cli.time(each.validFrom),
      each.source,
      each.operator,
    ]),
  );
}

function pairTable(pairs: readonly (Pair & PairSettings)[]): string {
  return table(
    ['from', 'to', 'margin %', 'at most h', 'jump %', 'feed'],
    pairs.map((each) => [
      each.fromCurrency,
      each.toCurrency,
      formatPercent(each.marginPpm),
      hours(each.ageMaxS) ?? 'any',
      formatPercent(each.jumpMaxPpm),
      each.fed,
    ]),
  );
}

const hours = (seconds: number | null) => (seconds === null ? null : (seconds / 3600).toFixed(1));

function hoursOrOff(text: string): { readonly seconds: number | null } {
  if (text === 'off') return { seconds: null };
  if (/^[1-9]\d{0,3}$/.test(text)) return { seconds: Number(text) * 3600 };
  throw new InvalidArgumentError('Expected a whole number of hours from 1 to 9999, or off.');
}

function percent(leastPpm: number): (text: string) => number {
  return (text) => {
    const match = /^(\d{1,3})(?:\.(\d{1,4}))?$/.exec(text);
    const ppm = match ? Number(match[1]) * 10_000 + Number((match[2] ?? '').padEnd(4, '0')) : -1;
    if (ppm >= leastPpm && ppm <= 1_000_000) return ppm;
    throw new InvalidArgumentError('Expected percent, at most 100, with at most 4 decimals.');
  };
}

function moment(text: string): Date {
  const isMoment = /^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)$/.test(text);
  const read = new Date(isMoment ? text : Number.NaN);
  if (!Number.isNaN(read.getTime())) return read;
  throw new InvalidArgumentError('Expected a moment with its offset, such as 2026-12-01T00:00:00+05:00.');
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
    'import-prefixes': 'replace the prefixes and ranges by those of a CSV file: prefix,service_id',
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
