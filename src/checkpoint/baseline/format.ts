import { PROJECTION_COUNT } from '../projections.js';

/**
 * Keys of a baseline's `__metadata__`; docs/baseline.md says what each holds. The first makes a safetensors file a
 * baseline.
 */
export const METADATA_KEYS = {
  version: 'bn-audit.baseline',
  source: 'bn-audit.source',
  format: 'bn-audit.format',
  order: 'bn-audit.order',
  tensors: 'bn-audit.tensors',
  modules: 'bn-audit.modules',
  graph: 'bn-audit.graph',
  warnings: 'bn-audit.warnings',
} as const;

/** The version of the format that is written, and the only one that is read. */
export const FORMAT_VERSION = '1';

/** Columns of a table of projections: the norm, then one for each sign vector. */
export const TABLE_COLUMNS = 1 + PROJECTION_COUNT;

/** Whether a safetensors file is a baseline: its metadata says so. */
export function isBaseline(metadata: ReadonlyMap<string, string>): boolean {
  return metadata.has(METADATA_KEYS.version);
}

/** The name of the tensor that holds a sample of another's values. */
export function nameSample(tensorName: string): string {
  return `${tensorName}.sample`;
}

/** The name of the table of a weight's projections. */
export function nameTable(weightName: string): string {
  return `${weightName}.projections`;
}

/** Beyond so many, names of one kind are told apart by a number: names that grow one by one come to much text. */
const MAX_UNDERSCORES = 8;

/** Names in a file, each of which stands for one thing. */
export class FreeNames {
  readonly #taken: Set<string>;
  /** How often each usual name was asked for: from there on one is free. */
  readonly #copies = new Map<string, number>();

  constructor(taken: Iterable<string> = []) {
    this.#taken = new Set(taken);
  }

  add(name: string): void {
    this.#taken.add(name);
  }

  /** Takes the usual name, or one that begins like it. */
  take(usual: string): string {
    let copy = this.#copies.get(usual) ?? 0;
    const nameCopy = () => usual + (copy <= MAX_UNDERSCORES ? '_'.repeat(copy) : `_${copy}`);
    while (this.#taken.has(nameCopy())) copy++;
    const name = nameCopy();
    this.#copies.set(usual, copy + 1);
    this.#taken.add(name);
    return name;
  }
}
