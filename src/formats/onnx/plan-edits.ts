// Plans what restore changes in an ONNX model: constants where they lie, or of a layer's own where several share one.

import { basename } from 'node:path';
import onnxProto from 'onnx-proto';
import type {
  ConstantInput,
  EditOptions,
  EditPlan,
  Graph,
  Tensor,
  TensorEdit,
} from '../../checkpoint/checkpoint.js';
import {
  cannotPlace,
  isFile,
  placeEdits,
  placeOf,
  refuseOtherSources,
  toSplices,
} from '../../checkpoint/edit-plan.js';
import { CheckpointError, quote } from '../../errors.js';
import {
  type ByteRange,
  type ByteSource,
  haveSameBytes,
  holdBytes,
  joinRanges,
  placeContent,
  RangeMap,
  type Splice,
} from '../../io/byte-source.js';
import { countElements } from '../../io/row-major.js';
import { getOrMake } from '../../norm/naming.js';
import {
  editNode,
  findLocations,
  type GraphEdit,
  type GraphField,
  newGraphEdit,
  planGraphEdit,
  renewLengths,
} from './edit-graph.js';
import { findReaders, followToOrigin, isStandard, type Origin, type Reader } from './follow.js';
import type { InputSlot } from './linear-nodes.js';
import { MEAN_INPUT, VARIANCE_INPUT } from './norm-nodes.js';
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
interface EditedModel extends EditOptions {
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
  /** The node of each of the graph's linears, and where its bias is read, if it has one: there, or at the Add behind it. */
  readonly linears: readonly { readonly site: Site; readonly bias: InputSlot }[];
}

/**
 * Plans how a model and its data files take tensors of other bytes. In place where a constant is stored as it is and
 * everything that reads it wants the same; else the graph gets an initializer in its place.
 *
 * @throws CheckpointError `unsupported` naming the tensor, where the graph leaves no place for a value of its own.
 */
export async function planOnnxEdits(edits: readonly TensorEdit[], model: EditedModel): Promise<EditPlan> {
  const { store, tensors } = model;
  const { file } = store;
  const { inPlace, sharers, graphEdit } = await planSplits(edits, model);
  const pieces = await placeEdits(
    inPlace,
    [...tensors.values()].filter(({ name }) => !sharers.has(name)),
  );
  const locations = await findLocations(file, model.located.model);
  const distinct = [...new Set(locations.map(({ location }) => location))];
  const names = new Map(
    distinct.map((location) => [location, model.renameData?.(location, distinct.length) ?? location]),
  );
  const dataFiles = openDataFiles(names, store);
  refuseOtherSources(pieces, new Set([file, ...dataFiles.keys()]), inPlace);
  // Rewritten fields with the lengths around them, and the pieces that stay in place between them.
  const isEdited = graphEdit.nodes.size + graphEdit.initializers.size > 0;
  const rewritten = isEdited ? await planGraphEdit(file, graphEdit) : [];
  const isKept = ({ offset }: Splice) =>
    !rewritten.some((splice) => offset >= splice.offset && offset < splice.offset + splice.deleted);
  const renamed = locations.flatMap(({ location, payload: { start, end } }) => {
    const name = names.get(location) ?? location;
    if (name === location) return [];
    return { offset: start, deleted: end - start, content: holdBytes(Buffer.from(name)) };
  });
  const sized = [...rewritten, ...renamed.filter(isKept)].sort(byOffset);
  const renewed = await renewLengths(file, { start: 0, end: file.byteLength }, sized);
  const splices = [...renewed, ...toSplices(pieces.get(file))].sort(byOffset);
  return {
    files: [
      ...[...dataFiles].map(([source, name]) => ({ source, name, splices: toSplices(pieces.get(source)) })),
      { source: file, name: basename(placeOf(file)), splices },
    ],
  };
}

function openDataFiles(
  names: ReadonlyMap<string, string>,
  { external, file }: TensorStore,
): ReadonlyMap<ByteSource, string> {
  const files = new Map<ByteSource, string>();
  const paths = new Set<string>();
  for (const [location, name] of names) {
    const source = external.open(location);
    const place = placeOf(source);
    if (paths.has(place)) {
      const found = 'found one that another location leads to as well';
      const message = `external data ${quote(location)}: expected a file of its own, ${found}`;
      throw new CheckpointError(message, { code: 'unsupported', file: file.name });
    }
    paths.add(place);
    files.set(source, name);
  }
  return files;
}

function byOffset(x: Splice, y: Splice): number {
  return x.offset - y.offset;
}

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
  /** The names are empty where they stand in a subgraph or a function. */
  readonly roots: readonly { readonly name: string; readonly origin: Origin }[];
  readonly edits: readonly TensorEdit[];
  readonly readers: readonly Reader[];
}

/**
 * Decides for each edit whether its constant is changed where it is, or split: exporters store equal constants once, so
 * that layers which were equal and shall differ need values of their own.
 *
 * @throws CheckpointError `unsupported` naming the tensor, where the graph leaves no place for a value of its own.
 */
async function planSplits(edits: readonly TensorEdit[], model: EditedModel): Promise<Splits> {
  const slots = findSlots(edits, model);
  const wants = new Wants();
  for (const [edit, places] of slots) for (const place of places) await wants.add(place, edit);
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
    const found = located.linears[layer];
    if (found === undefined) continue;
    const { site, bias: slot } = found;
    collect(bias, (tensor) => [findSlot(slot.site, slot.index, tensor)]);
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

function isStoredAt(origin: Origin, { name, range, elementCount }: Tensor): boolean {
  const stored = storedTensor(origin);
  if (stored === null || countElements(stored.dims.map(Number)) !== elementCount) return false;
  if (!isFile(range.source) || isExternal(stored)) return stored.name === name;
  return stored.segments.some(({ offset }) => offset === range.offset);
}

/** The tensor of an initializer or of a Constant node; null for what is computed or sparse. */
function storedTensor(origin: Origin): OnnxTensor | null {
  if ('dataType' in origin) return origin;
  if (!('op' in origin)) return null;
  return isStandard(origin, 'Constant') ? (origin.attributes.get('value')?.tensor ?? null) : null;
}

class Wants {
  readonly #bySlot = new Map<string, TensorEdit>();
  readonly #ids = new Map<OnnxNode, number>();

  /** @throws CheckpointError `unsupported` where two layers want different values at one place. */
  async add({ node, index, scope }: Slot, edit: TensorEdit): Promise<void> {
    const key = this.#keyOf(node, index, scope);
    if (!(await wantTheSame(this.#bySlot.get(key) ?? edit, edit)))
      throw cannotPlace(
        edit.tensor,
        'is read at one place of the graph by two layers that need other values',
      );
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

function groupByRange<Thing>(
  things: Iterable<Thing>,
  rangeOf: (thing: Thing) => ByteRange | undefined,
): RangeMap<Thing[]> {
  const groups = new RangeMap<Thing[]>();
  for (const thing of things) {
    const range = rangeOf(thing);
    const group = range && groups.get(range);
    if (group !== undefined) group.push(thing);
    else if (range !== undefined) groups.set(range, [thing]);
  }
  return groups;
}

/** Brings together the edits of one constant, and finds all that read it. */
function groupEdits(slots: ReadonlyMap<TensorEdit, readonly Slot[]>, model: EditedModel): readonly Group[] {
  const { mainGraph, model: parsed } = model.located;
  const { initializers } = mainGraph;
  // Initializers that are the same bytes of a data file are one constant.
  const rangeOf = (tensor: OnnxTensor) =>
    isExternal(tensor) ? model.tensors.get(tensor.name)?.range : undefined;
  const twins = new Map<Origin, readonly Origin[]>(
    groupByRange(initializers, rangeOf)
      .inFileOrder()
      .flatMap((group) => group.map((tensor) => [tensor, group] as const)),
  );
  const byName = new Map(initializers.map((tensor) => [tensor.name, tensor]));
  const groups = new Map<Origin | readonly Origin[], { origins: Set<Origin>; edits: Set<TensorEdit> }>();
  for (const [edit, places] of slots) {
    const origins = places.map(({ origin }) => origin);
    if (origins.length === 0) {
      const own = byName.get(edit.tensor.name);
      if (own === undefined) throw cannotPlace(edit.tensor, 'is no constant of the graph');
      origins.push(own);
    }
    for (const origin of origins) {
      const shared = twins.get(origin);
      const make = () => ({ origins: new Set(shared ?? [origin]), edits: new Set<TensorEdit>() });
      getOrMake(groups, shared ?? origin, make).edits.add(edit);
    }
  }
  const origins = new Set([...groups.values()].flatMap((group) => [...group.origins]));
  const passed = new Set([...slots.values()].flat().flatMap((slot) => slot.passed));
  const readers = findReaders(parsed, mainGraph, {
    file: model.store.file.name,
    origins: new Set([...origins, ...passed]),
  });
  // An operator that was passed belongs to the input behind it, so nothing else may read its output.
  for (const [{ tensor }, places] of slots)
    for (const node of new Set(places.flatMap((place) => place.passed))) {
      const own = places.filter((place) => place.passed.includes(node)).length;
      if ((readers.get(node)?.length ?? 0) > own)
        throw cannotPlace(tensor, `goes through a ${describeOperator(node)} node that others read as well`);
    }
  const stored = new Map<Origin, string>(mainGraph.initializers.map((tensor) => [tensor, tensor.name]));
  for (const node of mainGraph.nodes) if (origins.has(node)) stored.set(node, node.outputs[0] ?? '');
  return [...groups.values()].map((group) => ({
    roots: [...group.origins].map((origin) => ({ origin, name: stored.get(origin) ?? '' })),
    edits: [...group.edits],
    readers: [...group.origins].flatMap((origin) => readers.get(origin) ?? []),
  }));
}

class Splitter implements Splits {
  readonly inPlace: TensorEdit[] = [];
  readonly sharers = new Set<string>();
  readonly #model: EditedModel;
  readonly #wants: Wants;
  readonly #takenNames: Set<string>;
  readonly #sameBytes: RangeMap<readonly Tensor[]>;
  readonly graphEdit: GraphEdit;
  readonly #mainNodes: ReadonlySet<OnnxNode>;

  constructor(model: EditedModel, wants: Wants) {
    this.#model = model;
    this.#wants = wants;
    this.#sameBytes = groupByRange(model.tensors.values(), ({ range }) => range);
    const { mainGraph } = model.located;
    this.graphEdit = newGraphEdit(mainGraph);
    this.#mainNodes = new Set(mainGraph.nodes);
    this.#takenNames = new Set([
      ...mainGraph.inputs,
      ...mainGraph.initializers.map(({ name }) => name),
      ...mainGraph.nodes.flatMap(({ outputs }) => outputs),
    ]);
  }

  async decide(group: Group): Promise<void> {
    const [edit] = group.edits;
    if (edit === undefined) return;
    for (const want of [...group.edits, ...group.readers.map((reader) => this.#wants.of(reader))])
      if (!(await wantTheSame(want, edit))) return this.#split(group, edit);
    const stored = group.edits.map((own) => this.#toStored(group, own));
    let isPlaceable = group.roots.every(({ origin }) => storedTensor(origin) !== null);
    for (const { tensor, content } of stored) {
      // Bytes that stand in files as they are.
      const placed = isPlaceable ? await placeContent(tensor.range, content) : null;
      isPlaceable = placed?.every(({ source }) => isFile(source)) === true;
    }
    if (!isPlaceable) {
      for (const root of group.roots) this.#replaceRoot(root, edit);
      return;
    }
    this.inPlace.push(...stored);
    for (const { tensor } of stored)
      for (const { name } of this.#sameBytes.get(tensor.range) ?? []) this.sharers.add(name);
  }

  /** The edit of the initializer itself, where the reader sees it through operators that computed a copy. */
  #toStored({ roots: [root] }: Group, edit: TensorEdit): TensorEdit {
    const tensor = root === undefined || root.name === '' ? undefined : this.#model.tensors.get(root.name);
    const isCopy = !isFile(edit.tensor.range.source);
    const fits = tensor?.dtype === edit.tensor.dtype && tensor.range.byteLength === edit.content.byteLength;
    return isCopy && tensor !== undefined && fits ? { ...edit, tensor } : edit;
  }

  async #split(group: Group, edit: TensorEdit): Promise<void> {
    const values = await this.#chooseValues(group, edit);
    const old: TensorEdit = { ...edit, content: edit.tensor.range };
    const tree = new Map<string, TensorEdit | null>();
    for (const root of group.roots) {
      if (root.name === '') throw sharesInside(edit);
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
      if (mainName === null) throw sharesInside(edit);
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
    const draft = editNode(this.graphEdit, node);
    draft.inputs.set(index, name);
    draft.following.push(this.#encode(name, want));
  }

  #findFreeName(preferred: string): string {
    let name = preferred;
    for (let copy = 1; this.#takenNames.has(name); copy++) name = `${preferred}.restored_${copy}`;
    this.#takenNames.add(name);
    return name;
  }

  #replaceRoot({ name, origin }: Group['roots'][number], edit: TensorEdit): void {
    if ('op' in origin) this.#replaceNode(origin, edit);
    else if (name === '' || !('dataType' in origin)) {
      throw cannotPlace(edit.tensor, 'is a sparse initializer, or one inside a subgraph or function');
    } else {
      const { content } = encodeTensor(name, origin.dims, origin.dataType, edit.content);
      this.graphEdit.initializers.set(origin, content);
    }
  }

  #replaceNode(node: OnnxNode, edit: TensorEdit): void {
    const [name = '', ...others] = node.outputs;
    if (name === '' || others.some((other) => other !== '') || !this.#mainNodes.has(node))
      throw cannotPlace(
        edit.tensor,
        `is computed by a ${describeOperator(node)} node inside a subgraph or function`,
      );
    const draft = editNode(this.graphEdit, node);
    draft.isRemoved = true;
    draft.following.push(this.#encode(name, edit));
  }

  #encode(name: string, { tensor, content }: TensorEdit): GraphField {
    const { irVersion } = this.#model.located.model;
    const dataType = dataTypeOf(tensor.dtype);
    if (irVersion < FIRST_IR_WITH_FREE_INITIALIZERS || dataType === undefined) {
      const why = `the model's ONNX IR version ${irVersion} has no place for one more initializer`;
      throw cannotPlace(tensor, `shares its value with others, and ${why}`);
    }
    return encodeTensor(name, tensor.shape.map(BigInt), dataType, content);
  }
}

function sharesInside({ tensor }: TensorEdit): Error {
  return cannotPlace(tensor, 'shares its value with others inside a subgraph or function');
}

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
