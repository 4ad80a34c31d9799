import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { audit } from '../src/audit.js';
import type { PrefixEdit } from '../src/compare/pair-layers.js';
import { CheckpointError } from '../src/errors.js';

const shipped = fileURLToPath(new URL('../fixtures/shipped', import.meta.url));

interface Case {
  readonly before: string;
  readonly after: string;
  readonly options: readonly string[];
  readonly exitCode: number | readonly number[];
  readonly statuses: Readonly<Record<string, readonly string[]>>;
  readonly measures?: Readonly<Record<string, Readonly<Record<string, number>>>>;
  readonly pairedBy?: Readonly<Record<string, string>>;
  readonly why: string;
}

const cases = readdirSync(shipped)
  .filter((directory) => directory.startsWith('renamed'))
  .flatMap((directory) => {
    const file = join(shipped, directory, 'expected.json');
    const expected: { readonly cases: readonly Case[] } = JSON.parse(readFileSync(file, 'utf8'));
    return expected.cases.map((each) => ({ ...each, directory }));
  });

/** The edits of `--map FROM=TO`. */
function readMaps(options: readonly string[]): readonly PrefixEdit[] {
  return options.flatMap((option) => {
    const [from = '', to] = option.split('=');
    return to === undefined ? [] : [{ from, to }];
  });
}

/** The status of every layer by its name in after's file, of those that were not paired as well. */
async function statusesOf({ directory, before, after, options }: (typeof cases)[number]) {
  const file = (name: string) => join(shipped, directory, name);
  try {
    const report = await audit(file(before), file(after), { map: readMaps(options) });
    const unpaired = report.findings.filter(({ kind }) => kind === 'unpaired-layer');
    return {
      exitCode: report.verdict === 'drifted' ? 1 : 0,
      layers: report.layers,
      statuses: new Map([
        ...unpaired.map(({ layer }) => [layer, 'unpaired'] as const),
        ...report.layers.map((layer) => [layer.after.name, layer.status] as const),
      ]),
    };
  } catch (error) {
    if (error instanceof CheckpointError) return { exitCode: 2, layers: [], statuses: new Map() };
    throw error;
  }
}

describe('models under new names, with truth by numpy', () => {
  test.each(cases)('$directory: $before, $after $options: $why', async (each) => {
    const { exitCode, statuses, layers } = await statusesOf(each);
    expect([each.exitCode].flat()).toContain(exitCode);
    for (const [name, allowed] of Object.entries(each.statuses))
      expect(allowed, name).toContain(statuses.get(name) ?? 'absent');
    for (const layer of layers) {
      const pairedBy = each.pairedBy?.[layer.after.name];
      if (pairedBy !== undefined) expect(layer.pairedBy, layer.name).toBe(pairedBy);
      const measures = each.measures?.[layer.after.name];
      if (measures?.['outputShift'] !== undefined)
        expect(layer.outputShift, layer.name).toBeCloseTo(measures['outputShift'], 5);
    }
  });
});
