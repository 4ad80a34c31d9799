// The names of the report formats and their options.

import { quote, UsageError } from '../errors.js';
import type { TextOptions } from './text-layout.js';

/** How a report finds its place in a repository. */
export interface LocationOptions {
  /** The repository's directory: absolute paths under it become relative. */
  readonly root?: string | undefined;
}

/** The forms that a report can be printed in. */
export const REPORT_FORMATS = [
  'text',
  'json',
  'markdown',
  'html',
  'junit',
  'sarif',
  'github',
  'gitlab',
] as const;

/** A form that a report can be printed in. */
export type ReportFormat = (typeof REPORT_FORMATS)[number];

/** The forms that nearly every run prints; a command loads the renderers of the others only when it needs one. */
export type PlainFormat = Extract<ReportFormat, 'text' | 'json'>;

/** Whether a format is one of the plain ones. */
export function isPlain(format: ReportFormat): format is PlainFormat {
  return format === 'text' || format === 'json';
}

/**
 * A report's text in pieces, in order, which may be made as they are asked for: whoever writes them need not hold it all.
 * No string, although that is iterable too: it would be written character by character.
 */
export type Pieces = Iterable<string> & object;

/** How to render a report. */
export interface RenderOptions extends TextOptions, LocationOptions {
  /** `text` unless given. */
  readonly format?: ReportFormat | undefined;
  /** In text, show this layer alone, channel by channel; the audit must have kept channels. */
  readonly layer?: string | undefined;
}

/**
 * What a renderer says to a format that it does not know, which only callers without types can ask for.
 *
 * @throws UsageError always.
 */
export function refuseFormat(format: never, formats: readonly string[]): never {
  throw new UsageError(`format: expected one of ${formats.join(', ')}, found ${quote(String(format))}`);
}
