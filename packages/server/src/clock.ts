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
