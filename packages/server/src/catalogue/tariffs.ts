/** Tariffs: the centre's fees, the agents' rewards, and what an agent may add on top. */
import { z } from 'zod';
import { changing, type Database, type Queryable, Refusal } from '../audit.js';
import type { Tariff, TariffLine } from '../core/catalogue.js';
import { parseAmount } from '../core/money.js';

const linesMax = 20_000;
const problemsShownMax = 20;

/** `"1.5"` percent → 15000 millionths. */
function percent(mostPpm: number) {
  return z.string().transform((text, context) => {
    const match = /^(\d{1,5})(?:\.(\d{1,4}))?$/.exec(text);
    const ppm = match ? Number(match[1]) * 10_000 + Number((match[2] ?? '').padEnd(4, '0')) : Number.NaN;
    if (ppm <= mostPpm) return ppm;
    context.addIssue(`write a share from "0" to "${mostPpm / 10_000}" percent, with at most 4 decimals`);
    return z.NEVER;
  });
}

const amount = z.string().transform((text, context) => {
  const parsed = parseAmount(text);
  if (parsed.ok) return parsed.amountMinor;
  context.addIssue('write an amount such as "200.00"');
  return z.NEVER;
});

const lineShape = z
  .strictObject({
    /** Null: the rule for all services that have no line of their own. */
    serviceId: z.string().nullable(),
    feePercent: percent(1_000_000).default(0),
    feeFixed: amount.default(0n),
    feeMin: amount.default(0n),
    feeMax: amount.nullable().default(null),
    rewardPercent: percent(1_000_000).default(0),
    /** Null: an agent may add any fee of its own. */
    addedMaxPercent: percent(100_000_000).nullable().default(null),
  })
  .transform(
    (line): TariffLine => ({
      serviceId: line.serviceId,
      feePpm: line.feePercent,
      feeFixedMinor: line.feeFixed,
      feeMinMinor: line.feeMin,
      feeMaxMinor: line.feeMax,
      rewardPpm: line.rewardPercent,
      addedMaxPpm: line.addedMaxPercent,
    }),
  );
const tariffShape = z.strictObject({
  tariffId: z.string().regex(/^[\w.-]{1,64}$/, 'write 1 to 64 Latin letters, digits, dots, - and _'),
  name: z.string().min(1).max(200),
  lines: z.array(lineShape).min(1).max(linesMax),
});

/** Reads a tariff from JSON: `{ tariffId, name, lines: [{ serviceId: null, addedMaxPercent: "20" }] }`. */
export function parseTariff(text: string): Tariff {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new Refusal(`The tariff is not JSON (${(error as Error).message}); correct it and set it again.`);
  }
  const parsed = tariffShape.safeParse(json);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues
    .slice(0, problemsShownMax)
    .map((issue) => `  ${issue.path.join('.') || 'the tariff'}: ${issue.message}`);
  throw new Refusal(
    ['The tariff has mistakes, nothing was changed; correct them and set it again:', ...problems].join('\n'),
  );
}

/**
 * Creates a tariff or replaces all its lines. Refuses one without a line for all services, with two lines for one, with
 * bounds that contradict each other or with a service that does not exist.
 */
export async function setTariff(db: Database, tariff: Tariff, operator: string): Promise<Tariff> {
  const { tariffId, name, lines } = tariff;
  const about = `Tariff ${tariffId} was not changed`;
  if (!lines.some((line) => line.serviceId === null)) {
    throw new Refusal(`${about}: it has no line for all services; add one with serviceId null.`);
  }
  const ids = lines.map((line) => line.serviceId);
  if (new Set(ids).size < ids.length) {
    throw new Refusal(`${about}: a service has two lines in it; keep one line for each.`);
  }
  for (const line of lines) {
    if (line.feeMaxMinor !== null && line.feeMaxMinor < line.feeMinMinor) {
      throw new Refusal(
        `${about}: feeMax is below feeMin in the line of ${line.serviceId ?? 'all services'}; correct one of them.`,
      );
    }
  }
  return changing(db, operator, async (tx, audit) => {
    const { rows: strangers } = await tx.query<{ serviceId: string }>(
      `select id as "serviceId" from unnest($1::text[]) as t (id)
       where not exists (select 1 from services s where s.service_id = t.id) limit 1`,
      [ids.filter((id) => id !== null)],
    );
    if (strangers[0]) {
      throw new Refusal(
        `${about}: there is no service "${strangers[0].serviceId}"; correct its line or import the service first.`,
      );
    }
    const before = (await readTariffs(tx, tariffId)).get(tariffId);
    await tx.query(
      `insert into tariffs (tariff_id, name) values ($1, $2)
       on conflict (tariff_id) do update set name = excluded.name`,
      [tariffId, name],
    );
    await tx.query('delete from tariff_lines where tariff_id = $1', [tariffId]);
    await tx.query(
      `insert into tariff_lines (tariff_id, service_id, fee_ppm, fee_fixed_minor, fee_min_minor, fee_max_minor,
         reward_ppm, added_max_ppm)
       select $1, * from unnest($2::text[], $3::integer[], $4::bigint[], $5::bigint[], $6::bigint[], $7::integer[],
         $8::integer[])`,
      [
        tariffId,
        ids,
        lines.map((line) => line.feePpm),
        lines.map((line) => line.feeFixedMinor),
        lines.map((line) => line.feeMinMinor),
        lines.map((line) => line.feeMaxMinor),
        lines.map((line) => line.rewardPpm),
        lines.map((line) => line.addedMaxPpm),
      ],
    );
    await audit('tariff.set', `tariff:${tariffId}`, { from: before ?? null, to: tariff });
    return getTariff(tx, tariffId);
  });
}

/** Every tariff, or the one asked for, the line for all services first. */
export async function readTariffs(db: Queryable, tariffId?: string): Promise<Map<string, Tariff>> {
  const { rows } = await db.query<TariffLine & { tariffId: string; tariffName: string }>(
    `select t.tariff_id as "tariffId", t.name as "tariffName", l.service_id as "serviceId", l.fee_ppm as "feePpm",
       l.fee_fixed_minor as "feeFixedMinor", l.fee_min_minor as "feeMinMinor", l.fee_max_minor as "feeMaxMinor",
       l.reward_ppm as "rewardPpm", l.added_max_ppm as "addedMaxPpm"
     from tariffs t join tariff_lines l using (tariff_id)
     where ($1::text is null or t.tariff_id = $1)
     order by t.tariff_id, l.service_id nulls first`,
    [tariffId ?? null],
  );
  const tariffs = new Map<string, Tariff & { readonly lines: TariffLine[] }>();
  for (const { tariffId: id, tariffName, ...line } of rows) {
    const tariff = tariffs.get(id) ?? { tariffId: id, name: tariffName, lines: [] };
    tariff.lines.push(line);
    tariffs.set(id, tariff);
  }
  return tariffs;
}

/** Refuses an unknown id. */
export async function getTariff(db: Queryable, tariffId: string): Promise<Tariff> {
  const tariff = (await readTariffs(db, tariffId)).get(tariffId);
  if (!tariff) throw new Refusal(`There is no tariff "${tariffId}"; look at the list of tariffs.`);
  return tariff;
}
