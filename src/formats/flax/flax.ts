// Reads msgpack files of Flax: `flax.serialization.to_bytes`, `msgpack_serialize`, `flax.training.checkpoints`.

import type { Checkpoint, ReadOptions, Tensor } from '../../checkpoint/checkpoint.js';
import { planPlainEdits } from '../../checkpoint/edit-plan.js';
import { fail, LostSelection, quote, toShellWord } from '../../errors.js';
import type { ByteSource } from '../../io/byte-source.js';
import { isArray, isMap, type MsgpackValue, readMsgpack, type StoredArray } from './msgpack.js';

/** Characters of all tensors' names, each of which has all keys above it. Large models have some three million. */
const MAX_NAME_CHARACTERS = 64 * 1024 * 1024;

/** The collections of a model's variables that hold norm layers, and what feeds them. */
const COLLECTIONS: ReadonlySet<string> = new Set(['params', 'batch_stats']);

/** What beside the variables is no part of the model. */
const TRAINING_KEY = /optim|opt_state|scheduler|scaler|(?:^|_)(?:rngs?|loss|metrics?|step)(?:_|$)/i;
const OPTIMIZER_KEY = /optim|opt_state/i;

/** A running average of the variables, such as `ema_params`. */
const COPY_KEY = /(?:^|_)(?:ema|swa|avg|average|averaged|shadow|best)(?:_|$)/i;

/** An array, and the keys that lead to it. */
interface Leaf {
  /** Keys before the collection: what a model is called among several, or in a training state. */
  readonly owner: readonly string[];
  /** Null for what is in no collection. */
  readonly collection: string | null;
  /** Keys below the collection, or all of them. */
  readonly path: readonly string[];
  readonly array: StoredArray;
}

/** What of a file is audited. */
interface Chosen extends Pick<Checkpoint, 'warnings' | 'parts' | 'unselected'> {
  readonly leaves: readonly Leaf[];
}

/**
 * Opens a msgpack file of Flax. Its headers are read alone, arrays stay in the file.
 *
 * Names are those of `flatten_dict(variables, sep='/')`, e.g. `batch_stats/backbone/BatchNorm_0/mean`. Of a training state,
 * the variables are read: its step, optimizer and running averages stay out. Of several models, as in
 * `{generator: {params, batch_stats}, …}`, each key stands behind the collection: `params/generator/Conv_0/kernel`.
 *
 * @throws CheckpointError as {@link readMsgpack}; `unsupported` where it holds no array, `not-found` as {@link LostSelection}.
 */
export async function openFlax(source: ByteSource, options: ReadOptions): Promise<Checkpoint> {
  const { root, unknownTypes } = await readMsgpack(source);
  const { leaves, warnings, ...parts } = choose(listLeaves(root, source.name), options.select, source.name);
  const tensors = new Map<string, Tensor>();
  for (const leaf of leaves) {
    const name = nameOf(leaf);
    if (tensors.has(name)) fail(source.name, `expected one array at ${quote(name)}, found two`);
    tensors.set(name, { name, ...leaf.array });
  }
  if (tensors.size === 0)
    fail(source.name, 'expected arrays of Flax in the msgpack file, found none', 'unsupported');
  const unknown = [...unknownTypes].slice(0, 8).map(quote).join(', ');
  return {
    path: options.path,
    format: 'Flax',
    tensors,
    inModuleOrder: false,
    graph: null,
    framework: 'flax',
    modules: new Map(),
    warnings: unknown === '' ? warnings : [...warnings, `arrays of the types ${unknown} were left out`],
    ...parts,
    planEdits: (edits) => planPlainEdits(edits, tensors.values(), [source]),
    close: () => source.close(),
  };
}

function nameOf({ owner, collection, path }: Leaf): string {
  return [...(collection === null ? [] : [collection]), ...owner, ...path].join('/');
}

function listLeaves(root: MsgpackValue, file: string): readonly Leaf[] {
  const leaves: Leaf[] = [];
  let characters = 0;
  const visit = (value: MsgpackValue, keys: readonly string[]): void => {
    if (isMap(value)) for (const [key, member] of value) visit(member, [...keys, key]);
    if (!isArray(value)) return;
    characters += keys.reduce((sum, key) => sum + key.length, 0);
    if (characters > MAX_NAME_CHARACTERS)
      fail(file, 'the names of the arrays are too long', 'limit-exceeded');
    leaves.push(toLeaf(keys, value));
  };
  visit(root, []);
  return leaves;
}

function toLeaf(keys: readonly string[], array: StoredArray): Leaf {
  // What flax.optim, which came before optax, updated lies in the optimizer.
  const target = keys.findIndex((key, at) => key === 'optimizer' && keys[at + 1] === 'target');
  const plain = target < 0 ? keys : [...keys.slice(0, target), 'params', ...keys.slice(target + 2)];
  const first = plain.findIndex((key) => COLLECTIONS.has(key));
  if (first < 0) return { owner: [], collection: null, path: keys, array };
  // `TrainState.create(params=variables)` has both collections within its own `params`.
  let last = first;
  while (COLLECTIONS.has(plain[last + 1] ?? '')) last++;
  return { owner: plain.slice(0, first), collection: plain[last] ?? '', path: plain.slice(last + 1), array };
}

function choose(all: readonly Leaf[], select: string | undefined, file: string): Chosen {
  const keys = (select ?? '').split(/[./]/).filter((key) => key !== '');
  const selected = all.flatMap((leaf) => selectFrom(leaf, keys) ?? []);
  if (selected.length > 0) return chooseModel(selected);
  const whole = chooseModel(all);
  if (whole.parts !== undefined)
    throw new LostSelection(`expected arrays at ${quote(select ?? '')}, found none there`, {
      code: 'not-found',
      file,
      hint: `These parts are models: ${whole.parts.map(toShellWord).join(', ')}.`,
    });
  const warning = `nothing with tensors is at ${quote(select ?? '')}; the only model in the checkpoint was audited`;
  return { ...whole, warnings: [warning, ...whole.warnings], unselected: [] };
}

function selectFrom(leaf: Leaf, keys: readonly string[]): Leaf | null {
  const { owner, collection, path, array } = leaf;
  if (keys.length <= owner.length)
    return keys.every((key, at) => owner[at] === key) ? { ...leaf, owner: owner.slice(keys.length) } : null;
  const full = [...owner, ...(collection === null ? [] : [collection]), ...path];
  const isBelow = keys.every((key, at) => full[at] === key);
  return isBelow && keys.length < full.length
    ? { owner: [], collection: null, path: full.slice(keys.length), array }
    : null;
}

function chooseModel(all: readonly Leaf[]): Chosen {
  const isState = all.some(({ collection }) => collection !== null);
  const model = all.filter((leaf) => !isTraining(leaf, isState));
  const copyOf = (leaf: Leaf) => (isState ? outerKeys(leaf).find((key) => COPY_KEY.test(key)) : undefined);
  const originals = model.filter((leaf) => copyOf(leaf) === undefined);
  const isCopied = originals.some(({ collection }) => collection !== null);
  const leaves = isCopied ? originals : model;
  const copies = isCopied ? [...new Set(model.flatMap((leaf) => copyOf(leaf) ?? []))] : [];
  const warnings = copies.map((key) => `${quote(key)} holds averaged variables and was left aside`);
  const ownersOf = (name: string) =>
    new Set(leaves.flatMap(({ owner, collection }) => (collection === name ? owner.join('.') : [])));
  // One model may keep its collections in two places: {params, model_state: {batch_stats}}.
  if ([...COLLECTIONS].every((name) => ownersOf(name).size <= 1))
    return { leaves: leaves.map((leaf) => ({ ...leaf, owner: [] })), warnings };
  const parts = new Set([...COLLECTIONS].flatMap((name) => [...ownersOf(name)]));
  return { leaves, warnings, parts: [...parts].filter((part) => part !== '') };
}

/** The keys that tell what a leaf is beside others: those before its collection; of one in none, the first. */
function outerKeys({ owner, collection, path }: Leaf): readonly string[] {
  return collection === null ? path.slice(0, 1) : owner;
}

/** Whether a leaf is no part of a model. A loss may be a network; an optimizer has a copy of every parameter's path. */
function isTraining(leaf: Leaf, isState: boolean): boolean {
  const pattern = isState && leaf.collection === null ? TRAINING_KEY : OPTIMIZER_KEY;
  return outerKeys(leaf).some((key) => pattern.test(key));
}
