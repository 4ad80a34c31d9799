import type { FindingLevel } from '../compare/findings.js';

/** The lowest level of finding that fails a run. */
export type FailOn = 'error' | 'warning';

/** 1 when a finding is at or above the level, else 0. */
export function getExitCode(findings: readonly { readonly level: FindingLevel }[], failOn: FailOn): 0 | 1 {
  return findings.some(({ level }) => level === 'error' || (level === 'warning' && failOn === 'warning'))
    ? 1
    : 0;
}
