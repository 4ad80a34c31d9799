import { FINDING_TITLES, type Finding, type FindingLevel } from '../compare/findings.js';
import { escapeControls } from '../errors.js';
import { type Paint, showName, wrapText } from './text-layout.js';

interface Layout {
  readonly width: number;
  readonly paint: Paint;
  readonly all: boolean;
}

/** So many layers of one sort are named unless all are asked for. */
const NAMED_LAYERS = 6;

const RANKS: Readonly<Record<FindingLevel, number>> = { error: 0, warning: 1, note: 2 };
const SIGNS: Readonly<Record<FindingLevel, string>> = { error: '✖', warning: '!', note: '·' };
const TONES = { error: 'error', warning: 'warning', note: 'faint' } as const;

/** Findings as blocks of lines, one block a kind and level, errors first. */
export function renderFindingGroups(
  findings: readonly Finding[],
  layout: Layout,
): readonly (readonly string[])[] {
  return groupBy(findings, ({ level, kind }) => `${level} ${kind}`)
    .sort(([x], [y]) => RANKS[x.level] - RANKS[y.level])
    .map((group) => renderGroup(group, layout));
}

function renderGroup(group: Group, layout: Layout): readonly string[] {
  const [{ level, kind }] = group;
  const label = `${SIGNS[level]} ${level}`;
  const indent = ' '.repeat(label.length + 2);
  const [first = '', ...rest] = wrapText(`${FINDING_TITLES[kind]} (${kind})`, {
    width: layout.width,
    indent,
  });
  const head = [layout.paint(TONES[level], label) + first.slice(label.length), ...rest];
  return [...head, ...groupBy(group, shapeOf).flatMap((alike) => renderAlike(alike, layout))];
}

/** Messages that differ in their numbers alone are one message: the first is shown, the layers of all are named. */
function renderAlike([first, ...others]: Group, { width, paint, all }: Layout): readonly string[] {
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

type Group = readonly [Finding, ...Finding[]];

function groupBy(findings: readonly Finding[], keyOf: (finding: Finding) => string): Group[] {
  const groups = new Map<string, [Finding, ...Finding[]]>();
  for (const finding of findings) {
    const group = groups.get(keyOf(finding));
    if (group === undefined) groups.set(keyOf(finding), [finding]);
    else group.push(finding);
  }
  return [...groups.values()];
}
