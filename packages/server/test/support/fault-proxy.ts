/**
 * A provider's bad network: a TCP proxy on loopback that passes requests and answers on, and spoils them as a plan
 * says. Of HTTP it knows where a message ends: at the length that its head names. One request at a time on a
 * connection.
 */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

/**
 * When a request is cut: read and not passed on; passed on, its answer not waited for; its answer here and not passed
 * on; half of the answer's body passed on.
 */
export const moments = ['asked', 'forwarded', 'answered', 'half'] as const;
export type Moment = (typeof moments)[number];
/** FIN, RST, or nothing any more: the connection stays open and silent. */
export const manners = ['close', 'reset', 'hang'] as const;
export type Manner = (typeof manners)[number];

export interface Treatment {
  readonly cut?: { readonly at: Moment; readonly by: Manner };
  /** How long the answer is held back. */
  readonly delayMs?: number;
  /** The pause between two bytes of the answer; absent: it leaves whole. */
  readonly dripMs?: number;
}

export interface Plan {
  /** A new connection, before its first byte. */
  readonly connection?: () => Manner | null;
  /** A request, read whole, as text. */
  readonly exchange?: (request: string) => Treatment;
  /** An answer that was passed on whole, and the caller had not gone. */
  readonly delivered?: (request: string, answer: string) => void;
}

export type FaultProxy = Awaited<ReturnType<typeof startFaultProxy>>;

/** `port`: one that only servers use, since it is given up and taken again; 0: any. `target`: the provider's URL. */
export async function startFaultProxy(target: string, port: number, first: Plan = {}) {
  let plan = first;
  /** What was done, as `pay: answered, close`; plain exchanges are counted as `pay: plain`. */
  const did = new Map<string, number>();
  const note = (what: string) => did.set(what, (did.get(what) ?? 0) + 1);
  const sockets = new Set<Socket>();
  const idle = new Set<Socket>();
  const provider = { host: new URL(target).hostname, port: Number(new URL(target).port) };

  const known = (socket: Socket) => {
    sockets.add(socket);
    // A connection that fails is closed, and that is seen to.
    return socket.on('error', () => {}).on('close', () => sockets.delete(socket));
  };

  function end(socket: Socket, manner: Manner): void {
    if (manner === 'close') socket.destroy();
    else if (manner === 'reset') socket.resetAndDestroy();
    // Read on, or the caller's going would not be noticed.
    else socket.resume();
  }

  function serve(down: Socket): void {
    known(down);
    const manner = plan.connection?.() ?? null;
    if (manner) {
      note(`connected, ${manner}`);
      end(down, manner);
      return;
    }
    const up = known(connect(provider));
    let asked: { readonly request: string; readonly treatment: Treatment } | null = null;
    idle.add(down);
    down.on('close', () => {
      idle.delete(down);
      // What was passed on is let come to its end at the provider.
      if (!asked) up.destroy();
    });
    up.on('close', () => down.destroy());

    onMessage(down, (bytes) => {
      const request = bytes.toString();
      const treatment = plan.exchange?.(request) ?? {};
      idle.delete(down);
      if (treatment.cut?.at === 'asked') return cut(request, treatment);
      asked = { request, treatment };
      up.write(bytes, () => {
        if (treatment.cut?.at === 'forwarded') cut(request, treatment);
      });
    });

    onMessage(up, (bytes) => {
      const { request, treatment } = asked!;
      asked = null;
      const { cut: { at } = {}, delayMs = 0 } = treatment;
      if (down.destroyed) up.destroy();
      else if (at === 'answered') cut(request, treatment);
      else if (at !== 'forwarded') setTimeout(() => answer(request, treatment, bytes), delayMs).unref();
    });

    function answer(request: string, treatment: Treatment, bytes: Buffer): void {
      const body = bytes.length - bytes.indexOf(headEnd) - headEnd.length;
      const { cut: spoilt, delayMs, dripMs } = treatment;
      if (spoilt) {
        down.write(bytes.subarray(0, bytes.length - Math.ceil(body / 2)));
        // Not at once: libuv takes an RST right behind bytes for a FIN.
        setTimeout(() => cut(request, treatment), 20);
        return;
      }
      const done = (failed?: Error | null) => {
        const gone = failed || down.destroyed;
        const how = dripMs === undefined ? (delayMs ? 'delayed' : 'plain') : 'dripped';
        note(`${callOf(request)}: ${gone ? 'the caller has gone' : how}`);
        if (gone) return;
        idle.add(down);
        plan.delivered?.(request, bytes.toString());
      };
      if (dripMs === undefined) down.write(bytes, done);
      else drip(bytes, dripMs, done);
    }

    function drip(bytes: Buffer, ms: number, done: (failed?: Error | null) => void): void {
      if (bytes.length === 1 || down.destroyed) {
        down.write(bytes, done);
        return;
      }
      down.write(bytes.subarray(0, 1));
      setTimeout(() => drip(bytes.subarray(1), ms, done), ms).unref();
    }

    function cut(request: string, { cut: spoilt }: Treatment): void {
      const gone = down.destroyed;
      note(`${callOf(request)}: ${gone ? 'the caller has gone' : `${spoilt!.at}, ${spoilt!.by}`}`);
      end(down, spoilt!.by);
    }
  }

  const listen = async (at: number) => {
    const server = createServer({ noDelay: true }, serve).listen(at, '127.0.0.1');
    await once(server, 'listening');
    return server;
  };
  let server = await listen(port);
  const address = server.address() as AddressInfo;

  return {
    url: `http://127.0.0.1:${address.port}`,
    did,
    /** Sums what was done and its name holds the text. */
    count: (text: string) =>
      [...did].reduce((sum, [what, times]) => sum + (what.includes(text) ? times : 0), 0),
    follow(next: Plan): void {
      plan = next;
    },
    /** The system refuses new connections; those on which nothing is under way are closed. */
    refuse(): void {
      server.close();
      for (const socket of idle) socket.destroy();
    },
    /** Takes connections again. */
    async accept(): Promise<void> {
      if (!server.listening) server = await listen(address.port);
    },
    close(): void {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

const headEnd = '\r\n\r\n';

/** `pay` of `POST /pay HTTP/1.1`. */
export const callOf = (request: string) => /^\w+ \/(\w*)/.exec(request)?.[1] ?? 'no HTTP';

/**
 * Calls for every message that has come whole. Throws at one whose head names no length and has a body all the same.
 */
function onMessage(socket: Socket, take: (message: Buffer) => void): void {
  let bytes = Buffer.alloc(0);
  socket.on('data', (chunk) => {
    bytes = Buffer.concat([bytes, chunk]);
    for (;;) {
      const headLength = bytes.indexOf(headEnd) + headEnd.length;
      if (headLength < headEnd.length) return;
      const head = bytes.toString('latin1', 0, headLength);
      if (/\r\ntransfer-encoding:/i.test(head)) throw new Error('the fault proxy reads no chunked messages');
      const length = headLength + Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? 0);
      if (bytes.length < length) return;
      const message = bytes.subarray(0, length);
      bytes = bytes.subarray(length);
      take(message);
    }
  });
}
