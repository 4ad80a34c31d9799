import type { LayerComparison } from '../compare/compare-layers.js';
import { matchNames } from '../compare/globs.js';
import { listLayerNames } from '../compare/shown-names.js';
import type { LayerStatus } from '../compare/status.js';
import { quote, UsageError } from '../errors.js';

/** Which layers of an audit are restored, and which others have statistics that are not as they were. */
export interface LayerChoice {
  readonly chosen: readonly LayerComparison[];
  readonly left: readonly LayerComparison[];
}

/** Statuses that a user should hear about where the layer is left as it is. */
const NOTEWORTHY: ReadonlySet<LayerStatus> = new Set([
  'drifted',
  'affine-frozen',
  'invalid',
  'unresolved',
  'ambiguous',
]);

/**
 * Chooses the layers to restore: those that drifted, or those that globs over module paths name, whatever their status.
 *
 * @throws UsageError for a glob that matches no norm layer of both checkpoints.
 */
export function chooseLayers(layers: readonly LayerComparison[], globs: readonly string[]): LayerChoice {
  const names = layers.map(listLayerNames);
  for (const glob of globs) {
    if (names.some(matchNames([glob], names))) continue;
    throw new UsageError(
      `--layer ${quote(glob)} matches no norm layer of both checkpoints`,
      'Globs match module paths with "." as the separator: backbone, backbone.layer1, **.bn1',
    );
  }
  const isNamed = matchNames(globs, names);
  const isChosen = (layer: LayerComparison) =>
    globs.length === 0 ? layer.status === 'drifted' : isNamed(listLayerNames(layer));
  return {
    chosen: layers.filter(isChosen),
    left: layers.filter((layer) => !isChosen(layer) && NOTEWORTHY.has(layer.status)),
  };
}
