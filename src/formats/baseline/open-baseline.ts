// Reads a baseline as a checkpoint: small tensors whole, large ones as hashes.

import { fitsShape, layOutChannels, PROJECTION_COUNT } from '../../checkpoint/channel-grid.js';
import type {
  Checkpoint,
  ConstantInput,
  Fingerprint,
  Graph,
  LinearNode,
  ModuleFacts,
  NormNode,
  StoredProjections,
  Tensor,
} from '../../checkpoint/checkpoint.js';
import { bitsOf, DTYPE_NAMES } from '../../checkpoint/dtype.js';
import { sampledIndices } from '../../checkpoint/fingerprint.js';
import {
  describeJson,
  isJsonArray,
  isJsonNumber,
  isJsonObject,
  type JsonObject,
  type JsonValue,
  readJsonObject,
  toCount,
} from '../../checkpoint/json-reader.js';
import { CheckpointError, quote } from '../../errors.js';
import { type ByteRange, type ByteSource, wholeOf } from '../../io/byte-source.js';
import { countElements } from '../../io/row-major.js';
import { MAX_RANK, type SafetensorsHeader } from '../safetensors/safetensors.js';

/**
 * Keys of a baseline's `__metadata__`; docs/baseline.md says what each holds. The first makes a safetensors file a
 * baseline.
 */
export const METADATA_KEYS = {
  version: 'bn-audit.baseline',
  source: 'bn-audit.source',
  format: 'bn-audit.format',
  order: 'bn-audit.order',
  tensors: 'bn-audit.tensors',
  modules: 'bn-audit.modules',
  graph: 'bn-audit.graph',
  warnings: 'bn-audit.warnings',
} as const;

/** The version of the format that is written, and the only one that is read. */
export const FORMAT_VERSION = '1';

/** Columns of a table of projections: the norm, then one for each sign vector. */
export const TABLE_COLUMNS = 1 + PROJECTION_COUNT;

/** Whether a safetensors file is a baseline: its metadata says so. */
export function isBaseline(metadata: ReadonlyMap<string, string>): boolean {
  return metadata.has(METADATA_KEYS.version);
}

/** The name of the tensor that holds a sample of another's values. */
export function nameSample(tensorName: string): string {
  return `${tensorName}.sample`;
}

/** The name of the table of a weight's projections. */
export function nameTable(weightName: string): string {
  return `${weightName}.projections`;
}

const NON_FINITE: ReadonlyMap<string, number> = new Map(
  [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY].map((value) => [String(value), value]),
);

/** Parses a metadata value that holds a JSON object; errors name the key. */
function parseObject(text: string, key: string, file: string): Fields {
  const members = readJsonObject(new TextEncoder().encode(text), `${file}: ${key}`);
  return new Fields(members, key, file);
}

/** An object of a baseline's metadata: its members by the type that they must have. */
class Fields {
  readonly members: JsonObject;
  /** What messages call it. */
  readonly where: string;
  readonly file: string;

  constructor(members: JsonObject, where: string, file: string) {
    this.members = members;
    this.where = where;
    this.file = file;
  }

  /** Every member, which must be an object itself. */
  *objects(): Generator<readonly [name: string, fields: Fields]> {
    for (const name of this.members.keys()) yield [name, this.object(name)];
  }

  object(key: string): Fields {
    const value = this.members.get(key);
    if (!isJsonObject(value)) return this.fail(key, 'an object');
    return new Fields(value, `${this.where}: ${quote(key)}`, this.file);
  }

  /** A member of a kind that need not be there; null where it is not. */
  optional<Kind extends 'object' | 'string' | 'boolean' | 'number' | 'count'>(
    key: string,
    kind: Kind,
  ): ReturnType<Fields[Kind]> | null {
    return this.has(key) ? (this[kind](key) as ReturnType<Fields[Kind]>) : null;
  }

  listOfObjects(key: string): readonly Fields[] {
    return this.#list(key).map((value, index) => {
      if (!isJsonObject(value)) return this.fail(key, 'a list of objects');
      return new Fields(value, `${this.where}: ${quote(key)} ${index}`, this.file);
    });
  }

  /** A list that may be missing where it is empty. */
  strings(key: string): readonly string[] {
    const list = this.has(key) ? this.#list(key) : [];
    return list.map((value) => (typeof value === 'string' ? value : this.fail(key, 'a list of strings')));
  }

  string(key: string): string {
    const value = this.members.get(key);
    return typeof value === 'string' ? value : this.fail(key, 'a string');
  }

  boolean(key: string): boolean {
    const value = this.members.get(key);
    return typeof value === 'boolean' ? value : this.fail(key, 'true or false');
  }

  number(key: string): number {
    const value = this.members.get(key);
    if (typeof value === 'string') return NON_FINITE.get(value) ?? this.fail(key, 'a number');
    return isJsonNumber(value) ? Number(value.digits) : this.fail(key, 'a number');
  }

  count(key: string): number {
    return toCount(this.members.get(key)) ?? this.fail(key, 'a whole number');
  }

  counts(key: string): readonly number[] {
    return this.#list(key).map((value) => toCount(value) ?? this.fail(key, 'a list of whole numbers'));
  }

  word<Word extends string>(key: string, words: readonly Word[]): Word {
    const value = this.members.get(key);
    return words.find((word) => word === value) ?? this.fail(key, words.join(' or '));
  }

  has(key: string): boolean {
    return this.members.has(key);
  }

  fail(key: string, expected: string): never {
    const found = describeJson(this.members.get(key));
    throw new CheckpointError(
      `${this.where}: expected ${expected} under ${quote(key)}, found ${found}: not a baseline as bn-audit writes it`,
      { code: 'malformed', file: this.file },
    );
  }

  #list(key: string): readonly JsonValue[] {
    const value = this.members.get(key);
    return isJsonArray(value) ? value : this.fail(key, 'a list');
  }
}

/** Finds a constant among the checkpoint's tensors, or the graph's own; null where there is none of that name. */
type ConstantFinder = (kind: 'tensor' | 'constant', name: string) => Tensor | null;

/** What most inputs are; it goes without saying. */
export const USUAL_SOURCE = 'initializer';

/** Reads what making a baseline wrote of a graph, and refuses anything else. */
function readGraph(fields: Fields, finder: ConstantFinder): Graph {
  const linears = fields.listOfObjects('linears').map((linear) => readLinear(linear, finder));
  return {
    producer: fields.string('producer'),
    norms: fields.listOfObjects('norms').map((norm) => readNorm(norm, finder, linears.length)),
    linears,
  };
}

function readNorm(fields: Fields, finder: ConstantFinder, linears: number): NormNode {
  const inputs = fields.listOfObjects('inputs');
  const [gamma, beta, mean, variance, more] = inputs;
  if (!gamma || !beta || !mean || !variance || more) return fields.fail('inputs', 'four inputs');
  const feedingLinear = fields.optional('linear', 'count');
  if (feedingLinear !== null && feedingLinear >= linears) fields.fail('linear', `less than ${linears}`);
  const names = fields.has('inputNames')
    ? fields.strings('inputNames')
    : inputs.map((input) => input.optional('tensor', 'string') ?? '');
  return {
    nodeName: fields.string('node'),
    path: fields.optional('path', 'string'),
    scope: fields.strings('scope'),
    inputNames: [names[0] ?? '', names[1] ?? '', names[2] ?? '', names[3] ?? ''],
    gamma: readInput(gamma, finder),
    beta: readInput(beta, finder),
    mean: readInput(mean, finder),
    variance: readInput(variance, finder),
    epsilon: fields.number('epsilon'),
    momentum: fields.number('momentum'),
    mode: fields.has('mode') ? fields.word('mode', ['running', 'batch', 'unknown']) : 'running',
    opset: fields.number('opset'),
    neighbours: fields.strings('neighbours'),
    feedingLinear,
    notes: fields.strings('notes'),
  };
}

function readLinear(fields: Fields, finder: ConstantFinder): LinearNode {
  const weight = fields.object('weight');
  const bias = fields.optional('bias', 'object');
  const dataFactor = fields.optional('dataFactor', 'number');
  return {
    op: fields.word('op', ['Conv', 'ConvTranspose', 'Gemm', 'MatMul']),
    nodeName: fields.string('node'),
    path: fields.optional('path', 'string'),
    foldedNormPath: fields.optional('foldedNorm', 'string'),
    looksFolded: fields.optional('looksFolded', 'boolean') ?? false,
    scope: fields.strings('scope'),
    weightName: fields.optional('weightName', 'string') ?? weight.optional('tensor', 'string') ?? '',
    biasName: fields.optional('biasName', 'string') ?? bias?.optional('tensor', 'string') ?? '',
    weight: readInput(weight, finder),
    bias: bias === null ? { kind: 'absent' } : readInput(bias, finder),
    outputAxis: fields.optional('axis', 'count') ?? 0,
    groups: fields.optional('groups', 'number') ?? 1,
    outputChannels: fields.number('channels'),
    feedsNorm: fields.optional('feedsNorm', 'boolean') ?? false,
    ...(dataFactor === null
      ? {}
      : { dataFactor: { value: dataFactor, isGated: fields.optional('gated', 'boolean') ?? false } }),
  };
}

function readInput(fields: Fields, finder: ConstantFinder): ConstantInput {
  if (fields.has('unresolved')) return { kind: 'unresolved', reason: fields.string('unresolved') };
  const key = fields.has('tensor') ? 'tensor' : 'constant';
  if (!fields.has(key)) return { kind: 'absent' };
  return {
    kind: 'constant',
    tensor: finder(key, fields.string(key)) ?? fields.fail('tensor', 'the name of an entry'),
    source: fields.optional('source', 'string') ?? USUAL_SOURCE,
    overridable: fields.optional('overridable', 'boolean') ?? false,
  };
}

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
    const message = `expected a baseline of format version ${FORMAT_VERSION}, found ${quote(version)}`;
    const hint = 'Update bn-audit, or make the baseline again with: bn-audit baseline';
    throw new CheckpointError(message, { code: 'unsupported', file: source.name, hint });
  }
  const parse = (key: string) => {
    const text = metadata.get(key);
    return text === undefined ? null : parseObject(text, key, source.name);
  };
  const reader = new EntryReader(header, source);
  const tensors = reader.readEntries(parse(METADATA_KEYS.tensors));
  const graph = parse(METADATA_KEYS.graph);
  const constants = reader.readEntries(graph?.optional('constants', 'object') ?? null);
  const find: ConstantFinder = (kind, name) => (kind === 'tensor' ? tensors : constants).get(name) ?? null;
  return {
    path,
    format: 'baseline',
    tensors,
    inModuleOrder: metadata.get(METADATA_KEYS.order) === 'module',
    graph: graph === null ? null : readGraph(graph, find),
    modules: new Map(
      [...(parse(METADATA_KEYS.modules)?.objects() ?? [])].map(([path, fields]) => [path, readFacts(fields)]),
    ),
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
    const read = new Map<string, Tensor>();
    for (const [name, fields] of entries?.objects() ?? [])
      read.set(name, this.#readEntry(fields.optional('name', 'string') ?? name, fields));
    return read;
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
    const range = wholeOf(withoutValues(this.#source.name, name, byteLength));
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
    const sampled = { dtype, elementCount: sampledIndices(elementCount).length };
    return {
      sha256,
      projections: projections === null ? null : this.#readProjections(shape, nameTable(name), projections),
      sample: fields.has('sample') ? this.#findKept('sample', nameSample(name), sampled, fields) : null,
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
  const message = `tensor ${quote(tensor)}: its values were asked for, but the baseline keeps no more than their hash`;
  const hint = 'Audit the checkpoint that the baseline was made from, or make the baseline again.';
  return {
    name: file,
    byteLength,
    async readInto() {
      throw new CheckpointError(message, { code: 'unsupported', file, hint });
    },
    async close() {},
  };
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
