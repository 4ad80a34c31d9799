// Opens Keras models: .keras archives, .weights.h5, also in shards, and older .h5, by the names that variables have in Keras.

import type {
  Checkpoint,
  Declaration,
  ModuleFacts,
  ReadOptions,
  Tensor,
} from '../../checkpoint/checkpoint.js';
import { bitsOf, decodeFloats, isDecodable } from '../../checkpoint/dtype.js';
import { placeEdits, planOneFile, planPlainEdits, refuseOtherSources } from '../../checkpoint/edit-plan.js';
import { CheckpointError, fail, quote } from '../../errors.js';
import {
  type ByteSource,
  orClose,
  readRange,
  refuseAmplified,
  sliceRange,
  wholeOf,
} from '../../io/byte-source.js';
import { Keeper } from '../../io/views.js';
import { locateRecord, openZip, readRecord } from '../../io/zip.js';
import { addTo, compareNaturally } from '../../norm/naming.js';
import { describeUnlisted, openShardFiles, type ShardFiles } from '../shards.js';
import { type Hdf5Dataset, type Hdf5Group, type Hdf5Object, readHdf5, Used } from './hdf5.js';
import { toTensor } from './hdf5-values.js';
import {
  classOfName,
  type LayerConfig,
  listLayers,
  nameVariables,
  readInnerLayer,
  readModelConfig,
  readNumber,
  toSnakeCase,
} from './keras-config.js';

/** The records of a .keras archive. */
const WEIGHTS_RECORD = 'model.weights.h5';
const CONFIG_RECORD = 'config.json';

/** The configuration of a model with a thousand layers has one megabyte. */
const MAX_CONFIG_BYTES = 64 * 1024 * 1024;

/** Where the layers of a model are: Keras 3, and Keras 2.12 and 2.13. */
const LAYERS = ['layers', '_layer_checkpoint_dependencies'];

/** Where older files have what belongs to the model itself. */
const TOP_LEVEL = 'top_level_model_weights';

/** What a model saves beside its layers. */
const NOT_LAYERS: ReadonlySet<string> = new Set(['vars', 'optimizer', 'metrics', '_metrics']);

/**
 * Opens a .keras archive: the weights are an HDF5 file within, and config.json tells what they belong to.
 *
 * @throws CheckpointError as {@link openZip} and {@link readHdf5}.
 */
export async function openKerasArchive(source: ByteSource, { path }: ReadOptions): Promise<Checkpoint> {
  const archive = await openZip(source);
  const [weights, config] = [archive.entries.get(WEIGHTS_RECORD), archive.entries.get(CONFIG_RECORD)];
  if (weights === undefined || config === undefined)
    return fail(source.name, 'expected weights and a configuration in the .keras archive, found one of them');
  const { bytes } = await readRecord(archive, config, MAX_CONFIG_BYTES);
  const file = await locateRecord(archive, weights);
  const { root } = await readHdf5(file);
  const opened = await openWeights({ root, source, path, configText: bytes, where: CONFIG_RECORD });
  const planEdits: Checkpoint['planEdits'] = async (edits) => {
    const { planZipSplices } = await import('../torch/zip-container.js');
    const pieces = await placeEdits(edits, opened.tensors.values());
    refuseOtherSources(pieces, new Set([file.source]), edits);
    return planOneFile(source, await planZipSplices(archive, pieces));
  };
  return { ...opened, planEdits };
}

/**
 * Opens an HDF5 file as Keras writes it. One that Keras did not write is read by the paths of its datasets.
 *
 * @throws CheckpointError as {@link readHdf5}.
 */
export async function openKerasHdf5(source: ByteSource, { path }: ReadOptions): Promise<Checkpoint> {
  const { root } = await readHdf5(wholeOf(source));
  const opened = await openWeights({ root, source, path, configText: null, where: 'model_config' });
  return { ...opened, planEdits: (edits) => planPlainEdits(edits, opened.tensors.values(), [source]) };
}

/**
 * Opens the index of a model's shards, as `save_weights('m.weights.json', max_shard_size=…)` writes it: for each group of
 * variables, such as `/layers/dense/vars`, the shards that they are in.
 *
 * @throws CheckpointError as {@link openShardFiles} and {@link readHdf5}.
 */
export async function openKerasShards(index: ByteSource, options: ReadOptions): Promise<Checkpoint> {
  const { weightMap, files, close } = await openShardFiles(index, options, ['.h5']);
  return orClose({ close }, async () => {
    const used = new Used();
    const shards = new Map<string, Hdf5Group>();
    for (const [name, source] of files) shards.set(name, (await readHdf5(wholeOf(source), used)).root);
    const { root, unlisted } = joinShards(weightMap, shards, index.name);
    const { path } = options;
    const opened = await openWeights({ root, source: index, path, configText: null, where: 'model_config' });
    const planEdits: Checkpoint['planEdits'] = (edits) =>
      planPlainEdits(edits, opened.tensors.values(), [...files.values(), index]);
    return { ...opened, warnings: [...opened.warnings, ...describeUnlisted(unlisted)], planEdits, close };
  });
}

/** One tree of all shards. A group may stand in several, its name and its variables in different ones. */
function joinShards(
  weightMap: ShardFiles['weightMap'],
  shards: ReadonlyMap<string, Hdf5Group>,
  file: string,
): { readonly root: Hdf5Group; readonly unlisted: readonly string[] } {
  const refuse = (message: string): never => fail(file, `weight_map: ${message}`);
  for (const [path, names] of weightMap)
    for (const name of names) {
      const group = shards.get(name);
      if (group !== undefined && findMember(group, path)?.kind !== 'group')
        refuse(`expected ${quote(path)} in shard ${quote(name)}, found no such group there`);
    }
  const unlisted: string[] = [];
  const join = (groups: readonly (readonly [shard: string, group: Hdf5Group])[], path: string): Hdf5Group => {
    const below = new Map<string, [shard: string, group: Hdf5Group][]>();
    const members = new Map<string, Hdf5Object>();
    for (const [shard, group] of groups)
      for (const [name, member] of group.members) {
        if (member.kind === 'group') addTo(below, name, [shard, member]);
        else if (weightMap.get(path)?.includes(shard) !== true) unlisted.push(member.path);
        else if (members.has(name))
          refuse(`expected ${quote(member.path)} in one shard, found it in several`);
        else members.set(name, member);
      }
    for (const [name, inner] of below) {
      if (members.has(name)) refuse(`expected ${quote(`${path}/${name}`)} to be one thing, found two`);
      members.set(name, join(inner, `${path}/${name}`));
    }
    return {
      kind: 'group',
      attributes: new Map(groups.flatMap(([, group]) => [...group.attributes])),
      members,
    };
  };
  return { root: join([...shards], ''), unlisted };
}

/** The tree of a model's HDF5 file, and where its configuration comes from. */
interface Weights {
  readonly root: Hdf5Group;
  readonly source: ByteSource;
  readonly path: string;
  /** Null where the tree holds it itself. */
  readonly configText: Uint8Array | null;
  /** How messages call the configuration. */
  readonly where: string;
}

async function openWeights({ root, source, path, configText, where }: Weights): Promise<Checkpoint> {
  const warnings: string[] = [];
  const own = root.attributes.get('model_config')?.[0];
  const text = configText ?? (own === undefined ? null : Buffer.from(own));
  const config = text === null ? null : readConfig(text, { file: source.name, where, warnings });
  const { variables, isOrdered } = listVariables(root, config, source.name);
  const tensors = await makeTensors(variables, source.name, warnings);
  return {
    path,
    format: 'Keras',
    framework: 'keras',
    tensors,
    inModuleOrder: isOrdered,
    graph: null,
    modules: describeModules(variables),
    declarations: declareFrozen(variables, where),
    warnings,
    close: () => source.close(),
  };
}

/** A configuration that cannot be read costs what it would tell, and no more. */
function readConfig(
  text: Uint8Array,
  { file, where, warnings }: { file: string; where: string; warnings: string[] },
): LayerConfig | null {
  try {
    return readModelConfig(text, file);
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
    warnings.push(
      `its ${where} could not be read (${error.message}): epsilons and the order of layers are not known`,
    );
    return null;
  }
}

/** A variable of the model. */
interface Variable {
  readonly dataset: Hdf5Dataset;
  /** The path of its layer in Keras, names joined by slashes. */
  readonly layer: string;
  /** The same with every model that it lies in, which tells layers of one path apart. */
  readonly fullLayer: string;
  readonly leaf: string;
  readonly config: LayerConfig | null;
  /** Whether it, or a model that it lies in, has `trainable: false`; null where no configuration tells. */
  readonly isFrozen: boolean | null;
  /** Whether it is the lone affine of a norm layer, of which only its values tell γ from β. */
  readonly isGuessed: boolean;
}

interface Variables {
  readonly variables: readonly Variable[];
  /** Whether they are in the order of the layers. */
  readonly isOrdered: boolean;
}

/** Characters of the full paths of all variables: a layer's name may be as long as any text of the file. */
const MAX_PATH_CHARACTERS = 16 * 1024 * 1024;

function listVariables(root: Hdf5Group, config: LayerConfig | null, file: string): Variables {
  const found = findVariables(root, config, file);
  const characters = found.variables.reduce((sum, { fullLayer }) => sum + fullLayer.length, 0);
  if (characters > MAX_PATH_CHARACTERS)
    fail(
      file,
      `expected paths of variables of at most ${MAX_PATH_CHARACTERS} characters in all, found ${characters}`,
      'limit-exceeded',
    );
  return found;
}

function findVariables(root: Hdf5Group, config: LayerConfig | null, file: string): Variables {
  const legacy = root.members.get('model_weights') ?? root;
  if (legacy.kind === 'group' && readNames(legacy, 'layer_names').length > 0)
    return listNamed(legacy, config, file);
  if (LAYERS.some((key) => root.members.get(key)?.kind === 'group') || holdsVariables(root)) {
    const walk = new Walk();
    walk.visitModel(root, config);
    return walk;
  }
  return { variables: listDatasets(root).map((dataset) => byPath(dataset, dataset.path)), isOrdered: false };
}

/** Whether a model of a class of its own saved its variables: every layer has a group `vars`. */
function holdsVariables(group: Hdf5Group): boolean {
  return [...group.members.values()].some((member) => member.kind === 'group' && member.members.has('vars'));
}

function listDatasets(group: Hdf5Group): readonly Hdf5Dataset[] {
  return [...group.members.values()].flatMap((member) =>
    member.kind === 'group' ? listDatasets(member) : [member],
  );
}

/** A variable of which its path tells all that is known. */
function byPath(dataset: Hdf5Dataset, path: string): Variable {
  const slash = path.lastIndexOf('/');
  const layer = path.slice(0, Math.max(0, slash));
  const unknown = { config: null, isFrozen: null, isGuessed: false };
  return { dataset, layer, fullLayer: layer, leaf: path.slice(slash + 1), ...unknown };
}

/** A list of names; one that is too long for an attribute goes on in `layer_names0`, `layer_names1`, …. */
function readNames({ attributes }: Hdf5Group, key: string): readonly string[] {
  const whole = attributes.get(key);
  if (whole !== undefined) return whole;
  const names: string[] = [];
  for (let part = 0; ; part++) {
    const more = attributes.get(`${key}${part}`);
    if (more === undefined) return names;
    names.push(...more);
  }
}

/**
 * The older layout: a group a layer of the model, in whose attribute `weight_names` stand the paths of its variables, such
 * as `bn_a/moving_mean` or, of Keras 2, `bn_a/moving_mean:0`. A model within a model is one layer, with those that are
 * trained first: there the configuration tells the order.
 *
 * @throws CheckpointError `malformed` where a name leads to nothing, or two to one thing.
 */
function listNamed(weights: Hdf5Group, model: LayerConfig | null, file: string): Variables {
  const variables: Variable[] = [];
  let isOrdered = true;
  const seen = new Set<Hdf5Object>();
  const find = (group: Hdf5Group, path: string, kind: Hdf5Object['kind']): Hdf5Object => {
    const member = findMember(group, path);
    const found = member?.kind !== kind ? 'none' : seen.has(member) ? 'it under another name as well' : null;
    if (member !== undefined && found === null) {
      seen.add(member);
      return member;
    }
    return fail(file, `expected a ${kind} ${quote(path)}, which the file lists, found ${found}`);
  };
  const layers = new Map(model?.layers?.map((layer) => [layer.name, layer]));
  const topLevel = weights.members.has(TOP_LEVEL) ? [TOP_LEVEL] : [];
  for (const name of new Set([...readNames(weights, 'layer_names'), ...topLevel])) {
    const group = find(weights, name, 'group');
    if (group.kind !== 'group') continue;
    const own = layers.get(name);
    const inner = own === undefined ? [] : listLayers(own);
    const ranks = new Map(inner.map((layer, rank) => [layer.name, rank]));
    const namesakes = new Map<string, LayerConfig[]>();
    for (const layer of inner) addTo(namesakes, layer.name, layer);
    const found = readNames(group, 'weight_names').flatMap((path): readonly Variable[] => {
      const dataset = find(group, path, 'dataset');
      if (dataset.kind !== 'dataset') return [];
      const variable = byPath(dataset, path);
      const { layer } = variable;
      const called = layer.slice(layer.lastIndexOf('/') + 1);
      const same = namesakes.get(called) ?? [];
      const config = same.length === 1 ? (same[0] ?? null) : null;
      const isFrozen = own === undefined ? null : [own, ...same].some(isUntrained);
      return [{ ...variable, fullLayer: `${name}/${layer}`, config, isFrozen }];
    });
    const modules = new Set(found.map(({ layer }) => layer));
    if (modules.size > 1) {
      if (found.every(({ config }) => config !== null))
        found.sort((x, y) => (ranks.get(x.config?.name ?? '') ?? 0) - (ranks.get(y.config?.name ?? '') ?? 0));
      else isOrdered = false;
    }
    variables.push(...found);
  }
  return { variables, isOrdered };
}

function isUntrained({ settings }: LayerConfig): boolean {
  return settings.get('trainable') === false;
}

function findMember(group: Hdf5Group, path: string): Hdf5Object | undefined {
  let found: Hdf5Object | undefined = group;
  for (const name of path.split('/')) {
    if (name === '') continue;
    found = found?.kind === 'group' ? found.members.get(name) : undefined;
  }
  return found;
}

/** A layer on the way down a file that numbers its variables. */
interface Place {
  readonly group: Hdf5Group;
  readonly config: LayerConfig | null;
  /** Its class in snake case, where that is told. */
  readonly className: string | null;
  readonly name: string;
  /** Paths of what it lies in, with a slash at the end unless empty. */
  readonly scope: string;
  readonly fullScope: string;
  readonly isFrozen: boolean | null;
}

/** What a layer has from what it lies in. */
type Surroundings = Pick<Place, 'scope' | 'fullScope' | 'isFrozen'>;

/**
 * Follows the layout of Keras 3: `layers/batch_normalization_1/vars/3`. Layers are numbered by class, and what a layer is
 * called stands in an attribute of `vars`, and in the configuration. In Keras a variable's path leaves functional models
 * out: `conv_a/kernel` lies in `backbone`, too.
 */
class Walk implements Variables {
  readonly variables: Variable[] = [];
  isOrdered = true;

  visitModel(root: Hdf5Group, config: LayerConfig | null): void {
    if (config === null) this.isOrdered = false;
    const name = nameOf(root) ?? config?.name ?? '';
    const isFrozen = config === null ? null : isUntrained(config);
    const place = {
      group: root,
      config,
      className: classOf(config),
      name,
      scope: '',
      fullScope: '',
      isFrozen,
    };
    // The model itself has no part in the full paths of its layers.
    this.#visit(place, true);
  }

  #visit(place: Place, isRoot = false): void {
    const { group, config, name, scope, fullScope } = place;
    const layer = scope + name;
    const fullLayer = fullScope + name;
    this.#addVariables(place, layer, fullLayer);
    const inside = isRoot ? '' : `${fullLayer}/`;
    const children = [...group.members].filter(
      ([key, member]) => member.kind === 'group' && !(isRoot ? NOT_LAYERS.has(key) : key === 'vars'),
    );
    const seemsModel = children.length === 1 && children.some(([key]) => LAYERS.includes(key));
    const isModel = config === null ? seemsModel : config.layers !== null;
    const isSequential =
      place.className === 'sequential' || (config === null && /^sequential(_\d+)?$/.test(name));
    const below = isModel && !isSequential ? '' : isModel ? `${name}/` : `${layer}/`;
    const others = children.filter(([key]) => !LAYERS.includes(key));
    const around = { scope: name === '' ? '' : below, fullScope: inside, isFrozen: place.isFrozen };
    for (const key of LAYERS) {
      const layers = group.members.get(key);
      if (layers?.kind === 'group') this.#visitLayers(layers, config, around);
    }
    const start = this.variables.length;
    for (const [key, member] of others) {
      if (member.kind !== 'group') continue;
      this.#visitAttribute(member, key, config === null ? null : readInnerLayer(config, key), around);
    }
    // Attributes stand in the order of their names.
    if (others.length > 1 && this.variables.length > start + 1) this.isOrdered = false;
  }

  /** A model's layers, in the order of its configuration. */
  #visitLayers(layers: Hdf5Group, config: LayerConfig | null, around: Surroundings): void {
    const counts = new Map<string, number>();
    const left = new Map(layers.members);
    const take = (key: string, inner: LayerConfig | null) => {
      const member = left.get(key);
      left.delete(key);
      const className = key.replace(/_\d+$/, '');
      if (member?.kind === 'group') this.#visitLayer(member, key, { inner, className, ...around });
    };
    for (const inner of config?.layers ?? []) {
      const className = toSnakeCase(inner.className);
      const count = counts.get(className) ?? 0;
      counts.set(className, count + 1);
      take(count === 0 ? className : `${className}_${count}`, inner);
    }
    if (left.size > 0 && config !== null) this.isOrdered = false;
    for (const key of [...left.keys()].sort(compareNaturally)) take(key, null);
  }

  /** An attribute of a layer: a layer, or a list of such, which has no part in their paths. */
  #visitAttribute(group: Hdf5Group, key: string, inner: LayerConfig | null, around: Surroundings): void {
    const isLayer = ['vars', ...LAYERS].some((name) => group.members.has(name));
    if (isLayer || inner !== null) {
      const className = classOfName(nameOf(group) ?? '') ?? classOfName(key);
      this.#visitLayer(group, key, { inner, className, ...around });
      return;
    }
    for (const [name, member] of group.members)
      if (member.kind === 'group') this.#visitAttribute(member, name, null, around);
  }

  /** @param about its configuration; and the class that names tell, which counts where there is none. */
  #visitLayer(
    group: Hdf5Group,
    key: string,
    about: Surroundings & Pick<Place, 'className'> & { readonly inner: LayerConfig | null },
  ): void {
    const { inner: config, scope, fullScope } = about;
    this.#visit({
      group,
      config,
      className: classOf(config) ?? about.className,
      name: nameOf(group) ?? config?.name ?? key,
      scope,
      fullScope,
      isFrozen: config !== null && isUntrained(config) ? true : about.isFrozen,
    });
  }

  #addVariables({ group, config, className, name, isFrozen }: Place, layer: string, fullLayer: string): void {
    const vars = group.members.get('vars');
    if (vars?.kind !== 'group') return;
    const found = [...vars.members].flatMap(([key, member]) =>
      member.kind === 'dataset' ? [{ key, dataset: member }] : [],
    );
    found.sort((x, y) => compareNaturally(x.key, y.key));
    const isNumbered = ({ key }: { key: string }) => /^\d+$/.test(key);
    const shapes = found.filter(isNumbered).map(({ dataset }) => dataset.shape);
    const { names, isGuessed } = nameVariables({ className, config, name, shapes });
    let number = 0;
    for (const each of found) {
      const leaf = (isNumbered(each) ? names[number++] : null) ?? each.key;
      const known = { layer, fullLayer, config, isFrozen, isGuessed: isGuessed && leaf === 'beta' };
      this.variables.push({ dataset: each.dataset, leaf, ...known });
    }
  }
}

function classOf(config: LayerConfig | null): string | null {
  return config === null ? null : toSnakeCase(config.className);
}

/** What a layer is called, as newer files say. */
function nameOf(group: Hdf5Group): string | undefined {
  return group.members.get('vars')?.attributes.get('name')?.[0];
}

/** The path of each variable's layer. Where layers of two models share one, such as `conv_a`, both have their full paths. */
function chooseLayerPaths(variables: readonly Variable[]): ReadonlyMap<Variable, string> {
  const owners = new Map<string, Set<string>>();
  for (const { layer, leaf, fullLayer } of variables) {
    const name = `${layer}/${leaf}`;
    owners.set(name, (owners.get(name) ?? new Set()).add(fullLayer));
  }
  const shared = new Set(
    variables
      .filter(({ layer, leaf }) => (owners.get(`${layer}/${leaf}`)?.size ?? 0) > 1)
      .map(({ layer }) => layer),
  );
  return new Map(variables.map((each) => [each, shared.has(each.layer) ? each.fullLayer : each.layer]));
}

/** A path with a layer's dots in it has dots for separators as well: audits tell either from the other by that. */
function joinNames(layer: string, leaf: string): string {
  const name = layer === '' ? leaf : `${layer}/${leaf}`;
  return name.includes('.') ? name.replaceAll('/', '.') : name;
}

/** So many values of a lone affine are looked at. */
const MAX_LOOKED_AT = 4_096;

/** Whether values lie around 1, as γ starts, rather than around 0, as β does. */
async function isScale({ range, dtype, elementCount }: Tensor): Promise<boolean> {
  if (!isDecodable(dtype) || elementCount === 0) return false;
  const count = Math.min(elementCount, MAX_LOOKED_AT);
  const bytes = await readRange(sliceRange(range, 0, (count * bitsOf(dtype)) / 8));
  return decodeFloats(bytes, dtype).reduce((sum, value) => sum + value, 0) / count > 0.5;
}

async function makeTensors(
  variables: readonly Variable[],
  file: string,
  warnings: string[],
): Promise<ReadonlyMap<string, Tensor>> {
  const keeper = new Keeper();
  const paths = chooseLayerPaths(variables);
  const tensors = new Map<string, Tensor>();
  const unread: string[] = [];
  const guessed: string[] = [];
  const all: { variable: Variable; read: Tensor | null }[] = [];
  for (const variable of variables)
    all.push({ variable, read: await toTensor(variable.dataset, variable.dataset.path, keeper) });
  // Of values in chunks, a whole chunk is read for the first ones.
  const looked = all.flatMap(({ variable, read }) => (variable.isGuessed && read ? [read.range] : []));
  refuseAmplified(looked, file);
  for (const { variable, read } of all) {
    const { dataset, isGuessed } = variable;
    const leaf = read !== null && isGuessed && (await isScale(read)) ? 'gamma' : variable.leaf;
    const preferred = joinNames(paths.get(variable) ?? '', leaf);
    const name = tensors.has(preferred) ? dataset.path : preferred;
    if (tensors.has(name)) fail(file, `expected unique paths of variables, found ${quote(name)} twice`);
    if (read === null) unread.push(name);
    else tensors.set(name, { ...read, name });
    if (isGuessed) guessed.push(name);
  }
  if (guessed.length > 0)
    warnings.push(
      `whether the lone affine of ${guessed.length} norm layer${guessed.length === 1 ? '' : 's'} is γ or β was told from its values, such as ${quote(guessed[0] ?? '')}`,
    );
  if (unread.length > 0)
    warnings.push(
      `${unread.length} of its datasets hold no numbers and were left out, such as ${quote(unread[0] ?? '')}`,
    );
  return tensors;
}

/** Layers by the dotted paths that audits have for them. */
function dottedLayers(variables: readonly Variable[]): ReadonlyMap<string, Variable> {
  const paths = chooseLayerPaths(variables);
  return new Map(variables.map((each) => [(paths.get(each) ?? '').replaceAll('/', '.'), each]));
}

function describeModules(variables: readonly Variable[]): ReadonlyMap<string, ModuleFacts> {
  const modules = new Map<string, ModuleFacts>();
  for (const [path, { config }] of dottedLayers(variables)) {
    const epsilon = config === null ? null : readNumber(config, 'epsilon');
    if (config === null || epsilon === null) continue;
    const kept = readNumber(config, 'momentum');
    // Keras keeps a share of the old value, PyTorch takes one of the new: 0.99 is 0.01.
    const momentum = kept === null ? null : Number((1 - kept).toPrecision(12));
    const unknown = { className: null, trackRunningStats: null, training: null, version: null };
    modules.set(path, { ...unknown, epsilon, momentum });
  }
  return modules;
}

/** `trainable=False`, unless it holds for all of the model: so are models for inference saved, too. */
function declareFrozen(variables: readonly Variable[], where: string): readonly Declaration[] {
  const layers = [...dottedLayers(variables)];
  const frozen = layers.filter(([, { isFrozen }]) => isFrozen === true);
  if (frozen.length === 0 || frozen.length === layers.length) return [];
  return [{ kind: 'paths', by: 'keras-trainable', where, paths: frozen.map(([path]) => path) }];
}
