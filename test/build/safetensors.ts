import { bytesOf, u64, utf8 } from './bytes.js';

/** One tensor of a file to be built. */
export interface StoredTensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

/** A safetensors file with the header as it is given, right or wrong, and the data behind it. */
export function safetensorsWithHeader(header: string, data: Uint8Array | number = 0): Uint8Array {
  const bytes = utf8(header);
  return bytesOf(u64(bytes.length), bytes, typeof data === 'number' ? new Uint8Array(data) : data);
}

/** A correct safetensors file. */
export function safetensorsBytes(
  tensors: Readonly<Record<string, StoredTensor>>,
  metadata?: Readonly<Record<string, string>>,
): Uint8Array {
  const header: Record<string, unknown> = metadata === undefined ? {} : { __metadata__: metadata };
  let end = 0;
  for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
    header[name] = { dtype, shape, data_offsets: [end, end + data.length] };
    end += data.length;
  }
  return safetensorsWithHeader(
    JSON.stringify(header),
    bytesOf(...Object.values(tensors).map(({ data }) => data)),
  );
}
