/**
 * Forward-only migrations: `sql/NNNN_name.sql`, each in one transaction together with the row that records it.
 * Own lines and not a library's: what matters here (the checksum of what ran, in the same transaction; refusing a
 * database from the future; one query when there is nothing to do) would have to be built around one.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { SetupError } from '../config.js';
import { openClient } from './connect.js';

interface Applied {
  readonly name: string;
  readonly checksum: string;
}

interface Migration extends Applied {
  readonly sql: string;
}

/** Any number will do, as long as every build takes the same. */
const lockId = 7_405_662_020;
const othersWait = '10min';
/** For a table that is in use: long enough that an autovacuum is sent away, shorter than agents are patient. */
const tableWait = '1500ms';
const againMsMax = 2000;
const attemptsMax = 100;

/**
 * Brings the database to the state of `directory` and returns the names of what ran now. Any number of processes may
 * do so at once. Throws SetupError, having changed nothing, when the database is newer than this build or a
 * migration was edited after it ran.
 * @param options of the owner, as `connectOptions` gives them
 * @param appUser the user the application connects as, when it is not the owner
 */
export async function migrate(
  options: pg.ClientConfig,
  { directory, appUser }: { directory: string; appUser?: string | undefined },
): Promise<string[]> {
  const migrations = readMigrations(directory);
  const client = await openClient(options);
  try {
    const pending = pendingOf(await appliedIn(client), migrations);
    if (pending.length === 0 && migrations.length > 0 && (await isMember(client, appUser))) return [];
    await client.query(`set lock_timeout = '${othersWait}'`);
    await client.query('select pg_advisory_lock($1)', [lockId]);
    await prepare(client, appUser);
    const rest = pendingOf(await appliedIn(client), migrations);
    for (const migration of rest) await apply(client, migration);
    return rest.map(({ name }) => name);
  } finally {
    await client.end();
  }
}

/** The names of all that this build knows, in order. */
export function migrationNames(directory: string): string[] {
  return readMigrations(directory).map(({ name }) => name);
}

function readMigrations(directory: string): Migration[] {
  const names = readdirSync(directory).filter((name) => name.endsWith('.sql') && name !== 'schema.sql');
  return names.sort().map((name, index) => {
    if (!/^\d{4}_\w+\.sql$/.test(name) || Number(name.slice(0, 4)) !== index + 1) {
      throw new SetupError(
        `migration ${name} is misnamed: number ${index + 1} comes next, as in 0001_name.sql`,
      );
    }
    const sql = readFileSync(join(directory, name), 'utf8');
    return {
      name: name.slice(0, -'.sql'.length),
      sql,
      checksum: createHash('sha256').update(sql).digest('hex'),
    };
  });
}

async function appliedIn(client: pg.Client): Promise<Applied[]> {
  try {
    const { rows } = await client.query<Applied>('select name, checksum from tolem.migrations order by name');
    return rows;
  } catch (error) {
    if ((error as pg.DatabaseError).code === undefinedTable) return [];
    throw error;
  }
}

/** What ran must be exactly the beginning of what there is. */
function pendingOf(applied: readonly Applied[], migrations: readonly Migration[]): Migration[] {
  for (const [index, { name, checksum }] of applied.entries()) {
    const known = migrations.find((each) => each.name === name);
    if (!known) {
      const last = migrations.at(-1)?.name ?? 'none';
      throw new SetupError(
        `the database schema is newer than this build (it has ${name}; this build knows up to ${last}): start the newer version`,
      );
    }
    if (known.checksum !== checksum) {
      throw new SetupError(
        `migration ${name} was edited after it ran in this database: restore the file and put the change into a new migration`,
      );
    }
    if (migrations[index] !== known) {
      throw new SetupError(
        `migration ${migrations[index]!.name} comes before ${name}, which has run already: give it a later number`,
      );
    }
  }
  return migrations.slice(applied.length);
}

/** Schema, table of migrations and the role that the application takes. Repeatable. */
async function prepare(client: pg.Client, appUser: string | undefined): Promise<void> {
  try {
    await client.query('create schema if not exists tolem');
    await client.query(
      'create table if not exists tolem.migrations (name text primary key, checksum text not null, applied_at timestamptz not null default now())',
    );
    await prepareRole(client, appUser ?? client.user!);
    await client.query('grant usage on schema tolem to tolem_app');
    await client.query('grant select on tolem.migrations to tolem_app');
  } catch (error) {
    if ((error as pg.DatabaseError).code !== insufficientPrivilege) throw error;
    throw new SetupError(
      `user ${client.user} may not prepare the database (${(error as Error).message}): as a superuser run "create role tolem_app nologin", "grant tolem_app to ${client.user} with admin option" and "grant create on database ${client.database} to ${client.user}"`,
    );
  }
}

/** Roles belong to the whole server, where another database may be migrating now, out of reach of our lock. */
async function prepareRole(client: pg.Client, appUser: string): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      const { rowCount } = await client.query("select 1 from pg_roles where rolname = 'tolem_app'");
      if (!rowCount) await client.query('create role tolem_app nologin');
      const superuser = await client.query('select 1 from pg_roles where rolname = $1 and rolsuper', [
        appUser,
      ]);
      if (!superuser.rowCount) await client.query(`grant tolem_app to ${pg.escapeIdentifier(appUser)}`);
      return;
    } catch (error) {
      if (!roleRaces.includes((error as pg.DatabaseError).code ?? '') || attempt === 10) throw error;
    }
  }
}

/** Whether a user other than the owner, who became the application's since, may take its role. */
async function isMember(client: pg.Client, appUser: string | undefined): Promise<boolean> {
  if (appUser === undefined) return true;
  const { rows } = await client.query<{ member: boolean }>(
    "select pg_has_role($1, 'tolem_app', 'member') as member",
    [appUser],
  );
  return rows[0]!.member;
}

/**
 * While a migration waits for a table's lock, whoever comes to the table waits behind it: so it waits briefly, and
 * comes again, as also when it and others' statements wait for each other.
 */
async function apply(client: pg.Client, { name, sql, checksum }: Migration): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      await client.query('begin');
      await client.query(`set local lock_timeout = '${tableWait}'`);
      await client.query(sql);
      await client.query('insert into tolem.migrations (name, checksum) values ($1, $2)', [name, checksum]);
      await client.query('commit');
      return;
    } catch (error) {
      const { code, position, message } = error as pg.DatabaseError;
      // Without this, ending the session rolls back; what was recorded before stays.
      await client.query('rollback').catch(() => {});
      if (othersInTheWay.includes(code ?? '') && attempt < attemptsMax) {
        await delay(againMsMax * (0.5 + Math.random() / 2));
        continue;
      }
      const line = position ? `, line ${sql.slice(0, Number(position)).split('\n').length}` : '';
      throw new SetupError(`migration ${name}${line} failed and was rolled back: ${message}`);
    }
  }
}

const undefinedTable = '42P01';
const insufficientPrivilege = '42501';
/** duplicate_object, unique_violation, and internal_error "tuple concurrently updated". */
const roleRaces = ['42710', '23505', 'XX000'];
/** deadlock_detected and lock_not_available. */
const othersInTheWay = ['40P01', '55P03'];
