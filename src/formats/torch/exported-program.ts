// Reads the list of weights of a `.pt2` archive, which torch.export.save writes.

import {
  isJsonArray,
  isJsonNumber,
  isJsonObject,
  type JsonValue,
  toCount,
} from '../../checkpoint/json-reader.js';
import { fail, quote } from '../../errors.js';
import { makeGlobalNode, makeObjectNode, type PickleValue } from './pickle-values.js';
import { makeTensorCall } from './tensors.js';

/** Types of elements by number (torch/_export/serde/schema.py, `ScalarType`). */
const SCALAR_TYPES: Readonly<Record<string, string>> = {
  1: 'uint8',
  2: 'int8',
  3: 'int16',
  4: 'int32',
  5: 'int64',
  6: 'float16',
  7: 'float32',
  8: 'float64',
  10: 'complex64',
  12: 'bool',
  13: 'bfloat16',
  28: 'uint16',
  29: 'float8_e4m3fn',
  30: 'float8_e5m2',
  31: 'float8_e4m3fnuz',
  32: 'float8_e5m2fnuz',
  33: 'float8_e8m0fnu',
  34: 'uint32',
  35: 'uint64',
};

/** Where an archive keeps its weights. */
interface WeightRecords {
  readonly file: string;
  /** What the container calls a record of weights, such as `weight_0`. */
  readonly keyOf: (record: string) => string;
  /** Bytes of the record with that key; undefined where there is none. */
  readonly byteLengthOf: (key: string) => number | undefined;
}

/**
 * The state dict of an exported program, from its configuration of weights
 * (torch/export/pt2_archive/_package.py, `_package_state_dict`):
 *
 *     {"config": {NAME: {"path_name": "weight_0", "is_param": true, "use_pickle": false, "tensor_meta":
 *        {"dtype": 7, "sizes": [{"as_int": 5}], "strides": […], "storage_offset": {"as_int": 0}, "requires_grad": …}}}}
 *
 * @param config what the key `config` has.
 * @throws CheckpointError `malformed` naming the weight where it is something else.
 */
export function readExportedWeights(config: JsonValue | undefined, records: WeightRecords): PickleValue {
  const { file } = records;
  if (!isJsonObject(config)) fail(file, 'expected a "config" of weights in the .pt2 archive, found none');
  const entries = new Map<PickleValue, PickleValue>();
  for (const [name, weight] of config) {
    const misfit = `expected a record, sizes and strides for the weight ${quote(name)}, found something else`;
    const record = isJsonObject(weight) ? weight.get('path_name') : undefined;
    if (!isJsonObject(weight) || typeof record !== 'string') fail(file, misfit);
    if (weight.get('use_pickle') === true) {
      entries.set(name, makeCall('_rebuild_wrapper_subclass', []));
      continue;
    }
    const meta = weight.get('tensor_meta');
    if (!isJsonObject(meta)) fail(file, misfit);
    const [shape, strides] = [readSizes(meta.get('sizes')), readSizes(meta.get('strides'))];
    if (shape === null || strides === null) fail(file, misfit);
    const firstElement = readSize(meta.get('storage_offset'));
    if (firstElement === null)
      fail(file, `expected where the weight ${quote(name)} begins, found something else`);
    const key = records.keyOf(record);
    const byteLength = records.byteLengthOf(key);
    if (byteLength === undefined)
      fail(file, `expected the record ${quote(record)} of the weight ${quote(name)}, found none`);
    const type = meta.get('dtype');
    const dtype = SCALAR_TYPES[isJsonNumber(type) ? type.digits : ''];
    const call = makeTensorCall({
      key,
      byteLength,
      shape,
      strides,
      firstElement,
      dtype: dtype === undefined ? null : makeGlobalNode('torch', dtype),
    });
    const isParameter = weight.get('is_param') === true;
    entries.set(
      name,
      isParameter ? makeCall('_rebuild_parameter', [call, meta.get('requires_grad') === true]) : call,
    );
  }
  return { kind: 'dict', entries, state: null };
}

function makeCall(name: string, args: readonly PickleValue[]) {
  return makeObjectNode({ callee: makeGlobalNode('torch._utils', name), args, offset: undefined });
}

/** A list of `{"as_int": N}`; null for sizes that are symbols, and for anything else. */
function readSizes(value: JsonValue | undefined): readonly number[] | null {
  if (!isJsonArray(value)) return null;
  const sizes = value.flatMap((item) => readSize(item) ?? []);
  return sizes.length === value.length ? sizes : null;
}

function readSize(value: JsonValue | undefined): number | null {
  return isJsonObject(value) ? toCount(value.get('as_int')) : null;
}
