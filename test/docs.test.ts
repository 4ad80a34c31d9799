import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { FINDING_KINDS } from '../src/compare/findings.js';

const read = (page: string) => readFileSync(new URL(`../docs/findings/${page}`, import.meta.url), 'utf8');

describe.each(FINDING_KINDS)('the page of %s', (kind) => {
  test('exists, and is headed by the kind', () => {
    expect(read(`${kind}.md`)).toMatch(new RegExp(`^# ${kind}\n`));
  });

  test('is linked from the index', () => {
    expect(read('README.md')).toContain(`(${kind}.md)`);
  });
});
