/**
 * What a checkpoint says itself of how it was trained, as it was read: an optimizer, settings of a framework. Which
 * tensors that freezes is found out where the learned tensors are known. `requires_grad` and the mode of modules stand
 * with the tensors and the modules.
 */
export type Declaration = OptimizerDeclaration | PathsDeclaration | AdapterDeclaration | UnreadDeclaration;

/** The state of an optimizer: which parameters it was handed, and which of them it updated. */
export interface OptimizerDeclaration {
  readonly kind: 'optimizer';
  /** Keys from the root of the file to it, joined by dots. */
  readonly where: string;
  readonly groups: readonly OptimizerGroup[];
}

/** Parameters that an optimizer treats alike, in the order in which they were handed over. */
export interface OptimizerGroup {
  readonly parameters: readonly OptimizerParameter[];
  /** Null where it is no plain number. */
  readonly learningRate: number | null;
  /** What a schedule started from; null without a schedule. */
  readonly initialLearningRate: number | null;
  /** Whether a step leaves state for exactly those parameters that had a gradient. */
  readonly isStateTelling: boolean;
}

/** One parameter of an optimizer. */
export interface OptimizerParameter {
  /** Null where the file knows it by its number alone. */
  readonly name: string | null;
  readonly hasState: boolean;
  /** The shape of what the optimizer keeps for it, which is the parameter's own; null where that is not clear. */
  readonly shape: readonly number[] | null;
}

/** Settings that name modules. */
export interface PathsDeclaration {
  readonly kind: 'paths';
  readonly by: 'ultralytics-freeze' | 'frozen-stages' | 'norm-cfg' | 'norm-eval';
  readonly where: string;
  /** Paths of modules from the model's root; they mean everything below them. */
  readonly paths: readonly string[];
}

/** An `adapter_config.json` of PEFT: everything is frozen but what it names. */
export interface AdapterDeclaration {
  readonly kind: 'adapter';
  readonly where: string;
  /** Ends of the paths of modules that the adapter may have been merged into; null where a pattern names them. */
  readonly targets: readonly string[] | null;
  /** Ends of the paths of modules that are trained and saved as a whole. */
  readonly saved: readonly string[];
  readonly trainsBiases: boolean;
}

/** Something that could tell and was not understood. */
export interface UnreadDeclaration {
  readonly kind: 'unread';
  readonly of: 'optimizer' | 'settings';
  readonly where: string;
  /** Why, as a clause after `where`. */
  readonly reason: string;
}
