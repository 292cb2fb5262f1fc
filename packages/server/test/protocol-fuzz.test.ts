import assert from 'node:assert/strict';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { codeFacts } from '../src/core/codes.js';
import { localTimeIn } from '../src/core/time.js';
import { CatalogueAnswers } from '../src/protocol/catalogue.js';
import { NumberLiteral, parseBody } from '../src/protocol/json.js';
import { methodsOf, readCall } from '../src/protocol/methods.js';
import { type FuzzCase, fuzzCase, nasties } from './support/fuzz.js';
import { anAgent, aReference, buildEdge, TestUseCases } from './support/protocol.js';

const { app, post } = buildEdge();
afterAll(() => app.close());

/** A code of the registry with words in well-formed JSON, and the id to the digit. */
function answersWell(text: string, { echo }: FuzzCase): void {
  const answer = JSON.parse(text);
  assert.ok(codeFacts(answer.result).code !== 1 && answer.resultMessage.length > 0);
  if (echo !== null) assert.equal(/"agentTransactionId":(\d+)/.exec(text)?.[1], echo);
}

async function answersWellOverHttp(each: FuzzCase): Promise<void> {
  const reply = await post(each.method, each.body);
  assert.equal(reply.status, 200);
  answersWell(reply.text, each);
}

describe('whatever is sent is answered by the rules', () => {
  test('each hand-made case', async () => {
    for (const each of nasties) await answersWellOverHttp(each);
  });

  test('2 000 generated bodies over HTTP', async () => {
    await fc.assert(fc.asyncProperty(fuzzCase, answersWellOverHttp), { numRuns: 2000 });
  }, 40_000);

  test('50 000 generated bodies through parser, shape and rendering', async () => {
    const reference = aReference();
    const catalogue = new CatalogueAnswers('both');
    const useCases = new TestUseCases();
    const methods = methodsOf(useCases, () => reference, catalogue, localTimeIn('Asia/Almaty'));
    let echoed = 0;
    const property = fc.asyncProperty(fuzzCase, async (each) => {
      const method = methods[each.method]!;
      const read = readCall(method, anAgent, each.body);
      const { body } = read.ok ? await method.answer(read.call, { reqId: null, span: null }) : read.answer;
      answersWell(String(body), each);
      useCases.asked.length = 0;
      if (each.echo !== null) echoed += 1;
    });
    await fc.assert(property, { numRuns: 50_000 });
    // The generator must go on producing what the echo is tested with.
    expect(echoed).toBeGreaterThan(10_000);
  }, 60_000);

  test('what is accepted means what JSON.parse takes it for, and nothing it refuses is accepted', () => {
    const asNumber = (_: string, value: unknown) =>
      value instanceof NumberLiteral ? Number(value.text) : value;
    const property = fc.property(fuzzCase, ({ body }) => {
      const read = parseBody(body);
      if (!read.ok) return;
      const plain = JSON.parse(body.toString().replace(/^\ufeff/, ''));
      assert.equal(JSON.stringify(read.value, asNumber), JSON.stringify(plain));
    });
    fc.assert(property, { numRuns: 10_000 });
  }, 30_000);
});
