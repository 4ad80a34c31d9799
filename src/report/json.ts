// Reports as JSON.

import { LOG_COMMAND } from '../errors.js';
import type { AnyReport } from './any-report.js';
import { isAuditSet, type ReportSet } from './audit-set.js';
import type { Pieces, PrintingOptions } from './text-layout.js';

/** A report as JSON: the contract of docs/json.md. */
export function renderJson(report: AnyReport | ReportSet, { omitsChannels }: PrintingOptions = {}): Pieces {
  const omitted = omitsChannels ? 'perChannel' : undefined;
  if (!isAuditSet(report)) return writeJson(report, REPORT_LEVELS, omitted);
  const { schemaVersion, tool, verdict, reports, failures } = report;
  return writeJson({ schemaVersion, tool, verdict, reports, failures }, 2 + REPORT_LEVELS, omitted);
}

/** The report's members, and the items of its lists. */
const REPORT_LEVELS = 2;

/**
 * A value as JSON text, indented, with a line end. Numbers that JSON cannot hold become strings; what a terminal, a log
 * viewer or a CI runner that reads the log would act on is escaped, also what JSON would let through.
 */
export function toJson(value: unknown): string {
  return [...writeJson(value, 0)].join('');
}

/** The same without indentation and line ends. */
export function toJsonLine(value: unknown): string {
  return writeWhole(value, { indentation: 0 });
}

/**
 * The same text in pieces. What is iterable is a list, so that its items may be made as they are asked for.
 *
 * @param levels how deep members and items are pieces of their own; below, each is written as a whole.
 * @param omitted a member to leave out of those.
 */
export function* writeJson(value: unknown, levels: number, omitted?: string): Pieces {
  const write = (part: unknown) => writeWhole(part, { omitted, indentation: 2 });
  yield* writePart(value, { levels, lineEnd: '\n', write });
  yield '\n';
}

interface Surroundings {
  readonly levels: number;
  /** The line end, indented as they are. */
  readonly lineEnd: string;
  /** Writes what is no piece of its own. */
  readonly write: (part: unknown) => string;
}

function* writePart(value: unknown, { levels, lineEnd, write }: Surroundings): Iterable<string> {
  if (levels === 0 || typeof value !== 'object' || value === null) {
    yield write(value).replaceAll('\n', lineEnd);
    return;
  }
  const isList = Symbol.iterator in value;
  const [opening, closing] = isList ? '[]' : '{}';
  let isEmpty = true;
  for (const [key, part] of isList ? listItems(value as Iterable<unknown>) : Object.entries(value)) {
    if (part === undefined) continue;
    yield `${isEmpty ? opening : ','}${lineEnd}  ${key === null ? '' : `${write(key)}: `}`;
    yield* writePart(part, { levels: levels - 1, lineEnd: `${lineEnd}  `, write });
    isEmpty = false;
  }
  yield isEmpty ? `${opening}${closing}` : `${lineEnd}${closing}`;
}

function* listItems(items: Iterable<unknown>): Iterable<readonly [null, unknown]> {
  for (const item of items) yield [null, item];
}

interface Writing {
  readonly omitted?: string | undefined;
  readonly indentation: number;
}

function writeWhole(value: unknown, { omitted, indentation }: Writing): string {
  const text = JSON.stringify(
    value,
    (key, part: unknown) =>
      key === omitted ? undefined : typeof part === 'number' && !Number.isFinite(part) ? String(part) : part,
    indentation,
  );
  return escapeJson(text);
}

/** JSON in which what a terminal, a log viewer or a CI runner would act on is escaped: the values stay the same. */
export function escapeJson(text: string): string {
  return text.replace(LOG_COMMAND, escapeUnits).replace(/[\u007f-\u009f\p{Cf}\u2028\u2029]/gu, escapeUnits);
}

/** UTF-16 code units as JSON's escapes, which stand for the same text. */
function escapeUnits(character: string): string {
  return Array.from(
    { length: character.length },
    (_, index) => `\\u${character.charCodeAt(index).toString(16).padStart(4, '0')}`,
  ).join('');
}
