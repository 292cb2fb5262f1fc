/**
 * What the sandbox provider did, as lines of JSON in one append-only file. The file is the truth; memory keeps only
 * what a status inquiry needs.
 *
 * A line with `executedAt` is an executed payment, and a row of the registry as it stands. That moment may lie ahead: a
 * payment accepted now and executed later is written once, at acceptance, so a restart forgets nothing.
 * A line with `end` is a request that executed nothing: refused, lost or cut.
 */
import {
  appendFileSync,
  closeSync,
  createReadStream,
  mkdirSync,
  openSync,
  statSync,
  truncateSync,
} from 'node:fs';
import { join } from 'node:path';

export interface RegistryRow {
  readonly externalId: string;
  readonly account: string;
  /** `200.00` */
  readonly amount: string;
  /** ISO, UTC. */
  readonly executedAt: string;
}

type NotExecuted =
  /** A refusal comes into force at a moment (ISO, UTC); before it the payment is pending. */
  | { readonly end: 'refused'; readonly externalId: string; readonly code: number; readonly at: string }
  | { readonly end: 'lost'; readonly externalId: string }
  | { readonly end: 'cut'; readonly externalId: string };

type Line = RegistryRow | NotExecuted;

/** How an external id stands after its last line. Most were executed at once: the number of the line is enough. */
type Standing = number | { readonly reference: string; readonly executedAt: string } | NotExecuted;

export type Status =
  | { readonly status: 'executed'; readonly reference: string }
  | { readonly status: 'refused'; readonly code: number }
  | { readonly status: 'pending' | 'not_found' | 'unknown' };

/** A Map holds 2^24 entries; a sandbox this full wants a new data directory. */
const linesMax = 16_000_000;

export class Registry {
  private readonly standings = new Map<string, Standing>();
  private lineCount = 0;
  private unwritten = '';

  private constructor(
    private readonly path: string,
    private readonly fd: number,
  ) {}

  /** Reads what an earlier process left. A damaged last line is cut off; damage elsewhere is an error. */
  static async open(dataDir: string): Promise<Registry> {
    mkdirSync(dataDir, { recursive: true });
    const path = join(dataDir, 'registry.jsonl');
    const registry = new Registry(path, openSync(path, 'a'));
    const now = new Date().toISOString();
    const sizeBytes = statSync(path).size;
    let goodBytes = 0;
    let damaged = false;
    for await (const block of wholeLines(path, sizeBytes)) {
      for (const text of linesOf(block)) {
        if (damaged) {
          throw new Error(
            `${path}: line ${registry.lineCount + 1} is damaged; move the file away to start anew`,
          );
        }
        const line = parseLine(text);
        if (line) {
          registry.remember(line, now);
          goodBytes += Buffer.byteLength(text) + 1;
        } else damaged = true;
      }
    }
    if (goodBytes < sizeBytes) truncateSync(path, goodBytes);
    return registry;
  }

  get full(): boolean {
    return this.lineCount >= linesMax;
  }

  /** Adds a line; `status` knows it at once, the file with the next `flush`. */
  add(line: Line, now: string): void {
    this.remember(line, now);
    this.unwritten += `${JSON.stringify(line)}\n`;
  }

  /** Hands the added lines to the system in one write. */
  flush(): void {
    if (this.unwritten === '') return;
    appendFileSync(this.fd, this.unwritten);
    this.unwritten = '';
  }

  wasCut(externalId: string): boolean {
    const standing = this.standings.get(externalId);
    return typeof standing === 'object' && 'end' in standing && standing.end === 'cut';
  }

  /** `now`: ISO, UTC. */
  status(externalId: string, now: string): Status {
    const standing = this.standings.get(externalId);
    if (standing === undefined) return { status: 'not_found' };
    if (typeof standing === 'number') return { status: 'executed', reference: referenceOf(standing) };
    if ('executedAt' in standing) {
      return now < standing.executedAt
        ? { status: 'pending' }
        : { status: 'executed', reference: standing.reference };
    }
    if (standing.end === 'cut') return { status: 'not_found' };
    if (standing.end === 'lost') return { status: 'unknown' };
    return now < standing.at ? { status: 'pending' } : { status: 'refused', code: standing.code };
  }

  /** What was executed by now, as pieces of one JSON array of RegistryRow. */
  async *json(): AsyncGenerator<string> {
    const now = new Date().toISOString();
    let before = '[';
    for await (const block of wholeLines(this.path, statSync(this.path).size)) {
      const rows = linesOf(block).filter((text) => isExecuted(text, now));
      if (rows.length === 0) continue;
      yield before + rows.join(',\n');
      before = ',\n';
    }
    yield before === '[' ? '[]' : ']';
  }

  close(): void {
    closeSync(this.fd);
  }

  private remember(line: Line, now: string): void {
    this.lineCount += 1;
    const standing =
      'end' in line
        ? line
        : line.executedAt <= now
          ? this.lineCount
          : { reference: referenceOf(this.lineCount), executedAt: line.executedAt };
    this.standings.set(line.externalId, standing);
  }
}

function referenceOf(lineNumber: number): string {
  return `S${lineNumber}`;
}

/** Reads a file in blocks that end with a line feed; an unfinished last line is left out. */
async function* wholeLines(path: string, sizeBytes: number): AsyncGenerator<Buffer> {
  if (sizeBytes === 0) return;
  let rest: Buffer = Buffer.alloc(0);
  for await (const chunk of createReadStream(path, { end: sizeBytes - 1 }) as AsyncIterable<Buffer>) {
    const end = chunk.lastIndexOf(10) + 1;
    if (end > 0) yield Buffer.concat([rest, chunk.subarray(0, end)]);
    rest = end > 0 ? chunk.subarray(end) : Buffer.concat([rest, chunk]);
  }
}

function linesOf(block: Buffer): string[] {
  return block.toString('utf8', 0, block.length - 1).split('\n');
}

function parseLine(text: string): Line | null {
  try {
    const line = JSON.parse(text);
    return typeof line?.externalId === 'string' ? line : null;
  } catch {
    return null;
  }
}

/** By the text alone, since a registry may have a million lines: `…"executedAt":"2026-01-31T23:59:59.999Z"}`. */
function isExecuted(text: string, now: string): boolean {
  return text.startsWith('{"externalId"') && text.slice(-26, -2) <= now;
}
