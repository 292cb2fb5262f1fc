/**
 * What the sandbox provider did, as lines of JSON in one append-only file. The file is the truth; memory keeps only
 * what a status inquiry needs.
 *
 * A line with `executedAt` is an executed payment and a row of the registry as it stands. That moment may lie ahead: a
 * payment accepted now and executed later is written once, at acceptance, so nothing is forgotten by a restart.
 * A line with `end` is a request that executed nothing: `refused` (code, at), `lost` or `cut`.
 */
import { appendFileSync, closeSync, createReadStream, mkdirSync, openSync, statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';

export interface RegistryRow {
  readonly externalId: string;
  readonly account: string;
  /** `200.00` */
  readonly amount: string;
  /** ISO, UTC. */
  readonly executedAt: string;
}

interface NotExecuted {
  readonly end: 'refused' | 'lost' | 'cut';
  readonly externalId: string;
  readonly code?: number;
  /** When a refusal comes into force, ISO, UTC. */
  readonly at?: string;
}

type Line = RegistryRow | NotExecuted;

/** How an external id stands after its last line; `number`: executed at once, the number of its line. */
type Standing =
  | number
  | { readonly end: 'executed' | 'refused' | 'lost' | 'cut'; readonly line: number; readonly code: number; readonly atMs: number };

export type Status =
  | { readonly status: 'executed' | 'pending'; readonly reference: string }
  | { readonly status: 'refused'; readonly code: number }
  | { readonly status: 'not_found' | 'unknown' };

/** A Map holds 2^24 entries; a sandbox this full wants a new data directory. */
const linesMax = 16_000_000;

export class Registry {
  private readonly standings = new Map<string, Standing>();
  private lineCount = 0;
  private pendingText = '';

  private constructor(
    private readonly path: string,
    private readonly fd: number,
  ) {}

  /** Reads what an earlier process left. A torn last line is cut off; damage elsewhere is an error. */
  static async open(dataDir: string): Promise<Registry> {
    mkdirSync(dataDir, { recursive: true });
    const path = join(dataDir, 'registry.jsonl');
    const registry = new Registry(path, openSync(path, 'a'));
    const sizeBytes = statSync(path).size;
    let goodBytes = 0;
    for await (const block of wholeLines(path, sizeBytes)) {
      let lineBytes = 0;
      for (const text of block.toString('utf8').split('\n').slice(0, -1)) {
        const bytes = Buffer.byteLength(text) + 1;
        const line = parseLine(text);
        if (line) registry.remember(line);
        else if (goodBytes + lineBytes + bytes < sizeBytes) {
          throw new Error(`${path}: line ${registry.lineCount + 1} is damaged; move the file away to start anew`);
        } else {
          truncateSync(path, goodBytes + lineBytes);
          return registry;
        }
        lineBytes += bytes;
      }
      goodBytes += lineBytes;
    }
    if (goodBytes < sizeBytes) truncateSync(path, goodBytes);
    return registry;
  }

  get full(): boolean {
    return this.lineCount >= linesMax;
  }

  /** Adds a line; it counts from now on for `status` and reaches the file with `flush`. */
  add(line: Line): void {
    this.remember(line);
    this.pendingText += `${JSON.stringify(line)}\n`;
  }

  /** Hands all added lines to the system in one write. */
  flush(): void {
    if (this.pendingText === '') return;
    appendFileSync(this.fd, this.pendingText);
    this.pendingText = '';
  }

  wasCut(externalId: string): boolean {
    const standing = this.standings.get(externalId);
    return typeof standing === 'object' && standing.end === 'cut';
  }

  status(externalId: string, nowMs: number): Status {
    const standing = this.standings.get(externalId);
    if (standing === undefined) return { status: 'not_found' };
    if (typeof standing === 'number') return { status: 'executed', reference: `S${standing}` };
    if (standing.end === 'cut') return { status: 'not_found' };
    if (standing.end === 'lost') return { status: 'unknown' };
    const reference = `S${standing.line}`;
    if (nowMs < standing.atMs) return { status: 'pending', reference };
    return standing.end === 'executed'
      ? { status: 'executed', reference }
      : { status: 'refused', code: standing.code };
  }

  /** The executed payments as pieces of one JSON array. */
  async *json(nowMs: number): AsyncGenerator<string> {
    const now = new Date(nowMs).toISOString();
    let separator = '[';
    for await (const block of wholeLines(this.path, statSync(this.path).size)) {
      const rows = block.toString('utf8').split('\n').filter((text) => isExecuted(text, now));
      if (rows.length === 0) continue;
      yield separator + rows.join(',\n');
      separator = ',\n';
    }
    yield separator === '[' ? '[]' : ']';
  }

  close(): void {
    closeSync(this.fd);
  }

  private remember(line: Line): void {
    this.lineCount += 1;
    this.standings.set(line.externalId, standingOf(line, this.lineCount));
  }
}
