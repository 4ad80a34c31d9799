// What a finding is, and one row for each kind: a forgotten kind does not compile.
import type { NameMatcher } from './globs.js';

/** How much a finding weighs. Only errors make a verdict "drifted". */
export type FindingLevel = 'error' | 'warning' | 'note';

/** What is known of a kind of finding. */
interface FindingRow {
  /** A headline: what reports put over a list of findings. */
  readonly title: string;
  /** The level that findings have unless whoever makes them says otherwise. */
  readonly level: FindingLevel;
  /** Whether `--allow` and `--min-shift` may excuse it: what is about drift, not about an unreadable layer. */
  readonly isAllowable?: boolean;
  /** `drift` leads a report; of `movement` with what a layer should have moved with, accepted ones are told as drift is. */
  readonly says?: 'drift' | 'movement';
}

/** In the order of the table in docs/findings. */
const ROWS = {
  'frozen-stats-drift': {
    title: 'Statistics of a frozen layer drifted',
    level: 'error',
    isAllowable: true,
    says: 'drift',
  },
  'invalid-stats': { title: 'Statistics are NaN, infinite or negative', level: 'error' },
  'stats-reset': {
    title: 'Statistics were reset to their initial values',
    level: 'error',
    isAllowable: true,
    says: 'movement',
  },
  'training-mode-graph': { title: 'The graph normalises by batch statistics', level: 'error' },
  'unresolved-stats': { title: 'Statistics cannot be read from the file', level: 'error' },
  'folded-scale-drift': {
    title: 'A frozen convolution was rescaled per channel by folding',
    level: 'error',
    isAllowable: true,
    says: 'drift',
  },
  'folded-bias-drift': {
    title: 'Only the bias that folding writes moved',
    level: 'error',
    isAllowable: true,
    says: 'drift',
  },
  'affine-frozen-drift': {
    title: 'Affine frozen, statistics moved with what feeds the layer',
    level: 'warning',
    isAllowable: true,
    says: 'movement',
  },
  'trained-norm-in-frozen': {
    title: 'The norm layer was trained, what feeds it was frozen',
    level: 'warning',
    isAllowable: true,
  },
  'batch-stats-while-frozen': {
    title: 'The layer ran in training mode though its statistics stood still',
    level: 'warning',
    isAllowable: true,
  },
  'unpaired-layer': { title: 'The layer has no counterpart', level: 'warning', isAllowable: true },
  'stats-removed': { title: 'The layer has lost its running statistics', level: 'error', isAllowable: true },
  'epsilon-changed': {
    title: 'The layer normalises with another epsilon',
    level: 'error',
    isAllowable: true,
  },
  'frozen-weights-changed': { title: 'A tensor that must be frozen changed', level: 'error' },
  'declared-frozen-changed': { title: 'The file calls tensors frozen that changed', level: 'warning' },
  'initial-stats': { title: 'Statistics were never updated', level: 'note' },
} as const satisfies Readonly<Record<string, FindingRow>>;

/** Every kind of finding. Stable: policies and reports refer to it. */
export type FindingKind = keyof typeof ROWS;

const FINDINGS: Readonly<Record<FindingKind, FindingRow>> = ROWS;

/** Every kind of finding, in the order of the table in docs/findings. */
export const FINDING_KINDS = Object.keys(ROWS) as readonly FindingKind[];

/** The headline of a kind of finding. */
export function titleOf(kind: FindingKind): string {
  return FINDINGS[kind].title;
}

/** One thing that an audit or an inspection found. */
export interface Finding {
  readonly kind: FindingKind;
  readonly level: FindingLevel;
  /** The norm layer, or the module of the learned tensor, that it is about. */
  readonly layer: string;
  /** One sentence for people. May hold names from the file: renderers escape it. */
  readonly message: string;
  /** The page that explains the kind, as a path within the package. */
  readonly docs: string;
}

/** Makes a finding with its kind's level and docs page. */
export function makeFinding(
  kind: FindingKind,
  layer: string,
  message: string,
  level: FindingLevel = FINDINGS[kind].level,
): Finding {
  return { kind, level, layer, message, docs: `docs/findings/${kind}.md` };
}

/** Whether a finding is drift that stands. */
export function isLeadingDrift({ kind, level }: Finding): boolean {
  return level === 'error' && FINDINGS[kind].says === 'drift';
}

/** Whether a finding is drift, or a layer that moved with what it should not have, that the user's policy accepts. */
export function isExcusedDrift({ kind, level }: Finding): boolean {
  return level === 'note' && FINDINGS[kind].says !== undefined;
}

/** What a user accepts or insists on. */
export interface FindingPolicy {
  /** Layers whose drift is accepted. */
  readonly isAllowed: NameMatcher;
  /** Modules that must be frozen, statistics and learned tensors. */
  readonly isFrozen: NameMatcher;
  /** Drift whose outputShift is below is ignored. */
  readonly minShift: number;
}

/** Whether the user's policy may excuse a finding. */
export function isAllowable({ kind }: Finding): boolean {
  return FINDINGS[kind].isAllowable === true;
}
