/**
 * Money is a bigint of minor units (hundredths) beside its currency. Nothing here passes through a float.
 */

export type ParsedAmount =
  | { readonly ok: true; readonly amountMinor: bigint }
  | { readonly ok: false; readonly reason: 'malformed' | 'too_long' };

const amountPattern = /^(\d+)(?:\.(\d+))?$/;

/**
 * Reads an amount from its literal text (`200`, `200.0`, `200.00`, `200.000` are the same amount).
 * Refuses signs, exponents, commas, a third decimal other than zero and more than 13 digits before the point.
 * Source: SPEC §2.
 */
export function parseAmount(literal: string): ParsedAmount {
  if (literal.length > 64) return { ok: false, reason: 'too_long' };
  const match = amountPattern.exec(literal);
  if (!match) return { ok: false, reason: 'malformed' };
  const whole = match[1]!;
  const fraction = match[2] ?? '';
  if (whole.length > 13) return { ok: false, reason: 'too_long' };
  for (let i = 2; i < fraction.length; i += 1) {
    if (fraction[i] !== '0') return { ok: false, reason: 'malformed' };
  }
  return { ok: true, amountMinor: BigInt(whole) * 100n + BigInt(fraction.slice(0, 2).padEnd(2, '0')) };
}

/** `12345n` → `123.45`; a scale of 4 appends the two zeros that balances are printed with. */
export function formatMinor(amountMinor: bigint, scale: 1 | 2 | 4 = 2): string {
  const negative = amountMinor < 0n;
  const digits = (negative ? -amountMinor : amountMinor).toString().padStart(3, '0');
  const whole = digits.slice(0, -2);
  let fraction = digits.slice(-2);
  if (scale === 4) fraction += '00';
  if (scale === 1 && fraction.endsWith('0')) fraction = fraction.slice(0, 1);
  return `${negative ? '-' : ''}${whole}.${fraction}`;
}

/** A conversion rate scaled by 10^10: `0.0020833333` is `20833333n`. */
export const rateScale = 10_000_000_000n;

export function parseRate(literal: string): bigint | null {
  const match = /^(\d{1,9})(?:\.(\d{1,10}))?$/.exec(literal);
  if (!match) return null;
  const rate = BigInt(match[1]!) * rateScale + BigInt((match[2] ?? '').padEnd(10, '0'));
  return rate > 0n ? rate : null;
}

/** Prints a rate with at most 10 decimals and no trailing zeros after the second. */
export function formatRate(rateE10: bigint): string {
  const digits = rateE10.toString().padStart(11, '0');
  const whole = digits.slice(0, -10);
  const fraction = digits.slice(-10).replace(/0+$/, '').padEnd(2, '0');
  return `${whole}.${fraction}`;
}

/**
 * What is sold by, scaled by 10^10: one unit buys `numerator / denominator` at the market, and the margin makes the
 * other currency dearer by so many millionths. Cut after the tenth decimal, so that it is never above the exact one.
 */
export function soldRate(numerator: bigint, denominator: bigint, marginPpm: number): bigint {
  return (numerator * rateScale * 1_000_000n) / (denominator * BigInt(1_000_000 + marginPpm));
}

/**
 * amount × rate in the other currency's minor units, rounded down. A rate is cut after its tenth decimal, so what is
 * short of a whole minor unit by less than the cut may have taken, and by no more than a half, is that minor unit:
 * 840.00 at 0.0020833333, which stands for 1/480, are 1.75.
 */
export function convert(amountMinor: bigint, rateE10: bigint): bigint {
  const product = amountMinor * rateE10;
  const missing = rateScale - (product % rateScale);
  return product / rateScale + (missing < amountMinor && missing * 2n <= rateScale ? 1n : 0n);
}

/** A share of an amount in basis points of a basis point (1 000 000 = 100 %), halves rounded up. */
export function shareOf(amountMinor: bigint, sharePpm: number): bigint {
  return (amountMinor * BigInt(sharePpm) + 500_000n) / 1_000_000n;
}
