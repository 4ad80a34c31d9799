import type { CheckpointError, CheckpointErrorCode } from '../../errors.js';
import type { Tensor } from '../checkpoint.js';
import type { Scope } from './scope.js';
import type { TensorStore } from './stored-tensor.js';

/** What a name comes to when everything that leads to it is constant, or why it comes to nothing. */
export type Constant =
  | ConstantTensor
  /** One value, repeated to a shape that is known at run time only. */
  | {
      readonly kind: 'uniform';
      readonly tensor: Tensor;
      readonly source: string;
      readonly overridable: boolean;
    }
  | {
      readonly kind: 'unresolved';
      readonly reason: string;
      /** Whether the file stores it, in a type that is not decoded: strings, 4-bit integers. */
      readonly isUndecodable?: boolean | undefined;
    };

/** A constant tensor and how the file supplies it. */
export interface ConstantTensor {
  readonly kind: 'constant';
  readonly tensor: Tensor;
  readonly source: string;
  /** Whether it comes from an initializer that a caller may replace at run time. */
  readonly overridable: boolean;
}

/** What the sources and operators of constants need of the evaluator that calls them. */
export interface Evaluator {
  readonly store: TensorStore;
  /** Evaluates a name in a scope: see `ConstantEvaluator`. */
  evaluate(scope: Scope, name: string): Promise<Constant>;
  /** Notes bytes that are to be computed in memory; false where those of the whole model would become too many. */
  reserve(byteLength: number): boolean;
  /** An error about the model's file; `malformed` unless said otherwise. */
  error(message: string, code?: CheckpointErrorCode): CheckpointError;
}

/** A result that says why there is no constant. */
export function unresolved(reason: string): Extract<Constant, { readonly kind: 'unresolved' }> {
  return { kind: 'unresolved', reason };
}

/** A result for what is stored in a type that is not decoded. */
export function undecodable(reason: string): Constant {
  return { kind: 'unresolved', reason, isUndecodable: true };
}
