// Findings in groups and ranks: what a report says together, and what comes first.

import { createHash } from 'node:crypto';
import type { Finding, FindingKind, FindingLevel } from '../compare/findings.js';
import { type AnyReport, isAudit, isTrace, locateFinding, showMessage, showSafely } from './any-report.js';
import { formatPlural } from './format-numbers.js';

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

/** The kinds that occur, those of errors first: what a report names the pages of. */
export function listKinds(findings: readonly Finding[]): readonly FindingKind[] {
  return [...new Set(groupFindings(findings).map(([{ kind }]) => kind))];
}

/** Every finding, errors first, within a level the layers first whose output moved most. */
export function rankFindings(report: AnyReport): readonly Finding[] {
  const shifts = new Map(listShifts(report));
  const shiftOf = ({ layer }: Finding) => shifts.get(layer) || 0;
  return [...report.findings].sort(
    (x, y) => LEVEL_RANKS[x.level] - LEVEL_RANKS[y.level] || shiftOf(y) - shiftOf(x),
  );
}

/**
 * Findings of one kind and level in one region, about one checkpoint, which CI systems show once, whatever their number:
 * 300 drifted layers of a backbone have one cause.
 */
export interface RegionFindings {
  /** The worst first. */
  readonly findings: FindingGroup;
  /** The region's module path; `''` is the whole model, or no region. */
  readonly region: string;
  /** The checkpoint that they are about, as {@link locateFinding} finds it. */
  readonly path: string;
}

/** The findings of a report by kind, level, region and checkpoint, in the order of their worst. */
export function groupByRegion(report: AnyReport): readonly RegionFindings[] {
  const audit = isTrace(report) ? report.audit : isAudit(report) ? report : null;
  const regions = new Set(audit?.regions.map(({ path }) => path));
  const placeOf = (finding: Finding) => ({
    region: findRegion(finding.layer, regions),
    path: locateFinding(report, finding),
  });
  return groupFindingsBy(rankFindings(report), (finding) => {
    const { region, path } = placeOf(finding);
    return JSON.stringify([finding.level, finding.kind, region, path]);
  }).map((findings) => ({ findings, ...placeOf(findings[0]) }));
}

/** The module path above a layer that is a region's; regions hold no others. */
function findRegion(layer: string, paths: ReadonlySet<string>): string {
  if (paths.has(layer)) return layer;
  for (let dot = layer.indexOf('.'); dot >= 0; dot = layer.indexOf('.', dot + 1))
    if (paths.has(layer.slice(0, dot))) return layer.slice(0, dot);
  return '';
}

/** Characters that a name and a message in a sentence may have. */
interface SentenceLimits {
  readonly name: number;
  readonly message: number;
}

/** What findings of a region say in a sentence: how many they are, and the worst of them. */
export function sayFindings({ findings, region }: RegionFindings, limits: SentenceLimits): string {
  const [{ layer, message }] = findings;
  const show = (name: string) => showSafely(name, limits.name);
  const worst = `${show(layer)}: ${showMessage(message, limits.message)}`;
  if (findings.length === 1) return worst;
  const where = region === '' ? '' : ` of ${show(region)}`;
  return `${formatPlural(findings.length, 'layer')}${where}, the worst ${worst}`;
}

/**
 * Names findings of a region for as long as they stand, whatever their numbers are: by before and the checkpoint that
 * they are about, as CI systems know them, and by kind, level and region. Unique in a report.
 */
export function fingerprintFindings(
  { findings: [{ kind, level }], region }: RegionFindings,
  checkpoints: readonly string[],
): string {
  return hashParts([...checkpoints, kind, level, region]);
}

/** Hexadecimal digits of a fingerprint: 128 bits. */
const FINGERPRINT_LENGTH = 32;

/** A name of fixed length for texts that tell something apart. */
export function hashParts(parts: readonly string[]): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, FINGERPRINT_LENGTH);
}

function listShifts(report: AnyReport): readonly (readonly [layer: string, shift: number])[] {
  if (isTrace(report))
    return report.layers.map(({ name, outputShift }) => [
      name,
      Math.max(...outputShift.map((shift) => shift || 0)),
    ]);
  return isAudit(report) ? report.layers.map(({ name, outputShift }) => [name, outputShift ?? 0]) : [];
}
