/**
 * Bodies that a broken, hostile or merely careless client could send. Each comes with what is known of it beforehand:
 * the id that the answer must echo, or null where nothing can be said.
 */
import fc from 'fast-check';

export interface FuzzCase {
  readonly method: string;
  readonly body: Buffer;
  /** Digits of a readable agentTransactionId in a readable body; null: unknown. */
  readonly echo: string | null;
}

const methods = ['check', 'pay', 'service', 'operatorByPhone', 'services', 'balance'] as const;

const valid: Readonly<Record<string, string>> = {
  serviceId: '"P1011"',
  account: '"7770017711"',
  agentTransactionId: '1233355',
  agentTransactionDate: '"2015-02-17T16:48:37"',
  amountTo: '200.00',
  amountFrom: '200.00',
  identityCard: '"123456789"',
  fullName: '"Иванов Иван Иванович"',
  extras: '{"contractId":"000000588","ev_account1":"5"}',
  extraServices:
    '[{"subServiceId":"114","lastCount":"11236","amount":100.00},{"subServiceId":"37","amount":"100"}]',
  phoneNumber: '"7777731414"',
};
const names = Object.keys(valid);

/** A literal of JSON, as text, of any type and of awkward values. */
const literal: fc.Arbitrary<string> = fc.oneof(
  fc.constantFrom(
    ...[
      'null',
      'true',
      'false',
      '{}',
      '[]',
      '""',
      '" "',
      '0',
      '-0',
      '-1',
      '1.0',
      '1e3',
      '1E+2',
      '1e400',
      '0.001',
    ],
    ...[
      '9007199254740991',
      '9007199254740993',
      '9223372036854775807',
      '9223372036854775808',
      '1.10',
      '200.000',
    ],
    ...['"\\ud83d\\ude00"', '"\\t\\n"', '"\\u0085"', '"200,00"', '"+200"', '"٢٠٠"', '"2015-02-30T00:00:00"'],
    ...['"2015-02-17T16:48:37Z"', '"9999-12-31T23:59:59-14:00"', '"0000-01-01T00:00:00"', '12345678901234.5'],
    ...[
      '{"__proto__":"a","constructor":"b"}',
      '[[[[[[[[[[[[[[]]]]]]]]]]]]]]',
      '[null]',
      '[{}]',
      '{"a":{"b":[1]}}',
    ],
    ...['{"ev_":"x"}', '{"ev_a":"1","a":"2"}', '{"":""}', '[{"subServiceId":1,"amount":-1,"lastCount":{}}]'],
    `"${'9'.repeat(201)}"`,
    '9'.repeat(5000),
    `0.${'0'.repeat(5000)}1`,
  ),
  fc.string({ unit: 'binary', maxLength: 30 }).map((text) => JSON.stringify(text)),
  fc.bigInt({ min: -(2n ** 70n), max: 2n ** 70n }).map(String),
  fc.double().map((value) => JSON.stringify(value)),
  fc.jsonValue({ maxDepth: 4 }).map((value) => JSON.stringify(value)),
);

const id = fc.oneof(
  fc.bigInt({ min: 1n, max: 2n ** 63n - 1n }),
  fc.constantFrom(1n, 2n ** 53n - 1n, 2n ** 53n + 1n, 10n ** 18n - 1n, 2n ** 63n - 1n),
);

const method = fc.constantFrom(...methods);

/**
 * Whole objects with a readable id and up to three other fields replaced, taken away or added: the id must come back.
 */
const misshapen: fc.Arbitrary<FuzzCase> = fc
  .record({
    method: fc.constantFrom('check', 'pay'),
    id,
    quoted: fc.boolean(),
    changes: fc.array(fc.tuple(fc.constantFrom(...names), fc.option(literal)), { maxLength: 3 }),
    unknown: fc.option(
      fc.tuple(
        fc.string({ maxLength: 8 }).map((name) => `x${name}`),
        literal,
      ),
    ),
    space: fc.constantFrom('', ' ', '\n\t', '\r\n'),
    bom: fc.boolean(),
  })
  .map(({ method, id, quoted, changes, unknown, space, bom }) => {
    const fields = new Map<string, string>(Object.entries(valid));
    for (const [name, changed] of changes) {
      if (changed === null) fields.delete(name);
      else fields.set(name, changed);
    }
    fields.set('agentTransactionId', quoted ? `"${id}"` : String(id));
    if (unknown) fields.set(unknown[0], unknown[1]);
    const members = [...fields].map(
      ([name, text]) => `${space}${JSON.stringify(name)}${space}:${space}${text}`,
    );
    const body = Buffer.from(`${bom ? '\ufeff' : ''}{${members.join(`${space},`)}${space}}`);
    return { method, body, echo: readable(body) ? String(id) : null };
  });

/** What makes a whole body unreadable by the rules may have come in with a literal. */
function readable(body: Buffer): boolean {
  const text = body.toString().replace(/^\ufeff/, '');
  if (body.length > 65_536 || /\\u0000|\\ud[89a-f]/i.test(text.replaceAll('\\ud83d\\ude00', '')))
    return false;
  return depthOf(JSON.parse(text)) <= 16 && membersIn(JSON.parse(text)) === membersWritten(text);
}

function depthOf(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 0;
  return 1 + Math.max(0, ...Object.values(value).map(depthOf));
}

function membersIn(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 0;
  const parts = Object.values(value);
  return (
    (Array.isArray(value) ? 0 : parts.length) + parts.reduce((sum: number, part) => sum + membersIn(part), 0)
  );
}

function membersWritten(text: string): number {
  return text.replace(/"(?:[^"\\]|\\.)*"/g, '').split(':').length - 1;
}

/** A whole body with one place damaged: cut off, a byte changed, a piece repeated. */
const damaged: fc.Arbitrary<FuzzCase> = fc
  .record({
    sound: misshapen,
    kind: fc.constantFrom('cut', 'byte', 'repeat', 'remove'),
    at: fc.nat(),
    length: fc.nat({ max: 40 }),
    byte: fc.nat({ max: 255 }),
  })
  .map(({ sound, kind, at, length, byte }) => {
    const { method, body } = sound;
    const start = at % body.length;
    const [before, piece, after] = [
      body.subarray(0, start),
      body.subarray(start, start + length),
      body.subarray(start + length),
    ];
    const parts = {
      cut: [before],
      byte: [before, Buffer.from([byte]), body.subarray(start + 1)],
      repeat: [before, piece, piece, after],
      remove: [before, after],
    }[kind]!;
    return { method, body: Buffer.concat(parts), echo: null };
  });

const anyBytes: fc.Arbitrary<FuzzCase> = fc.record({
  method,
  body: fc.oneof(
    fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes)),
    fc.json().map((text) => Buffer.from(text)),
    literal.map((text) => Buffer.from(text)),
    fc
      .array(
        fc.constantFrom('{', '}', '[', ']', '"', ':', ',', '\\', 'u', '0', 'e', '-', ' ', '\ufeff', 'ә'),
        { maxLength: 40 },
      )
      .map((tokens) => Buffer.from(tokens.join(''))),
  ),
  echo: fc.constant(null),
});

export const fuzzCase: fc.Arbitrary<FuzzCase> = fc.oneof(
  { weight: 5, arbitrary: misshapen },
  { weight: 3, arbitrary: damaged },
  { weight: 2, arbitrary: anyBytes },
);

const whole = (changes: Readonly<Record<string, string>> = {}) =>
  `{${Object.entries({ ...valid, ...changes })
    .map(([name, text]) => `"${name}":${text}`)
    .join()}}`;
const nasty = (body: string | Buffer, echo: string | null = null): FuzzCase[] =>
  methods.map((method) => ({
    method,
    body: Buffer.from(body),
    echo: method === 'check' || method === 'pay' ? echo : null,
  }));

/** Hand-made cases: each once broke some JSON reader, number type or payment system. */
export const nasties: readonly FuzzCase[] = [
  ...nasty(''),
  ...nasty('\ufeff'),
  ...nasty('\ufeff\ufeff{}'),
  ...nasty('null'),
  ...nasty('[]'),
  ...nasty('"{}"'),
  ...nasty('{}'),
  ...nasty('{'),
  ...nasty('{"account":'),
  ...nasty('{"account":"777'),
  ...nasty('{"account":"777\\'),
  ...nasty('{"account":"777\\u00'),
  ...nasty('['.repeat(65_000)),
  ...nasty('{"a":'.repeat(10_000)),
  ...nasty(`{"a":${'['.repeat(15)}${']'.repeat(15)}}`),
  ...nasty(`{"a":${'['.repeat(16)}${']'.repeat(16)}}`),
  ...nasty(`{"a":"${'\\"['.repeat(10_000)}"}`),
  ...nasty(`{${' '.repeat(65_000)}}`),
  ...nasty(Buffer.from([0xff, 0xfe, 0x7b, 0x00, 0x7d, 0x00])),
  ...nasty(Buffer.from([0x7b, 0x22, 0xed, 0xa0, 0x80, 0x22, 0x3a, 0x31, 0x7d])),
  ...nasty(Buffer.from([0x7b, 0x22, 0xf4, 0x90, 0x80, 0x80, 0x22, 0x3a, 0x31, 0x7d])),
  ...nasty(whole().replace('{', '{"account":"7770017711",')),
  ...nasty(whole().replace('{', '{"account":"7770017712",')),
  ...nasty(whole().replace('{', '{"agentTransactionId":1233355,')),
  ...nasty(whole({ extras: '{"a":"1","a":"1"}' })),
  ...nasty(whole({ agentTransactionId: '9007199254740991' }), '9007199254740991'),
  ...nasty(whole({ agentTransactionId: '9007199254740992' }), '9007199254740992'),
  ...nasty(whole({ agentTransactionId: '9007199254740993' }), '9007199254740993'),
  ...nasty(whole({ agentTransactionId: '"9223372036854775807"' }), '9223372036854775807'),
  ...nasty(whole({ agentTransactionId: '9223372036854775808' })),
  ...nasty(whole({ agentTransactionId: '1e18' })),
  ...nasty(whole({ agentTransactionId: '1233355.0' })),
  ...nasty(whole({ agentTransactionId: '9'.repeat(60_000) })),
  ...nasty(whole({ agentTransactionId: '7', amountTo: '1e400' }), '7'),
  ...nasty(whole({ agentTransactionId: '7', amountTo: '-1e-400' }), '7'),
  ...nasty(whole({ agentTransactionId: '7', amountTo: '9'.repeat(60_000) }), '7'),
  ...nasty(whole({ agentTransactionId: '7', amountTo: '0.1', amountFrom: '0.10' }), '7'),
  ...nasty(whole({ agentTransactionId: '7', account: '"7770017711\\u202e"' }), '7'),
  ...nasty(whole({ agentTransactionId: '7', account: `"${'\\ud83d\\ude00'.repeat(201)}"` }), '7'),
  ...nasty(whole({ agentTransactionId: '7', account: '"\\u0000"' })),
  ...nasty(whole({ agentTransactionId: '7', account: '"\\ud800"' })),
  ...nasty(whole({ agentTransactionId: '7', extras: '{"\\udc00":"x"}' })),
  ...nasty(whole({ agentTransactionId: '7', extras: '{"__proto__":{"toString":"x"}}' }), '7'),
  ...nasty(
    whole({ agentTransactionId: '7', extras: '{"__proto__":"x","constructor":"y","toString":"z"}' }),
    '7',
  ),
  ...nasty(whole({ agentTransactionId: '7', __proto__x: '{}' }).replace('__proto__x', '__proto__'), '7'),
  // Cyrillic look-alikes are other names.
  ...nasty(whole({ agentTransactionId: '7' }).replace('"account"', '"ассount"'), '7'),
  ...nasty(whole().replace('"agentTransactionId"', '"аgentTransactionId"')),
  ...nasty(whole({ agentTransactionId: '7', extraServices: `[${'{},'.repeat(199)}{}]` }), '7'),
  ...nasty(whole({ agentTransactionId: '7', extraServices: `[${'0,'.repeat(9000)}0]` }), '7'),
  ...nasty(
    whole({
      agentTransactionId: '7',
      extras: `{${Array.from({ length: 4000 }, (_, i) => `"k${i}":"v"`).join()}}`,
    }),
    '7',
  ),
];
