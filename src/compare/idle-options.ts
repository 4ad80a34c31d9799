import type { Tensor } from '../checkpoint/checkpoint.js';
import { quote, UsageError } from '../errors.js';
import type { NormLayer } from '../norm/norm-layer.js';
import type { LayerComparison } from './compare-layers.js';
import type { LearnedComparisons } from './compare-learned.js';
import type { FindingPolicy } from './findings.js';
import type { PathMatcher } from './globs.js';
import { type PrefixEdit, translateName } from './pair-layers.js';

/** What an audit is told about module paths. */
interface PathOptions {
  readonly frozen?: readonly string[] | undefined;
  readonly allow?: readonly string[] | undefined;
  readonly minShift?: number | undefined;
}

/** What the findings are judged by. */
export async function makeFindingPolicy({ frozen, allow, minShift }: PathOptions): Promise<FindingPolicy> {
  const [isAllowed, isFrozen] = [await makeMatcher(allow ?? []), await makeMatcher(frozen ?? [])];
  return { isAllowed, isFrozen, minShift: minShift ?? 0 };
}

/** Globs are loaded where there are any: most audits have none, and start the quicker for it. */
async function makeMatcher(globs: readonly string[]): Promise<PathMatcher> {
  if (globs.length === 0) return () => false;
  const { matchPaths } = await import('./globs.js');
  return matchPaths(globs);
}

/**
 * Makes sure that each glob of `frozen` means something: one that does not would be a silent pass.
 *
 * @throws UsageError naming the glob.
 */
export async function refuseIdleFrozen(
  globs: readonly string[],
  layers: readonly LayerComparison[],
  { compared }: LearnedComparisons,
): Promise<void> {
  for (const glob of globs) {
    const isMatch = await makeMatcher([glob]);
    if (layers.some(({ before }) => isMatch(before.name)) || compared.some(({ name }) => isMatch(name)))
      continue;
    throw new UsageError(
      `--frozen ${quote(glob)} matches no norm layer and no learned tensor of both checkpoints`,
      'Globs match module paths with "." as the separator: backbone, backbone.layer1, **.bn1',
    );
  }
}

/** A glob of `allow` that excuses nothing here; in a policy for several checkpoints that is no error. */
export async function findIdleAllows(
  globs: readonly string[],
  layers: readonly (NormLayer | LayerComparison)[],
): Promise<readonly string[]> {
  const names = layers.map((layer) => ('name' in layer ? layer.name : layer.before.name));
  const idle: string[] = [];
  for (const glob of globs) {
    const isMatch = await makeMatcher([glob]);
    if (!names.some(isMatch)) idle.push(`--allow ${quote(glob)} matches no norm layer`);
  }
  return idle;
}

/** One side's names. */
interface NamedSide {
  readonly layers: readonly NormLayer[];
  readonly learned: ReadonlyMap<string, Tensor>;
}

/** Edits of names by which nothing was paired. */
export function findIdleMaps(
  maps: readonly PrefixEdit[],
  before: NamedSide,
  after: NamedSide,
): readonly string[] {
  const namesOf = ({ layers, learned }: NamedSide) => [...layers.map(({ name }) => name), ...learned.keys()];
  const names = new Set(namesOf(after));
  const leads = (map: PrefixEdit) =>
    namesOf(before).some((name) => translateName(name, [map], (to) => names.has(to)) !== null);
  return maps
    .filter((map) => !leads(map))
    .map(
      ({ from, to }) =>
        `--map ${quote(`${from}=${to}`)} leads from no name of before to one of after: nothing was paired by it`,
    );
}
