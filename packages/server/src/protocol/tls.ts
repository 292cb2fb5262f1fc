import { readFileSync, type Stats, unwatchFile, watchFile } from 'node:fs';
import type { Server } from 'node:https';
import type { FastifyBaseLogger } from 'fastify';

export interface TlsFiles {
  readonly certFile: string;
  readonly keyFile: string;
}

const pollMs = 2000;

/** The certificate chain and the key, PEM. Throws when a file cannot be read. */
export function readTls(files: TlsFiles): { cert: Buffer; key: Buffer } {
  return { cert: readFileSync(files.certFile), key: readFileSync(files.keyFile) };
}

/**
 * Serves new connections with the new certificate within 2 s of either file changing. Files that do not fit together,
 * as between the writing of the one and of the other, leave the old pair in use. Returns what stops the watching.
 */
export function reloadTls(server: Server, files: TlsFiles, logger: FastifyBaseLogger): () => void {
  const changed = (now: Stats, before: Stats) => {
    if (now.mtimeMs === before.mtimeMs) return;
    try {
      server.setSecureContext(readTls(files));
      logger.info({ certFile: files.certFile }, 'the TLS certificate was replaced');
    } catch (error) {
      logger.warn(
        { certFile: files.certFile, keyFile: files.keyFile, cause: (error as Error).message },
        'the changed TLS files do not work and the old certificate stays; put a matching certificate and key there',
      );
    }
  };
  const watched = [files.certFile, files.keyFile];
  for (const file of watched) watchFile(file, { interval: pollMs, persistent: false }, changed);
  return () => {
    for (const file of watched) unwatchFile(file, changed);
  };
}
