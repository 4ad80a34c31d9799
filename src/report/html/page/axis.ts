import { type ScaleContinuousNumeric, scaleLinear } from 'd3-scale';
import { formatMeasure } from '../../format-numbers.js';

/** Values to mark on a vertical axis: round ones, few enough to read; on a logarithmic axis 1, 2 and 5, or 1 and 3, or decades. */
export function chooseTicks(
  scale: ScaleContinuousNumeric<number, number>,
  isLog: boolean,
): readonly number[] {
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
export function formatTick(value: number): string {
  const magnitude = Math.abs(value);
  if (value === 0 || (magnitude >= 1e-3 && magnitude < 1e5))
    return String(Number(value.toPrecision(3))).replace('-', '−');
  return formatMeasure(value).replace('.0e', 'e');
}
