/** Every protocol that there is a simulator of, by the name of its connector. */
import { v20Words } from './agent-v20.js';
import { describedWords } from './described.js';
import { kaspiWords } from './kaspi.js';
import { osmpWords } from './osmp.js';
import type { Words } from './simulator.js';
import { voucherWords } from './voucher.js';

/** Makes the words of a variant of the protocol, of the usual one without any. */
type Maker = (variant: readonly string[]) => Words;

/** Of demo/described-provider.json. */
const demoKey = 'replace-by-the-key-of-the-contract';

export const simulators: ReadonlyMap<string, Maker> = new Map<string, Maker>([
  ['agent-v20', () => v20Words],
  ['described', () => describedWords(demoKey)],
  [
    'kaspi',
    (variant) =>
      kaspiWords({
        format: variant.includes('xml') ? 'xml' : 'json',
        repeats: variant.includes('repeats-3') ? '3' : '0',
      }),
  ],
  ['osmp', (variant) => osmpWords({ charset: variant.includes('windows-1251') ? 'windows-1251' : 'utf-8' })],
  ['voucher', () => voucherWords],
]);
