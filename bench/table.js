// Lays measurements and bars out as text.

/** @typedef {import('./measure.js').Measurement} Measurement */
/** @typedef {import('./cases.js').Case} Case */

const NODE = 'node -e 0';

/**
 * The result of a bar.
 *
 * @typedef {object} Verdict
 * @property {'pass' | 'MISS' | 'not measured'} word
 * @property {string} line
 */

/**
 * A case's measurements: times, and each as a ratio to the first peer and to node's own start.
 *
 * @param {Case} benchCase
 * @param {readonly Measurement[]} measurements
 * @returns {string}
 */
export function renderCase({ name, title, missing }, measurements) {
  const peer = measurements.find(({ label }) => label !== NODE && !label.startsWith('bn-audit'));
  const node = measurements.find(({ label }) => label === NODE);
  const header = [
    '',
    'seconds',
    'spread',
    `× ${peer?.label ?? ''}`,
    `× ${NODE}`,
    'without imports',
    'peak MB',
  ];
  const rows = measurements.map(({ label, seconds, spreadSeconds, peakBytes, innerSeconds }) => [
    label,
    seconds.toFixed(3),
    spreadSeconds.toFixed(3),
    peer === undefined ? '' : (seconds / peer.seconds).toFixed(2),
    node === undefined ? '' : (seconds / node.seconds).toFixed(2),
    innerSeconds === null ? '' : innerSeconds.toFixed(3),
    peakBytes === null ? '–' : (peakBytes / 1e6).toFixed(0),
  ]);
  const used = header.map((_, column) => column === 0 || rows.some((row) => row[column] !== ''));
  const pick = (/** @type {readonly string[]} */ row) => row.filter((_, column) => used[column]);
  return [
    `${name}: ${title}`,
    ...layOut([pick(header), ...rows.map(pick)]),
    ...missing.map((peerNote) => `  not there: ${peerNote}`),
  ].join('\n');
}

/**
 * A case's bars: what was to be reached, what was found.
 *
 * @param {Case} benchCase
 * @param {readonly Measurement[]} measurements
 * @returns {readonly Verdict[]}
 */
export function judgeCase({ name, bars }, measurements) {
  const take = (/** @type {string} */ label) => {
    const found = measurements.find((measurement) => measurement.label === label);
    if (found === undefined) throw new Error(`${name}: nothing was measured as ${label}`);
    return found;
  };
  return bars.map(({ claim, judge }) => {
    const result = judge(take);
    if (result === null) return { word: 'not measured', line: `${name}: ${claim}` };
    const { found, limit, unit } = result;
    const numbers = unit === 'MB' ? `${found.toFixed(0)} MB` : `${found.toFixed(2)} of ${limit.toFixed(2)}`;
    return { word: found <= limit ? 'pass' : 'MISS', line: `${name}: ${claim}: ${numbers}` };
  });
}

/**
 * Columns side by side: the first to the left, numbers to the right.
 *
 * @param {readonly (readonly string[])[]} rows
 * @returns {readonly string[]}
 */
function layOut(rows) {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map((row) => {
    const cells = row.map((cell, column) =>
      column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0),
    );
    return `  ${cells.join('  ')}`.trimEnd();
  });
}
