import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { audit } from '../src/audit.js';
import type { PrefixEdit } from '../src/compare/pair-layers.js';
import { CheckpointError } from '../src/errors.js';
import type { AuditLayer, AuditReport } from '../src/report/audit-report.js';
import { render } from '../src/report/render.js';
import { restore } from '../src/restore/restore.js';
import { listShipped, readTruth, SHIPPED } from './build/shipped.js';
import { makeTempDirectory } from './build/sources.js';

const cases = listShipped().flatMap((directory) => {
  const { cases, norms = {} } = readTruth(directory);
  return cases.map((each) => ({ ...each, directory, norms }));
});

type Case = (typeof cases)[number];

/** The edits of `--map FROM=TO`. */
function readMaps(options: readonly string[]): readonly PrefixEdit[] {
  return options.flatMap((option) => {
    const [from = '', to] = option.split('=');
    return to === undefined ? [] : [{ from, to }];
  });
}

interface Answer {
  readonly exitCode: number;
  readonly layers: readonly AuditLayer[];
  readonly unpaired: readonly string[];
  readonly said: string;
}

async function ask({ directory, before, after, options }: Case): Promise<Answer> {
  const file = (name: string) => join(SHIPPED, directory, name);
  const select = options[0] === '--select' ? options[1] : undefined;
  try {
    const map = readMaps(options);
    return tell(await audit(file(before), file(after), { map, select, channels: true }));
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
    return { exitCode: 2, layers: [], unpaired: [], said: `${error.message} ${error.hint}` };
  }
}

function tell({ verdict, layers, findings, warnings }: AuditReport): Answer {
  return {
    exitCode: verdict === 'drifted' ? 1 : 0,
    layers,
    unpaired: findings.filter(({ kind }) => kind === 'unpaired-layer').map(({ layer }) => layer),
    said: [...warnings, ...findings.map(({ message }) => message)].join('\n'),
  };
}

describe('models as they are shipped, with truth by numpy', () => {
  test.each(cases)('$directory: $before, $after $options: $why', async (each) => {
    const { exitCode, layers, unpaired, said } = await ask(each);
    expect([each.exitCode].flat(), said).toContain(exitCode);
    for (const mention of each.mentions ?? []) expect(said).toMatch(new RegExp(mention, 'i'));
    if (exitCode === 2) return;
    for (const [module, allowed] of Object.entries(each.statuses)) {
      const names = [module, each.norms[module]];
      const layer = layers.find(({ name, after }) => names.includes(name) || names.includes(after.name));
      const isUnpaired = names.some((name) => name !== undefined && unpaired.includes(name));
      expect(allowed, module).toContain(layer?.status ?? (isUnpaired ? 'unpaired' : 'absent'));
      if (layer !== undefined) checkLayer(layer, module, each);
    }
  });
});

function checkLayer(
  layer: AuditLayer,
  module: string,
  { pairedBy, measures, spreads, blockShifts, factors }: Case,
): void {
  if (pairedBy?.[module] !== undefined) expect(layer.pairedBy, module).toBe(pairedBy[module]);
  const truth = measures?.[module];
  if (truth !== undefined) {
    const digits = layer.via === 'live' ? 5 : 4;
    expect(layer.outputShift, module).toBeCloseTo(truth['outputShift'] ?? Number.NaN, digits);
    expect(layer.meanShift?.rms, module).toBeCloseTo(truth['meanShiftRms'] ?? Number.NaN, digits);
    expect(layer.logStdRatio?.rms, module).toBeCloseTo(truth['logStdRatioRms'] ?? Number.NaN, digits);
  }
  const [spread, shift] = [spreads?.[module], blockShifts?.[module]];
  if (spread !== undefined) {
    expect(layer.logStdRatio?.rms, module).toBeCloseTo(spread, 5);
    expect([layer.meanShift, layer.divergence, layer.outputShift], module).toEqual([null, null, null]);
  }
  if (shift !== undefined) expect(layer.block?.meanShift?.rms, module).toBeCloseTo(shift, 5);
  const bounds = layer.perChannel?.stdRatioBounds;
  if (factors?.[module] !== undefined && layer.status === 'drifted') expect(bounds, module).toBeDefined();
  if (bounds === undefined) return;
  const outside = (factors?.[module] ?? []).filter(
    (factor, channel) =>
      !(
        1 / factor >= (bounds.low[channel] ?? Number.NaN) &&
        1 / factor <= (bounds.high[channel] ?? Number.NaN)
      ),
  );
  expect(outside, module).toEqual([]);
}

test.each([
  ['before.safetensors', 'drift.safetensors', 'equal'],
  ['drift.safetensors', 'drift-masks.safetensors', 'equal'],
  ['whole.safetensors', 'before.safetensors', 'changed'],
])('masks are multiplied before weights are compared: %s, %s', async (before, after, neighbours) => {
  const file = (name: string) => join(SHIPPED, 'pruned-masks', name);
  const { layers } = await audit(file(before), file(after));
  expect(layers.map((layer) => layer.neighbours)).toEqual([neighbours, neighbours]);
});

test.each(['text', 'markdown', 'html', 'junit'] as const)(
  'convolutions that no file calls folded are no norm layers in a report as %s',
  async (format) => {
    const file = (name: string) => join(SHIPPED, 'fused-export-mixed', name);
    const report = await audit(file('before.safetensors'), file('drift.safetensors'));
    expect([report.before.folded, report.before.unmarked]).toEqual([7, 7]);
    const text = render(report, { format }).replace(/\s+/g, ' ');
    expect(text).not.toMatch(/\d (?:folded )?norm layers?\b/i);
    if (format !== 'junit') {
      expect(text).toContain('5 of 5 convolutions with a bias');
      expect(text).toContain('How to keep it frozen');
      expect(text).toContain('.get_submodule(name).eval()');
    }
  },
);

test('a file of two networks is restored whole, each into its own', async () => {
  const file = (name: string) => join(SHIPPED, 'parts-two', name);
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
