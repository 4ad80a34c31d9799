import { CheckpointError } from '../../errors.js';
import { SAVE_KERAS_WEIGHTS } from '../foreign-hints.js';

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
