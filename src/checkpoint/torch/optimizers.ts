import { CheckpointError } from '../../errors.js';
import type { Declaration, OptimizerGroup, OptimizerParameter } from '../declarations.js';
import { asModule } from './module-objects.js';
import { asContainer, childrenOf } from './object-tree.js';
import { asInteger, entriesOf, isNode, type PickleNode, type PickleValue } from './pickle-values.js';
import { asTensorCall, readLayout } from './tensors.js';

/** Containers looked through. Beside the model and the optimizers a checkpoint has some hundreds; logs have more. */
const MAX_VISITS = 200_000;

/** Containers in each other on the way to an optimizer: real ones lie two or three deep. */
const MAX_DEPTH = 16;

/** Optimizers of one checkpoint: a GAN has two, trainers of many agents some dozens. */
const MAX_OPTIMIZERS = 64;

/** Parameters of one optimizer; the largest models have some ten thousand. */
const MAX_PARAMETERS = 200_000;

/** A longer path of keys is no one's; reports show it. */
const MAX_WHERE_LENGTH = 120;

/** A container that is yet to be looked through, and the keys that led there. */
interface Place {
  readonly node: PickleNode;
  readonly path: readonly string[];
}

/**
 * Every optimizer's state dict in a checkpoint, wherever it stands (torch/optim/optimizer.py, `state_dict`):
 *
 *     {state: {0: {exp_avg: tensor, …}, …}, param_groups: [{lr: 0.1, …, params: [0, 1, …], param_names?: […]}]}
 *
 * Parameters are numbered in the order in which they were handed over; FSDP names them instead. One without a gradient
 * gets no state.
 */
export function findOptimizers(root: PickleValue, file: string): readonly Declaration[] {
  const found: Declaration[] = [];
  const seen = new Set<PickleNode>();
  const start = asContainer(root);
  const places: Place[] = start === null ? [] : [{ node: start, path: [] }];
  // The queue grows while it is gone through: what lies nearest the root comes first.
  for (const { node, path } of places) {
    const entries = entriesOf(node);
    const groups = entries?.get('param_groups');
    const state = entriesOf(entries?.get('state'));
    if (isNode(groups, 'list') && state !== null) {
      const where = path.join('.').slice(0, MAX_WHERE_LENGTH);
      found.push(new OptimizerReader(where, state, file).read(groups.items));
      if (found.length === MAX_OPTIMIZERS) return [...found, TOO_MANY];
      continue;
    }
    if (asModule(node) !== null || path.length === MAX_DEPTH) continue;
    for (const child of childrenOf(node)) {
      const below = asContainer(child.value);
      if (below === null || seen.has(below)) continue;
      if (seen.size === MAX_VISITS) return [...found, TOO_MANY];
      seen.add(below);
      places.push({ node: below, path: [...path, child.name] });
    }
  }
  return found;
}

const TOO_MANY: Declaration = {
  kind: 'unread',
  of: 'optimizer',
  where: '',
  reason: 'holds too many parts for all to be looked through for an optimizer',
};

type Entries = ReadonlyMap<PickleValue, PickleValue>;

/** Reads one optimizer; whatever is not as PyTorch writes it makes it say nothing, with the reason. */
class OptimizerReader {
  readonly #where: string;
  readonly #state: Entries;
  readonly #file: string;
  readonly #keys = new Set<PickleValue>();

  constructor(where: string, state: Entries, file: string) {
    this.#where = where;
    this.#state = state;
    this.#file = file;
  }

  read(items: readonly PickleValue[]): Declaration {
    const groups: OptimizerGroup[] = [];
    for (const item of items) {
      const entries = entriesOf(item);
      const group = entries === null ? 'has a group that is no dict' : this.#readGroup(entries);
      if (typeof group === 'string')
        return { kind: 'unread', of: 'optimizer', where: this.#where, reason: group };
      groups.push(group);
    }
    return { kind: 'optimizer', where: this.#where, groups };
  }

  /** The group, or what is wrong with it. */
  #readGroup(entries: Entries): OptimizerGroup | string {
    const keys = entries.get('params');
    if (!isNode(keys, 'list')) return 'has a group without a list of parameters';
    const names = entries.get('param_names');
    const listed = isNode(names, 'list') && names.items.length === keys.items.length ? names.items : [];
    const parameters: OptimizerParameter[] = [];
    for (const [place, key] of keys.items.entries()) {
      const isNumber = asInteger(key) !== null && Number(key) >= 0;
      if (!isNumber && typeof key !== 'string') return 'knows its parameters by neither number nor name';
      if (this.#keys.has(key)) return 'holds a parameter twice';
      if (this.#keys.size === MAX_PARAMETERS) return `holds more than ${MAX_PARAMETERS} parameters`;
      this.#keys.add(key);
      parameters.push(this.#readParameter(key, listed[place]));
    }
    return {
      parameters,
      learningRate: asNumber(entries.get('lr')),
      initialLearningRate: asNumber(entries.get('initial_lr')),
      isStateTelling: isStateTelling(entries, parameters),
    };
  }

  #readParameter(key: PickleValue, listedName: PickleValue | undefined): OptimizerParameter {
    const name = typeof key === 'string' ? key : typeof listedName === 'string' ? listedName : null;
    const kept = this.#state.get(key);
    return { name, hasState: kept !== undefined, shape: this.#readShape(entriesOf(kept)) };
  }

  /** The one shape of all that is kept, counts of steps aside: `exp_avg` and `exp_avg_sq` are as the parameter is. */
  #readShape(kept: Entries | null): readonly number[] | null {
    let shape: readonly number[] | null = null;
    for (const [key, value] of kept ?? []) {
      const call = asTensorCall(value);
      if (call === null || key === 'step') continue;
      const sizes = this.#readSizes(call);
      if (sizes === null || (shape !== null && shape.join() !== sizes.join())) return null;
      shape = sizes;
    }
    return shape;
  }

  /** A damaged tensor of an optimizer is no reason to refuse the checkpoint: nothing reads it. */
  #readSizes(call: NonNullable<ReturnType<typeof asTensorCall>>): readonly number[] | null {
    try {
      const layout = readLayout(call, 'of an optimizer', this.#file);
      return layout.kind === 'layout' ? layout.shape : null;
    } catch (error) {
      if (error instanceof CheckpointError) return null;
      throw error;
    }
  }
}

/**
 * Whether absent state means an absent gradient. L-BFGS keeps its state with the first parameter alone, Adagrad makes
 * it before the first step. SGD keeps some only with momentum; RMSprop (alpha) without it too.
 */
function isStateTelling(group: Entries, parameters: readonly OptimizerParameter[]): boolean {
  if (group.has('history_size') || group.has('initial_accumulator_value')) return false;
  return parameters.some(({ hasState }) => hasState) || group.has('alpha') || group.get('momentum') !== 0;
}

function asNumber(value: PickleValue | undefined): number | null {
  return typeof value === 'number' && Number.isFinite(value) ? value : null;
}
