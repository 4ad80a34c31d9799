import { createHash } from 'node:crypto';
import type { Finding } from '../compare/finding.js';
import { type AnyReport, isAudit } from './any-report.js';
import { LEVEL_RANKS } from './group-findings.js';

/** A finding as CI systems track it from run to run. */
export interface TrackedFinding {
  readonly finding: Finding;
  /** Names the finding by kind and layer, whatever its numbers are: `<hex>:<occurrence>`, unique in the report. */
  readonly fingerprint: string;
}

/** Hexadecimal digits of a fingerprint: 128 bits. */
const FINGERPRINT_LENGTH = 32;

/** Every finding, errors first, within a level the layers first whose output moved most. */
export function rankFindings(report: AnyReport): readonly TrackedFinding[] {
  const shifts = new Map(
    isAudit(report) ? report.layers.map(({ name, outputShift }) => [name, outputShift ?? 0] as const) : [],
  );
  const shiftOf = ({ layer }: Finding) => shifts.get(layer) || 0;
  const occurrences = new Map<string, number>();
  return [...report.findings]
    .sort((x, y) => LEVEL_RANKS[x.level] - LEVEL_RANKS[y.level] || shiftOf(y) - shiftOf(x))
    .map((finding) => {
      const hash = createHash('sha256').update(`${finding.kind}\n${finding.layer}`).digest('hex');
      const occurrence = (occurrences.get(hash) ?? 0) + 1;
      occurrences.set(hash, occurrence);
      return { finding, fingerprint: `${hash.slice(0, FINGERPRINT_LENGTH)}:${occurrence}` };
    });
}
