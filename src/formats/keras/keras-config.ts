// What the configuration of a Keras model says of its layers: names, classes, order, epsilon, momentum, trainable.

import {
  isJsonArray,
  isJsonNumber,
  isJsonObject,
  type JsonObject,
  type JsonValue,
  readJsonObject,
} from '../../checkpoint/json-reader.js';

/** A layer, or a model used as one, as `get_config` describes it. */
export interface LayerConfig {
  /** `BatchNormalization`, `Functional`; of a registered class the name alone. */
  readonly className: string;
  readonly name: string;
  /** What the class keeps of its arguments. */
  readonly settings: JsonObject;
  /** A model's own layers, in their order; null for what is no model. */
  readonly layers: readonly LayerConfig[] | null;
}

/** Models in models; the text itself nests no deeper than its reader allows. */
const MAX_DEPTH = 32;

/**
 * Reads a model's configuration, `{"class_name": …, "config": {…}}`: a .keras archive has it in config.json, an HDF5 file
 * in its attribute `model_config`.
 *
 * @returns null where it describes no model.
 * @throws CheckpointError where it is no JSON.
 */
export function readModelConfig(bytes: Uint8Array, file: string): LayerConfig | null {
  return readLayer(readJsonObject(bytes, file), 0);
}

function readLayer(value: JsonValue | undefined, depth: number): LayerConfig | null {
  if (!isJsonObject(value) || depth > MAX_DEPTH) return null;
  const [named, config] = [value.get('class_name'), value.get('config')];
  if (typeof named !== 'string') return null;
  // Keras before 2.2.3 wrote a Sequential's layers without anything around them.
  const settings = isJsonObject(config) ? config : new Map([['layers', config ?? null]]);
  const name = settings.get('name') ?? value.get('name');
  const layers = settings.get('layers');
  return {
    className: named.slice(named.lastIndexOf('>') + 1),
    name: typeof name === 'string' ? name : '',
    settings,
    layers: isJsonArray(layers) ? layers.flatMap((layer) => readLayer(layer, depth + 1) ?? []) : null,
  };
}

/** The layer that an attribute of a layer is, such as `layer` of TimeDistributed. */
export function readInnerLayer({ settings }: LayerConfig, attribute: string): LayerConfig | null {
  return readLayer(settings.get(attribute), 0);
}

/** A layer and all that its configuration holds, itself first and then in their order. */
export function listLayers(config: LayerConfig, depth = 0): readonly LayerConfig[] {
  if (depth > MAX_DEPTH) return [config];
  const inner = [...config.settings.keys()].flatMap((key) =>
    key.endsWith('layer') || key === 'cell' ? (readInnerLayer(config, key) ?? []) : [],
  );
  return [config, ...[...(config.layers ?? []), ...inner].flatMap((layer) => listLayers(layer, depth + 1))];
}

/** A setting that is a finite number; null where it is none, or not there. */
export function readNumber({ settings }: LayerConfig, key: string): number | null {
  const value = settings.get(key);
  return isJsonNumber(value) && Number.isFinite(Number(value.digits)) ? Number(value.digits) : null;
}

/** A class as Keras names what it saves of it: `BatchNormalization` is `batch_normalization`. */
export function toSnakeCase(className: string): string {
  return className
    .slice(0, 200)
    .replace(/\W+/g, '')
    .replace(/(.)([A-Z][a-z]+)/g, '$1_$2')
    .replace(/([a-z])([A-Z])/g, '$1_$2')
    .toLowerCase();
}

/** What the variables of a layer are called that saves them by number, by its class, in their order. */
const VARIABLES: ReadonlyMap<string, readonly string[]> = new Map<string, readonly string[]>([
  ['normalization', ['mean', 'variance', 'count']],
  ['separable_conv1d', ['depthwise_kernel', 'pointwise_kernel', 'bias']],
  ['separable_conv2d', ['depthwise_kernel', 'pointwise_kernel', 'bias']],
  ['embedding', ['embeddings']],
  ['p_re_lu', ['alpha']],
  ['rms_normalization', ['scale']],
  ['spectral_normalization', ['vector_u', 'kernel']],
  ...['lstm_cell', 'gru_cell', 'simple_rnn_cell'].map(
    (cell) => [cell, ['kernel', 'recurrent_kernel', 'bias']] as const,
  ),
]);

/** Batch renormalisation adds the last three. */
const STATISTICS = ['moving_mean', 'moving_variance', 'moving_stddev', 'renorm_mean', 'renorm_stddev'];

/** The class that a name tells, as `lstm_cell` and `batch_normalization_3` do; null for names of one's own. */
export function classOfName(name: string): string | null {
  const bare = name.replace(/_\d+$/, '');
  return VARIABLES.has(bare) || NORM_NAME.test(bare) ? bare : null;
}

/** What is known of a layer whose variables are numbered. */
interface NumberedLayer {
  /** Its class in snake case, and names that may tell it; null where nothing tells. */
  readonly className: string | null;
  readonly config: LayerConfig | null;
  /** What it is called, which may tell a norm layer where nothing else does. */
  readonly name: string;
  readonly shapes: readonly (readonly number[])[];
}

/** Names of variables, and whether a lone `beta` could as well be `gamma`. */
interface VariableNames {
  readonly names: readonly string[];
  readonly isGuessed: boolean;
}

/**
 * What the numbered variables of a layer are called: by its class and settings, else by their shapes. Four vectors of one
 * width are a BatchNormalization's; a matrix, alone or with a vector of its last width, is a kernel. Others keep their
 * numbers.
 */
export function nameVariables({ className, config, name, shapes }: NumberedLayer): VariableNames {
  const sure = (names: readonly string[]) => ({ names: names.slice(0, shapes.length), isGuessed: false });
  const numbers = shapes.map((_, index) => String(index));
  const width = shapes[0]?.length === 1 ? shapes[0][0] : undefined;
  const areVectors =
    shapes.length > 0 && shapes.every(({ length, 0: size }) => length === 1 && size === width);
  const isNorm = shapes.length > 2 || NORM_NAME.test(className ?? name);
  if (areVectors && isNorm) {
    const settings = config?.settings ?? new Map();
    const [hasScale, hasCenter] = ['scale', 'center'].map((key) => settings.get(key) !== false);
    const affine = [...(hasScale ? ['gamma'] : []), ...(hasCenter ? ['beta'] : [])];
    const count = shapes.length - 2;
    const hasRenorm = settings.get('renorm') === true || count > 2;
    if (settings.has('scale') && settings.has('center'))
      return sure([...affine, ...(hasRenorm ? STATISTICS : STATISTICS.slice(0, 2)), ...numbers]);
    const told = count === 1 || count === 4 ? ['beta'] : count === 0 || count === 3 ? [] : affine;
    return {
      names: [...told, ...STATISTICS, ...numbers].slice(0, shapes.length),
      isGuessed: told.length === 1,
    };
  }
  const known = VARIABLES.get(className ?? '');
  if (known !== undefined && shapes.length <= known.length) return sure(known);
  if (className === 'layer_normalization' || className === 'group_normalization')
    return sure(
      config?.settings.get('scale') === false ? ['beta', '1'] : ['gamma', 'beta', ...numbers.slice(2)],
    );
  const [kernel, bias] = shapes;
  const isKernel = (kernel?.length ?? 0) > 1 && (bias === undefined || bias.length <= 2);
  return sure(isKernel && shapes.length <= 2 ? ['kernel', 'bias'] : numbers);
}

const NORM_NAME = /batch_?norm|(?:^|_)bn(?:_|\d|$)/i;
