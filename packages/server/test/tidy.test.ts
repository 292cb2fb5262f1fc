/** What the project asks of its files, by machine: who imports whom, and what is left lying about. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, posix } from 'node:path';
import { describe, expect, test } from 'vitest';

const root = join(import.meta.dirname, '../../..');

const notOurs = new Set([
  '.git',
  'node_modules',
  'dist',
  'data',
  'coverage',
  'bench-results',
  'chaos-results',
]);

/** Every file of the project, without asking git: a tree may have come without it. */
function walk(directory: string): string[] {
  return readdirSync(join(root, directory), { withFileTypes: true })
    .filter((entry) => !notOurs.has(entry.name))
    .flatMap((entry) => {
      const path = posix.join(directory, entry.name);
      return entry.isDirectory() ? walk(path) : [path];
    });
}

const files = walk('');
const read = (path: string) => readFileSync(join(root, path), 'utf8');

const prefix = 'packages/server/src/';
const sources = files.filter((path) => path.startsWith(prefix)).map((path) => path.slice(prefix.length));
const importLine = /^(?:import|export)\b[^'";]*?\bfrom '([^']+)'|^import '([^']+)'|\bimport\('([^']+)'\)/gm;

/** By file under src: the files it imports, and the packages and `node:` modules. */
const imports = new Map(
  sources.map((path) => {
    const targets = [...read(prefix + path).matchAll(importLine)].map(
      (match) => match.slice(1).find(Boolean)!,
    );
    const [own, foreign] = [true, false].map((wanted) =>
      targets.filter((target) => target.startsWith('.') === wanted),
    );
    const files = own!.map((target) => posix.join(posix.dirname(path), target).replace(/\.js$/, '.ts'));
    return [path, { files, packages: foreign! }];
  }),
);

describe('imports', () => {
  const section = read('ARCHITECTURE.md').split('\n## Allowed imports\n')[1]!.split('\n## ')[0]!;
  const allowed = new Map(
    [...section.matchAll(/^\| `([^`]+)` \| (.+) \|$/gm)].map(([, from, list]) => [
      from!,
      [...list!.matchAll(/`([^`]+)`/g)].map(([, to]) => to!),
    ]),
  );
  /** The row that speaks for a file: its folder, or the file itself beside the folders. */
  const ownerOf = (path: string) => (path.includes('/') ? dirname(path) : path);
  const crossing = [...imports].flatMap(([from, { files }]) =>
    files.filter((to) => ownerOf(to) !== ownerOf(from)).map((to) => ({ from, to })),
  );
  const covers = (entry: string, path: string) => entry === path || entry === dirname(path);

  test('go only where ARCHITECTURE.md allows it', () => {
    const forbidden = crossing.filter(
      ({ from, to }) => !allowed.get(ownerOf(from))?.some((entry) => covers(entry, to)),
    );
    expect(forbidden).toEqual([]);
  });

  test('are all used that ARCHITECTURE.md allows, and every folder has its row', () => {
    expect([...allowed.keys()].sort()).toEqual([...new Set(sources.map(ownerOf))].sort());
    const unused = [...allowed].flatMap(([from, list]) =>
      list
        .filter((entry) => !crossing.some((each) => ownerOf(each.from) === from && covers(entry, each.to)))
        .map((entry) => `${from} → ${entry}`),
    );
    expect(unused).toEqual([]);
  });

  test('of core are none but its own files: no package, no module of Node', () => {
    const outward = [...imports]
      .filter(([path]) => path.startsWith('core/'))
      .map(([, { packages }]) => packages);
    expect(outward.length).toBeGreaterThan(5);
    expect(outward.flat()).toEqual([]);
  });

  test('of packages with one place are found there only', () => {
    const places = {
      fastify: 'protocol',
      undici: 'providers',
      commander: 'cli',
      nodemailer: 'mail.ts',
      pino: 'main.ts',
      'prom-client': 'monitor',
      '@opentelemetry/api': 'monitor',
    };
    for (const [name, place] of Object.entries(places)) {
      const users = [...imports].filter(([, { packages }]) => packages.includes(name)).map(([path]) => path);
      expect(users.length, name).toBeGreaterThan(0);
      expect(
        users.filter((path) => !covers(place, path) && path !== `${place}.ts`),
        name,
      ).toEqual([]);
    }
  });

  test('name only packages that package.json declares', () => {
    const { dependencies } = JSON.parse(read('packages/server/package.json'));
    const named = [...imports.values()].flatMap(({ packages }) => packages);
    const undeclared = named.filter((name) => !name.startsWith('node:') && !(name in dependencies));
    expect([...new Set(undeclared)]).toEqual([]);
  });
});

test('every file under src is imported, or named by a program that starts it', () => {
  const programs = files
    .filter((path) => /^(packages\/server\/bin|tools)\/.*\.mjs$/.test(path) || path === `${prefix}main.ts`)
    .map(read)
    .join('\n');
  const imported = new Set([...imports.values()].flatMap((each) => each.files));
  // bootstrap.mjs names the files of db without their folder.
  const started = (path: string) => {
    const names = [path.replace(/\.ts$/, '.js'), posix.basename(path, '.ts')];
    return (
      programs.includes(`/${names[0]}'`) || (path.startsWith('db/') && programs.includes(`'${names[1]}'`))
    );
  };
  expect(sources.filter((path) => !imported.has(path) && !started(path))).toEqual([]);
});

test('no file only passes on what others export, and none is called utils, helpers or common', () => {
  const barrels = sources.filter((path) => {
    const code = read(prefix + path).replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, '');
    return (
      code.trim() !== '' &&
      code.replace(/^export (?:type )?(?:\*|\{[^}]*\}) from '[^']+';/gm, '').trim() === ''
    );
  });
  expect(barrels).toEqual([]);
  expect(files.filter((path) => /(^|[/.-])(utils?|helpers?|common|misc)([/.-]|$)/i.test(path))).toEqual([]);
});

test('no line of source is longer than 120 characters, messages, SQL and patterns not counted', () => {
  // What stands in quotes goes, line breaks in it stay.
  const withoutText = (code: string) =>
    code
      .replace(/`(?:[^`\\]|\\[\s\S])*`/g, (text) => text.replace(/[^\n]/g, ''))
      .replace(/'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|^ *\/\S.*\/[a-z]*,$/gm, '');
  const long = files
    .filter((path) => /\.(ts|mjs)$/.test(path))
    .flatMap((path) =>
      withoutText(read(path))
        .split('\n')
        .map((code, index) => ({ at: `${path}:${index + 1}`, length: code.length }))
        .filter(({ length }) => length > 120)
        .map(({ at, length }) => `${at} ${length}`),
    );
  expect(long).toEqual([]);
});

test('nothing is left for later: no marks, no skipped or lonely tests, no paths of one machine', () => {
  const marks = [
    /\b(?:TO{1}DO|FIX{1}ME|X{2}X)\b(?! банк)/,
    /\b(?:it|test|describe)\.(?:skip|only|todo)\b/,
    /(?<![\w.])\/(?:home|Users|work|root)\/\w/,
  ];
  const left = files
    .filter((path) => !/(package-lock\.json|LICENSE)$/.test(path))
    .flatMap((path) =>
      read(path)
        .split('\n')
        .map((line, index) => ({ at: `${path}:${index + 1}`, line }))
        .filter(({ line }) => marks.some((mark) => mark.test(line)))
        .map(({ at, line }) => `${at} ${line.trim()}`),
    );
  expect(left).toEqual([]);
});
