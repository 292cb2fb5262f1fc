/**
 * The fault laboratory. An experiment is a fault, a crowd of agents and a judgement; beside it stand its controls,
 * builds or set-ups with the guarded rule broken on purpose, which must come out red. `npm test` runs the short form of
 * each, `npm run chaos` the full one, with a report.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, type TestContext, test } from 'vitest';
import type { AnswerKind } from '../support/crowd.js';
import type { Violation } from '../support/oracle.js';

const full = process.env.CHAOS_SIZE === 'full';
const resultsDir = process.env.CHAOS_OUT;

export interface Outcome {
  /** Empty when every rule held. */
  readonly violations: readonly Violation[];
  /** What was done and measured, for the report; also what shows that the fault has hit at all. */
  readonly figures: Readonly<Record<string, number | string>>;
}

export interface Control {
  /** What is broken on purpose: `a build that …`. */
  readonly broken: string;
  /** The rule that must be seen to be broken, or several. */
  readonly rule: string | readonly string[];
  readonly run: (lab: Lab) => Promise<Outcome>;
}

export interface Experiment {
  /** Its number in docs/chaos.md. */
  readonly number: number;
  readonly name: string;
  readonly run: (lab: Lab) => Promise<Outcome>;
  readonly controls: readonly Control[];
  /** The rules that judge by seconds. */
  readonly timed?: readonly string[];
  /** Longer than this is a failure. */
  readonly minutesMax: { readonly short: number; readonly full: number };
  /** Why it cannot run on this machine; null: it can. May install what it needs. */
  readonly unless?: () => string | null;
}

/** What an experiment is given. */
export class Lab {
  readonly timeline = new Timeline();

  constructor(private readonly name: string) {}

  /** The size of something in the short form, and in the full one. */
  size(short: number, long: number): number {
    return full ? long : short;
  }

  /** Progress. */
  say(line: string): void {
    console.log(`${this.name}, ${this.timeline.seconds.toFixed(0)} s: ${line}`);
  }
}

/** Answers per second and the moments of the faults. */
export class Timeline {
  private readonly startedAtMs = performance.now();
  readonly answers: Record<AnswerKind, number>[] = [];
  readonly faults: { readonly second: number; readonly what: string }[] = [];

  get seconds(): number {
    return (performance.now() - this.startedAtMs) / 1000;
  }

  answer = (kind: AnswerKind): void => {
    const second = Math.floor(this.seconds);
    while (this.answers.length <= second) {
      this.answers.push({ final: 0, open: 0, unavailable: 0, failed: 0 });
    }
    this.answers[second]![kind] += 1;
  };

  fault(what: string): void {
    this.faults.push({ second: Math.round(this.seconds * 10) / 10, what });
  }
}

/** One outcome of the parts of an experiment; its figures bear their names. */
export function together(parts: Readonly<Record<string, Outcome>>): Outcome {
  const figures = Object.entries(parts).flatMap(([part, outcome]) =>
    Object.entries(outcome.figures).map(([name, figure]) => [`${part}: ${name}`, figure]),
  );
  return {
    violations: Object.values(parts).flatMap(({ violations }) => violations),
    figures: Object.fromEntries(figures),
  };
}

/** Registers the tests of one experiment. */
export function experiment(facts: Experiment): void {
  const { number, name, controls, minutesMax } = facts;
  const timeoutMs = minutesMax[full ? 'full' : 'short'] * 60_000;
  let missing: string | null | undefined;
  const skipWhereMissing = (context: TestContext) => {
    missing ??= facts.unless?.() ?? null;
    if (missing === null) return;
    record(rulesFile(number), { number, name, kind: 'rules', seconds: 0, skipped: missing });
    context.skip(missing);
  };
  describe(`chaos ${number}: ${name}`, () => {
    test(
      'the rules hold',
      async (context) => {
        skipWhereMissing(context);
        let outcome = await hold(facts, []);
        const noise: Violation[] = [];
        for (let run = 2; !full && run <= runsMax && mayBeNoise(outcome.violations, facts.timed); run += 1) {
          noise.push(...outcome.violations);
          console.log(`chaos ${number}: run ${run}, since ${JSON.stringify(outcome.violations)}`);
          outcome = await hold(facts, noise);
        }
        expect(outcome.violations.slice(0, 20)).toEqual([]);
      },
      timeoutMs,
    );

    for (const [index, control] of controls.entries()) {
      test(
        `control: ${control.broken} is caught`,
        async (context) => {
          skipWhereMissing(context);
          const lab = new Lab(`control of chaos ${number}`);
          const expected = [control.rule].flat();
          let rules: string[] = [];
          let figures: Outcome['figures'] = {};
          // What is broken may need a moment that a run does not have; a rule that sees nothing never sees anything.
          for (let run = 1; run <= runsMax && !expected.every((rule) => rules.includes(rule)); run += 1) {
            const outcome = await control.run(lab);
            figures = outcome.figures;
            rules = [...new Set(outcome.violations.map(({ rule }) => rule))];
            lab.say(`${JSON.stringify(figures)}; broken: ${rules.join('; ') || 'nothing'}`);
          }
          record(`${String(number).padStart(2, '0')}-control-${index + 1}`, {
            ...{ number, name: control.broken, kind: 'control', seconds: Math.round(lab.timeline.seconds) },
            ...{ figures, expected, rules },
          });
          expect(rules).toEqual(expect.arrayContaining(expected));
        },
        timeoutMs,
      );
    }
  });
}

/** Runs it once, and keeps what came of it, with what was taken for noise before. */
async function hold({ number, name, run }: Experiment, noise: readonly Violation[]): Promise<Outcome> {
  const lab = new Lab(`chaos ${number}`);
  const keep = (outcome: Partial<Outcome>, error?: unknown) =>
    record(rulesFile(number), {
      ...{ number, name, kind: 'rules', seconds: Math.round(lab.timeline.seconds) },
      ...outcome,
      ...(error === undefined ? {} : { error: String(error) }),
      ...{ answers: lab.timeline.answers, faults: lab.timeline.faults },
    });
  const held = await run(lab).catch((error: unknown) => {
    keep({}, error);
    throw error;
  });
  const repeated = noise.map(({ rule, found }) => `${rule}: ${found}`).join('; ');
  const outcome =
    noise.length > 0 ? { ...held, figures: { ...held.figures, 'repeated, since': repeated } } : held;
  keep(outcome);
  lab.say(JSON.stringify(outcome.figures));
  return outcome;
}

/** What a machine that is busy otherwise, or luck, does to a run does not happen three times in a row. */
const runsMax = 3;
const hitRule = 'the fault hits';

/** Whether nothing else is broken; such a run is still judged to its end. */
export function mayBeNoise(violations: readonly Violation[], timed: readonly string[] = []): boolean {
  return violations.length > 0 && violations.every(({ rule }) => rule === hitRule || timed.includes(rule));
}

const rulesFile = (number: number) => `${String(number).padStart(2, '0')}-rules`;

function record(file: string, result: object): void {
  if (resultsDir === undefined) return;
  mkdirSync(resultsDir, { recursive: true });
  writeFileSync(join(resultsDir, `${file}.json`), `${JSON.stringify(result)}\n`);
}
