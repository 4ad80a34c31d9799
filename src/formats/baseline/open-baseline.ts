// Reads a baseline as a checkpoint: small tensors whole, large ones as hashes.

import { countElements, fitsShape, layOutChannels } from '../../checkpoint/channel-grid.js';
import type {
  Checkpoint,
  Fingerprint,
  ModuleFacts,
  StoredProjections,
  Tensor,
} from '../../checkpoint/checkpoint.js';
import { bitsOf, DTYPE_NAMES } from '../../checkpoint/dtype.js';
import { sampledIndices } from '../../checkpoint/fingerprint.js';
import { CheckpointError, quote } from '../../errors.js';
import type { ByteRange, ByteSource } from '../../io/byte-source.js';
import { MAX_RANK, type SafetensorsHeader } from '../safetensors/safetensors.js';
import {
  type Fields,
  FORMAT_VERSION,
  METADATA_KEYS,
  nameSample,
  nameTable,
  parseObject,
  readGraph,
  TABLE_COLUMNS,
} from './baseline-json.js';

/**
 * Opens a baseline: the checkpoint that it was made from, less the values that it has left out.
 *
 * @param header of the file, checked already.
 * @throws CheckpointError `unsupported` for another version of the format, `malformed` for anything that does not fit.
 */
export function openBaseline(header: SafetensorsHeader, source: ByteSource, path: string): Checkpoint {
  const { metadata } = header;
  const version = metadata.get(METADATA_KEYS.version) ?? '';
  if (version !== FORMAT_VERSION) {
    throw new CheckpointError(
      `expected a baseline of format version ${FORMAT_VERSION}, found ${quote(version)}`,
      {
        code: 'unsupported',
        file: source.name,
        hint: 'Update bn-audit, or make the baseline again with: bn-audit baseline',
      },
    );
  }
  const parse = (key: string) => {
    const text = metadata.get(key);
    return text === undefined ? null : parseObject(text, key, source.name);
  };
  const reader = new EntryReader(header, source);
  const tensors = reader.readEntries(parse(METADATA_KEYS.tensors));
  const graph = parse(METADATA_KEYS.graph);
  const constants = reader.readEntries(graph?.optional('constants', 'object') ?? null);
  const find = (entries: ReadonlyMap<string, Tensor>) => (name: string, at: Fields) =>
    entries.get(name) ?? at.fail('tensor', 'the name of an entry');
  return {
    path,
    format: 'baseline',
    tensors,
    inModuleOrder: metadata.get(METADATA_KEYS.order) === 'module',
    graph:
      graph === null ? null : readGraph(graph, { findTensor: find(tensors), findConstant: find(constants) }),
    modules: readModules(parse(METADATA_KEYS.modules)),
    warnings: parse(METADATA_KEYS.warnings)?.strings('warnings') ?? [],
    close: () => source.close(),
  };
}

/** Reads the descriptions of tensors, and finds in the file what they refer to. */
class EntryReader {
  readonly #stored: SafetensorsHeader['tensors'];
  readonly #source: ByteSource;

  constructor({ tensors }: SafetensorsHeader, source: ByteSource) {
    this.#stored = tensors;
    this.#source = source;
  }

  readEntries(entries: Fields | null): ReadonlyMap<string, Tensor> {
    if (entries === null) return new Map();
    return new Map(
      [...entries.objects()].map(([name, fields]) => [
        name,
        this.#readEntry(fields.optional('name', 'string') ?? name, fields),
      ]),
    );
  }

  #readEntry(name: string, fields: Fields): Tensor {
    const dtype = fields.word('dtype', DTYPE_NAMES);
    const shape = fields.counts('shape');
    const elementCount = countElements(shape);
    const byteLength = (elementCount * bitsOf(dtype)) / 8;
    if (shape.length > MAX_RANK || !Number.isSafeInteger(elementCount) || !Number.isSafeInteger(byteLength))
      fields.fail('shape', `a shape of whole bytes in at most ${MAX_RANK} dimensions`);
    const common = {
      name,
      dtype,
      shape,
      elementCount,
      ...(fields.has('isBuffer') ? { isBuffer: fields.boolean('isBuffer') } : {}),
      ...(fields.has('requiresGrad') ? { requiresGrad: fields.boolean('requiresGrad') } : {}),
    };
    if (fields.has('values')) return { ...common, range: this.#findKept('values', name, common, fields) };
    const range = { source: withoutValues(this.#source.name, name, byteLength), offset: 0, byteLength };
    const fingerprint = this.#readFingerprint(common, fields);
    return fingerprint === null ? { ...common, range } : { ...common, range, fingerprint };
  }

  /** The tensor of the file that an entry's member names; `true` stands for its usual name. */
  #findKept(
    member: 'values' | 'sample',
    usual: string,
    { dtype, elementCount }: Pick<Tensor, 'dtype' | 'elementCount'>,
    fields: Fields,
  ): ByteRange {
    const name = fields.members.get(member) === true ? usual : fields.string(member);
    const stored = this.#stored.get(name);
    if (stored?.dtype !== dtype || stored.elementCount !== elementCount)
      return fields.fail(member, `a tensor of the file with ${elementCount} elements of ${dtype}`);
    return stored.range;
  }

  #readFingerprint(
    { name, dtype, shape, elementCount }: Omit<Tensor, 'range'>,
    fields: Fields,
  ): Fingerprint | null {
    const sha256 = fields.optional('sha256', 'string');
    if (sha256 === null) return null;
    if (!/^[0-9a-f]{64}$/.test(sha256)) fields.fail('sha256', '64 hexadecimal digits');
    const projections = fields.optional('projections', 'object');
    return {
      sha256,
      projections: projections === null ? null : this.#readProjections(shape, nameTable(name), projections),
      sample: fields.has('sample')
        ? this.#findKept(
            'sample',
            nameSample(name),
            { dtype, elementCount: sampledIndices(elementCount).length },
            fields,
          )
        : null,
    };
  }

  #readProjections(shape: readonly number[], usualTable: string, fields: Fields): StoredProjections {
    const layout = {
      outputAxis: fields.optional('axis', 'count') ?? 0,
      groups: fields.optional('groups', 'count') ?? 1,
    };
    if (!fitsShape(shape, layout)) fields.fail('axis', `an axis and groups that fit [${shape.join(', ')}]`);
    const { channels } = layOutChannels(shape, layout);
    const table = this.#stored.get(fields.optional('table', 'string') ?? usualTable);
    if (table?.dtype !== 'F32' || table.shape.join() !== `${channels},${TABLE_COLUMNS}`)
      return fields.fail('table', `a tensor of the file with F32 of shape [${channels}, ${TABLE_COLUMNS}]`);
    return { layout, table: table.range, weightsPerChannel: fields.count('weights') };
  }
}

/** A source that knows how long a tensor was, and refuses to be read. */
function withoutValues(file: string, tensor: string, byteLength: number): ByteSource {
  return {
    name: file,
    byteLength,
    async readInto() {
      throw new CheckpointError(
        `tensor ${quote(tensor)}: its values were asked for, but the baseline keeps no more than their hash`,
        {
          code: 'unsupported',
          file,
          hint: 'Audit the checkpoint that the baseline was made from, or make the baseline again.',
        },
      );
    },
    async close() {},
  };
}

function readModules(entries: Fields | null): ReadonlyMap<string, ModuleFacts> {
  if (entries === null) return new Map();
  return new Map([...entries.objects()].map(([path, fields]) => [path, readFacts(fields)]));
}

function readFacts(fields: Fields): ModuleFacts {
  return {
    className: fields.optional('className', 'string'),
    epsilon: fields.optional('epsilon', 'number'),
    momentum:
      fields.members.get('momentum') === 'cumulative' ? 'cumulative' : fields.optional('momentum', 'number'),
    trackRunningStats: fields.optional('trackRunningStats', 'boolean'),
    training: fields.optional('training', 'boolean'),
    version: fields.optional('version', 'number'),
  };
}
