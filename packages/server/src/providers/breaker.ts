/**
 * Stops what is new for a provider that does not answer of late. What was sent before is never given up: it is asked
 * about as ever. Pure but for what it counts; times are those of `elapsedMs()`.
 */
export interface BreakerSettings {
  /** It opens when of so many calls, the latest ones, this share ended without an answer. */
  readonly calls: number;
  readonly share: number;
  /** So long nothing new goes; then one call at a time tries, and its answer closes it. */
  readonly openMs: number;
}

/** Each failed try doubles the time, up to this. */
const openMsMax = 60_000;

export class Breaker {
  /** The latest calls, true: no answer. */
  private readonly latest: boolean[] = [];
  private at = 0;
  private failed = 0;
  private openUntil: number | null = null;
  private openMs: number;
  private trying = false;

  constructor(private readonly settings: BreakerSettings) {
    this.openMs = settings.openMs;
  }

  /** Whether something new had better go elsewhere. */
  get isOpen(): boolean {
    return this.openUntil !== null;
  }

  /** Whether a call that could wait may go now. Where it is open the one that may is the try, and must be noted. */
  admits(now: number): boolean {
    if (this.openUntil === null) return true;
    if (now < this.openUntil || this.trying) return false;
    this.trying = true;
    return true;
  }

  /** When the next try is due; null: closed, or one is under way. */
  get tryAt(): number | null {
    return this.trying ? null : this.openUntil;
  }

  /** The try never left. */
  forgo(): void {
    this.trying = false;
  }

  note(answered: boolean, now: number): void {
    if (answered) {
      if (this.openUntil === null) this.count(false);
      else this.close();
      return;
    }
    if (this.openUntil !== null) {
      // Calls from before it opened end too; only a try says something new.
      if (this.trying) {
        this.openMs = Math.min(this.openMs * 2, openMsMax);
        this.openUntil = now + this.openMs;
        this.trying = false;
      }
      return;
    }
    this.count(true);
    const { calls, share, openMs } = this.settings;
    if (this.latest.length === calls && this.failed >= share * calls) {
      this.openMs = openMs;
      this.openUntil = now + openMs;
    }
  }

  private close(): void {
    this.openUntil = null;
    this.trying = false;
    this.latest.length = 0;
    this.failed = 0;
    this.at = 0;
  }

  private count(failed: boolean): void {
    if (this.latest[this.at] === true) this.failed -= 1;
    this.latest[this.at] = failed;
    if (failed) this.failed += 1;
    this.at = (this.at + 1) % this.settings.calls;
  }
}
