/** Every provider protocol the centre speaks, by the name that a provider's record carries. */
import type { ConnectorFactory } from './contract.js';
import { describedConnector } from './described/connector.js';
import { kaspiConnector } from './kaspi-connector.js';
import { osmpConnector } from './osmp-connector.js';
import { sandboxConnector } from './sandbox-connector.js';
import { v20Connector } from './v20-connector.js';
import { voucherConnector } from './voucher-connector.js';

export const connectors: ReadonlyMap<string, ConnectorFactory> = new Map([
  ['agent-v20', v20Connector],
  ['described', describedConnector],
  ['kaspi', kaspiConnector],
  ['osmp', osmpConnector],
  ['sandbox', sandboxConnector],
  ['voucher', voucherConnector],
]);
