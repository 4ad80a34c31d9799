// Apart from the readers, so that telling what a file is loads none of them.

/** Enough for the magic number of every container, the longest being that of tar at byte 257. */
export const TORCH_HEAD_BYTES = 512;

/**
 * Whether a file's first bytes are those of a PyTorch container: a zip archive, a pickle of any protocol, a tar archive,
 * a flatbuffer of PyTorch mobile. Zip and tar archives of other kinds are told apart when they are opened.
 *
 * @param head the first bytes, 512 where the file has so many.
 */
export function looksLikeTorch(head: Uint8Array): boolean {
  return isZip(head) || isPickle(head) || isMobile(head) || looksLikeTar(head);
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

/** A flatbuffer of PyTorch mobile. */
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
