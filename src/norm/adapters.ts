// What PEFT saves: an adapter, which is a model only together with the one that it was trained on.

import type { AdapterDeclaration, Checkpoint, Tensor } from '../checkpoint/checkpoint.js';
import { quote } from '../errors.js';
import { dottedTensorsOf, listFirst } from './naming.js';

/** How PEFT names what its methods add: LoRA, LoHa, LoKr, IA³, OFT, BOFT, VeRA. */
const ADAPTER_NAME = /(?:^|\.)(?:lora|hada|lokr|ia3|oft|boft|vera)_\w+(?:\.|$)/;

/** What `PeftModel` and its tuner put in front of the names of the model. */
const MODEL_PREFIX = 'base_model.model.';

/** The module that PEFT trains a copy of, and keeps beside it as it was. */
const ORIGINAL = '.original_module.';

/** How methods write themselves, by what `peft_type` calls them; others as it does. */
const METHODS: ReadonlyMap<string, string> = new Map([
  ['LORA', 'LoRA'],
  ['ADALORA', 'AdaLoRA'],
  ['IA3', 'IA³'],
]);

/** Whether names show an adapter, alone or in a model. */
function hasAdapter({ tensors }: Pick<Checkpoint, 'tensors'>): boolean {
  return [...tensors.keys()].some((name) => ADAPTER_NAME.test(name));
}

/**
 * What a checkpoint is that holds an adapter without the model, e.g. `an adapter (LoRA) of "resnet18"`; null for others.
 */
export function describeAdapter(checkpoint: Checkpoint): string | null {
  const names = [...checkpoint.tensors.keys()];
  const declaration = checkpoint.declarations?.find(
    (one): one is AdapterDeclaration => one.kind === 'adapter',
  );
  if (declaration === undefined && !hasAdapter(checkpoint)) return null;
  // In a model with an adapter, the layers of that stand beside it.
  if (
    !names.every((name) => name.startsWith(MODEL_PREFIX) && !/\.(?:base_layer|original_module)\./.test(name))
  )
    return null;
  const { method = '', base = null } = declaration ?? {};
  const called = METHODS.get(method) ?? method;
  const kind = /^[\w³-]{1,20}$/.test(called) ? called : 'LoRA or its like';
  return `an adapter (${kind})${base === null ? '' : ` of ${quote(base)}`}`;
}

/** The way out where a checkpoint without norm layers is an adapter; undefined for others. */
export function explainAdapter(checkpoint: Checkpoint): string | undefined {
  const described = describeAdapter(checkpoint);
  return described === null
    ? undefined
    : `It is ${described} without the model, and without statistics that moved in training. Audit the merged model: model.merge_and_unload(), then save its state_dict.`;
}

/**
 * The model that an adapter makes of the one that it was trained on: the modules that it holds as a whole, and all else as
 * the base has it, e.g. `base_model.model.fc.weight` from `fc.weight`. A layer with an adapter is called as PEFT does then,
 * `conv.base_layer.weight` beside `conv.lora_A.weight`.
 *
 * @returns the checkpoint as it is where it is no adapter, has no statistics, or was trained on another base.
 */
export function putOnBase(adapter: Checkpoint, base: Checkpoint): Checkpoint {
  const described = describeAdapter(adapter);
  if (described === null || describeAdapter(base) !== null) return adapter;
  const held = new Map<string, Tensor>();
  const adapted = new Set<string>();
  for (const [name, tensor] of adapter.tensors) {
    const path = name.slice(MODEL_PREFIX.length);
    const at = path.search(ADAPTER_NAME);
    if (at < 0) held.set(path, tensor);
    else adapted.add(path.slice(0, at));
  }
  const all = dottedTensorsOf(base);
  const prefix = findPrefix([...held.keys()], all);
  if (prefix === null) return adapter;
  const tensors = new Map<string, Tensor>();
  const lacking: string[] = [];
  for (const [dotted, tensor] of all) {
    if (!dotted.startsWith(prefix)) continue;
    const path = dotted.slice(prefix.length);
    const own = held.get(path);
    const dot = Math.max(0, path.lastIndexOf('.'));
    const isBeside = adapted.has(path.slice(0, dot));
    const name =
      own?.name ?? MODEL_PREFIX + (isBeside ? `${path.slice(0, dot)}.base_layer${path.slice(dot)}` : path);
    tensors.set(name, own ?? { ...tensor, name });
    if (own === undefined && path.endsWith('running_mean')) lacking.push(path.slice(0, dot));
  }
  for (const [name, tensor] of adapter.tensors) tensors.set(name, tensor);
  return {
    ...adapter,
    tensors,
    inModuleOrder: base.inModuleOrder,
    warnings: [...adapter.warnings, describeLacking(described, lacking)],
  };
}

function describeLacking(described: string, lacking: readonly string[]): string {
  const rest = `it is ${described}: what it does not hold was taken from before, as whoever loads it does`;
  if (lacking.length === 0) return rest;
  const layers = lacking.length === 1 ? '1 norm layer' : `${lacking.length} norm layers`;
  return `${rest}; so it is with ${layers} (${listFirst(lacking.map(quote), 2)}), whose statistics, had they moved in training, were not saved`;
}

/** What stands in base before the names of all the statistics; null where there are none, or not all are there. */
function findPrefix(names: readonly string[], base: ReadonlyMap<string, Tensor>): string | null {
  const statistics = names.filter((name) => name.endsWith('running_mean'));
  const [first] = statistics;
  if (first === undefined) return null;
  const prefixes = [...base.keys()]
    .filter((name) => name === first || name.endsWith(`.${first}`))
    .map((name) => name.slice(0, -first.length))
    .filter((prefix) => statistics.every((name) => base.has(prefix + name)));
  return prefixes.length === 1 || prefixes.includes('') ? (prefixes.sort()[0] ?? null) : null;
}

/**
 * A checkpoint without the modules that PEFT trains a copy of, which stand beside it as they were: the model does not use
 * them. The same of its copies.
 */
export function leaveOutOriginals<Opened extends Checkpoint>(checkpoint: Opened): Opened {
  const { tensors, warnings } = checkpoint;
  const originals = findOriginals(tensors.keys());
  if (originals.length === 0) return checkpoint;
  const kept = [...tensors].filter(([name]) => !isOriginal(name));
  const warning = `of modules that PEFT trains a copy of, the copy was read (modules_to_save) and the original left out: ${listFirst(originals.map(quote), 2)}`;
  const copies = checkpoint.copies?.map((copy) => ({
    ...copy,
    open: async () => leaveOutOriginals(await copy.open()),
  }));
  return { ...checkpoint, tensors: new Map(kept), warnings: [...warnings, warning], copies };
}

function isOriginal(name: string): boolean {
  return name.includes(ORIGINAL);
}

/** The modules of which names show that PEFT trains a copy; none where one has an original and no copy. */
function findOriginals(names: Iterable<string>): readonly string[] {
  const [originals, trained] = [new Set<string>(), new Set<string>()];
  for (const name of names) {
    const at = name.indexOf(ORIGINAL);
    if (at >= 0) originals.add(name.slice(0, at));
    else for (const path of /^(.*?)\.modules_to_save\./.exec(name)?.slice(1) ?? []) trained.add(path);
  }
  return [...originals].every((path) => trained.has(path)) ? [...originals] : [];
}

/** Names without those that {@link leaveOutOriginals} leaves out. */
export function withoutOriginals(names: ReadonlySet<string>): ReadonlySet<string> {
  return findOriginals(names).length === 0 ? names : new Set([...names].filter((name) => !isOriginal(name)));
}
