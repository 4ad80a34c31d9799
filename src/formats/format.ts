// What a row of the registry of formats is, and the rows for files that are plainly no checkpoint.

import { join } from 'node:path';
import type { Checkpoint, ReadOptions } from '../checkpoint/checkpoint.js';
import { CheckpointError, findDocs } from '../errors.js';
import type { ByteSource } from '../io/byte-source.js';
import { SAVE_UNOPTIMISED } from './onnx/sniff.js';
import { isMobile, JOIN_ZERO } from './torch/sniff.js';

/** One format of checkpoints: its folder beside this file, and its row in FORMATS of open.ts. */
export interface Format {
  /** What it is called among the others, such as `ONNX`; reports take the name from the checkpoint. */
  readonly name: string;
  /** Whether a file belongs to the format by its first bytes: 1 KiB, or all of a shorter one. */
  readonly looksLike: (head: Uint8Array) => boolean;
  /** Whether a ZIP archive belongs to the format by the names of its entries; asked before {@link looksLike} is. */
  readonly looksInside?: (names: readonly string[]) => boolean;
  /**
   * The files by which a directory is opened, in the order in which loaders look; they belong to it whatever they hold.
   * `*.npy` stands for the first of files that all end so.
   */
  readonly inDirectory?: readonly string[];
  /**
   * Reads a file that looks like it, headers only. The checkpoint owns the source.
   *
   * @throws CheckpointError for a file that only looks like it, or must not be read.
   */
  readonly open: (source: ByteSource, options: ReadOptions, head: Uint8Array) => Promise<Checkpoint>;
  /** The ending, such as `.onnx`, of files that may say what is wrong with them although they look like no format. */
  readonly ending?: string;
  /** Whether a checkpoint may have parts, of which `select` names one; of others it names none. */
  readonly hasParts?: boolean;
}

/** How to bring an Orbax checkpoint of Flax along; docs/convert.md has it with what it imports, as all of these. */
const RESTORE_ORBAX =
  "Restore it and save it as msgpack: open('model.msgpack', 'wb').write(flax.serialization.to_bytes(ocp.StandardCheckpointer().restore(os.path.abspath(DIRECTORY))))";

const MXNET_TO_SAFETENSORS =
  "Load it and save its arrays as safetensors: save_file({k: v.asnumpy() for k, v in mx.nd.load(FILE).items()}, 'model.safetensors')";

const MINDSPORE_TO_SAFETENSORS =
  "Load it and save its arrays as safetensors: save_file({k: v.asnumpy() for k, v in mindspore.load_checkpoint(FILE).items()}, 'model.safetensors'), then audit with --epsilon 1e-5";

const CAFFE_TO_SAFETENSORS = `Convert it by its prototxt: cv2.dnn.readNetFromCaffe(PROTOTXT, FILE) of OpenCV 4 has the blobs, of which the first two of a BatchNorm layer are to be divided by the third. All the lines: ${findDocs('docs/convert.md')}`;

const MADE_FROM = 'Audit the checkpoint or the ONNX model that it was made from.';

/** Varints and short lengths of protobuf in text. */
const NUMBER = '[\\x80-\\xff]*[\\0-\\x7f]';

/** A `Checkpoint` of MindSpore (utils/checkpoint.proto): a value of a tag and a tensor of dimensions and a type's name. */
const MINDSPORE = new RegExp(
  `^\\n${NUMBER}\\n${NUMBER}[ -~]+\\x12${NUMBER}(?:\\x08${NUMBER})*\\x12[\\x03-\\x20](?:B?Float|U?Int|Bool|Complex)`,
);

/** A `NetParameter` of Caffe (caffe.proto): its name, and layers with a name and a type. */
const CAFFE = new RegExp(`\\xa2\\x06${NUMBER}\\n[\\0-\\x7f][ -~]+\\x12[\\0-\\x7f][A-Z][A-Za-z]+`);

/** The same of before 2014: its name, and layers that begin with what goes into them and comes out of them. */
const OLD_CAFFE = new RegExp(
  `^\\n[\\0-\\x7f][ -~]*\\x12${NUMBER}(?:\\x12[\\0-\\x7f][ -~]+)?\\x1a[\\0-\\x7f][ -~]+`,
);

/** A `Model` of Core ML (Model.proto): its version, then a description that begins with an input: its name, and its type. */
const CORE_ML = new RegExp(
  `^\\x08[\\x01-\\x20]\\x12${NUMBER}\\n${NUMBER}\\n[\\0-\\x7f][ -~]+(?:\\x12[\\0-\\x7f][ -~]*)?\\x1a`,
);

/** A `GraphDef` of TensorFlow (graph.proto): nodes, which begin with their name and operator. */
const GRAPH = new RegExp(`^\\n${NUMBER}\\n[\\0-\\x7f][ -~]+\\x12[\\0-\\x7f][A-Z_][A-Za-z0-9]+`);

/** A `ProgramDesc` of PaddlePaddle (framework.proto): its first block has the number 0, and -1 for what it is in. */
const PADDLE_PROGRAM = new RegExp(`^\\n${NUMBER}\\x08\\0\\x10\\xff{9}\\x01`);

const UNPACK_JOBLIB =
  "If joblib wrote it and you trust it, save its arrays with pickle: pickle.dump(joblib.load('FILE'), open('weights.pkl', 'wb'))";

const NAME_CHECKPOINT = 'Name one of those that it lists, which lie beside it: the path without an ending.';

const DUMP_PADDLE = 'Audit the .pdparams of paddle.save that it was made from.';

/** A file that is plainly no checkpoint, in the words for what it is; a string tells it by its first bytes. */
function notRead(
  found: string,
  start: string | Format['looksLike'],
  hint?: string,
  { inDirectory = [], ending }: Pick<Format, 'inDirectory' | 'ending'> = {},
): Format {
  return {
    inDirectory,
    ...(ending === undefined ? {} : { ending }),
    name: found,
    looksLike: typeof start === 'string' ? (head) => textOf(head).startsWith(start) : start,
    async open({ name }) {
      throw refuseUnrecognised(found, name, hint);
    },
  };
}

/** The bytes as text, one character each: for magic numbers and the prologues of text formats. */
export function textOf(head: Uint8Array): string {
  return Buffer.from(head.buffer, head.byteOffset, head.byteLength).toString('latin1');
}

/** Files that are no checkpoint, or in a format that is not read here: each names it, and the way out. */
export const OTHER_FILES: readonly Format[] = [
  notRead(
    'an empty file (0 bytes)',
    ({ length }) => length === 0,
    'Was the download or the save interrupted?',
  ),
  notRead(
    'only zeros: not a checkpoint',
    (head) => head.every((byte) => byte === 0),
    'Was the download interrupted?',
  ),
  notRead(
    'a Git LFS pointer: the file itself was not downloaded',
    'version https://git-lfs.github.com/spec/',
    'Fetch it with: git lfs pull',
  ),
  notRead(
    'an HTML page: probably a download that ended on a login or error page',
    (head) => /^\s*(?:<!doctype html|<html|<head|<body)/i.test(textOf(head)),
    'Download the file again, from its raw or resolve address.',
  ),
  notRead(
    'an OpenVINO model, not a format that is read here',
    (head) => /^\s*<\?xml[^>]*>\s*<net /.test(textOf(head)),
    MADE_FROM,
  ),
  notRead('an XML file, not a checkpoint', (head) => /^\s*<\?xml/i.test(textOf(head))),
  notRead('a gzip-compressed file', '\x1f\x8b', 'Decompress it first: gunzip FILE, or tar -xzf FILE'),
  notRead('a zstd-compressed file', '\x28\xb5\x2f\xfd', 'Decompress it first: unzstd FILE'),
  notRead('an xz-compressed file', '\xfd7zXZ', 'Decompress it first: unxz FILE'),
  notRead('a bzip2-compressed file', 'BZh', 'Decompress it first: bunzip2 FILE'),
  notRead('a zlib-compressed file', (head) => /^x[\x01\x5e\x9c\xda]/.test(textOf(head)), UNPACK_JOBLIB),
  notRead('a 7-Zip archive', '7z\xbc\xaf\x27\x1c', 'Unpack it first.'),
  notRead('a GGUF file, not a format that is read here', 'GGUF', MADE_FROM),
  notRead(
    'a TensorFlow Lite model, not a format that is read here',
    (head) => textOf(head).startsWith('TFL3', 4),
    MADE_FROM,
  ),
  notRead(
    'a TensorRT engine, not a format that is read here',
    (head) => /^[pf]trt/.test(textOf(head)),
    MADE_FROM,
    { ending: '.engine' },
  ),
  notRead(
    'an ExecuTorch program, not a format that is read here',
    (head) => /^ET\d\d/.test(textOf(head.subarray(4))),
    MADE_FROM,
    { ending: '.pte' },
  ),
  notRead(
    'an RKNN model, not a format that is read here',
    (head) => /^(?:CYPT)?RKNN/.test(textOf(head)),
    MADE_FROM,
  ),
  notRead('an MNN model, not a format that is read here', () => false, MADE_FROM, { ending: '.mnn' }),
  notRead(
    'a Core ML model, not a format that is read here',
    (head) => CORE_ML.test(textOf(head)),
    MADE_FROM,
    {
      ending: '.mlmodel',
      // A package, and what is compiled of one.
      inDirectory: [join('Data', 'com.apple.CoreML', 'model.mlmodel'), 'coremldata.bin'],
    },
  ),
  notRead(
    'a frozen graph of TensorFlow, not a format that is read here',
    (head) => GRAPH.test(textOf(head)),
    MADE_FROM,
  ),
  notRead('the list of the checkpoints of a TensorFlow training', 'model_checkpoint_path:', NAME_CHECKPOINT),
  notRead(
    'the program of a PaddlePaddle model, without its parameters',
    (head) => PADDLE_PROGRAM.test(textOf(head)) || textOf(head).startsWith('{"base_code":{"magic":"pir"'),
    DUMP_PADDLE,
  ),
  notRead(
    'the parameters of a PaddlePaddle model for inference, without their names',
    // Versions and no levels of detail, then the size of a description that begins with its type (lod_tensor.cc).
    (head) => /^\0{16}[\x04-\xff]\0{3}\x08/.test(textOf(head)),
    DUMP_PADDLE,
  ),
  notRead('a network of ncnn, not a format that is read here', '7767517\n', MADE_FROM),
  notRead(
    'an MXNet .params file, not a format that is read here',
    // A list of NDArrays: its magic number as u64, and eight bytes of 0 (src/ndarray/ndarray.cc).
    `\x12\x01${'\0'.repeat(14)}`,
    MXNET_TO_SAFETENSORS,
  ),
  notRead(
    'a MindSpore checkpoint, not a format that is read here',
    (head) => MINDSPORE.test(textOf(head)),
    MINDSPORE_TO_SAFETENSORS,
  ),
  notRead(
    'a model of Caffe (.caffemodel), not a format that is read here',
    (head) =>
      /^[\n\x1a\xa2]/.test(textOf(head)) && [CAFFE, OLD_CAFFE].some((layers) => layers.test(textOf(head))),
    CAFFE_TO_SAFETENSORS,
  ),
  notRead(
    'a PyTorch mobile flatbuffer, not a format that is read here',
    isMobile,
    'Audit the checkpoint that it was made from.',
  ),
  notRead(
    'an ONNX Runtime model (.ort, saved with its optimisations), not a format that is read here',
    // A flatbuffer, whose identifier stands behind the offset of its root (onnxruntime/core/flatbuffers/schema/ort.fbs).
    (head) => textOf(head).startsWith('ORTM', 4),
    SAVE_UNOPTIMISED,
  ),
  notRead('a PDF document', '%PDF'),
  notRead('a PNG image', '\x89PNG'),
  notRead('a program (ELF)', '\x7fELF'),
  notRead(
    'an Orbax checkpoint, not a format that is read here',
    (head) => /^\{"(?:tree_metadata|item_handlers)"/.test(textOf(head)),
    RESTORE_ORBAX,
    // A step of a CheckpointManager has the second alone; what it holds is in `default`.
    { inDirectory: ['_METADATA', '_CHECKPOINT_METADATA'] },
  ),
  notRead(
    'a DeepSpeed checkpoint of several files',
    () => false,
    `Audit its mp_rank_00_model_states.pt; where ZeRO-3 has partitioned it, ${JOIN_ZERO}`,
    { inDirectory: ['zero_to_fp32.py'] },
  ),
];

/** The error for a file of no known format. @param found what it is, in a few words. */
export function refuseUnrecognised(
  found: string,
  file: string,
  hint?: string,
  expected = 'a checkpoint of a format that is read',
): CheckpointError {
  return new CheckpointError(`expected ${expected}, found ${found}`, {
    code: 'unrecognised-format',
    file,
    hint,
  });
}

/**
 * Whether a file is a SavedModel (tensorflow/core/protobuf/saved_model.proto), which is a protobuf message as an ONNX
 * model is and begins with the same tags: saved_model_schema_version = 1, then a MetaGraphDef, which begins with its
 * meta_info_def. In an ONNX model the second field is the producer's name, which does not begin with a line end.
 */
export function looksLikeSavedModel(head: Uint8Array): boolean {
  if (!textOf(head).startsWith('\x08\x01\x12')) return false;
  const lengthEnd = head.findIndex((byte, index) => index >= 3 && byte < 0x80);
  return lengthEnd >= 0 && head[lengthEnd + 1] === 0x0a;
}
