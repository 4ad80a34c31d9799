import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { audit } from '../src/audit.js';
import { restore } from '../src/restore/restore.js';
import { makeTempDirectory } from './build/sources.js';

const shipped = fileURLToPath(new URL('../fixtures/shipped', import.meta.url));

interface Case {
  readonly before: string;
  readonly after: string;
  readonly options: readonly string[];
  readonly exitCode: number | readonly number[];
  readonly statuses: Readonly<Record<string, readonly string[]>>;
  readonly measures?: Readonly<Record<string, Readonly<Record<string, number>>>>;
  readonly mentions?: readonly string[];
  readonly why: string;
}

const cases = ['parts-two', 'parts-copies'].flatMap((directory) => {
  const file = join(shipped, directory, 'expected.json');
  const expected: { readonly cases: readonly Case[] } = JSON.parse(readFileSync(file, 'utf8'));
  return expected.cases.map((each) => ({ ...each, directory }));
});

describe('several networks in one file, with truth by numpy', () => {
  test.each(cases)('$directory: $before, $after $options: $why', async (each) => {
    const file = (name: string) => join(shipped, each.directory, name);
    const [, select] = each.options;
    const report = await audit(file(each.before), file(each.after), { select });
    expect([each.exitCode].flat()).toContain(report.verdict === 'drifted' ? 1 : 0);
    const layers = new Map(report.layers.map((layer) => [layer.after.name, layer]));
    for (const [name, allowed] of Object.entries(each.statuses))
      expect(allowed, name).toContain(layers.get(name)?.status ?? 'absent');
    for (const [name, { outputShift = Number.NaN }] of Object.entries(each.measures ?? {})) {
      const found = layers.get(name);
      if (found !== undefined) expect(found.outputShift, name).toBeCloseTo(outputShift, 5);
    }
    for (const mention of each.mentions ?? [])
      expect(report.warnings.join('\n')).toMatch(new RegExp(mention, 'i'));
  });
});

test('a file of two networks is restored whole, each into its own', async () => {
  const file = (name: string) => join(shipped, 'parts-two', name);
  const fixed = join(makeTempDirectory(), 'fixed.pt');
  await restore(file('before.pt'), file('after.pt'), fixed);
  const { verdict, layers } = await audit(file('before.pt'), fixed);
  expect(verdict).toBe('clean');
  expect(layers.map(({ name, status }) => [name, status])).toEqual([
    ['generator.bn1', 'trained'],
    ['generator.bn2', 'trained'],
    ['discriminator.features.1', 'locked'],
    ['discriminator.features.4', 'locked'],
  ]);
});
