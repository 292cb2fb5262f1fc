/** Rates: exact arithmetic and its rounding, validity and age, files, and the feed. */
import { readFileSync } from 'node:fs';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Refusal } from '../src/audit.js';
import { followFeed, readFeedState } from '../src/catalogue/feed.js';
import {
  direct,
  importRates,
  inverse,
  listRateHistory,
  parseRates,
  ratesAt,
  ratesOf,
  rateTeller,
  readRates,
  readSchedule,
  setPair,
  setRate,
} from '../src/catalogue/rates.js';
import { convert, formatRate, parseRate, rateScale, soldRate } from '../src/core/money.js';
import { fetchRates, readFeed } from '../src/providers/rates-feed.js';
import { openCentre, payRequest } from './support/centre.js';
import { freshDatabase, type TestDatabase } from './support/database.js';

const by = 'operator';
const feedXml = readFileSync(join(import.meta.dirname, 'fixtures/rates-feed.xml'), 'utf8');
const kzt = (toCurrency: string) => ({ fromCurrency: 'KZT', toCurrency });

class Lines {
  readonly told: string[] = [];
  info = (facts: object, message: string) => void this.told.push(`${message} ${JSON.stringify(facts)}`);
  warn = this.info;
  error = this.info;
}

describe('the rounding that docs/rates.md writes down', () => {
  const price = fc.bigInt({ min: 1n, max: 100_000n * rateScale });
  const marginPpm = fc.integer({ min: 0, max: 1_000_000 });
  const amountMinor = fc.bigInt({ min: 1n, max: 999_999_999_999_999n });
  const rateE10 = fc.bigInt({ min: 1n, max: 1000n * rateScale });

  test.each([
    ['840.00 at 1/480 are 1.75', 84_000n, '0.0020833333', 175n],
    ['what is short by more than the cut is cut', 83_999n, '0.0020833333', 174n],
    ['half a minor unit is none', 5n, '0.1', 0n],
    ['nine tenths of one are none', 9n, '0.1', 0n],
    ['a whole one is one', 10n, '0.1', 1n],
    ['1.50 at 1/1.5 are 1.00', 150n, '0.6666666666', 100n],
    ['one for one stays itself, however much it is', 999_999_999_999_999n, '1', 999_999_999_999_999n],
  ])('%s', (_, amount, rate, expected) => {
    expect(convert(amount, parseRate(rate)!)).toBe(expected);
  });

  test.each([
    ['480', 0, '0.0020833333'],
    ['480', 15_000, '0.0020525451'],
    ['1.5', 0, '0.6666666666'],
    ['0.5', 1_000_000, '1.00'],
  ])('at %s for one and a margin of %i millionths the rate is %s', (costs, margin, rate) => {
    expect(formatRate(ratesOf(inverse(parseRate(costs)!), margin)!.rateE10)).toBe(rate);
  });

  test('a rate is never above the exact one, and less than a tenth decimal below it', () => {
    fc.assert(
      fc.property(price, price, marginPpm, (numerator, denominator, margin) => {
        const rate = soldRate(numerator, denominator, margin);
        const exact = numerator * rateScale * 1_000_000n;
        const dearer = denominator * BigInt(1_000_000 + margin);
        expect(rate * dearer <= exact).toBe(true);
        expect((rate + 1n) * dearer > exact).toBe(true);
      }),
    );
  });

  test('an amount is rounded down, but for what the cut of the rate took, and that is below half a minor unit', () => {
    fc.assert(
      fc.property(amountMinor, rateE10, (amount, rate) => {
        const got = convert(amount, rate);
        expect(got >= (amount * rate) / rateScale).toBe(true);
        expect(got * rateScale < amount * (rate + 1n)).toBe(true);
        expect((got * rateScale - amount * rate) * 2n <= rateScale).toBe(true);
      }),
    );
  });

  test('with a margin the centre never sells below the market, in exact arithmetic', () => {
    fc.assert(
      fc.property(
        price,
        fc.integer({ min: 100, max: 1_000_000 }),
        amountMinor,
        (costsE10, margin, amount) => {
          const got = convert(amount, soldRate(rateScale, costsE10, margin));
          // Beyond 50 000 000.00 half a minor unit may be given, as the rule says.
          const allowed = amount <= 5_000_000_000n ? 0n : costsE10 / 2n;
          expect(got * costsE10 <= amount * rateScale + allowed).toBe(true);
        },
      ),
    );
  });

  test('who pays a whole number of what one costs gets that whole number', () => {
    fc.assert(
      fc.property(
        fc.bigInt({ min: 1n, max: 100_000_00n }),
        fc.bigInt({ min: 1n, max: 10_000n }),
        (costsMinor, count) => {
          const rate = soldRate(rateScale, (costsMinor * rateScale) / 100n, 0);
          const amount = costsMinor * count;
          fc.pre(amount <= 5_000_000_000n);
          expect(convert(amount, rate)).toBe(count * 100n);
        },
      ),
    );
  });

  test('more for more: the amount and the rate', () => {
    fc.assert(
      fc.property(amountMinor, amountMinor, rateE10, (one, other, rate) => {
        const [less, more] = one < other ? [one, other] : [other, one];
        expect(convert(less, rate) <= convert(more, rate)).toBe(true);
        expect(convert(one, rate) <= convert(one, rate + 1n)).toBe(true);
      }),
    );
  });
});

describe('rates in the database', () => {
  let database: TestDatabase;
  let pool: pg.Pool;
  let owner: pg.Pool;

  beforeAll(async () => {
    database = await freshDatabase();
    pool = new pg.Pool({ ...database.appOptions, max: 4 });
    owner = new pg.Pool({ ...database.adminOptions, max: 2 });
    pool.on('error', () => {});
    owner.on('error', () => {});
  });
  afterAll(async () => {
    await pool?.end();
    await owner?.end();
    await database?.drop();
  });
  beforeEach(async () => {
    await owner.query('truncate rates, rate_pairs');
    await owner.query(`update rate_feed set next_at = now(), tried_at = null, read_at = null, feed_date = null,
      problem = null, held = '{}'`);
  });

  const rateOf = async (toCurrency: string) =>
    (await readRates(pool)).find((each) => each.toCurrency === toCurrency);

  test('the margin of the pair is in the next rate, and the history has both', async () => {
    await setRate(pool, { ...kzt('USD'), ...inverse(parseRate('480')!) }, by);
    await setPair(pool, kzt('USD'), { marginPpm: 15_000 }, by);
    expect((await rateOf('USD'))!.rateE10).toBe(20_833_333n);
    await setRate(pool, { ...kzt('USD'), ...inverse(parseRate('480')!) }, by);
    expect(await rateOf('USD')).toMatchObject({
      rateE10: 20_525_451n,
      marketE10: 20_833_333n,
      marginPpm: 15_000,
      source: 'hand',
      tooOld: false,
      ageMaxS: null,
    });
    expect((await listRateHistory(pool, 10)).map((each) => each.rateE10)).toEqual([20_525_451n, 20_833_333n]);
  });

  test('a rate may begin later and not earlier', async () => {
    await setRate(pool, { ...kzt('USD'), ...direct(100n) }, by);
    const later = new Date(Date.now() + 3_600_000);
    await setRate(pool, { ...kzt('USD'), ...direct(200n), validFrom: later }, by);
    expect((await rateOf('USD'))!.rateE10).toBe(100n);
    const past = new Date(Date.now() - 60_000);
    await expect(setRate(pool, { ...kzt('USD'), ...direct(1n), validFrom: past }, by)).rejects.toThrow(
      /past/,
    );

    const schedule = await readSchedule(pool);
    const now = ratesAt(schedule, 0);
    expect(now.rates.get('KZT/USD')).toBe(100n);
    expect(now.untilMs).toBeGreaterThan(3_590_000);
    expect(ratesAt(schedule, now.untilMs).rates.get('KZT/USD')).toBe(200n);
    expect(ratesAt(schedule, now.untilMs).untilMs).toBe(Number.POSITIVE_INFINITY);
  });

  test('a rate becomes too old, by itself and by a shorter bound, and one that follows it does not', async () => {
    await setPair(pool, kzt('USD'), { ageMaxS: 7200 }, by);
    await setRate(pool, { ...kzt('USD'), ...direct(100n) }, by);
    const later = new Date(Date.now() + 3_600_000);
    await setRate(pool, { ...kzt('USD'), ...direct(200n), validFrom: later }, by);
    const schedule = await readSchedule(pool);
    const at = (hours: number) => ratesAt(schedule, hours * 3_600_000).rates.get('KZT/USD');
    expect([at(0), at(0.9), at(1.1), at(2.9), at(3.1)]).toEqual([100n, 100n, 200n, 200n, 'too_old']);

    await setPair(pool, kzt('USD'), { ageMaxS: 1 }, by);
    await owner.query(`update rates set quoted_at = quoted_at - interval '1 hour' where rate_e10 = 100`);
    expect(await rateOf('USD')).toMatchObject({ tooOld: true, ageS: 3600, ageMaxS: 1 });
    expect(ratesAt(await readSchedule(pool), 0).rates.get('KZT/USD')).toBe('too_old');
  });

  test('rows of before this are rates of their moment, without a margin', async () => {
    await pool.query(
      `insert into rates (from_currency, to_currency, rate_e10, operator) values ('KZT', 'USD', 5, 'old')`,
    );
    expect(await rateOf('USD')).toMatchObject({ rateE10: 5n, marketE10: 5n, marginPpm: 0, tooOld: false });
  });

  test('too old is said once, and so is that it is over', () => {
    const lines = new Lines();
    const tell = rateTeller(lines);
    tell(new Map([['KZT/USD', 1n]]));
    tell(new Map([['KZT/USD', 'too_old']]));
    tell(new Map([['KZT/USD', 'too_old']]));
    tell(new Map([['KZT/USD', 2n]]));
    tell(new Map([['KZT/USD', 2n]]));
    expect(lines.told.map((line) => /too old|again/.exec(line)?.[0])).toEqual(['too old', 'again']);
  });

  describe('files', () => {
    test.each([
      ['CSV', 'from,to,inverse,rate,valid_from\nKZT,USD,480,,\r\n\nKZT,EUR,,0.0019,\n'],
      ['CSV in another order', '\uFEFFrate;to;from;inverse\n;USD;KZT;"480"\n0.0019;EUR;KZT;\n'],
      [
        'JSON',
        '[{"from":"KZT","to":"USD","inverse":"480"},{"from":"KZT","to":"EUR","rate":"0.0019","valid_from":""}]',
      ],
    ])('%s is taken', async (_, text) => {
      await importRates(pool, text, by);
      expect(
        (await readRates(pool)).map(({ toCurrency, rateE10, source }) => [toCurrency, rateE10, source]),
      ).toEqual([
        ['EUR', 19_000_000n, 'file'],
        ['USD', 20_833_333n, 'file'],
      ]);
    });

    test.each([
      ['a wrong number', 'from,to,rate\nKZT,USD,0.002\nKZT,EUR,0,002\n', /line 3/],
      ['a number that is none', 'from,to,rate\nKZT,EUR,2e-3\n', /line 2, rate/],
      ['a rate of zero', 'from,to,rate\nKZT,EUR,0\n', /line 2, rate/],
      ['both ways', 'from,to,rate,inverse\nKZT,EUR,1,1\n', /line 2: give the rate or/],
      ['neither', 'from,to,rate\nKZT,EUR,\n', /line 2: give the rate or/],
      ['one currency', 'from,to,rate\nKZT,KZT,1\n', /line 2: name two/],
      ['no currency', 'from,to,rate\nkzt,USD,1\n', /line 2, from/],
      ['a pair twice', 'from,to,rate\nKZT,USD,1\nKZT,USD,2\n', /line 3: KZT\/USD is there twice/],
      ['an unknown column', 'from,to,course\nKZT,USD,1\n', /header/],
      ['nothing', 'from,to,rate\n', /no rates/],
      ['a number of JSON', '[{"from":"KZT","to":"USD","rate":0.002}]', /rate 1, rate/],
      [
        'a moment without its offset',
        '[{"from":"KZT","to":"USD","rate":"1","valid_from":"2030-01-01T00:00"}]',
        /valid_from/,
      ],
      ['what is no JSON', '[{', /not JSON/],
    ])('%s is refused whole', async (_, text, message) => {
      await expect(importRates(pool, text, by)).rejects.toThrow(message);
      await expect(importRates(pool, text, by)).rejects.toThrow(Refusal);
      expect(await listRateHistory(pool, 10)).toEqual([]);
    });

    test('one rate that the database refuses takes the others with it', async () => {
      const text = 'from,to,rate,valid_from\nKZT,USD,0.002,\nKZT,EUR,0.002,2020-01-01T00:00:00Z\n';
      expect(parseRates(text)).toHaveLength(2);
      await expect(importRates(pool, text, by)).rejects.toThrow(/KZT\/EUR would begin in the past/);
      expect(await listRateHistory(pool, 10)).toEqual([]);
    });
  });

  describe('the feed', () => {
    let server: Server;
    let url: string;
    let answer: (response: ServerResponse) => void;
    let asked = 0;
    const lines = new Lines();
    const open = new Set<ServerResponse>();

    beforeAll(async () => {
      server = createServer((_, response) => {
        asked += 1;
        open.add(response);
        response.on('close', () => open.delete(response));
        answer(response);
      });
      await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
      url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/rss/rates_all.xml`;
    });
    afterAll(async () => {
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    });
    beforeEach(() => {
      asked = 0;
      lines.told.length = 0;
    });
    afterEach(() => {
      for (const response of open) response.destroy();
    });

    const today = new Intl.DateTimeFormat('sv', { timeZone: 'Asia/Almaty' });
    const day = (ahead: number) => today.format(Date.now() + ahead * 86_400_000);
    const dotted = (date: string) => date.split('-').reverse().join('.');
    /** The file of the fixture of another day. */
    const of = (ahead: number, change: (xml: string) => string = (xml) => xml) => {
      const xml = change(feedXml.replace('24.11.2026', dotted(day(ahead))));
      answer = (response) => response.end(xml);
    };
    const fetchOnce = async (signal = new AbortController().signal) => {
      await owner.query('update rate_feed set next_at = now()');
      await followFeed({
        pool,
        everyMs: 3_600_000,
        log: lines,
        signal,
        read: (stop) => fetchRates(url, stop),
      });
      return readFeedState(pool);
    };
    const follow = (toCurrency: string, marginPpm = 0) =>
      setPair(pool, kzt(toCurrency), { fed: true, marginPpm }, by);

    test('moves the pairs that follow it, with their margins and quantities, both ways round', async () => {
      await follow('USD', 15_000);
      await follow('UZS');
      await setPair(pool, { fromCurrency: 'USD', toCurrency: 'KZT' }, { fed: true }, by);
      of(0);
      expect(await fetchOnce()).toMatchObject({ problem: null, held: {}, feedDate: day(0) });
      expect(
        (await readRates(pool)).map((each) => [each.fromCurrency, each.toCurrency, formatRate(each.rateE10)]),
      ).toEqual([
        ['KZT', 'USD', '0.0019308607'],
        ['KZT', 'UZS', '23.419203747'],
        ['USD', 'KZT', '510.25'],
      ]);
      const usd = (await rateOf('USD'))!;
      expect(usd).toMatchObject({ source: 'feed', operator: 'feed', marketE10: 19_598_236n });
      expect(usd.quotedAt.toISOString()).toBe(new Date(`${day(0)}T00:00:00+05:00`).toISOString());
      expect(usd.validFrom.getTime()).toBeGreaterThan(Date.now() - 60_000);
    });

    test('adds nothing for the same figures again, and takes a correction and a new margin', async () => {
      await follow('USD');
      of(0);
      await fetchOnce();
      await fetchOnce();
      expect(await listRateHistory(pool, 10)).toHaveLength(1);
      of(0, (xml) => xml.replace('510.25', '511'));
      await fetchOnce();
      expect((await rateOf('USD'))!.rateE10).toBe(soldRate(1n, 511n, 0));
      await follow('USD', 10_000);
      await fetchOnce();
      expect((await rateOf('USD'))!.rateE10).toBe(soldRate(1n, 511n, 10_000));
      expect(await listRateHistory(pool, 10)).toHaveLength(3);
    });

    test('of a day to come is valid from that day on', async () => {
      await follow('USD');
      of(0);
      await fetchOnce();
      of(1, (xml) => xml.replace('510.25', '515'));
      await fetchOnce();
      expect((await rateOf('USD'))!.rateE10).toBe(soldRate(4n, 2041n, 0));
      const schedule = await readSchedule(pool);
      expect(ratesAt(schedule, 86_400_000).rates.get('KZT/USD')).toBe(soldRate(1n, 515n, 0));
    });

    test('does not undo what people set on its day, and goes on the day after', async () => {
      await follow('USD');
      await setRate(pool, { ...kzt('USD'), ...inverse(parseRate('505')!) }, by);
      of(0);
      expect(await fetchOnce()).toMatchObject({ problem: null, held: {} });
      expect((await rateOf('USD'))!.source).toBe('hand');
      of(1);
      await fetchOnce();
      expect((await listRateHistory(pool, 1))[0]).toMatchObject({ source: 'feed' });
    });

    test.each<[string, (response: ServerResponse) => void, RegExp]>([
      ['another status', (response) => response.writeHead(503).end(feedXml), /HTTP 503/],
      ['a redirect', (response) => response.writeHead(302, { location: '/' }).end(), /HTTP 302/],
      ['a page that is no XML', (response) => response.end('<html><br></html>'), /not the XML/],
      ['an empty answer', (response) => response.end(), /not the XML/],
      ['a file that breaks off', (response) => response.end(feedXml.slice(0, -40)), /not the XML/],
      [
        'a connection that breaks off',
        (response) => {
          response.writeHead(200, { 'content-length': '9999' });
          response.write(feedXml, () => response.destroy());
        },
        /connection failed/,
      ],
      ['a DTD', (response) => response.end(`<!DOCTYPE x [<!ENTITY a "b">]>${feedXml}`), /not the XML/],
      ['too much', (response) => response.end('x'.repeat(2_000_000)), /longer than 1048576/],
      [
        'bytes that are no UTF-8',
        (response) => response.end(Buffer.from([0x3c, 0xff, 0xfe])),
        /cannot be read/,
      ],
    ])('%s changes nothing and is told once', async (_, reply, problem) => {
      await follow('USD');
      of(0);
      await fetchOnce();
      const before = await listRateHistory(pool, 10);
      answer = reply;
      const state = await fetchOnce();
      expect(state.problem).toMatch(problem);
      await fetchOnce();
      expect(lines.told).toHaveLength(1);
      expect(await listRateHistory(pool, 10)).toEqual(before);
      // Tried again sooner than after a good one.
      expect(state.nextAt.getTime() - Date.now()).toBeLessThan(310_000);
      of(0);
      expect(await fetchOnce()).toMatchObject({ problem: null });
      expect(lines.told).toHaveLength(2);
    });

    test.each<[string, (xml: string) => string, RegExp]>([
      ['no number', (xml) => xml.replace('4.27', '4,27'), /rate of UZS/],
      ['zero', (xml) => xml.replace('4.27', '0.00'), /rate of UZS/],
      ['a negative number', (xml) => xml.replace('4.27', '-4.27'), /rate of UZS/],
      ['no quantity', (xml) => xml.replace('<quant>100</quant>', ''), /quantity of UZS/],
      [
        'two figures',
        (xml) => xml.replace('<quant>100', '<description>5</description><quant>100'),
        /rate of UZS/,
      ],
      ['a currency twice', (xml) => xml.replace('EUR', 'USD'), /USD twice/],
      ['no currency', (xml) => xml.replace('EUR', 'euro'), /item 2/],
      ['no items', (xml) => xml.replace(/<item>[\s\S]*<\/item>/, ''), /no rates/],
      ['no date', (xml) => xml.replace(/<date>.*<\/date>/, ''), /date/],
      [
        'a day that there is not',
        (xml) => xml.replace(/<date>.*<\/date>/, '<date>31.02.2026</date>'),
        /date/,
      ],
      ['another root', (xml) => xml.replace(/rates>/g, 'rss>'), /not the XML/],
    ])('a file with %s is not understood at all', (_, change, message) => {
      expect(() => readFeed(change(feedXml))).toThrow(message);
    });

    test('one wrong item keeps all pairs as they are', async () => {
      await follow('USD');
      of(0, (xml) => xml.replace('4.27', ''));
      expect((await fetchOnce()).problem).toMatch(/UZS/);
      expect(await listRateHistory(pool, 10)).toEqual([]);
    });

    test('a date before the last one and one far ahead change nothing', async () => {
      await follow('USD');
      of(0);
      await fetchOnce();
      of(-1, (xml) => xml.replace('510.25', '500'));
      expect((await fetchOnce()).problem).toBe(`it is of ${day(-1)}, and was of ${day(0)} before`);
      of(30, (xml) => xml.replace('510.25', '500'));
      expect((await fetchOnce()).problem).toMatch(/too far ahead/);
      expect(await listRateHistory(pool, 10)).toHaveLength(1);
    });

    test('a jump waits for people, and the other pairs go on', async () => {
      await follow('USD');
      await follow('EUR');
      of(0);
      await fetchOnce();
      of(1, (xml) => xml.replace('510.25', '560').replace('589.34', '590'));
      const state = await fetchOnce();
      expect(state.problem).toBeNull();
      expect(state.held).toEqual({ 'KZT/USD': `on ${day(1)} it jumps by more than 5 percent` });
      await fetchOnce();
      expect(lines.told).toHaveLength(1);
      const history = await listRateHistory(pool, 10);
      expect(history.map(({ toCurrency }) => toCurrency).sort()).toEqual(['EUR', 'EUR', 'USD']);

      await setPair(pool, kzt('USD'), { jumpMaxPpm: 100_000 }, by);
      expect((await fetchOnce()).held).toEqual({});
      expect(await listRateHistory(pool, 10)).toHaveLength(4);
    });

    test('a currency that is not in it is told, and does not stop the others', async () => {
      await follow('CHF');
      await follow('USD');
      of(0);
      expect((await fetchOnce()).held).toEqual({ 'KZT/CHF': 'the feed does not have it' });
      expect(await readRates(pool)).toHaveLength(1);
    });

    test('of many processes one fetches, and none before it is time', async () => {
      of(0);
      await follow('USD');
      const all = () =>
        Promise.all(
          Array.from({ length: 8 }, () =>
            followFeed({
              pool,
              everyMs: 3_600_000,
              log: lines,
              signal: new AbortController().signal,
              read: (stop) => fetchRates(url, stop),
            }),
          ),
        );
      await all();
      await all();
      expect(asked).toBe(1);
      expect(await listRateHistory(pool, 10)).toHaveLength(1);
    });

    test('a silent feed is given up in 5 s', async () => {
      answer = () => {};
      const startedAt = performance.now();
      expect((await fetchOnce()).problem).toBe('no whole answer within 5000 ms');
      expect(performance.now() - startedAt).toBeLessThan(8000);
    });

    test('a process that leaves gives the fetch to another one and tells no trouble', async () => {
      const leaving = new AbortController();
      answer = () => leaving.abort();
      const state = await fetchOnce(leaving.signal);
      expect(state.problem).toBeNull();
      expect(lines.told).toEqual([]);
      expect(state.nextAt.getTime()).toBeLessThanOrEqual(Date.now() + 1000);
    });

    test('a centre fetches by itself, and sells by what it fetched', async () => {
      const centre = await openCentre({ parts: { ratesFeed: { url, everyMs: 3_600_000 } } });
      try {
        await setPair(centre.pool, kzt('USD'), { fed: true, jumpMaxPpm: 500_000 }, by);
        await centre.owner.query(
          `update rates set valid_from = valid_from - interval '3 days', quoted_at = quoted_at - interval '3 days'`,
        );
        await centre.owner.query('update rate_feed set next_at = now()');
        of(0);
        const second = await centre.start();
        await expect
          .poll(async () => {
            await centre.watch.refresh();
            return centre.watch.current().reference.rates.get('KZT/USD');
          })
          .toBe(soldRate(4n, 2041n, 0));
        await second.stop();
      } finally {
        await centre.close();
      }
    });
  });
});

describe('a rate that is too old', () => {
  let centre: Awaited<ReturnType<typeof openCentre>>;
  beforeAll(async () => {
    centre = await openCentre();
  });
  afterAll(() => centre?.close());

  const game = () => payRequest({ serviceId: 'P2001', account: 'player1', amountToMinor: 84_000n });

  test('stops check and pay with a clear reason, within its second and without a notice; a quote is honoured', async () => {
    const quoted = game();
    expect((await centre.check(quoted)).shown?.conversion).toMatchObject({ finalAmountMinor: 175n });
    await centre.owner.query(`update services set inquiry_required = false where service_id = 'P2001'`);
    await setPair(centre.pool, kzt('USD'), { ageMaxS: 3600 }, by);
    await centre.owner.query(`update rates set quoted_at = now() - interval '3598 s'`);
    await centre.owner.query('update reference_version set version = version + 1');
    await centre.watch.refresh();
    expect((await centre.pay(game())).code).toBe(0);

    await expect
      .poll(() => centre.watch.current().reference.rates.get('KZT/USD'), { timeout: 4000, interval: 20 })
      .toBe('too_old');
    const executed = (await centre.sandbox.registry()).length;
    const refused = game();
    expect(await centre.pay(refused)).toMatchObject({ code: 300, reason: 'rate_too_old|KZT/USD' });
    expect(await centre.check(game())).toMatchObject({ code: 300, reason: 'rate_too_old|KZT/USD' });
    expect((await centre.pay(payRequest())).code).toBe(0);
    expect((await centre.sandbox.registry()).length).toBe(executed + 1);

    const paid = await centre.pay(quoted);
    expect(paid.code).toBe(0);
    expect(paid.shown?.conversion).toMatchObject({ rateE10: 20_833_333n, finalAmountMinor: 175n });
    expect(await centre.executed(quoted.agentTransactionId)).toBe(1);

    await setRate(centre.pool, { ...kzt('USD'), ...inverse(parseRate('500')!) }, by);
    await centre.watch.refresh();
    expect((await centre.pay(game())).shown?.conversion).toMatchObject({ finalAmountMinor: 168n });
    expect(await centre.pay(refused)).toMatchObject({ code: 300, reason: 'rate_too_old|KZT/USD' });
  });

  test('after the time of the quote it is not honoured', async () => {
    const quoted = game();
    await centre.check(quoted);
    await centre.owner.query(`update rates set quoted_at = now() - interval '2 hours'`);
    await centre.owner.query(`update quotes set expires_at = now() - interval '1 s'`);
    await centre.owner.query('update reference_version set version = version + 1');
    await centre.watch.refresh();
    expect((await centre.pay(quoted)).code).toBe(300);
  });
});
