// What a Darknet .cfg says of the weights that belong to it: which arrays, of which shapes, one after the other.

import { type CheckpointErrorCode, fail, quote } from '../../errors.js';

/** Layers of a network. YOLOv4 has 162; each is kept in memory. */
const MAX_LAYERS = 10_000;

/** Layers that the [route] and [shortcut] sections name in all, each of which is looked up. */
const MAX_REFERENCES = 100_000;

/** What Darknet counts with: larger sizes overflow there too. */
const MAX_SIZE = 2 ** 31 - 1;

/** An array as the weights file has it: float32, row-major. */
interface DarknetArray {
  readonly name: string;
  readonly shape: readonly number[];
}

/** A section of a .cfg behind its [net], with the arrays that it has in the weights file, in the order of that. */
export interface DarknetLayer {
  readonly type: string;
  /** Null for a type that is not known: weights may end before it. */
  readonly arrays: readonly DarknetArray[] | null;
  /** Whether the backward pass ends here: this layer and those before it get no gradient (src/network.c). */
  readonly stopsBackward: boolean;
}

interface Section {
  readonly type: string;
  readonly options: ReadonlyMap<string, string>;
}

/** What a layer hands on: the width, height and number of its channels. */
interface Size {
  readonly width: number;
  readonly height: number;
  readonly channels: number;
}

/** Sections that have no weights and hand on what they get. */
const PASSIVE: ReadonlySet<string> = new Set(
  (
    'activation dropout cost softmax soft yolo gaussian_yolo region detection lrn normalization logistic l2norm ' +
    'contrastive empty silence'
  ).split(' '),
);

/**
 * Reads a .cfg as Darknet does (src/parser.c, src/option_list.c): sections in brackets, options as key=value without
 * regard to blanks, comments in lines of their own.
 *
 * @throws CheckpointError `malformed` or `limit-exceeded`, naming the layer.
 */
export function readCfg(text: string, file: string): readonly DarknetLayer[] {
  const [net, ...sections] = splitSections(text, file);
  if (net === undefined || !/^net(?:work)?$/.test(net.type))
    return fail(file, 'expected a .cfg of Darknet, which begins with [net], found something else');
  const planner = new Planner(net, file);
  return sections.map((section) => planner.plan(section));
}

function splitSections(text: string, file: string): readonly Section[] {
  const sections: { readonly type: string; readonly options: Map<string, string> }[] = [];
  for (const line of text.split('\n')) {
    const bare = line.replace(/\s/g, '');
    if (bare === '' || bare.startsWith('#') || bare.startsWith(';')) continue;
    if (bare.startsWith('[')) {
      if (sections.length > MAX_LAYERS)
        fail(file, `expected at most ${MAX_LAYERS} layers, found more`, 'limit-exceeded');
      sections.push({ type: bare.slice(1, bare.indexOf(']')).toLowerCase(), options: new Map() });
      continue;
    }
    const equals = bare.indexOf('=');
    const options = sections.at(-1)?.options;
    const key = bare.slice(0, equals);
    if (equals < 0 || options === undefined)
      return fail(file, `expected a line of a .cfg of Darknet, found ${quote(line.trim())}`);
    // Darknet takes the first of two.
    if (!options.has(key)) options.set(key, bare.slice(equals + 1));
  }
  return sections;
}

/** Follows the sizes through the network, layer by layer. */
class Planner {
  readonly #file: string;
  readonly #sizes: Size[] = [];
  #size: Size;
  #references = 0;

  constructor(net: Section, file: string) {
    this.#file = file;
    const [height, width, channels] = [
      read(net, 'height', 0),
      read(net, 'width', 0),
      read(net, 'channels', 0),
    ];
    // Networks of [connected] layers may have one row of inputs.
    this.#size =
      height * width * channels > 0
        ? { width, height, channels }
        : { width: 1, height: 1, channels: read(net, 'inputs', 0) };
  }

  plan(section: Section): DarknetLayer {
    const { type } = section;
    const stopsBackward = read(section, 'stopbackward', 0) !== 0;
    const index = this.#sizes.length;
    const planned = this.#planSection(section);
    if (planned === null) {
      this.#sizes.push(this.#size);
      return { type, arrays: null, stopsBackward };
    }
    const { size, arrays } = planned;
    for (const one of [size.width, size.height, size.channels, ...arrays.flatMap(({ shape }) => shape)])
      if (!(one > -MAX_SIZE && one <= MAX_SIZE))
        this.#failAt(`expected sizes of up to ${MAX_SIZE}, found ${one}`);
    if (arrays.some(({ shape }) => shape.some((one) => one < 1 || !Number.isInteger(one))))
      this.#failAt(`expected [${type}] to have weights, found sizes that leave none`);
    this.#sizes.push(size);
    this.#size = size;
    const path = `layers.${index}.`;
    const named = arrays.map(({ name, shape }) => ({ name: path + name, shape }));
    return { type, arrays: named, stopsBackward };
  }

  /** @returns null for a type that is not known. */
  #planSection(section: Section): { size: Size; arrays: readonly DarknetArray[] } | null {
    const { width, height, channels } = this.#size;
    const stride = read(section, 'stride', 1);
    switch (section.type) {
      case 'convolutional':
      case 'conv':
        return this.#planConvolution(section);
      case 'connected':
      case 'conn': {
        const outputs = read(section, 'output', 1);
        const [bias, ...statistics] = isNormalized(section) ? normOf(outputs) : [];
        const weight = { name: 'connected.weight', shape: [outputs, width * height * channels] };
        return {
          size: { width: 1, height: 1, channels: outputs },
          arrays: [bias ?? { name: 'connected.bias', shape: [outputs] }, weight, ...statistics],
        };
      }
      case 'batchnorm':
        return { size: this.#size, arrays: normOf(channels) };
      case 'local': {
        const [filters, size] = [read(section, 'filters', 1), read(section, 'size', 1)];
        const inset = read(section, 'pad', 0) === 0 ? size : 1;
        const [w, h] = [width, height].map((extent) => Math.floor((extent - inset) / stride) + 1) as [
          number,
          number,
        ];
        return {
          size: { width: w, height: h, channels: filters },
          arrays: [
            { name: 'local.bias', shape: [filters * w * h] },
            { name: 'local.weight', shape: [w * h, filters, channels, size, size] },
          ],
        };
      }
      case 'shortcut': {
        const from = this.#follow(section, 'from').length;
        const kind = section.options.get('weights_type') ?? 'none';
        const count = kind === 'none' ? 0 : (from + 1) * (kind === 'per_channel' ? channels : 1);
        return { size: this.#size, arrays: count === 0 ? [] : [{ name: 'shortcut.weight', shape: [count] }] };
      }
      case 'route': {
        const sizes = this.#follow(section, 'layers');
        const sum = sizes.reduce((total, size) => total + size.channels, 0);
        const { width: w, height: h } = sizes[0] ?? this.#size;
        return {
          size: { width: w, height: h, channels: Math.floor(sum / read(section, 'groups', 1)) },
          arrays: [],
        };
      }
      case 'scale_channels':
      case 'sam':
        return { size: this.#follow(section, 'from')[0] ?? this.#size, arrays: [] };
      case 'maxpool':
      case 'max':
      case 'local_avgpool': {
        const size = read(section, 'size', stride);
        const padding = read(section, 'padding', size - 1);
        const isDeep = read(section, 'maxpool_depth', 0) !== 0;
        return {
          size: {
            width: Math.floor((width + padding - size) / read(section, 'stride_x', stride)) + 1,
            height: Math.floor((height + padding - size) / read(section, 'stride_y', stride)) + 1,
            channels: isDeep ? read(section, 'out_channels', 1) : channels,
          },
          arrays: [],
        };
      }
      case 'avgpool':
      case 'avg':
        return { size: { width: 1, height: 1, channels }, arrays: [] };
      case 'crop':
        return {
          size: { width: read(section, 'crop_width', 1), height: read(section, 'crop_height', 1), channels },
          arrays: [],
        };
      case 'upsample': {
        const factor = stride < 0 ? 1 / -stride : read(section, 'stride', 2);
        return { size: scale(this.#size, factor, 1), arrays: [] };
      }
      case 'reorg':
      case 'reorg3d': {
        const factor = read(section, 'reverse', 0) === 0 ? stride : 1 / stride;
        return { size: scale(this.#size, 1 / factor, factor * factor), arrays: [] };
      }
      default:
        return PASSIVE.has(section.type) ? { size: this.#size, arrays: [] } : null;
    }
  }

  #planConvolution(section: Section): { size: Size; arrays: readonly DarknetArray[] } {
    const { width, height, channels } = this.#size;
    const [filters, size] = [read(section, 'filters', 1), read(section, 'size', 1)];
    const stride = read(section, 'stride', 1);
    const padding = read(section, 'pad', 0) === 0 ? read(section, 'padding', 0) : Math.floor(size / 2);
    const weight = {
      name: 'conv.weight',
      shape: [filters, Math.floor(channels / read(section, 'groups', 1)), size, size],
    };
    const isShared = section.options.has('share_index');
    const before = isNormalized(section) ? normOf(filters) : [{ name: 'conv.bias', shape: [filters] }];
    const strideOf = (axis: string) => Math.max(1, read(section, axis, stride));
    return {
      size: {
        width: Math.floor((width + 2 * padding - size) / strideOf('stride_x')) + 1,
        height: Math.floor((height + 2 * padding - size) / strideOf('stride_y')) + 1,
        channels: filters,
      },
      arrays: isShared ? [] : [...before, weight],
    };
  }

  /** The sizes of the layers that an option names, from the start or, below zero, from here back. */
  #follow(section: Section, key: string): readonly Size[] {
    const numbers = (section.options.get(key) ?? '').split(',').map((text) => Number.parseInt(text, 10));
    this.#references += numbers.length;
    if (this.#references > MAX_REFERENCES)
      this.#failAt(
        `expected at most ${MAX_REFERENCES} layers to be named by others, found more`,
        'limit-exceeded',
      );
    const here = this.#sizes.length;
    return numbers.map((number) => {
      const size = this.#sizes[number < 0 ? here + number : number];
      if (size === undefined) return this.#failAt(`expected layers before it at ${quote(key)}, found others`);
      return size;
    });
  }

  #failAt(message: string, code?: CheckpointErrorCode): never {
    return fail(this.#file, `layer ${this.#sizes.length}: ${message}`, code);
  }
}

function scale({ width, height, channels }: Size, factor: number, deeper: number): Size {
  return {
    width: Math.floor(width * factor),
    height: Math.floor(height * factor),
    channels: Math.floor(channels * deeper),
  };
}

/** β, γ and the statistics, in the order of the file. */
function normOf(channels: number): readonly DarknetArray[] {
  return ['bias', 'weight', 'running_mean', 'running_var'].map((leaf) => ({
    name: `bn.${leaf}`,
    shape: [channels],
  }));
}

function isNormalized(section: Section): boolean {
  return read(section, 'batch_normalize', 0) !== 0 || read(section, 'cbn', 0) !== 0;
}

/** The whole number that an option begins with, as C's atoi reads it: 0 where it begins with none. */
function read({ options }: Section, key: string, otherwise: number): number {
  const text = options.get(key);
  if (text === undefined) return otherwise;
  const number = Number.parseInt(text, 10);
  return Number.isNaN(number) ? 0 : number;
}
