/**
 * Translates for the sandbox provider (its protocol: sandbox/server.ts).
 *
 * Only an answer that says so in the protocol's own words, about the payment that was asked about, is proof. Everything
 * else is unknown, a refusal with a code that the protocol does not list included: whoever wrote it does not speak this
 * protocol, so the word "refused" beside it proves nothing either.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import { z } from 'zod';
import { formatMinor, parseAmount } from '../core/money.js';
import {
  type CallbackRequest,
  type CheckOutcome,
  type ConnectorFactory,
  type HttpRequest,
  type HttpResponse,
  type Notice,
  type PayOutcome,
  type StatusOutcome,
  type Unknown,
  unknown,
} from './contract.js';
import { readSettings } from './settings.js';

const settingsShape = z.object({
  notFoundTrustedAfterMs: z.int().min(0).max(86_400_000).nullable().default(3000),
  /** What the provider signs its callbacks with; absent: none are taken. */
  callbackSecret: z.string().min(16).max(200).optional(),
});

const problems = {
  notFoundTrustedAfterMs: 'must be whole milliseconds, at most a day, or null for never',
  callbackSecret: 'must be a text of 16 to 200 characters',
};

const amount = z.string().transform((text, context) => {
  const parsed = parseAmount(text);
  if (parsed.ok) return parsed.amountMinor;
  context.addIssue('not an amount');
  return z.NEVER;
});

const externalId = z.string();
const reference = z.string().min(1).max(64);
const refused = z.object({
  externalId,
  status: z.literal('refused'),
  code: z.literal([4, 5, 7, 241, 242, 300]),
});
const unknownStatus = z.object({ externalId, status: z.literal('unknown') });

const checkAnswer = z.discriminatedUnion('status', [
  z.object({
    externalId,
    status: z.literal('ok'),
    displays: z.record(z.string(), z.string()).optional(),
    contracts: z
      .array(
        z.object({
          contractId: z.string().min(1),
          name: z.string().optional(),
          contractNumber: z.string().optional(),
          contractSum: z.string().optional(),
          contractDate: z.string().optional(),
        }),
      )
      .optional(),
    invoices: z
      .array(
        z
          .object({
            invoiceId: z.string().optional(),
            formedDate: z.string().optional(),
            expireDate: z.string().optional(),
            clientName: z.string().optional(),
            clientAddress: z.string().optional(),
            services: z.array(
              z
                .object({
                  subServiceId: z.string().min(1),
                  subServiceName: z.string(),
                  paySum: amount.optional(),
                  tariff: amount.optional(),
                  minSum: amount.optional(),
                  maxSum: amount.optional(),
                  debtInfo: z.string().optional(),
                  isMeter: z.boolean().optional(),
                  prevCount: z.string().optional(),
                  lastCount: z.string().optional(),
                  si: z.string().optional(),
                  comment: z.string().optional(),
                })
                .transform(({ paySum, tariff, minSum, maxSum, ...line }) => ({
                  ...line,
                  paySumMinor: paySum,
                  tariffMinor: tariff,
                  minSumMinor: minSum,
                  maxSumMinor: maxSum,
                })),
            ),
          })
          .transform(({ services, ...invoice }) => ({ ...invoice, lines: services })),
      )
      .optional(),
  }),
  refused,
  unknownStatus,
]);

const payAnswers = [
  z.object({ externalId, status: z.literal('executed'), reference }),
  z.object({ externalId, status: z.literal('pending') }),
  refused,
  unknownStatus,
] as const;
const payAnswer = z.discriminatedUnion('status', payAnswers);
const statusAnswer = z.discriminatedUnion('status', [
  ...payAnswers,
  z.object({ externalId, status: z.literal('not_found') }),
]);

export const sandboxConnector: ConnectorFactory = (settings) => {
  const { notFoundTrustedAfterMs, callbackSecret } = readSettings(settingsShape, problems, settings);
  return {
    name: 'sandbox',
    plain: new Set(['externalId', 'status', 'code', 'service', 'currency', 'reference']),
    offers: {
      deduplicates: false,
      status: true,
      notFoundTrustedAfterMs,
    },
    buildCheck: (inquiry) =>
      post('/check', {
        externalId: inquiry.externalId,
        service: inquiry.serviceCode,
        account: inquiry.account,
        amount: inquiry.amountMinor === null ? undefined : formatMinor(inquiry.amountMinor),
        currency: inquiry.currency,
        extras: inquiry.extras,
      }),
    parseCheck,
    buildPay: (order) =>
      post('/pay', {
        externalId: order.externalId,
        service: order.serviceCode,
        account: order.account,
        amount: formatMinor(order.amountMinor),
        currency: order.currency,
        extras: order.extras,
        lines: order.extraServices?.map((line) => ({
          subServiceId: line.subServiceId,
          amount: formatMinor(line.amountMinor),
          lastCount: line.lastCount ?? undefined,
        })),
      }),
    parsePay,
    buildStatus: (order) => ({
      method: 'GET',
      path: `/status/${encodeURIComponent(order.externalId)}`,
      headers: { accept: 'application/json' },
      body: null,
    }),
    parseStatus,
    parseCallback: (request) => (callbackSecret ? parseCallback(request, callbackSecret) : null),
  };
};

function post(path: string, body: object): HttpRequest {
  return {
    method: 'POST',
    path,
    headers: { 'content-type': 'application/json', accept: 'application/json' },
    body: JSON.stringify(body),
  };
}

function parseCheck(response: HttpResponse, asked: { readonly externalId: string }): CheckOutcome {
  const answer = read(checkAnswer, response, asked.externalId);
  if ('kind' in answer) return answer;
  switch (answer.status) {
    case 'ok': {
      const { displays, contracts, invoices } = answer;
      return { kind: 'ok', displays, contracts, invoices };
    }
    case 'refused':
      return { kind: 'refused', code: answer.code, detail: `code ${answer.code}` };
    case 'unknown':
      return unknown('the provider says unknown');
  }
}

function parsePay(response: HttpResponse, asked: { readonly externalId: string }): PayOutcome {
  const answer = read(payAnswer, response, asked.externalId);
  return 'kind' in answer ? answer : payOutcome(answer);
}

function parseStatus(response: HttpResponse, asked: { readonly externalId: string }): StatusOutcome {
  const answer = read(statusAnswer, response, asked.externalId);
  return 'kind' in answer ? answer : statusOutcome(answer);
}

function statusOutcome(answer: z.infer<typeof statusAnswer>): StatusOutcome {
  return answer.status === 'not_found' ? { kind: 'not_found' } : payOutcome(answer);
}

function parseCallback({ headers, body }: CallbackRequest, secret: string): Notice | null {
  const signature = Buffer.from(String(headers['x-sandbox-signature'] ?? ''));
  const expected = Buffer.from(`sha256=${createHmac('sha256', secret).update(body).digest('hex')}`);
  if (signature.length !== expected.length || !timingSafeEqual(signature, expected)) return null;
  const told = inWords(statusAnswer, body.toString('utf8'));
  return 'kind' in told ? null : { externalId: told.externalId, outcome: statusOutcome(told) };
}

function payOutcome(answer: z.infer<typeof payAnswer>): PayOutcome {
  switch (answer.status) {
    case 'executed':
      return { kind: 'executed', reference: answer.reference };
    case 'pending':
      return { kind: 'pending', reference: null };
    case 'refused':
      return { kind: 'refused', code: answer.code, detail: `code ${answer.code}` };
    case 'unknown':
      return unknown('the provider says unknown');
  }
}

/** The answer in the protocol's words, or why it proves nothing. The text of the answer goes nowhere. */
function read<T extends { readonly externalId: string }>(
  shape: z.ZodType<T>,
  response: HttpResponse,
  externalId: string,
): T | Unknown {
  if (response.status !== 200) return unknown(`HTTP ${response.status}`);
  const answer = inWords(shape, response.body);
  if (!('kind' in answer) && answer.externalId !== externalId)
    return unknown('the answer is about another payment');
  return answer;
}

function inWords<T>(shape: z.ZodType<T>, text: string): T | Unknown {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return unknown('the answer is not JSON');
  }
  const parsed = shape.safeParse(json);
  if (!parsed.success) return unknown("the answer is not in the protocol's words");
  return parsed.data;
}
