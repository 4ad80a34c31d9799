// The page's script for one report, with the chart of layers.

import { scaleLinear, scaleLog } from 'd3-scale';
import { formatMeasure } from '../../format-numbers.js';
import type { PageData, PageLayer, PageMeasure } from '../page-data.js';
import { addCursor, drawFrame, type Frame, findPosition, innerWidth, type Scale } from './chart-frame.js';
import { makeCheckbox, makeElement, makeSegments, makeShape, setAttributes, watchWidth } from './dom.js';
import './theme.js';
import { enhanceLayerTable, type LayerTable } from './layer-table.js';

/** Brings the page to life: everything it needs stands in it. */
function start(): void {
  const data: PageData = JSON.parse(find('data').textContent ?? '');
  addCopyButtons();
  const table = enhanceLayerTable(find('layer-table') as HTMLTableElement, find('layer-filter'), data);
  // A page on which nothing moved has none.
  const chart = document.getElementById('layer-chart');
  if (chart !== null)
    drawChart(chart, data, (layer) => {
      const hash = `#layer-${layer}`;
      // A second click on the same bar changes no address, and should still lead to the layer.
      if (location.hash === hash) table.show(layer);
      else location.hash = hash;
    });
  if (!followAddress(table) && data.opened !== null) openQuietly(data.opened);
  addEventListener('hashchange', () => followAddress(table));
}

function find(id: string): HTMLElement {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`the page has no element ${id}`);
  return element;
}

/** Opens the layer that the page's address names, as links in the page do. */
function followAddress(table: LayerTable): boolean {
  const [, layer] = /^#layer-(\d+)$/.exec(location.hash) ?? [];
  if (layer === undefined) return false;
  table.show(Number(layer));
  return true;
}

/** Opens the worst layer's row without moving the page or the focus. */
function openQuietly(layer: number): void {
  document.getElementById(`layer-${layer}`)?.querySelector<HTMLElement>('.open')?.click();
}

function addCopyButtons(): void {
  if (navigator.clipboard === undefined) return;
  for (const caption of document.querySelectorAll('#fix figcaption')) {
    const button = makeElement('button', { class: 'quiet', text: 'Copy', attributes: { type: 'button' } });
    button.addEventListener('click', async () => {
      const code = caption.parentElement?.querySelector('pre')?.textContent ?? '';
      try {
        await navigator.clipboard.writeText(code);
        button.textContent = 'Copied';
      } catch {
        button.textContent = 'Not allowed';
      }
    });
    caption.append(button);
  }
}

const HEIGHT = 300;
const MARGIN = { top: 14, right: 6, bottom: 46, left: 52 } as const;
const STATUS_STRIP_HEIGHT = 5;
const BAND_HEIGHT = 20;
const MAX_BANDS = 14;
const MAX_BAR_WIDTH = 36;

/** A logarithmic axis shows so many decades below the largest value at most. */
const MAX_DECADES = 7;

/**
 * Draws the chart of layers: one bar a layer, coloured by status, with the modules under the axis.
 *
 * @param onChoose told which layer a reader clicked, or chose with Enter.
 */
function drawChart(box: HTMLElement, data: PageData, onChoose: (layer: number) => void): void {
  const { layers, measures } = data;
  const state = { measure: 0, isLog: false, width: 0, pointed: null as number | null };
  const meaning = makeElement('span', { class: 'meaning' });
  const plot = makeElement('div', { class: 'plot' });
  const readout = makeElement('p', { class: 'readout' });
  const frame = (): Frame => ({ width: state.width, height: HEIGHT, margin: MARGIN });
  const redraw = () => {
    const measure = measures[state.measure];
    if (measure === undefined || state.width === 0) return;
    const isBroken = layers.some(({ values }) => isNoNumber(values[state.measure]));
    meaning.textContent = `${measure.meaning.replace(/^./, (letter) => letter.toUpperCase())}.${isBroken ? ' A cross: not a finite number.' : ''}`;
    drawBars(plot, frame(), { ...state, layers });
    showReadout(readout, state.pointed === null ? null : (layers[state.pointed] ?? null), measures);
  };
  const { moveTo } = addCursor(plot, {
    label: box.parentElement?.querySelector('h2')?.textContent ?? '',
    count: () => layers.length,
    positionAt: (x) => findPosition(x, layers.length, frame()),
    describe: (position) => describeLayer(layers[position], measures[state.measure], state.measure),
    onPoint: (position) => {
      state.pointed = position;
      movePointer(plot, position, innerWidth(frame()) / layers.length);
      showReadout(readout, position === null ? null : (layers[position] ?? null), measures);
    },
    onChoose,
  });
  if (data.opened !== null) moveTo(data.opened);
  box.replaceChildren(
    makeElement('div', { class: 'chart-bar' }, [
      makeSegments('Measure', {
        choices: measures.map(({ label }) => label),
        chosen: 0,
        onChoose: (index) => {
          state.measure = index;
          redraw();
        },
      }),
      makeCheckbox('Logarithmic', (isChecked) => {
        state.isLog = isChecked;
        redraw();
      }),
      meaning,
    ]),
    plot,
    readout,
  );
  watchWidth(plot, (width) => {
    state.width = width;
    redraw();
  });
}

interface BarOptions {
  readonly layers: readonly PageLayer[];
  readonly measure: number;
  readonly isLog: boolean;
  readonly pointed: number | null;
}

function drawBars(plot: HTMLElement, frame: Frame, { layers, measure, isLog, pointed }: BarOptions): void {
  const values = layers.map((layer) => Math.abs(Number(layer.values[measure] ?? 0)));
  const bottom = HEIGHT - MARGIN.bottom;
  const scale = makeScale(values, isLog).range([bottom, MARGIN.top]);
  const step = innerWidth(frame) / layers.length;
  const gap = step > 6 ? 2 : step > 3 ? 1 : 0;
  const width = Math.min(MAX_BAR_WIDTH, Math.max(step - gap, 0.6));
  const bars = layers.map(({ status }, layer) => {
    const y = topOf(values[layer] ?? 0, scale);
    const x = MARGIN.left + (layer + 0.5) * step - width / 2;
    const height = Math.max(0, bottom - y);
    if (isNoNumber(layers[layer]?.values[measure])) return makeCross(status, x + width / 2, bottom - 9);
    return makeShape('rect', { class: `is-${status}`, x, width, y, height, rx: Math.min(2, step / 4) });
  });
  const [x1, x2] = [MARGIN.left, MARGIN.left + innerWidth(frame)];
  drawFrame(plot, frame, { scale, isLog }).append(
    makeShape('g', {}, bars),
    makeShape('line', { class: 'base', x1, x2, y1: bottom, y2: bottom }),
    makeShape('g', {}, makeStrip(layers, step, bottom + 4)),
    makeShape('g', {}, makeBands(layers, step, bottom + 4 + STATUS_STRIP_HEIGHT + 5)),
    makeShape('rect', { class: 'hover', y: MARGIN.top, height: bottom - MARGIN.top }),
  );
  movePointer(plot, pointed, step);
}

/** Whether a value is one that JSON has no number for: NaN or infinite. */
function isNoNumber(value: PageLayer['values'][number] | undefined): boolean {
  return typeof value === 'string';
}

/** Stands for a value that has no length: a bar of any would lie. */
function makeCross(status: string, x: number, y: number): SVGElement {
  return makeShape('path', { class: `cross is-${status}`, d: `M${x - 4} ${y - 4}l8 8m0-8l-8 8` });
}

/** From zero, or over as many decades as there are. */
function makeScale(values: readonly number[], isLog: boolean): Scale {
  const finite = values.filter((value) => Number.isFinite(value) && value > 0);
  const max = finite.length === 0 ? 1 : Math.max(...finite);
  if (!isLog) return scaleLinear().domain([0, max]).nice(5);
  const min = finite.length === 0 ? 0.1 : Math.min(...finite);
  return scaleLog()
    .domain([Math.max(min / 1.5, max / 10 ** MAX_DECADES), max * 1.1])
    .clamp(true);
}

function topOf(value: number, scale: Scale): number {
  if (value === 0) return scale.range()[0] ?? 0;
  return scale(value);
}

/** A thin strip of statuses: a layer that did not move has no bar, yet is there. */
function makeStrip(layers: readonly PageLayer[], step: number, y: number): readonly SVGElement[] {
  return findRuns(layers.map(({ status }) => status)).map(({ label, start, length }) => {
    const width = Math.max(length * step - (step > 3 ? 1 : 0), 0.6);
    const x = MARGIN.left + start * step;
    return makeShape('rect', { class: `is-${label}`, x, width, y, height: STATUS_STRIP_HEIGHT, rx: 1.5 });
  });
}

/** The modules that the layers belong to, at the deepest level that still has room for their names. */
function makeBands(layers: readonly PageLayer[], step: number, y: number): readonly SVGElement[] {
  return chooseBands(layers).map(({ label, start, length }, index) => {
    const [x, width] = [MARGIN.left + start * step, length * step];
    const look = { class: index % 2 === 0 ? 'band' : 'band odd', height: BAND_HEIGHT, rx: 3 };
    const place = { class: 'band-label', 'text-anchor': 'middle', x: x + width / 2, y: y + 14 };
    return makeShape('g', {}, [
      makeShape('rect', { ...look, x, y, width: Math.max(width - 1, 1) }),
      makeShape('text', place, [fitLabel(label, width - 8)]),
    ]);
  });
}

/** Width of a character of a band's label, in pixels. */
const CHARACTER_WIDTH = 7;

function fitLabel(label: string, width: number): string {
  const last = label.slice(label.lastIndexOf('.') + 1);
  if (label.length * CHARACTER_WIDTH <= width) return label;
  return last.length * CHARACTER_WIDTH <= width ? last : '';
}

interface Run {
  readonly label: string;
  readonly start: number;
  length: number;
}

function chooseBands(layers: readonly PageLayer[]): readonly Run[] {
  const paths = layers.map(({ name }) => name.split('.').slice(0, -1));
  let chosen: readonly Run[] = [];
  for (let depth = 1; depth <= 6; depth++) {
    const runs = findRuns(paths.map((path) => path.slice(0, depth).join('.')));
    if (runs.length > MAX_BANDS) break;
    chosen = runs;
  }
  return chosen;
}

function findRuns(labels: readonly string[]): readonly Run[] {
  const runs: Run[] = [];
  labels.forEach((label, index) => {
    const last = runs.at(-1);
    if (last?.label === label) last.length++;
    else runs.push({ label, start: index, length: 1 });
  });
  return runs;
}

function movePointer(plot: HTMLElement, position: number | null, step: number): void {
  const width = Math.max(step, 2);
  const x = MARGIN.left + ((position ?? 0) + 0.5) * step - width / 2;
  const look = position === null ? { visibility: 'hidden' } : { visibility: 'visible', x, width };
  setAttributes(plot.querySelector('.hover'), look);
}

function showReadout(readout: HTMLElement, layer: PageLayer | null, measures: readonly PageMeasure[]): void {
  if (layer === null) {
    readout.textContent =
      'Point at a bar, or move with the arrow keys; click or press Enter to open the layer.';
    return;
  }
  const parts = measures.flatMap(({ label, unit }, index) => [
    `, ${label.toLowerCase()} `,
    makeElement('b', { text: showValue(layer.values[index] ?? null, unit) }),
  ]);
  readout.replaceChildren(
    makeElement('bdi', { class: 'name', text: layer.name }),
    ` ${layer.status}`,
    ...parts,
  );
}

function describeLayer(
  layer: PageLayer | undefined,
  measure: PageMeasure | undefined,
  index: number,
): string {
  if (layer === undefined || measure === undefined) return '';
  return `${layer.name}: ${layer.status}, ${measure.label.toLowerCase()} ${showValue(layer.values[index] ?? null, measure.unit)}`;
}

function showValue(value: number | string | null, unit: string): string {
  if (value === null) return '–';
  const number = Number(value);
  if (unit.startsWith('×')) return `× ${formatMeasure(number + 1)}`;
  return unit === '' ? formatMeasure(number) : `${formatMeasure(number)} ${unit}`;
}

start();
