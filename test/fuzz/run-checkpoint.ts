import { type AuditOptions, audit, auditCheckpoints, auditEach } from '../../src/audit.js';
import { createBaseline } from '../../src/formats/baseline/make-baseline.js';
import { openCheckpoint } from '../../src/formats/open.js';
import { inspectCheckpoint } from '../../src/inspect.js';
import { suggestFrozen } from '../../src/policy.js';
import type { AnyReport } from '../../src/report/any-report.js';
import { type AuditOutcome, type AuditSet, buildAuditSet, isAuditSet } from '../../src/report/audit-set.js';
import { REPORT_FORMATS } from '../../src/report/formats.js';
import { render } from '../../src/report/render.js';
import { restore } from '../../src/restore/restore.js';
import { checkReport, expectResultOrRefusal } from './oracle.js';
import { Random } from './random.js';

/** Two checkpoints, and what chooses what is done with them. */
interface Sides {
  readonly path: string;
  readonly reference: string;
  /** Where a restored checkpoint goes. */
  readonly restored: string;
  readonly draw: number;
}

/**
 * Does with a checkpoint what the commands do: inspects it, audits it against itself and against another one, makes a
 * baseline of it, restores it or plans to, and renders one of the reports. Half of that each time, by the draw: what it takes
 * goes into more inputs.
 *
 * @throws Fault where one of them neither does its work nor refuses.
 */
export async function runCheckpoint({ path, reference, restored, draw }: Sides): Promise<void> {
  const random = new Random(draw);
  const checkpoint = await expectResultOrRefusal('open', () => openCheckpoint(path));
  if (checkpoint === null) return;
  const reports: (AnyReport | AuditSet | null)[] = [];
  const options = { channels: random.oneIn(2), exact: random.oneIn(4) };
  try {
    reports.push(
      await expectResultOrRefusal('inspect', () =>
        inspectCheckpoint(checkpoint, { channels: options.channels }),
      ),
    );
    if (random.oneIn(2))
      reports.push(
        await expectResultOrRefusal('audit itself', () => auditCheckpoints(checkpoint, checkpoint, options)),
      );
    if (random.oneIn(4)) await expectResultOrRefusal('init', () => suggestFrozen(checkpoint));
    if (random.oneIn(2)) await expectResultOrRefusal('baseline', () => createBaseline(checkpoint));
  } finally {
    await checkpoint.close();
  }
  const [before, after] = random.oneIn(3) ? [path, reference] : [reference, path];
  if (random.oneIn(2)) {
    const globs = random.pick([{}, {}, { frozen: ['auto'] }, { frozen: ['**'] }, { allow: ['*'] }]);
    const all = { ...options, ...globs };
    reports.push(
      random.oneIn(4)
        ? await expectResultOrRefusal('audits', () => auditBoth(before, after, all))
        : await expectResultOrRefusal('audit', () => audit(before, after, all)),
    );
  } else {
    const layers = random.oneIn(2) ? { layers: ['**'] } : {};
    const target = random.oneIn(2) ? null : restored;
    const plan = { dryRun: target === null, force: true, ...layers };
    await expectResultOrRefusal('restore', () => restore(before, after, target, plan));
  }
  const report = random.pick(reports.filter((one) => one !== null));
  if (report !== undefined) await renderOne(report, random);
}

/** Either way round, as several audits are reported. */
async function auditBoth(before: string, after: string, options: AuditOptions): Promise<AuditSet> {
  const outcomes: AuditOutcome[] = [];
  const requests = [
    { before, after, options },
    { before: after, after: before, options },
  ];
  for await (const { outcome } of auditEach(requests)) outcomes.push(outcome);
  return buildAuditSet(outcomes);
}

async function renderOne(report: AnyReport | AuditSet, random: Random): Promise<void> {
  const format = random.pick(REPORT_FORMATS);
  const layers = isAuditSet(report) || random.oneIn(2) ? [] : report.layers;
  const options = { format, all: random.oneIn(2), layer: random.pick<{ name: string }>(layers)?.name };
  const text = await expectResultOrRefusal(`render ${format}`, () => render(report, options));
  if (text !== null) checkReport(`render ${format}`, text);
}
