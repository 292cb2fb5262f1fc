import { hash } from 'node:crypto';

/**
 * A check comes before there is a transactionId, so where a protocol wants a number it follows from the external id:
 * `first` and so many digits, where no transactionId will ever be. Two checks under one number would do no harm; a check
 * and a payment might.
 */
export function checkNumber(externalId: string, first: string, digits: number): string {
  const bits = BigInt(`0x${hash('sha256', externalId, 'hex').slice(0, 16)}`);
  return `${first}${String(bits % 10n ** BigInt(digits)).padStart(digits, '0')}`;
}
