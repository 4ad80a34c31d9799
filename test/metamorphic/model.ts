import { decodeFloats, encodeFloats } from '../../src/checkpoint/dtype.js';
import { average, makeNormal, makeRandom } from '../build/weights.js';
import type { Container, FloatType, LayerPlan, Plan } from './plan.js';

/** A weight of two dimensions or more, output channels first, and its bias. */
export interface Linear {
  readonly path: string;
  readonly shape: readonly number[];
  readonly weight: Float64Array;
  readonly bias: Float64Array | null;
}

/** A norm layer and what feeds it. Every float is one that the model's type holds. */
export interface Layer {
  readonly path: string;
  readonly feeder: Linear & { readonly kind: LayerPlan['feeder'] };
  readonly channels: number;
  readonly gamma: Float64Array | null;
  readonly beta: Float64Array | null;
  readonly mean: Float64Array;
  readonly variance: Float64Array;
  readonly count: bigint | null;
}

/** A model as it was trained, apart from any file. */
export interface Model {
  readonly layers: readonly Layer[];
  readonly head: Linear | null;
  readonly hasBuffers: boolean;
  readonly isReordered: boolean;
  /** Before all names. */
  readonly prefix: string;
  readonly type: FloatType;
  /** That of means and variances. */
  readonly statisticsType: FloatType;
  readonly epsilon: number;
}

/** Whether a container folds norm layers into what feeds them; TorchScript's exporter folds into convolutions alone. */
export function isFoldedIn(container: Container, kind: LayerPlan['feeder']): boolean {
  return container === 'dynamo folded' || (container === 'TorchScript folded' && kind !== 'linear');
}

/** Whether a container is a graph, which says which layer feeds which and tells epsilon; the others hold names. */
export function isGraph(container: Container): boolean {
  return /ONNX|folded/.test(container);
}

/** Whether a container tells the epsilon of its norm layers: nodes and pickled modules do. */
export function tellsEpsilon(container: Container): boolean {
  return container === 'module' || container.includes('ONNX');
}

/** A plan without what it cannot have at once, whose layers take what those before them give. */
export function settle(plan: Plan): Plan {
  const isFolded = plan.containers.some((container) => container.endsWith('folded'));
  const types: Plan['types'] = isFolded ? ['F32', 'F32'] : plan.types;
  const layers: LayerPlan[] = [];
  for (const [index, each] of plan.layers.entries()) {
    const inputs = layers.at(-1)?.channels ?? each.inputs;
    layers.push({
      ...each,
      inputs,
      channels: each.feeder === 'depthwise' ? inputs : each.channels,
      // What a folded file lacks is not known to have been there. One layer must be left to pair by.
      edit: each.edit === 'removed' && (isFolded || index === 0) ? 'nothing' : each.edit,
    });
  }
  return {
    ...plan,
    layers,
    types,
    // Nothing in a folded file tells its epsilon.
    epsilons: isFolded ? [plan.epsilons[0], plan.epsilons[0]] : plan.epsilons,
    rounding: settleRounding({ ...plan, layers, types }, isFolded),
  };
}

/** So many weights that stayed leave no doubt of what they went through. */
const TELLING_SIZE = 576;

function settleRounding({ rounding, types, layers }: Plan, isFolded: boolean): Plan['rounding'] {
  const isWide = types[0] === types[1] && (types[0] === 'F32' || types[0] === 'F64');
  const isTold = layers.some(
    (each) => /^(?:nothing|drift|count)$/.test(each.edit) && sizeOf(shapeOf(each)) >= TELLING_SIZE,
  );
  if (isFolded || !isTold) return 'none';
  // In 16 bits themselves, too.
  if (rounding === 'averaged') return types[0] === types[1] && types[0] !== 'F64' ? rounding : 'none';
  return isWide ? rounding : 'none';
}

function shapeOf({ feeder, channels, inputs, kernel }: LayerPlan): readonly number[] {
  if (feeder === 'linear') return [channels, inputs];
  return [channels, feeder === 'depthwise' ? 1 : inputs, kernel, kernel];
}

/** How many values a shape holds. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

type Traits = Pick<Model, 'type' | 'statisticsType' | 'prefix' | 'epsilon'>;

/** Both models of a settled plan. */
export function makeModels(plan: Plan): { readonly before: Model; readonly after: Model } {
  const [traitsBefore, traitsAfter] = plan.types.map((type, side) => ({
    type,
    statisticsType: plan.hasWideStatistics && type !== 'F64' ? ('F32' as const) : type,
    prefix: plan.prefixes[side] ?? '',
    epsilon: plan.epsilons[side] ?? 0,
  })) as [Traits, Traits];
  const before = mapFloats(
    {
      ...traitsBefore,
      layers: plan.layers.map((each, index) => drawLayer(plan, each, index)),
      head: plan.hasHead ? drawHead(plan) : null,
      hasBuffers: false,
      isReordered: false,
    },
    store,
  );
  const edited = before.layers.flatMap((layer, index) => {
    const { edit } = plan.layers[index] as LayerPlan;
    return edit === 'removed' ? [] : [editLayer(layer, edit, drawer(plan.seed, index, 1))];
  });
  const after: Model = {
    ...traitsAfter,
    layers: plan.addsLayer ? [...edited, drawLayer(plan, ADDED_LAYER, plan.layers.length)] : edited,
    head: before.head === null ? null : trainLinear(before.head, drawer(plan.seed, -1, 1)),
    hasBuffers: plan.addsBuffers,
    isReordered: plan.isReordered,
  };
  return {
    before,
    after: mapFloats(after, (values, type) => store(round(values, type, plan.rounding), type)),
  };
}

const ADDED_LAYER: LayerPlan = {
  feeder: 'conv',
  channels: 5,
  inputs: 3,
  kernel: 3,
  bias: false,
  affine: 'trained',
  counted: true,
  spread: 'usual',
  edit: 'nothing',
};

/** What values are when they come back from a file. */
export function store(values: Float64Array, type: FloatType): Float64Array {
  return decodeFloats(encodeFloats(values, type), type);
}

function round(values: Float64Array, type: FloatType, rounding: Plan['rounding']): Float64Array {
  if (rounding === 'none') return values;
  if (rounding !== 'averaged') return store(values, rounding);
  if (type !== 'F32') return meanIn(type, values);
  return Float64Array.from(
    average(Float32Array.from(values), { decay: 0.999, steps: 50, form: 'scale and add' }),
  );
}

/** A mean of seven equal models, each step of it rounded to a type. */
function meanIn(type: FloatType, values: Float64Array): Float64Array {
  const share = store(Float64Array.of(1 / 7), type)[0] as number;
  const shares = store(
    values.map((value) => value * share),
    type,
  );
  let sum = shares;
  for (let i = 1; i < 7; i++)
    sum = store(
      sum.map((value, at) => value + (shares[at] as number)),
      type,
    );
  return sum;
}

/** A model with all of its floats put through a function of their type. */
function mapFloats(model: Model, change: (values: Float64Array, type: FloatType) => Float64Array): Model {
  const { type, statisticsType } = model;
  const maybe = (values: Float64Array | null) => (values === null ? null : change(values, type));
  const toLinear = <T extends Linear>(linear: T): T => ({
    ...linear,
    weight: change(linear.weight, type),
    bias: maybe(linear.bias),
  });
  return {
    ...model,
    head: model.head === null ? null : toLinear(model.head),
    layers: model.layers.map((layer) => ({
      ...layer,
      feeder: toLinear(layer.feeder),
      gamma: maybe(layer.gamma),
      beta: maybe(layer.beta),
      mean: change(layer.mean, statisticsType),
      variance: change(layer.variance, statisticsType),
    })),
  };
}

type Draw = ReturnType<typeof drawer>;

/** Random numbers of one layer: those of another one do not depend on it, so that faults shrink. */
function drawer(seed: number, layer: number, stage: number) {
  const random = makeRandom(seed ^ Math.imul(layer + 2, 0x9e3779b1) ^ Math.imul(stage, 0x85ebca6b));
  return { random, normal: makeNormal(random) };
}

function drawLayer(
  { seed, naming, types, rounding }: Plan,
  { feeder, affine, channels, spread, counted, ...plan }: LayerPlan,
  index: number,
): Layer {
  const { random, normal } = drawer(seed, index, 0);
  const shape = shapeOf({ feeder, affine, channels, spread, counted, ...plan });
  const draw = (length: number, next: () => number) => Float64Array.from({ length }, next);
  const narrow = types.includes('F16') || rounding === 'F16';
  const scale = { usual: 1, tiny: narrow ? 1e-3 : 1e-11, huge: narrow ? 100 : 1e12, zero: 1 }[spread];
  const variance = draw(channels, () => scale * Math.exp(normal()));
  if (spread === 'zero') for (let i = 0; i < channels; i += 2) variance[i] = 0;
  const isInitial = affine === 'initial';
  const gamma = draw(channels, () => (random() < 0.1 ? -1 : 1) * (0.5 + random()));
  if (affine === 'partly zero') for (let i = 0; i < channels; i += 2) gamma[i] = 0;
  const [path, feederPath] = namePaths(naming, index);
  return {
    path,
    feeder: {
      kind: feeder,
      path: feederPath,
      shape,
      weight: draw(sizeOf(shape), () => 0.2 * normal()),
      bias: plan.bias ? draw(channels, () => 0.2 * normal()) : null,
    },
    channels,
    gamma: affine === 'none' ? null : isInitial || affine === 'shift alone' ? draw(channels, () => 1) : gamma,
    beta: affine === 'none' ? null : draw(channels, () => (isInitial ? 0 : 0.3 * normal())),
    mean: variance.map((value) => normal() * Math.sqrt(value)),
    variance,
    count: counted ? BigInt(Math.floor(1000 * random())) : null,
  };
}

function drawHead({ seed }: Plan): Linear {
  const { normal } = drawer(seed, -1, 0);
  return {
    path: 'head',
    shape: [10, 7],
    weight: Float64Array.from({ length: 70 }, () => 0.2 * normal()),
    bias: Float64Array.from({ length: 10 }, () => 0.2 * normal()),
  };
}

function namePaths(naming: Plan['naming'], index: number): readonly [norm: string, feeder: string] {
  switch (naming) {
    case 'sequential':
      return [`features.${3 * index + 1}`, `features.${3 * index}`];
    case 'flat':
      return [`bn${index + 1}`, `conv${index + 1}`];
    case 'blocks':
      return [`layers.${index}.norm`, `layers.${index}.conv`];
    case 'stages': {
      const block = `stage${1 + Math.floor(index / 4)}.${Math.floor(index / 2) % 2}`;
      return [`${block}.bn${1 + (index % 2)}`, `${block}.conv${1 + (index % 2)}`];
    }
    case 'suffix':
      return [`conv${index + 1}_bn`, `conv${index + 1}`];
    case 'lists':
      return [`bns.${index}`, `convs.${index}`];
  }
}

function editLayer(layer: Layer, edit: LayerPlan['edit'], draw: Draw): Layer {
  switch (edit) {
    case 'nothing':
    case 'removed':
      return layer;
    case 'count':
      return countBatches(layer, draw);
    case 'drift':
      return drift(layer, draw, () => true);
    case 'drift of some channels':
      return drift(layer, draw, (channel) => channel % 3 === 0);
    case 'drift of the mean':
      return { ...drift(layer, draw, () => true), variance: layer.variance };
    case 'affine':
      return trainAffine(layer, draw);
    case 'affine and drift':
      return drift(trainAffine(layer, draw), draw, () => true);
    case 'weights':
      return { ...layer, feeder: trainLinear(layer.feeder, draw) };
    case 'weights and drift':
      return drift({ ...layer, feeder: trainLinear(layer.feeder, draw) }, draw, () => true);
    case 'everything':
      return drift(
        trainAffine({ ...layer, feeder: trainLinear(layer.feeder, draw) }, draw),
        draw,
        () => true,
      );
    case 'reset':
      return { ...layer, mean: layer.mean.map(() => 0), variance: layer.variance.map(() => 1) };
    case 'NaN mean':
      return { ...layer, mean: putFirst(layer.mean, Number.NaN) };
    case 'infinite variance':
      return { ...layer, variance: putFirst(layer.variance, Number.POSITIVE_INFINITY) };
    case 'negative variance':
      return { ...layer, variance: putFirst(layer.variance, -0.5) };
  }
}

function putFirst(values: Float64Array, value: number): Float64Array {
  return values.map((old, index) => (index === 0 ? value : old));
}

function countBatches(layer: Layer, { random }: Draw): Layer {
  return layer.count === null
    ? layer
    : { ...layer, count: layer.count + BigInt(1 + Math.floor(50 * random())) };
}

/** Training-mode batches: each moves the statistics by a tenth of the way to its own, x̂ ← 0.9·x̂ + 0.1·x. */
function drift(layer: Layer, draw: Draw, doesMove: (channel: number) => boolean): Layer {
  const { random, normal } = draw;
  const [mean, variance] = [layer.mean.slice(), layer.variance.slice()];
  const steps = 1 + Math.floor(20 * random());
  for (let channel = 0; channel < layer.channels; channel++) {
    const [center, spread] = [mean[channel] as number, variance[channel] as number];
    const target = center + normal() * Math.sqrt(spread);
    const widening = Math.exp(normal());
    if (!doesMove(channel)) continue;
    for (let step = 0; step < steps; step++) {
      mean[channel] = 0.9 * (mean[channel] as number) + 0.1 * (target + 0.1 * normal() * Math.sqrt(spread));
      variance[channel] =
        0.9 * (variance[channel] as number) + 0.1 * spread * widening * (1 + 0.1 * random());
    }
  }
  const count = layer.count === null ? null : layer.count + BigInt(steps);
  return { ...layer, mean, variance, count };
}

/** Steps of an optimizer: large beside rounding, and not in proportion to what they change. */
function train(values: Float64Array, { normal }: Draw): Float64Array {
  return values.map((value) => value + 0.05 * (Math.abs(value) + 0.1) * normal());
}

function trainLinear<T extends Linear>(linear: T, draw: Draw): T {
  return {
    ...linear,
    weight: train(linear.weight, draw),
    bias: linear.bias === null ? null : train(linear.bias, draw),
  };
}

function trainAffine(layer: Layer, draw: Draw): Layer {
  const { gamma, beta } = layer;
  return {
    ...layer,
    gamma: gamma === null ? null : train(gamma, draw),
    beta: beta === null ? null : train(beta, draw),
  };
}
