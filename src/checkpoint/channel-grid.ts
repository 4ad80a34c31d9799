/** How a weight's elements belong to output channels. */
export interface ChannelLayout {
  /** The axis that counts output channels: 0 for Conv and Linear, 1 for ConvTranspose and a Gemm without transB. */
  readonly outputAxis: number;
  /** Groups of a ConvTranspose, whose output channels count within each group of input channels; else 1. */
  readonly groups: number;
}

/** Where an element's output channel follows from its index. */
export interface ChannelGrid {
  readonly channels: number;
  /** Elements that stand together within one channel. */
  readonly inner: number;
  /** Channels along the output axis of the stored shape. */
  readonly along: number;
  /** Steps of the axis before it within one group; 0 where the output axis is the first. */
  readonly rowsPerGroup: number;
}

/** Whether a layout fits a shape: the axis exists, and the groups divide what comes before it. */
export function fitsShape(shape: readonly number[], { outputAxis, groups }: ChannelLayout): boolean {
  if (!(outputAxis >= 0 && outputAxis < shape.length && Number.isInteger(groups) && groups > 0)) return false;
  const before = shape.slice(0, outputAxis).reduce((total, size) => total * size, 1);
  return outputAxis === 0 ? groups === 1 : before % groups === 0;
}

/** The grid of a weight's shape. */
export function layOutChannels(shape: readonly number[], { outputAxis, groups }: ChannelLayout): ChannelGrid {
  const product = (sizes: readonly number[]) => sizes.reduce((total, size) => total * size, 1);
  const along = shape[outputAxis] ?? 0;
  const inner = product(shape.slice(outputAxis + 1));
  if (outputAxis === 0) return { channels: along, inner, along, rowsPerGroup: 0 };
  return {
    channels: along * groups,
    inner,
    along,
    rowsPerGroup: product(shape.slice(0, outputAxis)) / groups,
  };
}

/** Elements `from` to `to` of a piece all belong to `channel`, the first of them as its element number `within`. */
export type VisitRun = (channel: number, from: number, to: number, within: number) => boolean;

/**
 * Calls back for each run of elements of one channel in a piece of a weight, until one returns false.
 *
 * @param start index in the weight of the piece's first element.
 */
export function forEachRun(
  { inner, along, rowsPerGroup }: ChannelGrid,
  { start, length }: { readonly start: number; readonly length: number },
  visit: VisitRun,
): boolean {
  let position = 0;
  while (position < length) {
    const run = Math.floor((start + position) / inner);
    const end = Math.min(length, (run + 1) * inner - start);
    const offset = start + position - run * inner;
    const row = Math.floor(run / along);
    const isFirstAxis = rowsPerGroup === 0;
    const channel = isFirstAxis ? run : Math.floor(row / rowsPerGroup) * along + (run % along);
    const within = isFirstAxis ? offset : (row % rowsPerGroup) * inner + offset;
    if (!visit(channel, position, end, within)) return false;
    position = end;
  }
  return true;
}
