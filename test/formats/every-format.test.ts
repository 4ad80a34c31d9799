import { cpSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { auditCheckpoints } from '../../src/audit.js';
import type { Checkpoint } from '../../src/checkpoint/checkpoint.js';
import { OTHER_FILES } from '../../src/formats/format.js';
import { FORMATS, findInDirectory, openCheckpoint, openSource } from '../../src/formats/open.js';
import { inspectCheckpoint } from '../../src/inspect.js';
import { memorySource, readRange } from '../../src/io/byte-source.js';
import { openFileSource } from '../../src/io/file-source.js';
import { render } from '../../src/report/render.js';
import { bytesOf } from '../build/bytes.js';
import { type StoredTensor, safetensorsBytes } from '../build/safetensors.js';
import { makeTempDirectory } from '../build/sources.js';

const FIXTURES = resolve(import.meta.dirname, '../../fixtures');

interface Sample {
  /** A checkpoint that its own framework wrote, and safetensors of the same tensors. */
  readonly file: string;
  readonly reference: string;
  /** Members of the JSON that a file tells beyond its values, e.g. the momentum that a configuration has. */
  readonly tells?: readonly string[];
}

const STATE = 'archives/state.safetensors';
const ARRAYS = 'arrays/reference/torch-before.safetensors';
const KERAS = 'keras/before.safetensors';

/** For every row of the registry. */
const SAMPLES: Readonly<Record<string, readonly Sample[]>> = {
  safetensors: [{ file: ARRAYS, reference: ARRAYS }],
  'safetensors in shards': [{ file: 'archives/indexed', reference: STATE }],
  'Keras in shards': [{ file: 'keras/sharded', reference: 'keras/sharded/expected.safetensors' }],
  'PyTorch, distributed': [
    { file: 'archives/distributed', reference: STATE },
    { file: 'archives/sharded', reference: STATE },
  ],
  PyTorch: [
    { file: 'pairs/locked/before.pt', reference: 'pairs/locked/before.safetensors' },
    { file: 'archives/deepspeed/global_step7', reference: STATE },
    { file: 'archives/exported.pt2', reference: STATE, tells: ['declared', 'warnings'] },
    { file: 'arrays/detectron2/torch-before.pkl', reference: ARRAYS },
    {
      file: 'arrays/paddle-save/paddle-before.pdparams',
      reference: 'arrays/reference/paddle-before.safetensors',
    },
  ],
  Flax: [{ file: 'flax/before.msgpack', reference: 'flax/before.safetensors' }],
  Keras: [
    { file: 'keras/before.keras', reference: KERAS, tells: ['momentum', 'warnings'] },
    { file: 'keras/before.h5', reference: KERAS, tells: ['momentum', 'warnings'] },
    { file: 'keras/before.weights.h5', reference: KERAS, tells: ['warnings'] },
  ],
  'TensorFlow SavedModel': [{ file: writeSavedModel(), reference: 'keras/after.safetensors' }],
  TensorFlow: [{ file: 'keras/exported', reference: 'keras/after.safetensors' }],
  Darknet: [{ file: 'darknet/tiny.weights', reference: 'darknet/before.safetensors' }],
  ONNX: [
    {
      file: 'pairs/locked/before.live.onnx',
      reference: 'pairs/locked/before.safetensors',
      tells: ['kind', 'node', 'neighboursFrom', 'mode', 'momentum'],
    },
  ],
  'an archive that holds one': [
    { file: 'archives/model.nemo', reference: STATE },
    { file: 'archives/deflated.zip', reference: STATE },
  ],
  'NumPy .npz': [{ file: 'arrays/stored/torch-before.npz', reference: ARRAYS }],
  'NumPy .npy files': [{ file: 'arrays/folder/torch-before', reference: ARRAYS }],
};

/** The variables that TensorFlow wrote, beside what the graph of a SavedModel begins with: all of one is too large. */
function writeSavedModel(): string {
  const directory = makeTempDirectory();
  cpSync(join(FIXTURES, 'keras/exported'), directory, { recursive: true });
  const graph = bytesOf(0x08, 1, 0x12, 0xb4, 0x9e, 0x02, 0x0a, 0x0f, 0x22, 5, 'serve');
  writeFileSync(join(directory, 'saved_model.pb'), graph);
  return directory;
}

/** The tensors of a checkpoint, whose means drift where that is wanted; an ONNX model has no counts, and none stay then. */
async function copyOf(
  checkpoint: Checkpoint,
  { drifts, hasCounts }: { drifts: boolean; hasCounts: boolean },
): Promise<Checkpoint> {
  const tensors: Record<string, StoredTensor> = {};
  for (const [name, { dtype, shape, range }] of checkpoint.tensors) {
    if (!hasCounts && name.endsWith('num_batches_tracked')) continue;
    const data = Uint8Array.from(await readRange(range));
    // The lowest bit of a float32's exponent: half or twice as much.
    const high = data.length - 2;
    if (drifts && /mean/.test(name)) data[high] = (data[high] ?? 0) ^ 0x80;
    tensors[name] = { dtype, shape, data };
  }
  return openSource(memorySource('copy.safetensors', safetensorsBytes(tensors)), 'copy.safetensors');
}

/** Says where and how a checkpoint is stored, not what is in it. */
const OF_THE_FILE = ['path', 'format', 'framework', 'inModuleOrder'];

/** A report's JSON without some of its members, sorted: what files have in the order of modules, others have by name. */
function withoutFiles(report: object, told: readonly string[]): unknown {
  const known: unknown = JSON.parse(
    JSON.stringify(report, (key, value) => ([...OF_THE_FILE, ...told].includes(key) ? undefined : value)),
  );
  const sort = (value: unknown): unknown => {
    if (Array.isArray(value))
      return value.map(sort).sort((x, y) => (JSON.stringify(x) < JSON.stringify(y) ? -1 : 1));
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, sort(member)]));
  };
  return sort(known);
}

describe('the JSON of a checkpoint is that of the same tensors in safetensors, but for names and format', () => {
  test('every format that is read has a sample', () => {
    const read = FORMATS.filter((format) => !OTHER_FILES.includes(format)).map(({ name }) => name);
    expect(Object.keys(SAMPLES).sort()).toEqual([...read].sort());
  });

  const samples = Object.entries(SAMPLES).flatMap(([name, files]) =>
    files.map((sample) => [name, sample.file.replace(/^.*(?=tmp)/, ''), sample] as const),
  );

  // ε is given: files of Keras and ONNX tell it, safetensors do not.
  const epsilon = 1e-3;

  test.each(samples)('%s: %s', async (name, _, { file, reference, tells = [] }) => {
    const path = resolve(FIXTURES, file);
    const row = FORMATS.filter((format) => format.name === name);
    const found = await openSource(openFileSource(findInDirectory(path) ?? path), path, {}, row);
    const stored = await openCheckpoint(join(FIXTURES, reference));
    const hasCounts = found.graph === null;
    const same = await copyOf(stored, { drifts: false, hasCounts });
    const drifted = await copyOf(stored, { drifts: true, hasCounts });

    const auditOf = async (before: Checkpoint, after: Checkpoint) => {
      const report = await auditCheckpoints(before, after, { epsilon });
      expect(report.verdict).toBe('drifted');
      return withoutFiles(JSON.parse(render(report, { format: 'json' })), tells);
    };
    expect(await auditOf(found, drifted)).toEqual(await auditOf(same, drifted));
    expect(await auditOf(drifted, found)).toEqual(await auditOf(drifted, same));
    expect((await auditCheckpoints(found, same)).verdict).toBe('clean');

    const inspectionOf = async (checkpoint: Checkpoint) =>
      withoutFiles(await inspectCheckpoint(checkpoint, { epsilon }), tells);
    expect(await inspectionOf(found)).toEqual(await inspectionOf(same));
    for (const checkpoint of [found, stored]) await checkpoint.close();
  });
});
