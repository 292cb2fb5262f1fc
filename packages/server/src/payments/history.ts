/**
 * Finding a payment and telling its story to an operator: from its row, transfers, events, quote and waiting row. The
 * payer's identity is never read here; accounts are masked unless asked for.
 */
import type { Queryable } from '../audit.js';
import { messageFor } from '../core/codes.js';
import { formatMinor, formatRate } from '../core/money.js';
import { State, stateFacts, stateName } from '../core/states.js';
import type { CallRecord } from '../providers/contract.js';
import { readDetails, readOffer } from './stored.js';

export interface PaymentSummary {
  readonly transactionId: bigint;
  readonly agentId: bigint;
  readonly agentTransactionId: bigint;
  readonly state: string;
  readonly code: number;
  readonly serviceId: string;
  /** Masked in the middle unless asked for. */
  readonly account: string;
  readonly amountToMinor: bigint;
  readonly amountFromMinor: bigint;
  readonly feeMinor: bigint;
  readonly currency: string;
  readonly acceptedAt: Date;
  readonly finalAt: Date | null;
}

export interface HistoryEntry {
  readonly at: Date;
  /** `quote`, `accepted`, `transfer`, `lease`, `waiting`, `final`, or the kind of an event such as `provider_pay`. */
  readonly kind: string;
  /** A sentence for people. */
  readonly text: string;
  /** The same for programs: plain JSON, amounts as decimal text, ids as digits. */
  readonly data: Readonly<Record<string, unknown>>;
}

export interface Sight {
  /** Shows accounts, and what the provider told of their holders. */
  readonly showAccount?: boolean;
}

interface PaymentRow extends Omit<PaymentSummary, 'state'> {
  readonly state: number;
  readonly shard: number;
  readonly providerId: string | null;
  readonly rewardMinor: bigint;
  readonly agentDate: string;
  readonly reason: string | null;
  readonly reference: string | null;
  readonly details: unknown;
  /** As it lies in the database. */
  readonly shown: { readonly sealed?: string } | null;
}

const foundMax = 100;
/** A payment asked about for weeks has more events than anybody reads. */
const firstEventsMax = 100;
const lastEventsMax = 900;

const columns = `p.id as "transactionId", p.shard, p.agent_id as "agentId", p.agent_transaction_id as "agentTransactionId",
  p.state, p.code, p.service_id as "serviceId", p.provider_id as "providerId", p.account,
  p.amount_to_minor as "amountToMinor", p.amount_from_minor as "amountFromMinor", p.fee_minor as "feeMinor",
  p.reward_minor as "rewardMinor", p.currency, to_char(p.agent_date, 'YYYY-MM-DD"T"HH24:MI:SS') as "agentDate",
  p.accepted_at as "acceptedAt", p.final_at as "finalAt", p.reason, p.provider_reference as reference, p.details, p.shown`;

/** Keeps the ends of an account: `7777731414` → `777***1414`. */
export function maskAccount(account: string): string {
  const [head, tail] = account.length >= 10 ? [3, 4] : [account.length >> 2, account.length >> 2];
  return (
    account.slice(0, head) + '*'.repeat(account.length - head - tail) + account.slice(account.length - tail)
  );
}

/**
 * Payments by the centre's id, or by the agent's; the agent's id alone may name one payment of each agent. At most 100.
 * Throws when neither id is given.
 */
export async function findPayments(
  db: Queryable,
  by: {
    readonly transactionId?: bigint;
    readonly agentId?: bigint;
    readonly agentTransactionId?: bigint;
  },
  { showAccount = false }: Sight = {},
): Promise<PaymentSummary[]> {
  if (by.transactionId === undefined && by.agentTransactionId === undefined) {
    throw new Error('a payment is found by its transactionId or by its agentTransactionId; give one of them');
  }
  // One look into the unique key per agent: no index serves the agent's id alone.
  const { rows } = await db.query<PaymentRow>(
    by.transactionId !== undefined
      ? `select ${columns} from payments p
         where p.id = $1 and ($2::bigint is null or p.agent_id = $2) and ($3::bigint is null or p.agent_transaction_id = $3)`
      : `select p.* from agents a cross join lateral (
           select ${columns} from payments p
           where p.agent_id = a.agent_id and p.agent_transaction_id = $3 and p.shard = a.shard limit 1
         ) p
         where $1::bigint is null and ($2::bigint is null or a.agent_id = $2)
         order by "acceptedAt" desc limit ${foundMax}`,
    [by.transactionId ?? null, by.agentId ?? null, by.agentTransactionId ?? null],
  );
  return rows.map((row) => ({
    transactionId: row.transactionId,
    agentId: row.agentId,
    agentTransactionId: row.agentTransactionId,
    state: stateName(row.state),
    code: row.code,
    serviceId: row.serviceId,
    account: showAccount ? row.account : maskAccount(row.account),
    amountToMinor: row.amountToMinor,
    amountFromMinor: row.amountFromMinor,
    feeMinor: row.feeMinor,
    currency: row.currency,
    acceptedAt: row.acceptedAt,
    finalAt: row.finalAt,
  }));
}

/**
 * What happened to a payment, oldest first; empty for an unknown id. Of its events the first 100 and the last 900 are
 * told. Events and transfers of one commit share its moment.
 */
export async function paymentHistory(
  db: Queryable,
  transactionId: bigint,
  sight: Sight = {},
): Promise<HistoryEntry[]> {
  const found = await db.query<PaymentRow>(`select ${columns} from payments p where p.id = $1`, [
    transactionId,
  ]);
  const payment = found.rows[0];
  if (!payment) return [];
  const { shard, agentId, agentTransactionId, acceptedAt } = payment;
  const transfers = await db.query<TransferRow>(
    `select kind, debit_account as debit, credit_account as credit, amount_minor as "amountMinor", currency, created_at as at
     from transfers where operation_id = $1 and shard = $2 order by leg`,
    [transactionId, shard],
  );
  const events = await db.query<EventRow>(
    // Events lie by month: those before the payment need not be looked at. A day is for clocks that were set back.
    `with e as (select at, kind, data::text as data from payment_events
       where payment_id = $1 and shard = $2 and at >= $3::timestamptz - interval '1 day')
     (select * from e order by at limit ${firstEventsMax}) union (select * from e order by at desc limit ${lastEventsMax})
     order by at`,
    [transactionId, shard, acceptedAt],
  );
  const quotes = await db.query<QuoteRow>(
    `select created_at as at, expires_at as "expiresAt", rate_e10 as "rateE10", offer
     from quotes where agent_id = $1 and agent_transaction_id = $2 and shard = $3`,
    [agentId, agentTransactionId, shard],
  );
  const waiting = await db.query<WaitingRow>(
    `select what, since as at, next_at as "nextAt", tries, next_state as "nextState"
     from waiting where payment_id = $1 and shard = $2`,
    [transactionId, shard],
  );
  // A waiting row looks after the payment alone; without one, the process that accepted it does.
  const leases = await db.query<{ until: Date }>(
    'select until from leases where shard = $2 and payment_ids @> array[$1::bigint] and $3',
    [transactionId, shard, payment.state === State.sending && waiting.rows.length === 0],
  );

  const atOnce = (row: TransferRow) => row.at.getTime() === payment.acceptedAt.getTime();
  // Of entries with one moment, the earlier in this list comes first.
  return [
    ...quotes.rows.map((row) => quoteEntry(row, sight)),
    acceptedEntry(payment, transfers.rows.some(atOnce), sight),
    ...transfers.rows.filter(atOnce).map(transferEntry),
    ...leases.rows.map(({ until }) => leaseEntry(payment, until)),
    ...events.rows.map((row) => eventEntry(row, payment, sight)),
    ...transfers.rows.filter((row) => !atOnce(row)).map(transferEntry),
    ...waiting.rows.map(waitingEntry),
    ...(payment.finalAt ? [finalEntry(payment, payment.finalAt, sight)] : []),
  ].sort((left, right) => left.at.getTime() - right.at.getTime());
}

interface TransferRow {
  readonly at: Date;
  readonly kind: string;
  readonly debit: string;
  readonly credit: string;
  readonly amountMinor: bigint;
  readonly currency: string;
}

interface EventRow {
  readonly at: Date;
  readonly kind: string;
  readonly data: string;
}

interface QuoteRow {
  readonly at: Date;
  readonly expiresAt: Date;
  readonly rateE10: bigint | null;
  readonly offer: unknown;
}

interface WaitingRow {
  readonly at: Date;
  readonly what: string;
  readonly nextAt: Date;
  readonly tries: number;
  readonly nextState: number | null;
}

function quoteEntry({ at, expiresAt, rateE10, offer }: QuoteRow, { showAccount }: Sight): HistoryEntry {
  const rate = rateE10 === null ? null : formatRate(rateE10);
  const told = offer === null ? null : readOffer(offer);
  const parts = [
    told?.displays && `displays: ${Object.keys(told.displays).join(', ')}`,
    told?.contracts && `${told.contracts.length} contract(s)`,
    told?.invoices && `${told.invoices.length} invoice(s)`,
    told?.amountMinMinor !== undefined && `at least ${formatMinor(told.amountMinMinor)}`,
    told?.amountMaxMinor !== undefined && `at most ${formatMinor(told.amountMaxMinor)}`,
    rate && `the rate ${rate}`,
  ].filter(Boolean);
  const terms = parts.length > 0 ? ` It told ${parts.join('; ')}.` : '';
  return {
    at,
    kind: 'quote',
    text: told
      ? `The agent inquired about the account and the provider answered; the answer counts until ${iso(expiresAt)}.${terms}`
      : 'The agent inquired about the account and the provider gave no answer to pay by.',
    data: { expiresAt: iso(expiresAt), rate, ...(showAccount && { offer }) },
  };
}

function acceptedEntry(payment: PaymentRow, held: boolean, sight: Sight): HistoryEntry {
  const { agentId, agentTransactionId, agentDate, serviceId, providerId, currency, reason } = payment;
  const account = sight.showAccount ? payment.account : maskAccount(payment.account);
  const money = (minor: bigint) => `${formatMinor(minor)} ${currency}`;
  const details = payment.details === null ? null : readDetails(payment.details);
  const outcome = ruleOutcome(payment, held);
  return {
    at: payment.acceptedAt,
    kind: 'accepted',
    text:
      `Agent ${agentId} sent payment ${agentTransactionId}, dated ${agentDate} there: ${money(payment.amountToMinor)} for ` +
      `service ${serviceId}, account ${account}; the payer gave ${money(payment.amountFromMinor)}; fee of the centre ` +
      `${money(payment.feeMinor)}, reward of the agent ${money(payment.rewardMinor)}. ${outcome}`,
    data: {
      transactionId: String(payment.transactionId),
      agentId: String(agentId),
      agentTransactionId: String(agentTransactionId),
      agentDate,
      serviceId,
      providerId,
      account,
      amountTo: formatMinor(payment.amountToMinor),
      amountFrom: formatMinor(payment.amountFromMinor),
      fee: formatMinor(payment.feeMinor),
      reward: formatMinor(payment.rewardMinor),
      currency,
      reason,
      ...(details?.extras && {
        extras: Object.fromEntries(
          Object.entries(details.extras).map(([key, value]) => [
            key,
            sight.showAccount ? value : maskAccount(value),
          ]),
        ),
      }),
      ...(details?.extraServices && {
        extraServices: details.extraServices.map(({ amountMinor, ...line }) => ({
          ...line,
          amount: formatMinor(amountMinor),
        })),
      }),
      ...(details?.orderAmountMinor !== undefined && {
        orderAmount: formatMinor(details.orderAmountMinor),
        orderCurrency: details.orderCurrency,
      }),
    },
  };
}

/** What the rules said at acceptance. The row keeps what it became since, so the first step is read off its traces. */
function ruleOutcome(payment: PaymentRow, held: boolean): string {
  const { state, code, reason, acceptedAt, finalAt } = payment;
  const money = `${formatMinor(payment.amountToMinor + payment.feeMinor)} ${payment.currency}`;
  if (finalAt?.getTime() === acceptedAt.getTime() && state === State.failed && !held) {
    return `Refused by the rules at once with ${code}: ${messageFor(code, 'en', reason)}.`;
  }
  const [key, ...values] = reason?.split('|') ?? [];
  if (held) {
    return key === 'security_rule'
      ? `The rules held it for the security service by rule ${values[0]}; ${money} were held.`
      : `The rules let it through; ${money} were held.`;
  }
  if (state === State.awaitingTerms || key === 'added_fee' || key === 'terms_not_met') {
    return 'The rules found the added fee above the tariff (255); nothing was held, the payment waited.';
  }
  if (state === State.awaitingFunds || code === 250) {
    return `The balance did not cover ${money} (220); nothing was held, the payment waited.`;
  }
  return 'Nothing was held at once: the payment waited for funds or for its terms to be met.';
}

const transferWords: Readonly<Record<string, string>> = {
  hold: 'Held for the payment',
  post: 'Posted to the provider',
  fee: 'Fee of the centre',
  reward: 'Reward of the agent',
  void: 'What was held went back to the agent',
  reversal: 'Reversed to the agent',
  fee_reversal: 'Fee reversed to the agent',
  reward_reversal: 'Reward taken back',
};

function transferEntry({ at, kind, debit, credit, amountMinor, currency }: TransferRow): HistoryEntry {
  const amount = formatMinor(amountMinor);
  return {
    at,
    kind: 'transfer',
    text: `${transferWords[kind] ?? kind}: ${amount} ${currency} from ${debit} to ${credit}.`,
    data: { transfer: kind, debit, credit, amount, currency },
  };
}

function leaseEntry(payment: PaymentRow, until: Date): HistoryEntry {
  return {
    at: payment.acceptedAt,
    kind: 'lease',
    text: `The process that accepted it has until ${iso(until)} to send it and write down the outcome.`,
    data: { until: iso(until) },
  };
}

const calls: Readonly<Record<string, string>> = {
  check: 'The provider was asked about the account',
  pay: 'The provider was asked to execute the payment',
  status: 'The provider was asked what became of the payment',
  callback: 'The provider told by itself what became of the payment',
};

/** A call, or a callback, which has neither an HTTP status nor a time. */
type TellingRecord = Omit<CallRecord, 'call'> & { readonly call: CallRecord['call'] | 'callback' };

const outcomes: Readonly<Record<string, string>> = {
  ok: 'it knows the account',
  executed: 'it executed the payment',
  pending: 'it took the payment and has not ended it',
  refused: 'it refused',
  not_found: 'it does not know the payment',
  not_sent: 'the request provably never reached it',
  unknown: 'no answer that proves anything',
};

const eventWords: Readonly<Record<string, string>> = {
  funded: 'The balance covers the payment now; it goes on',
  terms_met: 'The terms are met now; the payment goes on',
  expired: 'It waited too long and was ended',
  no_status_inquiry:
    'The provider has no status inquiry; it is asked by a repeat where that is safe, else by nobody',
  rerouted: 'Nothing was executed there, and the payment goes to another provider',
  approved: 'Approved by the security service',
  rejected: 'Rejected by the security service',
  settled_as_executed: 'Ended as executed on evidence from the provider',
  settled_as_not_executed: 'Ended as not executed on evidence from the provider',
  reversed: 'Reversed with the agreement of the provider',
};

function eventEntry({ at, kind, data: json }: EventRow, payment: PaymentRow, sight: Sight): HistoryEntry {
  // Providers repeat the account in their words. One too short to tell from any other number is left as it is.
  const { account } = payment;
  const hide = !sight.showAccount && account.length >= 5;
  const data = JSON.parse(json, (_, value) =>
    hide && typeof value === 'string' ? value.replaceAll(account, maskAccount(account)) : value,
  );
  const said = typeof data.call === 'string' ? callText(data) : decisionText(kind, data);
  const text =
    kind === 'not_moved' ? `What came changed nothing where the payment was by then: ${said}` : said;
  return { at, kind, text, data };
}

function callText(record: TellingRecord): string {
  const { call, outcome, httpStatus, durationMs, detail, sent, received } = record;
  const http = httpStatus === null ? 'no HTTP answer' : `HTTP ${httpStatus}`;
  if (call === 'callback')
    return `${calls.callback}: ${outcomes[outcome] ?? outcome}${detail ? ` (its words: ${detail})` : ''}.`;
  const words = detail ? `; its words: ${detail}` : '';
  const said =
    sent === undefined ? '' : ` Sent: ${sent}${received === undefined ? '' : ` Came: ${received}`}`;
  return `${calls[call] ?? call}: ${outcomes[outcome] ?? outcome} (${http}, ${Math.round(durationMs)} ms${words}).${said}`;
}

function decisionText(kind: string, data: Readonly<Record<string, unknown>>): string {
  const by = typeof data.operator === 'string' ? ` by ${data.operator}` : '';
  const why = [data.note, data.evidence].filter((each) => typeof each === 'string' && each !== '').join('; ');
  const way = kind === 'rerouted' ? `, from ${data.from} to ${data.to}` : '';
  return `${eventWords[kind] ?? kind.replaceAll('_', ' ')}${way}${by}${why && `: ${why}`}.`;
}

const waitingWords: Readonly<Record<string, string>> = {
  funds: 'It waits for the balance to cover it',
  review: 'It waits for an operator to approve or reject it',
  terms: 'It waits for the added fee to be allowed',
  send: 'Nothing was executed, and it is to be sent to the provider',
  inquire: 'Its outcome is not known, and the provider is to be asked',
};

function waitingEntry({ at, what, nextAt, tries, nextState }: WaitingRow): HistoryEntry {
  const then = nextState === null ? '' : `, then it goes on to ${stateName(nextState)}`;
  const when =
    what === 'send' || what === 'inquire'
      ? `, next after ${iso(nextAt)}; taken up ${tries} time(s) so far`
      : '';
  return {
    at,
    kind: 'waiting',
    text: `${waitingWords[what] ?? what}${then}${when}.`,
    data: { what, nextAt: iso(nextAt), tries },
  };
}

function finalEntry(payment: PaymentRow, finalAt: Date, { showAccount }: Sight): HistoryEntry {
  const { code, reason, reference, state } = payment;
  // A code that is worth money is for the payment's agent only, whoever else looks.
  const sealed = payment.shown?.sealed === undefined ? null : '***';
  const ended = stateFacts[state === State.reversed ? State.succeeded : (state as State)].name;
  return {
    at: finalAt,
    kind: 'final',
    text:
      `Final: ${ended} with code ${code}, ${messageFor(code, 'en', reason)}` +
      `${reference ? `; the provider's reference is ${reference}` : ''}` +
      `${sealed ? '; it has a code that only the agent is shown' : ''}.`,
    data: {
      ...{ state: ended, code, reason, reference },
      ...(showAccount && { shown: sealed ? { ...payment.shown, sealed } : payment.shown }),
      ...(sealed && { sealed }),
    },
  };
}

function iso(moment: Date): string {
  return moment.toISOString();
}
