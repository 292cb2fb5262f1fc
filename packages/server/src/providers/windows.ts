/** When a provider is closed for maintenance, by its own announcement: once, or by the clock. Pure. */
import { z } from 'zod';
import { localTimeIn } from '../core/time.js';

const clock = z.string().regex(/^([01]\d|2[0-3]):[0-5]\d$/, 'write HH:MM');

/** Once: two moments with their offset. By the clock: from and to in the provider's zone, over midnight too. */
export const windowsShape = z
  .array(
    z.union([
      z.strictObject({ from: z.iso.datetime({ offset: true }), to: z.iso.datetime({ offset: true }) }),
      z.strictObject({
        from: clock,
        to: clock,
        /** Of the beginning; 1: Monday. Absent: every day. */
        days: z.array(z.int().min(1).max(7)).min(1).optional(),
      }),
    ]),
  )
  .max(100);

export type Windows = z.infer<typeof windowsShape>;

const dayMinutes = 24 * 60;

export function isWithin(windows: Windows, zone: string, at: Date): boolean {
  if (windows.length === 0) return false;
  let local: { day: number; minute: number } | null = null;
  return windows.some((window) => {
    if (window.from.length > 5) return at >= new Date(window.from) && at < new Date(window.to);
    local ??= localTime(zone, at);
    const from = minuteOf(window.from);
    // Until the same minute of the next day: a whole day.
    const length = (minuteOf(window.to) - from + dayMinutes - 1) % dayMinutes;
    const since = (local.minute - from + dayMinutes) % dayMinutes;
    if (since > length) return false;
    const began = local.minute >= from ? local.day : ((local.day + 5) % 7) + 1;
    return !('days' in window) || !window.days || window.days.includes(began);
  });
}

function minuteOf(text: string): number {
  return Number(text.slice(0, 2)) * 60 + Number(text.slice(3));
}

function localTime(zone: string, at: Date): { day: number; minute: number } {
  const local = new Date(`${localTimeIn(zone)(at)}Z`);
  return { day: local.getUTCDay() || 7, minute: local.getUTCHours() * 60 + local.getUTCMinutes() };
}
