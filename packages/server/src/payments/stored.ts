/**
 * How the objects of an answer and of an order lie in the database's JSON: the same shapes, with every bigint as a
 * string of digits.
 */
import type { Shown } from '../core/answers.js';
import type { ExtraService, Invoice, Offer } from '../core/requests.js';

/** What an order needs beyond the payment's columns. */
export interface OrderDetails {
  readonly serviceCode: string;
  /** Our names of extras → the provider's. */
  readonly fields?: Readonly<Record<string, string>>;
  readonly extras?: Readonly<Record<string, string>>;
  readonly extraServices?: readonly ExtraService[];
  /** Only where the provider's currency is another one. */
  readonly orderAmountMinor?: bigint;
  readonly orderCurrency?: string;
}

/** What is worth money by itself stays encrypted until its agent is answered. */
export interface StoredShown extends Shown {
  readonly sealed?: string;
}

const digits = (_key: string, value: unknown) => (typeof value === 'bigint' ? value.toString() : value);

export function writeShown(shown: StoredShown): string {
  return JSON.stringify(shown, digits);
}

export function writeOffer(offer: Offer): string {
  return JSON.stringify(offer, digits);
}

export function writeDetails(details: OrderDetails): string {
  // A replacer keeps the engine off its short way, and most orders have nothing to replace.
  const plain = details.extraServices === undefined && details.orderAmountMinor === undefined;
  return plain ? JSON.stringify(details) : JSON.stringify(details, digits);
}

// biome-ignore lint/suspicious/noExplicitAny: the shapes are those written above.
type Stored = any;

export function readShown(stored: Stored): StoredShown {
  return {
    ...stored,
    ...(stored.invoices && { invoices: stored.invoices.map(readInvoice) }),
    ...(stored.conversion && {
      conversion: {
        ...stored.conversion,
        rateE10: BigInt(stored.conversion.rateE10),
        finalAmountMinor:
          stored.conversion.finalAmountMinor === null ? null : BigInt(stored.conversion.finalAmountMinor),
      },
    }),
  };
}

export function readOffer(stored: Stored): Offer {
  return {
    ...stored,
    ...(stored.invoices && { invoices: stored.invoices.map(readInvoice) }),
    ...bigints(stored, ['amountMinMinor', 'amountMaxMinor']),
  };
}

export function readDetails(stored: Stored): OrderDetails {
  return {
    ...stored,
    ...(stored.extraServices && {
      extraServices: stored.extraServices.map((each: Stored) => ({
        ...each,
        amountMinor: BigInt(each.amountMinor),
      })),
    }),
    ...bigints(stored, ['orderAmountMinor']),
  };
}

function readInvoice(stored: Stored): Invoice {
  return {
    ...stored,
    lines: stored.lines.map((line: Stored) => ({
      ...line,
      ...bigints(line, ['paySumMinor', 'tariffMinor', 'minSumMinor', 'maxSumMinor']),
    })),
  };
}

function bigints(stored: Stored, keys: readonly string[]): Record<string, bigint> {
  return Object.fromEntries(
    keys.filter((key) => stored[key] !== undefined).map((key) => [key, BigInt(stored[key])]),
  );
}
