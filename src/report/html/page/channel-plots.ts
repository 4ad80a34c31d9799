// The plots of one layer's channels.

import { scaleLinear, scaleLog } from 'd3-scale';
import { select } from 'd3-selection';
import { formatCount, formatMeasure } from '../../format-numbers.js';
import { decodeNumbers } from '../channel-codec.js';
import type { PageChannels, PageStatistics } from '../page-data.js';
import {
  addCursor,
  drawFrame,
  type Frame,
  findPosition,
  innerWidth,
  type Scale,
  type Svg,
} from './chart-frame.js';
import { makeElement, makeSegments, watchWidth } from './dom.js';

const HEIGHT = 230;
const MARGIN = { top: 10, right: 8, bottom: 12, left: 54 } as const;

/** One channel of a layer; after is null where there is nothing to compare with. */
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
export function drawChannelPlots(box: HTMLElement, channels: PageChannels): void {
  const all = listChannels(channels);
  const hasAfter = channels.after !== null;
  const panels = [makePanel('Running mean', 'mean'), makePanel('Running variance', 'variance')] as const;
  const readout = makeElement('p', { class: 'readout' });
  const state = { order: 0 };
  const redraw = () => {
    for (const panel of panels) panel.show(orderChannels(all, state.order, panel.statistic));
  };
  for (const panel of panels) panel.onPoint = (channel) => showReadout(readout, channel);
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
    const item = makeElement('span', {}, []);
    const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    svg.setAttribute('viewBox', '0 0 22 10');
    svg.setAttribute('aria-hidden', 'true');
    const mark = document.createElementNS('http://www.w3.org/2000/svg', 'path');
    mark.setAttribute('d', kind === 'before' ? 'M0 5H22' : 'M11 5h0.01');
    mark.setAttribute('class', kind);
    svg.append(mark);
    item.append(svg, text);
    return item;
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
  onPoint: (channel: Channel | null) => void;
}

function makePanel(title: string, statistic: Statistic): Panel {
  const plot = makeElement('div', { class: 'plot' });
  const heading = makeElement('h3', { text: title });
  const state = { channels: [] as readonly Channel[], width: 0 };
  const frame = (): Frame => ({ width: state.width, height: HEIGHT, margin: MARGIN });
  const draw = () => {
    if (state.width === 0) return;
    const isLog = drawPanel(plot, frame(), { channels: state.channels, statistic });
    heading.textContent = isLog ? `${title}, logarithmic` : title;
  };
  const panel: Panel = {
    element: makeElement('div', {}, [heading, plot]),
    statistic,
    show: (channels) => {
      state.channels = channels;
      draw();
    },
    onPoint: () => {},
  };
  addCursor(plot, {
    label: `${title} by channel`,
    count: () => Math.max(1, state.channels.length),
    positionAt: (x) => findPosition(x, state.channels.length, frame()),
    describe: (position) => describeChannel(state.channels[position], statistic),
    onPoint: (position) => {
      const channel = position === null ? null : (state.channels[position] ?? null);
      const x =
        position === null
          ? null
          : MARGIN.left + ((position + 0.5) / state.channels.length) * innerWidth(frame());
      select(plot)
        .select('.cursor')
        .attr('visibility', x === null ? 'hidden' : 'visible')
        .attr('x1', x)
        .attr('x2', x);
      panel.onPoint(channel);
    },
  });
  watchWidth(plot, (width) => {
    state.width = width;
    draw();
  });
  return panel;
}

interface PanelOptions {
  readonly channels: readonly Channel[];
  readonly statistic: Statistic;
}

/** Draws one statistic; tells whether its axis is logarithmic. */
function drawPanel(plot: HTMLElement, frame: Frame, { channels, statistic }: PanelOptions): boolean {
  const values = channels.flatMap(({ before, after }) => [
    before[statistic],
    after?.[statistic] ?? before[statistic],
  ]);
  const finite = values.filter(Number.isFinite);
  const isLog = statistic === 'variance' && finite.length > 0 && finite.every((value) => value > 0);
  const [min, max] = finite.length === 0 ? [0, 1] : [Math.min(...finite), Math.max(...finite)];
  const span = max === min ? Math.abs(max) || 1 : 0;
  const bottom = HEIGHT - MARGIN.bottom;
  const y: Scale = isLog
    ? scaleLog()
        .domain([min / 1.25, max * 1.25])
        .range([bottom, MARGIN.top])
    : scaleLinear()
        .domain([min - span / 2, max + span / 2])
        .nice(5)
        .range([bottom, MARGIN.top]);
  const x = scaleLinear()
    .domain([0, channels.length])
    .range([MARGIN.left, MARGIN.left + innerWidth(frame)]);
  const svg = drawFrame(plot, frame, { scale: y, isLog });
  drawSeries(svg, { channels, statistic, x: (position) => x(position + 0.5), y });
  svg
    .append('line')
    .attr('class', 'cursor')
    .attr('visibility', 'hidden')
    .attr('y1', MARGIN.top)
    .attr('y2', bottom);
  return isLog;
}

interface SeriesOptions {
  readonly channels: readonly Channel[];
  readonly statistic: Statistic;
  readonly x: (position: number) => number;
  readonly y: (value: number) => number;
}

/** Before as a line, after as a dot on a stem from it: one path each, however many channels there are. */
function drawSeries(svg: Svg, { channels, statistic, x, y }: SeriesOptions): void {
  const [steps, stems, dots]: [string[], string[], string[]] = [[], [], []];
  channels.forEach((channel, position) => {
    const [before, after] = [channel.before[statistic], channel.after?.[statistic] ?? Number.NaN];
    const left = x(position).toFixed(1);
    const top = y(before).toFixed(1);
    if (Number.isFinite(before))
      steps.push(`${isDrawn(channels[position - 1], statistic) ? 'L' : 'M'}${left} ${top}`);
    if (!Number.isFinite(after)) return;
    if (Number.isFinite(before)) stems.push(`M${left} ${top}V${y(after).toFixed(1)}`);
    dots.push(`M${left} ${y(after).toFixed(1)}h.01`);
  });
  const size = Math.max(1.8, Math.min(5, 900 / Math.max(1, channels.length)));
  svg
    .append('path')
    .attr('class', 'stem')
    .attr('stroke-width', Math.min(1.5, size / 2))
    .attr('d', stems.join(''));
  svg.append('path').attr('class', 'before').attr('d', steps.join(''));
  svg.append('path').attr('class', 'after').attr('stroke-width', size).attr('d', dots.join(''));
}

/** Whether the line of before goes through a channel. */
function isDrawn(channel: Channel | undefined, statistic: Statistic): boolean {
  return channel !== undefined && Number.isFinite(channel.before[statistic]);
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
