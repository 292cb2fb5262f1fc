/**
 * What a connector is: a translator between the centre's words and one provider protocol. It does no I/O, keeps no
 * state and says plainly what the protocol cannot do; `send.ts` does the talking.
 */
import type { ExtraService, Offer } from '../core/requests.js';

export interface HttpRequest {
  readonly method: 'GET' | 'POST' | 'PUT';
  /** Path and query below the provider's base URL. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  /** A text leaves as UTF-8. */
  readonly body: string | Buffer | null;
}

export interface HttpResponse {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  /** Read in the connector's charset. */
  readonly body: string;
}

/** A request of the provider's own, as it came: `body` is what a signature is made over. */
export interface CallbackRequest {
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Buffer;
}

/** A question about an account; nothing is paid. */
export interface Inquiry {
  readonly externalId: string;
  readonly serviceCode: string;
  readonly account: string;
  readonly amountMinor: bigint | null;
  readonly currency: string;
  readonly extras: Readonly<Record<string, string>>;
}

/** A payment to be made once. `externalId` is the same on every attempt and on every status inquiry. */
export interface Order {
  readonly externalId: string;
  readonly serviceCode: string;
  readonly account: string;
  /** In the provider's currency, already converted. */
  readonly amountMinor: bigint;
  readonly currency: string;
  readonly extras: Readonly<Record<string, string>>;
  readonly extraServices: readonly ExtraService[] | null;
  /** The centre’s transactionId and the moment of acceptance. */
  readonly transactionId: bigint;
  readonly acceptedAt: Date;
  /**
   * The request is a question: an earlier one may have reached the provider, and may have been executed. Where it is
   * not certain that a provider repeats what it said first, what it refuses now says nothing of the first one.
   */
  readonly again: boolean;
}

export interface Refused {
  readonly kind: 'refused';
  /** A final code of the agent protocol: 4, 5, 7, 241, 242 or 300. */
  readonly code: number;
  /** The provider's own words or code, for the operators; never shown raw to agents. */
  readonly detail: string;
}

/**
 * Thrown by a `build…`: what is to be said cannot be written in this protocol, however often it is tried, as a character
 * that its charset lacks or a value that it wants and the payment has not. Such a payment is refused with 7, since
 * nothing of it was sent. The message is for the operators and quotes no value.
 */
export class NotWritable extends Error {
  override readonly name = 'NotWritable';
}

/** The provider gave no answer that proves anything: time-out, cut, 5xx, garbage. */
export interface Unknown {
  readonly kind: 'unknown';
  readonly detail: string;
}

export function unknown(detail: string): Unknown {
  return { kind: 'unknown', detail };
}

/** The request provably never reached the provider (connection refused, no free connection in time). */
export interface NotSent {
  readonly kind: 'not_sent';
  readonly detail: string;
}

export interface Executed {
  readonly kind: 'executed';
  readonly reference: string | null;
  readonly displays?: Readonly<Record<string, string>>;
  /** As displays, but worth money by themselves, as the code of a voucher: kept encrypted. */
  readonly secrets?: Readonly<Record<string, string>>;
}

/** The provider took the payment and will tell its end by status. */
export interface Pending {
  readonly kind: 'pending';
  readonly reference: string | null;
  /** What it waits for, in the provider's own words or code; for the operators. */
  readonly detail?: string;
}

export interface NotFound {
  readonly kind: 'not_found';
}

export type CheckOutcome = ({ readonly kind: 'ok' } & Offer) | Refused | Unknown;
export type PayOutcome = Executed | Pending | Refused | Unknown;
export type StatusOutcome = Executed | Pending | Refused | NotFound | Unknown;

/** What may be spent at the provider now. */
export interface ToldBalance {
  readonly kind: 'told';
  readonly amountMinor: bigint;
  readonly currency: string;
}

/** What a provider tells of an order by itself. */
export interface Notice {
  readonly externalId: string;
  readonly outcome: StatusOutcome;
}

/** What the protocol offers; the one rule of re-sending follows from it. */
export interface Offers {
  /** The provider executes one external id at most once, so a repeat is safe. */
  readonly deduplicates: boolean;
  readonly status: boolean;
  /** How long after the last attempt a "not found" proves non-execution; null: never. */
  readonly notFoundTrustedAfterMs: number | null;
}

export interface Connector {
  readonly name: string;
  readonly offers: Offers;
  /** Of the provider's answers, by its name in the Encoding Standard; absent: UTF-8. */
  readonly charset?: string;
  /**
   * Names of JSON members, XML elements and attributes, query and form parameters whose values may stand readable in
   * the payment's history: codes, statuses, ids and dates. All other values are masked.
   */
  readonly plain?: ReadonlySet<string>;
  buildCheck(inquiry: Inquiry): HttpRequest;
  /** The parsers are told what was asked, so that an answer about another payment is not taken for this one. */
  parseCheck(response: HttpResponse, inquiry: Inquiry): CheckOutcome;
  buildPay(order: Order): HttpRequest;
  parsePay(response: HttpResponse, order: Order): PayOutcome;
  /** Only called where `offers.status` is true. */
  buildStatus(order: Pick<Order, 'externalId' | 'serviceCode'>): HttpRequest;
  parseStatus(response: HttpResponse, order: Pick<Order, 'externalId' | 'serviceCode'>): StatusOutcome;
  /** Where the provider tells what lies there of ours. */
  readonly balance?: { build(): HttpRequest; parse(response: HttpResponse): ToldBalance | Unknown };
  /**
   * Where the provider tells outcomes by itself. Null: it is not proven to be the provider's, or is not understood.
   * Secrets are compared in constant time.
   */
  parseCallback?(request: CallbackRequest): Notice | null;
}

/** One connector made for one provider; throws a plain sentence when a setting is missing or wrong. */
export type ConnectorFactory = (settings: Readonly<Record<string, unknown>>) => Connector;

/** A line of the payment's history about one call. */
export interface CallRecord {
  readonly call: 'check' | 'pay' | 'status' | 'balance';
  readonly startedAt: string;
  readonly durationMs: number;
  readonly httpStatus: number | null;
  readonly outcome: string;
  readonly detail: string | null;
  /** What left and what came, masked (mask.ts); absent where there was none, or the provider's settings keep none. */
  readonly sent?: string;
  readonly received?: string;
}

/** The only way out of the centre. Bounded: so many at once, so many waiting, so long for each phase. */
export interface Sender {
  check(
    providerId: string,
    inquiry: Inquiry,
  ): Promise<{ outcome: CheckOutcome | NotSent; record: CallRecord }>;
  /**
   * Sends once. `sendBefore` is a moment of `elapsedMs()`: if the request has not left by then, it never will, and the
   * outcome is `not_sent`.
   */
  pay(
    providerId: string,
    order: Order,
    sendBefore: number,
  ): Promise<{ outcome: PayOutcome | NotSent; record: CallRecord }>;
  status(
    providerId: string,
    order: Pick<Order, 'externalId' | 'serviceCode'>,
  ): Promise<{ outcome: StatusOutcome | NotSent; record: CallRecord }>;
  /** Asks for it; null: its protocol does not tell it. */
  balance(providerId: string): (() => Promise<ToldBalance | NotSent | Unknown>) | null;
  /** What the provider's connector reads in a callback; null also where it takes none, or there is no such provider. */
  readCallback(providerId: string, request: CallbackRequest): Notice | null;
  offers(providerId: string): Offers;
  /** The longest a call of this provider can take from the moment it leaves the queue. */
  callMsMax(providerId: string): number;
  /**
   * `behind`: calls wait so long for a connection, or cannot be made at all, that new payments had better be refused.
   * `away`: it does not answer of late or is closed for maintenance; what is new would not be sent.
   */
  standing(providerId: string): 'well' | 'behind' | 'away';
  /** What becomes of a payment for which only providers that are away are left. */
  whenAway(providerId: string): 'queue' | 'refuse';
  /** Calls of each provider on a connection and waiting for one. */
  loads(): { readonly providerId: string; readonly underWay: number; readonly waiting: number }[];
  /** Waits for calls under way, at most `ms`. */
  close(ms: number): Promise<void>;
}
