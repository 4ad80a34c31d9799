import { isAscii } from 'node:buffer';

/** What the engine's parser makes of JSON. */
export type ParsedJson = string | number | boolean | null | readonly ParsedJson[] | ParsedObject;

/** An object among it; keys such as `__proto__` are its own. */
export interface ParsedObject {
  readonly [key: string]: ParsedJson;
}

/** Text that is parsed at a time, where it can be parted; what stands in memory for it is several times as large. */
const PIECE_BYTES = 128 * 1024;

/** The longest member that is read here: far above the metadata of any model. */
const MAX_PIECE_BYTES = 4 * 1024 * 1024;

/** Between two members of an object that are objects and end with a list, as those of a safetensors header do. */
const SEAM = ']},"';

/** How JSON.stringify begins what it spells by its number. */
const ESCAPE = '\\u';

/** What JSON.stringify writes of half a surrogate pair, which JSON for others to read must not hold. */
const LONE_SURROGATE = /\\ud[89a-f]/;

const SPACE = 0x20;
const OPENING_BRACE = 0x7b;
const CLOSING_BRACE = 0x7d;

/**
 * Hands over the members of a JSON object that is spelled as `JSON.stringify` spells it, in ASCII. The engine's own
 * parser reads it piece by piece, in a fraction of the time of JsonReader. Because the engine writes every piece again as
 * it was, none has lost anything: neither a key that appears twice nor a digit of a number. Values may be nested as
 * deeply as the engine can write: a caller that takes any has to look.
 *
 * @param bytes spaces behind the object are left out.
 * @param onMember false where it does not take a member.
 * @returns false where some member was not taken or is spelled in another way. What was handed over counts for nothing
 *   then: JsonReader reads the text, or finds out what is wrong with it.
 */
export function readCanonicalMembers(
  bytes: Uint8Array,
  onMember: (key: string, value: ParsedJson) => boolean,
): boolean {
  if (!isAscii(bytes)) return false;
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let end = text.length;
  while (text[end - 1] === SPACE) end--;
  if (end < 2 || text[0] !== OPENING_BRACE || text[end - 1] !== CLOSING_BRACE) return false;
  const keys = new Set<string>();
  for (let start = 1; start < end; ) {
    const stop = findStop(text, start, end - 1);
    if (stop - start > MAX_PIECE_BYTES) return false;
    const members = parseCanonical(`{${text.toString('latin1', start, stop)}}`);
    if (members === null) return false;
    for (const [key, value] of members) {
      if (keys.has(key) || !onMember(key, value)) return false;
      keys.add(key);
    }
    start = stop + 1;
  }
  return true;
}

/** Where a piece that begins at `start` ends: behind a member, and with the text at the latest. */
function findStop(text: Buffer, start: number, last: number): number {
  if (last - start <= PIECE_BYTES) return last;
  const before = text.lastIndexOf(SEAM, start + PIECE_BYTES);
  const seam = before > start ? before : text.indexOf(SEAM, start + PIECE_BYTES);
  return seam < 0 ? last : seam + 2;
}

/** The members of an object in canonical spelling; null for all other text. */
function parseCanonical(text: string): readonly (readonly [key: string, value: ParsedJson])[] | null {
  if (text.includes(ESCAPE) && LONE_SURROGATE.test(text)) return null;
  try {
    const value: ParsedObject = JSON.parse(text);
    return JSON.stringify(value) === text ? Object.entries(value) : null;
  } catch {
    // No JSON, or nested too deeply for the engine to write it: JsonReader says so.
    return null;
  }
}

/** Whether a value is an object: neither a list nor a scalar. */
export function isParsedObject(value: ParsedJson): value is ParsedObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
