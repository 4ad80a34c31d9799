import { readFileSync, writeFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { audit } from '../../src/audit.js';
import type { Tensor } from '../../src/checkpoint/checkpoint.js';
import { openCheckpoint } from '../../src/formats/open.js';
import { readRange } from '../../src/io/byte-source.js';
import { render } from '../../src/report/render.js';
import { restore } from '../../src/restore/restore.js';
import { failureOf } from '../build/failure.js';
import { makeTempDirectory } from '../build/sources.js';
import { zip } from './torch/build/zip-writer.js';

/** What fixtures/archives/expected.json says of one path. */
interface Expected {
  readonly made: string;
  readonly prefix: string;
  readonly frozen?: readonly string[];
}

const DIRECTORY = resolve(import.meta.dirname, '../../fixtures/archives');
const { paths }: { paths: Readonly<Record<string, Expected>> } = JSON.parse(
  readFileSync(join(DIRECTORY, 'expected.json'), 'utf8'),
);
const cases = Object.entries(paths);
const reference = join(DIRECTORY, 'state.safetensors');

async function bytesOf(tensors: ReadonlyMap<string, Tensor>): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const [name, { dtype, shape, range }] of [...tensors].sort(([one], [other]) => (one < other ? -1 : 1)))
    found[name] = `${dtype} [${shape}] ${Buffer.from(await readRange(range)).toString('hex')}`;
  return found;
}

describe('a checkpoint of several parts, or within an archive', () => {
  test.each(cases)('%s holds the tensors of the reference', async (name, { prefix }) => {
    const checkpoint = await openCheckpoint(join(DIRECTORY, name));
    const expected = await openCheckpoint(reference);
    const tensors = new Map(
      [...checkpoint.tensors].map(([key, tensor]) => [key.slice(prefix.length), tensor]),
    );
    expect([...checkpoint.tensors.keys()].every((key) => key.startsWith(prefix))).toBe(true);
    expect(await bytesOf(tensors)).toEqual(await bytesOf(expected.tensors));
    await Promise.all([checkpoint.close(), expected.close()]);
  });

  const before = join(DIRECTORY, 'before.safetensors');
  const auditOf = async (name: string) => {
    const { layers, summary, learned } = JSON.parse(
      render(await audit(before, join(DIRECTORY, name)), { format: 'json' }).replaceAll(
        'features_extractor.',
        '',
      ),
    );
    return {
      layers: layers.map(({ name, declared, ...layer }: { name: string; declared: object }) => ({
        ...layer,
        tail: name.slice(-3),
      })),
      summary,
      learned,
    };
  };

  test.each(cases)('%s is audited as the reference is', async (name) => {
    const found = await auditOf(name);
    expect(found.layers).toMatchObject([{ status: 'drifted' }, { status: 'drifted' }]);
    expect(found).toEqual(await auditOf('state.safetensors'));
  });

  test.each(cases.filter(([, { frozen }]) => frozen !== undefined))(
    '%s says which parameters were frozen',
    async (name, { frozen }) => {
      const { tensors } = await openCheckpoint(join(DIRECTORY, name));
      const stated = [...tensors.values()].filter(({ requiresGrad }) => requiresGrad === false);
      expect(stated.map((tensor) => tensor.name)).toEqual(frozen);
    },
  );

  test.each(cases.filter(([name]) => !/^(?:exported|dtensors)\.|deepspeed/.test(name)))(
    'nothing is written into %s',
    async (name) => {
      const { planEdits, close } = await openCheckpoint(join(DIRECTORY, name));
      expect(await failureOf(async () => planEdits?.([]))).toMatchObject({
        code: 'unsupported',
        message: expect.stringContaining('expected a checkpoint that statistics can be written into, found '),
      });
      await close();
    },
  );

  test('statistics are written into an exported program, whose archive stays whole', async () => {
    const output = join(makeTempDirectory(), 'restored.pt2');
    await restore(before, join(DIRECTORY, 'exported.pt2'), output, {});
    const [restored, original] = [await openCheckpoint(output), await openCheckpoint(before)];
    for (const name of ['bn1.running_mean', 'bn2.running_var']) {
      const [one, other] = [restored, original].map(({ tensors }) => tensors.get(name));
      expect(await readRange(rangeOf(one))).toEqual(await readRange(rangeOf(other)));
    }
    await Promise.all([restored.close(), original.close()]);
  });
});

describe('an archive of files of any format', () => {
  const zipOf = (...names: readonly string[]) => {
    const path = join(makeTempDirectory(), 'held.zip');
    const bytesIn = (name: string) => Uint8Array.from(readFileSync(resolve(DIRECTORY, '..', name)));
    writeFileSync(path, zip(names.map((name) => ({ name: basename(name), bytes: bytesIn(name) }))));
    return path;
  };

  test.each([
    ['keras/before.keras', 'Keras'],
    ['flax/before-two.msgpack', 'Flax'],
    ['archives/exported.pt2', 'PyTorch'],
  ])('is read where it holds %s alone', async (name, format) => {
    const checkpoint = await openCheckpoint(zipOf(name));
    expect(checkpoint.format).toBe(format);
    await checkpoint.close();
  });

  test('is refused where it holds several, of whatever formats', async () => {
    const path = zipOf('keras/before.keras', 'archives/dtensors.pt');
    expect(await failureOf(() => openCheckpoint(path))).toMatchObject({
      message: expect.stringContaining('a zip file that holds checkpoints instead of being one'),
    });
  });
});

function rangeOf(tensor: Tensor | undefined) {
  if (tensor === undefined) throw new Error('expected a tensor, found none');
  return tensor.range;
}
