/**
 * A biller as many are: JSON over HTTP, requests signed with HMAC-SHA256, payments under the caller's own ids. What it
 * speaks is described in demo/described-provider.json. It promises nothing about repeats: one id paid twice is executed
 * twice.
 *
 *   POST /v1/accounts/check    { id, service, account, amount? }
 *   POST /v1/payments          { id, service, account, amount: { value, currency }, createdAt }
 *   GET  /v1/payments/{id}
 *
 * X-Timestamp is in seconds and X-Signature the HMAC in hex over method, path, timestamp and body, one a line.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import { LosslessNumber, parse } from 'lossless-json';
import { formatMinor, parseAmount } from '../../core/money.js';
import type { Answer, Arrived, Asked, Words } from './simulator.js';

/** How far the clocks may be apart. */
const ageMsMax = 300_000;

const reasons: Readonly<Record<number, string>> = {
  5: 'ACCOUNT_NOT_FOUND',
  7: 'ACCOUNT_CLOSED',
  241: 'AMOUNT_TOO_SMALL',
  242: 'AMOUNT_TOO_LARGE',
  300: 'DECLINED',
};

export function describedWords(key: string): Words {
  return {
    name: 'described',
    deduplicates: false,
    read: (request) => (isAuthentic(request, key) ? read(request) : null),
    write(asked, state, again) {
      const { externalId: id, kind, service } = asked;
      switch (state.status) {
        case 'ok':
          return json(200, {
            id,
            state: 'active',
            holder: 'A. B.',
            ...(service === 'utility' && { due: '1250.40' }),
          });
        case 'executed':
          return json(kind === 'pay' && !again ? 201 : 200, {
            id,
            state: 'paid',
            payment: { number: state.reference },
          });
        case 'refused':
          return json(kind === 'status' ? 200 : 422, { id, state: 'rejected', reason: reasons[state.code] });
        case 'pending':
          return json(kind === 'pay' ? 202 : 200, { id, state: 'processing' });
        case 'not_found':
          return json(404, { id, state: 'unknown_payment' });
        case 'unknown':
          return json(200, { id, state: 'in_review' });
      }
    },
    notUnderstood: json(401, { error: { code: 'NOT_AUTHORIZED' } }),
  };
}

function json(httpStatus: number, body: object): Answer {
  return { httpStatus, contentType: 'application/json', body: JSON.stringify(body) };
}

function isAuthentic({ method, path, headers, body }: Arrived, key: string): boolean {
  const timestamp = String(headers['x-timestamp'] ?? '');
  if (!/^\d{1,12}$/.test(timestamp) || Math.abs(Date.now() - Number(timestamp) * 1000) > ageMsMax)
    return false;
  const signature = Buffer.from(String(headers['x-signature'] ?? ''));
  const expected = Buffer.from(
    createHmac('sha256', key).update(`${method}\n${path}\n${timestamp}\n`).update(body).digest('hex'),
  );
  return signature.length === expected.length && timingSafeEqual(signature, expected);
}

function read({ method, path, body }: Arrived): Asked | null {
  const status = /^\/v1\/payments\/([^/]+)$/.exec(path);
  if (method === 'GET' && status) {
    return {
      kind: 'status',
      externalId: decodeURIComponent(status[1]!),
      service: '',
      account: '',
      amount: '',
    };
  }
  const kind = method === 'POST' ? posted[path] : undefined;
  const request = kind && readJson(body.toString('utf8'));
  if (!kind || !request) return null;
  const { id, service, account, amount } = request;
  const texts = [id, service, account];
  if (!texts.every((each) => typeof each === 'string' && each !== '')) return null;
  const paid = kind === 'pay' ? (amount as { value?: unknown } | undefined)?.value : amount;
  const text = paid instanceof LosslessNumber ? paid.value : '';
  const parsed = parseAmount(text);
  if (kind === 'pay' && !parsed.ok) return null;
  return {
    kind,
    externalId: id as string,
    service: service as string,
    account: account as string,
    amount: parsed.ok ? formatMinor(parsed.amountMinor) : '',
  };
}

const posted: Readonly<Record<string, 'check' | 'pay'>> = {
  '/v1/accounts/check': 'check',
  '/v1/payments': 'pay',
};

function readJson(text: string): Readonly<Record<string, unknown>> | null {
  try {
    const value = parse(text);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}
