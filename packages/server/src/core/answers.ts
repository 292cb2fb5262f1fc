/** What the use cases answer; the protocol edge turns these into JSON. */
import type { Contract, Invoice } from './requests.js';
import type { Way } from './way.js';

/** The scheme's objects, as the answer carries them. */
export interface Shown {
  readonly displays?: Readonly<Record<string, string>>;
  readonly contracts?: readonly Contract[];
  readonly invoices?: readonly Invoice[];
  /** International services: rate scaled by 10^10, and the amount the payee gets in the provider's currency. */
  readonly conversion?: {
    readonly from: string;
    readonly to: string;
    readonly rateE10: bigint;
    readonly finalAmountMinor: bigint | null;
  };
}

export interface CheckAnswer {
  readonly code: number;
  readonly reason: string | null;
  /** Null only for 202, which names no payment, and for 1 when the centre itself could not answer. */
  readonly transactionId: bigint | null;
  readonly shown: Shown | null;
}

export interface PayAnswer extends CheckAnswer {
  /** Acceptance and the moment the final code was given; rendered for success. */
  readonly acceptedAt: Date | null;
  readonly finalAt: Date | null;
}

export interface BalanceAnswer {
  readonly agentId: bigint;
  readonly agentName: string;
  readonly availableMinor: bigint;
  readonly creditLimitMinor: bigint;
  readonly notificationMinor: bigint;
  readonly currency: string;
}

/** The use cases behind the six methods. They refuse by value; they throw only on a bug or when overloaded. */
export interface UseCases {
  check(agentId: bigint, request: import('./requests.js').CheckRequest, way?: Way): Promise<CheckAnswer>;
  pay(agentId: bigint, request: import('./requests.js').PayRequest, way?: Way): Promise<PayAnswer>;
  balance(agentId: bigint): Promise<BalanceAnswer>;
  operatorByPhone(
    phoneNumber: string,
  ): Promise<{ code: number; reason: string | null; serviceId: string | null }>;
}

/**
 * To a provider's callback. `taken`: committed, and told again it changes nothing; `later`: it cannot be acted on yet,
 * and the provider is to come again, as after `not_known`: its callback may be faster than what it is about.
 */
export type CallbackAnswer = 'taken' | 'later' | 'not_known' | 'not_authentic';

/** Thrown when the centre cannot take the request now: HTTP 503 with result 1 and Retry-After. */
export class Overloaded extends Error {
  constructor(
    message: string,
    readonly retryAfterS: number,
  ) {
    super(message);
    this.name = 'Overloaded';
  }
}
