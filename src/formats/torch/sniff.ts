// Knows PyTorch files by their first bytes, and says what other ZIP files are.

import { CheckpointError } from '../../errors.js';

/** How to bring the weights of a Keras model along, by names that audits know; more of it in docs/formats.md. */
export const SAVE_KERAS_WEIGHTS =
  "Load the model and save its weights as safetensors: save_file({v.path: keras.ops.convert_to_numpy(v) for v in model.variables}, 'model.safetensors')";

/** The same for a SavedModel of TensorFlow. */
export const SAVE_TENSORFLOW_WEIGHTS =
  "Save its weights as safetensors: save_file({v.name: v.numpy() for v in tf.saved_model.load(DIRECTORY).signatures['serving_default'].variables}, 'model.safetensors')";

// Apart from the readers, so that telling what a file is loads none of them.

/** Enough for the magic number of every container, the longest being that of tar at byte 257. */
export const TORCH_HEAD_BYTES = 512;

/**
 * Whether a file's first bytes are those of a PyTorch container: a zip archive, a pickle of any protocol, a tar archive.
 * Zip and tar archives of other kinds are told apart when they are opened.
 *
 * @param head the first bytes, 512 where the file has so many.
 */
export function looksLikeTorch(head: Uint8Array): boolean {
  return isZip(head) || isPickle(head) || looksLikeTar(head);
}

/** Whether the bytes start a tar archive: `ustar` at 257, or a header named like one of the members. */
export function looksLikeTar(head: Uint8Array): boolean {
  const text = String.fromCharCode(...head.subarray(0, TORCH_HEAD_BYTES));
  return text.startsWith('ustar', 257) || /^(\.\/)?(sys_info|pickle|storages|tensors)\0/.test(text);
}

function startsWith(head: Uint8Array, text: string, at = 0): boolean {
  return [...text].every((character, index) => head[at + index] === character.charCodeAt(0));
}

/** A local file header, or the end record of an empty archive. */
export function isZip(head: Uint8Array): boolean {
  return startsWith(head, 'PK\x03\x04') || startsWith(head, 'PK\x05\x06');
}

/** A flatbuffer of PyTorch mobile, which is no checkpoint of torch.save. */
export function isMobile(head: Uint8Array): boolean {
  return startsWith(head, 'PTMF', 4);
}

/** Protocols 2 to 5 start with PROTO; 0 and 1 with an opcode that a checkpoint's first value can have. */
function isPickle(head: Uint8Array): boolean {
  // The length of a safetensors header is eight bytes that may look like PROTO 2; its JSON follows.
  if (startsWith(head, '{', 8) && head.subarray(5, 8).every((byte) => byte === 0)) return false;
  const protocol = head[1];
  if (head[0] === 0x80) return protocol !== undefined && protocol <= 5;
  const text = String.fromCharCode(...head.subarray(0, 256));
  return PLAIN_PICKLE.test(text);
}

/** GLOBAL; MARK and INST, LIST, DICT or TUPLE of protocol 0; UNICODE, STRING or LONG with its PUT; `I…`, alone. */
const PLAIN_PICKLE = new RegExp(
  [
    String.raw`^c[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n`,
    String.raw`^\((?:[ldt]p?\d*\n|[ldit]|[SV]|c[A-Za-z_][\w.]*\n|\()`,
    String.raw`^[VS][^\n]*\n(?:p\d+\n|\.)`,
    String.raw`^[\]})](?:q.|p\d+\n|\()`,
    String.raw`^[IL]-?\d+L?\n\.`,
  ].join('|'),
  's',
);

/** A zip file that is no checkpoint of torch.save: how its names tell, what it is, and the way out. */
interface ForeignZip {
  readonly fits: (names: readonly string[]) => boolean;
  readonly found: string;
  readonly hint?: string;
}

const some = (pattern: RegExp) => (names: readonly string[]) => names.some((name) => pattern.test(name));

const FOREIGN_ZIPS: readonly ForeignZip[] = [
  {
    fits: some(/(^|\/)(serialized_exported_program\.json|archive_format|models\/[^/]+\.json)$/),
    found: 'a .pt2 archive of torch.export',
    hint: 'Audit the state dict that it was exported from, or export that program to ONNX.',
  },
  {
    fits: some(/^[^/]+\/\.data\/(extern_modules|python_version)$/),
    found: 'a torch.package archive',
    hint: 'Save the state dict of the model within with torch.save, and audit that.',
  },
  {
    fits: some(/^[^/]+\/model\.json$/),
    found: 'a TorchScript archive of PyTorch 1.0 to 1.3 (model.json)',
    hint: 'Load it with torch.jit.load and save it again with a newer PyTorch.',
  },
  {
    fits: some(/^MAR-INF\//),
    found: 'a TorchServe .mar archive',
    hint: 'Unpack it and audit the checkpoint within.',
  },
  {
    fits: some(/^(model\.weights\.h5|config\.json|metadata\.json)$/),
    found: 'a .keras archive, not a PyTorch checkpoint',
    hint: SAVE_KERAS_WEIGHTS,
  },
  {
    fits: (names) => names.every((name) => name.endsWith('.npy')),
    found: 'a NumPy .npz archive, not a PyTorch checkpoint',
  },
  {
    fits: some(/^\[Content_Types\]\.xml$/),
    found: 'an Office document (docx, xlsx, pptx), not a PyTorch checkpoint',
  },
  { fits: some(/\.mlmodel$/), found: 'a Core ML package, not a PyTorch checkpoint' },
  { fits: some(/^META-INF\/MANIFEST\.MF$/), found: 'a Java archive, not a PyTorch checkpoint' },
  {
    fits: some(/\.(safetensors|onnx|pt|pth|ckpt|bin)$/i),
    found: 'a zip file that holds checkpoints instead of being one',
    hint: 'Unpack it and name the checkpoint within.',
  },
];

/**
 * Refuses a zip file without a data.pkl, in the words for what it is.
 *
 * @param names the names of its entries.
 */
export function refuseForeignZip(names: readonly string[], file: string): never {
  const kind = names.length === 0 ? null : FOREIGN_ZIPS.find(({ fits }) => fits(names));
  const found = names.length === 0 ? 'an empty zip archive' : (kind?.found ?? 'a zip archive without one');
  throw new CheckpointError(`expected a checkpoint of torch.save with a data.pkl, found ${found}`, {
    code: 'unsupported',
    file,
    hint: kind?.hint,
  });
}
