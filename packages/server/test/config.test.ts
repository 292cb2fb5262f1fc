import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ConfigError, listSettings, loadConfig, secretKey } from '../src/config.js';

let root: string;
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'tolem-config-'));
  writeFileSync(join(root, 'cert.pem'), 'certificate');
});
afterAll(() => rmSync(root, { recursive: true }));

const load = (env: Record<string, string>) => loadConfig(env, { root });
const key = Buffer.alloc(32, 7).toString('base64');

test('without any variable every setting has its default', () => {
  expect(load({ HOME: '/', PATH: '/bin' })).toEqual({
    root,
    host: '127.0.0.1',
    port: 8020,
    monitorHost: '127.0.0.1',
    monitorPort: 8022,
    dataDir: join(root, 'data'),
    databaseUrl: null,
    databaseAdminUrl: null,
    databasePoolMax: 4,
    pathPrefixes: [],
    catalogueKeys: 'both',
    timeZone: 'Asia/Almaty',
    trustedProxies: [],
    tlsCertPath: null,
    tlsKeyPath: null,
    payWaitMs: 8000,
    quoteTtlMs: 1_800_000,
    fundsWaitMs: 86_400_000,
    ratesFeedUrl: null,
    ratesFeedPeriodMs: 3_600_000,
    operatorLookupUrl: null,
    operatorLookupMs: 1000,
    operatorLookupCacheMs: 600_000,
    inflightMax: 4000,
    batchMax: 512,
    secretKey: null,
    demo: 'auto',
    sandboxPort: 8021,
    smtpUrl: null,
    mailFrom: null,
    operator: null,
    logLevel: 'info',
  });
});

test('values are read into their types, paths are relative to the clone, empty is absent', () => {
  const config = load({
    TOLEM_PORT: '0',
    TOLEM_DATA_DIR: 'elsewhere',
    TOLEM_DATABASE_URL: 'postgresql://user@/db?host=/run/socket',
    TOLEM_PATH_PREFIXES: '/AirPayService, /a/b',
    TOLEM_TRUSTED_PROXIES: '10.0.0.0/8,::1',
    TOLEM_TLS_CERT: 'cert.pem',
    TOLEM_TLS_KEY: join(root, 'cert.pem'),
    TOLEM_SECRET_KEY: key,
    TOLEM_SMTP_URL: 'smtp://127.0.0.1:2525',
    TOLEM_MAIL_FROM: 'Tolem <no-reply@example.kz>',
    TOLEM_HOST: '',
  });
  expect(config).toMatchObject({
    port: 0,
    host: '127.0.0.1',
    dataDir: join(root, 'elsewhere'),
    databaseAdminUrl: 'postgresql://user@/db?host=/run/socket',
    pathPrefixes: ['/AirPayService', '/a/b'],
    trustedProxies: ['10.0.0.0/8', '::1'],
    tlsCertPath: join(root, 'cert.pem'),
    tlsKeyPath: join(root, 'cert.pem'),
    secretKey: Buffer.alloc(32, 7),
  });
  expect(Object.isFrozen(config) && Object.isFrozen(config.pathPrefixes)).toBe(true);
});

describe('a wrong setting gives one line that names it and says what is expected', () => {
  const cases: [Record<string, string>, RegExp][] = [
    [{ TOLEM_PORT: '80x' }, /^TOLEM_PORT is "80x": expected a whole number from 0 to 65535$/],
    [{ TOLEM_PORT: '65536' }, /expected a whole number from 0 to 65535$/],
    [{ TOLEM_PORT: '-1' }, /TOLEM_PORT is "-1"/],
    [{ TOLEM_MONITOR_PORT: 'on' }, /"on": expected a whole number from 0 to 65535, or off$/],
    [{ TOLEM_PAY_WAIT_MS: '1.5' }, /TOLEM_PAY_WAIT_MS is "1.5": expected a whole number/],
    [{ TOLEM_HOST: 'a b' }, /TOLEM_HOST is "a b": expected an address or a host name/],
    [{ TOLEM_LOG_LEVEL: 'loud' }, /expected one of trace, debug, info/],
    [{ TOLEM_CATALOGUE_KEYS: 'greek' }, /expected one of both, latin, cyrillic$/],
    [{ TOLEM_TIME_ZONE: 'Asia/Nowhere' }, /expected a time zone such as Asia\/Almaty$/],
    [{ TOLEM_PATH_PREFIXES: 'AirPay' }, /TOLEM_PATH_PREFIXES is "AirPay": expected paths such as/],
    [{ TOLEM_TRUSTED_PROXIES: '10.0.0.0/33' }, /expected addresses or ranges/],
    [{ TOLEM_DATABASE_URL: 'mysql://x' }, /^TOLEM_DATABASE_URL has a wrong value: expected a URL such as/],
    [{ TOLEM_DATABASE_URL: 'postgresql://host' }, /^TOLEM_DATABASE_URL has a wrong value/],
    [
      { TOLEM_DATABASE_ADMIN_URL: 'postgresql://a@h/d' },
      /TOLEM_DATABASE_ADMIN_URL is set and TOLEM_DATABASE_URL is not/,
    ],
    [
      { TOLEM_TLS_CERT: 'absent.pem', TOLEM_TLS_KEY: 'cert.pem' },
      /TOLEM_TLS_CERT is "absent.pem": the file cannot be read/,
    ],
    [{ TOLEM_TLS_CERT: 'cert.pem' }, /TOLEM_TLS_CERT is set and TOLEM_TLS_KEY is not: set both or neither/],
    [{ TOLEM_TLS_KEY: 'cert.pem' }, /TOLEM_TLS_KEY is set and TOLEM_TLS_CERT is not/],
    [{ TOLEM_SMTP_URL: 'smtp://h' }, /TOLEM_SMTP_URL is set and TOLEM_MAIL_FROM is not/],
    [{ TOLEM_SECRET_KEY: 'c2hvcnQ=' }, /^TOLEM_SECRET_KEY has a wrong value: expected 32 bytes in base64/],
    [{ TOLEM_RATES_FEED_URL: 'ftp://h/rates' }, /TOLEM_RATES_FEED_URL .*expected a URL such as https/],
    [{ TOLEM_RATES_FEED_URL: 'https://u:p@h/rates' }, /TOLEM_RATES_FEED_URL/],
    [{ TOLEM_RATES_FEED_PERIOD_MS: '9999' }, /TOLEM_RATES_FEED_PERIOD_MS .*from 10000/],
    [{ TOLEM_OPERATOR_LOOKUP_URL: 'https://h/operator' }, /TOLEM_OPERATOR_LOOKUP_URL .*\{phone\}/],
    [{ TOLEM_OPERATOR_LOOKUP_URL: 'https://{phone}.h/' }, /TOLEM_OPERATOR_LOOKUP_URL/],
    [{ TOLEM_DATA_DIR: 'a\0b' }, /TOLEM_DATA_DIR is "a\\u0000b"/],
    [{ TOLEM_PROT: '1' }, /^TOLEM_PROT is not a setting: did you mean TOLEM_PORT\?/],
    [{ TOLEM_DB_URL: '1' }, /did you mean TOLEM_SMTP_URL\?|did you mean TOLEM_DATABASE_URL\?/],
  ];
  test.each(cases)('%j', (env, message) => {
    const failure = (() => {
      try {
        load(env);
      } catch (error) {
        return error as Error;
      }
    })();
    expect(failure).toBeInstanceOf(ConfigError);
    expect(failure!.message).toMatch(message);
    expect(failure!.message).not.toContain('\n');
  });
});

test('secrets are never shown, neither in an error nor in the list', () => {
  const secret = 'hunter2hunter2';
  expect(() => load({ TOLEM_SECRET_KEY: secret })).toThrow(ConfigError);
  expect(() => load({ TOLEM_SECRET_KEY: secret })).not.toThrow(secret);
  const rows = listSettings({ TOLEM_DATABASE_URL: `postgresql://u:${secret}@h/d`, TOLEM_PORT: '9' });
  expect(JSON.stringify(rows)).not.toContain(secret);
  expect(rows.find((row) => row.name === 'TOLEM_DATABASE_URL')).toMatchObject({ value: '(secret)' });
  expect(rows.find((row) => row.name === 'TOLEM_PORT')).toMatchObject({
    value: '9',
    default: '8020',
    source: 'environment',
  });
});

test('the secret key is made once, privately, and read again', () => {
  const config = { secretKey: null, dataDir: join(root, 'data') };
  const made = secretKey(config);
  expect(made).toHaveLength(32);
  expect(secretKey(config)).toEqual(made);
  expect(statSync(join(root, 'data', 'secret.key')).mode & 0o777).toBe(0o600);
  writeFileSync(
    join(root, 'data', 'secret.key'),
    readFileSync(join(root, 'data', 'secret.key')).subarray(0, 9),
  );
  expect(() => secretKey(config)).toThrow(/is not a key of 32 bytes/);
});
