/**
 * What an agent asked, after the protocol edge has checked its shape; and what a provider offered in answer to an
 * inquiry.
 */

export interface ExtraService {
  readonly subServiceId: string;
  readonly amountMinor: bigint;
  readonly lastCount: string | null;
}

export interface CheckRequest {
  readonly serviceId: string;
  readonly account: string;
  readonly agentTransactionId: bigint;
  /** Local date of the agent, `YYYY-MM-DDThh:mm:ss`, offset and fraction already dropped. */
  readonly agentTransactionDate: string;
  readonly amountToMinor: bigint | null;
  readonly amountFromMinor: bigint | null;
  /** Keys without the `ev_` prefix; values are text. */
  readonly extras: Readonly<Record<string, string>>;
  readonly identityCard: string | null;
  readonly fullName: string | null;
}

export interface PayRequest extends CheckRequest {
  readonly amountToMinor: bigint;
  /** Absent in the request: equal to amountTo. */
  readonly amountFromMinor: bigint;
  readonly extraServices: readonly ExtraService[] | null;
}

export interface Contract {
  readonly contractId: string;
  readonly name?: string;
  readonly contractNumber?: string;
  readonly contractSum?: string;
  readonly contractDate?: string;
}

export interface InvoiceLine {
  readonly subServiceId: string;
  readonly subServiceName: string;
  /** Amounts in minor units; absent where the provider gave none. `minSum`, `maxSum`: 0 is "no limit". */
  readonly paySumMinor?: bigint;
  readonly tariffMinor?: bigint;
  readonly minSumMinor?: bigint;
  readonly maxSumMinor?: bigint;
  readonly debtInfo?: string;
  readonly isMeter?: boolean;
  readonly prevCount?: string;
  readonly lastCount?: string;
  readonly si?: string;
  readonly comment?: string;
}

export interface Invoice {
  readonly invoiceId?: string;
  readonly formedDate?: string;
  readonly expireDate?: string;
  readonly clientName?: string;
  readonly clientAddress?: string;
  readonly lines: readonly InvoiceLine[];
}

/** What the provider told about an account. At most one of contracts and invoices, by the service's scheme. */
export interface Offer {
  readonly displays?: Readonly<Record<string, string>>;
  readonly contracts?: readonly Contract[];
  readonly invoices?: readonly Invoice[];
  /** The provider's own limits for this account, where it has any. */
  readonly amountMinMinor?: bigint;
  readonly amountMaxMinor?: bigint;
  /** Who told it, where the service has several providers: what is offered can be paid there only. */
  readonly providerId?: string;
}

/** In Unicode code points. */
export function isLonger(text: string, lengthMax: number): boolean {
  return text.length > lengthMax && [...text].length > lengthMax;
}

/** The first `lengthMax` Unicode code points. */
export function cutTo(text: string, lengthMax: number): string {
  return isLonger(text, lengthMax) ? [...text].slice(0, lengthMax).join('') : text;
}
