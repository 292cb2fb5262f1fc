import { hash } from 'node:crypto';
import { BlockList, isIP, isIPv6 } from 'node:net';
import type { Agent, Reference } from '../core/catalogue.js';

/** An address or a network: `10.0.0.1`, `10.0.0.0/8`, `2001:db8::/32`. */
export type Cidr = string;

/** What the centre knows of tokens and addresses, in memory. */
export interface Directory {
  /** A confirmed token by its SHA-256 in lower-case hex. */
  byTokenHash(hashHex: string): { readonly agentId: bigint; readonly tokenId: bigint } | undefined;
  /** Empty: any address. The same array while nothing changes: it is compiled once. */
  addressesOf(agentId: bigint): readonly Cidr[];
  /** Agents set to be known by address alone whose addresses contain this one. */
  agentsKnownByAddress(address: string): readonly bigint[];
  /** Notes the last use of a token; cheap, called with every request. Empty: the peer's address could not be read. */
  touched(tokenId: bigint, address: string): void;
}

export type Caller =
  | { readonly ok: true; readonly agent: Agent }
  | { readonly ok: false; readonly error: 'unauthorized' }
  | { readonly ok: false; readonly error: 'agent_blocked' | 'address_not_allowed'; readonly agent: Agent };

const unauthorized: Caller = { ok: false, error: 'unauthorized' };
const authorizationLengthMax = 1024;

/**
 * Who is calling, by the `Authorization` header and the peer's address (of a trusted proxy's making or the socket's).
 */
export function identify(
  directory: Directory,
  reference: Reference,
  authorization: string | undefined,
  peer: string | undefined,
): Caller {
  const address = plainAddress(peer ?? '');
  if (authorization === undefined) {
    const agentIds = address === null ? [] : directory.agentsKnownByAddress(address);
    const agent = agentIds.length === 1 ? reference.agents.get(agentIds[0]!) : undefined;
    if (!agent) return unauthorized;
    return agent.blocked ? { ok: false, error: 'agent_blocked', agent } : { ok: true, agent };
  }

  const sent = readAuthorization(authorization);
  // Looked up by hash, so that the time taken tells nothing of how much of a guess was right.
  const token = sent && directory.byTokenHash(hash('sha256', sent.token, 'hex'));
  const agent = token && reference.agents.get(token.agentId);
  if (!agent || (sent.login !== null && sent.login !== agent.agentId.toString())) return unauthorized;
  if (agent.blocked) return { ok: false, error: 'agent_blocked', agent };
  const allowed = directory.addressesOf(agent.agentId);
  if (allowed.length > 0 && (address === null || !contains(allowed, address))) {
    return { ok: false, error: 'address_not_allowed', agent };
  }
  directory.touched(token.tokenId, address ?? '');
  return { ok: true, agent };
}

/** `Bearer <token>`, or `Basic` with the agent id as login and the token as password. */
function readAuthorization(header: string): { token: string; login: string | null } | null {
  if (header.length > authorizationLengthMax) return null;
  const match = /^(Bearer|Basic) +(\S+)$/i.exec(header);
  if (!match) return null;
  if (match[1]!.toLowerCase() === 'bearer') return { token: match[2]!, login: null };
  const pair = Buffer.from(match[2]!, 'base64').toString();
  const colon = pair.indexOf(':');
  return colon < 1 ? null : { login: pair.slice(0, colon), token: pair.slice(colon + 1) };
}

/** IPv4 written as IPv6 (`::ffff:10.0.0.1`) becomes plain, a zone (`%eth0`) is dropped; null for what is no address. */
export function plainAddress(peer: string): string | null {
  const address = peer.replace(/^::ffff:(?=\d+\.)/i, '').replace(/%.*$/, '');
  return isIP(address) === 0 ? null : address;
}

const compiled = new WeakMap<readonly Cidr[], BlockList>();

/** Whether one of the networks contains the address. Throws when a network is malformed. */
export function contains(networks: readonly Cidr[], address: string): boolean {
  let list = compiled.get(networks);
  if (!list) {
    list = new BlockList();
    for (const network of networks) {
      const [base, prefix] = network.split('/') as [string, string | undefined];
      const family = isIPv6(base) ? 'ipv6' : 'ipv4';
      if (prefix === undefined) list.addAddress(base, family);
      else list.addSubnet(base, Number(prefix), family);
    }
    compiled.set(networks, list);
  }
  return list.check(address, isIPv6(address) ? 'ipv6' : 'ipv4');
}
