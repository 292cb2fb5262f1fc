/** Every protocol that there is a simulator of, by the name of its connector. */
import type { Words } from './simulator.js';

export const simulators: ReadonlyMap<string, (options: readonly string[]) => Words> = new Map([]);
