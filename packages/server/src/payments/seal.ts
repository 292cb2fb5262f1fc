import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';

/**
 * Encrypts what must not lie readable in the database: AES-256-GCM; base64 of nonce (12 bytes), tag (16) and the
 * encrypted text.
 */
export function seal(key: Buffer, text: string): string {
  const nonce = randomBytes(12);
  const cipher = createCipheriv('aes-256-gcm', key, nonce);
  const body = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()]);
  return Buffer.concat([nonce, cipher.getAuthTag(), body]).toString('base64');
}

/** Throws when the key is another one or the data was changed. */
export function unseal(key: Buffer, sealed: Buffer): string {
  const decipher = createDecipheriv('aes-256-gcm', key, sealed.subarray(0, 12));
  decipher.setAuthTag(sealed.subarray(12, 28));
  return Buffer.concat([decipher.update(sealed.subarray(28)), decipher.final()]).toString('utf8');
}

/** How a centre encrypts and decrypts with its key. */
export interface Sealing {
  /** Answers base64. */
  readonly seal: (text: string) => string;
  /** Of base64; throws when the key is another one or the data was changed. */
  readonly unseal: (sealed: string) => string;
}

/** With the payment they are of, so that they cannot be read by putting them into another one. */
export function sealSecrets(
  { seal }: Pick<Sealing, 'seal'>,
  transactionId: bigint,
  secrets: Readonly<Record<string, string>>,
): string {
  return seal(JSON.stringify({ transactionId: String(transactionId), secrets }));
}

/** Throws as `unseal` does, and when they are another payment's. */
export function unsealSecrets(
  { unseal }: Pick<Sealing, 'unseal'>,
  transactionId: bigint,
  sealed: string,
): Readonly<Record<string, string>> {
  const opened = JSON.parse(unseal(sealed));
  if (opened.transactionId !== String(transactionId)) throw new Error('sealed for another payment');
  return opened.secrets;
}
