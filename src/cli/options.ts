// Makes a command's options out of the table, and parses what the command line gives for them.

import { Command, InvalidArgumentError, Option } from 'commander';
import type { OpenOptions } from '../checkpoint/checkpoint.js';
import type { PrefixEdit } from '../compare/pair-layers.js';
import { findAddress } from '../errors.js';
import { isPlace } from '../io/places.js';
import {
  COLOR_CHOICES,
  type CommandName,
  FAIL_ON_LEVELS,
  GUARD_MODES,
  listCommandOptions,
  MAX_INTERVAL,
  MIN_INTERVAL,
  type OptionKind,
} from '../options.js';
import { type PolicyRules, type ReportTarget, trimDot } from '../policy.js';
import type { InputShape } from '../probe/inputs.js';
import { REPORT_FORMATS, type ReportFormat } from '../report/formats.js';

/** Options of every command that prints a report and judges. */
export interface CommonOptions
  extends Pick<OpenOptions, 'select' | 'allowExternalSymlinks' | 'remote'>,
    Pick<PolicyRules, 'epsilon' | 'failOn'> {
  readonly format: ReportFormat;
  readonly output?: string;
  readonly report?: readonly ReportTarget[];
  readonly all?: boolean;
  readonly channels?: boolean;
  /** False with `--no-ci`. */
  readonly ci: boolean;
  readonly quiet?: boolean;
}

/** Where the docs are: on the web, once they are there. */
export const DOCS_HELP = `
Docs: ${findAddress('README.md') ?? 'bn-audit explain, and docs/ in the package'}`;

/** What the help of every command that judges ends with. */
export const EXIT_CODE_HELP = `
Exit codes:
  0  nothing found
  1  a finding at or above --fail-on
  2  the audit could not be done: usage, an unreadable file, no norm layer,
     nothing paired`;

type Parse = (value: string, previous: unknown) => unknown;

/** How the values of an option read; a kind that is not here is a flag, or taken as it is. */
const PARSERS: Partial<Record<OptionKind, Parse>> = {
  texts: collect(String),
  globs: collect(String),
  map: collect(parsePrefixEdit),
  shapes: collect(parseShape),
  files: collect(parseReport),
  file: parseFileName,
  number: parseNonNegative,
  interval: parseInterval,
  samples: parseWhole,
  whole: parseWhole,
};

/** A command with the options that the table gives it; `formats` are those of its `--format`. */
export function createCommand(name: CommandName, formats: readonly string[] = REPORT_FORMATS): Command {
  const command = new Command(name);
  for (const { name: key, is, flags = '', help, initial, isRequired, group } of listCommandOptions(name)) {
    const option = new Option(flags, help);
    // `--layer GLOB` fills the library's `layers`.
    if (!option.negate) option.attributeName = () => key;
    if (initial !== undefined) option.default(initial);
    if (isRequired) option.makeOptionMandatory();
    const parse = PARSERS[is];
    if (parse !== undefined) option.argParser(parse);
    if (is === 'format') option.choices(formats);
    if (is === 'level') option.choices(FAIL_ON_LEVELS);
    if (is === 'mode') option.choices(GUARD_MODES);
    if (is === 'when') option.choices(COLOR_CHOICES);
    command.addOption(option.helpGroup(`${group}:`));
  }
  return command;
}

function collect(parse: (value: string) => unknown): Parse {
  return (value, previous) => [...(Array.isArray(previous) ? previous : []), parse(value)];
}

function parsePrefixEdit(value: string): PrefixEdit {
  const [from, to, ...rest] = value.split('=');
  if (from === undefined || to === undefined || rest.length > 0)
    throw new InvalidArgumentError('It must be FROM=TO.');
  return { from: trimDot(from), to: trimDot(to) };
}

/** `FORMAT=FILE`. */
function parseReport(value: string): ReportTarget {
  const [, name, file] = /^([^=]*)=(.+)$/s.exec(value) ?? [];
  const format = REPORT_FORMATS.find((one) => one === name);
  if (format === undefined || file === undefined)
    throw new InvalidArgumentError(
      `It must be FORMAT=FILE, with a format of ${REPORT_FORMATS.join(', ')}: html=report.html`,
    );
  return { format, file: parseFileName(file) };
}

/** A file to write. Elsewhere `-` means standard output, and `hf:NAME` a model: what is written to such a file would be missed. */
function parseFileName(value: string): string {
  if (value === '') throw new InvalidArgumentError('It must name a file.');
  if (value === '-') throw new InvalidArgumentError('It must name a file: one that is called - is ./-');
  if (isPlace(value)) throw new InvalidArgumentError('It must name a file of this machine.');
  return value;
}

function parseNonNegative(value: string): number {
  const number = Number(value);
  if (value.trim() === '' || !Number.isFinite(number) || number < 0)
    throw new InvalidArgumentError('It must be a number, zero or larger.');
  return number;
}

function parseInterval(value: string): number {
  const seconds = parseNonNegative(value);
  if (seconds >= MIN_INTERVAL && seconds <= MAX_INTERVAL) return seconds;
  throw new InvalidArgumentError(`It must be a number of seconds from ${MIN_INTERVAL} to ${MAX_INTERVAL}.`);
}

function parseWhole(value: string): number {
  if (!/^\d{1,15}$/.test(value)) throw new InvalidArgumentError('It must be a whole number.');
  return Number(value);
}

/** `NAME=1,3,224,224`, or the sizes alone where the model has one input. Names may hold an equals sign. */
function parseShape(value: string): InputShape {
  const [, name, sizes] = /^(?:(.+)=)?([\d,\s]*)$/s.exec(value) ?? [];
  const dims = sizes === undefined || sizes.trim() === '' ? [] : sizes.split(',').map((size) => size.trim());
  if (sizes === undefined || !dims.every((size) => /^[1-9]\d{0,8}$/.test(size)))
    throw new InvalidArgumentError('It must be NAME=SIZES, such as input=1,3,224,224.');
  return { name: name ?? null, dims: dims.map(Number) };
}
