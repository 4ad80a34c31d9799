// Issues of Azure Pipelines.

import { escapeControls } from '../errors.js';
import { listAnnotations } from './annotations.js';
import type { AnyReport } from './any-report.js';
import type { ReportSet } from './audit-set.js';
import type { Pieces, PrintingOptions } from './text-layout.js';

/** The summary of a run shows ten issues of a task. */
const MAX_ISSUES = 10;

/**
 * Findings as logging commands of Azure Pipelines, for the log of a job: at most ten errors and ten warnings, worst
 * first, the last of which counts the rest. Empty when there are none; notes are no issues.
 */
export function renderAzure(report: AnyReport | ReportSet, options: PrintingOptions): Pieces {
  return listAnnotations(report, options, MAX_ISSUES).map(({ level, title, file, message, kind }) => {
    const properties = [
      ['type', level],
      ['sourcepath', file],
      ['linenumber', '1'],
      ['code', kind ?? 'bn-audit'],
    ].map(([key, value = '']) => `${key}=${escapeProperty(escapeControls(value))};`);
    return `##vso[task.logissue ${properties.join('')}]${escapeData(escapeControls(`${title}: ${message}`))}\n`;
  });
}

/** As azure-pipelines-task-lib escapes a command's message. */
function escapeData(text: string): string {
  return text.replaceAll('%', '%AZP25').replaceAll('\r', '%0D').replaceAll('\n', '%0A');
}

/** As azure-pipelines-task-lib escapes a command's properties. */
function escapeProperty(text: string): string {
  return escapeData(text).replaceAll(']', '%5D').replaceAll(';', '%3B');
}
