import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { audit, auditCheckpoints } from '../src/audit.js';
import { getExitCode } from '../src/cli/write-reports.js';
import type { RmsAndMax } from '../src/compare/statistics.js';
import { createBaseline } from '../src/formats/baseline/make-baseline.js';
import { openCheckpoint } from '../src/formats/open.js';
import type { AuditLayer, AuditReport } from '../src/report/audit-report.js';
import { restore } from '../src/restore/restore.js';
import { failureOf } from './build/failure.js';
import { makeTempDirectory } from './build/sources.js';

const pairs = fileURLToPath(new URL('../fixtures/pairs', import.meta.url));

interface ExpectedMeasures {
  readonly meanShift: RmsAndMax | null;
  readonly logStdRatio: RmsAndMax | null;
  readonly divergence: number | null;
  readonly outputShift: number | null;
}

interface ExpectedLayer extends Partial<ExpectedMeasures> {
  readonly channels: number;
  readonly channelsMoved?: number;
  readonly status: string;
  readonly affine?: string;
  readonly neighbours?: string;
  readonly batches?: number | null;
  /** Set on a layer that only one checkpoint has. */
  readonly in?: 'before' | 'after';
}

/** What fixtures/README.md says that expected.json holds, as far as these tests use it. */
interface Expected {
  readonly exitCode: 0 | 1 | 2;
  /** Of the modules. */
  readonly epsilon: number;
  readonly learned: { readonly tensors: number; readonly equal: number };
  readonly layers: Readonly<Record<string, ExpectedLayer>>;
  readonly atDefaultEpsilon?: Readonly<Record<string, ExpectedMeasures>>;
  readonly findings: readonly (readonly [kind: string, level: string, layer: string])[];
}

/** Endings of the files that a pair may have; each file that exists is a case. */
const ONNX_ENDINGS = ['live.onnx', 'dynamo-live.onnx', 'external.onnx'] as const;

const scenarios = readdirSync(pairs).sort();

function readExpected(scenario: string): Expected {
  const expected: Expected = JSON.parse(readFileSync(join(pairs, scenario, 'expected.json'), 'utf8'));
  return expected;
}

const auditPair = (scenario: string, ending: string) =>
  audit(join(pairs, scenario, `before.${ending}`), join(pairs, scenario, `after.${ending}`));

/** How far a measure may be from numpy's, relative to it. */
const RELATIVE_TOLERANCE = 1e-9;

function expectMeasures(layer: AuditLayer, expected: ExpectedMeasures, tolerance = RELATIVE_TOLERANCE): void {
  const numbersOf = ({ meanShift, logStdRatio, divergence, outputShift }: ExpectedMeasures) => ({
    'meanShift.rms': meanShift?.rms,
    'meanShift.max': meanShift?.max,
    'logStdRatio.rms': logStdRatio?.rms,
    'logStdRatio.max': logStdRatio?.max,
    divergence,
    outputShift,
  });
  const found = numbersOf(layer);
  const wrong = Object.entries(numbersOf(expected)).filter(([measure, value]) => {
    const actual = found[measure as keyof typeof found];
    if (value == null || actual == null) return value !== actual;
    return Math.abs(actual - value) > tolerance * Math.max(Math.abs(value), Math.abs(actual));
  });
  expect(wrong, `${layer.name}: found ${JSON.stringify(found)}`).toEqual([]);
}

/** What a format cannot keep: ONNX has no batch counts, and writes ones and zeros for a layer without affine. */
interface FormatLimits {
  readonly hasCounts: boolean;
  readonly absentAffine: 'none' | 'equal';
}

const SAFETENSORS: FormatLimits = { hasCounts: true, absentAffine: 'none' };
const ONNX: FormatLimits = { hasCounts: false, absentAffine: 'equal' };

/** The layers of both checkpoints, with what an audit must say of them besides measures. */
function expectStatuses(
  report: AuditReport,
  expected: Expected,
  { hasCounts, absentAffine }: FormatLimits,
): void {
  const paired = Object.entries(expected.layers).filter(([, layer]) => layer.in === undefined);
  const found = Object.fromEntries(
    report.layers.map(({ name, status, channels, channelsMoved, affine, neighbours, batches }) => [
      name,
      { status, channels, channelsMoved, affine, neighbours, ...(hasCounts ? { batches } : {}) },
    ]),
  );
  expect(found).toEqual(
    Object.fromEntries(
      paired.map(([name, { status, channels, channelsMoved, affine, neighbours, batches }]) => [
        name,
        {
          status,
          channels,
          channelsMoved,
          affine: affine === 'none' ? absentAffine : affine,
          neighbours,
          ...(hasCounts ? { batches } : {}),
        },
      ]),
    ),
  );
}

/** Findings as expected.json lists them, but for those that follow from batch counts where the format has none. */
function expectFindings(report: AuditReport, { findings }: Expected, { hasCounts }: FormatLimits): void {
  const isTellable = ([kind]: readonly string[]) => hasCounts || kind !== 'batch-stats-while-frozen';
  expect(report.findings.map(({ kind, level, layer }) => [kind, level, layer]).sort()).toEqual(
    findings
      .filter(isTellable)
      .map((finding) => [...finding])
      .sort(),
  );
}

describe.each(scenarios)('%s', (scenario) => {
  const expected = readExpected(scenario);
  const paired = Object.entries(expected.layers).filter(([, layer]) => layer.in === undefined);

  if (paired.length === 0) {
    test.each(
      ['safetensors', ...ONNX_ENDINGS].filter((ending) =>
        existsSync(join(pairs, scenario, `before.${ending}`)),
      ),
    )('before and after.%s cannot be audited', async (ending) => {
      expect(expected.exitCode).toBe(2);
      expect(await failureOf(() => auditPair(scenario, ending))).toMatchObject({ code: 'no-norm-layers' });
    });
    return;
  }

  test('before and after.safetensors', async () => {
    const report = await auditPair(scenario, 'safetensors');
    expectStatuses(report, expected, SAFETENSORS);
    for (const layer of report.layers) {
      const measures = expected.atDefaultEpsilon?.[layer.name] ?? expected.layers[layer.name];
      if (layer.status !== 'invalid') expectMeasures(layer, measures as ExpectedMeasures);
    }
    expectFindings(report, expected, SAFETENSORS);
    expect(report.summary.learned).toMatchObject({
      compared: expected.learned.tensors,
      equal: expected.learned.equal,
    });
    expect(getExitCode(report.findings, 'error')).toBe(expected.exitCode);
  });

  test.each(ONNX_ENDINGS.filter((ending) => existsSync(join(pairs, scenario, `before.${ending}`))))(
    'before and after.%s',
    async (ending) => {
      const report = await auditPair(scenario, ending);
      expectStatuses(report, expected, ONNX);
      expectFindings(report, expected, ONNX);
      expect(getExitCode(report.findings, 'error')).toBe(expected.exitCode);
      expect(new Set(report.layers.map(({ epsilonFrom }) => epsilonFrom))).toEqual(new Set(['graph']));
      for (const layer of report.layers) {
        // The file's epsilon is a float32, which moves the measures in the seventh digit.
        if (layer.status !== 'invalid')
          expectMeasures(layer, expected.layers[layer.name] as ExpectedMeasures, 1e-6);
      }
    },
  );
});

describe('the epsilon of an ONNX file is the float32 next to the module’s', () => {
  const auditable = scenarios.filter(
    (scenario) =>
      readExpected(scenario).exitCode !== 2 && existsSync(join(pairs, scenario, 'before.live.onnx')),
  );

  test.each(auditable)('%s', async (scenario) => {
    const { epsilon, layers } = readExpected(scenario);
    const graph = await auditPair(scenario, 'live.onnx');
    expect(new Set(graph.layers.map((layer) => layer.epsilon))).toEqual(new Set([Math.fround(epsilon)]));
    // With the exact epsilon the measures are those of the state dict, in all digits.
    const exact = await audit(
      join(pairs, scenario, 'before.live.onnx'),
      join(pairs, scenario, 'after.live.onnx'),
      { epsilon },
    );
    for (const layer of exact.layers) {
      if (layer.status !== 'invalid') expectMeasures(layer, layers[layer.name] as ExpectedMeasures);
    }
  });
});

describe('a checkpoint that is opened twice is clean of drift', () => {
  const files = scenarios
    .filter((scenario) => scenario !== 'layernorm-only')
    .flatMap((scenario) =>
      readdirSync(join(pairs, scenario))
        .filter((name) => /\.(?:safetensors|live\.onnx|dynamo-live\.onnx|external\.onnx|pt)$/.test(name))
        .map((name) => `${scenario}/${name}`),
    );

  test.each(files)('%s', async (file) => {
    const path = join(pairs, file);
    const [one, copy] = [await openCheckpoint(path), await openCheckpoint(path)];
    const report = await auditCheckpoints(one, copy);
    for (const checkpoint of [one, copy]) await checkpoint.close();
    // The NaN of the scenario "nan" stays invalid, also beside itself.
    const isInvalid = file === 'nan/after.safetensors' || file === 'nan/after.live.onnx';
    expect(report.verdict).toBe(isInvalid ? 'drifted' : 'clean');
    expect(report.findings.filter(({ kind }) => kind !== 'invalid-stats')).toEqual([]);
    for (const layer of report.layers) {
      expect(['locked', ...(isInvalid ? ['invalid'] : [])]).toContain(layer.status);
      expect(layer.channelsMoved).toBe(0);
      expect(layer.outputShift).toBe(0);
    }
    const { compared, equal, onlyBefore, onlyAfter } = report.summary.learned;
    expect([equal, onlyBefore, onlyAfter]).toEqual([compared, 0, 0]);
  });
});

describe('fixtures/rounding: what runs really write', () => {
  const rounding = fileURLToPath(new URL('../fixtures/rounding', import.meta.url));
  interface ExpectedRounding {
    readonly note: string;
    readonly status: string;
    readonly relativeDifferences: Readonly<Record<string, number>>;
  }
  const cases = readdirSync(rounding).map((name) => {
    const expected: ExpectedRounding = JSON.parse(
      readFileSync(join(rounding, name, 'expected.json'), 'utf8'),
    );
    return [name, expected] as const;
  });
  const at = (name: string, file: string) => join(rounding, name, file);
  const backboneOf = ({ layers }: AuditReport) => layers.filter(({ name }) => name.startsWith('backbone.'));

  test.each(cases)('%s', async (name, { status, relativeDifferences }) => {
    const report = await audit(at(name, 'before.safetensors'), at(name, 'after.safetensors'));
    const layers = backboneOf(report);
    expect(layers).toHaveLength(8);
    expect(new Set(layers.map((layer) => layer.status))).toEqual(new Set([status]));
    if (status !== 'drifted' && status !== 'locked') return;
    const region = report.regions.find(({ path }) => path === 'backbone');
    const largest = Math.max(...Object.values(relativeDifferences));
    expect(region?.equality).toBe(largest > 0 ? 'rounded' : 'exact');
    expect(region?.relativeDifference).toBeCloseTo(largest, 12);
  });

  const folded = cases.filter(([name]) => existsSync(at(name, 'after.fold.onnx')));
  test.each(folded)('%s, folded away in after, or in both', async (name, { status }) => {
    for (const before of ['before.safetensors', 'before.fold.onnx']) {
      const layers = backboneOf(await audit(at(name, before), at(name, 'after.fold.onnx')));
      expect(layers).toHaveLength(8);
      expect(new Set(layers.map((layer) => layer.status)), before).toEqual(new Set([status]));
    }
  });

  test.each(cases)('%s, against a baseline', async (name, { status }) => {
    const checkpoint = await openCheckpoint(at(name, 'before.safetensors'));
    const { bytes } = await createBaseline(checkpoint);
    await checkpoint.close();
    const baseline = join(makeTempDirectory(), 'before.bn.safetensors');
    writeFileSync(baseline, bytes);
    const layers = backboneOf(await audit(baseline, at(name, 'after.safetensors')));
    expect(new Set(layers.map((layer) => layer.status))).toEqual(new Set([status]));
  });

  test.each(['after.safetensors', 'after.fold.onnx'])(
    'drift can be restored in %s of averages',
    async (file) => {
      const [before, after] = [at('ema-torch-leak', 'before.safetensors'), at('ema-torch-leak', file)];
      const fixed = join(makeTempDirectory(), file);
      await restore(before, after, fixed);
      const layers = backboneOf(await audit(before, fixed));
      expect(new Set(layers.map(({ status }) => status))).toEqual(new Set(['locked']));
    },
  );

  test('every difference is a change where exactness is asked for', async () => {
    const report = await audit(
      at('mean-of-7-locked', 'before.safetensors'),
      at('mean-of-7-locked', 'after.safetensors'),
      { exact: true },
    );
    expect(new Set(backboneOf(report).map(({ status }) => status))).toEqual(new Set(['trained']));
    expect(report.summary.learned.rounded).toBe(0);
  });
});
