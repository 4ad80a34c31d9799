import { closeSync, constants, openSync, readSync } from 'node:fs';
import { FINDING_KINDS, titleOf } from '../compare/finding.js';
import { explainAs } from '../io/file-source.js';
import { FAILURE_TITLE } from '../report/audit-set.js';
import type { ReportFormat } from '../report/formats.js';

/** Every pattern below fits into the start of a file. */
const HEAD_BYTES = 4096;

/** What a report calls its outcome. */
const OUTCOME = '(?:Drifted|Failed|Clean|Unhealthy|Warning|Healthy|Not audited)';

/** What annotations are titled, as properties write it. */
const TITLES = [...FINDING_KINDS.map(titleOf), FAILURE_TITLE, 'bn-audit']
  .map((title) => title.replaceAll(',', '%2C'))
  .join('|');

/** How a report starts in each format, in words that other files hardly start with. */
const SIGNATURES: Readonly<Record<ReportFormat, RegExp>> = {
  text: new RegExp(`^(?:(?:before|after|checkpoint) {2,}\\S[^]*\\n)?[✖!✔] ${OUTCOME} {2,}\\S`, 'iu'),
  json: /^\{\s*"schemaVersion": \d+,\s*"tool": \{\s*"name": "bn-audit"/,
  markdown: new RegExp(
    `^### (?:❌|⚠️|✅) (?:${OUTCOME}: |(?:\\d[\\d,]* of )?\\d[\\d,]* checkpoints?[ ,])`,
    'u',
  ),
  html: /^<!doctype html>[\s\S]*<meta name="generator" content="bn-audit[ "]/,
  junit: /^<\?xml [^>]*\?>\s*<testsuites name="bn-audit"/,
  sarif:
    /^\{\s*"\$schema": "[^"]*",\s*"version": "[^"]*",\s*"runs": \[\s*\{\s*"tool": \{\s*"driver": \{\s*"name": "bn-audit"/,
  github: new RegExp(`^::(?:error|warning|notice) title=(?:${TITLES})[,:%]`),
  gitlab: /^\[\s*(?:\]\s*$|\{\s*"type": "issue",\s*"check_name": ")/,
};

/**
 * Whether a file that exists may give way to a report: it is empty, or looks like an earlier report of that format.
 *
 * @throws CheckpointError where it cannot be read.
 */
export function isEarlierReport(path: string, format: ReportFormat): boolean {
  return explainAs(path, () => {
    const head = Buffer.alloc(HEAD_BYTES);
    const { O_RDONLY, O_NONBLOCK, O_NOFOLLOW } = constants;
    // It was a regular file a moment ago; what took its place is neither waited for nor followed.
    const descriptor = openSync(path, O_RDONLY | (O_NONBLOCK ?? 0) | (O_NOFOLLOW ?? 0));
    try {
      const byteLength = readSync(descriptor, head, 0, HEAD_BYTES, 0);
      return byteLength === 0 || SIGNATURES[format].test(head.toString('utf8', 0, byteLength));
    } finally {
      closeSync(descriptor);
    }
  });
}
