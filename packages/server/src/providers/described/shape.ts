/**
 * The description of a provider as it is written down: its shape, and how a mistake in it is told. What the shape
 * cannot say is judged where it is compiled: request.ts, template.ts, sign.ts, read.ts.
 */
import { z } from 'zod';

/** Something in the settings that cannot be used; `path` says where, the message what to write. */
export class Mistake extends Error {
  constructor(path: string, message: string) {
    super(path === '' ? message : `${path}: ${message}`);
  }
}

/** `placeOf('pay', 'outcomes', 0, 'when', '/status')` is `pay.outcomes[0].when["/status"]`. */
export function placeOf(from: string, ...steps: readonly PropertyKey[]): string {
  const written = steps.map((step) => {
    if (typeof step === 'number') return `[${step}]`;
    return /^[A-Za-z_$][\w$]*$/.test(String(step)) ? `.${String(step)}` : `[${JSON.stringify(String(step))}]`;
  });
  return (from + written.join('')).replace(/^\./, '');
}

const must = (what: string) => ({ error: `must be ${what}` });

function strict<Shape extends z.core.$ZodLooseShape>(shape: Shape) {
  return z.strictObject(shape, {
    error: ({ code }) =>
      code === 'unrecognized_keys'
        ? `is not known here; the members are ${Object.keys(shape).join(', ')}`
        : 'must be an object',
  });
}

function named<Value extends z.ZodType>(key: z.ZodType<string, string>, what: string, value: Value) {
  return z.record(key, value, must(`an object whose names are ${what}`));
}

const matching = (pattern: RegExp, what: string) => z.string(must(what)).regex(pattern, must(what));

const pointer = matching(/^(?:\/(?:[^~/]|~[01])*)+$/, 'a JSON Pointer such as /payment/id').max(
  200,
  must('a JSON Pointer of at most 200 characters'),
);
const template = z
  .string(must('a text, with placeholders such as {{account}}'))
  .max(4000, must('at most 4000 characters'));
const settingName = matching(
  /^[A-Za-z][\w-]{0,63}$/,
  'a name in settings.values or settings.secrets: Latin letters, digits, _ and -',
);
const secretName = matching(/^[A-Za-z][\w-]{0,63}$/, 'the name of a secret in settings.secrets');
const headerName = matching(/^[A-Za-z0-9][A-Za-z0-9-]{0,63}$/, 'the name of a header');
const parameterName = matching(
  /^[\w.~[\]-]{1,64}$/,
  'the name of a parameter: Latin letters, digits and _.~-[]',
);
const memberName = z
  .string(must('the name of a member'))
  .min(1, must('the name of a member'))
  .max(64, must('the name of a member, at most 64 characters'));

const into = z
  .union(
    [
      strict({
        header: headerName,
        prefix: z.string().max(64, must('at most 64 characters')).optional(),
      }),
      strict({ query: parameterName }),
      strict({ body: memberName }),
    ],
    must('{"header": "X-Signature"} with an optional "prefix", {"query": "sign"} or {"body": "sign"}'),
  )
  .describe('Where the signature goes.');
const signature = {
  key: secretName,
  over: template.describe(
    'What is signed: {{method}}, {{path}}, {{query}}, {{body}} and all values of the call.',
  ),
  encoding: z.literal(['hex', 'base64'], must('"hex" or "base64"')),
  into,
};

const proof = z.discriminatedUnion(
  'kind',
  [
    strict({ kind: z.literal('hmac-sha256'), ...signature }),
    strict({ kind: z.literal('rsa-sha256'), ...signature }),
    strict({ kind: z.literal('basic'), login: settingName, password: secretName }),
    strict({ kind: z.literal('bearer'), token: secretName }),
    strict({ kind: z.literal('header'), name: headerName, value: template }),
  ],
  must('an object whose "kind" is "hmac-sha256", "rsa-sha256", "basic", "bearer" or "header"'),
);
export type Proof = z.infer<typeof proof>;

const proofs = z
  .array(proof, must('a list'))
  .max(8, must('at most 8 entries'))
  .describe('How a request proves whose it is, in this order.');

const expected = z.union(
  [
    z.string().max(200, must('at most 200 characters')),
    z.int(),
    z.boolean(),
    z.null(),
    strict({ $absent: z.literal(true) }).describe('There is nothing at the pointer.'),
    strict({ $present: z.literal(true) }).describe(
      'There is a text that is not empty, a number, true or false.',
    ),
  ],
  must(
    'a text, a whole number, true, false, null, {"$absent": true} or {"$present": true}, or a list of them; write other numbers as texts',
  ),
);
export type Expected = z.infer<typeof expected>;

const httpStatus = z
  .int(must('an HTTP status'))
  .min(100, must('an HTTP status'))
  .max(599, must('an HTTP status'));

const oneOrMore = <T extends z.ZodType>(each: T, error: { error: string }) =>
  z.union([each, z.array(each).min(1, error).max(64, must('a list of at most 64'))], error);

const conditions = z
  .object(
    {
      httpStatus: oneOrMore(httpStatus, must('an HTTP status or a list of them')).optional(),
    },
    must('an object of conditions'),
  )
  .catchall(
    oneOrMore(
      expected,
      must(
        'a text, a whole number, true, false, null, {"$absent": true} or {"$present": true}, or a list of them; write other numbers as texts',
      ),
    ),
  )
  .describe(
    'JSON Pointers with the values that may stand there. All must hold. Without httpStatus: only for 200.',
  );

const reason = 'a sentence that says why the answer cannot be about another payment';
const about = z
  .union(
    [pointer, strict({ none: z.string().min(10, must(reason)).max(300, must(reason)) })],
    must(
      'the JSON Pointer of the id that must equal {{externalId}}, or {"none": "why the answer cannot be about another payment"}',
    ),
  )
  .describe('The id that proves which payment the answer is about.');
export type About = z.infer<typeof about>;

const refusal = strict({
  refused: z.literal([4, 5, 7, 241, 242, 300]),
});

function outcomes<const Words extends readonly string[]>(words: Words) {
  const said = `${words.map((each) => `"${each}"`).join(', ')} or {"refused": 4, 5, 7, 241, 242 or 300}`;
  const rule = strict({
    when: conditions,
    // biome-ignore lint/suspicious/noThenProperty: the word of the description, and no promise.
    then: z.union([z.literal(words as readonly Words[number][]), refusal], must(said)),
    about: about.optional(),
  });
  return z
    .array(rule, must('a list of {"when": …, "then": …}'))
    .min(1, must('a list with at least one {"when": …, "then": …}'))
    .max(200, must('a list of at most 200 rules'))
    .describe('The first that matches counts; none: unknown.');
}

const request = {
  method: z.literal(['GET', 'POST', 'PUT'], must('"GET", "POST" or "PUT"')),
  path: template.describe('Below the base URL, beginning with /, without a query.'),
  query: named(parameterName, 'names of parameters', template).optional(),
  headers: named(headerName, 'names of headers', template).optional(),
  body: z
    .record(z.string(), z.json(), must('a JSON object with placeholders in its texts'))
    .optional()
    .describe('Sent as JSON.'),
  auth: proofs.optional().describe('In place of the common one.'),
};

const code = oneOrMore(pointer, must('the JSON Pointer of the code or status, or a list of them')).describe(
  "Where the provider's word stands: every rule with a result names one of these pointers.",
);
const texts = named(memberName, 'what is shown', pointer);
const amount = strict({
  at: pointer,
  unit: z.literal(['major', 'minor'], must('"major" for 200.00 or "minor" for 20000')),
});

const check = strict({
  ...request,
  code,
  about: about.optional(),
  outcomes: outcomes(['ok', 'unknown']),
  displays: texts.optional(),
  fixedAmount: amount.optional().describe('The only amount that may be paid.'),
  amountMin: amount.optional(),
  amountMax: amount.optional(),
});

const result = {
  code,
  about,
  reference: pointer.optional().describe("The provider's own number; executed is not believed without it."),
  displays: texts.optional(),
  secrets: texts.optional().describe('As displays, but worth money by themselves: kept encrypted.'),
};
const pay = strict({ ...request, ...result, outcomes: outcomes(['executed', 'pending', 'unknown']) });
const status = strict({
  ...request,
  ...result,
  outcomes: outcomes(['executed', 'pending', 'not_found', 'unknown']),
});

const milliseconds = z
  .int(must('whole milliseconds'))
  .min(0, must('whole milliseconds, not less than 0'))
  .max(86_400_000, must('whole milliseconds, at most a day'));

const description = strict({
  version: z.literal(1, must('1')),
  offers: strict({
    deduplicates: z
      .boolean(must('true where the provider promises to execute one id at most once, else false'))
      .describe(
        'The provider promises to execute one id at most once: a repeat is then sent where nothing else helps.',
      ),
    notFoundTrustedAfterMs: milliseconds
      .nullable()
      .describe('How long after the last attempt "not_found" proves that nothing was executed; null: never.'),
    answerMs: milliseconds
      .optional()
      .describe('How long the provider may take; settings.answerMsMax is not less.'),
  }),
  auth: proofs.optional(),
  plain: z
    .array(memberName, must('a list of names'))
    .max(100, must('a list of at most 100 names'))
    .optional()
    .describe("Names whose values may stand readable in a payment's history."),
  check: check.optional(),
  pay,
  status: status.optional(),
});
export type Description = z.infer<typeof description>;
export type Check = z.infer<typeof check>;
export type Pay = z.infer<typeof pay>;
export type Status = z.infer<typeof status>;
export type Rule = (Check | Pay | Status)['outcomes'][number];
export type AmountAt = z.infer<typeof amount>;
export type Place = 'check' | 'pay' | 'status';

const constants = named(
  settingName,
  'Latin letters, digits, _ and -',
  z
    .string(must('a text'))
    .min(1, must('a text that is not empty'))
    .max(10_000, must('at most 10000 characters')),
);

const ownSettings = {
  description,
  values: constants.default({}).describe('Constants for {{setting.name}}.'),
  secrets: constants
    .default({})
    .describe('Constants for {{setting.name}} and signatures that nobody may see.'),
};

/** The sender reads the others. */
const settingsShape = z.object(
  { ...ownSettings, baseUrl: z.string().optional(), answerMsMax: z.number().optional() },
  must('an object'),
);
export type Settings = z.infer<typeof settingsShape>;

/** The whole file of such a provider, for the published JSON Schema. */
export const providerFile = z.strictObject({
  name: z.string(),
  connector: z.literal('described'),
  settings: z.looseObject({ baseUrl: z.string(), ...ownSettings }),
});

/** Throws a Mistake that names the first wrong place. Nothing that was given is quoted but names. */
export function readSettings(settings: unknown): Settings {
  const parsed = settingsShape.safeParse(settings);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  const inside = issue.code === 'unrecognized_keys' ? issue.keys.slice(0, 1) : [];
  throw new Mistake(placeOf('', ...issue.path, ...inside), issue.message);
}
