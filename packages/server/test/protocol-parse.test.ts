import { describe, expect, test } from 'vitest';
import { messageFor } from '../src/core/codes.js';
import { localTimeIn } from '../src/core/time.js';
import { NumberLiteral, parseBody } from '../src/protocol/json.js';
import {
  readAgentTransactionId,
  shapeCheck,
  shapeOperatorByPhone,
  shapePay,
} from '../src/protocol/requests.js';

const parse = (text: string) => parseBody(Buffer.from(text));
const nested = (depth: number) => `{"a":${'['.repeat(depth - 1)}${']'.repeat(depth - 1)}}`;
const almaty = localTimeIn('Asia/Almaty');

describe('a body is read exactly', () => {
  test.each([
    ['an empty body', '', 'body_syntax|0'],
    ['white space only', ' \n', 'body_syntax|2'],
    ['an array', '[1]', 'body_malformed|array'],
    ['a string', '"a"', 'body_malformed|string'],
    ['a number', '1', 'body_malformed|number'],
    ['null', 'null', 'body_malformed|null'],
    ['cut short', '{"a":1', 'body_syntax|6'],
    ['a comma too many', '{"a":1,}', 'body_syntax|7'],
    ['single quotes', "{'a':1}", 'body_syntax|1'],
    ['a leading zero', '{"a":01}', 'body_syntax|6'],
    ['a bare fraction', '{"a":.5}', 'body_syntax|5'],
    ['NaN', '{"a":NaN}', 'body_syntax|5'],
    ['a comment', '{"a":1}//', 'body_syntax|7'],
    ['two objects', '{}{}', 'body_syntax|2'],
    ['a bare control character', '{"a":"\u0001"}', 'body_syntax|6'],
    ['a bare NUL', '{"a":"\u0000"}', 'body_syntax|6'],
    ['a no-break space between tokens', '{"a":\u00a01}', 'body_syntax|5'],
    ['two BOMs', '\ufeff\ufeff{}', 'body_syntax|0'],
    ['depth 17', nested(17), 'body_depth|16'],
    ['depth 100 000', '['.repeat(100_000), 'body_depth|16'],
    ['NUL by escape', '{"a":"\\u0000"}', 'text_forbidden'],
    ['NUL in a key', '{"\\u0000":1}', 'text_forbidden'],
    ['a lone high surrogate', '{"a":"\\ud800"}', 'text_forbidden'],
    ['a lone low surrogate', '{"a":[{"b":"x\\udfffx"}]}', 'text_forbidden'],
    ['a lone surrogate in a key', '{"a":{"\\uDBFF":1}}', 'text_forbidden'],
    ['surrogates in the wrong order', '{"a":"\\ude00\\ud83d"}', 'text_forbidden'],
    ['a repeated key', '{"a":1,"a":2}', 'key_repeated|a'],
    ['a repeated key with the same value', '{"a":1,"a":1}', 'key_repeated|a'],
    ['a repeated key with the same string', '{"b":"x","a":"}","a":"}"}', 'key_repeated|a'],
    ['a key repeated deep inside', '{"a":[{"b":{"c":1,"d":":","c":1}}]}', 'key_repeated|c'],
    ['a key repeated in another spelling', '{"ab":1,"\\u0061b":1}', 'key_repeated|ab'],
    ['a repeated key whose first value repeats', '{"a":{"b":1,"b":2},"a":{"b":1}}', 'key_repeated|b'],
    ['a repeated __proto__', '{"__proto__":1,"__proto__":1}', 'key_repeated|__proto__'],
  ])('%s is refused', (_, text, why) => {
    expect(parse(text)).toEqual({ ok: false, why });
  });

  test.each([
    ['a stray continuation byte', [0x7b, 0x22, 0x80, 0x22, 0x3a, 0x31, 0x7d]],
    ['an overlong slash', [0x7b, 0x22, 0xc0, 0xaf, 0x22, 0x3a, 0x31, 0x7d]],
    ['a surrogate in UTF-8', [0x7b, 0x22, 0xed, 0xa0, 0x80, 0x22, 0x3a, 0x31, 0x7d]],
    ['UTF-16', [...Buffer.from('\ufeff{}', 'utf16le')]],
    ['windows-1251', [0x7b, 0x22, 0xf2, 0xe5, 0xed, 0x22, 0x3a, 0x31, 0x7d]],
  ])('%s is refused as not UTF-8', (_, bytes) => {
    expect(parseBody(Buffer.from(bytes))).toEqual({ ok: false, why: 'body_encoding' });
  });

  test.each([
    ['one BOM', '\ufeff{"a":"b"}', { a: 'b' }],
    ['depth 16', nested(16), JSON.parse(nested(16))],
    ['a pair of surrogates', '{"a":"\\ud83d\\ude00"}', { a: '😀' }],
    ['escapes', '{"a":"\\"\\\\\\/\\b\\f\\n\\r\\t\\u04d9"}', { a: '"\\/\b\f\n\r\tә' }],
    ['brackets and colons in strings', '{"a":"[[[[[[[[[[[[[[[[[[[:\\"{"}', { a: '[[[[[[[[[[[[[[[[[[[:"{' }],
    ['one key in two objects', '{"a":{"b":"x"},"c":{"b":"x"}}', { a: { b: 'x' }, c: { b: 'x' } }],
    ['keywords', '{"a":true,"b":false,"c":null}', { a: true, b: false, c: null }],
  ])('%s is accepted', (_, text, value) => {
    expect(parse(text)).toEqual({ ok: true, value });
  });

  test.each(['9007199254740993', '0.10', '200.00', '1e400', '-0', '123456789012345678901234567890'])(
    'the number %s keeps its literal text',
    (literal) => {
      expect(parse(`{"a":${literal}}`)).toEqual({ ok: true, value: { a: new NumberLiteral(literal) } });
    },
  );

  test('the keys __proto__ and constructor are plain data', () => {
    const read = parse('{"__proto__":{"serviceId":"P1"},"constructor":{"prototype":{"polluted":"x"}}}');
    expect(read.ok && Object.keys(read.value)).toEqual(['__proto__', 'constructor']);
    expect(read.ok && read.value.serviceId).toBeUndefined();
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  });
});

const good = {
  serviceId: '"P1011"',
  account: '"7770017711"',
  agentTransactionId: '1233355',
  agentTransactionDate: '"2015-02-17T16:48:37"',
  amountTo: '200.00',
};

/** The good request with some fields' literals replaced; null takes the field away. */
function pay(changes: Record<string, string | null> = {}) {
  const literals = Object.entries({ ...good, ...changes }).filter(([, literal]) => literal !== null);
  const read = parse(`{${literals.map(([key, literal]) => `"${key}":${literal}`).join()}}`);
  if (!read.ok) throw new Error(read.why);
  return { pay: shapePay(read.value, almaty), check: shapeCheck(read.value, almaty) };
}

function whyPay(changes: Record<string, string | null>) {
  const shaped = pay(changes).pay;
  return shaped.ok ? 'accepted' : `202 ${shaped.why}`;
}

function paid(changes: Record<string, string | null> = {}) {
  const shaped = pay(changes).pay;
  if (!shaped.ok) throw new Error(`refused: ${shaped.why}`);
  return shaped.request;
}

describe('a request in shape', () => {
  test('becomes typed values', () => {
    expect(paid()).toEqual({
      serviceId: 'P1011',
      account: '7770017711',
      agentTransactionId: 1233355n,
      agentTransactionDate: '2015-02-17T16:48:37',
      amountToMinor: 20000n,
      amountFromMinor: 20000n,
      extras: {},
      extraServices: null,
      identityCard: null,
      fullName: null,
    });
  });

  test('of check needs no amounts and invents none', () => {
    const shaped = pay({ amountTo: null }).check;
    expect(shaped.ok && [shaped.request.amountToMinor, shaped.request.amountFromMinor]).toEqual([null, null]);
  });

  test('null is an absent optional field', () => {
    const nothing = {
      amountFrom: 'null',
      extras: 'null',
      extraServices: 'null',
      identityCard: 'null',
      fullName: '""',
    };
    expect(paid(nothing)).toEqual(paid());
  });

  test.each([
    ['serviceId', null, '202 field_missing|serviceId'],
    ['serviceId', '""', '202 field_missing|serviceId'],
    ['serviceId', '5', '202 field_malformed|serviceId'],
    ['serviceId', '{}', '202 field_malformed|serviceId'],
    ['serviceId', `"${'P'.repeat(64)}"`, 'accepted'],
    ['serviceId', `"${'P'.repeat(65)}"`, '202 field_malformed|serviceId'],
    ['account', null, '202 field_missing|account'],
    ['account', 'null', '202 field_missing|account'],
    ['account', '""', '202 field_missing|account'],
    ['account', 'true', '202 field_malformed|account'],
    ['account', '["7770017711"]', '202 field_malformed|account'],
    ['account', `"${'7'.repeat(200)}"`, 'accepted'],
    ['account', `"${'7'.repeat(201)}"`, 'accepted'],
    ['account', `"${'😀'.repeat(200)}"`, 'accepted'],
    ['account', `"${'😀'.repeat(201)}"`, 'accepted'],
    ['account', '"777\\n17711"', 'accepted'],
    ['account', '"777\\u008517711"', 'accepted'],
    ['agentTransactionId', null, '202 field_missing|agentTransactionId'],
    ['agentTransactionId', 'null', '202 field_missing|agentTransactionId'],
    ['agentTransactionId', '0', '202 field_malformed|agentTransactionId'],
    ['agentTransactionId', '-1', '202 field_malformed|agentTransactionId'],
    ['agentTransactionId', '1.0', '202 field_malformed|agentTransactionId'],
    ['agentTransactionId', '1e3', '202 field_malformed|agentTransactionId'],
    ['agentTransactionId', '"01"', '202 field_malformed|agentTransactionId'],
    ['agentTransactionId', '" 1"', '202 field_malformed|agentTransactionId'],
    ['agentTransactionId', '"١"', '202 field_malformed|agentTransactionId'],
    ['agentTransactionId', 'true', '202 field_malformed|agentTransactionId'],
    ['agentTransactionId', '9223372036854775808', '202 field_malformed|agentTransactionId'],
    ['agentTransactionId', '99999999999999999999999999', '202 field_malformed|agentTransactionId'],
    ['agentTransactionDate', null, '202 field_missing|agentTransactionDate'],
    ['agentTransactionDate', '20150217164837', '202 field_malformed|agentTransactionDate'],
    ['agentTransactionDate', '"2015-02-17"', '202 field_malformed|agentTransactionDate'],
    ['agentTransactionDate', '"2015-02-17 16:48:37"', '202 field_malformed|agentTransactionDate'],
    ['agentTransactionDate', '"2015-02-30T16:48:37"', '202 field_malformed|agentTransactionDate'],
    ['agentTransactionDate', '"2015-13-01T16:48:37"', '202 field_malformed|agentTransactionDate'],
    ['agentTransactionDate', '"2015-02-17T24:00:00"', '202 field_malformed|agentTransactionDate'],
    ['agentTransactionDate', '"2015-02-17T16:48:60"', '202 field_malformed|agentTransactionDate'],
    ['agentTransactionDate', '"2015-02-29T16:48:37"', '202 field_malformed|agentTransactionDate'],
    ['agentTransactionDate', '"2016-02-29T16:48:37"', 'accepted'],
    ['agentTransactionDate', '"2015-02-17T16:48:37+15:00"', '202 field_malformed|agentTransactionDate'],
    ['agentTransactionDate', '"2015-02-17T16:48:37+0500"', '202 field_malformed|agentTransactionDate'],
    ['agentTransactionDate', '"2015-02-17T16:48:37 "', '202 field_malformed|agentTransactionDate'],
    ['agentTransactionDate', '"0000-02-17T16:48:37"', '202 field_malformed|agentTransactionDate'],
    ['agentTransactionDate', '"9999-12-31T23:59:59Z"', '202 field_malformed|agentTransactionDate'],
    ['amountTo', null, '202 field_missing|amountTo'],
    ['amountTo', 'null', '202 field_missing|amountTo'],
    ['amountTo', '""', '202 field_malformed|amountTo'],
    ['amountTo', '"200,00"', '202 field_malformed|amountTo'],
    ['amountTo', '-200', '202 field_malformed|amountTo'],
    ['amountTo', '2e2', '202 field_malformed|amountTo'],
    ['amountTo', '1e400', '202 field_malformed|amountTo'],
    ['amountTo', '200.001', '202 field_malformed|amountTo'],
    ['amountTo', '"+200"', '202 field_malformed|amountTo'],
    ['amountTo', 'true', '202 field_malformed|amountTo'],
    ['amountTo', '12345678901234', '202 field_malformed|amountTo'],
    ['amountTo', '1234567890123', 'accepted'],
    ['amountTo', '0', 'accepted'],
    ['amountFrom', '199.99', '202 field_contradicts|amountFrom|amountTo'],
    ['amountFrom', '[]', '202 field_malformed|amountFrom'],
    ['identityCard', `"${'1'.repeat(65)}"`, '202 field_malformed|identityCard'],
    ['fullName', `"${'И'.repeat(201)}"`, '202 field_malformed|fullName'],
    ['fullName', '{}', '202 field_malformed|fullName'],
    ['extras', '[]', '202 field_malformed|extras'],
    ['extras', '"a"', '202 field_malformed|extras'],
    ['extras', '{"a":true}', '202 field_malformed|extras.a'],
    ['extras', '{"a":null}', '202 field_malformed|extras.a'],
    ['extras', '{"a":{}}', '202 field_malformed|extras.a'],
    ['extras', '{"":"x"}', '202 field_malformed|extras.'],
    ['extras', '{"ev_":"x"}', '202 field_malformed|extras.ev_'],
    ['extras', `{"a":"${'x'.repeat(1000)}"}`, 'accepted'],
    ['extras', `{"a":"${'x'.repeat(1001)}"}`, '202 field_malformed|extras.a'],
    ['extras', `{"${'k'.repeat(65)}":"x"}`, `202 field_malformed|extras.${'k'.repeat(64)}`],
    ['extras', '{"a":"1","ev_a":"2"}', '202 field_contradicts|extras.ev_a|extras.a'],
    ['extras', '{"ev_a":"1","a":"2"}', '202 field_contradicts|extras.ev_a|extras.a'],
    ['extraServices', '{}', '202 field_malformed|extraServices'],
    ['extraServices', '[]', '202 field_malformed|extraServices'],
    ['extraServices', '[1]', '202 field_malformed|extraServices[0]'],
    ['extraServices', '[{"amount":1}]', '202 field_missing|extraServices[0].subServiceId'],
    [
      'extraServices',
      '[{"subServiceId":"1","amount":1},{"subServiceId":"2"}]',
      '202 field_missing|extraServices[1].amount',
    ],
    ['extraServices', '[{"subServiceId":"1","amount":"1,5"}]', '202 field_malformed|extraServices[0].amount'],
    [
      'extraServices',
      '[{"subServiceId":"1","amount":1,"lastCount":[]}]',
      '202 field_malformed|extraServices[0].lastCount',
    ],
  ])('pay with %s %s: %s', (name, literal, answer) => {
    expect(whyPay({ [name]: literal })).toBe(answer);
  });

  test('at most 64 extras and 200 extraServices are taken', () => {
    const extras = (count: number) => `{${Array.from({ length: count }, (_, i) => `"k${i}":"v"`).join()}}`;
    const lines = (count: number) => `[${'{"subServiceId":"1","amount":1},'.repeat(count).slice(0, -1)}]`;
    expect(whyPay({ extras: extras(64), extraServices: lines(200) })).toBe('accepted');
    expect(whyPay({ extras: extras(65) })).toBe('202 field_malformed|extras');
    expect(whyPay({ extraServices: lines(201) })).toBe('202 field_malformed|extraServices');
  });

  test('the first wrong field in the order of the contract is the one named', () => {
    expect(whyPay({ agentTransactionDate: '1', account: null, amountTo: 'true' })).toBe(
      '202 field_missing|account',
    );
    expect(whyPay({ amountTo: 'true', extras: '[]' })).toBe('202 field_malformed|amountTo');
  });

  test('an account too long is judged after the shape of the whole', () => {
    expect(whyPay({ account: `"${'7'.repeat(201)}"`, amountTo: null })).toBe('202 field_missing|amountTo');
  });

  test('the message names the field in every language', () => {
    expect(messageFor(202, 'ru', 'field_missing|amountTo')).toContain('amountTo');
    expect(messageFor(202, 'kk', 'key_repeated|account')).toContain('account');
    expect(messageFor(202, 'en', 'field_contradicts|amountFrom|amountTo')).toContain(
      'amountFrom contradicts amountTo',
    );
  });

  test.each(['1', '9007199254740991', '9007199254740993', '999999999999999999', '9223372036854775807'])(
    'agentTransactionId %s is exact as a number and as a string',
    (digits) => {
      expect(paid({ agentTransactionId: digits }).agentTransactionId).toBe(BigInt(digits));
      expect(paid({ agentTransactionId: `"${digits}"` }).agentTransactionId).toBe(BigInt(digits));
    },
  );

  test.each(['200', '200.0', '200.00', '200.000', '"200.00"', '"200"'])(
    '%s is the amount 200.00',
    (literal) => {
      expect(paid({ amountTo: literal, amountFrom: '"200.0000"' })).toEqual(paid());
    },
  );

  test('a number as account, extra, sub-service or meter reading is its literal text', () => {
    const request = paid({
      account: '7770017711',
      extras: '{"order":0,"ev_sum":1.50}',
      extraServices: '[{"subServiceId":36,"amount":"1.5","lastCount":11236.0}]',
    });
    expect(request.account).toBe('7770017711');
    expect(request.extras).toEqual({ order: '0', sum: '1.50' });
    expect(request.extraServices).toEqual([{ subServiceId: '36', amountMinor: 150n, lastCount: '11236.0' }]);
  });

  test('ev_NAME and NAME are one extra; the same value twice is no contradiction', () => {
    expect(paid({ extras: '{"ev_account1":"5"}' }).extras).toEqual({ account1: '5' });
    expect(paid({ extras: '{"ev_account1":"5","account1":5}' }).extras).toEqual({ account1: '5' });
  });

  test('extras named like parts of JavaScript are plain data', () => {
    const { extras } = paid({ extras: '{"__proto__":"a","ev_constructor":"b","hasOwnProperty":"c"}' });
    expect(Object.entries(extras)).toEqual([
      ['__proto__', 'a'],
      ['constructor', 'b'],
      ['hasOwnProperty', 'c'],
    ]);
    expect(paid().extras.toString).toBeUndefined();
  });

  test.each([
    ['2015-02-17T16:48:37.123456', '2015-02-17T16:48:37'],
    ['2015-02-17T16:48:37Z', '2015-02-17T22:48:37'],
    ['2015-02-17T16:48:37.5+06:00', '2015-02-17T16:48:37'],
    ['2024-12-31T23:30:00-00:30', '2025-01-01T05:00:00'],
    ['2024-02-29T17:59:59Z', '2024-02-29T23:59:59'],
    ['2024-02-29T18:00:00Z', '2024-02-29T23:00:00'],
  ])('the date %s is %s in Almaty', (sent, kept) => {
    expect(paid({ agentTransactionDate: `"${sent}"` }).agentTransactionDate).toBe(kept);
  });

  test.each([
    ['{}', 'field_missing|phoneNumber'],
    ['{"phoneNumber":""}', 'field_missing|phoneNumber'],
    ['{"phoneNumber":true}', 'field_malformed|phoneNumber'],
    ['{"phoneNumber":7777731414}', '7777731414'],
    ['{"phoneNumber":"+7 777"}', '+7 777'],
  ])('operatorByPhone of %s: %s', (text, expected) => {
    const read = parse(text);
    const shaped = shapeOperatorByPhone(read.ok ? read.value : {});
    expect(shaped.ok ? shaped.request : shaped.why).toBe(expected);
  });

  test('the id to echo is read from anything', () => {
    expect(readAgentTransactionId(undefined)).toBeNull();
    expect(readAgentTransactionId({})).toBeNull();
    expect(readAgentTransactionId('9223372036854775807')).toBe(2n ** 63n - 1n);
  });
});

describe('local time', () => {
  test.each([
    ['Asia/Almaty', '2020-10-19T14:19:23.737Z', '2020-10-19T20:19:23.737'],
    ['Asia/Almaty', '2024-02-29T17:59:59.999Z', '2024-02-29T23:59:59.999'],
    ['Asia/Almaty', '2024-02-29T18:00:00.000Z', '2024-02-29T23:00:00.000'],
    ['Asia/Almaty', '2025-06-01T00:00:00.000Z', '2025-06-01T05:00:00.000'],
    ['Asia/Kolkata', '2025-06-01T18:29:59.001Z', '2025-06-01T23:59:59.001'],
    ['Australia/Lord_Howe', '2025-04-05T14:59:59.000Z', '2025-04-06T01:59:59.000'],
    ['Australia/Lord_Howe', '2025-04-05T15:00:00.000Z', '2025-04-06T01:30:00.000'],
    ['America/New_York', '2025-03-09T06:59:59.999Z', '2025-03-09T01:59:59.999'],
    ['America/New_York', '2025-03-09T07:00:00.000Z', '2025-03-09T03:00:00.000'],
    ['UTC', '2025-03-09T07:00:00.000Z', '2025-03-09T07:00:00.000'],
  ])('in %s at %s it is %s', (zone, moment, local) => {
    const format = localTimeIn(zone);
    expect(format(new Date(moment))).toBe(local);
    expect(format(new Date(moment))).toBe(local);
  });

  test('agrees with Intl at every hour of the year of the change', () => {
    const reference = new Intl.DateTimeFormat('sv-SE', {
      timeZone: 'Asia/Almaty',
      dateStyle: 'short',
      timeStyle: 'medium',
    });
    for (let hour = 0; hour < 8784; hour += 1) {
      const moment = new Date(Date.UTC(2024, 0, 1, hour, hour % 60, 7));
      expect(almaty(moment)).toBe(`${reference.format(moment).replace(' ', 'T')}.000`);
    }
  });
});
