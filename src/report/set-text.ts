import { escapeControls } from '../errors.js';
import { describeAnswer } from './answer.js';
import type { AuditReport } from './audit-report.js';
import {
  type AuditFailure,
  countOutcomes,
  getCommonBefore,
  listDetailed,
  type ReportSet,
} from './audit-set.js';
import type { Pieces } from './formats.js';
import { layOutAudit } from './text.js';
import { OUTCOME_SIGNS } from './text-answer.js';
import { renderPages } from './text-findings.js';
import {
  chooseLayout,
  showName,
  type TextLayout,
  type TextOptions,
  type Tone,
  wrapText,
  writeBlocks,
} from './text-layout.js';

/** A checkpoint's row: what it came to, and a few words why. */
interface Row {
  readonly word: string;
  readonly tone: Tone;
  readonly name: string;
  readonly reason: string;
}

/**
 * Several audits as text: a line for each checkpoint, then the whole report of the one that drifted most, or, with
 * `all`, of every one that drifted.
 */
export function renderSetText(set: ReportSet, options: TextOptions = {}): Pieces {
  return writeBlocks(layOutSet(set, options));
}

function* layOutSet(set: ReportSet, options: TextOptions): Iterable<readonly string[]> {
  const layout = chooseLayout(options);
  const before = getCommonBefore(set);
  const nameOf = (one: { before: string; after: string }) =>
    before === null ? `${one.before} → ${one.after}` : one.after;
  const rows: Row[] = [];
  for (const report of set.reports) rows.push(describeReport(report, nameOf(toPaths(report))));
  for (const failure of set.failures) rows.push(describeFailure(failure, nameOf(failure)));
  if (before !== null) yield [`${layout.paint('faint', 'before')}  ${showName(before, layout.width - 8)}`];
  yield layOutRows(rows, layout);
  yield [layout.paint('strong', countOutcomes(set))];
  for (const report of listDetailed(set, options.all)) {
    const title = `── ${showName(nameOf(toPaths(report)), layout.width - 8)} `;
    yield [layout.paint('faint', title.padEnd(layout.width, '─'))];
    yield* layOutAudit(report, layout);
  }
  yield renderPages(
    set.heads.flatMap(({ findings }) => findings),
    layout,
  );
}

function toPaths({ before, after }: AuditReport): { before: string; after: string } {
  return { before: before.path, after: after.path };
}

function describeReport(report: AuditReport, name: string): Row {
  const { outcome, word, headline } = describeAnswer(report, (module) => showName(module, 40));
  const [sign, tone] = OUTCOME_SIGNS[outcome];
  return { word: `${sign} ${word.toLowerCase()}`, tone, name, reason: headline };
}

function describeFailure({ message, hint }: AuditFailure, name: string): Row {
  const reason = hint === null ? message : `${message}. ${hint}`;
  return { word: '✖ failed', tone: 'error', name, reason: escapeControls(reason) };
}

/** The reason stands in the line where it fits, else in lines of its own. */
function layOutRows(rows: readonly Row[], { width, paint }: TextLayout): readonly string[] {
  const wordWidth = Math.max(...rows.map(({ word }) => word.length));
  const indent = ' '.repeat(wordWidth + 2);
  const shown = rows.map((row) => ({ ...row, name: showName(row.name, width - indent.length) }));
  const nameWidth = Math.max(...shown.map(({ name }) => [...name].length));
  return shown.flatMap(({ word, tone, name, reason }) => {
    const head = `${paint(tone, word.padEnd(wordWidth))}  ${name}`;
    const gap = ' '.repeat(nameWidth - [...name].length + 2);
    const fits = indent.length + nameWidth + 2 + [...reason].length <= width;
    return fits ? [head + gap + paint('faint', reason)] : [head, ...wrapText(reason, { width, indent })];
  });
}
