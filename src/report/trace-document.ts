// What the report of a trace says.

import { type Finding, isLeadingDrift, verdictOf } from '../compare/findings.js';
import { addTo } from '../norm/naming.js';
import {
  type Answer,
  describeAnswer,
  describeCauses,
  keepCurableByEval,
  listRemedies,
  listTitles,
  VERDICT_WORDS,
} from './answer.js';
import { encloseName } from './any-report.js';
import {
  type Block,
  type Document,
  describeCheckpoint,
  type Fact,
  makeTable,
  names,
  numbers,
  type Table,
} from './document.js';
import { adviseFreeze, isFrozenDrift } from './fix-advice.js';
import { formatCount, formatMeasure, formatPlural, formatSparkline } from './format-numbers.js';
import { showName } from './text-layout.js';
import {
  findLeadingStatus,
  findMost,
  makeMoments,
  type NameMoment,
  type OrderKey,
  type TraceCheckpoint,
  type TraceReport,
  type TraceSpan,
} from './trace-report.js';

/** What the report of a trace says; with `all`, of every layer and checkpoint. */
export function describeTrace(report: TraceReport, all: boolean): Document {
  const { audit, findings, checkpoints } = report;
  const at = makeMoments(checkpoints, encloseName);
  const advice = audit === null ? null : adviseFreeze(keepCurableByEval(audit));
  return {
    answer: answerTrace(report, at),
    facts: [describeCheckpoint('before', report.before), describeRun(report)],
    blocks: [
      ...listTrajectories(report, at, all),
      ...(all ? [listCheckpoints(report, at)] : []),
      ...listHistories(report, at, all),
      { kind: 'findings', findings: findings.filter((finding) => !isFrozenDrift(finding)) },
      {
        kind: 'notes',
        notes: [...report.skipped.map(({ message }) => `left out: ${message}`), ...report.warnings],
      },
      { kind: 'remedies', remedies: audit === null ? [] : listRemedies(audit) },
      ...(advice === null ? [] : [{ kind: 'advice', advice } as const]),
    ],
  };
}

const ORDER_WORDS: Readonly<Record<OrderKey, string>> = {
  epoch: 'epochs',
  step: 'steps',
  batches: 'batch counts',
  name: 'names',
};

/** Longer names of checkpoints are shortened beside counts. */
const MAX_MOMENT = 24;

function describeRun(report: TraceReport): Fact {
  const { checkpoints, order, skipped } = report;
  const at = makeMoments(checkpoints, (name) => showName(name, MAX_MOMENT));
  const range = checkpoints.length < 2 ? [] : [nameRange(at, 0, checkpoints.length - 1)];
  return {
    role: 'run',
    what: encloseName(findFolder(checkpoints.map(({ path }) => path))),
    contents: [
      formatPlural(checkpoints.length, 'checkpoint'),
      ...range,
      `by their ${order.map((key) => ORDER_WORDS[key]).join(' and ')}`,
      ...(skipped.length === 0 ? [] : [`${formatCount(skipped.length)} left out`]),
    ],
  };
}

/** The folder that all lie in; of a single one its own path. */
function findFolder(paths: readonly string[]): string {
  const [first = '', ...others] = paths;
  if (others.length === 0) return first;
  const parts = first.split('/');
  let length = parts.length - 1;
  while (length > 0 && !others.every((path) => path.startsWith(`${parts.slice(0, length).join('/')}/`)))
    length--;
  return length === 0 ? '.' : parts.slice(0, length).join('/') || '/';
}

function answerTrace(report: TraceReport, at: NameMoment): Answer {
  const errors = report.findings.filter(({ level }) => level === 'error');
  const outcome = verdictOf(errors);
  const { onset } = report.summary;
  const claim =
    onset !== null && report.audit !== null
      ? `${describeAnswer(report.audit).headline}, from ${at(onset.drifted)} on`
      : errors.length > 0
        ? `${listTitles(errors)}, first at ${at(Math.min(...errors.map(({ first }) => first)))}`
        : claimClean(report);
  const { skipped, checkpoints } = report;
  const total = formatPlural(skipped.length + checkpoints.length, 'checkpoint');
  const rest =
    skipped.length === 0
      ? ''
      : `; ${formatCount(skipped.length)} of ${total} ${skipped.length === 1 ? 'was' : 'were'} left out`;
  return {
    outcome,
    word: VERDICT_WORDS[outcome],
    headline: `${claim}${rest}`,
    explanation: onset === null ? countLayers(report) : explainDrift(report, at, onset),
  };
}

function explainDrift(
  report: TraceReport,
  at: NameMoment,
  { locked, drifted }: NonNullable<TraceReport['summary']['onset']>,
): string {
  const { layers, findings, summary, checkpoints, audit } = report;
  const count = new Set(findings.filter(isLeadingDrift).map(({ layer }) => layer)).size;
  const place = (index: number) => `${at(index)} (${encloseName(checkpoints[index]?.path ?? '')})`;
  const when =
    locked === null
      ? `at the first checkpoint already, ${place(drifted)}`
      : `between ${place(locked)}, where all stood still, and ${place(drifted)}`;
  const began = summary.onset?.layers === count ? '' : `, ${formatCount(summary.onset?.layers ?? 0)} of them`;
  const worst =
    summary.worst === null
      ? ''
      : ` The output of ${encloseName(summary.worst.layer)} moves most, by ${formatMeasure(summary.worst.outputShift)} of its own size at ${at(summary.worst.checkpoint)}.`;
  return `${formatCount(count)} of ${formatPlural(layers.length, 'norm layer')} drifted${began} ${when}.${worst}${audit === null ? '' : describeCauses(audit)}`;
}

function claimClean({ layers, checkpoints, findings }: TraceReport): string {
  const where = formatPlural(checkpoints.length, 'checkpoint');
  const warnings = findings.filter(({ level }) => level === 'warning');
  if (warnings.length > 0) return `no error in ${where}, but ${listTitles(warnings)}`;
  const areAll = (status: string) =>
    layers.every(({ spans }) => spans.every((span) => span.status === status));
  if (areAll('locked')) return `every norm layer stood still in ${where}`;
  if (areAll('trained')) return `nothing was frozen in ${where}: statistics moved with the weights`;
  return `no frozen layer’s statistics moved in ${where}`;
}

function countLayers({ summary }: TraceReport): string {
  const { layers, drifted, thawed, refrozen } = summary;
  const parts = [
    ...(drifted > 0 ? [`${formatCount(drifted)} drifted`] : []),
    `${formatCount(thawed)} trained at some time`,
    ...(refrozen > 0 ? [`${formatCount(refrozen)} of them frozen again`] : []),
    `${formatCount(layers - thawed)} never`,
  ];
  return `${formatPlural(layers, 'norm layer')}: ${parts.join(', ')}.`;
}

/** Cells of the line that shows a layer over the run. */
const TREND_CELLS = 16;

/** The layers whose drift stands, those that moved most first, or all. */
function listTrajectories(report: TraceReport, at: NameMoment, all: boolean): readonly Table[] {
  const { findings, layers } = report;
  const drifted = new Set(findings.filter(isLeadingDrift).map(({ layer }) => layer));
  const rows = layers
    .filter(({ name }) => all || drifted.has(name))
    .map((layer) => ({ ...layer, most: findMost(layer) }))
    .sort((x, y) => (y.most ?? -1) - (x.most ?? -1));
  if (rows.length === 0) return [];
  const [sort] = findings.filter((finding: Finding) => isFrozenDrift(finding));
  type Row = (typeof rows)[number];
  const columns = [
    names<Row>('layer'),
    {
      title: 'over the run',
      isSpare: true as const,
      hint: 'output shift at each checkpoint',
      cell: ({ outputShift }: Row) => formatSparkline(outputShift, TREND_CELLS),
      trend: (row: Row) => ({ values: row.outputShift, status: findLeadingStatus(row, drifted) }),
    },
    {
      title: 'locked to',
      isSpare: true as const,
      hint: 'the last checkpoint before it drifted',
      cell: ({ onset }: Row) => (onset === null ? '–' : at(onset.locked)),
      value: ({ onset }: Row) => onset?.locked ?? -1,
    },
    {
      title: 'drifted at',
      hint: 'the first checkpoint at which it had',
      cell: ({ onset }: Row) => (onset === null ? '–' : at(onset.drifted)),
      value: ({ onset }: Row) => onset?.drifted ?? null,
    },
    ...(all
      ? [
          {
            title: 'at the end',
            isSpare: true as const,
            cell: ({ spans, allowed }: Row) => `${spans.at(-1)?.status ?? '–'}${allowed ? ' (allowed)' : ''}`,
          },
        ]
      : []),
    numbers<Row>('output shift', ({ most }) => most, {
      isStrong: true,
      hint: 'how far the layer’s output moves at most, relative to its own size',
      text: { title: 'shift' },
    }),
  ];
  return [
    makeTable(rows, columns, {
      shown: { text: 10, markdown: 20 },
      noun: 'layer',
      rest: ' that moved less',
      ...(sort !== undefined && { sort }),
      section: { title: 'Norm layers' },
      ...(all && { title: `All ${formatPlural(rows.length, 'norm layer')}, those that moved most first` }),
    }),
  ];
}

/** Every checkpoint: what of it drifted. */
function listCheckpoints(report: TraceReport, at: NameMoment): Table {
  const columns = [
    { title: 'checkpoint', cell: (one: TraceCheckpoint) => encloseName(one.path) },
    {
      title: 'moment',
      isSpare: true as const,
      cell: (one: TraceCheckpoint) => at(report.checkpoints.indexOf(one)),
    },
    { title: 'verdict', cell: ({ verdict }: TraceCheckpoint) => verdict },
    numbers<TraceCheckpoint>('drifted', ({ byStatus }) => byStatus.drifted, { format: formatCount }),
    numbers<TraceCheckpoint>('trained', ({ byStatus }) => byStatus.trained, {
      isSpare: true,
      format: formatCount,
    }),
    numbers<TraceCheckpoint>('output shift', ({ worst }) => worst?.outputShift, {
      hint: 'of the drifted layer whose output moves most',
      text: { title: 'shift' },
    }),
  ];
  return makeTable(report.checkpoints, columns, {
    shown: { text: 20, markdown: 20 },
    noun: 'checkpoint',
    title: 'Checkpoints',
    section: { title: 'Checkpoints' },
  });
}

/** So many histories are told, those of most layers first, and so many of the layers that share one are named. */
const SHOWN_HISTORIES = 8;
const NAMED_LAYERS = 3;

/** What the layers did over the run whose drift is not all of it, those of one history together. */
function listHistories(report: TraceReport, at: NameMoment, all: boolean): readonly Block[] {
  const drifted = new Set(report.findings.filter(isLeadingDrift).map(({ layer }) => layer));
  const groups = new Map<string, string[]>();
  for (const { name, spans } of report.layers) {
    const isTold =
      drifted.has(name) && spans.every(({ status }) => status === 'drifted' || status === 'locked');
    if (!isTold) addTo(groups, describeSpans(spans, { at, length: report.checkpoints.length }), name);
  }
  const sorted = [...groups].sort(([, x], [, y]) => y.length - x.length);
  const shown = all ? sorted : sorted.slice(0, SHOWN_HISTORIES);
  const rest = sorted.slice(shown.length).reduce((sum, [, layers]) => sum + layers.length, 0);
  const terms = shown.map(([said, layers]): readonly [string, string] => {
    const named = layers.slice(0, all ? layers.length : NAMED_LAYERS).map(encloseName);
    const more = layers.length - named.length;
    const list = `${named.join(', ')}${more > 0 ? ` and ${formatCount(more)} more` : ''}`;
    return [formatPlural(layers.length, 'layer'), `${said}: ${list}`];
  });
  if (rest > 0) terms.push([formatPlural(rest, 'layer'), 'other histories (--all)']);
  return terms.length === 0 ? [] : [{ kind: 'terms', title: 'Over the run', terms }];
}

/** So many changes of status are spelled out. */
const SHOWN_SPANS = 5;

/** `locked to epoch 9, trained from epoch 10`: a phrase. */
function describeSpans(
  spans: readonly TraceSpan[],
  { at, length }: { readonly at: NameMoment; readonly length: number },
): string {
  if (spans.length === 0) return 'in no checkpoint';
  const shown = spans.slice(0, SHOWN_SPANS).map(({ status, from, to }) => {
    const isFirst = from === 0;
    if (to === length - 1) return isFirst ? `${status} throughout` : `${status} from ${at(from)}`;
    if (isFirst) return `${status} to ${at(to)}`;
    return `${status} ${from === to ? `at ${at(from)}` : nameRange(at, from, to)}`;
  });
  const more = spans.length - shown.length;
  return `${shown.join(', ')}${more > 0 ? `, and ${formatPlural(more, 'more change')}` : ''}`;
}

/** `epoch 4 to 8`; the word stands once. */
function nameRange(at: NameMoment, from: number, to: number): string {
  return `${at(from)} to ${at(to).replace(/^(?:epoch|step) (?=[\d,.]+$)/, '')}`;
}
