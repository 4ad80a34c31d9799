import { type NormLayer, nameInFile } from '../norm/norm-layer.js';

/** What goes by different names in before and after. */
interface Sides<Side> {
  readonly before: Side;
  readonly after: Side;
}

/**
 * The side whose name is shown: after's, since that is the model that the user has. Where after has folded the layer
 * away or its file has lost the names, before's stands in.
 */
export function chooseNamed<Side extends { readonly isNamed: boolean; readonly isFolded: boolean }>({
  before,
  after,
}: Sides<Side>): Side {
  const [first, second] = after.isFolded ? [before, after] : [after, before];
  return first.isNamed || !second.isNamed ? first : second;
}

/** The name that reports give to a layer of both checkpoints. */
export function chooseLayerName({ before, after }: Sides<NormLayer>): string {
  const toSide = ({ name, isNamed, foldedInto }: NormLayer) => ({
    name,
    isNamed,
    isFolded: foldedInto !== undefined,
  });
  return chooseNamed({ before: toSide(before), after: toSide(after) }).name;
}

/** Every name of a compared layer, the shown one first: globs may use any. */
export function listLayerNames({
  name,
  before,
  after,
}: Sides<NormLayer> & { readonly name: string }): readonly string[] {
  return [name, ...listOwnNames(before), ...listOwnNames(after)];
}

/** Every name of a layer in its own file. */
export function listOwnNames(layer: NormLayer): readonly string[] {
  return [layer.name, nameInFile(layer)];
}
