import type { PayAnswer } from '../core/answers.js';
import type { StoredPayment } from './store.js';

/**
 * The latest final payments of this process, as committed: while the database is the same one their answers never
 * change, so that a repeat needs none of it. Each has the one slot its ids point to, and who comes later takes it. The
 * slots are columns of numbers, 60 bytes a payment: as objects that outlive their requests they cost the collector more
 * than they save.
 */
export class FinalPayments {
  private readonly shift: number;
  private readonly agentIds: BigInt64Array;
  private readonly agentTransactionIds: BigInt64Array;
  private readonly transactionIds: BigInt64Array;
  private readonly acceptedAt: Float64Array;
  private readonly finalAt: Float64Array;
  private readonly codes: Uint16Array;
  private readonly fingerprints: Uint32Array;

  /** `bits`: 2 to the power of it is the number of slots. */
  constructor(bits: number) {
    this.shift = 32 - bits;
    const slots = 1 << bits;
    this.agentIds = new BigInt64Array(slots);
    this.agentTransactionIds = new BigInt64Array(slots);
    this.transactionIds = new BigInt64Array(slots);
    this.acceptedAt = new Float64Array(slots);
    this.finalAt = new Float64Array(slots);
    this.codes = new Uint16Array(slots);
    this.fingerprints = new Uint32Array(slots * wordsOfFingerprint);
  }

  /** The answer, if the payment is here and has the same words. */
  get(agentId: bigint, agentTransactionId: bigint, fingerprint: string): PayAnswer | null {
    const slot = this.slotOf(agentId, agentTransactionId);
    if (this.agentTransactionIds[slot] !== agentTransactionId || this.agentIds[slot] !== agentId) return null;
    for (let word = 0; word < wordsOfFingerprint; word += 1)
      if (this.fingerprints[slot * wordsOfFingerprint + word] !== wordOf(fingerprint, word)) return null;
    return {
      code: this.codes[slot]!,
      reason: null,
      transactionId: this.transactionIds[slot]!,
      shown: null,
      acceptedAt: new Date(this.acceptedAt[slot]!),
      finalAt: new Date(this.finalAt[slot]!),
    };
  }

  /** Those that are not final yet are not kept, nor those whose answers have more than numbers in them. */
  keep(agentId: bigint, agentTransactionId: bigint, payment: StoredPayment): void {
    if (payment.finalAt === null || payment.reason !== null || payment.shown !== null) return;
    const slot = this.slotOf(agentId, agentTransactionId);
    this.agentIds[slot] = agentId;
    this.agentTransactionIds[slot] = agentTransactionId;
    this.transactionIds[slot] = payment.transactionId;
    this.acceptedAt[slot] = payment.acceptedAt.getTime();
    this.finalAt[slot] = payment.finalAt.getTime();
    this.codes[slot] = payment.code;
    for (let word = 0; word < wordsOfFingerprint; word += 1)
      this.fingerprints[slot * wordsOfFingerprint + word] = wordOf(payment.fingerprint, word);
  }

  /** Payments without an id of their agent are none. */
  forgetAll(): void {
    this.agentIds.fill(0n);
  }

  private slotOf(agentId: bigint, agentTransactionId: bigint): number {
    const low = Number(BigInt.asUintN(32, agentTransactionId));
    const high = Number(agentTransactionId >> 32n);
    const mixed = low ^ Math.imul(high, 0x85ebca6b) ^ Math.imul(Number(agentId), 0xc2b2ae35);
    return Math.imul(mixed, 0x9e3779b1) >>> this.shift;
  }
}

const wordsOfFingerprint = 4;
/** Where the eight hexadecimal digits of each word begin in a UUID; the second and third have a dash inside. */
const wordsAt = [0, 9, 19, 28] as const;

function wordOf(fingerprint: string, word: number): number {
  const at = wordsAt[word]!;
  if (word === 0 || word === 3) return Number.parseInt(fingerprint.slice(at, at + 8), 16);
  return Number.parseInt(fingerprint.slice(at, at + 4) + fingerprint.slice(at + 5, at + 9), 16);
}
