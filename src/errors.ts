// The one error that users see, and how text from a file is quoted in it.

/** Why a checkpoint could not be audited. Stable: callers may switch on it. */
export type CheckpointErrorCode =
  | 'not-found'
  | 'unreadable'
  | 'not-a-file'
  | 'unrecognised-format'
  | 'truncated'
  | 'malformed'
  | 'limit-exceeded'
  | 'refused'
  | 'unsupported'
  | 'ambiguous'
  | 'unwritable'
  | 'same-file'
  | 'no-norm-layers'
  | 'nothing-paired';

/** What a {@link CheckpointError} carries besides its message. */
interface CheckpointErrorDetails {
  readonly code: CheckpointErrorCode;
  /** The file as the user named it. */
  readonly file: string;
  /** Where in the file, in bytes from its start. */
  readonly offset?: number | bigint | undefined;
  /** The likely cause, or the way out. One sentence. */
  readonly hint?: string | undefined;
  readonly cause?: unknown;
}

/**
 * A checkpoint that cannot be read or must not be read.
 *
 * `message` says what was expected and what was found, without the file's name: {@link file} holds that, and
 * {@link offset} the byte, so that every output format can put them where it wants.
 */
export class CheckpointError extends Error {
  override readonly name = 'CheckpointError';
  readonly code: CheckpointErrorCode;
  readonly file: string;
  readonly offset: number | bigint | undefined;
  readonly hint: string | undefined;

  constructor(message: string, details: CheckpointErrorDetails) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = details.code;
    this.file = details.file;
    this.offset = details.offset;
    this.hint = details.hint;
  }
}

/** @throws CheckpointError about a file; `malformed` unless said otherwise. */
export function fail(
  file: string,
  message: string,
  code: CheckpointErrorCode = 'malformed',
  more: Pick<CheckpointErrorDetails, 'offset' | 'hint'> = {},
): never {
  throw new CheckpointError(message, { code, file, ...more });
}

/** A part that was to be selected is not in the file, which holds several others. */
export class LostSelection extends CheckpointError {}

/** A request that makes no sense whatever the files hold: an unknown option, a glob that matches nothing. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
  readonly hint: string | undefined;

  constructor(message: string, hint?: string) {
    super(message);
    this.hint = hint;
  }
}

/** An error that users see, in one line: the file, what is wrong with it, and where. */
export function describeError(error: CheckpointError | UsageError): string {
  if (error instanceof UsageError) return error.message;
  const place = error.offset === undefined ? '' : ` (at byte ${error.offset})`;
  return `${error.file}: ${error.message}${place}`;
}

/**
 * The end of a switch over a union: the compiler proves that no value gets here.
 *
 * @throws Error when one does, because a caller without types made it.
 */
export function failUnreachable(value: never): never {
  throw new Error(`no case for ${JSON.stringify(value)}`);
}

/** Longer names are shortened in messages: a line stays a line. */
const MAX_QUOTED_LENGTH = 160;

/**
 * A name from a file, in double quotes and fit for a message: control, format and bidirectional characters are
 * escaped, and the middle of a very long name is left out.
 */
export function quote(name: string): string {
  return `"${escapeControls(shorten(name).replaceAll('\\', '\\\\').replaceAll('"', '\\"'))}"`;
}

/** A name without its middle where it is longer than that. */
export function shorten(name: string, length: number = MAX_QUOTED_LENGTH): string {
  return name.length <= length ? name : `${name.slice(0, length / 2)}…${name.slice(-length / 2)}`;
}

/** A name that messages show without quotes: a word, a number, or such joined by dots. */
const PLAIN_NAME = /^[\w.]{1,80}$/;

/** A name from a file, in quotes only where it is anything else than words joined by dots. */
export function quoteUnlessPlain(name: string): string {
  return PLAIN_NAME.test(name) ? name : quote(name);
}

/** What a shell takes for itself nowhere in a word. */
const SHELL_WORD = /^[\w./:@%+=,-]+$/;

/** A name from a file as one word of a command that a message proposes: whatever is in it, a shell runs none of it. */
export function toShellWord(name: string): string {
  const shown = shorten(name);
  return SHELL_WORD.test(shown) ? shown : `'${escapeControls(shown).replaceAll("'", "'\\''")}'`;
}

/**
 * The `#` that begins what a CI server takes for a command anywhere in a line of its log: `##vso[…]` and `##[…]` of Azure
 * Pipelines, `##teamcity[…]`, the older `##[…]` of GitHub. Servers that compare text as languages do read past what has
 * no width, such as a variation selector.
 */
export const LOG_COMMAND = /#(?=\p{DI}*#\p{DI}*[[vVtT])/gu;

/** Printable ASCII. */
const PLAIN_TEXT = /^[ -~]*$/;

/**
 * Text in which no character can steer a terminal, break a line, or reorder what is shown: C0 and C1 controls,
 * line and paragraph separators, bidirectional and other format characters, and lone surrogates become `\u{…}`. The
 * beginning of a {@link LOG_COMMAND} becomes `\x23`: names are shown in logs.
 */
export function escapeControls(text: string): string {
  // Nearly every text is plain, and to compile the pattern of all others takes most of a millisecond.
  if (PLAIN_TEXT.test(text) && !text.includes('##')) return text;
  return text.replace(LOG_COMMAND, '\\x23').replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu, (character) => {
    const codePoint = character.codePointAt(0) ?? 0;
    if (codePoint === 0x0a) return '\\n';
    if (codePoint === 0x0d) return '\\r';
    if (codePoint === 0x09) return '\\t';
    return codePoint < 0x100
      ? `\\x${codePoint.toString(16).padStart(2, '0')}`
      : `\\u{${codePoint.toString(16)}}`;
  });
}

/** The tool's version, as package.json has it; a test keeps the two together. */
export const VERSION = '0.1.0';

/** `OWNER/NAME` of the project's repository on GitHub, as package.json has it; null until it has one. */
const REPOSITORY: string | null = null;

/** The web address of a page of the project, such as `docs/measures.md`, as of this version; null while it has none. */
export function findAddress(page: string, repository = REPOSITORY): string | null {
  return repository === null ? null : `https://github.com/${repository}/blob/v${VERSION}/${page}`;
}

/** What `bn-audit explain` calls a page of the docs: `folding` for `docs/folding.md`, `ci/gitlab` for `docs/ci/gitlab.md`. */
export function nameTopic(page: string): string {
  return page.replace(/(?:\/README)?\.md$/, '').replace(/^docs\/(?:findings\/)?/, '');
}

/** Where a reader finds a page of the docs: its web address, or the command that prints it. */
export function findDocs(page: string): string {
  return findAddress(page) ?? `bn-audit explain ${nameTopic(page)}`;
}

/** The tool's name, as reports give it. */
export const TOOL_NAME = 'bn-audit';
