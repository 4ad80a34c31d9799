import { expect, test } from 'vitest';
import type { AuditReport } from '../../src/report/audit-report.js';
import { buildAuditSet, buildReportSet, PackedReports } from '../../src/report/audit-set.js';
import { findFormat, REPORT_FORMATS } from '../../src/report/formats.js';
import { render } from '../../src/report/render.js';
import { makeCleanReport, makeHostileReport, makeLayer, makeReport } from './sample-reports.js';

const odd = makeReport({
  layers: [
    makeLayer('bn1', { outputShift: Number.POSITIVE_INFINITY }),
    makeLayer('bn2', { outputShift: Number.NaN, divergence: -0 }),
  ],
});

function pack(reports: readonly AuditReport[]): PackedReports {
  const packed = new PackedReports();
  for (const report of reports) packed.add(report);
  return packed;
}

test('what is unpacked is what was packed, numbers that JSON cannot hold included', () => {
  const reports = [odd, makeHostileReport(), makeCleanReport()];
  const packed = pack(reports);
  expect([...packed]).toEqual(reports);
  expect(packed.length).toBe(3);
  expect(packed.at(1)).toEqual(reports[1]);
  expect(packed.at(3)).toBeUndefined();
});

test('a head has one finding of each kind and level', () => {
  const [head] = pack([odd]).heads;
  const kinds = new Set(odd.findings.map(({ kind, level }) => `${kind} ${level}`));
  expect(head).toMatchObject({ verdict: odd.verdict, summary: odd.summary, after: odd.after });
  expect(head?.findings.map(({ kind, level }) => `${kind} ${level}`)).toEqual([...kinds]);
});

/** Reports of which each is gone once the next one is asked for. */
function* letGo(reports: Iterable<AuditReport>): Iterator<AuditReport> {
  for (const report of reports) {
    const { proxy, revoke } = Proxy.revocable(report, {});
    yield proxy;
    revoke();
  }
}

test.each(REPORT_FORMATS)(
  '%s of packed reports is that of the reports, and keeps none of them',
  async (format) => {
    const reports = [odd, makeHostileReport(), makeCleanReport(), makeReport({ layers: [makeLayer('bn9')] })];
    const packed = pack(reports);
    const passing = {
      length: packed.length,
      at: (index: number) => packed.at(index),
      [Symbol.iterator]: () => letGo(packed),
    };
    const set = buildAuditSet(reports);
    const kept = buildReportSet({ reports: passing, heads: packed.heads, failures: [] });
    const renderPieces = await findFormat(format).load();
    for (const all of [false, true])
      expect([...renderPieces(kept, { all })].join('')).toBe(render(set, { format, all }));
  },
);
