import type { FindingLevel } from '../compare/finding.js';
import type { FailOn } from '../policy/policy.js';

/** 1 when a finding is at or above the level, else 0. */
export function getExitCode(findings: readonly { readonly level: FindingLevel }[], failOn: FailOn): 0 | 1 {
  return findings.some(({ level }) => level === 'error' || (level === 'warning' && failOn === 'warning'))
    ? 1
    : 0;
}
