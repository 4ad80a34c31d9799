// Sorts and filters the table of layers, and plots the channels of an opened one.

import { scaleLinear, scaleLog } from 'd3-scale';
import { formatCount, formatMeasure } from '../../format-numbers.js';
import { decodeNumbers } from '../channel-codec.js';
import type { PageChannels, PageData, PageLayer, PageStatistics } from '../page-data.js';
import { addCursor, drawFrame, type Frame, findPosition, innerWidth, type Scale } from './chart-frame.js';
import { makeElement, makeSegments, makeShape, setAttributes, watchWidth } from './dom.js';

/** The table of layers, brought to life. */
export interface LayerTable {
  readonly show: (layer: number) => void;
}

/** Makes the columns of a table in the markup sort, its rows open, and puts a filter above it. */
export function enhanceLayerTable(table: HTMLTableElement, filter: HTMLElement, data: PageData): LayerTable {
  const body = table.tBodies[0];
  if (body === undefined) return { show: () => {} };
  const rows = [...body.rows];
  const rest = addRest(table);
  const rowOf = new Map(rows.map((row) => [indexOf(row), row]));
  makeSortable(table, body, rows);
  const toggleRow = makeToggle(data);
  body.addEventListener('click', ({ target }) => {
    const row = target instanceof Element ? target.closest('.open')?.closest('tr') : null;
    if (row != null) toggleRow(row, findDetail(row)?.hidden !== false);
  });
  const clearFilter = addFilter(filter, { rows, layers: data.layers, onChange: rest.count });
  return {
    show: (layer) => {
      const row = rowOf.get(layer);
      if (row === undefined) return;
      if (row.hidden) clearFilter();
      if (!row.checkVisibility()) rest.show();
      toggleRow(row, true);
      row.scrollIntoView({ block: 'start' });
      row.querySelector<HTMLElement>('.open')?.focus({ preventScroll: true });
    },
  };
}

/** A long table begins with so many rows, as its style has it. */
const FIRST_ROWS = 25;

interface Rest {
  readonly show: () => void;
  /** Told how many rows the filter leaves. */
  readonly count: (rows: number) => void;
}

/** A button below a long table that shows the rest of it. */
function addRest(table: HTMLTableElement): Rest {
  const button = makeElement('button', { class: 'quiet rest', attributes: { type: 'button' } });
  const isShort = () => table.classList.contains('shortened');
  const show = () => {
    table.classList.remove('shortened');
    button.hidden = true;
  };
  button.addEventListener('click', show);
  table.closest('section')?.querySelector('#layer-rest')?.replaceChildren(button);
  return {
    show,
    count: (rows) => {
      button.textContent = `Show all ${formatCount(rows)} layers`;
      button.hidden = rows <= FIRST_ROWS || !isShort();
    },
  };
}

function indexOf(row: HTMLTableRowElement): number {
  return Number(row.id.slice('layer-'.length));
}

function makeSortable(
  table: HTMLTableElement,
  body: HTMLTableSectionElement,
  rows: readonly HTMLTableRowElement[],
): void {
  const headers = [...(table.tHead?.rows[0]?.cells ?? [])];
  headers.forEach((header, column) => {
    const button = makeElement('button', {
      class: 'sort',
      text: header.textContent ?? '',
      attributes: { type: 'button' },
    });
    header.replaceChildren(button);
    button.addEventListener('click', () => {
      const isNumber = header.classList.contains('number') && column > 0;
      const current = header.getAttribute('aria-sort');
      const isDescending = current === 'none' ? isNumber : current === 'ascending';
      const order = isDescending ? 'descending' : 'ascending';
      for (const other of headers) other.setAttribute('aria-sort', other === header ? order : 'none');
      body.append(...sortRows(rows, column, isDescending ? -1 : 1));
    });
  });
}

/** Rows in order, each with its opened panel behind it; cells without a value come last either way. */
function sortRows(
  rows: readonly HTMLTableRowElement[],
  column: number,
  sign: number,
): readonly HTMLElement[] {
  const keyed = rows.map((row, index) => {
    const cell = row.cells[column];
    const value = cell?.dataset['v'];
    return {
      row,
      index,
      text: cell?.textContent ?? '',
      value: value === undefined || value === '' ? null : Number(value),
      isNumber: value !== undefined,
    };
  });
  keyed.sort((x, y) => {
    if (!x.isNumber) return sign * TEXT_ORDER.compare(x.text, y.text) || x.index - y.index;
    if (x.value === null || y.value === null)
      return Number(x.value === null) - Number(y.value === null) || x.index - y.index;
    return sign * (weightOf(x.value) - weightOf(y.value)) || x.index - y.index;
  });
  return keyed.flatMap(({ row }) => {
    const detail = findDetail(row);
    return detail === null ? [row] : [row, detail];
  });
}

/** Names in natural order: layer2 before layer10. */
const TEXT_ORDER = new Intl.Collator('en', { numeric: true });

/** NaN and infinity are the worst; finite so that two of them subtract to zero. */
function weightOf(value: number): number {
  return Number.isFinite(value) ? value : Number.MAX_VALUE;
}

function findDetail(row: HTMLTableRowElement): HTMLElement | null {
  const next = row.nextElementSibling;
  return next instanceof HTMLElement && next.classList.contains('detail') ? next : null;
}

type ToggleRow = (row: HTMLTableRowElement, isOpen: boolean) => void;

/** Opens and closes rows; a row's panel is made when it first opens, and the channels are parsed with the first. */
function makeToggle({ layers, facts }: PageData): ToggleRow {
  let channels: readonly (PageChannels | null)[] | null = null;
  return (row, isOpen) => {
    const index = indexOf(row);
    const layer = layers[index];
    if (layer === undefined) return;
    let detail = findDetail(row);
    if (detail === null && isOpen) {
      channels ??= JSON.parse(
        document.getElementById('channels')?.textContent ?? '[]',
      ) as (PageChannels | null)[];
      detail = makeDetail(row.cells.length, { layer, labels: facts, channels: channels[index] ?? null });
      row.after(detail);
    }
    if (detail !== null) detail.hidden = !isOpen;
    row.classList.toggle('opened', isOpen);
    row.querySelector('.open')?.setAttribute('aria-expanded', String(isOpen));
  };
}

/** Longer values, which are names, get the room of two. */
const BROAD_LENGTH = 22;

interface DetailContents {
  readonly layer: PageLayer;
  readonly labels: readonly string[];
  readonly channels: PageChannels | null;
}

function makeDetail(columns: number, { layer, labels, channels }: DetailContents): HTMLElement {
  const facts = makeElement(
    'dl',
    { class: 'facts' },
    labels.flatMap((label, index) => {
      const value = layer.facts[index] ?? null;
      if (value === null) return [];
      const parts = [makeElement('dt', { text: label }), makeElement('dd', { text: value })];
      return [makeElement('div', value.length > BROAD_LENGTH ? { class: 'broad' } : {}, parts)];
    }),
  );
  const said = layer.findings.map(({ level, text }) =>
    makeElement('p', { class: 'said' }, [
      makeElement('span', { class: `level ${level}`, text: level }),
      text,
    ]),
  );
  const plots = makeElement('div');
  if (channels === null) {
    plots.append(makeElement('p', { class: 'faint', text: 'Statistics per channel are not in this page.' }));
  } else drawChannelPlots(plots, channels);
  const cell = makeElement('td', { attributes: { colspan: String(columns) } }, [
    makeElement('div', { class: 'detail-box' }, [...said, facts, plots]),
  ]);
  return makeElement('tr', { class: 'detail' }, [cell]);
}

interface FilterOptions {
  readonly rows: readonly HTMLTableRowElement[];
  readonly layers: readonly PageLayer[];
  /** Told how many rows are left. */
  readonly onChange: (count: number) => void;
}

/** A search field, one switch a status, and how many rows are left; returns what clears them all. */
function addFilter(box: HTMLElement, { rows, layers, onChange }: FilterOptions): () => void {
  const search = makeElement('input', {
    attributes: {
      type: 'search',
      placeholder: 'Filter by name',
      'aria-label': 'Filter layers by name',
      'aria-controls': 'layer-table',
      spellcheck: 'false',
    },
  });
  const output = makeElement('output', { attributes: { 'aria-live': 'polite' } });
  const pressed = new Set<string>();
  const apply = () => {
    const words = search.value
      .toLowerCase()
      .split(/\s+/)
      .filter((word) => word !== '');
    let count = 0;
    for (const row of rows) {
      const layer = layers[indexOf(row)];
      const name = layer?.name.toLowerCase() ?? '';
      row.hidden =
        !words.every((word) => name.includes(word)) ||
        (pressed.size > 0 && !pressed.has(layer?.status ?? ''));
      const detail = findDetail(row);
      if (detail !== null) detail.hidden = row.hidden || !row.classList.contains('opened');
      if (!row.hidden) count++;
    }
    output.textContent =
      count === rows.length
        ? `${formatCount(count)} layers`
        : `${formatCount(count)} of ${formatCount(rows.length)} layers`;
    onChange(count);
  };
  const chips = countStatuses(layers).map(([status, count]) => {
    const chip = makeElement(
      'button',
      { class: `chip is-${status}`, attributes: { type: 'button', 'aria-pressed': 'false' } },
      [makeElement('i', { class: 'dot' }), `${status} ${formatCount(count)}`],
    );
    chip.addEventListener('click', () => {
      const isPressed = !pressed.delete(status);
      if (isPressed) pressed.add(status);
      chip.setAttribute('aria-pressed', String(isPressed));
      apply();
    });
    return chip;
  });
  search.addEventListener('input', apply);
  box.replaceChildren(
    makeElement('div', { class: 'filter', attributes: { role: 'search' } }, [
      search,
      ...(chips.length > 1 ? chips : []),
      output,
    ]),
  );
  apply();
  return () => {
    search.value = '';
    pressed.clear();
    for (const chip of chips) chip.setAttribute('aria-pressed', 'false');
    apply();
  };
}

function countStatuses(layers: readonly PageLayer[]): readonly (readonly [status: string, count: number])[] {
  const counts = new Map<string, number>();
  for (const { status } of layers) counts.set(status, (counts.get(status) ?? 0) + 1);
  return [...counts].sort(([, x], [, y]) => y - x);
}

const HEIGHT = 230;
const MARGIN = { top: 10, right: 8, bottom: 12, left: 54 } as const;

interface Channel {
  readonly index: number;
  readonly before: { readonly mean: number; readonly variance: number };
  readonly after: { readonly mean: number; readonly variance: number } | null;
  /** (μB − μA) / σA. */
  readonly shift: number;
  /** σB / σA. */
  readonly ratio: number;
}

type Statistic = 'mean' | 'variance';

const ORDERS = ['Value before', 'Movement', 'Channel'] as const;

/** Draws mean and variance of a layer's channels before and after, with a table of the same numbers. */
function drawChannelPlots(box: HTMLElement, channels: PageChannels): void {
  const all = listChannels(channels);
  const hasAfter = channels.after !== null;
  const readout = makeElement('p', { class: 'readout' });
  const onPoint = (channel: Channel | null) => showReadout(readout, channel);
  const panels = [
    makePanel('Running mean', 'mean', onPoint),
    makePanel('Running variance', 'variance', onPoint),
  ];
  const state = { order: 0 };
  const redraw = () => {
    for (const panel of panels) panel.show(orderChannels(all, state.order, panel.statistic));
  };
  box.replaceChildren(
    makeElement('div', { class: 'chart-bar' }, [
      makeSegments('Order of the channels', {
        choices: hasAfter ? ORDERS : ORDERS.filter((order) => order !== 'Movement'),
        chosen: 0,
        onChoose: (index) => {
          state.order = hasAfter || index === 0 ? index : index + 1;
          redraw();
        },
      }),
      makeLegend(hasAfter),
      makeElement('span', { class: 'meaning', text: describeSelection(channels, all.length) }),
    ]),
    makeElement(
      'div',
      { class: 'plots' },
      panels.map(({ element }) => element),
    ),
    readout,
    makeTable(all, hasAfter),
  );
  showReadout(readout, null);
  redraw();
}

function listChannels({ before, after, epsilon, indices }: PageChannels): readonly Channel[] {
  const decode = ({ mean, variance }: PageStatistics) => ({
    mean: decodeNumbers(mean),
    variance: decodeNumbers(variance),
  });
  const left = decode(before);
  const right = after === 'same' ? left : after === null ? null : decode(after);
  return Array.from(left.mean, (mean, position) => {
    const variance = left.variance[position] ?? Number.NaN;
    const other =
      right === null
        ? null
        : { mean: right.mean[position] ?? Number.NaN, variance: right.variance[position] ?? Number.NaN };
    const std = Math.sqrt(variance + epsilon);
    return {
      index: indices?.[position] ?? position,
      before: { mean, variance },
      after: other,
      shift: other === null ? 0 : (other.mean - mean) / std,
      ratio: other === null ? 1 : Math.sqrt(other.variance + epsilon) / std,
    };
  });
}

function orderChannels(
  channels: readonly Channel[],
  order: number,
  statistic: Statistic,
): readonly Channel[] {
  const movement = ({ shift, ratio }: Channel) => (statistic === 'mean' ? shift : Math.log(ratio));
  const keyOf = (channel: Channel) => {
    const key = order === 0 ? channel.before[statistic] : order === 1 ? movement(channel) : channel.index;
    return Number.isNaN(key) ? Number.POSITIVE_INFINITY : key;
  };
  return [...channels].sort((x, y) => (keyOf(x) === keyOf(y) ? x.index - y.index : keyOf(x) - keyOf(y)));
}

function describeSelection({ total, after }: PageChannels, shown: number): string {
  const same = after === 'same' ? ' Before and after coincide.' : '';
  if (shown === total) return `All ${formatCount(total)} channels.${same}`;
  return after === null
    ? `${formatCount(shown)} of ${formatCount(total)} channels.`
    : `The ${formatCount(shown)} of ${formatCount(total)} channels that moved most.${same}`;
}

function makeLegend(hasAfter: boolean): HTMLElement {
  const key = (kind: 'before' | 'after', text: string) => {
    const mark = makeShape('path', { d: kind === 'before' ? 'M0 5H22' : 'M11 5h0.01', class: kind });
    const svg = makeShape('svg', { viewBox: '0 0 22 10', 'aria-hidden': 'true' }, [mark]);
    return makeElement('span', {}, [svg, text]);
  };
  return makeElement(
    'span',
    { class: 'legend' },
    hasAfter ? [key('before', 'before'), key('after', 'after')] : [key('before', 'stored')],
  );
}

interface Panel {
  readonly element: HTMLElement;
  readonly statistic: Statistic;
  readonly show: (channels: readonly Channel[]) => void;
}

/** @param onPoint told which channel is pointed at. */
function makePanel(title: string, statistic: Statistic, onPoint: (channel: Channel | null) => void): Panel {
  const plot = makeElement('div', { class: 'plot' });
  const heading = makeElement('h3', { text: title });
  const state = { channels: [] as readonly Channel[], width: 0 };
  const frame = (): Frame => ({ width: state.width, height: HEIGHT, margin: MARGIN });
  const draw = () => {
    if (state.width === 0) return;
    const isLog = drawPanel(plot, frame(), state.channels, statistic);
    heading.textContent = isLog ? `${title}, logarithmic` : title;
  };
  addCursor(plot, {
    label: `${title} by channel`,
    count: () => Math.max(1, state.channels.length),
    positionAt: (x) => findPosition(x, state.channels.length, frame()),
    describe: (position) => describeChannel(state.channels[position], statistic),
    onPoint: (position) => {
      const x = findMiddle(position ?? 0, state.channels.length, frame());
      const look = position === null ? { visibility: 'hidden' } : { visibility: 'visible', x1: x, x2: x };
      setAttributes(plot.querySelector('.cursor'), look);
      onPoint(position === null ? null : (state.channels[position] ?? null));
    },
  });
  watchWidth(plot, (width) => {
    state.width = width;
    draw();
  });
  return {
    element: makeElement('div', {}, [heading, plot]),
    statistic,
    show: (channels) => {
      state.channels = channels;
      draw();
    },
  };
}

/** The middle of one of `count` positions side by side, from the frame's left edge. */
function findMiddle(position: number, count: number, frame: Frame): number {
  return MARGIN.left + ((position + 0.5) / count) * innerWidth(frame);
}

function drawPanel(
  plot: HTMLElement,
  frame: Frame,
  channels: readonly Channel[],
  statistic: Statistic,
): boolean {
  const values = channels.flatMap(({ before, after }) => [
    before[statistic],
    after?.[statistic] ?? before[statistic],
  ]);
  const finite = values.filter(Number.isFinite);
  const isLog = statistic === 'variance' && finite.length > 0 && finite.every((value) => value > 0);
  const [min, max] = finite.length === 0 ? [0, 1] : [Math.min(...finite), Math.max(...finite)];
  const span = max === min ? Math.abs(max) || 1 : 0;
  const bottom = HEIGHT - MARGIN.bottom;
  const domain: Scale = isLog
    ? scaleLog().domain([min / 1.25, max * 1.25])
    : scaleLinear()
        .domain([min - span / 2, max + span / 2])
        .nice(5);
  const scale = domain.range([bottom, MARGIN.top]);
  const x = (position: number) => findMiddle(position, channels.length, frame);
  drawFrame(plot, frame, { scale, isLog }).append(
    ...makeSeries(channels, { statistic, x, y: scale }),
    makeShape('line', { class: 'cursor', visibility: 'hidden', y1: MARGIN.top, y2: bottom }),
  );
  return isLog;
}

interface SeriesOptions {
  readonly statistic: Statistic;
  readonly x: (position: number) => number;
  readonly y: (value: number) => number;
}

/** Before as a line, after as a dot on a stem from it: one path each, however many channels there are. */
function makeSeries(channels: readonly Channel[], { statistic, x, y }: SeriesOptions): readonly SVGElement[] {
  const [steps, stems, dots]: [string[], string[], string[]] = [[], [], []];
  channels.forEach((channel, position) => {
    const [before, after] = [channel.before[statistic], channel.after?.[statistic] ?? Number.NaN];
    // The line goes on from the channel before, where that has a value.
    const previous = channels[position - 1]?.before[statistic];
    const left = x(position).toFixed(1);
    const top = y(before).toFixed(1);
    if (Number.isFinite(before)) steps.push(`${Number.isFinite(previous) ? 'L' : 'M'}${left} ${top}`);
    if (!Number.isFinite(after)) return;
    if (Number.isFinite(before)) stems.push(`M${left} ${top}V${y(after).toFixed(1)}`);
    dots.push(`M${left} ${y(after).toFixed(1)}h.01`);
  });
  const size = Math.max(1.8, Math.min(5, 900 / Math.max(1, channels.length)));
  return [
    makeShape('path', { class: 'stem', 'stroke-width': Math.min(1.5, size / 2), d: stems.join('') }),
    makeShape('path', { class: 'before', d: steps.join('') }),
    makeShape('path', { class: 'after', 'stroke-width': size, d: dots.join('') }),
  ];
}

function describeChannel(channel: Channel | undefined, statistic: Statistic): string {
  if (channel === undefined) return '';
  const after = channel.after === null ? '' : `, after ${formatMeasure(channel.after[statistic])}`;
  return `channel ${channel.index}: ${channel.after === null ? '' : 'before '}${formatMeasure(channel.before[statistic])}${after}`;
}

function showReadout(readout: HTMLElement, channel: Channel | null): void {
  if (channel === null) {
    readout.textContent = 'Point at a channel, or move with the arrow keys.';
    return;
  }
  const { index, before, after, shift, ratio } = channel;
  const pair = (statistic: Statistic) =>
    after === null
      ? formatMeasure(before[statistic])
      : `${formatMeasure(before[statistic])} → ${formatMeasure(after[statistic])}`;
  const value = (text: string) => makeElement('b', { text });
  readout.replaceChildren(
    `Channel ${index}: mean `,
    value(pair('mean')),
    ...(after === null ? [] : [` (${formatMeasure(shift)} σ)`]),
    ', variance ',
    value(pair('variance')),
    ...(after === null ? [] : [` (σ × ${formatMeasure(ratio)})`]),
  );
}

/** The numbers as a table, made when it is first opened. */
function makeTable(channels: readonly Channel[], hasAfter: boolean): HTMLElement {
  const details = makeElement('details', { class: 'channel-table' }, [
    makeElement('summary', { text: 'These channels as a table' }),
  ]);
  details.addEventListener('toggle', () => details.append(fillTable(channels, hasAfter)), { once: true });
  return details;
}

function fillTable(channels: readonly Channel[], hasAfter: boolean): HTMLElement {
  const titles = hasAfter
    ? [
        'Channel',
        'Mean before',
        'Mean after',
        'Mean shift, σ',
        'Variance before',
        'Variance after',
        'Std ratio',
      ]
    : ['Channel', 'Mean', 'Variance'];
  const head = makeElement(
    'tr',
    {},
    titles.map((text) => makeElement('th', { class: 'number', text, attributes: { scope: 'col' } })),
  );
  const rows = channels.map(({ index, before, after, shift, ratio }) => {
    const numbers =
      after === null
        ? [before.mean, before.variance]
        : [before.mean, after.mean, shift, before.variance, after.variance, ratio];
    return makeElement('tr', {}, [
      makeElement('th', { class: 'number', text: String(index), attributes: { scope: 'row' } }),
      ...numbers.map((value) => makeElement('td', { class: 'number', text: formatMeasure(value) })),
    ]);
  });
  const table = makeElement('table', {}, [makeElement('thead', {}, [head]), makeElement('tbody', {}, rows)]);
  return makeElement(
    'div',
    { class: 'panel scroll', attributes: { tabindex: '0', role: 'region', 'aria-label': 'Channels' } },
    [table],
  );
}
