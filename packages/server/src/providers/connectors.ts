/** Every provider protocol the centre speaks, by the name that a provider's record carries. */
import type { ConnectorFactory } from './contract.js';
import { osmpConnector } from './osmp-connector.js';
import { sandboxConnector } from './sandbox-connector.js';

export const connectors: ReadonlyMap<string, ConnectorFactory> = new Map([
  ['osmp', osmpConnector],
  ['sandbox', sandboxConnector],
]);
