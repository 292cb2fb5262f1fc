/** How the command prints: aligned tables for people, exact JSON for programs. */
import { stringify } from 'lossless-json';
import { formatMinor, formatRate } from '../core/money.js';

export type Cell = string | number | bigint | boolean | null;

// Control characters and those that turn the direction of writing: names come from outside, a terminal would obey them.
const unprintable = /[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu;

function cellText(cell: Cell): string {
  if (cell === null) return '';
  if (typeof cell === 'boolean') return cell ? 'yes' : 'no';
  return String(cell).replace(unprintable, '?');
}

/** Rows under a line of headings; a column of numbers is aligned to the right. */
export function table(headings: readonly string[], rows: readonly (readonly Cell[])[]): string {
  if (rows.length === 0) return 'none';
  const texts = rows.map((row) => row.map(cellText));
  const widths = headings.map((heading, column) =>
    texts.reduce((width, row) => Math.max(width, row[column]!.length), heading.length),
  );
  const numeric = headings.map((_, column) => texts.every((row) => /^(-?\d+(\.\d+)?)?$/.test(row[column]!)));
  const line = (cells: readonly string[]) =>
    cells
      .map((text, column) =>
        numeric[column] ? text.padStart(widths[column]!) : text.padEnd(widths[column]!),
      )
      .join('  ')
      .trimEnd();
  return [line(headings), ...texts.map(line)].join('\n');
}

/** One thing, a fact a line. */
export function facts(pairs: readonly (readonly [string, Cell])[]): string {
  const width = Math.max(...pairs.map(([name]) => name.length));
  return pairs.map(([name, value]) => `${name.padEnd(width)}  ${cellText(value)}`.trimEnd()).join('\n');
}

/** 12 500 millionths → `1.25` percent. */
export function formatPercent(ppm: number): string {
  const fraction = String(ppm % 10_000)
    .padStart(4, '0')
    .replace(/0+$/, '');
  return fraction === '' ? String(Math.floor(ppm / 10_000)) : `${Math.floor(ppm / 10_000)}.${fraction}`;
}

/**
 * JSON for programs: ids are integers with all their digits; amounts, rates and shares are decimal text under their own
 * name (`availableMinor: 12345n` → `"available": "123.45"`); moments are ISO in UTC.
 */
export function json(value: unknown): string {
  return stringify(outward(value), undefined, 2)!;
}

function outward(value: unknown): unknown {
  if (value instanceof Date) return value.toISOString();
  if (value instanceof Map) return outward([...value.values()]);
  if (Array.isArray(value)) return value.map(outward);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => outwardEntry(key, each)));
}

function outwardEntry(key: string, value: unknown): [string, unknown] {
  if (key.endsWith('Minor') && (typeof value === 'bigint' || value === null)) {
    return [key.slice(0, -'Minor'.length), value === null ? null : formatMinor(value)];
  }
  if (key.endsWith('Ppm') && (typeof value === 'number' || value === null)) {
    return [`${key.slice(0, -'Ppm'.length)}Percent`, value === null ? null : formatPercent(value)];
  }
  if (key.endsWith('E10') && typeof value === 'bigint') return [key.slice(0, -3), formatRate(value)];
  return [key, outward(value)];
}
