import type { Tensor } from '../checkpoint/checkpoint.js';
import { quote, UsageError } from '../errors.js';
import { modulePathOf, type NameSource } from '../norm/dotted-names.js';
import type { NormLayer } from '../norm/norm-layer.js';
import type { FindingPolicy } from './finding.js';
import { matchNames } from './globs.js';
import { type PrefixEdit, translateName } from './pair-layers.js';

/** What an audit is told about module paths. */
interface PathOptions {
  readonly frozen?: readonly string[] | undefined;
  readonly allow?: readonly string[] | undefined;
  readonly minShift?: number | undefined;
}

/** All names of some layers or tensors: a list for each. */
type Names = readonly (readonly string[])[];

/**
 * What the findings are judged by.
 *
 * @param all what globs may mean.
 */
export function makeFindingPolicy({ frozen, allow, minShift }: PathOptions, all: Names): FindingPolicy {
  return {
    isAllowed: matchNames(allow ?? [], all),
    isFrozen: matchNames(frozen ?? [], all),
    minShift: minShift ?? 0,
  };
}

/**
 * Makes sure that each glob of `frozen` means something: one that does not would be a silent pass.
 *
 * @param names of the norm layers and learned tensors of both checkpoints.
 * @throws UsageError naming the glob.
 */
export function refuseIdleFrozen(globs: readonly string[], names: Names): void {
  for (const glob of globs) {
    if (names.some(matchNames([glob], names))) continue;
    throw new UsageError(
      `--frozen ${quote(glob)} matches no norm layer and no learned tensor of both checkpoints`,
      'Globs match module paths with "." as the separator: backbone, backbone.layer1, **.bn1',
    );
  }
}

/**
 * A glob of `allow` that excuses nothing here; in a policy for several checkpoints that is no error.
 *
 * @param names of the norm layers of either checkpoint.
 */
export function findIdleAllows(globs: readonly string[], names: Names): readonly string[] {
  return globs
    .filter((glob) => !names.some(matchNames([glob], names)))
    .map((glob) => `--allow ${quote(glob)} matches no norm layer`);
}

/** One side's names. */
interface NamedSide {
  readonly layers: readonly NormLayer[];
  readonly learned: ReadonlyMap<string, Tensor>;
}

/**
 * How edits read in names without wrappers, which is what they are applied to: users copy names from their files.
 */
export function readMaps(
  maps: readonly PrefixEdit[],
  before: NameSource,
  after: NameSource,
): readonly PrefixEdit[] {
  return maps.map(({ from, to }) => ({ from: modulePathOf(from, before), to: modulePathOf(to, after) }));
}

/**
 * Edits of names by which nothing was paired.
 *
 * @param read the edits as {@link readMaps} gives them.
 */
export function findIdleMaps(
  maps: readonly PrefixEdit[],
  read: readonly PrefixEdit[],
  { before, after }: { readonly before: NamedSide; readonly after: NamedSide },
): readonly string[] {
  const namesOf = ({ layers, learned }: NamedSide) => [...layers.map(({ name }) => name), ...learned.keys()];
  const names = new Set(namesOf(after));
  const leads = (map: PrefixEdit) =>
    namesOf(before).some((name) => translateName(name, [map], (to) => names.has(to)) !== null);
  return maps
    .filter((_, index) => !read.slice(index, index + 1).some(leads))
    .map(
      ({ from, to }) =>
        `--map ${quote(`${from}=${to}`)} leads from no name of before to one of after: nothing was paired by it`,
    );
}
