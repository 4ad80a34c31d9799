import { formatCount, formatOptional, formatPlural } from './format-numbers.js';
import { type Column, renderTable, renderWarnings, showCode, showText } from './markdown.js';
import { describeInputs, describeProbe, explainColumns, formatCosine, formatShare } from './probe-answer.js';
import type { ProbeLayer, ProbeOutput, ProbeReport } from './probe-report.js';

/** A table of so many rows fits a pull-request comment. */
const SHOWN_LAYERS = 200;
const SHOWN_WARNINGS = 20;

/** A probe as GitHub-flavoured Markdown. Names are shown as code, where nothing in them is markup. */
export function renderProbeMarkdown(report: ProbeReport): string {
  const answer = describeProbe(report, showCode);
  const rest = report.layers.length - SHOWN_LAYERS;
  const blocks = [
    `### ${answer.outcome === 'moved' ? '❌' : '✅'} Probe: ${answer.headline}`,
    answer.explanation,
    renderTable(
      [
        ['before', showCode(report.before.path)],
        ['after', showCode(report.after.path)],
        ['inputs', describeInputs(report, showCode)],
      ] as const,
      [
        ['', ([role]) => role],
        ['', ([, text]) => text],
      ],
    ),
    ...(report.outputs.length > 0 ? [renderTable(report.outputs, OUTPUT_COLUMNS)] : []),
    renderTable(report.layers.slice(0, SHOWN_LAYERS), LAYER_COLUMNS),
    ...(rest > 0 ? [`… and ${formatPlural(rest, 'more layer')}.`] : []),
    explainColumns(report)
      .map(([term, meaning]) => `- **${term}**: ${meaning}`)
      .join('\n'),
    ...renderWarnings(report.warnings, SHOWN_WARNINGS),
    `<sub>${report.tool.name} ${report.tool.version}, ${report.runtime.name} ${showText(report.runtime.version)}</sub>`,
  ];
  return `${blocks.join('\n\n')}\n`;
}

const OUTPUT_COLUMNS: readonly Column<ProbeOutput>[] = [
  ['output', ({ name }) => showCode(name)],
  ['shape', ({ shape }) => `${shape.join(' × ')}`],
  ['relative L2:', ({ relativeL2 }) => formatOptional(relativeL2)],
  ['cosine:', ({ cosine }) => formatOptional(cosine, formatCosine)],
  ['largest difference:', ({ maxDifference }) => formatOptional(maxDifference)],
  [
    'top-1 changed:',
    ({ top1 }) =>
      top1 === null
        ? '–'
        : `${formatCount(top1.changed)} of ${formatCount(top1.samples)} (${formatShare(top1.share)})`,
  ],
];

const LAYER_COLUMNS: readonly Column<ProbeLayer>[] = [
  ['layer, along the depth', ({ name }) => showCode(name)],
  ['status', ({ status, putBack }) => (putBack ? `${status}, put back` : status)],
  ['predicted:', ({ outputShift }) => formatOptional(outputShift)],
  ['alone:', ({ movement }) => formatOptional(movement?.sameInput)],
  ['in network:', ({ movement }) => formatOptional(movement?.inNetwork)],
  ['explains:', ({ contribution }) => formatOptional(contribution?.explained, formatShare)],
];
