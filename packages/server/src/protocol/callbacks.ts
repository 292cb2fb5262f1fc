/** Where providers tell outcomes by themselves: `POST /provider-callbacks/<providerId>`, a body as their protocol has it. */
import type { IncomingHttpHeaders } from 'node:http';
import type { FastifyBaseLogger, FastifyInstance } from 'fastify';
import type { CallbackAnswer } from '../core/answers.js';

export interface CallbackParts {
  /** Rejects where nothing could be taken. */
  readonly callback: (
    providerId: string,
    request: { readonly headers: IncomingHttpHeaders; readonly body: Buffer },
  ) => Promise<CallbackAnswer>;
  readonly logger: FastifyBaseLogger;
}

const bodyBytesMax = 64 * 1024;
const retryAfterS = 5;
const statuses: Readonly<Record<CallbackAnswer, number>> = {
  taken: 200,
  not_authentic: 401,
  not_known: 404,
  later: 503,
};

export function serveCallbacks(api: FastifyInstance, { callback, logger }: CallbackParts): void {
  api.removeAllContentTypeParsers();
  api.addContentTypeParser<Buffer>('*', { parseAs: 'buffer', bodyLimit: bodyBytesMax }, (_, body, done) =>
    done(null, body),
  );
  api.post<{ Params: { providerId: string } }>('/provider-callbacks/:providerId', async (request, reply) => {
    const { providerId } = request.params;
    const body = Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0);
    const answer = await callback(providerId, { headers: request.headers, body }).catch((error: unknown) => {
      logger.warn(
        { reqId: request.id, error: error instanceof Error ? error.name : typeof error },
        'a callback could not be taken; the provider was told to come again',
      );
      return 'later' as const;
    });
    const status = statuses[answer];
    logger.debug({ reqId: request.id, status }, 'callback answered');
    if (status === 404 || status === 503) reply.header('retry-after', retryAfterS);
    return reply.code(status).send({ status: answer });
  });
}
