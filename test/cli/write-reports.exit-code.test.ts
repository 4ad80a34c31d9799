import { expect, test } from 'vitest';
import { getExitCode } from '../../src/cli/write-reports.js';
import type { FindingLevel } from '../../src/compare/findings.js';

test.each<readonly [readonly FindingLevel[], forError: number, forWarning: number]>([
  [[], 0, 0],
  [['note'], 0, 0],
  [['warning'], 0, 1],
  [['error'], 1, 1],
  [['note', 'warning'], 0, 1],
  [['note', 'error'], 1, 1],
])('findings of %j exit with %d, and with %d under --fail-on warning', (levels, forError, forWarning) => {
  const findings = levels.map((level) => ({ level }));
  expect([getExitCode(findings, 'error'), getExitCode(findings, 'warning')]).toEqual([forError, forWarning]);
});
