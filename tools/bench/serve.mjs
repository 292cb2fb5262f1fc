/**
 * The centre with one provider that is measured along with nothing: `bench-instant` answers inside the process, at
 * once. Every rule, row and commit of a payment is there; only the call over the network is not.
 */
import { main } from '../../packages/server/dist/main.js';

const offers = { deduplicates: false, status: true, notFoundTrustedAfterMs: null };
const executed = { kind: 'executed', reference: 'instant' };

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
    check: async (providerId, inquiry) =>
      providerId === 'bench-instant' ? answer('check', { kind: 'ok' }) : sender.check(providerId, inquiry),
    pay: async (providerId, order, sendBefore) =>
      providerId === 'bench-instant' ? answer('pay', executed) : sender.pay(providerId, order, sendBefore),
    status: async (providerId, order) =>
      providerId === 'bench-instant' ? answer('status', executed) : sender.status(providerId, order),
    offers: (providerId) => (providerId === 'bench-instant' ? offers : sender.offers(providerId)),
    callMsMax: (providerId) => (providerId === 'bench-instant' ? 0 : sender.callMsMax(providerId)),
  }),
});
