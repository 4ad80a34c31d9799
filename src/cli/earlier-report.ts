import { closeSync, openSync, readSync } from 'node:fs';
import type { ReportFormat } from '../report/formats.js';

/** Every pattern below fits into the start of a file. */
const HEAD_BYTES = 4096;

/** How a report starts in each format. Other files do not. */
const SIGNATURES: Readonly<Record<ReportFormat, RegExp>> = {
  text: /^(?:(?:before|after|checkpoint) {2}|[✖!✔] )\S/u,
  json: /^\{\s*"schemaVersion": \d+,\s*"tool": \{\s*"name": "bn-audit"/,
  markdown: /^### (?:❌|⚠️|✅) \S/u,
  html: /^<!doctype html>[\s\S]*<meta name="generator" content="bn-audit[ "]/,
  junit: /^<\?xml [^>]*\?>\s*<testsuites name="bn-audit"/,
  sarif:
    /^\{\s*"\$schema": "[^"]*",\s*"version": "[^"]*",\s*"runs": \[\s*\{\s*"tool": \{\s*"driver": \{\s*"name": "bn-audit"/,
  github: /^::(?:error|warning|notice) title=/,
  gitlab: /^\[\s*(?:\]\s*$|\{\s*"type": "issue",\s*"check_name": ")/,
};

/**
 * Whether a file that exists may give way to a report: it is empty, or looks like an earlier report of that format.
 *
 * @throws the file system's error where it cannot be read.
 */
export function isEarlierReport(path: string, format: ReportFormat): boolean {
  const head = Buffer.alloc(HEAD_BYTES);
  const descriptor = openSync(path, 'r');
  try {
    const byteLength = readSync(descriptor, head, 0, HEAD_BYTES, 0);
    return byteLength === 0 || SIGNATURES[format].test(head.toString('utf8', 0, byteLength));
  } finally {
    closeSync(descriptor);
  }
}
