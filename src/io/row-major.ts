// Arrays in row-major order, in which the last index counts up first: their sizes, strides and places.

/** How many elements a shape has; no longer exact beyond 2^53. */
export function countElements(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** How many elements apart neighbours along each axis are: `[12, 4, 1]` for `[2, 3, 4]`. */
export function stridesOf(shape: readonly number[]): readonly number[] {
  return shape.map((_, axis) => countElements(shape.slice(axis + 1)));
}

/** The place of an element by its index: 7 for `[1, 3]` in `[2, 4]`. */
export function placeOf(index: readonly number[], shape: readonly number[]): number {
  return index.reduce((place, at, axis) => place * (shape[axis] ?? 1) + at, 0);
}

/** The index of the element at a place: `[1, 3]` for 7 in `[2, 4]`. */
export function indexAt(place: number, shape: readonly number[]): readonly number[] {
  let rest = place;
  return shape
    .toReversed()
    .map((size) => {
      const at = rest % size;
      rest = Math.floor(rest / size);
      return at;
    })
    .reverse();
}
