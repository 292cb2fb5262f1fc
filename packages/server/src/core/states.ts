/**
 * The states of a payment and every transition between them, as data.
 * The drawing in ARCHITECTURE.md and the guard inside the SQL of `settle` and `resume` come from this table.
 */

export const State = {
  awaitingFunds: 1,
  inReview: 2,
  awaitingTerms: 3,
  sending: 4,
  uncertain: 5,
  succeeded: 6,
  failed: 7,
  reversed: 8,
} as const;

export type State = (typeof State)[keyof typeof State];

export interface StateFacts {
  readonly name: string;
  /** The result code an agent sees in this state; null where the payment carries its own (a refusal). */
  readonly code: number | null;
  readonly final: boolean;
  /** True where the agent's money is set aside for this payment. */
  readonly holds: boolean;
  readonly to: readonly State[];
}

export const stateFacts: Readonly<Record<State, StateFacts>> = {
  [State.awaitingFunds]: {
    name: 'awaiting_funds',
    code: 220,
    final: false,
    holds: false,
    to: [State.sending, State.inReview, State.failed],
  },
  [State.inReview]: {
    name: 'in_review',
    code: 153,
    final: false,
    holds: true,
    to: [State.sending, State.failed],
  },
  [State.awaitingTerms]: {
    name: 'awaiting_terms',
    code: 255,
    final: false,
    holds: false,
    to: [State.sending, State.inReview, State.awaitingFunds, State.failed],
  },
  [State.sending]: {
    name: 'sending',
    code: 1,
    final: false,
    holds: true,
    to: [State.succeeded, State.failed, State.uncertain],
  },
  [State.uncertain]: {
    name: 'uncertain',
    code: 1,
    final: false,
    holds: true,
    to: [State.succeeded, State.failed, State.sending],
  },
  [State.succeeded]: { name: 'succeeded', code: 0, final: true, holds: false, to: [State.reversed] },
  [State.failed]: { name: 'failed', code: null, final: true, holds: false, to: [] },
  [State.reversed]: { name: 'reversed', code: 0, final: true, holds: false, to: [] },
};

export const states = Object.values(State);

export function mayMove(from: State, to: State): boolean {
  return stateFacts[from].to.includes(to);
}

/** A bit per state, `1 << state`, for the SQL that moves many payments at once. */
export function statesMask(...list: State[]): number {
  return list.reduce((mask, state) => mask | (1 << state), 0);
}

/** The states from which `to` may be reached, as a mask for the SQL guard. */
export function sourcesMask(to: State): number {
  return sources[to];
}

const sources = Object.fromEntries(
  states.map((to) => [to, statesMask(...states.filter((from) => mayMove(from, to)))]),
) as Record<State, number>;

export function stateName(state: number): string {
  return stateFacts[state as State]?.name ?? `state ${state}`;
}
