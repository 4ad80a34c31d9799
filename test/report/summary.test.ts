import { describe, expect, test } from 'vitest';
import { buildAuditSet } from '../../src/report/audit-set.js';
import { render } from '../../src/report/render.js';
import { makeCleanReport, makeInspectReport, makeMixedReport, renderAs } from './sample-reports.js';

const renderSummary = renderAs('summary');

describe('the summary', () => {
  test('is a line that names the outcome, the checkpoints, the worst layer and what was found', () => {
    expect(renderSummary(makeMixedReport())).toBe(
      'bn-audit: drifted: runs/base.pt → runs/tuned.pt: 3 of 6 norm layers drifted, worst backbone.layer1.bn1 (output shift 0.970); 3 errors, 1 warning, 2 notes\n',
    );
    expect(renderSummary(makeCleanReport())).toBe(
      'bn-audit: clean: runs/base.pt → runs/tuned.pt: 0 of 2 norm layers drifted\n',
    );
  });

  test('of an inspection names the checkpoint', () => {
    expect(renderSummary(makeInspectReport())).toMatch(/^bn-audit: \w+: \S+: .*\n$/);
  });

  test('has a line for each of several audits, what could not be done first', () => {
    const failure = {
      before: 'base.pt',
      after: 'broken.pt',
      code: 'truncated',
      message: 'broken.pt: expected 8 bytes, found 3',
      hint: null,
    } as const;
    const lines = render(buildAuditSet([makeMixedReport(), failure, makeCleanReport()]), {
      format: 'summary',
    })
      .trimEnd()
      .split('\n');
    expect(lines.map((line) => /^bn-audit: (\w+): /.exec(line)?.[1])).toEqual(['failed', 'drifted', 'clean']);
  });
});
