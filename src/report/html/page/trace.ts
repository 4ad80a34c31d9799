// Draws the norm layers of a run, a line each, and lights the line of the row that is pointed at.

import { scaleLinear, scaleLog } from 'd3-scale';
import { formatMeasure } from '../../format-numbers.js';
import { decodeNumbers } from '../channel-codec.js';
import type { TracePageData } from '../trace-data.js';
import { addCursor, drawFrame, type Frame, innerWidth, type Scale } from './chart-frame.js';
import { makeCheckbox, makeElement, makeShape, setAttributes, watchWidth } from './dom.js';
import './theme.js';

const HEIGHT = 340;
const MARGIN = { top: 22, right: 16, bottom: 30, left: 52 } as const;

/** With more lines than these, single ones are drawn fainter. */
const MANY_LINES = 24;

/** So many layers are named where the chart is pointed at. */
const NAMED_LAYERS = 3;

/** A logarithmic axis shows so many decades below the largest value at most. */
const MAX_DECADES = 6;

interface Line {
  readonly name: string;
  readonly status: string;
  readonly shifts: Float32Array;
}

function drawRun(box: HTMLElement, { moments, onset, layers }: TracePageData): void {
  const lines: readonly Line[] = layers.map(({ shifts, ...layer }) => ({
    ...layer,
    shifts: decodeNumbers(shifts),
  }));
  const state = { width: 0, isLog: false };
  const plot = makeElement('div', { class: 'plot' });
  const readout = makeElement('p', { class: 'readout' });
  const frame = (): Frame => ({ width: state.width, height: HEIGHT, margin: MARGIN });
  const xOf = (step: number) => MARGIN.left + (step / Math.max(1, moments.length - 1)) * innerWidth(frame());
  const redraw = () => {
    if (state.width === 0) return;
    const scale = makeScale(lines, state.isLog).range([HEIGHT - MARGIN.bottom, MARGIN.top]);
    const paths = lines.map((line) =>
      makeShape('path', { class: `is-${line.status}`, d: tracePath(line.shifts, xOf, scale) }),
    );
    const bottom = HEIGHT - MARGIN.bottom;
    drawFrame(plot, frame(), { scale, isLog: state.isLog }).append(
      makeShape('g', { class: lines.length > MANY_LINES ? 'lines many' : 'lines' }, paths),
      ...(onset === null ? [] : markOnset(xOf(onset.step), onset.label, state.width)),
      ...[0, moments.length - 1].map((step, index) =>
        makeShape('text', { x: xOf(step), y: bottom + 20, 'text-anchor': index === 0 ? 'start' : 'end' }, [
          moments[step] ?? '',
        ]),
      ),
      makeShape('line', { class: 'cursor', visibility: 'hidden', y1: MARGIN.top, y2: bottom }),
    );
  };
  addCursor(plot, {
    label: 'Checkpoints of the run',
    count: () => moments.length,
    positionAt: (x) => Math.round(((x - MARGIN.left) / innerWidth(frame())) * (moments.length - 1)),
    describe: (step) => describeStep(step, moments, lines),
    onPoint: (step) => {
      const look =
        step === null ? { visibility: 'hidden' } : { visibility: 'visible', x1: xOf(step), x2: xOf(step) };
      setAttributes(plot.querySelector('.cursor'), look);
      readout.textContent =
        step === null
          ? 'Point at the chart, or move with the arrow keys.'
          : describeStep(step, moments, lines);
    },
  });
  readout.textContent = 'Point at the chart, or move with the arrow keys.';
  box.replaceChildren(
    makeElement('div', { class: 'chart-bar' }, [
      makeCheckbox('Logarithmic', (isChecked) => {
        state.isLog = isChecked;
        redraw();
      }),
      makeElement('span', { class: 'meaning', text: 'Output shift, of the layer’s own size' }),
    ]),
    plot,
    readout,
  );
  watchWidth(plot, (width) => {
    state.width = width;
    redraw();
  });
  lightRows(plot, lines);
}

function makeScale(lines: readonly Line[], isLog: boolean): Scale {
  let [least, most] = [Number.POSITIVE_INFINITY, 0];
  for (const { shifts } of lines)
    for (const shift of shifts) {
      if (!(shift > 0) || !Number.isFinite(shift)) continue;
      least = Math.min(least, shift);
      most = Math.max(most, shift);
    }
  if (most === 0) return scaleLinear().domain([0, 1]);
  if (!isLog) return scaleLinear().domain([0, most]).nice(5);
  return scaleLog()
    .domain([Math.max(least / 1.5, most / 10 ** MAX_DECADES), most * 1.1])
    .clamp(true);
}

/** One path for a layer; where a value is not known, the line is broken. */
function tracePath(shifts: Float32Array, xOf: (step: number) => number, scale: Scale): string {
  const [bottom = 0, top = 0] = scale.range();
  let path = '';
  let isOpen = false;
  shifts.forEach((shift, step) => {
    if (Number.isNaN(shift)) {
      isOpen = false;
      return;
    }
    const y = shift === 0 ? bottom : Number.isFinite(shift) ? scale(shift) : top;
    path += `${isOpen ? 'L' : 'M'}${xOf(step).toFixed(1)} ${y.toFixed(1)}`;
    isOpen = true;
  });
  return path;
}

function markOnset(x: number, label: string, width: number): readonly SVGElement[] {
  const isLeft = x > width / 2;
  return [
    makeShape('line', { class: 'onset', x1: x, x2: x, y1: MARGIN.top - 8, y2: HEIGHT - MARGIN.bottom }),
    makeShape(
      'text',
      {
        class: 'onset-label',
        x: isLeft ? x - 6 : x + 6,
        y: MARGIN.top - 8,
        'text-anchor': isLeft ? 'end' : 'start',
      },
      [`drift begins: ${label}`],
    ),
  ];
}

function describeStep(step: number, moments: readonly string[], lines: readonly Line[]): string {
  const known = lines
    .map(({ name, shifts }) => ({ name, shift: shifts[step] ?? Number.NaN }))
    .filter(({ shift }) => shift > 0)
    .sort((x, y) => y.shift - x.shift);
  const named = known.slice(0, NAMED_LAYERS).map(({ name, shift }) => `${name} ${formatMeasure(shift)}`);
  const rest = known.length - named.length;
  const moved = named.length === 0 ? 'no layer has moved' : named.join(', ');
  return `${moments[step] ?? ''}: ${moved}${rest > 0 ? ` and ${rest} more` : ''}`;
}

/** Lights the line of a layer while its row in the table is pointed at. */
function lightRows(plot: HTMLElement, lines: readonly Line[]): void {
  const indices = new Map(lines.map(({ name }, index) => [name, index]));
  const find = (event: Event) => {
    const cell = event.target instanceof Element ? event.target.closest('tr')?.querySelector('code') : null;
    const index = indices.get(cell?.textContent ?? '');
    return index === undefined ? null : plot.querySelectorAll('.lines path')[index];
  };
  const table = document.querySelector('#layers table');
  table?.addEventListener('pointerover', (event) => find(event)?.classList.add('lit'));
  table?.addEventListener('pointerout', (event) => find(event)?.classList.remove('lit'));
}

const box = document.getElementById('run-chart');
const data = document.getElementById('data')?.textContent;
if (box !== null && data != null) drawRun(box, JSON.parse(data) as TracePageData);
