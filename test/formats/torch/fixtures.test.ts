import { existsSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Checkpoint, Tensor } from '../../../src/checkpoint/checkpoint.js';
import { CheckpointError } from '../../../src/errors.js';
import { openSafetensors } from '../../../src/formats/safetensors/safetensors.js';
import { openTorch } from '../../../src/formats/torch/torch.js';
import { memorySource, readRange } from '../../../src/io/byte-source.js';

/** What fixtures/containers/expected.json says of one file. */
interface Expected {
  readonly format: string;
  /** What the names start with before those of the reference. */
  readonly prefix: string;
  /** `equal` where the tensors are bit for bit those of the reference. */
  readonly values: string;
  readonly counts?: boolean;
  readonly refused?: readonly string[];
  readonly extra?: readonly string[];
}

interface ExpectedFiles {
  readonly tensorsOf: string;
  readonly files: Readonly<Record<string, Expected>>;
}

const DIRECTORY = resolve(import.meta.dirname, '../../../fixtures/containers');
const READ_HERE = new Set(['zip', 'legacy', 'tar', 'torchscript']);

const { tensorsOf, files }: ExpectedFiles = JSON.parse(
  readFileSync(resolve(DIRECTORY, 'expected.json'), 'utf8'),
);
const cases = Object.entries(files).filter(([, { format }]) => READ_HERE.has(format));

const readFixture = (name: string) => Uint8Array.from(readFileSync(resolve(DIRECTORY, name)));
const reference = await openSafetensors(memorySource('reference', readFixture(tensorsOf)), 'reference');

async function bytesOf(tensor: Tensor | undefined): Promise<string> {
  if (tensor === undefined) return 'missing';
  return `${tensor.dtype} ${tensor.shape.join('×')} ${Buffer.from(await readRange(tensor.range)).toString('hex')}`;
}

describe('a checkpoint that real PyTorch, or its old writers, made', () => {
  test.each(cases)('%s', async (name, expected) => {
    const checkpoint = await openTorch(memorySource(name, readFixture(name)), { path: name });
    const counts = expected.counts ?? true;
    const names = [...reference.tensors.keys()].filter(
      (key) => counts || !key.endsWith('.num_batches_tracked'),
    );
    const extra = (expected.extra ?? []).map((key) => expected.prefix + key);
    expect([...checkpoint.tensors.keys()].sort()).toEqual(
      [...names.map((key) => expected.prefix + key), ...extra].sort(),
    );
    for (const left of expected.refused ?? []) expect(checkpoint.warnings.join()).toContain(left);
    if (expected.values !== 'equal' || /^float64/.test(name)) return;
    for (const key of names) {
      expect(await bytesOf(checkpoint.tensors.get(expected.prefix + key))).toBe(
        await bytesOf(reference.tensors.get(key)),
      );
    }
  });
});

/** Reads every tensor, as an audit would. */
async function readAll(checkpoint: Checkpoint): Promise<void> {
  for (const { range } of checkpoint.tensors.values()) await readRange(range);
}

describe('no change of a fixture yields anything but a checkpoint or a CheckpointError', () => {
  const names = [
    'zip-protocol-4.pt',
    'legacy.pt',
    'tar.pt',
    'deflated.pt',
    'whole-module.pt',
    'torchscript-scripted.pt',
  ];
  test.each(names.filter((name) => existsSync(resolve(DIRECTORY, name))))('%s', async (name) => {
    const original = readFixture(name);
    const change = fc.record({
      at: fc.nat(original.length - 1),
      bytes: fc.uint8Array({ minLength: 1, maxLength: 9 }),
      isInserted: fc.boolean(),
      end: fc.option(fc.nat(original.length), { freq: 8 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 3 }), async (changes) => {
        let mutant = original;
        for (const { at, bytes, isInserted, end } of changes) {
          const rest = mutant.subarray(isInserted ? at : at + bytes.length);
          mutant = Uint8Array.from(Buffer.concat([mutant.subarray(0, at), bytes, rest])).subarray(
            0,
            end ?? undefined,
          );
        }
        try {
          await readAll(await openTorch(memorySource(name, mutant), { path: name }));
        } catch (error) {
          expect(error).toBeInstanceOf(CheckpointError);
        }
      }),
      { numRuns: 300 },
    );
  });
});
