import { axisLeft } from 'd3-axis';
import type { ScaleContinuousNumeric } from 'd3-scale';
import { type Selection, select } from 'd3-selection';
import { chooseTicks, formatTick } from './axis.js';

/** A drawing of a plot. */
export type Svg = Selection<SVGSVGElement, null, HTMLElement, unknown>;

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
): Svg {
  const svg: Svg = select<HTMLElement, unknown>(plot)
    .selectAll<SVGSVGElement, null>('svg')
    .data([null])
    .join('svg')
    .attr('viewBox', `0 0 ${frame.width} ${frame.height}`)
    .attr('aria-hidden', 'true');
  svg.selectAll('*').remove();
  svg
    .append('g')
    .attr('transform', `translate(${frame.margin.left},0)`)
    .call(
      axisLeft(scale)
        .tickValues([...chooseTicks(scale, isLog)])
        .tickSize(-innerWidth(frame))
        .tickFormat((value) => formatTick(Number(value))),
    );
  return svg;
}
