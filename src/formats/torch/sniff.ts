// Knows PyTorch files by their first bytes, and says what other ZIP files are.

import { CheckpointError } from '../../errors.js';
import { startsWith } from '../sniff.js';

/** How to join the parts that DeepSpeed's ZeRO-3 leaves, by the script that it puts beside them. */
export const JOIN_ZERO =
  'join it first: python zero_to_fp32.py DIRECTORY joined, then audit joined/pytorch_model.bin';

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

/** Whether a file is the `.metadata` of a distributed checkpoint: a pickle of that module's `Metadata`. */
export function looksLikeDistributed(head: Uint8Array): boolean {
  return (
    head[0] === 0x80 &&
    String.fromCharCode(...head.subarray(0, 100)).includes('torch.distributed.checkpoint.metadata')
  );
}

/** Whether the bytes start a tar archive: `ustar` at 257, or a header named like one of the members. */
export function looksLikeTar(head: Uint8Array): boolean {
  const text = String.fromCharCode(...head.subarray(0, TORCH_HEAD_BYTES));
  return text.startsWith('ustar', 257) || /^(\.\/)?(sys_info|pickle|storages|tensors)\0/.test(text);
}

/** A local file header, or the end record of an empty archive. */
export function isZip(head: Uint8Array): boolean {
  return startsWith(head, 'PK\x03\x04') || startsWith(head, 'PK\x05\x06');
}

/** Whether a ZIP archive is PyTorch's by the names of its entries: torch.save, TorchScript, torch.export. */
export function holdsTorch(names: readonly string[]): boolean {
  return names.some((name) =>
    /^(?:[^/]*\/)?(?:data\.pkl|archive_format|serialized_exported_program\.json)$/.test(name),
  );
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

/** Zip files that are no checkpoints of torch.save: what a name in them looks like, what they are, and the way out. */
const FOREIGN_ZIPS: readonly (readonly [name: RegExp, found: string, hint?: string])[] = [
  [
    /(^|\/)(serialized_exported_program\.json|archive_format|models\/[^/]+\.json)$/,
    'a .pt2 archive of torch.export',
    'Audit the state dict that it was exported from, or export that program to ONNX.',
  ],
  [
    /^[^/]+\/\.data\/(extern_modules|python_version)$/,
    'a torch.package archive',
    'Save the state dict of the model within with torch.save, and audit that.',
  ],
  [
    /^[^/]+\/model\.json$/,
    'a TorchScript archive of PyTorch 1.0 to 1.3 (model.json)',
    'Load it with torch.jit.load and save it again with a newer PyTorch.',
  ],
  [/^MAR-INF\//, 'a TorchServe .mar archive', 'Unpack it and audit the checkpoint within.'],
  [/^\[Content_Types\]\.xml$/, 'an Office document (docx, xlsx, pptx), not a PyTorch checkpoint'],
  [/\.mlmodel$/, 'a Core ML package, not a PyTorch checkpoint'],
  [/^META-INF\/MANIFEST\.MF$/, 'a Java archive, not a PyTorch checkpoint'],
  [
    /\.(safetensors|onnx|pt|pth|ckpt|bin)$/i,
    'a zip file that holds checkpoints instead of being one',
    'Unpack it and name the checkpoint within.',
  ],
];

/**
 * Refuses a zip file without a data.pkl, in the words for what it is.
 *
 * @param names the names of its entries.
 */
export function refuseForeignZip(names: readonly string[], file: string): never {
  const [, known, hint] = FOREIGN_ZIPS.find(([name]) => names.some((one) => name.test(one))) ?? [];
  const found = names.length === 0 ? 'an empty zip archive' : (known ?? 'a zip archive without one');
  const message = `expected a checkpoint of torch.save with a data.pkl, found ${found}`;
  throw new CheckpointError(message, { code: 'unsupported', file, hint });
}
