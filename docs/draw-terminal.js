// npm run picture: draws what `bn-audit diff` prints on a terminal, as the first picture of the README. A test compares the
// picture's text with the program's.
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const COMMAND = 'bn-audit diff before.safetensors after.safetensors';
const TITLE = 'Output of bn-audit diff: the backbone was frozen, its statistics were not';

/** Attributes of SVG text by the code of SGR that starts them; every other code ends them. */
const STYLES = new Map([
  ['31', 'fill="#ff7b72"'],
  ['32', 'fill="#7ee787"'],
  ['33', 'fill="#e3b341"'],
  ['1', 'font-weight="700"'],
  ['2', 'fill="#8b949e"'],
]);

const CHARACTER_WIDTH = 8.43;
const LINE_HEIGHT = 19;
const MARGIN = 20;
const FIRST_LINE = 56;

/** @param {string} text */
const escapeXml = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

/**
 * A line with its colours as tspans.
 *
 * @param {string} line with SGR escapes
 */
function drawLine(line) {
  /** @type {Set<string>} */
  let styles = new Set();
  let drawn = '';
  for (const part of line.split(/(\u001b\[\d+m)/)) {
    const code = /^\u001b\[(\d+)m$/.exec(part)?.[1];
    const style = code === undefined ? undefined : STYLES.get(code);
    if (style !== undefined) styles.add(style);
    else if (code !== undefined) styles = new Set();
    else if (part !== '')
      drawn +=
        styles.size === 0 ? escapeXml(part) : `<tspan ${[...styles].join(' ')}>${escapeXml(part)}</tspan>`;
  }
  return drawn;
}

/** @param {string} output */
function drawTerminal(output) {
  const lines = [`\u001b[2m$\u001b[22m ${COMMAND}`, '', ...output.trimEnd().split('\n')];
  const lengths = lines.map((line) => line.replace(/\u001b\[\d+m/g, '').length);
  const width = Math.ceil(2 * MARGIN + Math.max(...lengths) * CHARACTER_WIDTH);
  const height = FIRST_LINE + lines.length * LINE_HEIGHT;
  const texts = lines.flatMap((line, index) => {
    const at = `x="${MARGIN}" y="${FIRST_LINE + index * LINE_HEIGHT}"`;
    const length = ((lengths[index] ?? 0) * CHARACTER_WIDTH).toFixed(1);
    // Browsers pass this attribute on to no child.
    const spaces = 'xml:space="preserve"';
    return line === '' ? [] : [`<text ${at} textLength="${length}" ${spaces}>${drawLine(line)}</text>`];
  });
  const font = 'ui-monospace, SFMono-Regular, Menlo, Consolas, monospace';
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img" aria-label="${TITLE}">
<rect width="${width}" height="${height}" rx="10" fill="#0d1117"/>
<g fill="#30363d"><circle cx="22" cy="20" r="6"/><circle cx="42" cy="20" r="6"/><circle cx="62" cy="20" r="6"/></g>
<g font-family="${font}" font-size="14" fill="#e6edf3">
${texts.join('\n')}
</g>
</svg>
`;
}

const [, ...args] = COMMAND.split(' ');
const { stdout, stderr, status } = spawnSync(
  process.execPath,
  [fileURLToPath(new URL('../bin/bn-audit.js', import.meta.url)), ...args],
  {
    cwd: fileURLToPath(new URL('../fixtures/pairs/requires-grad-leak', import.meta.url)),
    encoding: 'utf8',
    env: { PATH: process.env.PATH, FORCE_COLOR: '1', COLUMNS: '92' },
  },
);
if (status !== 1) throw new Error(`expected exit code 1, drift found, found ${status}: ${stderr}`);
writeFileSync(new URL('images/diff.svg', import.meta.url), drawTerminal(stdout));
