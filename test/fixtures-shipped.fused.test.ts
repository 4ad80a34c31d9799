import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { audit } from '../src/audit.js';
import { CheckpointError } from '../src/errors.js';

const shipped = fileURLToPath(new URL('../fixtures/shipped', import.meta.url));

interface Case {
  readonly before: string;
  readonly after: string;
  readonly exitCode: number | readonly number[];
  readonly statuses: Readonly<Record<string, readonly string[]>>;
  readonly measures?: Readonly<Record<string, Readonly<Record<string, number>>>>;
  readonly mentions?: readonly string[];
  readonly why: string;
}

interface Expected {
  readonly norms?: Readonly<Record<string, string>>;
  readonly cases: readonly Case[];
}

const cases = readdirSync(shipped)
  .filter((directory) => /^(?:fused-export|ort)-/.test(directory))
  .flatMap((directory) => {
    const { cases, norms = {} }: Expected = JSON.parse(
      readFileSync(join(shipped, directory, 'expected.json'), 'utf8'),
    );
    return cases.map((each) => ({ ...each, directory, norms }));
  });

async function auditOf({ directory, before, after }: (typeof cases)[number]) {
  try {
    const report = await audit(join(shipped, directory, before), join(shipped, directory, after));
    return { exitCode: report.verdict === 'drifted' ? 1 : 0, layers: report.layers, said: '' };
  } catch (error) {
    if (error instanceof CheckpointError)
      return { exitCode: 2, layers: [], said: `${error.message} ${error.hint}` };
    throw error;
  }
}

describe('models whose BatchNorm was fused, with truth by numpy', () => {
  test.each(cases)('$directory: $before, $after: $why', async (each) => {
    const { exitCode, layers, said } = await auditOf(each);
    expect([each.exitCode].flat(), said).toContain(exitCode);
    for (const mention of each.mentions ?? []) expect(said).toMatch(new RegExp(mention, 'i'));
    if (exitCode === 2) return;
    for (const [convolution, allowed] of Object.entries(each.statuses)) {
      const layer = layers.find(({ name }) => name === convolution || name === each.norms[convolution]);
      expect(allowed, convolution).toContain(layer?.status ?? 'absent');
      const measures = each.measures?.[convolution];
      if (measures === undefined) continue;
      expect(layer?.outputShift, convolution).toBeCloseTo(measures['outputShift'] ?? Number.NaN, 4);
      expect(layer?.meanShift?.rms, convolution).toBeCloseTo(measures['meanShiftRms'] ?? Number.NaN, 4);
      expect(layer?.logStdRatio?.rms, convolution).toBeCloseTo(measures['logStdRatioRms'] ?? Number.NaN, 4);
    }
  });
});
