/**
 * Translates for a shop of vouchers and PINs. JSON over HTTP, every answer with status 200:
 *
 *   GET /products/<product>?amount=200.00   → {product, status: "available"}
 *                                             {product, status: "refused", code}
 *   POST /vouchers {orderId, product, amount}
 *   GET /vouchers/<orderId>                 → {orderId, status: "sold", reference, code, serial?, validUntil?}
 *                                             {orderId, status: "refused", code}
 *                                             {orderId, status: "pending"}
 *                                             {orderId, status: "unknown_order"}, to GET only
 *
 * One orderId is sold one voucher, however often it is ordered. The `code` of a voucher is a text, the one of a refusal a
 * number: 4, 5, 7, 241, 242 or 300. The product is the service's code at the provider; the account is not sent.
 *
 * Whoever has the code has the money. Code, serial and end of validity all go into `secrets`, so that nothing of a
 * voucher lies readable with the centre. A voucher without its code proves nothing: it is asked about again.
 */
import { parse } from 'lossless-json';
import { z } from 'zod';
import { formatMinor } from '../core/money.js';
import {
  type CheckOutcome,
  type ConnectorFactory,
  type HttpRequest,
  type HttpResponse,
  type PayOutcome,
  type StatusOutcome,
  type Unknown,
  unknown,
} from './contract.js';
import { readSettings } from './settings.js';

const settingsShape = z.object({
  notFoundTrustedAfterMs: z.int().min(0).max(86_400_000).nullable().default(3000),
  /** What the centre shows the shop, as a bearer. */
  token: z
    .string()
    .regex(/^[\w.~+/=-]{1,500}$/)
    .optional(),
});

const problems: Readonly<Record<string, string>> = {
  notFoundTrustedAfterMs: 'must be whole milliseconds, at most a day, or null for never',
  token: 'must be a token of 1 to 500 characters as HTTP has them',
};

const refusalCode = z.literal([4, 5, 7, 241, 242, 300]);
const product = z.string();
const checkAnswer = z.discriminatedUnion('status', [
  z.object({ product, status: z.literal('available') }),
  z.object({ product, status: z.literal('refused'), code: refusalCode }),
]);

const orderId = z.string();
const word = z.string().min(1).max(200);
const payAnswers = [
  z.object({
    orderId,
    status: z.literal('sold'),
    reference: z.string().min(1).max(64),
    code: word,
    serial: word.optional(),
    validUntil: word.optional(),
  }),
  z.object({ orderId, status: z.literal('refused'), code: refusalCode }),
  z.object({ orderId, status: z.literal('pending') }),
] as const;
const payAnswer = z.discriminatedUnion('status', payAnswers);
const statusAnswer = z.discriminatedUnion('status', [
  ...payAnswers,
  z.object({ orderId, status: z.literal('unknown_order') }),
]);

export const voucherConnector: ConnectorFactory = (settings) => {
  const { notFoundTrustedAfterMs, token } = readSettings(settingsShape, problems, settings);
  const headers = { accept: 'application/json', ...(token && { authorization: `Bearer ${token}` }) };
  const get = (path: string): HttpRequest => ({ method: 'GET', path, headers, body: null });
  return {
    name: 'voucher',
    offers: { deduplicates: true, status: true, notFoundTrustedAfterMs },
    // Not `code`: that of a refusal has the same name as that of a voucher.
    plain: new Set(['orderId', 'product', 'status', 'reference']),
    buildCheck: ({ serviceCode, amountMinor }) => {
      const query = amountMinor === null ? '' : `?amount=${formatMinor(amountMinor)}`;
      return get(`/products/${encodeURIComponent(serviceCode)}${query}`);
    },
    parseCheck,
    buildPay: (order) => ({
      method: 'POST',
      path: '/vouchers',
      headers: { ...headers, 'content-type': 'application/json' },
      body: JSON.stringify({
        orderId: order.externalId,
        product: order.serviceCode,
        amount: formatMinor(order.amountMinor),
      }),
    }),
    parsePay: (response, { externalId }) => {
      const answer = read(payAnswer, response, (each) => each.orderId === externalId);
      return 'kind' in answer ? answer : payOutcome(answer);
    },
    buildStatus: ({ externalId }) => get(`/vouchers/${encodeURIComponent(externalId)}`),
    parseStatus,
  };
};

function parseCheck(response: HttpResponse, asked: { readonly serviceCode: string }): CheckOutcome {
  const answer = read(checkAnswer, response, (each) => each.product === asked.serviceCode);
  if ('kind' in answer) return answer;
  return answer.status === 'available' ? { kind: 'ok' } : refused(answer.code);
}

function parseStatus(response: HttpResponse, asked: { readonly externalId: string }): StatusOutcome {
  const answer = read(statusAnswer, response, (each) => each.orderId === asked.externalId);
  if ('kind' in answer) return answer;
  return answer.status === 'unknown_order' ? { kind: 'not_found' } : payOutcome(answer);
}

function payOutcome(answer: z.infer<typeof payAnswer>): PayOutcome {
  switch (answer.status) {
    case 'sold': {
      const { reference, code, serial, validUntil } = answer;
      return {
        kind: 'executed',
        // References are kept readable; one that gives the code away is not.
        reference: reference.includes(code) ? null : reference,
        secrets: { code, ...(serial && { serial }), ...(validUntil && { validUntil }) },
      };
    }
    case 'refused':
      return refused(answer.code);
    case 'pending':
      return { kind: 'pending', reference: null };
  }
}

function refused(code: number): { kind: 'refused'; code: number; detail: string } {
  return { kind: 'refused', code, detail: `code ${code}` };
}

/** The answer in the protocol's words, or why it proves nothing. The text of the answer goes nowhere. */
function read<T>(
  shape: z.ZodType<T>,
  response: HttpResponse,
  isAboutIt: (answer: T) => boolean,
): T | Unknown {
  if (response.status !== 200) return unknown(`HTTP ${response.status}`);
  let json: unknown;
  try {
    // A name that is there twice, with two values, is no JSON.
    json = parse(response.body, null, Number);
  } catch {
    return unknown('the answer is not JSON');
  }
  const { data } = shape.safeParse(json);
  if (data === undefined) return unknown("the answer is not in the protocol's words");
  return isAboutIt(data) ? data : unknown('the answer is about something else');
}
