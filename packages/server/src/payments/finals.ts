import type { StoredPayment } from './store.js';

/**
 * Final payments that were asked about again, the latest of them, as committed. Their answers never change, so that a
 * further repeat needs no database. To keep every payment as it becomes final would cost the payments more than it
 * saves the repeats. Two generations, the older of which is dropped whole: taking entries out one by one costs more.
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
