import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { auditCheckpoints } from '../../src/audit.js';
import { inspectCheckpoint } from '../../src/inspect.js';
import { escapeJson, renderJson as renderPieces, toJson, writeJson } from '../../src/report/json.js';
import { checkpointOf, normTensors, tensorOf } from '../build/checkpoints.js';
import { makeLayer, makeReport } from './sample-reports.js';

const renderJson = (...args: Parameters<typeof renderPieces>) => [...renderPieces(...args)].join('');

const convolution = tensorOf('conv.weight', [1, 2], { shape: [2, 1] });
const before = checkpointOf([convolution, ...normTensors('bn')], { path: 'before.safetensors' });
const after = checkpointOf([convolution, ...normTensors('bn', { mean: [0.5, 0.75], count: 22 })], {
  path: 'after.safetensors',
});

describe('an audit', () => {
  test('has the keys of the contract, in its order', async () => {
    const report = JSON.parse(renderJson(await auditCheckpoints(before, after, { channels: true })));
    expect(Object.keys(report)).toEqual([
      ...[
        'schemaVersion',
        'tool',
        'verdict',
        'before',
        'after',
        'summary',
        'regions',
        'layers',
        'findings',
        'warnings',
      ],
    ]);
    expect(report).toMatchObject({
      schemaVersion: 1,
      tool: { name: 'bn-audit', version: expect.stringMatching(/^\d+\.\d+\.\d+/) },
      verdict: 'drifted',
      before: { path: 'before.safetensors', format: 'safetensors', layers: 1, learned: 3 },
      after: { path: 'after.safetensors', format: 'safetensors', layers: 1, learned: 3 },
      summary: {
        layers: 1,
        byStatus: {
          drifted: 1,
          invalid: 0,
          unresolved: 0,
          ambiguous: 0,
          'affine-frozen': 0,
          trained: 0,
          held: 0,
          locked: 0,
        },
        batches: { min: 12, max: 12 },
        worst: { layer: 'bn', outputShift: expect.any(Number) },
      },
      regions: [
        { path: '', status: 'frozen', layers: 1, drifted: 1, learned: { tensors: 3, equal: 3, elements: 6 } },
      ],
      layers: [
        {
          name: 'bn',
          kind: 'BatchNorm',
          status: 'drifted',
          allowed: false,
          channels: 2,
          channelsMoved: 1,
          affine: 'equal',
          neighbours: 'equal',
          epsilon: 1e-5,
          epsilonFrom: 'default',
          batches: 12,
          meanShift: { rms: expect.any(Number), max: expect.any(Number) },
          logStdRatio: { rms: 0, max: 0 },
          divergence: expect.any(Number),
          outputShift: expect.any(Number),
          pairedBy: 'name',
          via: 'live',
          before: { name: 'bn', mean: 'bn.running_mean', variance: 'bn.running_var' },
          after: { name: 'bn', mean: 'bn.running_mean', variance: 'bn.running_var' },
          perChannel: {
            before: { mean: [0.5, -0.25], variance: [2, 2] },
            after: { mean: [0.5, 0.75], variance: [2, 2] },
            stdRatio: [1, 1],
          },
        },
      ],
      findings: [
        {
          kind: 'frozen-stats-drift',
          level: 'error',
          layer: 'bn',
          message: expect.any(String),
          docs: 'docs/findings/frozen-stats-drift.md',
        },
      ],
    });
  });

  test('leaves channels out unless they were asked for', async () => {
    const report = JSON.parse(renderJson(await auditCheckpoints(before, after)));
    expect(report.layers[0]).not.toHaveProperty('perChannel');
  });

  test('writes counts beyond 2^53 as digits', async () => {
    const huge = checkpointOf([convolution, ...normTensors('bn', { mean: [1, 1], count: 2 ** 62 })]);
    const report = JSON.parse(renderJson(await auditCheckpoints(before, huge)));
    expect(report.layers[0].batches).toBe(String(2n ** 62n - 10n));
    expect(report.summary.batches).toEqual({ min: String(2n ** 62n - 10n), max: String(2n ** 62n - 10n) });
  });
});

test('an inspection has the keys of the contract', async () => {
  const report = JSON.parse(renderJson(await inspectCheckpoint(before, { channels: true })));
  expect(report).toMatchObject({
    schemaVersion: 1,
    tool: { name: 'bn-audit' },
    checkpoint: { path: 'before.safetensors', format: 'safetensors', layers: 1, learned: 3 },
    layers: [
      {
        name: 'bn',
        kind: 'BatchNorm',
        status: 'ok',
        channels: 2,
        epsilon: 1e-5,
        epsilonFrom: 'default',
        momentum: null,
        mode: 'unknown',
        batches: 10,
        mean: { min: -0.25, max: 0.5, rms: Math.sqrt((0.5 ** 2 + 0.25 ** 2) / 2) },
        variance: { min: 2, max: 2, geometricMean: expect.closeTo(2, 12) },
        affine: true,
        source: { mean: 'bn.running_mean', variance: 'bn.running_var' },
        notes: [],
        perChannel: { mean: [0.5, -0.25], variance: [2, 2], gamma: [1.5, 1.5], beta: [0.125, 0.125] },
      },
    ],
    findings: [],
  });
});

describe('numbers that JSON cannot hold', () => {
  test('become strings', () => {
    const layer = makeLayer('bn', {
      divergence: Number.NaN,
      outputShift: Number.POSITIVE_INFINITY,
      meanShift: { rms: Number.NEGATIVE_INFINITY, max: 1 },
    });
    const { layers } = JSON.parse(renderJson(makeReport({ layers: [layer] })));
    expect(layers[0]).toMatchObject({
      divergence: 'NaN',
      outputShift: 'Infinity',
      meanShift: { rms: '-Infinity', max: 1 },
    });
  });
});

describe('hostile names', () => {
  const NAME = '\u001b[2J\u009b31m\u007f\u2028\n"\\é\ud800';

  test('come back as they were, and put no control character on a terminal', () => {
    const text = renderJson(makeReport({ layers: [makeLayer(NAME)] }));
    expect(JSON.parse(text).layers[0].name).toBe(NAME);
    expect(text).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029]/);
  });

  test('break no line', () => {
    const [plain, hostile] = ['bn', NAME].map((name) =>
      renderJson(makeReport({ layers: [makeLayer(name)] })),
    );
    expect(hostile?.split('\n')).toHaveLength(plain?.split('\n').length ?? 0);
  });
});

test('the text ends with one line end', () => {
  expect(renderJson(makeReport({ layers: [] }))).toMatch(/\}\n$/);
});

describe('JSON in pieces', () => {
  test('is the text of the whole, however deep the pieces go', () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 6 }), fc.nat(5), (value, levels) => {
        expect([...writeJson(value, levels)].join('')).toBe(toJson(value));
        expect(toJson(value)).toBe(escapeJson(`${JSON.stringify(value, null, 2)}\n`));
      }),
      { examples: [[{ a: [], b: {}, c: [[], [{}]], d: { e: { f: [1, 'x\ny'] } } }, 3]] },
    );
  });

  test('leaves undefined members out, and asks for an item only once the ones before it are written', () => {
    const asked: number[] = [];
    const items = function* () {
      for (let item = 1; item <= 3; item++) {
        asked.push(item);
        yield item;
      }
    };
    const written: string[] = [];
    for (const piece of writeJson({ none: undefined, items: items() }, 2)) {
      written.push(piece);
      if (piece === '1') expect(asked).toEqual([1]);
    }
    expect(asked).toEqual([1, 2, 3]);
    expect(written.join('')).toBe('{\n  "items": [\n    1,\n    2,\n    3\n  ]\n}\n');
  });
});
