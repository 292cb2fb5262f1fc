/** The feed of rates in the form of the National Bank of Kazakhstan: what so many units of a currency cost in KZT. */
import { Client } from 'undici';
import type { FeedRates } from '../core/catalogue.js';
import { parseRate } from '../core/money.js';
import { fetchText } from './fetch-text.js';
import { childOf, type Element, readXml } from './xml.js';

const msMax = 5000;
const connectMsMax = 2000;
const bytesMax = 1024 * 1024;

/** Rejects with a sentence that says what is wrong with the feed. */
export async function fetchRates(feedUrl: string, signal: AbortSignal): Promise<FeedRates> {
  const url = new URL(feedUrl);
  const client = new Client(url.origin, { connect: { timeout: connectMsMax } });
  try {
    return readFeed(await fetchText(client, url, { msMax, bytesMax, signal }));
  } finally {
    await client.destroy();
  }
}

/** All of it or nothing: a feed of which a part cannot be understood is not understood. Throws a sentence. */
export function readFeed(text: string): FeedRates {
  const root = readXml(text);
  if (root?.name !== 'rates') throw new Error('it is not the XML of rates');
  const date = dateOf(textOf(root, 'date'));
  if (date === null) throw new Error('its date is none');
  const prices = new Map<string, { readonly priceE10: bigint; readonly units: bigint }>();
  const items = root.children.filter(({ name }) => name === 'item');
  for (const [index, item] of items.entries()) {
    const currency = textOf(item, 'title');
    const priceE10 = parseRate(textOf(item, 'description'));
    const units = textOf(item, 'quant');
    if (!/^[A-Z]{3}$/.test(currency)) throw new Error(`the currency of its item ${index + 1} is none`);
    if (priceE10 === null) throw new Error(`the rate of ${currency} is no number above zero`);
    if (!/^[1-9]\d{0,6}$/.test(units)) throw new Error(`the quantity of ${currency} is no whole number`);
    if (prices.has(currency)) throw new Error(`it has ${currency} twice`);
    prices.set(currency, { priceE10, units: BigInt(units) });
  }
  if (prices.size === 0) throw new Error('it has no rates');
  return { date, currency: 'KZT', prices };
}

const textOf = (element: Element, name: string): string => childOf(element, name)?.text ?? '';

/** `24.11.2026` → `2026-11-24`; null for a day that there is not. */
function dateOf(text: string): string | null {
  const [, day, month, year] = /^(\d\d)\.(\d\d)\.(\d{4})$/.exec(text) ?? [];
  const date = new Date(`${year}-${month}-${day}T00:00:00Z`);
  const iso = Number.isNaN(date.getTime()) ? '' : date.toISOString().slice(0, 10);
  return iso === `${year}-${month}-${day}` ? iso : null;
}
