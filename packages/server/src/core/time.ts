/** Local times. Pure: zones are the runtime's data. */

/** Whether the runtime knows a zone of that name, `Asia/Almaty` for one. */
export function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: name });
    return true;
  } catch {
    return false;
  }
}

const slotMs = 900_000;
const slotsKept = 1000;

/**
 * Prints moments as the zone's local time, `2020-10-19T20:19:23.737`. Offsets change only at quarters of an hour, so
 * the zone data are asked once a quarter. Throws a RangeError for an unknown zone.
 */
export function localTimeIn(zone: string): (moment: Date) => string {
  const offsets = new Intl.DateTimeFormat('en-US', { timeZone: zone, timeZoneName: 'longOffset' });
  const offsetMsBySlot = new Map<number, number>();

  return (moment) => {
    const slot = Math.floor(moment.getTime() / slotMs);
    let offsetMs = offsetMsBySlot.get(slot);
    if (offsetMs === undefined) {
      if (offsetMsBySlot.size >= slotsKept) offsetMsBySlot.clear();
      offsetMs = offsetOf(offsets, new Date(slot * slotMs));
      offsetMsBySlot.set(slot, offsetMs);
    }
    return new Date(moment.getTime() + offsetMs).toISOString().slice(0, -1);
  };
}

/** `GMT+06:00` → 21 600 000; `GMT` → 0. */
function offsetOf(format: Intl.DateTimeFormat, moment: Date): number {
  const name = format.formatToParts(moment).find((part) => part.type === 'timeZoneName')!.value;
  const match = /([+-])(\d\d):(\d\d)(?::(\d\d))?$/.exec(name);
  if (!match) return 0;
  const seconds = Number(match[2]) * 3600 + Number(match[3]) * 60 + Number(match[4] ?? 0);
  return (match[1] === '-' ? -seconds : seconds) * 1000;
}
