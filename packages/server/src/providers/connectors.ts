/** Every provider protocol the centre speaks, by the name that a provider's record carries. */
import type { ConnectorFactory } from './contract.js';
import { kaspiConnector } from './kaspi-connector.js';
import { sandboxConnector } from './sandbox-connector.js';
import { voucherConnector } from './voucher-connector.js';

export const connectors: ReadonlyMap<string, ConnectorFactory> = new Map([
  ['kaspi', kaspiConnector],
  ['sandbox', sandboxConnector],
  ['voucher', voucherConnector],
]);
