/**
 * A value as JSON text, indented, with a line end. Numbers that JSON cannot hold become strings; characters that a
 * terminal or a log viewer would act on are escaped, also those that JSON would let through.
 */
export function toJson(value: unknown): string {
  const text = JSON.stringify(
    value,
    (_, part: unknown) => (typeof part === 'number' && !Number.isFinite(part) ? String(part) : part),
    2,
  );
  return `${text.replace(/[\u007f-\u009f\u2028\u2029]/g, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`)}\n`;
}
