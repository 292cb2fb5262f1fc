/**
 * The numbering plan: which operator's service a phone number belongs to. An import writes a new generation beside the
 * one that serves and switches to it in the same commit; look-ups never wait for it and never see half of it.
 */
import { createReadStream } from 'node:fs';
import { basename } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { from as copyFrom } from 'pg-copy-streams';
import { changing, type Database, type Queryable, Refusal } from '../audit.js';

export interface Imported {
  readonly rows: number;
  readonly generation: number;
}

export type ImportProgress = (progress: { readonly rows: number }) => void;

/** The fewest prefixes that hold just the numbers from `first` to `last`, both of ten digits; none: it is no range. */
function prefixesOf(first: string, last: string): string[] {
  if (first.length < 10 || first > last) return [];
  const found: string[] = [];
  for (let from = Number(first); from <= Number(last); ) {
    let size = 1;
    while (size < 1e9 && from % (size * 10) === 0 && from + size * 10 - 1 <= Number(last)) size *= 10;
    found.push(String(from / size).padStart(11 - String(size).length, '0'));
    from += size;
  }
  return found;
}

/** `line` counts from 1. The key is ready for the table: digits of a prefix, or a number of ten digits. */
interface Row {
  readonly line: number;
  readonly key: string;
  readonly serviceId: string;
}

interface Plan {
  readonly kind: 'prefixes' | 'ported';
  readonly table: string;
  readonly column: 'prefix' | 'phone';
  readonly expects: string;
  /** Empty: malformed. */
  readKeys(text: string): readonly string[];
}

const prefixes: Plan = {
  kind: 'prefixes',
  table: 'numbering_prefixes',
  column: 'prefix',
  expects: 'the first 1 to 10 digits of a number without +7, or a range such as 7010000000-7014999999',
  readKeys: (text) => {
    const [, first, last] = /^(?:\+7)?(\d{1,10})(?:-(?:\+7)?(\d{10}))?$/.exec(text) ?? [];
    if (first === undefined) return [];
    return last === undefined ? [first] : prefixesOf(first, last);
  },
};

const ported: Plan = {
  kind: 'ported',
  table: 'numbering_ported',
  column: 'phone',
  expects: 'a phone number',
  readKeys: (text) => {
    const number = nationalNumber(text);
    return number === null ? [] : [number];
  },
};

const importMsMax = 1_800_000;
const progressEveryRows = 50_000;
const lineLengthMax = 300;
const copyChunkLength = 64 * 1024;
const pagesPerDeletion = 1000;

/**
 * Replaces the prefixes by those of a CSV file `prefix,service_id` (UTF-8; header, CRLF, quotes and blank lines may
 * be). Refuses a malformed or repeated line by its number and an unknown service; then nothing is changed.
 */
export function importPrefixes(
  client: Database,
  csvPath: string,
  operator: string,
  onProgress: ImportProgress = () => {},
): Promise<Imported> {
  return replacePlan(client, prefixes, csvPath, operator, onProgress);
}

/** Replaces the ported numbers by those of a CSV file `phone,service_id`; otherwise as `importPrefixes`. */
export function importPorted(
  client: Database,
  csvPath: string,
  operator: string,
  onProgress: ImportProgress = () => {},
): Promise<Imported> {
  return replacePlan(client, ported, csvPath, operator, onProgress);
}

async function replacePlan(
  db: Database,
  plan: Plan,
  csvPath: string,
  operator: string,
  onProgress: ImportProgress,
): Promise<Imported> {
  const imported = await changing(db, operator, async (tx, audit) => {
    const lock = await tx.query<{ free: boolean; generation: number }>(
      `select pg_try_advisory_xact_lock(hashtextextended('tolem numbering ' || $1, 0)) as free,
         nextval('numbering_generation_seq')::integer as generation`,
      [plan.kind],
    );
    const { free, generation } = lock.rows[0]!;
    if (!free)
      throw new Refusal(`Another import of ${plan.kind} is running; wait for its end and try again.`);

    const rows = await copyIn(tx, plan, csvPath, generation, onProgress);
    if (rows === 0) throw new Refusal(`${basename(csvPath)} holds no rows; nothing was changed.`);
    await tx.query(
      `insert into numbering_generation (kind, generation) values ($1, $2)
       on conflict (kind) do update set generation = excluded.generation, imported_at = now()`,
      [plan.kind, generation],
    );
    await audit('numbering.import', `numbering:${plan.kind}`, { file: basename(csvPath), rows, generation });
    return { rows, generation };
  });
  await deleteBefore(db, plan, imported.generation);
  return imported;
}

async function copyIn(
  tx: Queryable,
  plan: Plan,
  csvPath: string,
  generation: number,
  onProgress: ImportProgress,
): Promise<number> {
  const services = await tx.query<{ id: string }>('select service_id as id from services');
  const escaped = new Map(services.rows.map(({ id }) => [id, id.replace(/[\\\t\n\r]/g, copyEscape)]));
  let rows = 0;

  async function* copyText() {
    let chunk = '';
    for await (const { line, key, serviceId } of readRows(plan, csvPath)) {
      const service = escaped.get(serviceId);
      if (service === undefined) {
        throw refusedLine(csvPath, line, `there is no service "${serviceId}"; import the catalogue first`);
      }
      chunk += `${key}\t${generation}\t${service}\n`;
      rows += 1;
      if (rows % progressEveryRows === 0) onProgress({ rows });
      if (chunk.length >= copyChunkLength) {
        yield chunk;
        chunk = '';
      }
    }
    yield chunk;
  }

  // A file takes as long as it takes, within reason: ordinary statements of the connection may be bounded closer.
  await tx.query(`set local statement_timeout = ${importMsMax}`);
  const stream = copyFrom(`copy ${plan.table} (${plan.column}, generation, service_id) from stdin`);
  const copy = tx.query(Object.assign(stream, { query_timeout: importMsMax }));
  try {
    await pipeline(Readable.from(copyText(), { objectMode: false }), copy);
  } catch (error) {
    throw (await repeatedLine(plan, csvPath, error)) ?? error;
  }
  onProgress({ rows });
  return rows;
}

function copyEscape(character: string): string {
  return `\\${{ '\\': '\\', '\t': 't', '\n': 'n', '\r': 'r' }[character]}`;
}

/** The key of the table finds repetitions and counts rows; the line of the file is found by reading up to it again. */
async function repeatedLine(plan: Plan, csvPath: string, error: unknown): Promise<Refusal | null> {
  const { code, where } = error as { code?: string; where?: string };
  const row = Number(/line (\d+)/.exec(where ?? '')?.[1]);
  if (code !== '23505' || !row) return null;
  let count = 0;
  for await (const { line } of readRows(plan, csvPath)) {
    count += 1;
    if (count === row)
      return refusedLine(csvPath, line, `its ${plan.column} is in an earlier line too; keep one`);
  }
  return null;
}

const csvLine = /^(?:"([^"]*)"|([^",]*))\s*,\s*(?:"([^"]*)"|([^",]*))$/;

async function* readRows(plan: Plan, csvPath: string): AsyncGenerator<Row, void> {
  let line = 0;
  let seen = false;
  for await (const lines of readLines(csvPath)) {
    for (const text of lines) {
      line += 1;
      if (text.length > lineLengthMax) throw refusedLine(csvPath, line, 'it is too long');
      // Takes CR and a byte order mark away too.
      const trimmed = text.trim();
      if (trimmed === '') continue;
      const match = csvLine.exec(trimmed);
      const first = (match?.[1] ?? match?.[2] ?? '').trim();
      const serviceId = match?.[3] ?? match?.[4] ?? '';
      const header = !seen && first.toLowerCase() === plan.column;
      seen = true;
      if (header) continue;
      const keys = plan.readKeys(first);
      if (keys.length === 0 || serviceId === '') {
        throw refusedLine(
          csvPath,
          line,
          `it is not ${plan.column},service_id (${plan.column} is ${plan.expects})`,
        );
      }
      for (const key of keys) yield { line, key, serviceId };
    }
  }
}

/** Lines of a file, some at a time. */
async function* readLines(csvPath: string): AsyncGenerator<string[], void> {
  let rest = '';
  let count = 0;
  for await (const chunk of createReadStream(csvPath, { encoding: 'utf8', highWaterMark: 256 * 1024 })) {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop()!;
    if (rest.length > lineLengthMax) throw refusedLine(csvPath, count + lines.length + 1, 'it is too long');
    count += lines.length;
    yield lines;
  }
  yield [rest];
}

function refusedLine(csvPath: string, line: number, why: string): Refusal {
  return new Refusal(
    `${basename(csvPath)}, line ${line}: ${why}. Nothing was changed; correct the file and import it again.`,
  );
}

/** Deletes what no look-up reads any more, a bounded stretch of the table per commit; also what a crash left before. */
async function deleteBefore(db: Queryable, plan: Plan, generation: number): Promise<void> {
  const size = await db.query<{ pages: number }>(
    `select (pg_relation_size($1::regclass) / current_setting('block_size')::integer)::integer as pages`,
    [plan.table],
  );
  for (let page = 0; page < size.rows[0]!.pages; page += pagesPerDeletion) {
    await db.query(`delete from ${plan.table} where ctid >= $1::tid and ctid < $2::tid and generation < $3`, [
      `(${page},0)`,
      `(${page + pagesPerDeletion},0)`,
      generation,
    ]);
  }
}

export type LookedUp =
  | { readonly kind: 'malformed' }
  | { readonly kind: 'unknown' }
  | { readonly kind: 'found'; readonly serviceId: string };

/** `7777731414` of `7777731414`, `+7 (777) 773-14-14`, `77777731414` and `87777731414`; null for anything else. */
export function nationalNumber(text: string): string | null {
  if (text.length > 40) return null;
  return /^(?:\+7|[78])?(\d{10})$/.exec(text.replace(/[\s()[\]\u2010-\u2015-]/g, ''))?.[1] ?? null;
}

/**
 * The service of the operator that serves a number: a ported number first, then the longest prefix. One query by index.
 */
export async function lookUp(db: Queryable, phoneNumber: string): Promise<LookedUp> {
  const number = nationalNumber(phoneNumber);
  if (number === null) return { kind: 'malformed' };
  // Without a name, so that it is planned each time: a plan kept from before the first import would scan the whole
  // table.
  const { rows } = await db.query<{ serviceId: string }>(
    `select service_id as "serviceId" from (
        select 11 as length, service_id from numbering_ported
        where phone = $1 and generation = (select generation from numbering_generation where kind = 'ported')
        union all
        select length(prefix), service_id from numbering_prefixes
        where prefix = any ($2) and generation = (select generation from numbering_generation where kind = 'prefixes')
      ) found order by length desc limit 1`,
    [number, Array.from(number, (_, index) => number.slice(0, index + 1))],
  );
  return rows[0] ? { kind: 'found', serviceId: rows[0].serviceId } : { kind: 'unknown' };
}

export interface NumberingFacts {
  /** Null: never imported. */
  readonly importedAt: Date | null;
  readonly rows: bigint;
}

/**
 * How much of the numbering plan serves now, and since when. Counts the rows, so it is for people and not for each
 * request.
 */
export async function numberingFacts(db: Queryable): Promise<Record<Plan['kind'], NumberingFacts>> {
  const { rows } = await db.query<NumberingFacts & { kind: Plan['kind'] }>(
    `select kind, imported_at as "importedAt", case kind
       when 'prefixes' then (select count(*) from numbering_prefixes p where p.generation = g.generation)
       else (select count(*) from numbering_ported p where p.generation = g.generation) end as rows
     from numbering_generation g`,
  );
  const of = (kind: Plan['kind']): NumberingFacts => {
    const row = rows.find((each) => each.kind === kind);
    return { importedAt: row?.importedAt ?? null, rows: row?.rows ?? 0n };
  };
  return { prefixes: of('prefixes'), ported: of('ported') };
}
