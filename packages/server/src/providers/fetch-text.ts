/** One GET over HTTP, bounded in time and size: no redirects, no second try. For what is no provider's call. */
import { type Dispatcher, errors } from 'undici';

export interface FetchBounds {
  /** From the asking to the last byte. */
  readonly msMax: number;
  readonly bytesMax: number;
  readonly signal?: AbortSignal | undefined;
}

/** The body of an answer 200. Rejects with a short sentence, in which nothing of the request is said. */
export async function fetchText(
  dispatcher: Dispatcher,
  url: URL,
  { msMax, bytesMax, signal }: FetchBounds,
): Promise<string> {
  const late = AbortSignal.timeout(msMax);
  const stop = signal ? AbortSignal.any([late, signal]) : late;
  try {
    const { statusCode, body } = await dispatcher.request({
      origin: url.origin,
      path: url.pathname + url.search,
      method: 'GET',
      signal: stop,
    });
    if (statusCode !== 200) {
      body.on('error', () => {}).destroy();
      throw new Unusable(`it answered HTTP ${statusCode}`);
    }
    const chunks: Buffer[] = [];
    let bytes = 0;
    for await (const chunk of body as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      if (bytes > bytesMax) throw new Unusable(`its answer is longer than ${bytesMax} bytes`);
      chunks.push(chunk);
    }
    return new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(chunks));
  } catch (error) {
    if (error instanceof Unusable) throw error;
    if (late.aborted) throw new Unusable(`no whole answer within ${msMax} ms`);
    const reason = (error as NodeJS.ErrnoException).code ?? (error as Error).name;
    throw new Unusable(
      error instanceof errors.UndiciError || 'syscall' in (error as object)
        ? `the connection failed: ${reason}`
        : `it cannot be read: ${reason}`,
    );
  }
}

class Unusable extends Error {}
