// Gives a layer a constant of its own where several share one, before restore replaces it.

import onnxProto from 'onnx-proto';
import type { ConstantInput, EditOptions, Graph, Tensor, TensorEdit } from '../../checkpoint/checkpoint.js';
import { cannotPlace } from '../../checkpoint/edit-plan.js';
import {
  type ByteRange,
  haveSameBytes,
  holdBytes,
  joinRanges,
  placeContent,
  RangeMap,
} from '../../io/byte-source.js';
import { FileSource } from '../../io/file-source.js';
import { type GraphEdit, type GraphField, NodeEdits } from './edit-graph.js';
import { findReaders, followToOrigin, isStandard, type Origin, type Reader } from './follow.js';
import type { InputSlot } from './linear-nodes.js';
import {
  describeOperator,
  FIELDS,
  isExternal,
  type OnnxGraph,
  type OnnxModel,
  type OnnxNode,
  type OnnxTensor,
} from './schema.js';
import type { Scope, Site } from './scope.js';
import { dataTypeOf, type TensorStore } from './stored-tensor.js';
import { encodeFieldHead } from './wire.js';

/** What edits of a model are planned from. */
export interface EditedModel extends EditOptions {
  readonly store: TensorStore;
  readonly graph: Graph;
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly located: LocatedNodes;
}

/** The nodes behind the layers of a graph. */
export interface LocatedNodes {
  readonly model: OnnxModel;
  readonly mainGraph: OnnxGraph;
  /** For each of the graph's norms, the nodes that are its calls. */
  readonly norms: readonly (readonly Site[])[];
  /** The node of each of the graph's linears. */
  readonly linears: readonly Site[];
  /** Where each of the graph's linears reads its bias, if it has one: an input of its own, or of the Add behind it. */
  readonly biases: readonly InputSlot[];
}

/** Which inputs of a BatchNormalization and of a linear node an edit is for. */
const MEAN_INPUT = 3;
const VARIANCE_INPUT = 4;
/** A matrix product may have its weight on either side. */
const WEIGHT_INPUTS = [1, 0];

/** Operators that hand a constant's values on; a parameter is looked for behind them. */
const PASSED_OPERATORS = ['Tile', 'Transpose', 'Expand', 'Reshape', 'Flatten', 'Squeeze', 'Unsqueeze'];
const MAX_PASSED_NODES = 8;

/** Before this version of the format every initializer is a graph input as well. */
const FIRST_IR_WITH_FREE_INITIALIZERS = 4;

/** Which edits can be written where the constant is stored, and what has to be rewritten for the others. */
interface Splits {
  readonly inPlace: readonly TensorEdit[];
  /** Names of tensors that share their bytes with an edit in place, knowingly. */
  readonly sharers: ReadonlySet<string>;
  /** What changes in the main graph. */
  readonly graphEdit: GraphEdit;
}

/** An input of a node that an edit is for. */
interface Slot {
  readonly node: OnnxNode;
  readonly index: number;
  readonly scope: Scope;
  readonly origin: Origin;
  /** Operators from the norm or linear node down to {@link node}, where they are others. */
  readonly passed: readonly OnnxNode[];
}

/** Names that stand for one stored or computed constant, and who wants what of it. */
interface Group {
  readonly roots: readonly Root[];
  readonly edits: readonly TensorEdit[];
  readonly readers: readonly Reader[];
}

interface Root {
  /** Empty where it stands in a subgraph or a function. */
  readonly name: string;
  readonly origin: Origin;
}

/**
 * Decides for each edit whether its constant is changed where it is, or split: exporters store equal constants once, so
 * that layers which were equal and shall differ need values of their own.
 *
 * @throws CheckpointError `unsupported` naming the tensor, where the graph leaves no place for a value of its own.
 */
export async function planSplits(edits: readonly TensorEdit[], model: EditedModel): Promise<Splits> {
  const slots = findSlots(edits, model);
  const wants = await collectWants(slots);
  const splitter = new Splitter(model, wants);
  for (const group of groupEdits(slots, model)) await splitter.decide(group);
  return splitter;
}

/** The inputs of nodes that read each edited tensor as what it is edited for. */
function findSlots(
  edits: readonly TensorEdit[],
  { graph, located }: EditedModel,
): ReadonlyMap<TensorEdit, readonly Slot[]> {
  const byTensor = new Map<Tensor, Slot[]>(edits.map(({ tensor }) => [tensor, []]));
  const collect = (
    input: ConstantInput,
    listSlots: (tensor: Tensor) => readonly (Slot | null | undefined)[],
  ) => {
    if (input.kind !== 'constant') return;
    const slots = byTensor.get(input.tensor);
    if (slots === undefined) return;
    for (const slot of listSlots(input.tensor)) if (slot != null) slots.push(slot);
  };
  for (const [layer, { mean, variance }] of graph.norms.entries()) {
    const sites = located.norms[layer] ?? [];
    collect(mean, (tensor) => sites.map((site) => findSlot(site, MEAN_INPUT, tensor)));
    collect(variance, (tensor) => sites.map((site) => findSlot(site, VARIANCE_INPUT, tensor)));
  }
  for (const [layer, { weight, bias }] of graph.linears.entries()) {
    const site = located.linears[layer];
    const slot = located.biases[layer];
    if (site === undefined) continue;
    collect(bias, (tensor) => (slot === undefined ? [] : [findSlot(slot.site, slot.index, tensor)]));
    collect(weight, (tensor) => {
      const found = WEIGHT_INPUTS.map((index) => findSlot(site, index, tensor));
      return [found.find((slot) => slot !== null && isStoredAt(slot.origin, tensor)) ?? found[0]];
    });
  }
  return new Map(edits.map((edit) => [edit, byTensor.get(edit.tensor) ?? []]));
}

/**
 * The place where an input's constant is read: the input itself, or that of the first of the operators between them, which
 * repeat the values or give them another shape.
 */
function findSlot(site: Site, index: number, tensor: Tensor): Slot | null {
  const passed: OnnxNode[] = [];
  let place: Pick<Slot, 'node' | 'index' | 'scope'> = { ...site, index };
  let tiled: Slot | null = null;
  let direct: Slot | null = null;
  for (let depth = 0; depth <= MAX_PASSED_NODES; depth++) {
    const followed = followToOrigin(place.scope, place.node.inputs[place.index] ?? '');
    if (followed?.origin == null) break;
    const { origin, found } = followed;
    const slot: Slot = { ...place, origin, passed: [...passed] };
    if (isStoredAt(origin, tensor)) return slot;
    if (depth === 0) direct = slot;
    if (depth === 1 && passed.some((node) => isStandard(node, 'Tile'))) tiled = slot;
    if (!('op' in origin) || !PASSED_OPERATORS.some((op) => isStandard(origin, op))) break;
    passed.push(origin);
    place = { node: origin, index: 0, scope: found.scope };
  }
  // Computed: what the norm node reads, or, as the reader sees through one Tile, what that repeats.
  return tiled ?? direct;
}

/** Whether a stored constant is where a tensor's bytes are. */
function isStoredAt(origin: Origin, { name, range, elementCount }: Tensor): boolean {
  const stored = storedTensor(origin);
  const count = stored?.dims.reduce((product, dim) => product * Number(dim), 1);
  if (stored === null || count !== elementCount) return false;
  if (!(range.source instanceof FileSource) || isExternal(stored)) return stored.name === name;
  return stored.segments.some(({ offset }) => offset === range.offset);
}

/** The tensor of an initializer or of a Constant node; null for what is computed or sparse. */
function storedTensor(origin: Origin): OnnxTensor | null {
  if ('dataType' in origin) return origin;
  if (!('op' in origin)) return null;
  return isStandard(origin, 'Constant') ? (origin.attributes.get('value')?.tensor ?? null) : null;
}

/** @throws CheckpointError `unsupported` where two layers want different values at one place. */
async function collectWants(slots: ReadonlyMap<TensorEdit, readonly Slot[]>): Promise<Wants> {
  const wants = new Wants();
  for (const [edit, places] of slots) for (const place of places) await wants.add(place, edit);
  return wants;
}

/** What each input of a node shall read. */
class Wants {
  readonly #bySlot = new Map<string, TensorEdit>();
  readonly #ids = new Map<OnnxNode, number>();

  async add({ node, index, scope }: Slot, edit: TensorEdit): Promise<void> {
    const key = this.#keyOf(node, index, scope);
    const other = this.#bySlot.get(key);
    if (other !== undefined && !(await wantTheSame(other, edit))) {
      throw cannotPlace(
        edit.tensor,
        'is read at one place of the graph by two layers that need other values',
      );
    }
    this.#bySlot.set(key, edit);
  }

  /** The edit that a reader wants; null where it wants the value to stay. */
  of({ node, index, scope }: Reader): TensorEdit | null {
    return node === null ? null : (this.#bySlot.get(this.#keyOf(node, index, scope)) ?? null);
  }

  #keyOf(node: OnnxNode, index: number, scope: Scope): string {
    const id = this.#ids.get(node) ?? this.#ids.size;
    this.#ids.set(node, id);
    return JSON.stringify([id, index, ...scope.path]);
  }
}

async function wantTheSame(one: TensorEdit | null, other: TensorEdit | null): Promise<boolean> {
  if (one === null || other === null) return one === other;
  return haveSameBytes(one.content, other.content);
}

/** Brings together the edits of one constant, and finds all that read it. */
function groupEdits(slots: ReadonlyMap<TensorEdit, readonly Slot[]>, model: EditedModel): readonly Group[] {
  const { mainGraph, model: parsed } = model.located;
  const twins = findTwins(model);
  const initializers = new Map(mainGraph.initializers.map((tensor) => [tensor.name, tensor]));
  const groups = new Map<Origin | readonly Origin[], { origins: Set<Origin>; edits: Set<TensorEdit> }>();
  for (const [edit, places] of slots) {
    const origins = places.map(({ origin }) => origin);
    if (origins.length === 0) {
      const own = initializers.get(edit.tensor.name);
      if (own === undefined) throw cannotPlace(edit.tensor, 'is no constant of the graph');
      origins.push(own);
    }
    for (const origin of origins) {
      const shared = twins.get(origin);
      const group = groups.get(shared ?? origin) ?? {
        origins: new Set(shared ?? [origin]),
        edits: new Set(),
      };
      group.edits.add(edit);
      groups.set(shared ?? origin, group);
    }
  }
  const origins = new Set([...groups.values()].flatMap((group) => [...group.origins]));
  const passed = new Set([...slots.values()].flat().flatMap((slot) => slot.passed));
  const readers = findReaders(parsed, mainGraph, {
    file: model.store.file.name,
    origins: new Set([...origins, ...passed]),
  });
  refuseOtherReaders(slots, readers);
  const stored = new Map<Origin, string>(mainGraph.initializers.map((tensor) => [tensor, tensor.name]));
  for (const node of mainGraph.nodes) if (origins.has(node)) stored.set(node, node.outputs[0] ?? '');
  return [...groups.values()].map((group) => ({
    roots: [...group.origins].map((origin) => ({ origin, name: stored.get(origin) ?? '' })),
    edits: [...group.edits],
    readers: [...group.origins].flatMap((origin) => readers.get(origin) ?? []),
  }));
}

/** An operator that was passed belongs to the input behind it, so nothing else may read its output. */
function refuseOtherReaders(
  slots: ReadonlyMap<TensorEdit, readonly Slot[]>,
  readers: ReadonlyMap<Origin, readonly Reader[]>,
): void {
  for (const [edit, places] of slots) {
    for (const node of new Set(places.flatMap(({ passed }) => passed))) {
      const own = places.filter(({ passed }) => passed.includes(node)).length;
      if ((readers.get(node)?.length ?? 0) > own)
        throw cannotPlace(
          edit.tensor,
          `goes through a ${describeOperator(node)} node that others read as well`,
        );
    }
  }
}

/** Each initializer of the main graph that lies in a data file, with those that are the same bytes of it. */
function findTwins({ located, tensors }: EditedModel): ReadonlyMap<Origin, readonly Origin[]> {
  const twins = new Map<Origin, readonly Origin[]>();
  const places = new RangeMap<Origin[]>();
  for (const initializer of located.mainGraph.initializers) {
    const tensor = isExternal(initializer) ? tensors.get(initializer.name) : undefined;
    if (tensor === undefined) continue;
    const list = places.get(tensor.range) ?? [];
    list.push(initializer);
    places.set(tensor.range, list);
    twins.set(initializer, list);
  }
  return twins;
}

class Splitter implements Splits {
  readonly inPlace: TensorEdit[] = [];
  readonly sharers = new Set<string>();
  readonly #model: EditedModel;
  readonly #wants: Wants;
  readonly #takenNames: Set<string>;
  readonly #namesAt: RangeMap<readonly string[]>;
  readonly #nodes: NodeEdits;

  constructor(model: EditedModel, wants: Wants) {
    this.#model = model;
    this.#wants = wants;
    this.#namesAt = nameByRange(model.tensors.values());
    const { mainGraph } = model.located;
    this.#nodes = new NodeEdits(mainGraph);
    this.#takenNames = new Set([
      ...mainGraph.inputs,
      ...mainGraph.initializers.map(({ name }) => name),
      ...mainGraph.nodes.flatMap(({ outputs }) => outputs),
    ]);
  }

  get graphEdit(): GraphEdit {
    return this.#nodes.root;
  }

  async decide(group: Group): Promise<void> {
    const [edit] = group.edits;
    if (edit === undefined) return;
    if (!(await this.#isWantedByAll(group, edit))) await this.#split(group, edit);
    else if (
      group.roots.every(({ origin }) => storedTensor(origin) !== null) &&
      (await this.#isPlaceable(group))
    ) {
      for (const own of group.edits) {
        const stored = this.#toStored(group, own);
        this.inPlace.push(stored);
        for (const name of this.#namesAt.get(stored.tensor.range) ?? []) this.sharers.add(name);
      }
    } else for (const root of group.roots) this.#replaceRoot(root, edit);
  }

  async #isWantedByAll({ edits, readers }: Group, edit: TensorEdit): Promise<boolean> {
    for (const other of edits) if (!(await wantTheSame(other, edit))) return false;
    for (const reader of readers) if (!(await wantTheSame(this.#wants.of(reader), edit))) return false;
    return true;
  }

  async #isPlaceable(group: Group): Promise<boolean> {
    for (const edit of group.edits) if (!(await isPlaceable(this.#toStored(group, edit)))) return false;
    return true;
  }

  /** The edit of the initializer itself, where the reader sees it through operators that computed a copy. */
  #toStored({ roots: [root] }: Group, edit: TensorEdit): TensorEdit {
    const tensor = root === undefined || root.name === '' ? undefined : this.#model.tensors.get(root.name);
    const isCopy = !(edit.tensor.range.source instanceof FileSource);
    const fits = tensor?.dtype === edit.tensor.dtype && tensor.range.byteLength === edit.content.byteLength;
    return isCopy && tensor !== undefined && fits ? { ...edit, tensor } : edit;
  }

  /** Gives each name of the constant the value that its readers want. */
  async #split(group: Group, edit: TensorEdit): Promise<void> {
    const values = await this.#chooseValues(group, edit);
    const old: TensorEdit = { ...edit, content: edit.tensor.range };
    const tree = new Map<string, TensorEdit | null>();
    for (const root of group.roots) {
      if (root.name === '')
        throw cannotPlace(edit.tensor, 'shares its value with others inside a subgraph or function');
      const value = values.get(root.name) ?? null;
      tree.set(root.name, value);
      if (value !== null) this.#replaceRoot(root, value);
    }
    for (const node of this.#model.located.mainGraph.nodes) {
      const parent = isStandard(node, 'Identity') ? tree.get(node.inputs[0] ?? '') : undefined;
      const name = node.outputs[0] ?? '';
      if (parent === undefined) continue;
      const value = values.has(name) ? (values.get(name) ?? null) : parent;
      tree.set(name, value);
      if (!(await wantTheSame(value, parent))) this.#replaceNode(node, value ?? old);
    }
    for (const [name, value] of values) {
      if (!tree.has(name) && value !== null)
        throw cannotPlace(edit.tensor, 'shares its value with others through a local function');
    }
  }

  /** What each name of the main graph shall stand for; null for the value that it has. */
  async #chooseValues(group: Group, edit: TensorEdit): Promise<ReadonlyMap<string, TensorEdit | null>> {
    const values = new Map<string, TensorEdit | null>();
    const readers = [...group.readers].sort(
      (x, y) => Number(this.#wants.of(x) !== null) - Number(this.#wants.of(y) !== null),
    );
    for (const reader of readers) {
      const { mainName } = reader;
      if (mainName === null)
        throw cannotPlace(edit.tensor, 'shares its value with others inside a subgraph or function');
      const want = this.#wants.of(reader);
      const value = values.get(mainName);
      if (value === undefined) values.set(mainName, want);
      else if (!(await wantTheSame(value, want))) this.#giveOwnInput(reader, want, edit);
    }
    return values;
  }

  /** An initializer of its own for one input of a node, where others read the same name. */
  #giveOwnInput({ node, index, scope, mainName }: Reader, want: TensorEdit | null, edit: TensorEdit): void {
    if (want === null || node === null || !scope.isMain || node.inputs[index] !== mainName)
      throw cannotPlace(
        edit.tensor,
        'shares its name with readers that need another value, inside a subgraph or function',
      );
    const name = this.#findFreeName(want.preferredName);
    const draft = this.#nodes.atMain(node);
    draft?.inputs.set(index, name);
    draft?.following.push(this.#encode(name, want));
  }

  #findFreeName(preferred: string): string {
    let name = preferred;
    for (let copy = 1; this.#takenNames.has(name); copy++) name = `${preferred}.restored_${copy}`;
    this.#takenNames.add(name);
    return name;
  }

  #replaceRoot({ name, origin }: Root, edit: TensorEdit): void {
    if ('op' in origin) this.#replaceNode(origin, edit);
    else if (name === '' || !('dataType' in origin)) {
      throw cannotPlace(edit.tensor, 'is a sparse initializer, or one inside a subgraph or function');
    } else this.#replaceInitializers(name, encodeTensor(name, origin.dims, origin.dataType, edit.content));
  }

  #replaceInitializers(name: string, { content }: GraphField): void {
    for (const [index, initializer] of this.#model.located.mainGraph.initializers.entries())
      if (initializer.name === name) this.#nodes.root.initializers.set(index, content);
  }

  #replaceNode(node: OnnxNode, edit: TensorEdit): void {
    const [name = '', ...others] = node.outputs;
    const draft = name === '' || others.some((other) => other !== '') ? null : this.#nodes.atMain(node);
    if (draft === null)
      throw cannotPlace(
        edit.tensor,
        `is computed by a ${describeOperator(node)} node inside a subgraph or function`,
      );
    draft.isRemoved = true;
    draft.following.push(this.#encode(name, edit));
  }

  #encode(name: string, { tensor, content }: TensorEdit): GraphField {
    const { irVersion } = this.#model.located.model;
    const dataType = dataTypeOf(tensor.dtype);
    if (irVersion < FIRST_IR_WITH_FREE_INITIALIZERS || dataType === undefined)
      throw cannotPlace(
        tensor,
        `shares its value with others, and the model's ONNX IR version ${irVersion} has no place for one more initializer`,
      );
    return encodeTensor(name, tensor.shape.map(BigInt), dataType, content);
  }
}

/** Whether a tensor's bytes stand in files as they are. */
async function isPlaceable({ tensor, content }: TensorEdit): Promise<boolean> {
  const placed = await placeContent(tensor.range, content);
  return placed?.every(({ source }) => source instanceof FileSource) === true;
}

/** Names of tensors by where their bytes are. */
function nameByRange(tensors: Iterable<Tensor>): RangeMap<string[]> {
  const names = new RangeMap<string[]>();
  for (const { name, range } of tensors) {
    const known = names.get(range);
    if (known === undefined) names.set(range, [name]);
    else known.push(name);
  }
  return names;
}

/** An initializer with these bytes, which are read only when it is. */
function encodeTensor(
  name: string,
  dims: readonly bigint[],
  dataType: number,
  content: ByteRange,
): GraphField {
  const head = onnxProto.onnx.TensorProto.encode({ name, dims: dims.map(Number), dataType }).finish();
  const rawData = holdBytes(encodeFieldHead(FIELDS.tensor.rawData, content.byteLength));
  return { number: FIELDS.graph.initializer, content: joinRanges(name, [holdBytes(head), rawData, content]) };
}
