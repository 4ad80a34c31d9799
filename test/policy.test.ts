import { readFileSync } from 'node:fs';
import { Ajv } from 'ajv';
import { describe, expect, test } from 'vitest';
import { parsePolicy } from '../src/policy.js';
import { REPORT_FORMATS } from '../src/report/formats.js';

const parse = (value: unknown) => parseText(JSON.stringify(value));
const parseText = (text: string) => parsePolicy(new TextEncoder().encode(text), 'p.json');

function catchFailure(action: () => unknown): Error {
  try {
    action();
  } catch (error) {
    if (error instanceof Error) return error;
  }
  throw new Error('expected an error, but none was thrown');
}

const schema = JSON.parse(
  readFileSync(new URL('../docs/bn-audit.config.schema.json', import.meta.url), 'utf8'),
);
const isValid = new Ajv({ allErrors: true }).compile(schema);

const VALID: readonly (readonly [what: string, policy: object])[] = [
  ['nothing', {}],
  ['the schema for editors', { $schema: './node_modules/bn-audit/docs/bn-audit.config.schema.json' }],
  [
    'every rule',
    {
      frozen: ['backbone', '**.bn'],
      allow: [],
      failOn: 'warning',
      minShift: 0.01,
      epsilon: 1e-3,
      map: { encoder: 'model.encoder', '': 'module' },
      remote: true,
    },
  ],
  [
    'pairs with rules of their own',
    {
      pairs: {
        detector: { before: 'base.pt', after: 'tuned.pt', frozen: ['backbone'], minShift: 0 },
        'all epochs': { before: '/models/base.pt', after: ['runs/1.pt', 'runs/e*.pt'], failOn: 'error' },
      },
    },
  ],
  [
    'a report of every format',
    { reports: Object.fromEntries(REPORT_FORMATS.map((f) => [f, `out/${f}.txt`])) },
  ],
];

describe('a policy with', () => {
  test.each(VALID)('%s is read, and follows the schema', (_, policy) => {
    expect(() => parse(policy)).not.toThrow();
    expect(isValid(policy), JSON.stringify(isValid.errors)).toBe(true);
  });

  test('every rule keeps their values', () => {
    expect(parse({ ...VALID[2]?.[1], reports: { junit: 'a/b.xml' } })).toEqual({
      frozen: ['backbone', '**.bn'],
      allow: [],
      failOn: 'warning',
      remote: true,
      minShift: 0.01,
      epsilon: 1e-3,
      map: [
        { from: 'encoder', to: 'model.encoder' },
        { from: '', to: 'module' },
      ],
      pairs: new Map(),
      runs: new Map(),
      reports: [{ format: 'junit', file: 'a/b.xml' }],
    });
  });

  test('one after keeps it as a list of one', () => {
    expect(parse({ pairs: { a: { before: 'x', after: 'y' } } }).pairs.get('a')).toEqual({
      before: 'x',
      after: ['y'],
    });
  });
});

const INVALID: readonly (readonly [policy: object, message: string])[] = [
  [{ fail_on: 'error' }, 'p.json: fail_on: unknown key; did you mean "failOn"?'],
  [{ forzen: [] }, 'p.json: forzen: unknown key; did you mean "frozen"?'],
  [{ zebra: 1 }, 'p.json: zebra: unknown key'],
  [{ 'a b': 1 }, 'p.json: "a b": unknown key'],
  [{ $schema: 3 }, 'p.json: $schema: expected a string that is not empty, found 3'],
  [{ frozen: 'backbone' }, 'p.json: frozen: expected a list of globs over module paths, found "backbone"'],
  [{ frozen: ['a', 3] }, 'p.json: frozen[1]: expected a string that is not empty, found 3'],
  [{ frozen: Array(1001).fill('a') }, 'p.json: frozen: expected at most 1000 items, found 1001'],
  [{ frozen: ['a'.repeat(4097)] }, 'p.json: frozen[0]: expected at most 4096 characters, found 4097'],
  [{ allow: [''] }, 'p.json: allow[0]: expected a string that is not empty, found ""'],
  [{ failOn: 'note' }, 'p.json: failOn: expected "error" or "warning", found "note"'],
  [{ minShift: -1 }, 'p.json: minShift: expected a number, zero or larger, found -1'],
  [{ minShift: '0.1' }, 'p.json: minShift: expected a number, zero or larger, found "0.1"'],
  [{ epsilon: null }, 'p.json: epsilon: expected a number, zero or larger, found null'],
  [{ map: ['a=b'] }, 'p.json: map: expected an object of FROM: TO prefixes, found ["a=b"]'],
  [{ map: { a: 1 } }, 'p.json: map.a: expected a prefix, found 1'],
  [{ pairs: [] }, 'p.json: pairs: expected an object of named pairs, found []'],
  [{ pairs: { a: 'x' } }, 'p.json: pairs.a: expected an object with "before" and "after", found "x"'],
  [{ pairs: { a: { after: 'y' } } }, 'p.json: pairs.a: expected the key "before", found none'],
  [{ runs: { a: 'x' } }, 'p.json: runs.a: expected an object with "before" and "checkpoints", found "x"'],
  [{ runs: { a: { before: 'x' } } }, 'p.json: runs.a: expected the key "checkpoints", found none'],
  [{ runs: { a: { before: 'x', after: 'y' } } }, 'p.json: runs.a.after: unknown key'],
  [{ pairs: { a: { before: 'x' } } }, 'p.json: pairs.a: expected the key "after", found none'],
  [
    { pairs: { a: { before: 'x', after: [] } } },
    'p.json: pairs.a.after: expected at least one path, found an empty list',
  ],
  [
    { pairs: { a: { before: 'x', after: ['y', 4] } } },
    'p.json: pairs.a.after[1]: expected a string that is not empty, found 4',
  ],
  [
    { pairs: { a: { before: 'x', after: 'y', allows: [] } } },
    'p.json: pairs.a.allows: unknown key; did you mean "allow"?',
  ],
  [{ pairs: { a: { before: 'x', after: 'y', reports: {} } } }, 'p.json: pairs.a.reports: unknown key'],
  [
    { pairs: { a: { before: 'x\0', after: 'y' } } },
    'p.json: pairs.a.before: expected a path without NUL characters, found "x\\x00"',
  ],
  [{ reports: ['html=x'] }, 'p.json: reports: expected an object of FORMAT: FILE, found ["html=x"]'],
  [{ reports: { htm: 'x' } }, 'p.json: reports.htm: unknown format; did you mean "html"?'],
  [{ reports: { html: '' } }, 'p.json: reports.html: expected a string that is not empty, found ""'],
  ...[
    '/etc/x.html',
    '../x.html',
    'a/../../x',
    'C:\\x',
    'C:x',
    '\\x',
    'a\\..\\x',
    '.git/hooks/pre-commit',
    'a/.git/x',
    '.GIT/x',
    '.git./x',
    'git~1/x',
  ].map(
    (file) =>
      [
        { reports: { html: file } },
        `p.json: reports.html: expected a file in the policy file's directory or below, found ${JSON.stringify(file)}`,
      ] as const,
  ),
];

describe('a policy is refused', () => {
  test.each(INVALID)('%j', (policy, message) => {
    expect(catchFailure(() => parse(policy))).toMatchObject({ name: 'UsageError', message });
    expect(isValid(policy)).toBe(false);
  });

  test('with a hint that lists the keys', () => {
    expect(catchFailure(() => parse({ pairs: { a: { before: 'x', after: 'y', nope: 1 } } }))).toMatchObject({
      hint: 'Keys here: before, after, frozen, allow, failOn, minShift, epsilon, exact, map, remote',
    });
  });

  test.each([
    [
      '{"frozen": [], "frozen": ["a"]}',
      'duplicate JSON key "frozen": it appears twice in one object (line 1, column 16)',
    ],
    ['[]', 'expected a JSON object, found "[" (line 1, column 1)'],
    ['{"failOn": "error",}', 'expected a JSON key in double quotes, found "}" (line 1, column 20)'],
    ['{\n  "frozen": ["é"],\n  "é": 1 2}', 'expected "," or "}" in JSON, found "2" (line 3, column 10)'],
    ['{} // nothing', 'expected the end of the JSON text, found "/" (line 1, column 4)'],
  ])('when it is no strict JSON, by line and column: %s', (text, message) => {
    expect(catchFailure(() => parseText(text))).toMatchObject({ name: 'CheckpointError', message });
  });

  test('when a key is that of a prototype', () => {
    expect(catchFailure(() => parseText('{"__proto__": {"frozen": ["a"]}}'))).toMatchObject({
      message: 'p.json: __proto__: unknown key',
    });
    expect(catchFailure(() => parseText('{"constructor": 1}'))).toMatchObject({
      message: 'p.json: constructor: unknown key',
    });
  });

  test('with control characters escaped and long names shortened', () => {
    const { message } = catchFailure(() => parse({ ['\u001b[31m'.repeat(4000)]: 1 }));
    expect(message).not.toContain('\u001b');
    expect(message.length).toBeLessThan(1000);
  });
});

test('names of pairs may be those of a prototype', () => {
  const { pairs } = parseText('{"pairs": {"__proto__": {"before": "x", "after": "y"}}}');
  expect([...pairs.keys()]).toEqual(['__proto__']);
});

test('the schema has the formats that there are', () => {
  expect(Object.keys(schema.properties.reports.properties).sort()).toEqual([...REPORT_FORMATS].sort());
});
