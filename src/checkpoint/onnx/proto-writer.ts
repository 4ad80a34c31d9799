import { MAX_VARINT_BYTES, WIRE_LENGTH } from './wire.js';

const encoder = new TextEncoder();

/** Writes protobuf into memory that grows. {@link clear} makes it ready for the next message. */
export class ProtoWriter {
  #bytes = new Uint8Array(256);
  #length = 0;

  /** What was written so far; valid until the next write. */
  get written(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  get byteLength(): number {
    return this.#length;
  }

  clear(): void {
    this.#length = 0;
  }

  writeBytes(bytes: Uint8Array): void {
    this.reserve(bytes.byteLength).set(bytes);
  }

  /** Writes room for `byteLength` bytes and returns it, to be filled before the next write. */
  reserve(byteLength: number): Uint8Array {
    const end = this.#length + byteLength;
    if (end > this.#bytes.byteLength) {
      const larger = new Uint8Array(Math.max(end, 2 * this.#bytes.byteLength));
      larger.set(this.written);
      this.#bytes = larger;
    }
    const room = this.#bytes.subarray(this.#length, end);
    this.#length = end;
    return room;
  }

  writeTag(field: number, wire: number): void {
    this.writeVarint(field * 8 + wire);
  }

  /** @param low the low 32 bits, or the whole value when that fits into 53 bits. */
  writeVarint(low: number, high = 0): void {
    let rest = low;
    let upper = high;
    while (upper > 0 || rest >= 0x80) {
      this.#writeByte((rest % 0x80) | 0x80);
      rest = Math.floor(rest / 0x80) + (upper % 0x80) * 2 ** 25;
      upper = Math.floor(upper / 0x80);
    }
    this.#writeByte(rest);
  }

  /**
   * Writes the number of a varint field, in five bytes or fewer where it fits, else in ten: of a number in 32 bits, which
   * is the low half of whatever stands there, protobufjs reads one or the other.
   */
  writeNumber(low: number, high: number): void {
    if (high < 8) {
      this.writeVarint(low, high);
      return;
    }
    const end = this.#length + MAX_VARINT_BYTES;
    this.writeVarint(low, high);
    if (this.#length === end) return;
    // Groups of zeros after the last one say nothing.
    this.#bytes[this.#length - 1] = (this.#bytes[this.#length - 1] ?? 0) | 0x80;
    while (this.#length < end - 1) this.#writeByte(0x80);
    this.#writeByte(0);
  }

  /** Writes a length-delimited field: a string, bytes or a message. */
  writeField(field: number, content: Uint8Array): void {
    this.writeTag(field, WIRE_LENGTH);
    this.writeVarint(content.byteLength);
    this.writeBytes(content);
  }

  writeText(field: number, text: string): void {
    this.writeField(field, encoder.encode(text));
  }

  #writeByte(byte: number): void {
    if (this.#length === this.#bytes.byteLength) {
      this.reserve(1);
      this.#length--;
    }
    this.#bytes[this.#length++] = byte;
  }
}

/** The tag and the length that stand before the content of a length-delimited field. */
export function encodeFieldHead(field: number, byteLength: number): Uint8Array {
  const writer = new ProtoWriter();
  writer.writeTag(field, WIRE_LENGTH);
  writer.writeVarint(byteLength);
  return writer.written.slice();
}
