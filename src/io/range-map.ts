import type { ByteRange, ByteSource } from './byte-source.js';

/**
 * A map by pieces of sources: two ranges of the same bytes of one source are one key, whoever made them, unless they are
 * told to be read as something else. E.g. all empty tensors may lie in one place.
 */
export class RangeMap<Value> {
  readonly #bySource = new Map<
    ByteSource,
    Map<string, { readonly range: ByteRange; readonly value: Value }>
  >();

  get(range: ByteRange, readAs = ''): Value | undefined {
    return this.#bySource.get(range.source)?.get(keyOf(range, readAs))?.value;
  }

  has(range: ByteRange, readAs = ''): boolean {
    return this.#bySource.get(range.source)?.has(keyOf(range, readAs)) === true;
  }

  set(range: ByteRange, value: Value, readAs = ''): void {
    const key = keyOf(range, readAs);
    const inSource = this.#bySource.get(range.source);
    if (inSource === undefined) this.#bySource.set(range.source, new Map([[key, { range, value }]]));
    else inSource.set(key, { range: inSource.get(key)?.range ?? range, value });
  }

  /** Sources in the order in which they turned up; within each, ranges by their offset. */
  inFileOrder(): readonly Value[] {
    return [...this.#bySource.values()].flatMap((inSource) =>
      [...inSource.values()].sort((x, y) => x.range.offset - y.range.offset).map(({ value }) => value),
    );
  }
}

function keyOf({ offset, byteLength }: ByteRange, readAs: string): string {
  return `${offset}+${byteLength} ${readAs}`;
}
