/** What the documents say is held against the code: codes, settings, states, commands, examples, the OpenAPI file. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Validator } from '@seriousme/openapi-schema-validator';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { pino } from 'pino';
import { describe, expect, test } from 'vitest';
import { parse as parseYaml } from 'yaml';
import { confirmToken, createToken } from '../src/agents/tokens.js';
import { run } from '../src/cli.js';
import { settings } from '../src/config.js';
import { codes, httpErrors, reasons } from '../src/core/codes.js';
import { stateFacts, states } from '../src/core/states.js';
import { buildServer } from '../src/protocol/server.js';
import { scriptOf } from '../src/providers/sandbox/data.js';
import { demoAgent, openCentre } from './support/centre.js';
import { buildEdge, minified, testConfig } from './support/protocol.js';

const root = join(import.meta.dirname, '../../..');
const files = [
  'README.md',
  'ARCHITECTURE.md',
  'STYLE.md',
  'CONTRIBUTING.md',
  'SECURITY.md',
  'docs/protocol.md',
  'docs/protocol.ru.md',
  'docs/errors.md',
  'docs/operations.md',
  'docs/providers.md',
  'docs/rates.md',
  'docs/numbering.md',
] as const;
const pages = Object.fromEntries(
  files.map((path) => [path, readFileSync(join(root, path), 'utf8')]),
) as Record<(typeof files)[number], string>;
const errors = pages['docs/errors.md'];
const protocols = [pages['docs/protocol.md'], pages['docs/protocol.ru.md']] as const;

/** The rows of the table whose heading begins with these cells; a cell in backquotes is given without them. */
function table(markdown: string, ...headings: string[]): string[][] {
  const lines = markdown.split('\n');
  const start = lines.findIndex((line) => line.startsWith(`| ${headings.join(' | ')} |`));
  if (start < 0) throw new Error(`there is no table that begins with: ${headings.join(', ')}`);
  const rows = lines.slice(start + 2);
  const end = rows.findIndex((line) => !line.startsWith('|'));
  return rows.slice(0, end < 0 ? undefined : end).map((line) =>
    line
      .slice(2, -2)
      .split(' | ')
      .map((cell) => cell.trim().replace(/^`([^`]*)`$/, '$1')),
  );
}

interface Block {
  /** What stands behind the three backquotes: `json pay`, `mermaid`. */
  readonly kind: string;
  readonly text: string;
}

function blocks(markdown: string): Block[] {
  return [...markdown.matchAll(/^```(.*)\n([\s\S]*?)^```$/gm)].map(([, kind, text]) => ({
    kind: kind!,
    text: text!,
  }));
}

describe('docs/errors.md', () => {
  test('names every result code, whether it is final, and its messages in three languages, and no other', () => {
    expect(table(errors, 'code', 'name', 'final').map((row) => row.slice(0, 3))).toEqual(
      codes.map(({ code, name, final }) => [String(code), name, final ? 'yes' : 'no']),
    );
    expect(table(errors, 'code', 'ru', 'kk', 'en')).toEqual(
      codes.map(({ code, text }) => [String(code), text.ru, text.kk, text.en]),
    );
  });

  test('names every reason with its code and messages, and no other', () => {
    const documented = table(errors, 'reason', 'code', 'when').map(([key, code, , ...texts]) => [
      key,
      code,
      ...texts,
    ]);
    expect(documented).toEqual(
      Object.entries(reasons).map(([key, { code, text }]) => [key, String(code), text.ru, text.kk, text.en]),
    );
  });

  test('names every HTTP error with its status and messages, and no other', () => {
    const documented = table(errors, 'error', 'HTTP').map(([key, status, , ...texts]) => [
      key,
      status,
      ...texts,
    ]);
    expect(documented).toEqual(
      Object.entries(httpErrors).map(([key, { status, text }]) => [
        key,
        String(status),
        text.ru,
        text.kk,
        text.en,
      ]),
    );
  });

  test('leaves no cell empty', () => {
    for (const headings of [
      ['code', 'name'],
      ['reason', 'code'],
      ['error', 'HTTP'],
    ]) {
      for (const row of table(errors, ...headings)) expect(row, row[0]).not.toContain('');
    }
  });
});

test('README and both protocol pages list every code and say rightly whether it is final', () => {
  const facts = (yes: string, no: string) => codes.map(({ code, final }) => [String(code), final ? yes : no]);
  const ends = (rows: string[][]) => rows.map((row) => [row[0], row.at(-1)]);
  expect(ends(table(pages['README.md'], 'code', 'meaning'))).toEqual(facts('yes', 'no'));
  expect(ends(table(protocols[0], 'code', 'meaning'))).toEqual(facts('yes', 'no'));
  expect(ends(table(protocols[1], 'код', 'значение'))).toEqual(facts('да', 'нет'));
});

test('docs/operations.md lists every setting with its default, what it expects and what it is for', () => {
  expect(table(pages['docs/operations.md'], 'setting', 'default')).toEqual(
    Object.values(settings).map((each) => [each.name, each.default ?? '', each.expects, each.about]),
  );
});

test('ARCHITECTURE.md draws the states as core/states.ts has them', () => {
  const name = (state: (typeof states)[number]) => stateFacts[state].name;
  const drawing = [
    'stateDiagram-v2',
    ...states.map((state) => {
      const { code, holds } = stateFacts[state];
      return `    ${name(state)}: ${name(state)}, code ${code ?? 'of the refusal'}${holds ? ', money held' : ''}`;
    }),
    ...states.flatMap((from) => stateFacts[from].to.map((to) => `    ${name(from)} --> ${name(to)}`)),
    ...states.filter((state) => stateFacts[state].final).map((state) => `    ${name(state)} --> [*]`),
  ];
  const drawn = blocks(pages['ARCHITECTURE.md']).find(({ text }) => text.startsWith('stateDiagram'));
  expect(drawn?.text.trimEnd().split('\n')).toEqual(drawing);
});

describe('all pages', () => {
  test('link only to files that are there', () => {
    const broken = files.flatMap((path) =>
      [...pages[path].matchAll(/\]\((?!https?:)([^)#]+)[^)]*\)/g)]
        .map(([, target]) => join(root, dirname(path), target!))
        .filter((target) => !existsSync(target)),
    );
    expect(broken).toEqual([]);
  });

  test('hold examples that are JSON where they say so', () => {
    const examples = Object.values(pages)
      .flatMap(blocks)
      .filter(({ kind }) => kind.startsWith('json'));
    for (const { text } of examples) expect(() => JSON.parse(text), text).not.toThrow();
  });

  test('name only settings that exist', () => {
    const known = new Set<string>(Object.values(settings).map(({ name }) => name));
    const named = Object.values(pages).flatMap((text) => text.match(/\bTOLEM_[A-Z_]*[A-Z]/g) ?? []);
    expect(named.filter((name) => !known.has(name))).toEqual([]);
  });

  test('use only commands and options that the tolem command has', async () => {
    const all = Object.values(pages).join('\n');
    const commands = [...all.matchAll(/(?:^npx |`(?:npx )?)tolem ([a-z][^`\n]*)/gm)];
    expect(commands.length).toBeGreaterThan(20);
    for (const [, line] of commands) {
      const words = /^[a-z-]+(?: [a-z][a-z-]*)*/.exec(line!)![0].split(' ');
      const help = { out: '' };
      const sink = { write: (text: string) => (help.out += text) };
      await run([...words, '--help'], {}, { stdout: sink, stderr: sink });
      const [, path, isGroup] = /^Usage: tolem ((?:[a-z-]+ )+).*?(\[command\])?$/m.exec(help.out) ?? [];
      const named = isGroup ? words.join(' ') : words.slice(0, path?.trim().split(' ').length).join(' ');
      expect(path?.trim(), line).toBe(named);
      for (const option of line!.match(/--[a-z-]+/g) ?? []) expect(help.out, line).toContain(option);
    }
  });
});

type Post = (method: string, body: string) => Promise<string>;

/** Runs `work` with the HTTP edge before a centre of its own; every request must be answered 200. */
async function withCentre(work: (post: Post) => Promise<void>): Promise<void> {
  const centre = await openCentre();
  const { tokenId, token } = await createToken(centre.pool, demoAgent, 'docs', 'docs');
  await confirmToken(centre.pool, tokenId, 'docs');
  const app = buildServer({
    config: { ...testConfig, prefixes: [] },
    useCases: centre.centre.useCases,
    reference: () => centre.watch.current().reference,
    directory: centre.watch.directory,
    logger: pino({ level: 'silent' }),
  });
  const send = (method: string, payload: string) =>
    app.inject({
      method: 'POST',
      url: `/api/v20/${method}`,
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      payload,
    });
  const post = async (method: string, body: string) => {
    const { statusCode, payload } = await send(method, body);
    expect(statusCode, payload).toBe(200);
    return payload;
  };
  try {
    // The token becomes known by a notice of the database.
    await expect.poll(async () => (await send('balance', '')).statusCode, { timeout: 5000 }).toBe(200);
    await work(post);
  } finally {
    await app.close();
    await centre.close();
  }
}

/** As an agent does: the same body until the code is final or the expected one, for some seconds. */
async function until(result: unknown, ask: () => Promise<string>): Promise<string> {
  for (let triesLeft = 50; ; triesLeft -= 1) {
    const answer = await ask();
    const code = JSON.parse(answer).result;
    if (code === result || code !== 1 || triesLeft === 0) return answer;
    await new Promise((done) => setTimeout(done, 100));
  }
}

/** Answers of two runs as the same text: the centre's ids numbered as they come, moments replaced by one word. */
function comparable(): (json: string) => string {
  const ids = new Map<string, number>();
  return (json) =>
    minified(json)
      .replace(/(?<="transactionId":)\d+/g, (id) => {
        if (!ids.has(id)) ids.set(id, ids.size);
        return `#${ids.get(id)}`;
      })
      .replace(
        /(?<="(?:transactionDate|statusDate)":")\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(?=")/g,
        'moment',
      );
}

describe('docs/chaos.md', () => {
  const folder = join(import.meta.dirname, 'chaos');
  const page = readFileSync(join(import.meta.dirname, '../../../docs/chaos.md'), 'utf8');
  const experiments = readdirSync(folder).filter((name) => name.endsWith('.test.ts'));

  test('lists the experiments by the number and the name they have', () => {
    const rows = [...page.matchAll(/^\| (\d+) \| ([^|]+) \|/gm)].map(
      ([, number, name]) => `${number} ${name}`,
    );
    const written = experiments.map((file) => {
      const text = readFileSync(join(folder, file), 'utf8');
      const number = /^ {2}number: (\d+),$/m.exec(text)?.[1];
      expect(file.slice(0, 2), file).toBe(number?.padStart(2, '0'));
      return `${number} ${/^ {2}name: ['"](.+)['"],$/m.exec(text)?.[1]}`;
    });
    expect(rows).toEqual(written);
  });

  test('names rules as the oracle does', () => {
    const oracle = readFileSync(join(import.meta.dirname, 'support/oracle.ts'), 'utf8');
    const rules = new Set([...oracle.matchAll(/^ {2}\| '(.+)'/gm)].map(([, rule]) => rule));
    const table = page.split('\n').filter((line) => line.startsWith('| O'));
    const named = [...table.join().matchAll(/\*([a-z][^*|]+)\*/g)].map(([, rule]) => rule!);
    expect(named.length).toBeGreaterThan(10);
    expect(named.filter((rule) => !rules.has(rule))).toEqual([]);
  });
});

describe('docs/protocol.md and docs/protocol.ru.md', () => {
  test('have the same sections, tables, lists and examples', () => {
    const shape = (markdown: string) => ({
      headings: [...markdown.matchAll(/^(#+) (\d+)?/gm)].map(
        ([, level, number]) => `${level} ${number ?? ''}`,
      ),
      rowCount: markdown.match(/^\|/gm)?.length,
      itemCount: markdown.match(/^- /gm)?.length,
      examples: blocks(markdown).filter(({ kind }) => kind !== 'mermaid'),
    });
    expect(shape(protocols[1])).toEqual(shape(protocols[0]));
  });

  test('name every HTTP error with its status', () => {
    const known = Object.entries(httpErrors).map(([key, { status }]) => [String(status), key]);
    for (const markdown of protocols) {
      expect(table(markdown, 'HTTP', '`error`').map((row) => row.slice(0, 2))).toEqual(known);
    }
  });

  test('name every end of an account that the sandbox knows, and no other', () => {
    const ends = Array.from({ length: 10_000 }, (_, end) => String(end).padStart(4, '0'));
    const scripted = ends.filter((end) => scriptOf(end) !== scriptOf('9999'));
    for (const rows of [
      table(protocols[0], 'account ends with', 'check'),
      table(protocols[1], '`account` кончается на', 'check'),
    ]) {
      const documented = rows.slice(0, -1);
      expect(documented.map(([end]) => end).sort()).toEqual(scripted);
      for (const [end, checked, paid] of documented) {
        const { check, pay } = scriptOf(end!);
        expect(checked, end).toBe(check === 'hangs' ? '1' : String(check));
        if (typeof pay === 'number') expect(paid, end).toMatch(new RegExp(`\\b${pay}$`));
      }
    }
  });

  test('show answers that the centre really gives, to the last digit', async () => {
    const examples = blocks(protocols[0]).filter(({ kind }) => kind.startsWith('json '));
    const requests = examples.flatMap(({ kind, text }, index) => {
      const next = examples[index + 1];
      const answer = next?.kind === 'json answer' ? next.text : null;
      return kind === 'json answer' ? [] : [{ method: kind.slice('json '.length), text, answer }];
    });
    expect(requests.length).toBeGreaterThan(15);
    await withCentre(async (post) => {
      const documented = comparable();
      const given = comparable();
      for (const { method, text, answer } of requests) {
        const expected = answer === null ? { result: 0 } : JSON.parse(answer);
        const actual = await until(expected.result, () => post(method, text));
        if (answer === null) expect(JSON.parse(actual).result, text).toBe(0);
        else if (method === 'services') {
          // The page shows a part of the list.
          const all = JSON.parse(actual);
          expect(Object.keys(expected)).toEqual(Object.keys(all));
          for (const key of ['serviсes', 'services'])
            expect(all[key]).toEqual(expect.arrayContaining(expected[key]));
        } else expect(given(actual)).toBe(documented(answer));
      }
    });
  });
});

interface Media {
  readonly schema: { readonly $ref: string };
  readonly examples?: Readonly<Record<string, { readonly value: { readonly result?: number } }>>;
}
interface Content {
  readonly $ref?: string;
  readonly description?: string;
  readonly content: { readonly 'application/json': Media };
}
interface OpenApi {
  readonly paths: Readonly<
    Record<
      string,
      { readonly post: { readonly requestBody: Content; readonly responses: Record<string, Content> } }
    >
  >;
  readonly components: {
    readonly schemas: Readonly<
      Record<string, { enum?: unknown; properties?: { error?: { enum?: unknown } } }>
    >;
    readonly requestBodies: Readonly<Record<string, Content>>;
    readonly responses: Readonly<Record<string, Content>>;
  };
}

describe('openapi/agent-protocol.yaml', () => {
  const text = readFileSync(join(root, 'openapi/agent-protocol.yaml'), 'utf8');
  const { paths, components }: OpenApi = parseYaml(text);
  const named = (kind: 'requestBodies' | 'responses', each: Content) =>
    each.$ref ? components[kind][each.$ref.split('/').at(-1)!]! : each;
  const operations = Object.entries(paths).map(([path, { post }]) => ({
    path,
    method: path.split('/').at(-1)!,
    responses: post.responses,
    request: named('requestBodies', post.requestBody).content['application/json'],
    answer: post.responses['200']!.content['application/json'],
  }));

  const ajv = new Ajv2020({ allErrors: true, allowUnionTypes: true, formats: { int64: true } });
  ajv.addVocabulary(['components']);
  ajv.addSchema({ $id: 'openapi', components });
  /** What is wrong with the value by the schema; empty when nothing is. */
  const wrongIn = (value: unknown, schema: Media['schema']) => {
    const validate = ajv.getSchema(`openapi${schema.$ref}`)!;
    return validate(value) ? [] : validate.errors;
  };

  test('is a valid OpenAPI 3.1 description', async () => {
    const validator = new Validator();
    expect(await validator.validate(text)).toEqual({ valid: true });
    expect(validator.version).toBe('3.1');
  });

  test('has the routes of the server, and no other', async () => {
    const { app } = buildEdge({ prefixes: [] });
    const routes: string[] = [];
    app.addHook('onRoute', ({ method, url }) => {
      if (method === 'POST') routes.push(url);
    });
    await app.ready();
    await app.close();
    expect(Object.keys(paths).sort()).toEqual(routes.sort());
  });

  test('has the result codes and the HTTP errors of the registry, and no other', () => {
    expect(components.schemas.Result!.enum).toEqual(codes.map(({ code }) => code));
    expect(components.schemas.HttpError!.properties!.error!.enum).toEqual(Object.keys(httpErrors));
    // Another path and another HTTP method are no operation; their statuses are told at the top.
    const anywhere = Object.entries(httpErrors).filter(([, { status }]) => status !== 404 && status !== 405);
    const statuses = new Set(['200', '503', ...anywhere.map(([, { status }]) => String(status))]);
    for (const { path, responses } of operations) {
      expect(new Set(Object.keys(responses)), path).toEqual(statuses);
      for (const [key, { status }] of anywhere) {
        expect(named('responses', responses[status]!).description, path).toContain(`\`${key}\``);
      }
    }
  });

  test('has examples that its own schemas allow', () => {
    for (const { path, request, answer, responses } of operations) {
      const busy = named('responses', responses['503']!).content['application/json'];
      for (const { schema, examples = {} } of [request, answer, busy]) {
        for (const [name, { value }] of Object.entries(examples))
          expect(wrongIn(value, schema), `${path} ${name}`).toEqual([]);
      }
    }
  });

  test('allows no answer with a member, a code or a number that is none', () => {
    const answer = { result: 0, resultMessage: 'OK', transactionId: 1, agentTransactionId: 1 };
    const schema = { $ref: '#/components/schemas/CheckAnswer' };
    expect(wrongIn(answer, schema)).toEqual([]);
    for (const wrong of [{ surprise: 1 }, { result: 2 }, { transactionId: '1' }, { agentTransactionId: 0 }]) {
      expect(wrongIn({ ...answer, ...wrong }, schema), JSON.stringify(wrong)).not.toEqual([]);
    }
  });

  test('shows answers that the centre really gives', async () => {
    await withCentre(async (post) => {
      const documented = comparable();
      const given = comparable();
      for (const { path, method, request, answer } of operations) {
        const shown = answer.examples ?? {};
        const asked = Object.entries(request.examples ?? {});
        expect(Object.keys(shown).filter((name) => !request.examples?.[name])).toEqual([]);
        for (const [name, { value }] of asked) {
          const expected = shown[name]?.value ?? { result: 0 };
          const actual = await until(expected.result, () => post(method, JSON.stringify(value)));
          expect(wrongIn(JSON.parse(actual), answer.schema), `${path} ${name}`).toEqual([]);
          if (!shown[name]) expect(JSON.parse(actual).result, `${path} ${name}`).toBe(0);
          else
            expect(given(JSON.stringify(JSON.parse(actual))), `${path} ${name}`).toBe(
              documented(JSON.stringify(expected)),
            );
        }
      }
    });
  });
});
