/** What simulated providers have of HTTP: where they listen, how they end, and their registry on the way out. */
import type { Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Readable } from 'node:stream';
import type { Registry, RegistryRow } from './registry.js';

export interface Listening {
  readonly url: string;
  /** What was executed; also `GET /registry`. */
  registry(): Promise<RegistryRow[]>;
  close(): Promise<void>;
}

/** Throws when the port is taken. Ends the registry with the server. */
export async function listen(
  server: Server,
  registry: Registry,
  at: { readonly port: number; readonly host: string },
): Promise<Listening> {
  // The centre closes idle connections; a provider that does it too would only add cuts nobody scripted.
  server.keepAliveTimeout = 0;
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(at.port, at.host, () => resolve());
  });
  const { port } = server.address() as AddressInfo;
  const host = at.host.includes(':') ? `[${at.host}]` : at.host;
  return {
    url: `http://${host}:${port}`,
    registry: async () => JSON.parse((await Readable.from(registry.json()).toArray()).join('')),
    close: () =>
      new Promise((resolve) => {
        server.close(() => {
          registry.close();
          resolve();
        });
        server.closeAllConnections();
      }),
  };
}

export function sendRegistry(response: ServerResponse, registry: Registry): void {
  response.writeHead(200, { 'content-type': 'application/json' });
  const rows = Readable.from(registry.json(), { objectMode: false });
  rows.on('error', () => response.destroy());
  response.on('close', () => rows.destroy());
  rows.pipe(response);
}

/** Acts then, unless the caller has gone. */
export function later(response: ServerResponse, ms: number, act: () => void): void {
  const timer = setTimeout(act, ms);
  response.once('close', () => clearTimeout(timer));
}
