import type { ByteRange, ByteSource } from './byte-source.js';

/** A map by pieces of sources: two ranges of the same bytes of one source are one key, whoever made them. */
export class RangeMap<Value> {
  readonly #bySource = new Map<
    ByteSource,
    Map<string, { readonly range: ByteRange; readonly value: Value }>
  >();

  get(range: ByteRange): Value | undefined {
    return this.#bySource.get(range.source)?.get(keyOf(range))?.value;
  }

  has(range: ByteRange): boolean {
    return this.#bySource.get(range.source)?.has(keyOf(range)) === true;
  }

  set(range: ByteRange, value: Value): void {
    const inSource = this.#bySource.get(range.source);
    if (inSource === undefined) this.#bySource.set(range.source, new Map([[keyOf(range), { range, value }]]));
    else inSource.set(keyOf(range), { range: inSource.get(keyOf(range))?.range ?? range, value });
  }

  /** Sources in the order in which they turned up; within each, ranges by their offset. */
  inFileOrder(): readonly Value[] {
    return [...this.#bySource.values()].flatMap((inSource) =>
      [...inSource.values()].sort((x, y) => x.range.offset - y.range.offset).map(({ value }) => value),
    );
  }
}

function keyOf({ offset, byteLength }: ByteRange): string {
  return `${offset}+${byteLength}`;
}
