/**
 * A lane writes what many requests want written, together: while one batch commits, the next one gathers, and all of it
 * goes as one statement on the lane's own connection. No timers: the batch's size follows the load, and a lone request
 * leaves at once.
 */
import type pg from 'pg';
import { newClient } from './connect.js';

export type LaneClient = pg.Client;

/** The database did not say whether the batch was committed, or could not be reached in time. */
export class LaneBroken extends Error {
  constructor(
    lane: string,
    override readonly cause: unknown,
    /** False: the item was certainly not written. */
    readonly maybeWritten: boolean,
  ) {
    super(`lane ${lane}: ${cause instanceof Error ? cause.message : String(cause)}`);
    this.name = 'LaneBroken';
  }
}

interface Waiter<In, Out> {
  readonly item: In;
  readonly key: string | null;
  readonly queuedAt: number;
  readonly resolve: (out: Out) => void;
  readonly reject: (error: Error) => void;
}

export interface LaneOptions<In, Out> {
  readonly name: string;
  /** Of a session that plans by index: plans made while the tables were empty would be kept for minutes. */
  readonly connection: pg.ClientConfig;
  readonly batchMax: number;
  /** How long an item may wait for a lost connection to come back. */
  readonly waitMsMax: number;
  /** How long who asks waits at most, for what may be asked for again; what was sent goes on. Absent: to the end. */
  readonly patienceMs?: number;
  /** Writes the batch in one statement; answers in the batch's order. */
  readonly write: (client: LaneClient, batch: In[]) => Promise<Out[]>;
  /** Items with the same key never share a batch. */
  readonly keyOf?: (item: In) => string;
  readonly watch?: LaneWatch | undefined;
  /** Told that the connection is lost: the next one may lead to a database that has less. */
  readonly onLost?: (() => void) | undefined;
}

/** Told what the lane does, as it does it. Times are those of `performance.now()`. */
export interface LaneWatch {
  wrote(
    lane: string,
    batch: readonly { readonly queuedAt: number }[],
    startedAt: number,
    endedAt: number,
  ): void;
  /** So many items were refused, or are not known to be written. */
  failed(lane: string, items: number): void;
}

/** No agent is held longer by a database that does not answer; what that was asked to write goes on. */
export const patienceMs = 1800;

/** So many leave before the turn is over: the database works on them while the process reads on. */
const earlySize = 64;
/** A server that has not answered a batch by then is taken for lost: late, since a session that is left works on. */
const queryMsMax = 15_000;
/** How often those who wait are looked at. */
const lookMs = 100;

/** SQLSTATEs after which the same statement is tried again: nothing was written, another transaction was in the way. */
const retryable = new Set(['40001', '40P01', '55P03']);
/** Classes that speak of the server or the connection and not of the statement. */
const serverTrouble = /^(08|57|53|58|25006)/;

export class Lane<In, Out> {
  private queue: Waiter<In, Out>[] = [];
  private running = false;
  /** Due at the end of this turn of the event loop. */
  private starting: NodeJS.Immediate | null = null;
  private client: LaneClient | null = null;
  private closed = false;
  /** The batch being written. */
  private writing: readonly Waiter<In, Out>[] = [];
  readonly sizes = { batches: 0, items: 0, largest: 0 };
  /** What was written of late and how long it took: each batch counts half as much as the one after it. */
  private readonly pace = { items: 0, ms: 0 };

  constructor(private readonly options: LaneOptions<In, Out>) {}

  get waiting(): number {
    return this.queue.length;
  }

  /** How long the oldest item has been here, its writing included; 0 when there is none. */
  get oldestMs(): number {
    const since = (this.writing[0] ?? this.queue[0])?.queuedAt;
    return since === undefined ? 0 : performance.now() - since;
  }

  /** Items here, those being written included. */
  get load(): number {
    return this.writing.length + this.queue.length;
  }

  /** How long so many items take, at the pace of late; or how long the oldest one has been here, if that is longer. */
  expectedMs(count: number): number {
    const { items, ms } = this.pace;
    const atPace = items === 0 ? 0 : (count * ms) / items;
    return Math.max(atPace, this.oldestMs);
  }

  submit(item: In): Promise<Out> {
    return new Promise((resolve, reject) => {
      const key = this.options.keyOf ? this.options.keyOf(item) : null;
      this.queue.push({ item, key, queuedAt: performance.now(), resolve, reject });
      if (!this.running) {
        this.running = true;
        // What arrives in this turn of the event loop still joins.
        this.starting = setImmediate(() => this.start());
      } else if (this.starting && this.queue.length >= earlySize) {
        clearImmediate(this.starting);
        this.start();
      }
    });
  }

  /** Lets what is queued be written, then ends the connection. */
  async close(): Promise<void> {
    this.closed = true;
    while (this.running) await new Promise((done) => setTimeout(done, 5));
    await this.client?.end().catch(() => {});
    this.client = null;
  }

  private start(): void {
    this.starting = null;
    void this.run();
  }

  private async run(): Promise<void> {
    const { patienceMs } = this.options;
    const look =
      patienceMs === undefined ? undefined : setInterval(() => this.refuseLate(patienceMs), lookMs);
    while (this.queue.length > 0) {
      const client = this.client ?? (await this.connect());
      // Whoever was too old for it has been refused meanwhile.
      if (!client || this.queue.length === 0) continue;
      this.writing = this.takeBatch();
      await this.writeOut(client, this.writing);
      this.writing = [];
    }
    clearInterval(look);
    this.running = false;
  }

  private takeBatch(): Waiter<In, Out>[] {
    const { batchMax, keyOf } = this.options;
    if (!keyOf) return this.queue.splice(0, batchMax);
    const batch: Waiter<In, Out>[] = [];
    const left: Waiter<In, Out>[] = [];
    const keys = new Set<string | null>();
    for (const waiter of this.queue) {
      if (batch.length >= batchMax || keys.has(waiter.key)) left.push(waiter);
      else {
        keys.add(waiter.key);
        batch.push(waiter);
      }
    }
    this.queue = left;
    return batch;
  }

  private async writeOut(client: LaneClient, batch: readonly Waiter<In, Out>[]): Promise<void> {
    const startedAt = performance.now();
    for (let attempt = 1; ; attempt += 1) {
      try {
        const out = await this.options.write(
          client,
          batch.map((each) => each.item),
        );
        this.sizes.batches += 1;
        this.sizes.items += batch.length;
        this.sizes.largest = Math.max(this.sizes.largest, batch.length);
        this.pace.items = this.pace.items / 2 + batch.length;
        this.pace.ms = this.pace.ms / 2 + performance.now() - startedAt;
        batch.forEach((each, index) => {
          each.resolve(out[index]!);
        });
        this.options.watch?.wrote(this.options.name, batch, startedAt, performance.now());
        return;
      } catch (error) {
        const code = (error as { code?: string }).code;
        const lost = code === undefined || !/^[0-9A-Z]{5}$/.test(code) || serverTrouble.test(code);
        if (lost || client !== this.client) {
          this.drop(client);
          this.options.watch?.failed(this.options.name, batch.length);
          for (const each of batch) each.reject(new LaneBroken(this.options.name, error, true));
          return;
        }
        if (retryable.has(code) && attempt < 8) {
          await new Promise((done) => setTimeout(done, 5 * attempt * Math.random()));
          continue;
        }
        if (batch.length === 1) {
          this.options.watch?.failed(this.options.name, 1);
          batch[0]!.reject(error as Error);
          return;
        }
        // One item the database refuses must not take the others with it.
        const half = batch.length >> 1;
        await this.writeOut(client, batch.slice(0, half));
        await this.writeOut(client, batch.slice(half));
        return;
      }
    }
  }

  private drop(client: LaneClient): void {
    if (this.client === client) {
      this.client = null;
      this.options.onLost?.();
    }
    client.end().catch(() => {});
  }

  /** One try to connect; on failure pauses and lets the loop come again. */
  private async connect(): Promise<LaneClient | null> {
    const client = newClient({
      ...this.options.connection,
      application_name: `tolem lane ${this.options.name}`,
      query_timeout: queryMsMax,
    });
    const { waitMsMax } = this.options;
    const look = setInterval(() => this.refuseOld(waitMsMax, silence), lookMs);
    try {
      // A connection lost while idle must not crash the process; the next batch connects anew.
      client.on('error', () => this.drop(client));
      await client.connect();
      this.client = client;
      return client;
    } catch (error) {
      client.end().catch(() => {});
      this.refuseOld(this.closed ? 0 : waitMsMax, error);
      await new Promise((done) => setTimeout(done, 100));
      return null;
    } finally {
      clearInterval(look);
    }
  }

  /** Refuses whoever has waited for so long; nothing of theirs has been written. */
  private refuseOld(ms: number, error: unknown): void {
    const tooOld = performance.now() - ms;
    const kept: Waiter<In, Out>[] = [];
    for (const waiter of this.queue) {
      if (waiter.queuedAt <= tooOld) waiter.reject(new LaneBroken(this.options.name, error, false));
      else kept.push(waiter);
    }
    if (kept.length < this.queue.length)
      this.options.watch?.failed(this.options.name, this.queue.length - kept.length);
    this.queue = kept;
  }

  /** And also those of the batch that is being written: it goes on, but they are not told of it any more. */
  private refuseLate(ms: number): void {
    this.refuseOld(ms, silence);
    const tooOld = performance.now() - ms;
    for (const { queuedAt, reject } of this.writing)
      if (queuedAt <= tooOld) reject(new LaneBroken(this.options.name, silence, true));
  }
}

const silence = new Error('the database does not answer');

const control = /[\u0000-\u001f\ud800-\udfff]/;
const needsQuotes = /[{}",\\\s]|^$|^null$/i;

/** JSON escapes quotes and backslashes as array literals do, natively; only control characters it writes otherwise. */
function quoted(value: string): string {
  return control.test(value) ? `"${value.replace(/[\\"]/g, '\\$&')}"` : JSON.stringify(value);
}

/** PostgreSQL array literals, built by hand: the driver's general encoder costs more than the rest of a batch. */
export function textArray(values: readonly (string | null)[]): string {
  let out = '{';
  for (let i = 0; i < values.length; i += 1) {
    const value = values[i]!;
    if (i > 0) out += ',';
    if (value === null) out += 'NULL';
    else out += needsQuotes.test(value) ? quoted(value) : value;
  }
  return `${out}}`;
}

export function plainArray(values: readonly (bigint | number | boolean | string | null)[]): string {
  let out = '{';
  for (let i = 0; i < values.length; i += 1) {
    if (i > 0) out += ',';
    const value = values[i];
    out += value === null ? 'NULL' : String(value);
  }
  return `${out}}`;
}
