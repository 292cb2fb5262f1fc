import type { TariffLine } from './catalogue.js';
import { shareOf } from './money.js';

/** The centre's fee on a payment, in minor units: a share and a fixed part, between the line's bounds. */
export function feeOf(line: TariffLine, amountToMinor: bigint): bigint {
  const fee = shareOf(amountToMinor, line.feePpm) + line.feeFixedMinor;
  if (fee < line.feeMinMinor) return line.feeMinMinor;
  if (line.feeMaxMinor !== null && fee > line.feeMaxMinor) return line.feeMaxMinor;
  return fee;
}

/** What the agent earns by a payment, in minor units; accrues apart from its balance. */
export function rewardOf(line: TariffLine, amountToMinor: bigint): bigint {
  return shareOf(amountToMinor, line.rewardPpm);
}

/** The most the agent may take on top of amountTo, in minor units; null: no bound. */
export function addedMax(line: TariffLine, amountToMinor: bigint): bigint | null {
  return line.addedMaxPpm === null ? null : shareOf(amountToMinor, line.addedMaxPpm);
}
