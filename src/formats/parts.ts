// Knows by their names files that are a part of a checkpoint only, and says what to name instead.

import { basename, dirname, join } from 'node:path';
import { JOIN_ZERO } from './torch/sniff.js';

/** A part of a checkpoint that was named alone. */
interface Part {
  /** What it is, e.g. `one of 3 shards of a model`. */
  readonly what: string;
  /** The way out, a sentence. */
  readonly instead: string;
  /** Whether it can be read by itself as far as it goes; what it holds is whole layers then, as a rule. */
  readonly isReadable: boolean;
  /** Whether its name alone tells; else only together with the index. */
  readonly isCertain: boolean;
  /** The file that knows all parts, where it is to be found; null where there is none. */
  readonly index: string | null;
}

/** Parts that hold tensors by their names. */
const SHARD = /^(.+)-\d{5}-of-0*(\d+)(\.safetensors|\.bin)$/;

/** A shard of Keras; checkpoints of a training may be numbered in the same way. */
const KERAS_SHARD = /^(.+)_\d{5}\.weights\.h5$/;

/** How others are called, what they are, and what to name instead. */
const OTHER_PARTS: readonly (readonly [name: RegExp, what: string, instead: string])[] = [
  [
    /\.distcp$/,
    'what one rank saved of a distributed checkpoint',
    'Name its directory, whose .metadata says what is where.',
  ],
  [
    /\.data-\d{5}-of-\d{5}$/,
    'the data of a TensorFlow checkpoint',
    'Name its index, which lies beside it and ends in .index.',
  ],
  [
    /_optim_states\.pt$/,
    'a part of the optimizer of DeepSpeed, in which ZeRO keeps the parameters',
    `Name the mp_rank_00_model_states.pt beside it; where ZeRO-3 has partitioned it, ${JOIN_ZERO}`,
  ],
  [
    /\.(?:z\d\d|(?:zip|tar|pt|pth|ckpt|bin|safetensors|onnx|h5|keras)\.\d{3})$/i,
    'a piece of a file that was split',
    'Join all pieces and name the whole: cat FILE.0* > FILE, or for .z01 and the like: zip -s 0 FILE.zip --out whole.zip',
  ],
];

/** What a file is a part of, by its name; null for what may be whole. @param path as the user named it. */
export function findPart(path: string): Part | null {
  const name = basename(path);
  const [, stem = '', count = '', ending = ''] = SHARD.exec(name) ?? [];
  if (stem !== '') {
    const index = `${stem}${ending}.index.json`;
    return {
      what: `one of the ${count} shards of a model`,
      instead: `Name the index, ${index}, or the directory that holds it.`,
      isReadable: true,
      isCertain: true,
      index: join(dirname(path), index),
    };
  }
  const keras = KERAS_SHARD.exec(name)?.[1];
  if (keras !== undefined) {
    const index = `${keras}.weights.json`;
    return {
      what: 'one of the shards of a model',
      instead: `Name the index, ${index}, or the directory that holds it.`,
      isReadable: true,
      isCertain: false,
      index: join(dirname(path), index),
    };
  }
  const [, what, instead] = OTHER_PARTS.find(([pattern]) => pattern.test(name)) ?? [];
  return what === undefined || instead === undefined
    ? null
    : { what, instead, isReadable: false, isCertain: true, index: null };
}
