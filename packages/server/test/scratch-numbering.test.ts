import { createWriteStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { it } from 'vitest';
import { importPorted, lookUp } from '../src/catalogue/numbering.js';
import { openClient, openPool } from '../src/db/connect.js';
import { freshDatabase } from './support/database.js';
it('x', async () => {
  const database = await freshDatabase();
  const owner = await openClient(database.adminOptions);
  await owner.query(`insert into providers (provider_id, name, connector) values ('p', 'P', 'sandbox')`);
  await owner.query(
    `insert into services (service_id, position, type, name, inputs, provider_id, provider_service_code, currency,
       amount_min_minor, amount_max_minor)
     select id, 1, 0, id, '[]', 'p', id, 'KZT', 1, 100 from unnest(array['P1', 'P2', 'P3']) id`,
  );
  const pool = await openPool(database.appOptions, { max: 1 });
  await owner.query('vacuum analyze numbering_ported, numbering_prefixes, numbering_generation');
  for (let n = 0; n < 10; n += 1) await lookUp(pool, '7000000000');
  const ex = async () => console.log((await pool.query(`explain (analyze) execute numbering_look_up('7000000007', '{7,70}')`)).rows.map((r) => r['QUERY PLAN']).join('\n'));
  await ex();
  await pipeline(function* () {
    for (let n = 0; n < 1_000_000; n += 1) yield `${7_000_000_000 + ((n * 7919) % 1_000_003) * 7},P${(n % 3) + 1}\n`;
  }, createWriteStream('/tmp/million.csv'));
  for (let i = 0; i < 3; i++) {
    const t = performance.now();
    await importPorted(owner, '/tmp/million.csv', 'o', () => {});
    console.log('import', performance.now() - t);
  }
  await ex();
  const times: number[] = [];
  for (let n = 0; n < 2000; n += 1) {
    const phone = String(7_000_000_000 + ((n * 2003 * 7919) % 1_000_003) * 7);
    const askedAt = performance.now();
    await lookUp(pool, phone);
    times.push(performance.now() - askedAt);
  }
  console.log(times.slice(0, 10).map((x) => x.toFixed(2)).join(' '), times.filter((x) => x > 5).length, times.sort((a, b) => a - b)[1000]);
  console.log((await owner.query(`select pg_size_pretty(pg_total_relation_size('numbering_ported')) s, (select count(*) from numbering_ported) c`)).rows);
  await pool.end(); await owner.end(); await database.drop();
});
