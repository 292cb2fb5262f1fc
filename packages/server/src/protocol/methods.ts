import type { UseCases } from '../core/answers.js';
import type { Agent, Reference } from '../core/catalogue.js';
import { reason } from '../core/codes.js';
import type { Way } from '../core/way.js';
import type { CatalogueAnswers } from './catalogue.js';
import { type JsonObject, parseBody } from './json.js';
import { renderBalance, renderCheck, renderCode, renderOperator, renderPay } from './render.js';
import {
  readAgentTransactionId,
  type Shaped,
  shapeCheck,
  shapeOperatorByPhone,
  shapePay,
  shapeService,
} from './requests.js';

export interface Call {
  readonly agent: Agent;
  readonly body: JsonObject;
  /** The body's agentTransactionId where it is readable, to be echoed. */
  readonly agentTransactionId: bigint | null;
}

export interface Answer {
  readonly code: number;
  readonly body: string | Buffer;
  /** For the log. */
  readonly transactionId?: bigint | null;
  /** There when a shorter form of the body is worth offering. */
  readonly gzipped?: () => Promise<Buffer>;
}

export interface Method {
  /** `services` and `balance` take no parameters, so no body is a body too. */
  readonly bodyOptional?: true;
  answer(call: Call, way: Way): Answer | Promise<Answer>;
}

/** The six methods of the contract by the last part of their path. They throw only what the use cases throw. */
export function methodsOf(
  useCases: UseCases,
  reference: () => Reference,
  catalogue: CatalogueAnswers,
  localTime: (moment: Date) => string,
): Readonly<Record<string, Method>> {
  return {
    services: {
      bodyOptional: true,
      answer({ agent }) {
        return { code: 0, ...catalogue.services(reference(), agent) };
      },
    },
    service: {
      answer(call) {
        const shaped = shapeService(call.body);
        if (!shaped.ok) return refuse(shaped, call);
        const found = catalogue.service(reference(), call.agent, shaped.request);
        return found.code === 0 ? found : codeOnly(found.code, null, call.agent, null);
      },
    },
    balance: {
      bodyOptional: true,
      async answer({ agent }) {
        return { code: 0, body: renderBalance(await useCases.balance(agent.agentId), agent.language) };
      },
    },
    check: {
      async answer(call, way) {
        const shaped = shapeCheck(call.body, localTime);
        if (!shaped.ok) return refuse(shaped, call);
        const { agentId, language } = call.agent;
        const answer = await useCases.check(agentId, shaped.request, way);
        return {
          code: answer.code,
          body: renderCheck(answer, shaped.request.agentTransactionId, language),
          transactionId: answer.transactionId,
        };
      },
    },
    pay: {
      async answer(call, way) {
        const shaped = shapePay(call.body, localTime);
        if (!shaped.ok) return refuse(shaped, call);
        const { agentId, language } = call.agent;
        const answer = await useCases.pay(agentId, shaped.request, way);
        return {
          code: answer.code,
          body: renderPay(answer, shaped.request.agentTransactionId, language, localTime),
          transactionId: answer.transactionId,
        };
      },
    },
    operatorByPhone: {
      async answer(call) {
        const shaped = shapeOperatorByPhone(call.body);
        if (!shaped.ok) return refuse(shaped, call);
        const answer = await useCases.operatorByPhone(shaped.request);
        return { code: answer.code, body: renderOperator(answer, call.agent.language) };
      },
    },
  };
}

/** A body's bytes; null for one of a type that is not JSON. */
export type Received = Buffer | null | undefined;

/** What is asked, or the 202 for a body that asks nothing. */
export function readCall(
  method: Method,
  agent: Agent,
  received: Received,
): { readonly ok: true; readonly call: Call } | { readonly ok: false; readonly answer: Answer } {
  const refused = (why: string) => ({ ok: false as const, answer: codeOnly(202, why, agent, null) });
  if (received === null) return refused(reason('content_type'));
  const bytes = received ?? Buffer.alloc(0);
  if (bytes.length === 0 && method.bodyOptional) {
    return { ok: true, call: { agent, body: {}, agentTransactionId: null } };
  }
  const parsed = parseBody(bytes);
  if (!parsed.ok) return refused(parsed.why);
  const agentTransactionId = readAgentTransactionId(parsed.value.agentTransactionId);
  return { ok: true, call: { agent, body: parsed.value, agentTransactionId } };
}

export function codeOnly(code: number, why: string | null, agent: Agent, id: bigint | null): Answer {
  return { code, body: renderCode(code, why, agent.language, id) };
}

function refuse(refusal: Exclude<Shaped<unknown>, { ok: true }>, call: Call): Answer {
  return codeOnly(202, refusal.why, call.agent, call.agentTransactionId);
}
