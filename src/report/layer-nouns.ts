// What a report calls its layers: norm layers, unless no file says that there were any.

import { UNMARKED_KIND } from '../compare/compare-layers.js';
import { formatCount, formatPlural } from './format-numbers.js';

/** What is known of a layer. */
interface Kind {
  readonly kind: string;
}

/** Whether a layer is a convolution with a bias of which no file says whether a norm layer was folded into it. */
export function isUnmarked({ kind }: Kind): boolean {
  return kind === UNMARKED_KIND;
}

/** Whether all layers are such convolutions. */
export function areUnmarked(layers: readonly Kind[]): boolean {
  return layers.length > 0 && layers.every(isUnmarked);
}

/** What one of some layers is called: `layer` where some are norm layers and some may be none. */
export function nameLayer(layers: readonly Kind[]): string {
  if (areUnmarked(layers)) return 'convolution with a bias';
  return layers.some(isUnmarked) ? 'layer' : 'norm layer';
}

/** What all of them are called together, where there is little room: `norm layers`, or `layers`. */
export function nameLayers(layers: readonly Kind[]): string {
  return layers.some(isUnmarked) ? 'layers' : 'norm layers';
}

/** A count of layers such as some: `53 norm layers`, `1 convolution with a bias`. */
export function formatLayers(count: number, layers: readonly Kind[]): string {
  return areUnmarked(layers)
    ? `${formatCount(count)} convolution${count === 1 ? '' : 's'} with a bias`
    : formatPlural(count, nameLayer(layers));
}
