// What became of a checkpoint that landed, as a line: text, or an object of JSON.

import { escapeControls, failUnreachable, TOOL_NAME, VERSION } from '../errors.js';
import { formatMeasure } from '../report/format-numbers.js';
import { toJsonLine } from '../report/json.js';
import { describeOutcome, layOutNamed } from '../report/text.js';
import { chooseLayout, defuseCommands, fitName, type TextOptions } from '../report/text-layout.js';
import type { WatchEvent } from './watch.js';

/** An event that is about one checkpoint. */
export type CheckpointEvent = Exclude<WatchEvent, { readonly kind: 'note' }>;

/** Columns of the first words: `✖ drifted`. */
const LABEL_WIDTH = 9;

/** An event as text without its end: a line, or in a terminal several where it has no room for all. */
export function writeEvent(event: CheckpointEvent, options: TextOptions): string {
  const { wholeNames, tableWidth, paint } = chooseLayout(options);
  const layout = { wholeNames, paint, width: wholeNames ? Number.POSITIVE_INFINITY : tableWidth };
  const { label, ...outcome } = describeEvent(event);
  const name = fitName(event.path, layout.width - LABEL_WIDTH - 2, layout);
  const row = { ...outcome, label: label.padEnd(LABEL_WIDTH), name };
  return defuseCommands(layOutNamed([row], layout, { isAlike: false }).join('\n'));
}

function describeEvent(event: CheckpointEvent): ReturnType<typeof describeOutcome> {
  switch (event.kind) {
    case 'audited': {
      const { report } = event;
      const { label, tone, about } = describeOutcome(report, { wholeNames: false });
      const { worst } = report.summary;
      const shift =
        report.verdict === 'clean' || worst === null
          ? ''
          : `, output shift up to ${formatMeasure(worst.outputShift)}`;
      return { label, tone, about: `${about}${shift}` };
    }
    case 'failed': {
      const { message, hint } = event.failure;
      const prefix = `${event.path}: `;
      const said = message.startsWith(prefix) ? message.slice(prefix.length) : message;
      return {
        label: '✖ failed',
        tone: 'error',
        about: escapeControls(hint === null ? said : `${said}. ${hint}`),
      };
    }
    case 'gone':
      return { label: '– gone', tone: 'faint', about: 'deleted before it could be audited' };
    default:
      return failUnreachable(event);
  }
}

/** An event as a line of JSON without its end: the contract of docs/json.md. */
export function writeEventAsJson(event: CheckpointEvent): string {
  const head = { schemaVersion: 1, tool: { name: TOOL_NAME, version: VERSION } };
  switch (event.kind) {
    case 'audited':
      return toJsonLine(event.report);
    case 'failed': {
      const { before, after, ...why } = event.failure;
      return toJsonLine({
        ...head,
        verdict: 'failed',
        before: { path: before },
        after: { path: after },
        ...why,
      });
    }
    case 'gone':
      return toJsonLine({ ...head, verdict: 'gone', after: { path: event.path } });
    default:
      return failUnreachable(event);
  }
}
