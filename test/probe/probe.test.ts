import { cpSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { encodeFloats } from '../../src/checkpoint/dtype.js';
import { probe } from '../../src/probe/probe.js';
import { f32 } from '../build/bytes.js';
import { failureOf, usageFailureOf } from '../build/failure.js';
import { makeTempDirectory } from '../build/sources.js';
import { npy } from '../formats/numpy/build-npy.js';
import {
  attribute,
  call,
  FLOAT,
  FLOAT16,
  field,
  graph,
  int,
  localFunction,
  model,
  node,
  normNames,
  normTensors,
  tensor,
} from '../formats/onnx/build-onnx.js';
import { zip } from '../formats/torch/build/zip-writer.js';

const fixtures = fileURLToPath(new URL('../../fixtures', import.meta.url));
const pairs = `${fixtures}/pairs`;
const leak = `${pairs}/requires-grad-leak`;
const input = `${fixtures}/probe/input.npy`;

const folder = makeTempDirectory();

type Rows = readonly (readonly number[])[];
interface Expected {
  readonly files: readonly string[];
  readonly outputs: Readonly<Record<'before' | 'after' | 'restored', Rows>>;
  readonly relativeL2: { readonly restoredToAfter: number };
  readonly ablation: Readonly<Record<string, Rows>>;
  readonly layers: Readonly<Record<string, { readonly inNetwork: number; readonly sameInput: number }>>;
}
const expected: Expected = JSON.parse(readFileSync(`${fixtures}/probe/expected.json`, 'utf8'));

function relativeL2(reference: Rows, value: Rows): number {
  const norm = (values: readonly number[]) => Math.sqrt(values.reduce((sum, x) => sum + x * x, 0));
  const [x, y] = [reference.flat(), value.flat()];
  return norm(y.map((one, i) => one - (x[i] ?? Number.NaN))) / norm(x);
}

const indexOfLargest = (row: readonly number[]) => row.indexOf(Math.max(...row));

/** The norm layer behind a convolution, whose path TorchScript's folded files bear. */
function normBehind(path: string): string {
  return path in expected.layers
    ? path
    : path.replace(/conv(\d?)$/, 'bn$1').replace('downsample.0', 'downsample.1');
}

describe.each(expected.files)('a probe of the leaked backbone in %s', (file) => {
  test.each(['before.safetensors', 'before.pt', `before.${file}`])(
    'with %s agrees with PyTorch',
    async (before) => {
      const report = await probe(`${leak}/${before}`, `${leak}/after.${file}`, { inputs: [input] });
      const { restored, after } = expected.outputs;
      const [output] = report.outputs;
      expect(report.outputs).toHaveLength(1);
      expect(output?.relativeL2).toBeCloseTo(expected.relativeL2.restoredToAfter, 5);
      expect(output?.top1).toMatchObject({
        samples: 4,
        changed: restored.filter((row, i) => indexOfLargest(row) !== indexOfLargest(after[i] ?? [])).length,
      });
      expect(report.layers.map(({ name }) => normBehind(name)).sort()).toEqual(
        Object.keys(expected.layers).sort(),
      );
      for (const { name, movement, contribution } of report.layers) {
        const layer = normBehind(name);
        expect
          .soft(movement?.inNetwork, `${name} in the network`)
          .toBeCloseTo(expected.layers[layer]?.inNetwork ?? 0, 4);
        expect
          .soft(movement?.sameInput, `${name} by itself`)
          .toBeCloseTo(expected.layers[layer]?.sameInput ?? 0, 4);
        const remaining = relativeL2(restored, expected.ablation[layer] ?? []);
        expect.soft(contribution?.outputs[0]?.relativeL2, `${name} put back alone`).toBeCloseTo(remaining, 5);
        expect
          .soft(contribution?.explained, `${name} explains`)
          .toBeCloseTo(1 - remaining / expected.relativeL2.restoredToAfter, 4);
      }
      expect(report.copyError).toBeLessThan(1e-6);
      expect(report.repeatError).toBe(0);
    },
  );
});

describe('a pair that did not drift', () => {
  test.each([undefined, ['**']])('is exactly zero everywhere (put back: %s)', async (layers) => {
    for (const file of ['live.onnx', 'external.onnx', 'dynamo-live.onnx', 'fold.onnx', 'dynamo.onnx']) {
      // A folded file tells its statistics to rounding only, so none are put back there.
      const isLive = !file.includes('fold') && file !== 'dynamo.onnx';
      const report = await probe(`${pairs}/locked/before.pt`, `${pairs}/locked/after.${file}`, {
        layers: isLive ? layers : undefined,
      });
      expect(report.putBack.layers).toBe(isLive && layers !== undefined ? 8 : 0);
      expect(report.outputs).toMatchObject([
        { relativeL2: 0, cosine: 1, maxDifference: 0, top1: { changed: 0 } },
      ]);
      for (const { movement } of report.layers) expect(movement?.inNetwork).toBe(0);
      for (const { contribution } of report.layers) expect(contribution?.explained ?? 0).toBe(0);
    }
  });
});

test('layers stand along the depth of the graph, whatever the order of before', async () => {
  const { layers } = await probe(`${leak}/before.safetensors`, `${leak}/after.live.onnx`, { ablations: 0 });
  expect(layers[0]?.name).toBe('backbone.stem.bn');
  expect(layers.at(-1)?.name).toBe('backbone.layer2.1.bn2');
});

test('only drifted layers are put back, and the others are named', async () => {
  const report = await probe(`${pairs}/partly-frozen/before.pt`, `${pairs}/partly-frozen/after.live.onnx`);
  expect(report.layers.filter(({ putBack }) => putBack).map(({ name }) => name)).toEqual([
    'backbone.stem.bn',
    'backbone.layer1.0.bn1',
    'backbone.layer1.0.bn2',
  ]);
  expect(report.warnings.join('\n')).toContain('5 of 8 norm layers did more than drift (trained)');
});

test('globs choose the layers that are put back', async () => {
  const options = { inputs: [input], layers: ['**.bn2'] };
  const report = await probe(`${leak}/before.pt`, `${leak}/after.live.onnx`, options);
  expect(report.putBack).toEqual({ layers: 3, alone: 3 });
  const wrong = () => probe(`${leak}/before.pt`, `${leak}/after.live.onnx`, { layers: ['nothing'] });
  expect((await usageFailureOf(wrong)).message).toBe(
    '--layer "nothing" matches no norm layer of both checkpoints',
  );
});

test('the number of layers that are put back alone can be bounded', async () => {
  const run = (ablations: number) =>
    probe(`${leak}/before.pt`, `${leak}/after.live.onnx`, { inputs: [input], ablations });
  const two = await run(2);
  const alone = two.layers.filter(({ contribution }) => contribution !== null);
  expect(two.putBack).toEqual({ layers: 8, alone: 2 });
  const shifts = two.layers.map(({ outputShift }) => outputShift ?? 0).sort((x, y) => y - x);
  expect(alone.map(({ outputShift }) => outputShift).sort()).toEqual(shifts.slice(0, 2).sort());
  const none = await run(0);
  expect(
    none.layers.every(({ contribution, movement }) => contribution === null && movement?.sameInput === null),
  ).toBe(true);
  expect(none.outputs).toEqual(two.outputs);
});

test('samples that run one by one give what they give together', async () => {
  const run = (batch: number | undefined) =>
    probe(`${leak}/before.pt`, `${leak}/after.live.onnx`, { inputs: [input], batch });
  const [together, single] = [await run(undefined), await run(1)];
  expect(single.inputs.runs).toBe(4);
  expect(single.outputs[0]?.shape).toEqual([4, 4]);
  expect(single.outputs[0]?.relativeL2).toBeCloseTo(together.outputs[0]?.relativeL2 ?? 0, 6);
  expect(single.layers[3]?.movement?.sameInput).toBeCloseTo(together.layers[3]?.movement?.sameInput ?? 0, 6);
});

test('random samples are the same for the same seed, and are warned of', async () => {
  const run = (seed: number) => probe(`${leak}/before.pt`, `${leak}/after.live.onnx`, { samples: 6, seed });
  const report = await run(3);
  expect(report).toEqual(await run(3));
  expect(report.outputs).not.toEqual((await run(4)).outputs);
  expect(report.inputs).toMatchObject({ kind: 'random', samples: 6, runs: 2, seed: 3 });
  expect(report.warnings[0]).toContain('exaggerates');
});

test('InstanceNorm, whose parameters are tiled, is put back in front of the Tile', async () => {
  const path = `${pairs}/instance-norm-leak`;
  const report = await probe(`${path}/before.safetensors`, `${path}/after.live.onnx`);
  expect(report.putBack.layers).toBe(8);
  expect(report.layers[0]?.movement?.sameInput).toBeGreaterThan(0.05);
});

test('statistics that became NaN are put back, and what is not finite is said', async () => {
  const path = `${pairs}/nan`;
  const report = await probe(`${path}/before.safetensors`, `${path}/after.live.onnx`, { samples: 2 });
  expect(report.putBack.layers).toBe(8);
  expect(report.outputs[0]).toMatchObject({ relativeL2: Number.NaN, nonFinite: { after: 8, restored: 0 } });
  expect(report.warnings.join('\n')).toContain('holds 8 values that are NaN or infinite in after, 0 with');
});

test('a graph in training mode is warned of: nothing that is put back matters there', async () => {
  const report = await probe(`${leak}/before.training.onnx`, `${leak}/after.training.onnx`);
  expect(report.outputs[0]?.relativeL2).toBe(0);
  expect(report.warnings.join('\n')).toContain('runs in training mode');
});

/** A graph's input or output with its type. */
function value(number: 11 | 12, name: string, dims: readonly (number | string)[], type = FLOAT): Uint8Array {
  const shape = dims.map((dim) => field(1, typeof dim === 'number' ? int(1, dim) : field(2, dim)));
  return field(number, field(1, name), field(2, field(1, int(1, type), field(2, ...shape))));
}

/** Saves a model of two channels before and after a drift, and probes it. */
async function probeModel(
  name: string,
  build: (tensors: (path: string) => readonly Uint8Array[]) => Uint8Array,
  options: Parameters<typeof probe>[2] = {},
) {
  const drifted = (path: string) => [
    ...normTensors(path).slice(0, 2),
    tensor(`${path}.running_mean`, [2], FLOAT, field(9, f32(4, -2))),
    tensor(`${path}.running_var`, [2], FLOAT, field(9, f32(8, 3))),
  ];
  const paths = ['before', 'after'].map((side) => join(folder, `${name}.${side}.onnx`)) as [string, string];
  writeFileSync(
    paths[0],
    build((path) => normTensors(path)),
  );
  writeFileSync(paths[1], build(drifted));
  return await probe(...paths, options);
}

const norm = (path: string, from: string, to: string) =>
  node('BatchNormalization', [from, ...normNames(path)], [to], { name: path });
const inX = value(11, 'x', ['N', 2]);

test('layers in subgraphs are put back, and it is said that they cannot be tapped', async () => {
  const branch = (path: string, tensors: readonly Uint8Array[] = []) =>
    graph({ nodes: [norm(path, 'a', `${path}.y`)], outputs: [`${path}.y`], initializers: tensors });
  const condition = tensor('yes', [], 9, field(9, 1));
  const report = await probeModel('if', (tensors) =>
    model(
      Buffer.concat([
        graph({
          nodes: [
            norm('bn0', 'x', 'a'),
            node('If', ['yes'], ['y'], {
              name: 'choose',
              attributes: [
                attribute.graph('then_branch', branch('bn1')),
                attribute.graph('else_branch', branch('bn2', tensors('bn2'))),
              ],
            }),
          ],
          initializers: [...tensors('bn0'), ...tensors('bn1'), condition],
        }),
        inX,
        value(12, 'y', ['N', 2]),
      ]),
    ),
  );
  const byName = new Map(report.layers.map((layer) => [layer.name, layer]));
  expect(report.putBack).toEqual({ layers: 3, alone: 3 });
  expect(byName.get('bn0')?.movement?.sameInput).toBeGreaterThan(0);
  expect(byName.get('bn1')).toMatchObject({
    movement: null,
    notes: [expect.stringContaining('cannot be tapped')],
  });
  expect(byName.get('bn1')?.contribution?.explained).not.toBe(0);
  // The branch that is not taken explains nothing.
  expect(byName.get('bn2')?.contribution?.explained).toBe(0);
});

test('statistics that a call hands to a local function are put back at the call', async () => {
  const body = localFunction('Norm', {
    inputs: ['X', 'w', 'b', 'm', 'v'],
    outputs: ['Y'],
    nodes: [node('BatchNormalization', ['X', 'w', 'b', 'm', 'v'], ['Y'], { name: 'inner' })],
  });
  const report = await probeModel('function', (tensors) =>
    Buffer.concat([
      model(
        Buffer.concat([
          graph({
            nodes: [
              call('Norm', ['x', ...normNames('one')], ['a'], { name: 'one' }),
              call('Norm', ['a', ...normNames('two')], ['y'], { name: 'two' }),
            ],
            initializers: [...tensors('one'), ...tensors('two')],
          }),
          inX,
          value(12, 'y', ['N', 2]),
        ]),
        { functions: [body] },
      ),
      field(8, field(1, 'local'), int(2, 1)),
    ]),
  );
  expect(report.putBack.layers).toBe(2);
  expect(report.layers.map(({ movement }) => movement)).toEqual([null, null]);
  for (const { contribution } of report.layers) expect(contribution?.explained).not.toBe(0);
});

/** Two norm layers with parameters alike, each between an input and an output of its own. */
function buildTwoInputs(tensors: (path: string) => readonly Uint8Array[]): Uint8Array {
  return model(
    Buffer.concat([
      graph({
        nodes: [norm('one', 'x', 'y'), norm('two', 'z', 'w')],
        initializers: [...tensors('one'), ...tensors('two')],
      }),
      inX,
      value(11, 'z', ['N', 2]),
      value(12, 'y', ['N', 2]),
      value(12, 'w', ['N', 2]),
    ]),
  );
}

test('several outputs are compared each by itself; a layer that feeds one explains nothing of the other', async () => {
  const report = await probeModel('outputs', (tensors) =>
    model(
      Buffer.concat([
        graph({
          nodes: [norm('one', 'x', 'y'), norm('two', 'z', 'w'), node('ArgMax', ['w'], ['k'])],
          initializers: [...tensors('one'), ...tensors('two')],
        }),
        inX,
        value(11, 'z', ['N', 2]),
        value(12, 'y', ['N', 2]),
        value(12, 'w', ['N', 2]),
        value(12, 'k', [1, 2], 7),
      ]),
    ),
  );
  expect(report.outputs.map(({ name, type, top1 }) => [name, type, top1 !== null])).toEqual([
    ['y', 'float32', true],
    ['w', 'float32', true],
    ['k', 'int64', false],
  ]);
  const [one] = report.layers;
  expect(one?.contribution?.outputs.slice(0, 2)).toMatchObject([{ explained: 1 }, { explained: 0 }]);
});

test('each of several inputs gets the array of its name, from .npy files and from one .npz', async () => {
  const arrays = { x: npy('<f4', '(2, 2)', f32(1, 2, 3, 4)), z: npy('<f4', '(2, 2)', f32(-9, 7, 0.5, 20)) };
  const files = Object.entries(arrays).map(([name, bytes]) => {
    const path = join(folder, `${name}.npy`);
    writeFileSync(path, bytes);
    return path;
  });
  const [x = '', z = ''] = files;
  const archive = join(folder, 'both.npz');
  writeFileSync(
    archive,
    zip(Object.entries(arrays).map(([name, bytes]) => ({ name: `${name}.npy`, bytes }))),
  );
  const run = async (...inputs: readonly string[]) => {
    const report = await probeModel('inputs', buildTwoInputs, { inputs });
    return report.outputs.map(({ relativeL2 }) => relativeL2);
  };
  const [first, second] = await run(x, z);
  expect(first).not.toBe(second);
  expect(await run(`z=${z}`, x)).toEqual([first, second]);
  expect(await run(archive)).toEqual([first, second]);
  expect(await run(`z=${x}`, `x=${z}`)).toEqual([second, first]);
});

test('a layer that is called twice is put back and tapped at both places', async () => {
  const again = node('BatchNormalization', ['r', ...normNames('bn')], ['y'], { name: 'bn again' });
  const report = await probeModel('twice', (tensors) =>
    model(
      Buffer.concat([
        graph({
          nodes: [norm('bn', 'x', 'a'), node('Relu', ['a'], ['r']), again],
          initializers: tensors('bn'),
        }),
        inX,
        value(12, 'y', ['N', 2]),
      ]),
    ),
  );
  expect(report.putBack).toEqual({ layers: 1, alone: 1 });
  expect(report.layers[0]?.contribution?.explained).toBe(1);
  expect(report.layers[0]?.movement?.inNetwork).toBeGreaterThan(0);
});

test('halves are fed and read as halves', async () => {
  const half = (name: string, ...values: readonly number[]) =>
    tensor(name, [values.length], FLOAT16, field(9, encodeFloats(values, 'F16')));
  const build = (mean: number, variance: number) =>
    model(
      Buffer.concat([
        graph({
          nodes: [norm('bn', 'x', 'y')],
          initializers: [
            half('bn.weight', 1, 2),
            half('bn.bias', 0.5, -0.5),
            half('bn.running_mean', mean, 1),
            half('bn.running_var', variance, 2),
          ],
        }),
        value(11, 'x', ['N', 2], FLOAT16),
        value(12, 'y', ['N', 2], FLOAT16),
      ]),
    );
  const paths = ['before', 'after'].map((side) => join(folder, `half.${side}.onnx`)) as [string, string];
  writeFileSync(paths[0], build(0, 1));
  writeFileSync(paths[1], build(1, 4));
  const report = await probe(...paths, { samples: 64 });
  expect(report.outputs[0]).toMatchObject({ type: 'float16', shape: [64, 2] });
  expect(report.outputs[0]?.relativeL2).toBeGreaterThan(0.05);
  writeFileSync(paths[1], build(0, 1));
  expect((await probe(...paths)).outputs[0]?.relativeL2).toBe(0);
});

test('external data is found by a location that begins with a dot', async () => {
  const folder = makeTempDirectory();
  const name = 'after.external.onnx.data';
  const dotted = name.replace('af', './');
  const model = readFileSync(`${leak}/after.external.onnx`, 'latin1').replaceAll(name, dotted);
  writeFileSync(join(folder, 'after.onnx'), model, 'latin1');
  cpSync(`${leak}/${name}`, join(folder, dotted));
  const outputsOf = async (after: string) => (await probe(`${leak}/before.pt`, after)).outputs;
  expect(await outputsOf(join(folder, 'after.onnx'))).toEqual(await outputsOf(`${leak}/after.external.onnx`));
});

describe('external data behind links', () => {
  test('is read into memory where links are allowed', async () => {
    const real = join(folder, 'blobs');
    const linked = join(folder, 'snapshot');
    cpSync(leak, real, { recursive: true });
    cpSync(`${leak}/after.external.onnx`, join(linked, 'after.external.onnx'));
    symlinkSync(join(real, 'after.external.onnx.data'), join(linked, 'after.external.onnx.data'));
    const run = (allowExternalSymlinks: boolean) =>
      probe(`${leak}/before.pt`, join(linked, 'after.external.onnx'), {
        inputs: [input],
        ablations: 0,
        allowExternalSymlinks,
      });
    expect((await failureOf(() => run(false))).code).toBe('refused');
    expect((await run(true)).outputs[0]?.relativeL2).toBeCloseTo(expected.relativeL2.restoredToAfter, 5);
  });
});

test('after must be an ONNX model, and options must make sense', async () => {
  expect(await failureOf(() => probe(`${leak}/before.pt`, `${leak}/after.pt`))).toMatchObject({
    message: 'expected an ONNX model to run, found a PyTorch checkpoint',
    hint: expect.stringContaining('torch.onnx.export'),
  });
  const run = (options: Parameters<typeof probe>[2]) =>
    probe(`${leak}/before.pt`, `${leak}/after.live.onnx`, options);
  expect((await usageFailureOf(() => run({ inputs: [input], samples: 2 }))).message).toBe(
    'input files leave nothing to draw',
  );
});

test('what ONNX Runtime refuses is an error of one line', async () => {
  const failure = await failureOf(() =>
    probeModel('broken', (tensors) =>
      model(
        Buffer.concat([
          graph({
            nodes: [norm('bn', 'x', 'a'), node('Nonsense', ['a'], ['y'])],
            initializers: tensors('bn'),
          }),
          inX,
          value(12, 'y', ['N', 2]),
        ]),
      ),
    ),
  );
  expect(failure.code).toBe('unsupported');
  expect(failure.message).toMatch(/^ONNX Runtime cannot load the model: [^\n]*Nonsense/);
});
