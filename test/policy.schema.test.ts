import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { FAIL_ON_LEVELS, POLICY_RULES } from '../src/options.js';
import { MAX_ITEMS, MAX_STRING_LENGTH, type PolicyRules } from '../src/policy.js';
import { REPORT_FORMATS } from '../src/report/formats.js';

const SCHEMA_FILE = fileURLToPath(new URL('../docs/bn-audit.config.schema.json', import.meta.url));

const TEXT = { type: 'string', minLength: 1, maxLength: MAX_STRING_LENGTH };
const PATH = { ...TEXT, pattern: '^[^\\u0000]+$' };
const refer = (name: string) => ({ $ref: `#/definitions/${name}` });
const mapKeys = <Value>(keys: readonly string[], toValue: (key: string) => Value) =>
  Object.fromEntries(keys.map((key) => [key, toValue(key)]));

/** What the schema says to each kind of value that a policy may hold. */
const KINDS: Readonly<Record<string, object>> = {
  globs: { type: 'array', maxItems: MAX_ITEMS, items: TEXT },
  level: { enum: FAIL_ON_LEVELS },
  number: { type: 'number', minimum: 0 },
  flag: { type: 'boolean' },
  map: { type: 'object', maxProperties: MAX_ITEMS, additionalProperties: { type: 'string' } },
};

const RULES = mapKeys(
  POLICY_RULES.map(({ name }) => name),
  refer,
);

const PAIR = {
  description: 'Two checkpoints, with what is different for them. Paths are relative to this file.',
  type: 'object',
  additionalProperties: false,
  required: ['before', 'after'],
  properties: {
    before: { description: 'The checkpoint from before the freeze, or its baseline.', ...PATH },
    after: {
      description:
        'The checkpoint from after the fine-tune; a list, or a glob over files, is audited one by one.',
      oneOf: [PATH, { type: 'array', minItems: 1, maxItems: MAX_ITEMS, items: PATH }],
    },
    ...RULES,
  },
};

const RUN = {
  description:
    'A training run: a checkpoint from before it and those of the run, with what is different for them. Paths are relative to this file.',
  type: 'object',
  additionalProperties: false,
  required: ['before', 'checkpoints'],
  properties: {
    before: { description: 'The checkpoint from before the training, or its baseline.', ...PATH },
    checkpoints: {
      description: 'The checkpoints of the run: its directory, a glob over files, a path, or a list of them.',
      oneOf: [PATH, { type: 'array', minItems: 1, maxItems: MAX_ITEMS, items: PATH }],
    },
    ...RULES,
  },
};

const SCHEMA = {
  $schema: 'http://json-schema.org/draft-07/schema#',
  title: 'bn-audit policy',
  description:
    'What bn-audit insists on, accepts and writes: bn-audit.config.json. Every key may be left out.',
  type: 'object',
  additionalProperties: false,
  properties: {
    $schema: { description: 'The address of this schema, for editors.', ...TEXT },
    ...RULES,
    pairs: {
      description:
        'Checkpoints that are audited together, by name: bn-audit diff --pair NAME, or --all-pairs.',
      type: 'object',
      maxProperties: MAX_ITEMS,
      additionalProperties: refer('pair'),
    },
    runs: {
      description: 'Training runs that are traced, by name: bn-audit trace --run NAME.',
      type: 'object',
      maxProperties: MAX_ITEMS,
      additionalProperties: refer('run'),
    },
    reports: {
      description:
        'Reports to write in every audit: format to file, relative to this file, in its directory or below.',
      type: 'object',
      additionalProperties: false,
      properties: mapKeys(REPORT_FORMATS, () => refer('reportFile')),
    },
  },
  definitions: {
    ...Object.fromEntries(
      POLICY_RULES.map(({ name, is, policy, examples }) => [
        name,
        { description: policy, ...(examples === undefined ? {} : { examples }), ...KINDS[is] },
      ]),
    ),
    pair: PAIR,
    run: RUN,
    reportFile: {
      ...TEXT,
      pattern:
        '^(?![\\\\/]|[A-Za-z]:)(?!(?:.*[\\\\/])?(?:\\.\\.|\\.[Gg][Ii][Tt][. ]*|[Gg][Ii][Tt]~\\d+)(?:[\\\\/]|$))[^\\u0000]+$',
    },
  },
};

test('the schema for editors is made from the table of options: vitest -u writes it again', async () => {
  await expect(`${JSON.stringify(SCHEMA, null, 2)}\n`).toMatchFileSnapshot(SCHEMA_FILE);
});

test('the table says which rules there are: those of the type', () => {
  const rules: Readonly<Record<keyof PolicyRules, true>> = {
    frozen: true,
    allow: true,
    failOn: true,
    minShift: true,
    epsilon: true,
    exact: true,
    map: true,
    remote: true,
  };
  expect(POLICY_RULES.map(({ name }) => name)).toEqual(Object.keys(rules));
});
