// What the reports of all commands have in common, and names and messages as they may show them.

import { isAbsolute, join } from 'node:path';
import type { Framework } from '../checkpoint/checkpoint.js';
import type { Finding } from '../compare/findings.js';
import { escapeControls } from '../errors.js';
import type { AuditReport, CheckpointSummary } from './audit-report.js';
import type { InspectReport } from './inspect-report.js';
import { defuseCommands, type PrintingOptions, showName } from './text-layout.js';
import type { TraceReport } from './trace-report.js';

/** The report of a `diff` or of an `inspect`, which judge one checkpoint. */
export type OneReport = AuditReport | InspectReport;

/** What every renderer takes: the report of a `diff`, of an `inspect`, or of a `trace`. */
export type AnyReport = OneReport | TraceReport;

/** Whether a report is that of a `diff`. */
export function isAudit(report: AnyReport): report is AuditReport {
  return 'regions' in report;
}

/** Whether a report is that of a `trace`. */
export function isTrace(report: AnyReport): report is TraceReport {
  return 'checkpoints' in report;
}

/** The checkpoint that a report judges: after, the one inspected, or the last of a run. */
function getJudgedCheckpoint(report: AnyReport): Pick<CheckpointSummary, 'path'> {
  if (isTrace(report)) return report.checkpoints.at(-1) ?? report.before;
  return isAudit(report) ? report.after : report.checkpoint;
}

/** What the judged checkpoint was trained with, else before's; null where no file tells. */
export function findReportFramework(report: AnyReport): Framework | null {
  if (isTrace(report)) return report.audit?.after.framework ?? report.before.framework;
  return isAudit(report) ? (report.after.framework ?? report.before.framework) : report.checkpoint.framework;
}

/** The checkpoint that a finding is about: of a run, the one at which it began. */
export function locateFinding(report: AnyReport, { checkpoint }: Finding): string {
  return checkpoint ?? getJudgedCheckpoint(report).path;
}

/** How long names and messages that hold them may be in each format, in characters: beyond this they are not read. */
export const LIMITS = {
  markdown: { name: 100, message: 400 },
  html: { name: 160, message: 600 },
  junit: { name: 500, message: 2000 },
  sarif: { name: 500, message: 1000 },
  github: { name: 200, message: 1000 },
  gitlab: { name: 200, message: 1000 },
} as const;

/**
 * A name from a file as a report may show it: no control characters, at most `width` characters, and nothing that a
 * CI runner which reads the report from its log would take for a command.
 */
export function showSafely(name: string, width: number = LIMITS.html.name): string {
  return defuseCommands(showName(name, width));
}

/**
 * A name from a file within a sentence of ours, which is a phrase then: each format shows the name in its own way. No
 * name holds the marks, which are controls.
 */
export function encloseName(name: string): string {
  return `\u0002${escapeControls(name)}\u0003`;
}

/** A phrase in parts: words of ours, a name, words of ours, and so on in turn. */
export function splitPhrase(phrase: string): readonly string[] {
  return phrase.split(/\u0002([^\u0003]*)\u0003/);
}

/** A phrase with its names as a format shows them. */
export function writePhrase(phrase: string, showName: (name: string) => string): string {
  return splitPhrase(phrase)
    .map((part, index) => (index % 2 === 1 ? showName(part) : part))
    .join('');
}

/** The beginning of a sentence that may hold names from files, made safe in the same way. */
export function showMessage(message: string, length: number = LIMITS.html.message): string {
  return defuseCommands(escapeControls(message)).slice(0, length).toWellFormed();
}

/** The paths of a report: before's and the judged checkpoint's, or that of the one inspected. */
export function listPaths(report: AnyReport): readonly string[] {
  const { path } = getJudgedCheckpoint(report);
  return 'before' in report ? [report.before.path, path] : [path];
}

/**
 * A checkpoint's path as CI systems want it: with forward slashes, relative to the repository where it lies in it.
 *
 * @param root the repository's directory, against which absolute paths are made relative; they stay absolute without.
 * @param directory where in it relative paths start.
 */
export function findArtifactPath(path: string, { root, directory = '' }: PrintingOptions): string {
  const normal = normalizePath(directory === '' || isAbsolute(path) ? path : join(directory, path));
  if (root === undefined) return normal;
  const base = normalizePath(root).replace(/\/+$/, '');
  return base !== '' && normal.startsWith(`${base}/`) ? normal.slice(base.length + 1) : normal;
}

function normalizePath(path: string): string {
  const isWindows = /^(?:[A-Za-z]:)?[\\/]/.test(path) && path.includes('\\');
  const slashed = isWindows || /^\.{1,2}\\/.test(path) ? path.replaceAll('\\', '/') : path;
  return slashed.replace(/\/+/g, '/').replace(/^(?:\.\/)+(?=.)/, '');
}
