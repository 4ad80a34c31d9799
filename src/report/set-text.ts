import { escapeControls } from '../errors.js';
import { describeAnswer } from './answer.js';
import type { AuditReport } from './audit-report.js';
import {
  type AuditFailure,
  type AuditSet,
  countOutcomes,
  findWorstReport,
  getCommonBefore,
} from './audit-set.js';
import { layOutAudit } from './text.js';
import { OUTCOME_SIGNS } from './text-answer.js';
import { renderPages } from './text-findings.js';
import {
  chooseLayout,
  joinBlocks,
  showName,
  type TextLayout,
  type TextOptions,
  type Tone,
  wrapText,
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
export function renderSetText(set: AuditSet, options: TextOptions = {}): string {
  const layout = chooseLayout(options);
  const before = getCommonBefore(set);
  const nameOf = (one: { before: string; after: string }) =>
    before === null ? `${one.before} → ${one.after}` : one.after;
  const rows = [
    ...set.reports.map((report) => describeReport(report, nameOf(toPaths(report)))),
    ...set.failures.map((failure) => describeFailure(failure, nameOf(failure))),
  ];
  return joinBlocks([
    ...(before === null
      ? []
      : [[`${layout.paint('faint', 'before')}  ${showName(before, layout.width - 8)}`]]),
    layOutRows(rows, layout),
    [layout.paint('strong', countOutcomes(set))],
    ...listDetails(set, options).flatMap((report) => {
      const title = `── ${showName(nameOf(toPaths(report)), layout.width - 8)} `;
      return [[layout.paint('faint', title.padEnd(layout.width, '─'))], ...layOutAudit(report, layout)];
    }),
    renderPages(
      set.reports.flatMap(({ findings }) => findings),
      layout,
    ),
  ]);
}

function toPaths({ before, after }: AuditReport): { before: string; after: string } {
  return { before: before.path, after: after.path };
}

function listDetails(set: AuditSet, { all }: TextOptions): readonly AuditReport[] {
  if (all === true) return set.reports.filter(({ verdict }) => verdict === 'drifted');
  const worst = findWorstReport(set);
  return worst === null ? [] : [worst];
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
