/** The small server for those who run the centre: `/healthz`, `/readyz`, `/metrics`. Not for agents. */
import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Check } from './readiness.js';

export interface ListenParts {
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  readonly checks: () => Promise<readonly Check[]>;
  readonly metrics: { text(): Promise<string>; readonly contentType: string };
}

export interface Listening {
  readonly baseUrl: string;
  close(): Promise<void>;
}

const connectionsMax = 100;
const requestMsMax = 10_000;

/** Rejects with what `listen` says when the port cannot be had. */
export async function listen({ host, port, checks, metrics }: ListenParts): Promise<Listening> {
  const routes: Readonly<Record<string, (response: ServerResponse) => Promise<void>>> = {
    '/healthz': async (response) => json(response, 200, { status: 'ok' }),
    '/readyz': async (response) => {
      const list = await checks();
      const ready = list.every(({ ok }) => ok);
      json(response, ready ? 200 : 503, { ready, checks: list });
    },
    '/metrics': async (response) => {
      const text = await metrics.text();
      response.writeHead(200, { 'content-type': metrics.contentType }).end(text);
    },
  };
  const server = createServer((request, response) => {
    const route = routes[(request.url ?? '').split('?')[0]!];
    if (!route) return json(response, 404, { error: 'not_found' });
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.setHeader('allow', 'GET');
      return json(response, 405, { error: 'method_not_allowed' });
    }
    route(response).catch((error: unknown) => {
      if (!response.headersSent) json(response, 500, { error: String(error) });
    });
  });
  server.maxConnections = connectionsMax;
  server.requestTimeout = requestMsMax;
  server.listen({ host, port });
  await once(server, 'listening');
  const { port: taken } = server.address() as AddressInfo;
  return {
    baseUrl: `http://${host.includes(':') ? `[${host}]` : host}:${taken}`,
    async close() {
      server.close();
      server.closeAllConnections();
    },
  };
}

function json(response: ServerResponse, status: number, body: object): void {
  response
    .writeHead(status, { 'content-type': 'application/json; charset=utf-8' })
    .end(`${JSON.stringify(body)}\n`);
}
