// The network that every benchmark file holds: a ResNet-50 whose width is chosen so that its weights take a given
// number of megabytes. Fewer megabytes mean narrower tensors, never fewer layers, so that sizes are comparable.

/**
 * A convolution with the norm layer that it feeds.
 *
 * @typedef {object} Unit
 * @property {string} conv module path of the convolution
 * @property {string} norm module path of the norm layer
 * @property {readonly [number, number, number, number]} shape of the weight: out, in, height, width
 * @property {number} stride
 */

/**
 * A residual block, or the stem where there is no shortcut.
 *
 * @typedef {object} Block
 * @property {readonly Unit[]} units in the order in which they run
 * @property {Unit | null} downsample
 * @property {boolean} isResidual
 */

/**
 * @typedef {object} Network
 * @property {readonly Block[]} blocks
 * @property {readonly [number, number]} head shape of the classifier's weight: out, in
 */

/** Megabytes of float32 weights that a ResNet-50 of width 64 has. */
const RESNET50_MEGABYTES = 102;
const RESNET50_WIDTH = 64;
const BLOCKS_PER_STAGE = [3, 4, 6, 3];
const EXPANSION = 4;

/**
 * A ResNet-50-like network of about `megabytes`.
 *
 * @param {number} megabytes
 * @returns {Network}
 */
export function planNetwork(megabytes) {
  const width = Math.max(2, Math.round(RESNET50_WIDTH * Math.sqrt(megabytes / RESNET50_MEGABYTES)));
  const stem = makeUnit('conv1', 'bn1', [width, 3, 7, 7], 2);
  /** @type {Block[]} */
  const blocks = [{ units: [stem], downsample: null, isResidual: false }];
  let channels = width;
  BLOCKS_PER_STAGE.forEach((count, stage) => {
    for (let index = 0; index < count; index++) {
      const block = planBlock(`layer${stage + 1}.${index}`, {
        channels,
        width: width * 2 ** stage,
        stride: stage > 0 && index === 0 ? 2 : 1,
      });
      blocks.push(block);
      channels = width * 2 ** stage * EXPANSION;
    }
  });
  return { blocks, head: [Math.max(2, Math.round((1000 * width) / RESNET50_WIDTH)), channels] };
}

/**
 * @param {string} path
 * @param {{channels: number, width: number, stride: number}} options channels that enter, width of the bottleneck
 * @returns {Block}
 */
function planBlock(path, { channels, width, stride }) {
  const out = width * EXPANSION;
  return {
    units: [
      makeUnit(`${path}.conv1`, `${path}.bn1`, [width, channels, 1, 1], 1),
      makeUnit(`${path}.conv2`, `${path}.bn2`, [width, width, 3, 3], stride),
      makeUnit(`${path}.conv3`, `${path}.bn3`, [out, width, 1, 1], 1),
    ],
    downsample:
      channels === out && stride === 1
        ? null
        : makeUnit(`${path}.downsample.0`, `${path}.downsample.1`, [out, channels, 1, 1], stride),
    isResidual: true,
  };
}

/**
 * @param {string} conv
 * @param {string} norm
 * @param {readonly [number, number, number, number]} shape
 * @param {number} stride
 * @returns {Unit}
 */
function makeUnit(conv, norm, shape, stride) {
  return { conv, norm, shape, stride };
}

/**
 * Every unit of a network, in module order.
 *
 * @param {Network} network
 * @returns {readonly Unit[]}
 */
export function listUnits({ blocks }) {
  return blocks.flatMap(({ units, downsample }) => (downsample === null ? units : [...units, downsample]));
}
