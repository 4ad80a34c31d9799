import { basename } from 'node:path';
import { CheckpointError, quote } from '../../errors.js';
import { holdBytes, type PlacedContent } from '../../io/byte-source.js';
import type { FileSource } from '../../io/file-source.js';
import type { Tensor } from '../checkpoint.js';
import {
  asFile,
  type EditOptions,
  type EditPlan,
  placeEdits,
  refuseOtherSources,
  type Splice,
  type TensorEdit,
  toSplices,
} from '../edit-plan.js';
import type { Graph } from '../graph.js';
import { type GraphEdit, planGraphEdit } from './edit-graph.js';
import { findLocations, type LocationField, renewLengths } from './fields.js';
import type { LocatedNodes } from './onnx.js';
import { planSplits } from './split-constants.js';
import type { TensorStore } from './stored-tensor.js';

/** What edits of a model are planned from. */
export interface EditedModel extends EditOptions {
  readonly store: TensorStore;
  readonly graph: Graph;
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly located: LocatedNodes;
}

/**
 * Plans how a model and its data files take tensors of other bytes. In place where a constant is stored as it is and
 * everything that reads it wants the same; else the graph gets an initializer in its place.
 *
 * @throws CheckpointError `unsupported` naming the tensor, where the graph leaves no place for a value of its own.
 */
export async function planOnnxEdits(edits: readonly TensorEdit[], model: EditedModel): Promise<EditPlan> {
  const { store, tensors } = model;
  const file = asFile(store.file);
  const { inPlace, sharers, graphEdit } = await planSplits(edits, model);
  const pieces = await placeEdits(
    inPlace,
    [...tensors.values()].filter(({ name }) => !sharers.has(name)),
  );
  const locations = await findLocations(file, model.located.model);
  const names = nameDataFiles(locations, model);
  const dataFiles = openDataFiles(names, store, file);
  refuseOtherSources(pieces, new Set([file, ...dataFiles.keys()]), inPlace);
  const splices = await planModelSplices({
    file,
    pieces: pieces.get(file) ?? [],
    graphEdit,
    renames: renameLocations(locations, names),
  });
  return {
    files: [
      ...[...dataFiles].map(([source, name]) => ({ source, name, splices: toSplices(pieces.get(source)) })),
      { source: file, name: basename(file.path), splices },
    ],
  };
}

/** The new name of every data file by its location. */
function nameDataFiles(
  locations: readonly LocationField[],
  { renameData }: EditedModel,
): ReadonlyMap<string, string> {
  const distinct = [...new Set(locations.map(({ location }) => location))];
  return new Map(distinct.map((location) => [location, renameData?.(location, distinct.length) ?? location]));
}

function openDataFiles(
  names: ReadonlyMap<string, string>,
  { external }: TensorStore,
  model: FileSource,
): ReadonlyMap<FileSource, string> {
  const files = new Map<FileSource, string>();
  const paths = new Set<string>();
  for (const [location, name] of names) {
    const source = external.open(location);
    if (paths.has(source.path)) {
      throw new CheckpointError(
        `external data ${quote(location)}: expected a file of its own, found one that another location leads to as well`,
        { code: 'unsupported', file: model.name },
      );
    }
    paths.add(source.path);
    files.set(source, name);
  }
  return files;
}

function renameLocations(
  locations: readonly LocationField[],
  names: ReadonlyMap<string, string>,
): readonly Splice[] {
  const encoder = new TextEncoder();
  return locations.flatMap(({ location, payload }) => {
    const name = names.get(location) ?? location;
    if (name === location) return [];
    const content = holdBytes(encoder.encode(name));
    return [{ offset: payload.start, deleted: payload.end - payload.start, content }];
  });
}

/** What changes in the model file. */
interface ModelChanges {
  readonly file: FileSource;
  readonly pieces: readonly PlacedContent[];
  readonly graphEdit: GraphEdit;
  readonly renames: readonly Splice[];
}

/** Rewritten fields with the lengths around them, and the pieces that stay in place between them. */
async function planModelSplices(changes: ModelChanges): Promise<readonly Splice[]> {
  const { file, pieces, renames, graphEdit } = changes;
  const { nodes, initializers } = graphEdit;
  const isEdited = nodes.size + (initializers?.size ?? 0) > 0;
  const rewritten = isEdited ? await planGraphEdit(file, graphEdit) : [];
  const isInside = (offset: number) =>
    rewritten.some((splice) => offset >= splice.offset && offset < splice.offset + splice.deleted);
  const sized = [...rewritten, ...renames.filter(({ offset }) => !isInside(offset))].sort(byOffset);
  const renewed = await renewLengths(file, { start: 0, end: file.byteLength }, sized);
  return [...renewed, ...toSplices(pieces)].sort(byOffset);
}

function byOffset(x: Splice, y: Splice): number {
  return x.offset - y.offset;
}
