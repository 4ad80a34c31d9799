import { CheckpointError, quote } from '../../errors.js';
import type { ByteSource } from '../../io/byte-source.js';
import { isInflated } from '../../io/inflated-source.js';
import type { TorchContainer } from './container.js';
import { refuseForeignZip } from './foreign-zips.js';
import { MAX_PICKLE_BYTES, readPickle } from './pickle.js';
import { asInteger, describeValue, type StorageNode } from './pickle-values.js';
import { elementTypeOf, resolveTorchId, type StorageTable } from './storages.js';
import { locateRecord, openZip, readRecord, type ZipArchive } from './zip.js';
import type { ZipEntry } from './zip-directory.js';
import { planZipSplices } from './zip-splices.js';

/** `little` or `big`, with room for whatever else may stand there. */
const MAX_BYTE_ORDER_BYTES = 64;

/** Python source of one module of a TorchScript archive. */
const MAX_CLASS_SOURCE_BYTES = 4 * 1024 * 1024;

/** Records up to this size are checked against their CRC when they hold statistics. */
const MAX_VERIFIED_BYTES = 4 * 1024 * 1024;

/**
 * Opens the zip container that torch.save (since 1.6) and torch.jit.save write
 * (caffe2/serialize/inline_container.h):
 *
 *     ROOT/data.pkl        the object; storages by key
 *     ROOT/data/KEY        the bytes of a storage, stored and aligned to 64
 *     ROOT/byteorder       little or big; absent before PyTorch 2.1, which means little
 *     ROOT/constants.pkl   TorchScript only, as is ROOT/code/
 *
 * ROOT is the directory of the first entry. Reads the directory and data.pkl; storages only when asked for.
 *
 * @throws CheckpointError where it is something else, damaged or hostile.
 */
export async function openZipContainer(source: ByteSource, file: string): Promise<TorchContainer> {
  const archive = await openZip(source, file);
  const root = findRoot(archive);
  const { bytes, fileOffset } = await readRecord(
    archive,
    recordOf(archive, `${root}data.pkl`),
    MAX_PICKLE_BYTES,
  );
  const { value } = readPickle(bytes, {
    file,
    baseOffset: fileOffset,
    subject: 'the pickle data.pkl',
    resolvePersistentId: (id, offset) => resolveTorchId(id, { file, offset }),
  });
  return {
    format: archive.entries.has(`${root}constants.pkl`) ? 'TorchScript' : 'PyTorch',
    root: value,
    storages: new ZipStorages(archive, root, await readByteOrder(archive, root)),
    readClassSource: (module) => readClassSource(archive, root, module),
    planSplices: (pieces) => planZipSplices(archive, pieces),
  };
}

/** The directory, with its slash, that holds data.pkl; '' for an archive that was zipped again without one. */
function findRoot(archive: ZipArchive): string {
  const pickles = [...archive.entries.keys()].filter((name) => /^([^/]*\/)?data\.pkl$/.test(name));
  const [pickle] = pickles;
  if (pickle === undefined) refuseForeignZip([...archive.entries.keys()], archive.file);
  if (pickles.length > 1) {
    throw new CheckpointError(
      `expected one data.pkl, found ${pickles.length}: ${pickles.slice(0, 4).map(quote).join(', ')}`,
      {
        code: 'malformed',
        file: archive.file,
      },
    );
  }
  return pickle.slice(0, -'data.pkl'.length);
}

function recordOf(archive: ZipArchive, name: string): ZipEntry {
  const entry = archive.entries.get(name);
  if (entry !== undefined) return entry;
  throw new CheckpointError(`expected the zip record ${quote(name)}, found none of that name`, {
    code: 'malformed',
    file: archive.file,
  });
}

async function readByteOrder(archive: ZipArchive, root: string): Promise<'little' | 'big'> {
  const entry = archive.entries.get(`${root}byteorder`);
  if (entry === undefined) return 'little';
  const { bytes } = await readRecord(archive, entry, MAX_BYTE_ORDER_BYTES);
  const text = new TextDecoder('latin1').decode(bytes).trim();
  if (text === 'little' || text === 'big') return text;
  throw new CheckpointError(`expected the byteorder record to say "little" or "big", found ${quote(text)}`, {
    code: 'malformed',
    file: archive.file,
    offset: entry.headerOffset,
  });
}

/** `__torch__.torch.nn.modules.conv` is at `ROOT/code/__torch__/torch/nn/modules/conv.py`. */
async function readClassSource(archive: ZipArchive, root: string, module: string): Promise<string | null> {
  const entry = archive.entries.get(`${root}code/${module.replaceAll('.', '/')}.py`);
  if (entry === undefined || entry.byteLength > MAX_CLASS_SOURCE_BYTES) return null;
  const { bytes } = await readRecord(archive, entry, MAX_CLASS_SOURCE_BYTES);
  return new TextDecoder('utf-8').decode(bytes);
}

/** The storages of a zip container: the records `data/KEY`. */
class ZipStorages implements StorageTable {
  readonly #archive: ZipArchive;
  readonly #root: string;
  readonly #byteOrder: 'little' | 'big';
  readonly #verified = new Set<string>();

  constructor(archive: ZipArchive, root: string, byteOrder: 'little' | 'big') {
    this.#archive = archive;
    this.#root = root;
    this.#byteOrder = byteOrder;
  }

  async locate(storage: StorageNode, tensorName: string) {
    const elementByteLength = elementTypeOf(storage.typeName)?.byteLength ?? 1;
    const elementCount = asInteger(storage.elementCount);
    const entry = this.#entryOf(storage, tensorName);
    if (elementCount === null || elementCount * elementByteLength > entry.byteLength) {
      throw new CheckpointError(
        `the tensor ${quote(tensorName)}: expected a storage of ${describeValue(storage.elementCount)} elements in the ` +
          `zip record ${quote(entry.name)}, found ${entry.byteLength} bytes, which is not the size of so many`,
        { code: 'malformed', file: this.#archive.file, offset: storage.offset },
      );
    }
    return { range: await locateRecord(this.#archive, entry), byteOrder: this.#byteOrder };
  }

  async verify(storage: StorageNode, tensorName: string): Promise<void> {
    const entry = this.#entryOf(storage, tensorName);
    if (entry.byteLength > MAX_VERIFIED_BYTES || this.#verified.has(entry.name)) return;
    this.#verified.add(entry.name);
    // A deflated record is checked whenever it is read, and of a small one that is always all.
    const range = await locateRecord(this.#archive, entry);
    if (!isInflated(range.source)) await readRecord(this.#archive, entry, MAX_VERIFIED_BYTES);
    else await range.source.readInto(new Uint8Array(Math.min(1, range.byteLength)), 0);
  }

  /** Looked up by name in the directory only: a key with `../` or a leading `/` is a name like any other. */
  #entryOf(storage: StorageNode, tensorName: string): ZipEntry {
    const entry = this.#archive.entries.get(`${this.#root}data/${storage.key}`);
    if (entry !== undefined) return entry;
    throw new CheckpointError(
      `the tensor ${quote(tensorName)}: expected its storage in the zip record ${quote(`data/${storage.key}`)}, found no such record`,
      { code: 'malformed', file: this.#archive.file, offset: storage.offset },
    );
  }
}
