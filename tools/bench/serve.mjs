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

async function delayed(providerId) {
  const ms = delays.get(providerId);
  if (ms > 0) await new Promise((done) => setTimeout(done, ms));
}

function answer(call, outcome) {
  const startedAt = new Date().toISOString();
  return {
    outcome,
    record: { call, startedAt, durationMs: 0, httpStatus: 200, outcome: outcome.kind, detail: null },
  };
}

await main({
  demo: false,
  wrapSender: (sender) => ({
    ...sender,
    check: async (providerId, inquiry) => {
      if (!delays.has(providerId)) return sender.check(providerId, inquiry);
      await delayed(providerId);
      return answer('check', { kind: 'ok' });
    },
    pay: async (providerId, order, sendBefore) => {
      if (!delays.has(providerId)) return sender.pay(providerId, order, sendBefore);
      await delayed(providerId);
      return answer('pay', executed);
    },
    status: async (providerId, order) =>
      delays.has(providerId) ? answer('status', executed) : sender.status(providerId, order),
    offers: (providerId) => (delays.has(providerId) ? offers : sender.offers(providerId)),
    callMsMax: (providerId) => (delays.has(providerId) ? 0 : sender.callMsMax(providerId)),
  }),
});
