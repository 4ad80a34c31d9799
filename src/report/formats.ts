// The registry of report formats: a row for each, from which the command line, policy files and the library take theirs.

import { FINDING_KINDS, titleOf } from '../compare/findings.js';
import { quote, UsageError } from '../errors.js';
import type { AnyReport } from './any-report.js';
import { FAILURE_TITLE, type ReportSet } from './audit-set.js';
import { renderJson } from './json.js';
import { renderText } from './text.js';
import type { Pieces, PrintingOptions } from './text-layout.js';

/** Writes a report of `diff` or `inspect` in one format. */
export type Renderer = (report: AnyReport | ReportSet, options: PrintingOptions) => Pieces;

/** A format of reports. */
interface Format {
  readonly name: string;
  /** How its reports begin, in words that other files hardly begin with. */
  readonly signature: RegExp;
  /** Whether it shows every channel, whose values an audit then keeps. */
  readonly hasChannels?: true;
  /** Whether its readers look files up in a repository: paths then start at the root of the checkout. */
  readonly isLocated?: true;
  /** What renders it; what most runs do without is imported when it is asked for. */
  readonly load: () => Renderer | Promise<Renderer>;
}

/** What a report calls its outcome. */
const OUTCOME = '(?:Drifted|Failed|Clean|Unhealthy|Warning|Healthy|Not audited)';

/** What annotations are titled, as properties write it. */
const TITLES = [...FINDING_KINDS.map(titleOf), FAILURE_TITLE, 'bn-audit']
  .map((title) => title.replaceAll(',', '%2C'))
  .join('|');

const FORMATS = [
  {
    name: 'text',
    signature: new RegExp(`^(?:(?:before|after|checkpoint) {2,}\\S[^]*\\n)?[✖!✔] ${OUTCOME} {2,}\\S`, 'iu'),
    load: () => renderText,
  },
  {
    name: 'json',
    signature: /^\{\s*"schemaVersion": \d+,\s*"tool": \{\s*"name": "bn-audit"/,
    load: () => renderJson,
  },
  {
    name: 'markdown',
    signature: new RegExp(
      `^### (?:❌|⚠️|✅) (?:${OUTCOME}: |(?:\\d[\\d,]* of )?\\d[\\d,]* checkpoints?[ ,])`,
      'u',
    ),
    load: async (): Promise<Renderer> => (await import('./markdown.js')).renderMarkdown,
  },
  {
    name: 'html',
    signature: /^<!doctype html>[\s\S]*<meta name="generator" content="bn-audit[ "]/,
    hasChannels: true,
    load: async (): Promise<Renderer> => (await import('./html/render-html.js')).renderHtml,
  },
  {
    name: 'junit',
    signature: /^<\?xml [^>]*\?>\s*<testsuites name="bn-audit"/,
    load: async (): Promise<Renderer> => (await import('./junit.js')).renderJunit,
  },
  {
    name: 'sarif',
    signature:
      /^\{\s*"\$schema": "[^"]*",\s*"version": "[^"]*",\s*"runs": \[\s*\{\s*"tool": \{\s*"driver": \{\s*"name": "bn-audit"/,
    isLocated: true,
    load: async (): Promise<Renderer> => (await import('./sarif.js')).renderSarif,
  },
  {
    name: 'github',
    signature: new RegExp(`^::(?:error|warning|notice) title=(?:${TITLES})[,:%]`),
    isLocated: true,
    load: async (): Promise<Renderer> => (await import('./github.js')).renderGithub,
  },
  {
    name: 'gitlab',
    signature: /^\[\s*(?:\]\s*$|\{\s*"type": "issue",\s*"check_name": ")/,
    isLocated: true,
    load: async (): Promise<Renderer> => (await import('./gitlab.js')).renderGitlab,
  },
  {
    name: 'azure',
    signature:
      /^##vso\[task\.logissue type=(?:error|warning);sourcepath=[^;\]]*;linenumber=1;code=[a-z-]+;\]/,
    isLocated: true,
    load: async (): Promise<Renderer> => (await import('./azure.js')).renderAzure,
  },
  {
    name: 'summary',
    signature: new RegExp(`^bn-audit: ${OUTCOME}: \\S`, 'iu'),
    load: async (): Promise<Renderer> => (await import('./summary.js')).renderSummary,
  },
] as const satisfies readonly Format[];

/** A form that a report of `diff` or `inspect` can be printed in. */
export type ReportFormat = (typeof FORMATS)[number]['name'];

/** The forms that a report of `diff` or `inspect` can be printed in. */
export const REPORT_FORMATS: readonly ReportFormat[] = FORMATS.map(({ name }) => name);

/**
 * The row of a format.
 *
 * @param formats those that may be asked for.
 * @throws UsageError where none of them has the name, which only callers without types can ask for.
 */
export function findFormat(name: string, formats: readonly string[] = REPORT_FORMATS): Format {
  const row = FORMATS.find((one) => one.name === name);
  if (row === undefined || !formats.includes(name))
    throw new UsageError(`format: expected one of ${formats.join(', ')}, found ${quote(String(name))}`);
  return row;
}
