/** Makes the requests of one call of a description: path, query, headers and body, and then what proves whose it is. */
import { type HttpRequest, NotWritable } from '../contract.js';
import { type Check, Mistake, type Pay, type Place, type Proof, placeOf, type Status } from './shape.js';
import { compileProofs, type Draft } from './sign.js';
import {
  compileJson,
  compileText,
  type Facts,
  fill,
  headerValue,
  type Kind,
  percentEncode,
  type Scope,
  type Slot,
  slotsOf,
  type Text,
} from './template.js';

export interface Requests {
  /** Throws when a value is missing or cannot stand where it is to go; the message has no values. */
  build(facts: Facts): HttpRequest;
  /** What stands in the members of the body and in the parameters of the query, for the history. */
  readonly kinds: readonly (readonly [name: string, kind: Kind])[];
}

/** The sender's and the connection's own, and what would make answers come packed. */
const ownHeaders = new Set([
  'accept-encoding',
  'connection',
  'content-encoding',
  'content-length',
  'expect',
  'host',
  'keep-alive',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]);

export function compileRequests(
  call: Check | Pay | Status,
  place: Place,
  settings: Omit<Scope, 'place'>,
  common: readonly Proof[],
  pathPrefix: string,
): Requests {
  const at = placeOf('description', place);
  const scope: Scope = { ...settings, place };
  const kinds: (readonly [string, Kind])[] = [];
  const named = new Set<string>();
  const see = (name: string, slot: Slot) => {
    named.add(slot.name);
    kinds.push([name, slot.kind]);
  };

  const pathOf = compilePath(call.path, placeOf(at, 'path'), scope, named);
  const query = texts('query');
  for (const [name, text] of query) for (const slot of slotsOf(text)) see(name, slot);
  const headers = texts('headers').map(([name, text]) => {
    for (const slot of slotsOf(text)) named.add(slot.name);
    return [name.toLowerCase(), text] as const;
  });
  if (call.body && call.method === 'GET')
    throw new Mistake(placeOf(at, 'body'), 'a GET has no body; remove it');
  const bodyOf = call.body ? compileJson(call.body, placeOf(at, 'body'), scope, see) : null;
  const [proofs, proofsAt] = call.auth ? [call.auth, placeOf(at, 'auth')] : [common, 'description.auth'];
  const stamps = compileProofs(proofs, proofsAt, scope, pathPrefix);

  if (place !== 'check' && !named.has('externalId'))
    throw new Mistake(at, 'the request must name {{externalId}} in its path, query, headers or body');
  refuseTwice();
  for (const { adds } of stamps)
    for (const name of [adds.query, adds.body]) if (name !== undefined) kinds.push([name, 'secret']);

  const fixed: Record<string, string> = {
    accept: 'application/json',
    ...(call.body && { 'content-type': 'application/json' }),
  };
  return {
    kinds,
    build(facts) {
      const sent = { ...fixed };
      for (const [name, text] of headers) {
        const value = fill(text, facts);
        if (value !== null) sent[name] = headerValue(name, value);
      }
      let draft: Draft = {
        method: call.method,
        path: pathOf(facts),
        query: queryOf(query, facts),
        headers: sent,
        body: bodyOf?.(facts) ?? null,
      };
      for (const stamp of stamps) draft = stamp.apply(draft, facts);
      const { method, path, body } = draft;
      return {
        method,
        path: draft.query === '' ? path : `${path}?${draft.query}`,
        headers: draft.headers,
        body,
      };
    },
  };

  function texts(part: 'query' | 'headers'): [string, Text][] {
    return Object.entries(call[part] ?? {}).map(([name, template]) => [
      name,
      compileText(template, placeOf(at, part, name), scope),
    ]);
  }

  function refuseTwice(): void {
    const taken = new Set([
      ...query.map(([name]) => `query ${name}`),
      ...Object.keys(call.body ?? {}).map((name) => `body ${name}`),
    ]);
    const take = (where: string, name: string, from: string) => {
      if (where === 'header' && (ownHeaders.has(name) || name.startsWith('proxy-')))
        throw new Mistake(from, `the header ${name} is not the description's to say; remove it`);
      if (taken.has(`${where} ${name}`))
        throw new Mistake(from, `the ${where} ${name} is said twice; remove one`);
      taken.add(`${where} ${name}`);
    };
    for (const [name] of headers) take('header', name, placeOf(at, 'headers'));
    stamps.forEach(({ adds }, index) => {
      const from = placeOf(proofsAt, index);
      if (adds.body !== undefined && !call.body)
        throw new Mistake(from, `${place} has no body to put the signature into; write another "into"`);
      for (const where of ['header', 'query', 'body'] as const)
        if (adds[where] !== undefined) take(where, adds[where], from);
    });
  }
}

function compilePath(
  template: string,
  at: string,
  scope: Scope,
  named: Set<string>,
): (facts: Facts) => string {
  const text = compileText(template, at, scope);
  if (!template.startsWith('/')) throw new Mistake(at, 'must begin with /');
  for (const part of text) {
    if (typeof part === 'string') {
      if (!/^(?:[\w.~!$&'()*+,;=:@/-]|%[\dA-Fa-f]{2})*$/.test(part))
        throw new Mistake(at, 'must be of characters of a path; write parameters into query, others as %XX');
    } else {
      if (part.kind === 'secret')
        throw new Mistake(
          at,
          `{{${part.name}}} is a secret, and paths are written into logs; send it elsewhere`,
        );
      if (part.optional)
        throw new Mistake(at, `{{${part.name}}} may be absent, and a path has no place for that`);
      named.add(part.name);
    }
  }
  return (facts) => {
    const path = fill(text, facts, pathValue)!;
    if (/\/\.\.?(?:\/|$)/.test(path)) throw new NotWritable('a value would change the path');
    return path;
  };
}

function pathValue(value: string): string {
  if (value === '') throw new NotWritable('a value in the path is empty');
  return percentEncode(value);
}

function queryOf(query: readonly (readonly [string, Text])[], facts: Facts): string {
  const pairs: string[] = [];
  for (const [name, text] of query) {
    const value = fill(text, facts);
    if (value !== null) pairs.push(`${percentEncode(name)}=${percentEncode(value)}`);
  }
  return pairs.join('&');
}
