// Reads Darknet's .weights, which have no names: the .cfg beside them tells what lies where.

import type { Checkpoint, Declaration, ReadOptions, Tensor } from '../../checkpoint/checkpoint.js';
import { planPlainEdits } from '../../checkpoint/edit-plan.js';
import { fail, quote } from '../../errors.js';
import { type ByteSource, fileNameOf, readRange, wholeOf } from '../../io/byte-source.js';
import { countElements } from '../../io/row-major.js';
import { openFirstBeside } from '../open-beside.js';
import { type DarknetLayer, readCfg } from './cfg.js';

/** The .cfg of YOLOv4 has 12 kB. */
const MAX_CFG_BYTES = 1_000_000;

const FLOAT_BYTES = 4;

/** What Darknet and its users append to a .cfg's name for weights: `yolov3_final.weights`, `darknet53.conv.74`. */
const SUFFIX = /(?:[_-](?:final|last|best|ema|\d+)|\.(?:weights|backup|conv\.\d+))$/;

/**
 * Opens a .weights file by the .cfg beside it: the one with its name, or the only one in the directory.
 *
 * Layout (src/parser.c of Darknet): int32 major, minor, revision; how many images were seen, of 64 bits from version 0.2
 * on, else of 32; then float32 values, layer by layer as in {@link readCfg}. A backbone that was cut off behind a layer,
 * such as `darknet53.conv.74`, is read as far as it goes.
 *
 * @throws CheckpointError `unrecognised-format` without a .cfg, `malformed` where .cfg and weights do not go together.
 */
export async function openDarknet(
  source: ByteSource,
  options: ReadOptions,
  head: Uint8Array,
): Promise<Checkpoint> {
  const cfg = await findCfg(source, options);
  const layers = readCfg(cfg.text, cfg.name);
  const tensors = new Map<string, Tensor>();
  const misfit = (message: string) =>
    fail(source.name, `${message}: is ${cfg.name} the .cfg that the weights were trained with?`);
  let offset = offsetOfWeights(head);
  let missing = 0;
  for (const [index, { type, arrays }] of layers.entries()) {
    if (offset === source.byteLength) {
      if (arrays?.length !== 0) missing++;
      continue;
    }
    if (arrays === null)
      fail(source.name, `layer ${index} is a ${quote(type)}, whose weights are not read here`, 'unsupported');
    const stored: Tensor[] = [];
    for (const { name, shape } of arrays) {
      const elementCount = countElements(shape);
      const byteLength = elementCount * FLOAT_BYTES;
      if (byteLength > source.byteLength - offset)
        misfit(`expected ${byteLength} bytes of ${name}, found ${source.byteLength - offset}`);
      stored.push({ name, dtype: 'F32', shape, elementCount, range: { source, offset, byteLength } });
      offset += byteLength;
    }
    // In the order in which they work; the file has β, γ and the statistics first.
    for (const tensor of [...stored.filter((one) => !isNorm(one)), ...stored.filter(isNorm)])
      tensors.set(tensor.name, tensor);
  }
  if (offset < source.byteLength)
    misfit(
      `expected the end of the weights at byte ${offset}, found ${source.byteLength - offset} more bytes`,
    );
  if (tensors.size === 0) fail(source.name, 'expected weights in the file of Darknet, found none');
  return {
    path: options.path,
    format: 'Darknet',
    tensors,
    inModuleOrder: true,
    graph: null,
    framework: 'darknet',
    modules: new Map(),
    declarations: declareFrozen(layers, cfg.name),
    warnings:
      missing === 0 ? [] : [`the file ends before the last ${missing} layers with weights of ${cfg.name}`],
    planEdits: (edits) => planPlainEdits(edits, tensors.values(), [source]),
    close: () => source.close(),
  };
}

/** `stopbackward=1` freezes the layer that it stands at, and all before it. */
function declareFrozen(layers: readonly DarknetLayer[], where: string): readonly Declaration[] {
  const last = layers.findLastIndex(({ stopsBackward }) => stopsBackward);
  const paths = layers.slice(0, last + 1).map((_, index) => `layers.${index}`);
  return paths.length === 0 ? [] : [{ kind: 'paths', by: 'darknet-stopbackward', where, paths }];
}

const isNorm = ({ name }: Tensor) => name.includes('.bn.');

/** 64 bits of images seen from 0.2 on; versions of thousands marked transposed weights of old. */
function offsetOfWeights(head: Uint8Array): number {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  return view.getInt32(0, true) * 10 + view.getInt32(4, true) >= 2 ? 20 : 16;
}

async function findCfg(source: ByteSource, options: ReadOptions): Promise<{ name: string; text: string }> {
  const cfg = await openFirstBeside(source, listNames(fileNameOf(source)), '.cfg', options);
  if (cfg === null)
    fail(
      source.name,
      'expected the .cfg of the Darknet weights beside them, by their name or as the only one there, found none: they hold no names and no shapes',
      'unrecognised-format',
      {
        hint: 'Copy the .cfg that they were trained with into their directory, or convert them by it to PyTorch or ONNX, and audit that.',
      },
    );
  try {
    if (cfg.byteLength > MAX_CFG_BYTES)
      fail(
        cfg.name,
        `expected a .cfg of at most ${MAX_CFG_BYTES} bytes, found ${cfg.byteLength}`,
        'limit-exceeded',
      );
    return { name: quote(cfg.name), text: new TextDecoder().decode(await readRange(wholeOf(cfg))) };
  } finally {
    await cfg.close();
  }
}

/** The names that a .cfg may have, e.g. `yolov3.cfg` for `yolov3_final.weights`. */
function listNames(weights: string): readonly string[] {
  const names: string[] = [];
  for (let stem = weights; ; stem = stem.replace(SUFFIX, '')) {
    names.push(`${stem}.cfg`);
    if (!SUFFIX.test(stem)) return names;
  }
}
