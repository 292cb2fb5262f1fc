/** How a request proves whose it is: signatures, Basic, Bearer and fixed headers. Secrets stay in what is returned. */
import { createHmac, createPrivateKey, type KeyObject, sign as signWith } from 'node:crypto';
import type { HttpRequest } from '../contract.js';
import { Mistake, type Proof, placeOf } from './shape.js';
import { compileText, type Facts, fill, headerValue, percentEncode, type Scope } from './template.js';

/** A request while it is being made; the query and the body as they leave. */
export interface Draft {
  readonly method: HttpRequest['method'];
  readonly path: string;
  readonly query: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | null;
}

export interface Stamp {
  /** What it adds, so that nothing is said twice; header names in small letters. */
  readonly adds: { readonly header?: string; readonly query?: string; readonly body?: string };
  apply(draft: Draft, facts: Facts): Draft;
}

/** `pathPrefix` is the path of the base URL: providers sign what arrives. */
export function compileProofs(
  proofs: readonly Proof[],
  at: string,
  scope: Scope,
  pathPrefix: string,
): readonly Stamp[] {
  return proofs.map((proof, index) => compileProof(proof, placeOf(at, index), scope, pathPrefix));
}

function compileProof(proof: Proof, at: string, scope: Scope, pathPrefix: string): Stamp {
  const secretOf = (member: string, name: string): string => {
    if (Object.hasOwn(scope.secrets, name)) return scope.secrets[name]!;
    throw new Mistake(placeOf(at, member), `settings.secrets.${name} is not there; add it`);
  };
  switch (proof.kind) {
    case 'basic': {
      const secret = Object.hasOwn(scope.secrets, proof.login);
      if (!secret && !Object.hasOwn(scope.values, proof.login))
        throw new Mistake(placeOf(at, 'login'), `settings.values.${proof.login} is not there; add it`);
      const login = (secret ? scope.secrets : scope.values)[proof.login]!;
      if (login.includes(':'))
        throw new Mistake(placeOf(at, 'login'), 'a login for Basic has no colon; correct it');
      const pair = Buffer.from(`${login}:${secretOf('password', proof.password)}`).toString('base64');
      return fixedHeader('authorization', `Basic ${pair}`, placeOf(at, 'password'));
    }
    case 'bearer':
      return fixedHeader('authorization', `Bearer ${secretOf('token', proof.token)}`, placeOf(at, 'token'));
    case 'header': {
      const name = proof.name.toLowerCase();
      const text = compileText(proof.value, placeOf(at, 'value'), scope);
      return {
        adds: { header: name },
        apply: (draft, facts) => {
          const value = fill(text, facts);
          return value === null ? draft : withHeader(draft, name, headerValue(name, value));
        },
      };
    }
    case 'hmac-sha256': {
      const key = secretOf('key', proof.key);
      return signature(proof, at, scope, pathPrefix, (text) =>
        createHmac('sha256', key).update(text).digest(),
      );
    }
    case 'rsa-sha256': {
      const key = rsaKey(secretOf('key', proof.key), placeOf(at, 'key'), proof.key);
      return signature(proof, at, scope, pathPrefix, (text) => signWith('sha256', Buffer.from(text), key));
    }
  }
}

function fixedHeader(name: string, value: string, at: string): Stamp {
  try {
    headerValue(name, value);
  } catch {
    throw new Mistake(
      at,
      'a secret for a header is of ASCII characters without line breaks; correct it in settings.secrets',
    );
  }
  return { adds: { header: name }, apply: (draft) => withHeader(draft, name, value) };
}

const withHeader = (draft: Draft, name: string, value: string): Draft => ({
  ...draft,
  headers: { ...draft.headers, [name]: value },
});

function rsaKey(pem: string, at: string, name: string): KeyObject {
  let key: KeyObject | null = null;
  try {
    key = createPrivateKey(pem);
  } catch {
    // The reason may quote the key.
  }
  if (key?.asymmetricKeyType !== 'rsa')
    throw new Mistake(at, `settings.secrets.${name} must be a private RSA key in PEM, without a password`);
  return key;
}

type Signature = Extract<Proof, { over: string }>;

function signature(
  { over, encoding, into }: Signature,
  at: string,
  scope: Scope,
  pathPrefix: string,
  bytesOf: (text: string) => Buffer,
): Stamp {
  const text = compileText(over, placeOf(at, 'over'), { ...scope, signing: true });
  if (text.every((part) => typeof part === 'string' || part.name.startsWith('setting.')))
    throw new Mistake(placeOf(at, 'over'), 'must name something of the request, such as {{body}}');
  const sign = (draft: Draft, facts: Facts): string => {
    const { method, query, body } = draft;
    const sent = { method, path: pathPrefix + draft.path, query, body: body ?? '' };
    return bytesOf(fill(text, { ...facts, sent }, undefined, '')!).toString(encoding);
  };
  if ('header' in into) {
    const name = into.header.toLowerCase();
    const prefix = into.prefix ?? '';
    if (/[^\x21-\x7e ]/.test(prefix) || prefix.startsWith(' '))
      throw new Mistake(
        placeOf(at, 'into', 'prefix'),
        'must be of ASCII characters, not beginning with a space',
      );
    return {
      adds: { header: name },
      apply: (draft, facts) => withHeader(draft, name, prefix + sign(draft, facts)),
    };
  }
  if ('query' in into) {
    const name = percentEncode(into.query);
    return {
      adds: { query: into.query },
      apply: (draft, facts) => {
        const pair = `${name}=${percentEncode(sign(draft, facts))}`;
        return { ...draft, query: draft.query === '' ? pair : `${draft.query}&${pair}` };
      },
    };
  }
  const name = JSON.stringify(into.body);
  return {
    adds: { body: into.body },
    apply: (draft, facts) => {
      const body = draft.body!;
      const comma = body === '{}' ? '' : ',';
      return { ...draft, body: `${body.slice(0, -1)}${comma}${name}:"${sign(draft, facts)}"}` };
    },
  };
}
