/** The loops that move what waits. Each step is bounded; a step that found work is followed by another at once. */
import type pg from 'pg';
import { newClient } from '../db/connect.js';

export interface Loop {
  readonly name: string;
  /** The pause when there was nothing to do. */
  readonly everyMs: number;
  /** One bounded piece of work; answers how much it did. */
  step(): Promise<number>;
}

export interface Log {
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}

export interface RunningLoops {
  /** Makes the loops look at once, but for those that pause for long. */
  wake(): void;
  /** By loop: its pause, and how long ago a step of it last ended well. */
  turns(): { readonly loop: string; readonly everyMs: number; readonly sinceMs: number }[];
  /** Lets the steps under way end. */
  stop(): Promise<void>;
}

const failurePauseMs = 1000;
/** Loops that pause longer than that are not woken: they move nothing that anybody waits for. */
const hurryMsMax = 5000;

export function runLoops(loops: readonly Loop[], log: Log): RunningLoops {
  let stopped = false;
  const sleepers = new Set<{ readonly ms: number; readonly end: () => void }>();
  const wakeAll = () => {
    for (const { end } of sleepers) end();
  };
  const wake = () => {
    for (const { ms, end } of sleepers) if (ms <= hurryMsMax) end();
  };

  const sleep = (ms: number) =>
    new Promise<void>((resolve) => {
      const end = () => {
        clearTimeout(timer);
        sleepers.delete(sleeper);
        resolve();
      };
      const timer = setTimeout(end, ms);
      const sleeper = { ms, end };
      sleepers.add(sleeper);
    });

  const turnedAt = new Map(loops.map((loop) => [loop.name, performance.now()]));
  const running = loops.map(async (loop) => {
    let failing = false;
    while (!stopped) {
      let did = 0;
      try {
        did = await loop.step();
        turnedAt.set(loop.name, performance.now());
        if (failing) log.info({ loop: loop.name }, 'the loop works again');
        failing = false;
      } catch (error) {
        // Said once per spell of trouble; the database being away for a minute is one fact, not sixty.
        if (!failing) log.warn({ loop: loop.name, error: String(error) }, 'a loop failed and goes on trying');
        failing = true;
      }
      if (!stopped && did === 0) await sleep(failing ? failurePauseMs : loop.everyMs);
    }
  });

  return {
    wake,
    turns: () =>
      loops.map(({ name, everyMs }) => ({
        loop: name,
        everyMs,
        sinceMs: performance.now() - turnedAt.get(name)!,
      })),
    async stop() {
      stopped = true;
      wakeAll();
      await Promise.all(running);
    },
  };
}

/**
 * Calls `heard` on each notification of the channel; connects anew when the connection is lost. The loops poll behind
 * it.
 */
export function listen(
  connection: pg.ClientConfig,
  channel: string,
  heard: () => void,
): { close(): Promise<void> } {
  let closed = false;
  let client: pg.Client | null = null;
  let retry: NodeJS.Timeout | undefined;

  const connect = async () => {
    const next = newClient({
      ...connection,
      application_name: `tolem listen ${channel}`,
      query_timeout: 0,
    });
    client = next;
    const again = () => {
      if (client !== next) return;
      client = null;
      next.end().catch(() => {});
      if (!closed) retry = setTimeout(() => void connect(), 1000);
    };
    next.on('error', again);
    next.on('end', again);
    next.on('notification', heard);
    try {
      await next.connect();
      await next.query(`listen ${channel}`);
      heard();
    } catch {
      again();
    }
  };
  void connect();

  return {
    async close() {
      closed = true;
      clearTimeout(retry);
      const last = client;
      client = null;
      await last?.end().catch(() => {});
    },
  };
}
