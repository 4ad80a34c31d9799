// How numbers and counts are written in every report.

/** A count that may exceed 2^53; a string of digits then. */
export type Count = number | string;

/** A whole number with thousands separators: `1,250`. Strings of digits (counts beyond 2^53) likewise. */
export function formatCount(count: Count): string {
  return String(count).replace(/\B(?=(\d{3})+$)/g, ',');
}

/** A count of batches with its sign: `+1,250`, `−15`; `–` where there is none. */
export function formatBatches(count: Count | null): string {
  if (count === null) return '–';
  const digits = String(count).replace(/^-/, '');
  if (digits === '0') return '0';
  return `${String(count).startsWith('-') ? '−' : '+'}${formatCount(digits)}`;
}

/** A measure with three significant digits, and never so small that it reads as zero: `0.837`, `1.2e-7`, `24.1`. */
export function formatMeasure(value: number): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? 'NaN' : value > 0 ? '∞' : '−∞';
  if (value === 0) return '0';
  const magnitude = Math.abs(value);
  const text = magnitude < 1e-3 || magnitude >= 1e5 ? value.toExponential(1) : toThreeDigits(value);
  return text.replace('-', magnitude < 1e-3 && value > 0 ? '-' : '−').replace('e+', 'e');
}

/** A measure that a layer may lack, where a dash stands for it. */
export function formatOptional(
  value: number | null | undefined,
  format: (value: number) => string = formatMeasure,
): string {
  return value == null ? '–' : format(value);
}

/** A standard-deviation ratio from its absolute logarithm: `× 1.38`. */
export function formatStdRatio(logStdRatio: number): string {
  return Number.isFinite(logStdRatio)
    ? `× ${formatMeasure(Math.exp(logStdRatio))}`
    : formatMeasure(logStdRatio);
}

/** How many values there are, in words that fit a line: `9,408`, `23.5 M`. */
export function formatMagnitude(count: number): string {
  if (count < 1e4) return formatCount(count);
  const [unit, size] = count >= 1e9 ? ['G', 1e9] : count >= 1e6 ? ['M', 1e6] : ['k', 1e3];
  return `${toThreeDigits(count / size)} ${unit}`;
}

/** A noun with its count: `1 norm layer`, `53 norm layers`. */
export function formatPlural(count: number, noun: string): string {
  return `${formatCount(count)} ${noun}${count === 1 ? '' : 's'}`;
}

const EIGHTHS = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉'] as const;

/** A horizontal bar of at most `cells` character cells, in eighths of a cell; a value above 0 is always visible. */
export function formatBar(value: number, { full, cells }: { full: number; cells: number }): string {
  if (!(value > 0) || !(full > 0)) return '';
  const eighths = Math.max(1, Math.min(cells * 8, Math.round((value / full) * cells * 8)));
  return '█'.repeat(Math.floor(eighths / 8)) + (EIGHTHS[eighths % 8] ?? '');
}

const LEVELS = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'] as const;

/**
 * Values in a row as a line of at most `cells` characters, the largest as the highest. A value above 0 is always visible; 0
 * is a dot, and an unknown value a space. Where there are more values than cells, each cell shows the largest of its own.
 */
export function formatSparkline(values: readonly (number | null)[], cells: number): string {
  const finite = values.map((value) => (value !== null && Number.isFinite(value) ? value : null));
  const full = finite.reduce<number>((most, value) => Math.max(most, value ?? 0), 0);
  const count = Math.min(cells, values.length);
  return Array.from({ length: count }, (_, index) => {
    const from = Math.floor((index * values.length) / count);
    const to = Math.floor(((index + 1) * values.length) / count);
    const known = finite.slice(from, to).filter((value) => value !== null);
    if (known.length === 0) return ' ';
    const most = Math.max(...known);
    return most <= 0 ? '·' : (LEVELS[Math.max(0, Math.ceil((most / full) * LEVELS.length) - 1)] ?? '█');
  }).join('');
}

function toThreeDigits(value: number): string {
  const text = value.toPrecision(3);
  return text.includes('e') ? String(Math.round(value)) : text;
}
