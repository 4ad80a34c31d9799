import { makeFinding } from '../compare/finding.js';
import { describeAnswer } from './answer.js';
import { countOutcomes, getCommonBefore, listDetailed, type ReportSet } from './audit-set.js';
import { formatPlural } from './format-numbers.js';
import { listKinds } from './group-findings.js';
import {
  MAX_COMMENT_LENGTH,
  MAX_SUMMARY_LENGTH,
  type MarkdownOptions,
  OUTCOME_SIGNS,
  renderMarkdown,
  showCode,
} from './markdown.js';

/** So many checkpoints have a row; with the longest names these leave half a comment free. */
const MAX_ROWS = 60;

const MAX_MESSAGE_LENGTH = 400;

/**
 * Several audits as GitHub-flavoured Markdown: a table with a row for each checkpoint, then the report of the one that
 * drifted most, or, with `all`, of every one that drifted, as far as they fit.
 */
export function renderSetMarkdown(set: ReportSet, options: MarkdownOptions = {}): string {
  const limit = options.all === true ? MAX_SUMMARY_LENGTH : MAX_COMMENT_LENGTH;
  const sign = OUTCOME_SIGNS[set.verdict];
  const before = getCommonBefore(set);
  const head = [
    `### ${sign} ${countOutcomes(set)}`,
    ...(before === null ? [] : [`Compared with ${showCode(before)}.`]),
    ...renderRows(set, before === null),
    ...namePages(set),
  ].join('\n\n');
  let text = `${head}\n`;
  for (const report of listDetailed(set, options.all)) {
    const details = `\n${renderMarkdown(report, options)}`;
    if (byteLengthOf(text) + byteLengthOf(details) > limit) {
      return `${text}\n*Too long for here: more reports left out.*\n`;
    }
    text += details;
  }
  return text;
}

/** The pages of all kinds of finding: a row of the table tells what was found, and not where to read on. */
function namePages({ heads }: ReportSet): readonly string[] {
  const kinds = listKinds(heads.flatMap(({ findings }) => findings));
  const pages = kinds.map((kind) => `\`${makeFinding(kind, '', '').docs}\``);
  return pages.length === 0 ? [] : [`What these findings mean: ${pages.join(', ')}.`];
}

/** What could not be audited comes first: it is easily overlooked. */
function renderRows({ reports, failures }: ReportSet, isBeforeShown: boolean): readonly string[] {
  const name = (before: string, after: string) =>
    isBeforeShown ? `${showCode(before)} → ${showCode(after)}` : showCode(after);
  const rows = [
    ...failures.map(({ before, after, message }) => [
      `${OUTCOME_SIGNS.failed} Failed`,
      name(before, after),
      showCode(message, MAX_MESSAGE_LENGTH),
    ]),
  ];
  for (const report of reports) {
    const { outcome, word, headline } = describeAnswer(report, showCode);
    rows.push([`${OUTCOME_SIGNS[outcome]} ${word}`, name(report.before.path, report.after.path), headline]);
  }
  const shown = rows.slice(0, MAX_ROWS);
  const table = [
    '| | checkpoint | |',
    '| :-- | :-- | :-- |',
    ...shown.map((cells) => `| ${cells.join(' | ')} |`),
  ];
  const rest = rows.length - shown.length;
  return [table.join('\n'), ...(rest > 0 ? [`… and ${formatPlural(rest, 'more checkpoint')}.`] : [])];
}

function byteLengthOf(text: string): number {
  return new TextEncoder().encode(text).length;
}
