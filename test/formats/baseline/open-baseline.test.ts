import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { auditCheckpoints } from '../../../src/audit.js';
import { CheckpointError } from '../../../src/errors.js';
import { createBaseline } from '../../../src/formats/baseline/make-baseline.js';
import { openCheckpoint, openSource } from '../../../src/formats/open.js';
import { memorySource } from '../../../src/io/byte-source.js';
import { f32 } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import { safetensorsBytes } from '../../build/safetensors.js';

const pair = fileURLToPath(new URL('../../../fixtures/pairs/requires-grad-leak', import.meta.url));

const open = (bytes: Uint8Array) => openSource(memorySource('b.safetensors', bytes), 'b.safetensors');

const STATISTICS = {
  'bn.running_mean': { dtype: 'F32', shape: [2], data: f32(0, 0) },
  'bn.running_var': { dtype: 'F32', shape: [2], data: f32(1, 1) },
  'conv.weight.projections': { dtype: 'F32', shape: [2, 4], data: f32(1, 1, 1, 1, 2, 2, 2, 2) },
};

const HASH = '0'.repeat(64);

const ENTRIES = {
  'conv.weight': { dtype: 'F32', shape: [2, 3], sha256: HASH, projections: { weights: 3 } },
  'bn.running_mean': { dtype: 'F32', shape: [2], values: true },
  'bn.running_var': { dtype: 'F32', shape: [2], values: true },
};

const NODE = { node: 'n', inputs: [{}, {}, {}, {}], epsilon: 1e-5, momentum: 0.9, opset: 15 };
const LINEAR = { op: 'Conv', node: 'c', weight: { tensor: 'conv.weight' }, channels: 2 };

function baselineWith(metadata: Readonly<Record<string, unknown>>): Uint8Array {
  const texts = { 'bn-audit.baseline': '1', 'bn-audit.tensors': ENTRIES, ...metadata };
  return safetensorsBytes(
    STATISTICS,
    Object.fromEntries(
      Object.entries(texts).map(([key, value]) => [
        key,
        typeof value === 'string' ? value : JSON.stringify(value),
      ]),
    ),
  );
}

const withEntry = (entry: unknown) =>
  baselineWith({ 'bn-audit.tensors': { ...ENTRIES, 'conv.weight': entry } });
const withGraph = (graph: Readonly<Record<string, unknown>>) =>
  baselineWith({ 'bn-audit.graph': { producer: '', norms: [], linears: [], ...graph } });

test('a baseline written by hand opens', async () => {
  const { format, tensors, inModuleOrder, graph } = await open(
    baselineWith({
      'bn-audit.order': 'module',
      'bn-audit.graph': { producer: 'p', norms: [NODE], linears: [LINEAR] },
    }),
  );
  expect({ format, inModuleOrder, producer: graph?.producer }).toEqual({
    format: 'baseline',
    inModuleOrder: true,
    producer: 'p',
  });
  expect(tensors.get('conv.weight')).toMatchObject({
    shape: [2, 3],
    fingerprint: {
      sha256: HASH,
      projections: { weightsPerChannel: 3, layout: { outputAxis: 0, groups: 1 } },
    },
  });
  expect(graph?.linears[0]?.weight).toMatchObject({
    kind: 'constant',
    source: 'initializer',
    overridable: false,
  });
  expect(graph?.norms[0]?.mean).toEqual({ kind: 'absent' });
});

test('another version of the format is refused with the way out', async () => {
  expect(await failureOf(() => open(baselineWith({ 'bn-audit.baseline': '2' })))).toEqual({
    message: 'expected a baseline of format version 1, found "2"',
    code: 'unsupported',
    file: 'b.safetensors',
    hint: 'Update bn-audit, or make the baseline again with: bn-audit baseline',
  });
});

test('an error names the metadata key, the entry, and what is wrong with it', async () => {
  expect(await failureOf(() => open(withEntry({ dtype: 'F32', shape: [2, 3], sha256: 'x' })))).toEqual({
    message:
      'bn-audit.tensors: "conv.weight": expected 64 hexadecimal digits under "sha256", found "x": not a baseline as bn-audit writes it',
    code: 'malformed',
    file: 'b.safetensors',
  });
});

const weight = ENTRIES['conv.weight'];

const MALFORMED: Readonly<Record<string, Uint8Array>> = {
  'metadata that is no JSON': baselineWith({ 'bn-audit.tensors': 'tensors' }),
  'metadata that ends early': baselineWith({ 'bn-audit.tensors': '{"a":' }),
  'metadata that is a list': baselineWith({ 'bn-audit.tensors': '[]' }),
  'a duplicate name': baselineWith({ 'bn-audit.tensors': '{"a":{},"a":{}}' }),
  'a bomb of brackets': baselineWith({ 'bn-audit.tensors': `{"a":${'['.repeat(100_000)}` }),
  'an entry that is no object': withEntry(7),
  'an entry without a type': withEntry({ shape: [2, 3] }),
  'an unknown type': withEntry({ ...weight, dtype: 'FLOAT' }),
  'a shape of fractions': withEntry({ ...weight, shape: [2.5] }),
  'a negative shape': withEntry({ ...weight, shape: [-2] }),
  'a shape beyond 2^53': withEntry({ ...weight, shape: [2 ** 40, 2 ** 40] }),
  'a shape beyond 2^64': withEntry({ ...weight, shape: ['x'] }),
  'a shape of too many dimensions': withEntry({ ...weight, shape: Array(65).fill(1) }),
  'half a byte': withEntry({ dtype: 'F4', shape: [3], sha256: HASH }),
  'a hash in capitals': withEntry({ ...weight, sha256: 'A'.repeat(64) }),
  'values that the file has not': withEntry({ dtype: 'F32', shape: [2], values: true }),
  'values of another type': withEntry({ dtype: 'F16', shape: [2], values: 'bn.running_mean' }),
  'values of another length': withEntry({ dtype: 'F32', shape: [3], values: 'bn.running_mean' }),
  'values under a number': withEntry({ dtype: 'F32', shape: [2], values: 1 }),
  'projections of more channels than the file has': withEntry({ ...weight, shape: [3, 3] }),
  'projections on an axis that is not there': withEntry({ ...weight, projections: { weights: 3, axis: 2 } }),
  'projections in no groups': withEntry({ ...weight, projections: { weights: 3, axis: 1, groups: 0 } }),
  'projections in groups that do not divide': withEntry({
    ...weight,
    projections: { weights: 3, axis: 1, groups: 5 },
  }),
  'projections in a table of another shape': withEntry({
    ...weight,
    projections: { weights: 3, table: 'bn.running_mean' },
  }),
  'projections without a count': withEntry({ ...weight, projections: {} }),
  'a graph without nodes': baselineWith({ 'bn-audit.graph': {} }),
  'a node with three inputs': withGraph({ norms: [{ ...NODE, inputs: [{}, {}, {}] }] }),
  'a node fed by a layer that is not there': withGraph({
    norms: [{ ...NODE, linear: 1 }],
    linears: [LINEAR],
  }),
  'an epsilon in words': withGraph({ norms: [{ ...NODE, epsilon: 'small' }] }),
  'an unknown mode': withGraph({ norms: [{ ...NODE, mode: 'fast' }] }),
  'an input that is not there': withGraph({ norms: [{ ...NODE, inputs: [{ tensor: 'x' }, {}, {}, {}] }] }),
  'a constant that is not there': withGraph({ linears: [{ ...LINEAR, weight: { constant: '0' } }] }),
  'an unknown operator': withGraph({ linears: [{ ...LINEAR, op: 'Relu' }] }),
  'notes that are no list': withGraph({ norms: [{ ...NODE, notes: 'note' }] }),
  'facts that are no object': baselineWith({ 'bn-audit.modules': { bn: 1 } }),
  'warnings that are numbers': baselineWith({ 'bn-audit.warnings': { warnings: [1] } }),
};

test.each(Object.entries(MALFORMED))('%s is malformed', async (_, bytes) => {
  expect(await failureOf(() => open(bytes))).toMatchObject({ code: 'malformed' });
});

describe('damage to real baselines', () => {
  const sources = ['before.safetensors', 'before.live.onnx', 'before.fold.onnx', 'before.pt'];
  const make = async (name: string) => (await createBaseline(await openCheckpoint(`${pair}/${name}`))).bytes;

  test.each(sources)('%s, cut off anywhere, is a CheckpointError', async (name) => {
    const bytes = await make(name);
    for (let length = 0; length < bytes.length; length += 97)
      await expect(open(bytes.slice(0, length))).rejects.toBeInstanceOf(CheckpointError);
  });

  test.each(sources)('%s with any bytes changed opens and audits, or is a CheckpointError', async (name) => {
    const bytes = await make(name);
    const after = await openCheckpoint(`${pair}/after.fold.onnx`);
    const change = fc.record({
      at: fc.nat({ max: bytes.length - 1 }),
      byte: fc.integer({ min: 0x20, max: 0x7e }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 4 }), async (changes) => {
        const damaged = bytes.slice();
        for (const { at, byte } of changes) damaged[at] = byte;
        try {
          await auditCheckpoints(await open(damaged), after);
        } catch (error) {
          expect(error).toBeInstanceOf(CheckpointError);
        }
      }),
      { numRuns: 150 },
    );
  });

  test('a baseline that claims a tensor of an exabyte opens at once, and is refused only when that is read', async () => {
    const huge = withEntry({ dtype: 'F32', shape: [2 ** 50], sha256: HASH });
    const source = (await open(huge)).tensors.get('conv.weight')?.range.source;
    expect(await failureOf(() => source?.readInto(new Uint8Array(4), 0))).toMatchObject({
      code: 'unsupported',
    });
  });

  test('a statistic that is known by its hash alone cannot be audited', async () => {
    const entries = { ...ENTRIES, 'bn.running_mean': { dtype: 'F32', shape: [2], sha256: HASH } };
    const baseline = await open(baselineWith({ 'bn-audit.tensors': entries }));
    expect(await failureOf(() => auditCheckpoints(baseline, baseline))).toMatchObject({
      code: 'unsupported',
    });
  });
});

test('a file without the key is plain safetensors', async () => {
  expect((await open(safetensorsBytes(STATISTICS, { 'bn-audit.source': 'x' }))).format).toBe('safetensors');
});
