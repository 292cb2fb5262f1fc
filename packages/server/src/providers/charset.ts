/** Percent-encoding for URLs and forms in a provider's charset; single-byte code pages are TextDecoder inverted. */
import { TextDecoder } from 'node:util';
import { NotWritable } from './contract.js';

/** Throws NotWritable where a character is none of the charset: another one in its place would be another account. */
export type PercentEncoder = (text: string) => string;

const singleByte = /^(?:ibm866|iso-8859-\d+(?:-i)?|koi8-[ru]|macintosh|windows-\d+|x-mac-cyrillic)$/;

/** By a name of the Encoding Standard; null: it has no such charset, or one that is neither UTF-8 nor single-byte. */
export function percentEncoder(charset: string): PercentEncoder | null {
  let decoder: TextDecoder;
  try {
    decoder = new TextDecoder(charset, { fatal: true });
  } catch {
    return null;
  }
  if (decoder.encoding === 'utf-8') return inUtf8;
  if (!singleByte.test(decoder.encoding)) return null;
  const escapes = new Map<string, string>();
  for (let byte = 0; byte < 256; byte += 1) {
    const char = charOf(decoder, byte);
    if (char !== null) escapes.set(char, /^[\w.~-]$/.test(char) ? char : percent(byte));
  }
  return (text) => {
    let encoded = '';
    for (const char of text) {
      const escaped = escapes.get(char);
      if (escaped === undefined) throw noSuchCharacter();
      encoded += escaped;
    }
    return encoded;
  };
}

function inUtf8(text: string): string {
  try {
    return encodeURIComponent(text).replace(/[!'()*]/g, (char) => percent(char.charCodeAt(0)));
  } catch {
    throw noSuchCharacter();
  }
}

const noSuchCharacter = () => new NotWritable("a value has a character that the provider's charset lacks");

function charOf(decoder: TextDecoder, byte: number): string | null {
  try {
    return decoder.decode(Uint8Array.of(byte));
  } catch {
    return null;
  }
}

function percent(byte: number): string {
  return `%${byte.toString(16).toUpperCase().padStart(2, '0')}`;
}
