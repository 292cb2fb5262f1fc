/** Less than this is the two clocks' own unevenness: the wall clock is read in whole milliseconds and is slewed. */
const leapMsMin = 50;

let leapsMs = 0;
let lastSkewMs = Date.now() - performance.now();

/**
 * Milliseconds that never go back and also count while the machine sleeps, which `performance.now()` does not: by it,
 * a machine that was suspended would believe that its leases still run. A wall clock that is set forward counts as
 * sleep, which only makes the process give up its leases too early.
 */
export function elapsedMs(): number {
  const nowMs = performance.now();
  const skewMs = Date.now() - nowMs;
  if (skewMs - lastSkewMs > leapMsMin) leapsMs += skewMs - lastSkewMs;
  lastSkewMs = skewMs;
  return nowMs + leapsMs;
}

/** Rejects with what `late` makes when the work is not done in time; the work goes on, and fails unheard then. */
export function within<T>(
  ms: number,
  work: Promise<T>,
  late = () => new Error(`no answer within ${ms} ms`),
): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(late()), ms);
    work.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
