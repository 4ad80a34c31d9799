import type { Finding, FindingKind, FindingLevel } from '../compare/finding.js';

/** Rank of a level: what weighs more comes first. */
export const LEVEL_RANKS: Readonly<Record<FindingLevel, number>> = { error: 0, warning: 1, note: 2 };

/** Findings that a report says together; never empty. */
export type FindingGroup = readonly [Finding, ...Finding[]];

/** Findings by kind and level, errors first, else in the order in which each sort first occurs. */
export function groupFindings(findings: readonly Finding[]): readonly FindingGroup[] {
  return groupFindingsBy(findings, ({ level, kind }) => `${level} ${kind}`).sort(
    ([x], [y]) => LEVEL_RANKS[x.level] - LEVEL_RANKS[y.level],
  );
}

/** Findings with the same key, groups in the order in which each key first occurs. */
export function groupFindingsBy(
  findings: readonly Finding[],
  keyOf: (finding: Finding) => string,
): FindingGroup[] {
  const groups = new Map<string, [Finding, ...Finding[]]>();
  for (const finding of findings) {
    const group = groups.get(keyOf(finding));
    if (group === undefined) groups.set(keyOf(finding), [finding]);
    else group.push(finding);
  }
  return [...groups.values()];
}

/** The first finding of each kind and level, in the order of the findings. */
export function firstOfEach(findings: readonly Finding[]): readonly Finding[] {
  return groupFindingsBy(findings, ({ level, kind }) => `${level} ${kind}`).map(([first]) => first);
}

/** The kinds that occur, those of errors first: what a report names the pages of. */
export function listKinds(findings: readonly Finding[]): readonly FindingKind[] {
  return [...new Set(groupFindings(findings).map(([{ kind }]) => kind))];
}
