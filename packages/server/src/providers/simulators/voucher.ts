/**
 * A shop of vouchers; its protocol: voucher-connector.ts. Orders name no account, so the end of the product scripts the
 * outcome.
 */
import { hash } from 'node:crypto';
import type { Arrived, Asked, Words } from './simulator.js';

export const voucherWords: Words = {
  name: 'voucher',
  deduplicates: true,
  read,
  write: (asked, state) => {
    const { kind, externalId, account } = asked;
    const about = kind === 'check' ? { product: account } : { orderId: externalId };
    const body = JSON.stringify({ ...about, ...answerTo(externalId, state) });
    return { httpStatus: 200, contentType: 'application/json', body };
  },
  notUnderstood: { httpStatus: 400, contentType: 'application/json', body: '{}' },
};

/** What is sold to an order: 16 digits, always the same. */
export function codeOf(orderId: string): string {
  const bits = BigInt(`0x${hash('sha256', orderId, 'hex').slice(0, 16)}`);
  return String(bits % 10n ** 16n).padStart(16, '0');
}

function answerTo(orderId: string, state: Parameters<Words['write']>[1]): object {
  switch (state.status) {
    case 'ok':
      return { status: 'available' };
    case 'executed':
      return {
        ...{ status: 'sold', reference: state.reference, code: codeOf(orderId) },
        ...{ serial: `N-${codeOf(`${orderId}/serial`)}`, validUntil: '2030-12-31' },
      };
    case 'refused':
      return { status: 'refused', code: state.code };
    case 'not_found':
      return { status: 'unknown_order' };
    default:
      return { status: 'pending' };
  }
}

function read(request: Arrived): Asked | null {
  try {
    return request.method === 'POST' ? readOrder(request) : readQuestion(request);
  } catch {
    return null;
  }
}

function readOrder({ path, body }: Arrived): Asked | null {
  const { orderId, product, amount } = JSON.parse(body.toString('utf8'));
  const whole = typeof orderId === 'string' && typeof product === 'string' && /^\d+\.\d\d$/.test(amount);
  if (path !== '/vouchers' || !whole) return null;
  return { kind: 'pay', externalId: orderId, service: product, account: product, amount };
}

function readQuestion({ method, path, query }: Arrived): Asked | null {
  const [, folder, encoded] = /^\/(vouchers|products)\/([^/]+)$/.exec(path) ?? [];
  if (method !== 'GET' || encoded === undefined) return null;
  const name = decodeURIComponent(encoded);
  const [externalId, account] = folder === 'vouchers' ? [name, ''] : ['', name];
  const kind = folder === 'vouchers' ? 'status' : 'check';
  return { kind, externalId, service: account, account, amount: query.get('amount') ?? '' };
}
