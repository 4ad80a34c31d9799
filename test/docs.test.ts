import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { FINDING_KINDS } from '../src/compare/findings.js';
import { REPORT_FORMATS } from '../src/report/formats.js';

const read = (page: string) => readFileSync(new URL(`../docs/${page}`, import.meta.url), 'utf8');

describe.each(FINDING_KINDS)('the page of %s', (kind) => {
  test('exists, and is headed by the kind', () => {
    expect(read(`findings/${kind}.md`)).toMatch(new RegExp(`^# ${kind}\n`));
  });

  test('is linked from the index', () => {
    expect(read('findings/README.md')).toContain(`(${kind}.md)`);
  });
});

test('what stays the same is promised of each format once', () => {
  const [, table = ''] = read('json.md').split('| format | promise |');
  const rows = [...table.slice(0, table.indexOf('\n\n')).matchAll(/^\| (`[^|]*`) \| /gm)];
  const formats = rows.flatMap(([, cell = '']) => [...cell.matchAll(/`(\w+)`/g)].map(([, format]) => format));
  expect(formats.sort()).toEqual([...REPORT_FORMATS].sort());
});
