// What every chart has: axes, frame and a cursor.

import { axisLeft } from 'd3-axis';
import { type ScaleContinuousNumeric, scaleLinear } from 'd3-scale';
import { select } from 'd3-selection';
import { formatMeasure } from '../../format-numbers.js';
import { makeShape } from './dom.js';

/** Values to mark on a vertical axis: round ones, few enough to read; on a logarithmic axis 1, 2 and 5, or 1 and 3, or decades. */
function chooseTicks(scale: ScaleContinuousNumeric<number, number>, isLog: boolean): readonly number[] {
  const [low = 0, high = 1] = scale.domain();
  if (!isLog) return scale.ticks(5);
  const leads = high / low > 1000 ? [1] : high / low > 20 ? [1, 3] : [1, 2, 5];
  const marked = scale
    .ticks(10)
    .filter((tick) => leads.includes(Math.round(tick / 10 ** Math.floor(Math.log10(tick) + 1e-9))));
  return marked.length >= 2
    ? marked
    : scaleLinear()
        .domain([low, high])
        .ticks(4)
        .filter((tick) => tick > 0);
}

/** A tick's value without digits that say nothing: `0.6`, `1e-5`. */
function formatTick(value: number): string {
  const magnitude = Math.abs(value);
  if (value === 0 || (magnitude >= 1e-3 && magnitude < 1e5))
    return String(Number(value.toPrecision(3))).replace('-', '−');
  return formatMeasure(value).replace('.0e', 'e');
}

/** A plot whose horizontal axis has `count` positions, of which one at a time is pointed at. */
interface CursorOptions {
  readonly label: string;
  readonly count: () => number;
  /** The position under a distance from the plot's left edge, in the plot's own units. */
  readonly positionAt: (x: number) => number;
  /** Says a position in words, for screen readers. */
  readonly describe: (position: number) => string;
  readonly onPoint: (position: number | null) => void;
  readonly onChoose?: (position: number) => void;
}

/** Positions that Page Up and Page Down skip. */
const PAGE = 10;

/**
 * Lets the mouse and the keyboard point at a plot's positions. For assistive technology the plot is a slider, whose
 * value is read out: arrows move by one, Page Up and Down by ten, Home and End to the ends, Enter chooses.
 */
export function addCursor(
  plot: HTMLElement,
  options: CursorOptions,
): { readonly moveTo: (position: number) => void } {
  let current = 0;
  plot.tabIndex = 0;
  plot.setAttribute('role', 'slider');
  plot.setAttribute('aria-label', options.label);
  const say = () => {
    plot.setAttribute('aria-valuemin', '1');
    plot.setAttribute('aria-valuemax', String(options.count()));
    plot.setAttribute('aria-valuenow', String(current + 1));
    plot.setAttribute('aria-valuetext', options.describe(current));
  };
  const moveTo = (position: number) => {
    current = Math.max(0, Math.min(options.count() - 1, position));
    say();
  };
  const pointAt = (position: number) => {
    moveTo(position);
    options.onPoint(current);
  };
  const positionOf = (event: MouseEvent) => {
    const { left, width } = plot.getBoundingClientRect();
    const units = plot.querySelector('svg')?.viewBox.baseVal.width ?? width;
    return options.positionAt(((event.clientX - left) / width) * units);
  };
  say();
  plot.addEventListener('pointermove', (event) => pointAt(positionOf(event)));
  plot.addEventListener('pointerleave', () => options.onPoint(null));
  plot.addEventListener('focus', () => {
    if (plot.matches(':focus-visible')) pointAt(current);
  });
  plot.addEventListener('blur', () => options.onPoint(null));
  plot.addEventListener('click', (event) => options.onChoose?.(positionOf(event)));
  plot.addEventListener('keydown', (event) => {
    const target = keyTarget(event.key, current, options.count());
    if (target !== null) pointAt(target);
    else if (event.key === 'Enter') options.onChoose?.(current);
    else return;
    event.preventDefault();
  });
  return { moveTo };
}

function keyTarget(key: string, current: number, count: number): number | null {
  const targets: Readonly<Record<string, number>> = {
    ArrowRight: current + 1,
    ArrowUp: current + 1,
    ArrowLeft: current - 1,
    ArrowDown: current - 1,
    PageUp: current + PAGE,
    PageDown: current - PAGE,
    Home: 0,
    End: count - 1,
  };
  return targets[key] ?? null;
}

/** A vertical scale, linear or logarithmic. */
export type Scale = ScaleContinuousNumeric<number, number>;

/** The size of a chart in pixels, and the room around what is drawn in it. */
export interface Frame {
  readonly width: number;
  readonly height: number;
  readonly margin: {
    readonly top: number;
    readonly right: number;
    readonly bottom: number;
    readonly left: number;
  };
}

/** The width that a frame leaves to draw in. */
export function innerWidth({ width, margin }: Frame): number {
  return Math.max(1, width - margin.left - margin.right);
}

/** Which of `count` positions side by side lies under a distance from a frame's left edge. */
export function findPosition(x: number, count: number, frame: Frame): number {
  const position = Math.floor(((x - frame.margin.left) / innerWidth(frame)) * count);
  return Math.max(0, Math.min(count - 1, position));
}

/** Empties a plot and draws its vertical axis, with a line across at each tick. */
export function drawFrame(
  plot: HTMLElement,
  frame: Frame,
  { scale, isLog }: { readonly scale: Scale; readonly isLog: boolean },
): SVGElement {
  const axis = makeShape('g', { transform: `translate(${frame.margin.left},0)` });
  select(axis).call(
    axisLeft(scale)
      .tickValues([...chooseTicks(scale, isLog)])
      .tickSize(-innerWidth(frame))
      .tickFormat((value) => formatTick(Number(value))),
  );
  const svg = makeShape('svg', { viewBox: `0 0 ${frame.width} ${frame.height}`, 'aria-hidden': 'true' }, [
    axis,
  ]);
  plot.replaceChildren(svg);
  return svg;
}
