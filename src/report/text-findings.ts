import { type Finding, type FindingLevel, titleOf } from '../compare/finding.js';
import { escapeControls } from '../errors.js';
import { type FindingGroup, groupFindings, groupFindingsBy, listKinds } from './group-findings.js';
import { showName, type TextLayout, wrapText } from './text-layout.js';

/** So many layers of one sort are named unless all are asked for. */
const NAMED_LAYERS = 6;

const SIGNS: Readonly<Record<FindingLevel, string>> = { error: '✖', warning: '!', note: '·' };
const TONES = { error: 'error', warning: 'warning', note: 'faint' } as const;

/** Findings as blocks of lines, one block a kind and level, errors first. */
export function renderFindingGroups(
  findings: readonly Finding[],
  layout: TextLayout,
): readonly (readonly string[])[] {
  return groupFindings(findings).map((group) => renderGroup(group, layout));
}

/** Where to read on: the command that prints the page of each kind, in a line each. */
export function renderPages(
  findings: readonly Finding[],
  { paint }: Pick<TextLayout, 'paint'>,
): readonly string[] {
  return listKinds(findings).map((kind, index) => {
    const label = index === 0 ? 'more' : '    ';
    return `${paint('faint', label)}  bn-audit explain ${kind}`;
  });
}

function renderGroup(group: FindingGroup, layout: TextLayout): readonly string[] {
  const [{ level, kind }] = group;
  const label = `${SIGNS[level]} ${level}`;
  const indent = ' '.repeat(label.length + 2);
  const [first = '', ...rest] = wrapText(`${titleOf(kind)} (${kind})`, {
    width: layout.width,
    indent,
  });
  const head = [layout.paint(TONES[level], label) + first.slice(label.length), ...rest];
  return [...head, ...groupFindingsBy(group, shapeOf).flatMap((alike) => renderAlike(alike, layout))];
}

/** Messages that differ in their numbers alone are one message: the first is shown, the layers of all are named. */
function renderAlike([first, ...others]: FindingGroup, { width, paint, all }: TextLayout): readonly string[] {
  const lines = wrapText(`${showName(first.layer, 60)}: ${escapeControls(first.message)}`, {
    width,
    indent: '    ',
  });
  const [line = '', ...rest] = lines;
  const shown = all ? others : others.slice(0, NAMED_LAYERS);
  const names = shown.map(({ layer }) => showName(layer, 60)).join(', ');
  const more =
    others.length > shown.length ? paint('faint', ` … ${others.length - shown.length} more (--all)`) : '';
  const likewise = others.length === 0 ? [] : wrapText(`likewise ${names}`, { width, indent: '    ' });
  return [
    `  ${line.trimStart()}`,
    ...rest,
    ...likewise.map((text, index) => (index === likewise.length - 1 ? text + more : text)),
  ];
}

function shapeOf({ message }: Finding): string {
  return message.replace(/\d[\d.e+-]*/g, '#');
}
