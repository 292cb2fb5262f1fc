/**
 * Translates for a provider of JSON over HTTP whose protocol is described in its settings (shape.ts). The description
 * is compiled once; a mistake in it is told when the settings are set, with its place.
 */
import { formatMinor } from '../../core/money.js';
import {
  type CheckOutcome,
  type ConnectorFactory,
  type HttpResponse,
  type StatusOutcome,
  unknown,
} from '../contract.js';
import { amountAt, compileReading, type Found, type Pointer, pointerOf, textAt, textsAt } from './read.js';
import { compileRequests } from './request.js';
import {
  type AmountAt,
  type Check,
  type Description,
  Mistake,
  type Pay,
  type Place,
  readSettings,
  type Settings,
  type Status,
} from './shape.js';
import type { Facts, Kind } from './template.js';

export const describedConnector: ConnectorFactory = (settings) => {
  const read = readSettings(settings);
  const { description, values, secrets } = read;
  for (const name of Object.keys(values)) {
    if (Object.hasOwn(secrets, name))
      throw new Mistake(`values.${name}`, 'is a secret of the same name too; rename one');
  }
  refuseOffers(read);
  const { check, pay, status, auth = [], offers } = description;
  const requestsOf = (call: Check | Pay | Status, place: Place) =>
    compileRequests(call, place, { values, secrets }, auth, pathOf(read.baseUrl));

  const checks = check && { ...requestsOf(check, 'check'), parse: compileCheck(check) };
  const pays = { ...requestsOf(pay, 'pay'), parse: compileResult(pay, 'description.pay') };
  const statuses = status && {
    ...requestsOf(status, 'status'),
    parse: compileResult(status, 'description.status'),
  };
  const sent = [checks, pays, statuses].flatMap((each) => each?.kinds ?? []);
  const now = (asked: Facts['asked']): Facts => ({ asked, nowMs: Date.now() });

  return {
    name: 'described',
    offers: {
      deduplicates: offers.deduplicates,
      status: status !== undefined,
      notFoundTrustedAfterMs: offers.notFoundTrustedAfterMs,
    },
    plain: plainOf(description, sent),
    buildCheck(inquiry) {
      if (!checks) throw new Error('the description has no check');
      return checks.build(now(inquiry));
    },
    parseCheck: (response, { externalId }) =>
      checks ? checks.parse(response, externalId) : unknown('the description has no check'),
    buildPay: (order) => pays.build(now(order)),
    parsePay(response, { externalId }) {
      const outcome = pays.parse(response, externalId);
      return outcome.kind === 'not_found'
        ? unknown('not found says nothing of a payment just sent')
        : outcome;
    },
    buildStatus(order) {
      if (!statuses) throw new Error('the description has no status');
      return statuses.build(now(order));
    },
    parseStatus: (response, { externalId }) =>
      statuses ? statuses.parse(response, externalId) : unknown('the description has no status'),
  };
};

function pathOf(baseUrl = ''): string {
  return URL.canParse(baseUrl) ? new URL(baseUrl).pathname.replace(/\/$/, '') : '';
}

/** What is promised must be able to be true. */
function refuseOffers({ description: { offers, status }, answerMsMax }: Settings): void {
  const { notFoundTrustedAfterMs, answerMs } = offers;
  const says = status?.outcomes.some(({ then }) => then === 'not_found') ?? false;
  if (notFoundTrustedAfterMs !== null && !says) {
    throw new Mistake(
      'description.offers.notFoundTrustedAfterMs',
      'must be null, since no rule of status has the result "not_found"',
    );
  }
  if (answerMs !== undefined && !(answerMsMax !== undefined && answerMsMax >= answerMs)) {
    throw new Mistake(
      'answerMsMax',
      `must be given and at least ${answerMs}, as long as description.offers.answerMs says the provider may take`,
    );
  }
}

function compileCheck(call: Check): (response: HttpResponse, externalId: string) => CheckOutcome {
  const at = 'description.check';
  const read = compileReading<Check['outcomes'][number]['then']>(call, at);
  const { displays = {}, fixedAmount, amountMin, amountMax } = call;
  if (fixedAmount && Object.hasOwn(displays, 'fixedAmount'))
    throw new Mistake(`${at}.displays.fixedAmount`, 'is said by fixedAmount already; remove one');
  const shown = pointersOf(displays);
  const [fixed, least, most] = [fixedAmount, amountMin, amountMax].map(compileAmount);
  return (response, externalId) => {
    const found = read(response, externalId);
    if (found.kind === 'unknown') return found;
    const { result, document } = found;
    if (result !== 'ok') return { kind: 'refused', code: result.refused, detail: found.code };
    const [fixedMinor, amountMinMinor, amountMaxMinor] = [fixed, least, most].map((each) => each!(document));
    if (fixedMinor === undefined || amountMinMinor === undefined || amountMaxMinor === undefined)
      return unknown('an amount in the answer is none');
    const displays = {
      ...textsAt(document, shown),
      ...(fixedMinor !== null && { fixedAmount: formatMinor(fixedMinor) }),
    };
    return {
      kind: 'ok',
      ...(Object.keys(displays).length > 0 && { displays }),
      ...(amountMinMinor !== null && { amountMinMinor }),
      ...(amountMaxMinor !== null && { amountMaxMinor }),
    };
  };
}

function compileAmount(amount: AmountAt | undefined): (document: unknown) => bigint | null | undefined {
  if (!amount) return () => null;
  const pointer = pointerOf(amount.at);
  return (document) => amountAt(document, pointer, amount.unit);
}

type Result = (Pay | Status)['outcomes'][number]['then'];

/** Of pay and status alike. */
function compileResult(
  call: Pay | Status,
  at: string,
): (response: HttpResponse, externalId: string) => StatusOutcome {
  const read = compileReading<Result>(call, at);
  const shown = pointersOf(call.displays);
  const valuable = pointersOf(call.secrets);
  const reference = call.reference === undefined ? null : pointerOf(call.reference);
  return (response, externalId) => {
    const found = read(response, externalId);
    return found.kind === 'unknown' ? found : outcomeOf(found);
  };

  function outcomeOf({ result, document, code }: Found<Result>): StatusOutcome {
    if (typeof result !== 'string') return { kind: 'refused', code: result.refused, detail: code };
    if (result === 'not_found') return { kind: 'not_found' };
    const text = reference === null ? null : textAt(document, reference);
    const told = text !== null && text.length >= 1 && text.length <= 64 ? text : null;
    if (result === 'pending') return { kind: 'pending', reference: told };
    if (reference !== null && told === null) return unknown(`${code}, without a reference`);
    const displays = textsAt(document, shown);
    const secrets = textsAt(document, valuable);
    return { kind: 'executed', reference: told, ...(displays && { displays }), ...(secrets && { secrets }) };
  }
}

const pointersOf = (texts: Readonly<Record<string, string>> = {}): [string, Pointer][] =>
  Object.entries(texts).map(([name, written]) => [name, pointerOf(written)]);

/** Names of codes, of the ids and dates we send, and what the description adds; less those of anything else. */
function plainOf(description: Description, sent: readonly (readonly [string, Kind])[]): ReadonlySet<string> {
  const calls = [description.check, description.pay, description.status].filter((call) => call !== undefined);
  const masked = new Set([
    ...sent.filter(([, kind]) => kind !== 'open').map(([name]) => name),
    ...calls.flatMap(valuesShown).map(lastName),
  ]);
  const index = description.plain?.findIndex((name) => masked.has(name)) ?? -1;
  if (index >= 0) {
    throw new Mistake(
      `description.plain[${index}]`,
      'goes with an account, an amount, a secret or what is shown to the payer; remove it',
    );
  }
  const open = [
    ...(description.plain ?? []),
    ...sent.filter(([, kind]) => kind === 'open').map(([name]) => name),
    ...calls.flatMap(wordsOf).map(lastName),
  ];
  return new Set(open.filter((name) => !masked.has(name) && !/^\d+$/.test(name)));
}

const lastName = (written: string) => pointerOf(written).at(-1)!;

function valuesShown(call: Check | Pay | Status): string[] {
  type Shown = Pick<Check, 'displays' | 'fixedAmount' | 'amountMin' | 'amountMax'> &
    Pick<Partial<Pay>, 'secrets'>;
  const { displays, secrets, fixedAmount, amountMin, amountMax }: Shown = call;
  const amounts = [fixedAmount, amountMin, amountMax].flatMap((amount) => (amount ? [amount.at] : []));
  return [...Object.values(displays ?? {}), ...Object.values(secrets ?? {}), ...amounts];
}

function wordsOf(call: Check | Pay | Status): string[] {
  const abouts = [call.about, ...call.outcomes.map(({ about }) => about)];
  return [...[call.code].flat(), ...abouts.filter((about) => typeof about === 'string')];
}
