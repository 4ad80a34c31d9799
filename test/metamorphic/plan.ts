import fc from 'fast-check';

/** The types that a model's floats are stored in. */
export type FloatType = 'F32' | 'F16' | 'BF16' | 'F64';

/** What happens to one layer between before and after; what it means for the verdict is in truth.ts. */
export type LayerEdit =
  | 'nothing'
  | 'drift'
  | 'drift of the mean'
  | 'drift of some channels'
  | 'count'
  | 'affine'
  | 'affine and drift'
  | 'weights'
  | 'weights and drift'
  | 'everything'
  | 'reset'
  | 'NaN mean'
  | 'infinite variance'
  | 'negative variance'
  | 'removed';

/** A norm layer and what feeds it. */
export interface LayerPlan {
  readonly feeder: 'conv' | 'linear' | 'depthwise';
  readonly channels: number;
  /** Of the first layer; the others take what the one before gives. */
  readonly inputs: number;
  readonly kernel: 1 | 3;
  readonly bias: boolean;
  readonly affine: 'trained' | 'initial' | 'shift alone' | 'none' | 'partly zero';
  readonly counted: boolean;
  readonly spread: 'usual' | 'tiny' | 'huge' | 'zero';
  readonly edit: LayerEdit;
}

/** How modules are named; without an order, all but the first leave it to names and widths what feeds a norm layer. */
export const NAMINGS = ['sequential', 'flat', 'blocks', 'stages', 'suffix', 'lists'] as const;

/** What a model's names begin with. The first ones are wrappers, which are no part of a name. */
export const PREFIXES = [
  '',
  'module.',
  '_orig_mod.',
  'module._orig_mod.',
  'backbone.',
  'model.',
  'net.encoder.',
] as const;

/** Every way to write a model down. */
export const CONTAINERS = [
  'safetensors',
  'shards',
  'zip',
  'deflated zip',
  'nested zip',
  'legacy',
  'tar',
  'module',
  'TorchScript',
  'ONNX',
  'typed ONNX',
  'ONNX constants',
  'ONNX external',
  'sparse ONNX',
  'scoped ONNX',
  'dynamo folded',
  'TorchScript folded',
] as const;
export type Container = (typeof CONTAINERS)[number];

/** A model, how it is written down before and after, and what happens to it in between. */
export interface Plan {
  /** Of all values. */
  readonly seed: number;
  readonly layers: readonly LayerPlan[];
  readonly naming: (typeof NAMINGS)[number];
  readonly prefixes: readonly [before: string, after: string];
  readonly types: readonly [before: FloatType, after: FloatType];
  readonly containers: readonly [before: Container, after: Container];
  readonly epsilons: readonly [before: number, after: number];
  /** Whether statistics stay float32 in a model of 16 bits. */
  readonly hasWideStatistics: boolean;
  /** Whether the audit is told how the names of before read in after. */
  readonly isMapped: boolean;
  readonly hasHead: boolean;
  /** What after went through as a whole. */
  readonly rounding: 'none' | 'F16' | 'BF16' | 'averaged';
  readonly addsLayer: boolean;
  readonly addsBuffers: boolean;
  readonly isReordered: boolean;
}

/** The first of each choice is what faults shrink to. */
const layer: fc.Arbitrary<LayerPlan> = fc.record({
  feeder: fc.constantFrom('conv', 'conv', 'conv', 'linear', 'depthwise'),
  channels: fc.oneof(fc.integer({ min: 1, max: 8 }), fc.constantFrom(4, 16), fc.integer({ min: 1, max: 64 })),
  inputs: fc.integer({ min: 1, max: 8 }),
  kernel: fc.constantFrom(1, 3),
  bias: fc.boolean(),
  affine: fc.constantFrom('trained', 'trained', 'trained', 'initial', 'shift alone', 'none', 'partly zero'),
  counted: fc.boolean(),
  spread: fc.constantFrom('usual', 'usual', 'usual', 'tiny', 'huge', 'zero'),
  edit: fc.constantFrom(
    'nothing',
    'nothing',
    'nothing',
    'drift',
    'drift',
    'drift of the mean',
    'drift of some channels',
    'count',
    'affine',
    'affine and drift',
    'weights',
    'weights and drift',
    'everything',
    'reset',
    'NaN mean',
    'infinite variance',
    'negative variance',
    'removed',
  ),
});

const sameTwice = <T>(one: fc.Arbitrary<T>): fc.Arbitrary<readonly [T, T]> =>
  fc.oneof({ weight: 3, arbitrary: one.map((value) => [value, value] as const) }, fc.tuple(one, one));

/** Any plan. */
export const plans: fc.Arbitrary<Plan> = fc.record({
  seed: fc.noShrink(fc.nat(0x7fffffff)),
  layers: fc.array(layer, { minLength: 1, maxLength: 12 }),
  naming: fc.constantFrom(...NAMINGS),
  prefixes: sameTwice(fc.constantFrom(...PREFIXES)),
  types: sameTwice(fc.constantFrom<FloatType[]>('F32', 'F32', 'F32', 'F16', 'BF16', 'F64')),
  containers: fc.tuple(fc.constantFrom(...CONTAINERS), fc.constantFrom(...CONTAINERS)),
  epsilons: sameTwice(fc.constantFrom(1e-5, 1e-5, 1e-3, 1e-6, 1e-8)),
  hasWideStatistics: fc.boolean(),
  isMapped: fc.boolean(),
  hasHead: fc.boolean(),
  rounding: fc.constantFrom('none', 'none', 'none', 'none', 'F16', 'BF16', 'averaged'),
  addsLayer: fc.boolean(),
  addsBuffers: fc.boolean(),
  isReordered: fc.boolean(),
});
