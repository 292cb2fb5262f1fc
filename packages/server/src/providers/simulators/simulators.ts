/** Every protocol that there is a simulator of, by the name of its connector. */
import { osmpWords } from './osmp.js';
import type { Words } from './simulator.js';

/** Makes the words of a variant of the protocol, of the usual one without any. */
type Maker = (variant: readonly string[]) => Words;

export const simulators: ReadonlyMap<string, Maker> = new Map<string, Maker>([
  ['osmp', (variant) => osmpWords({ charset: variant.includes('windows-1251') ? 'windows-1251' : 'utf-8' })],
]);
