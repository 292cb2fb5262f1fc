/**
 * The centre with providers that are measured along with nothing, since they answer inside the process: `bench-instant`
 * at once, `bench-late` after 50 ms. Every rule, row and commit of a payment is there; only the call over the network is
 * not.
 */
import { main } from '../../packages/server/dist/main.js';

const offers = { deduplicates: false, status: true, notFoundTrustedAfterMs: null };
const executed = { kind: 'executed', reference: 'instant' };

const delays = new Map([
  ['bench-instant', 0],
  ['bench-late', 50],
]);

async function answer(providerId, call, outcome) {
  const startedAt = new Date().toISOString();
  const durationMs = delays.get(providerId);
  if (durationMs > 0) await new Promise((done) => setTimeout(done, durationMs));
  return {
    outcome,
    record: { call, startedAt, durationMs, httpStatus: 200, outcome: outcome.kind, detail: null },
  };
}

await main({
  demo: false,
  wrapSender: (sender) => ({
    ...sender,
    check: (providerId, inquiry) =>
      delays.has(providerId)
        ? answer(providerId, 'check', { kind: 'ok' })
        : sender.check(providerId, inquiry),
    pay: (providerId, order, sendBefore) =>
      delays.has(providerId)
        ? answer(providerId, 'pay', executed)
        : sender.pay(providerId, order, sendBefore),
    status: (providerId, order) =>
      delays.has(providerId) ? answer(providerId, 'status', executed) : sender.status(providerId, order),
    offers: (providerId) => (delays.has(providerId) ? offers : sender.offers(providerId)),
    callMsMax: (providerId) => delays.get(providerId) ?? sender.callMsMax(providerId),
  }),
});
