// The JSON header of a baseline: its fields and its graph, written and checked.

import { PROJECTION_COUNT } from '../../checkpoint/channel-grid.js';
import type { ConstantInput, Graph, LinearNode, NormNode, Tensor } from '../../checkpoint/checkpoint.js';
import {
  describeJson,
  isJsonArray,
  isJsonObject,
  type JsonObject,
  JsonReader,
  type JsonValue,
  toUnsignedInteger,
} from '../../checkpoint/json-reader.js';
import { CheckpointError, failUnreachable, quote } from '../../errors.js';

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

/** Beyond so many, names of one kind are told apart by a number: names that grow one by one come to much text. */
const MAX_UNDERSCORES = 8;

/** Names in a file, each of which stands for one thing. */
export class FreeNames {
  readonly #taken: Set<string>;
  /** How often each usual name was asked for: from there on one is free. */
  readonly #copies = new Map<string, number>();

  constructor(taken: Iterable<string> = []) {
    this.#taken = new Set(taken);
  }

  add(name: string): void {
    this.#taken.add(name);
  }

  /** Takes the usual name, or one that begins like it. */
  take(usual: string): string {
    let copy = this.#copies.get(usual) ?? 0;
    const nameCopy = () => usual + (copy <= MAX_UNDERSCORES ? '_'.repeat(copy) : `_${copy}`);
    while (this.#taken.has(nameCopy())) copy++;
    const name = nameCopy();
    this.#copies.set(usual, copy + 1);
    this.#taken.add(name);
    return name;
  }
}

/** Numbers that JSON cannot hold. */
const NON_FINITE: ReadonlyMap<string, number> = new Map(
  [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY].map((value) => [String(value), value]),
);

/**
 * Writes a value as JSON that {@link parseObject} reads again: Maps become objects in their own order, numbers that
 * JSON cannot hold become strings, undefined members are left out.
 */
export function toJson(value: unknown): string {
  if (value instanceof Map) return [...writeMembers(value)].join('');
  if (Array.isArray(value)) return `[${value.map(toJson).join(',')}]`;
  if (typeof value === 'object' && value !== null) return [...writeMembers(Object.entries(value))].join('');
  if (typeof value === 'number' && !Number.isFinite(value)) return JSON.stringify(String(value));
  return JSON.stringify(typeof value === 'string' ? value.toWellFormed() : value);
}

/** An object of these members in pieces, as {@link toJson} writes it: of many, one at a time need be in memory. */
export function* writeMembers(members: Iterable<readonly [string, unknown]>): Iterable<string> {
  let opening = '{';
  for (const [key, value] of members) {
    if (value === undefined) continue;
    yield `${opening}${JSON.stringify(key.toWellFormed())}:${toJson(value)}`;
    opening = ',';
  }
  yield opening === '{' ? '{}' : '}';
}

/**
 * Parses a metadata value that holds a JSON object.
 *
 * @throws CheckpointError `malformed` naming the key.
 */
export function parseObject(text: string, key: string, file: string): Fields {
  const members = new Map<string, JsonValue>();
  new JsonReader(new TextEncoder().encode(text), `${file}: ${key}`).readTopObject((name, value) =>
    members.set(name, value),
  );
  return new Fields(members, key, file);
}

/** An object of a baseline's metadata: its members by the type that they must have. */
export class Fields {
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
    if (typeof value !== 'object' || value === null || !('digits' in value))
      return this.fail(key, 'a number');
    return Number(value.digits);
  }

  /** A whole number from 0 on. */
  count(key: string): number {
    return this.#toCount(this.members.get(key)) ?? this.fail(key, 'a whole number');
  }

  counts(key: string): readonly number[] {
    return this.#list(key).map((value) => this.#toCount(value) ?? this.fail(key, 'a list of whole numbers'));
  }

  /** One of a few words. */
  word<Word extends string>(key: string, words: readonly Word[]): Word {
    const value = this.members.get(key);
    return words.find((word) => word === value) ?? this.fail(key, words.join(' or '));
  }

  has(key: string): boolean {
    return this.members.has(key);
  }

  /** Says what a member must be. */
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

  #toCount(value: JsonValue | undefined): number | null {
    const integer = toUnsignedInteger(value);
    return integer === null || integer > BigInt(Number.MAX_SAFE_INTEGER) ? null : Number(integer);
  }
}

/** How a graph's constants are written and found again: as names of entries. */
interface ConstantNames {
  /** The name of a tensor's entry among the checkpoint's own; null for a constant that only the graph has. */
  readonly nameTensor: (tensor: Tensor) => string | null;
  /** Makes an entry for a constant that only the graph has, and names it. */
  readonly addConstant: (tensor: Tensor) => string;
}

/** How constants are found when a graph is read; both fail on unknown names. */
interface ConstantFinder {
  readonly findTensor: (name: string, at: Fields) => Tensor;
  readonly findConstant: (name: string, at: Fields) => Tensor;
}

/** What most inputs are; it goes without saying. */
const USUAL_SOURCE = 'initializer';

const NORM_INPUTS = ['gamma', 'beta', 'mean', 'variance'] as const;

/** A graph's nodes as JSON, constants aside. What is as usual is left out. */
export function graphToJson({ producer, norms, linears }: Graph, names: ConstantNames): object {
  return {
    producer,
    norms: norms.map((norm) => normToJson(norm, names)),
    linears: linears.map((linear) => linearToJson(linear, names)),
  };
}

function normToJson(norm: NormNode, names: ConstantNames): unknown {
  const inputs = NORM_INPUTS.map((role) => norm[role]);
  const areNamedAlike = inputs.every(
    (input, role) =>
      input.kind === 'constant' && names.nameTensor(input.tensor) === (norm.inputNames[role] ?? ''),
  );
  return {
    node: norm.nodeName,
    path: norm.path ?? undefined,
    scope: unlessEmpty(norm.scope),
    inputs: inputs.map((input) => inputToJson(input, names)),
    inputNames: areNamedAlike ? undefined : norm.inputNames,
    epsilon: norm.epsilon,
    momentum: norm.momentum,
    mode: norm.mode === 'running' ? undefined : norm.mode,
    opset: norm.opset,
    neighbours: unlessEmpty(norm.neighbours),
    linear: norm.feedingLinear ?? undefined,
    notes: unlessEmpty(norm.notes),
  };
}

function linearToJson(linear: LinearNode, names: ConstantNames): unknown {
  const { weight, bias, weightName, biasName } = linear;
  const nameOf = (input: ConstantInput) =>
    input.kind === 'constant' ? names.nameTensor(input.tensor) : null;
  return {
    op: linear.op,
    node: linear.nodeName,
    path: linear.path ?? undefined,
    foldedNorm: linear.foldedNormPath ?? undefined,
    looksFolded: linear.looksFolded || undefined,
    scope: unlessEmpty(linear.scope),
    weight: inputToJson(weight, names),
    weightName: nameOf(weight) === weightName ? undefined : weightName,
    bias: bias.kind === 'absent' ? undefined : inputToJson(bias, names),
    biasName: (nameOf(bias) ?? '') === biasName ? undefined : biasName,
    axis: linear.outputAxis || undefined,
    groups: linear.groups === 1 ? undefined : linear.groups,
    channels: linear.outputChannels,
    feedsNorm: linear.feedsNorm || undefined,
  };
}

function inputToJson(input: ConstantInput, names: ConstantNames): unknown {
  switch (input.kind) {
    case 'absent':
      return {};
    case 'unresolved':
      return { unresolved: input.reason };
    case 'constant': {
      const tensor = names.nameTensor(input.tensor) ?? undefined;
      return {
        tensor,
        constant: tensor === undefined ? names.addConstant(input.tensor) : undefined,
        source: input.source === USUAL_SOURCE ? undefined : input.source,
        overridable: input.overridable || undefined,
      };
    }
    default:
      return failUnreachable(input);
  }
}

function unlessEmpty<Item>(list: readonly Item[]): readonly Item[] | undefined {
  return list.length === 0 ? undefined : list;
}

/**
 * Reads what {@link graphToJson} wrote.
 *
 * @throws CheckpointError `malformed` where it is anything else.
 */
export function readGraph(fields: Fields, finder: ConstantFinder): Graph {
  const linears = fields.listOfObjects('linears').map((linear) => readLinear(linear, finder));
  return {
    producer: fields.string('producer'),
    norms: fields.listOfObjects('norms').map((norm) => readNorm(norm, finder, linears.length)),
    linears,
  };
}

function readNorm(fields: Fields, finder: ConstantFinder, linears: number): NormNode {
  const inputs = fields.listOfObjects('inputs');
  const [gamma, beta, mean, variance] = inputs;
  if (
    inputs.length !== 4 ||
    gamma === undefined ||
    beta === undefined ||
    mean === undefined ||
    variance === undefined
  )
    return fields.fail('inputs', 'four inputs');
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
  };
}

function readInput(fields: Fields, finder: ConstantFinder): ConstantInput {
  if (fields.has('unresolved')) return { kind: 'unresolved', reason: fields.string('unresolved') };
  const isTensor = fields.has('tensor');
  if (!isTensor && !fields.has('constant')) return { kind: 'absent' };
  return {
    kind: 'constant',
    tensor: isTensor
      ? finder.findTensor(fields.string('tensor'), fields)
      : finder.findConstant(fields.string('constant'), fields),
    source: fields.optional('source', 'string') ?? USUAL_SOURCE,
    overridable: fields.optional('overridable', 'boolean') ?? false,
  };
}
