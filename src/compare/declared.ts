// Holds what a checkpoint declares as frozen against what moved.

import { quote, UsageError } from '../errors.js';
import type { DeclaredBy, DeclaredFreeze, DeclaredLayer, DeclaredTensor } from '../norm/declared-freeze.js';
import { getOrMake, listFirst, splitPath } from '../norm/naming.js';
import { listLayerNames } from '../norm/norm-layer.js';
import type { LayerComparison } from './compare-layers.js';
import {
  isUnchanged,
  type LearnedComparison,
  type LearnedComparisons,
  listTensorNames,
} from './compare-learned.js';
import { allowNamed, type Finding, type FindingPolicy, makeFinding } from './findings.js';

/** The findings about learned tensors that `--frozen` says must not change, and that did. */
export function findChangedFrozenWeights(
  { compared }: LearnedComparisons,
  policy: FindingPolicy,
): readonly Finding[] {
  return compared
    .filter((tensor) => tensor.equality === 'changed' && policy.isFrozen(listTensorNames(tensor)))
    .map(({ name, reshaped }) => {
      const [module, leaf] = splitPath(name);
      const sizes =
        reshaped === undefined
          ? ''
          : ` from the shape [${reshaped.before.join(', ')}] to [${reshaped.after.join(', ')}]`;
      return makeFinding(
        'frozen-weights-changed',
        module,
        `its learned tensor ${quote(leaf)} changed${sizes}, although --frozen says that it must not`,
      );
    });
}

/** The value of `frozen` that asserts what the file declares, instead of a glob. */
const FROZEN_AUTO = 'auto';

/** What the checkpoints declare of the freeze: one side's word. */
export interface Declared extends DeclaredFreeze {
  readonly side: 'before' | 'after';
  /** Learned tensors of that side. */
  readonly learned: number;
}

type Side = { readonly declared: DeclaredFreeze; readonly learned: ReadonlyMap<string, unknown> };

/**
 * Whose word counts: after's, which tells how it was trained; before's where after has none. What before says may be
 * meant for this training (a model that was frozen, saved, then trained) or tell of an earlier one.
 */
export function chooseDeclared(before: Side, after: Side): Declared {
  const [side, { declared, learned }] =
    !saysAnything(after.declared) && saysAnything(before.declared)
      ? (['before', before] as const)
      : (['after', after] as const);
  return { ...declared, side, learned: learned.size };
}

function saysAnything({ tensors, layers }: DeclaredFreeze): boolean {
  return tensors.size > 0 || [...layers.values()].some(({ evalBy }) => evalBy !== null);
}

function declarationOf(
  { beforeName, afterName }: Pick<LearnedComparison, 'beforeName' | 'afterName'>,
  { side, tensors }: Declared,
): DeclaredTensor | null {
  return tensors.get(side === 'after' ? afterName : beforeName) ?? null;
}

/** What is declared of a norm layer. */
export function layerDeclarationOf(
  layer: Pick<LayerComparison, 'before' | 'after'>,
  { side, layers }: Declared,
): DeclaredLayer {
  return layers.get(layer[side].name) ?? { affine: null, evalBy: null };
}

/** The mode in which a module of after was saved: true in training; null where the file does not tell. */
export function trainingModeOf({ after }: Pick<LayerComparison, 'after'>): boolean | null {
  const { mode, isFromGraph } = after;
  return isFromGraph || mode === 'unknown' ? null : mode === 'batch';
}

function isDeclaredFrozen({ affine, evalBy }: DeclaredLayer): boolean {
  return affine?.frozen === true || evalBy !== null;
}

/** What `frozen` asks for: globs, and whether what the file declares is asserted. A module `auto` is `auto.**`. */
export function readFrozen(frozen: readonly string[] = []): {
  readonly globs: readonly string[];
  readonly isAuto: boolean;
} {
  const globs = frozen.filter((glob) => glob !== FROZEN_AUTO);
  return { globs, isAuto: globs.length < frozen.length };
}

/** With `--frozen auto`, layers whose statistics the file declares to stand still must be frozen as well. */
export function insistOnDeclared(
  policy: FindingPolicy,
  layers: readonly LayerComparison[],
  declared: Declared,
): FindingPolicy {
  const frozen = layers.filter((layer) => isDeclaredFrozen(layerDeclarationOf(layer, declared)));
  const known = new Set(frozen.flatMap(listLayerNames));
  return { ...policy, isFrozen: (names) => names.some((name) => known.has(name)) || policy.isFrozen(names) };
}

/**
 * Makes sure that `--frozen auto` means something: a file that declares nothing frozen would be a silent pass.
 *
 * @throws UsageError that says what the file has instead.
 */
export function refuseIdleAuto({ tensors, layers, unclear, mute }: Declared): void {
  const isAnyFrozen =
    [...tensors.values()].some(({ frozen }) => frozen) || [...layers.values()].some(isDeclaredFrozen);
  if (isAnyFrozen) return;
  const [reason] = [...unclear, ...mute];
  const why = reason === undefined ? '' : `: ${reason}`;
  throw new UsageError(
    `--frozen auto asserts what after declares frozen, and it declares nothing${why}`,
    'Name the modules that must be frozen, such as --frozen backbone, or audit the checkpoint that holds the optimizer.',
  );
}

/** The findings about learned tensors that the file itself calls frozen, and that changed; one for each module. */
export function findDeclaredChanges(
  { compared }: LearnedComparisons,
  declared: Declared,
  { isFrozen, isAuto, ...policy }: FindingPolicy & { readonly isAuto: boolean },
): readonly Finding[] {
  // What before says of an earlier training is no contradiction.
  if (declared.side === 'before' && !isAuto) return [];
  const modules = new Map<string, { leaves: string[]; names: readonly string[]; fact: DeclaredTensor }>();
  for (const comparison of compared) {
    const fact = declarationOf(comparison, declared);
    const names = listTensorNames(comparison);
    if (comparison.equality !== 'changed' || fact?.frozen !== true || isFrozen(names)) continue;
    const [module, leaf] = splitPath(comparison.name);
    getOrMake(modules, module, () => ({ leaves: [], names, fact })).leaves.push(leaf);
  }
  return [...modules].map(([module, { leaves, names, fact }]) => {
    const message = `its ${listFirst(leaves.map(quote), MAX_NAMED_LEAVES)} changed, although ${declared.side} declares it frozen (${wordOf(fact)})`;
    const finding = makeFinding('declared-frozen-changed', module, message, isAuto ? 'error' : 'warning');
    return allowNamed(finding, names, policy);
  });
}

/** At most so many tensors of one module are named; the rest is counted. */
const MAX_NAMED_LEAVES = 4;

/** What declares that something is frozen or trained, for people. */
const DECLARED_WORDS: Readonly<Record<DeclaredBy, string>> = {
  'lr-0': 'learning rate 0',
  'not-in-optimizer': 'left out of the optimizer',
  'no-optimizer-state': 'no optimizer state',
  'optimizer-state': 'optimizer state',
  'requires-grad': 'requires_grad=False',
  'frozen-stages': 'frozen_stages',
  'norm-cfg': 'norm_cfg',
  'ultralytics-freeze': 'train_args.freeze',
  'keras-trainable': 'trainable=False',
  'darknet-stopbackward': 'stopbackward=1',
  'peft-adapter': 'adapter_config.json',
};

function wordOf({ by, frozen }: DeclaredTensor): string {
  return by === 'requires-grad' && !frozen ? 'requires_grad=True' : DECLARED_WORDS[by];
}

/** So many tensors that were trained, it is said, and did not move, are worth a word, and no fewer than half. */
const MANY_TENSORS = 4;

/** What the side's word comes to, in a sentence or two; empty where it says nothing of a freeze. */
export function describeDeclared(
  declared: Declared,
  layers: readonly LayerComparison[],
  { compared }: LearnedComparisons,
): readonly string[] {
  const { side, unclear } = declared;
  return [
    ...describeFrozen(declared, layers),
    ...unclear.map((reason) => `${side}: ${reason}`),
    ...(side === 'after' ? describeIdleTraining(declared, compared) : []),
  ];
}

function describeFrozen(declared: Declared, layers: readonly LayerComparison[]): readonly string[] {
  const { side, tensors, learned } = declared;
  const counts = new Map<DeclaredBy, number>();
  for (const { frozen, by } of tensors.values()) if (frozen) counts.set(by, (counts.get(by) ?? 0) + 1);
  const total = [...counts.values()].reduce((sum, count) => sum + count, 0);
  const words = [...counts].map(([by, count]) =>
    counts.size === 1 ? DECLARED_WORDS[by] : `${count} ${DECLARED_WORDS[by]}`,
  );
  const source = side === 'before' ? ' by before alone' : '';
  const evals = layers.filter((layer) => layerDeclarationOf(layer, declared).evalBy !== null).length;
  const clauses = [
    ...(total === 0
      ? []
      : [`declared frozen${source}: ${total} of ${learned} parameters (${words.join(', ')})`]),
    ...(evals === 0 ? [] : [`settings keep ${evals} of ${layers.length} norm layers in eval()`]),
    ...describeModes(layers, total > 0),
  ];
  return clauses.length === 0 ? [] : [clauses.join('; ')];
}

/** Evaluation mode is how most modules are saved: it says something beside a freeze only. */
function describeModes(layers: readonly LayerComparison[], isFreezeKnown: boolean): readonly string[] {
  const modes = layers.flatMap((layer) => trainingModeOf(layer) ?? []);
  const training = modes.filter((mode) => mode).length;
  if (modes.length === 0 || (training === 0 && !isFreezeKnown)) return [];
  if (training === 0) return ['the norm layers were saved in evaluation mode'];
  if (training === modes.length) return ['the norm layers were saved in training mode'];
  return [`${training} of ${modes.length} norm layers were saved in training mode`];
}

function describeIdleTraining(declared: Declared, compared: readonly LearnedComparison[]): readonly string[] {
  const trained = compared.filter((comparison) => declarationOf(comparison, declared)?.frozen === false);
  const idle = trained.filter(isUnchanged);
  const [first] = idle;
  const fact = first === undefined ? null : declarationOf(first, declared);
  if (fact === null || idle.length < MANY_TENSORS || 2 * idle.length < trained.length) return [];
  return [
    `${idle.length} of ${trained.length} tensors that after declares trained (${wordOf(fact)}) did not change: were they frozen by other means, or not trained since before?`,
  ];
}
