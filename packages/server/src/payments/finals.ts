import type { StoredPayment } from './store.js';

/**
 * The latest payments that this process has seen to be final, as committed. Their answers never change, so that a repeat
 * needs no database. Two generations, the older of which is dropped whole: taking entries out one by one costs more.
 */
export class FinalPayments {
  private young = new Map<string, StoredPayment>();
  private old = new Map<string, StoredPayment>();

  /** Keeps the latest `max`, and at most twice as many. */
  constructor(private readonly max: number) {}

  /** By `externalIdOf` the payment. */
  get(name: string): StoredPayment | undefined {
    return this.young.get(name) ?? this.old.get(name);
  }

  /** Those that are not final yet are not kept, nor those that show a scheme's objects: they can be large. */
  keep(name: string, payment: StoredPayment): void {
    if (payment.finalAt === null || payment.shown !== null) return;
    this.young.set(name, payment);
    if (this.young.size < this.max) return;
    this.old = this.young;
    this.young = new Map();
  }
}
