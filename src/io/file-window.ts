/** Bytes of a whole window. */
export const WINDOW_BYTES = 16 * 1024;

/** How often all windows were closed. */
let closings = 0;

/** Has every open file read again what it is asked for: it may have changed since it was opened, or looked at last. */
export function closeWindows(): void {
  closings++;
}

/** A part of a file that was read for the sake of what it holds near. */
export class FileWindow {
  #buffer = new Uint8Array(0);
  #start = 0;
  #end = 0;
  #closings = 0;

  holds(start: number, end: number): boolean {
    return this.#start <= start && end <= this.#end && this.#closings === closings;
  }

  /** Whether a position lies in the window, or so little behind it that the next one would hold it. */
  isNear(position: number): boolean {
    return this.#start <= position && position <= this.#end + WINDOW_BYTES;
  }

  /** Bytes to be filled; until {@link put}, the window holds nothing. */
  empty(byteLength: number): Uint8Array {
    this.#end = this.#start;
    if (this.#buffer.byteLength < byteLength) this.#buffer = new Uint8Array(byteLength);
    return this.#buffer.subarray(0, byteLength);
  }

  /** Says where in the file the bytes are from. */
  put(position: number, byteLength: number): void {
    this.#start = position;
    this.#end = position + byteLength;
    this.#closings = closings;
  }

  copyTo(target: Uint8Array, position: number): void {
    const from = position - this.#start;
    target.set(this.#buffer.subarray(from, from + target.byteLength));
  }
}
