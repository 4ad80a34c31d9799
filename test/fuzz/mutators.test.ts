import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { CheckpointError } from '../../src/errors.js';
import { readNpy } from '../../src/formats/numpy/npy.js';
import { readSafetensorsHeader } from '../../src/formats/safetensors/safetensors.js';
import { memorySource } from '../../src/io/byte-source.js';
import { openZip } from '../../src/io/zip.js';
import { encodeInteger, type Mutator, mutateBytes, mutateValues } from './mutate-bytes.js';
import { mutateJson, parseJson, writeJson } from './mutate-json.js';
import { mutateNpy } from './mutate-npy.js';
import { findPickles, mutatePickle, mutatePickles, splitPickle } from './mutate-pickle.js';
import { mutateProtobuf, readMessage, writeMessage } from './mutate-protobuf.js';
import { joinSafetensors, mutateSafetensors, splitSafetensors } from './mutate-safetensors.js';
import { mutateTar, readTar, writeTar } from './mutate-tar.js';
import { mutateZip, readZip, writeZip } from './mutate-zip.js';
import { Random } from './random.js';

const fixtures = fileURLToPath(new URL('../../fixtures', import.meta.url));
const read = (path: string) => new Uint8Array(readFileSync(join(fixtures, path)));
const listTorch = () => readdirSync(join(fixtures, 'containers')).filter((name) => name.endsWith('.pt'));

/** Mutants of a file; what a mutator cannot take apart any more, the engine changes as bytes. */
function makeMutants(mutate: Mutator, bytes: Uint8Array, count = 300): readonly Uint8Array[] {
  const random = new Random(7);
  return Array.from({ length: count }, () => mutate(bytes, random, bytes));
}

/** How many of the mutants some check lets through. */
async function countValid(
  mutants: readonly Uint8Array[],
  check: (bytes: Uint8Array) => unknown,
): Promise<number> {
  let valid = 0;
  for (const mutant of mutants) {
    try {
      if ((await check(mutant)) !== null) valid++;
    } catch (error) {
      if (!(error instanceof CheckpointError || error instanceof SyntaxError)) throw error;
    }
  }
  return valid;
}

const MUTATORS: readonly (readonly [name: string, mutate: Mutator, file: string])[] = [
  ['bytes', mutateBytes, 'containers/legacy.pt'],
  ['values', mutateValues, 'containers/legacy.pt'],
  ['json', mutateJson, 'containers/sharded/model.safetensors.index.json'],
  ['safetensors', mutateSafetensors, 'containers/tied.safetensors'],
  ['protobuf', mutateProtobuf, 'pairs/locked/before.live.onnx'],
  ['zip', mutateZip, 'pairs/locked/before.pt'],
  ['pickles', mutatePickles, 'containers/legacy.pt'],
  ['tar', mutateTar, 'containers/tar.pt'],
  ['npy', mutateNpy, 'probe/input.npy'],
];

describe.each(MUTATORS)('the mutator of %s', (_, mutate, file) => {
  const bytes = read(file);

  test('makes the same of the same seed', () => {
    const make = () => makeMutants(mutate, bytes, 20).map((mutant) => Buffer.from(mutant).toString('latin1'));
    expect(make()).toEqual(make());
  });

  test('leaves its input as it is, and mostly changes something', () => {
    const mutants = makeMutants(mutate, bytes);
    expect(Buffer.compare(bytes, read(file))).toBe(0);
    expect(mutants.filter((mutant) => Buffer.compare(mutant, bytes) !== 0).length).toBeGreaterThan(200);
  });
});

describe('structures that are taken apart and put together are the same', () => {
  test('a safetensors file', () => {
    const bytes = read('containers/tied.safetensors');
    expect(new Uint8Array(joinSafetensors(splitSafetensors(bytes)))).toEqual(bytes);
  });

  test('an ONNX model, at two levels', () => {
    const bytes = read('pairs/locked/before.live.onnx');
    const fields = readMessage(bytes) ?? [];
    const deep = fields.map((field) => {
      const inner = field.wireType === 2 ? readMessage(field.bytes) : null;
      return inner === null ? field : { ...field, bytes: writeMessage(inner) };
    });
    expect(new Uint8Array(writeMessage(deep))).toEqual(bytes);
  });

  test.each(listTorch())('the pickle of %s, opcode by opcode', (name) => {
    const bytes = read(`containers/${name}`);
    const members = readZip(bytes).filter(
      (member) => member.name.endsWith('data.pkl') && member.method === 0,
    );
    const starts = findPickles(bytes);
    const pickles = [...members.map(({ stored }) => stored), ...starts.map((start) => bytes.subarray(start))];
    for (const pickle of pickles) {
      const whole = Buffer.concat(splitPickle(pickle));
      expect(whole).toEqual(Buffer.from(pickle.subarray(0, whole.length)));
      expect(whole.at(-1)).toBe('.'.charCodeAt(0));
    }
  });

  test('a tar file', () => {
    const members = readTar(read('containers/tar.pt'));
    expect(members.length).toBeGreaterThan(3);
    expect(readTar(writeTar(members))).toEqual(
      members.map(({ header, content }) => ({ header: Buffer.from(header), content: Buffer.from(content) })),
    );
  });

  test('a zip file, member by member', async () => {
    const members = readZip(read('pairs/locked/before.pt'));
    const source = memorySource('x.zip', new Uint8Array(writeZip(members)));
    const { entries } = await openZip(source);
    expect([...entries.keys()]).toEqual(members.map(({ name }) => name));
  });

  test('JSON, with a key that is there twice', () => {
    expect(writeJson(parseJson('{"a": [1, "x\\n", null], "b": {}}'))).toBe('{"a":[1,"x\\n",null],"b":{}}');
    const twice = {
      kind: 'object' as const,
      members: [
        ['a', parseJson('1')],
        ['a', parseJson('2')],
      ] as const,
    };
    expect(writeJson({ ...twice, members: [...twice.members] })).toBe('{"a":1,"a":2}');
  });
});

describe('most mutants keep the outer structure', () => {
  test('a safetensors file: the length is that of a header of JSON', async () => {
    const mutants = makeMutants(mutateSafetensors, read('containers/tied.safetensors'));
    expect(await countValid(mutants, (bytes) => JSON.parse(splitSafetensors(bytes).header))).toBeGreaterThan(
      240,
    );
  });

  test('a safetensors file: many have a header that the reader takes', async () => {
    const mutants = makeMutants(mutateSafetensors, read('containers/tied.safetensors'));
    const open = (bytes: Uint8Array) => readSafetensorsHeader(memorySource('x', new Uint8Array(bytes)));
    expect(await countValid(mutants, open)).toBeGreaterThan(75);
  });

  test('an ONNX model: it is a message still', async () => {
    const mutants = makeMutants(mutateProtobuf, read('pairs/locked/before.live.onnx'));
    expect(await countValid(mutants, readMessage)).toBeGreaterThan(250);
  });

  test('a zip file: the directory is found', async () => {
    const mutants = makeMutants(mutateZip, read('pairs/locked/before.pt'));
    const open = (bytes: Uint8Array) => openZip(memorySource('x', new Uint8Array(bytes)));
    expect(await countValid(mutants, open)).toBeGreaterThan(180);
  });

  test('a pickle: it ends with STOP', async () => {
    const pickle = readZip(read('pairs/locked/before.pt')).find(({ name }) =>
      name.endsWith('data.pkl'),
    )?.stored;
    const mutants = makeMutants(mutatePickle, pickle ?? new Uint8Array(0));
    expect(
      await countValid(mutants, (bytes) => (splitPickle(bytes).at(-1)?.[0] === 0x2e ? true : null)),
    ).toBeGreaterThan(200);
  });

  test('a tar file: every header has the sum of its bytes', () => {
    const mutants = makeMutants(mutateTar, read('containers/tar.pt'));
    const isRight = ({ header }: { readonly header: Uint8Array }) => {
      const sum = header.reduce((total, byte, at) => total + (at >= 148 && at < 156 ? 32 : byte), 0);
      return Number.parseInt(Buffer.from(header.subarray(148, 156)).toString(), 8) === sum;
    };
    expect(mutants.filter((mutant) => readTar(mutant).every(isRight)).length).toBeGreaterThan(250);
  });

  test('an .npy array: half are arrays, and half of all have another header', async () => {
    const bytes = read('probe/input.npy');
    const mutants = makeMutants(mutateNpy, bytes);
    const open = (mutant: Uint8Array) =>
      readNpy(
        { source: memorySource('x', new Uint8Array(mutant)), offset: 0, byteLength: mutant.length },
        'x',
      );
    expect(await countValid(mutants, open)).toBeGreaterThan(75);
    const lengthOf = (mutant: Uint8Array) => Buffer.from(mutant.subarray(8, 10)).readUInt16LE();
    expect(
      mutants.filter((mutant) => mutant.length > 10 && lengthOf(mutant) <= mutant.length).length,
    ).toBeGreaterThan(200);
  });
});

test('numbers are written in both orders', () => {
  expect([...encodeInteger(-2n, 2, true)]).toEqual([0xfe, 0xff]);
  expect([...encodeInteger(258n, 4, false)]).toEqual([0, 0, 1, 2]);
});
