import type { ByteSource, PlacedContent } from '../../io/byte-source.js';
import type { CheckpointFormat } from '../checkpoint.js';
import type { Splice } from '../edit-plan.js';
import type { PickleValue } from './pickle-values.js';
import type { StorageTable } from './storages.js';

/** What every PyTorch container comes down to: the object that was saved, and where its storages are. */
export interface TorchContainer {
  readonly format: Extract<CheckpointFormat, 'PyTorch' | 'TorchScript'>;
  readonly root: PickleValue;
  readonly storages: StorageTable;
  /** The source of a TorchScript class by its mangled module name; null where the container has none. */
  readonly readClassSource: (module: string) => Promise<string | null>;
  /** The splices that write pieces and renew what the container derives from them; absent where it derives nothing. */
  readonly planSplices?: (
    pieces: ReadonlyMap<ByteSource, readonly PlacedContent[]>,
  ) => Promise<readonly Splice[]>;
}

/** The `readClassSource` of containers without code. */
export async function hasNoClassSource(): Promise<null> {
  return null;
}
