/** Providers: which protocol each speaks, with which settings, and whether payments go to it now. */
import { changing, type Database, type Queryable, Refusal } from '../audit.js';
import type { ProviderFacts } from '../core/catalogue.js';

type Settings = ProviderFacts['settings'];

const settingsLengthMax = 64 * 1024;

export async function readProviders(db: Queryable): Promise<ProviderFacts[]> {
  const { rows } = await db.query<ProviderFacts>(
    'select provider_id as "providerId", name, connector, settings, paused from providers order by provider_id',
  );
  return rows;
}

/** Refuses an unknown id. */
export async function getProvider(db: Queryable, providerId: string): Promise<ProviderFacts> {
  const provider = (await readProviders(db)).find((each) => each.providerId === providerId);
  if (!provider) throw new Refusal(`There is no provider "${providerId}"; look at the list of providers.`);
  return provider;
}

/** Payments of a paused provider's services are answered 8; what was sent to it is still asked about. */
export async function setPaused(
  db: Database,
  providerId: string,
  paused: boolean,
  operator: string,
): Promise<ProviderFacts> {
  return changing(db, operator, async (tx, audit) => {
    const provider = await getProvider(tx, providerId);
    if (provider.paused === paused) return provider;
    await tx.query('update providers set paused = $2 where provider_id = $1', [providerId, paused]);
    await audit(paused ? 'provider.pause' : 'provider.resume', `provider:${providerId}`, {});
    return { ...provider, paused };
  });
}

/**
 * Creates a provider or replaces its name, connector and settings. `check` is the connector's own judgement of the
 * settings: it throws a plain sentence when one is missing or wrong, or when there is no such connector.
 */
export async function setProvider(
  db: Database,
  provider: Omit<ProviderFacts, 'paused'>,
  check: (connector: string, settings: Settings) => void,
  operator: string,
): Promise<ProviderFacts> {
  const { providerId, name, connector, settings } = provider;
  if (!/^[a-z0-9_-]{1,32}$/.test(providerId)) {
    throw new Refusal(
      `"${providerId}" cannot name a provider; write 1 to 32 small Latin letters, digits, - and _.`,
    );
  }
  if (name.trim() !== name || name === '' || name.length > 200) {
    throw new Refusal('The name of a provider is 1 to 200 characters without spaces around it; correct it.');
  }
  const text = JSON.stringify(settings);
  if (text.length > settingsLengthMax) {
    throw new Refusal(
      `The settings of provider ${providerId} are longer than ${settingsLengthMax} characters; shorten them.`,
    );
  }
  try {
    check(connector, settings);
  } catch (error) {
    throw new Refusal(
      `The settings of provider ${providerId} cannot be used: ${(error as Error).message}. ` +
        'Nothing was changed; correct them and set them again.',
    );
  }
  return changing(db, operator, async (tx, audit) => {
    const before = (await readProviders(tx)).find((each) => each.providerId === providerId);
    await tx.query(
      `insert into providers (provider_id, name, connector, settings) values ($1, $2, $3, $4::jsonb)
       on conflict (provider_id) do update set name = excluded.name, connector = excluded.connector,
         settings = excluded.settings`,
      [providerId, name, connector, text],
    );
    await audit('provider.set', `provider:${providerId}`, {
      from: before ? { ...before, settings: maskSettings(before.settings) } : null,
      to: { ...provider, settings: maskSettings(settings) },
    });
    return getProvider(tx, providerId);
  });
}

const secretName = /secret|passw|token|key|pin|login|user|sign|cert|auth/i;

/** The settings for people's eyes: what is or may be a secret becomes `***`, at any depth. */
export function maskSettings(settings: Settings): Settings {
  return Object.fromEntries(Object.entries(settings).map(([name, value]) => [name, masked(name, value)]));
}

function masked(name: string, value: unknown): unknown {
  if (secretName.test(name) && value !== null && typeof value !== 'boolean') return '***';
  if (Array.isArray(value)) return value.map((each) => masked(name, each));
  if (typeof value === 'object' && value !== null) return maskSettings(value as Settings);
  if (typeof value === 'string') return value.replace(/(\/\/)[^/?#@\s]+@/, '$1***@').replace(/\?.*$/, '?***');
  return value;
}
