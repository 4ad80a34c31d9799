import type { Tensor } from '../checkpoint.js';
import { type Constant, type ConstantTensor, type Evaluator, unresolved } from './constant.js';
import { describeSite, type Site } from './scope.js';

/** A constant that has values. */
export type Resolved = Exclude<Constant, { kind: 'unresolved' }>;

/** Computes a node's output from its first input; other inputs are evaluated on the way. */
export type Operator = (evaluator: Evaluator, site: Site, input: Resolved) => Promise<Constant>;

/** The result of a node whose output is not followed here. */
export function computedAtRunTime(site: Site, because = ''): Constant {
  return unresolved(`${describeSite(site)} computes it at run time${because}`);
}

/** The constant with another tensor in its place. */
export function replaceTensor(input: Resolved, tensor: Tensor): Constant {
  return { ...input, tensor };
}

/** The constant with another shape of as many elements. */
export function replaceShape(input: ConstantTensor, shape: readonly number[]): Constant {
  return replaceTensor(input, { ...input.tensor, shape });
}
