import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { createBaseline } from '../../src/formats/baseline/make-baseline.js';
import { openCheckpoint } from '../../src/formats/open.js';
import { crc32 } from '../../src/io/zip.js';
import type { Input } from './input.js';
import { type Mutator, mutateBytes } from './mutate-bytes.js';
import { mutateJson } from './mutate-json.js';
import { joinNpy, mutateNpy } from './mutate-npy.js';
import { mutatePickles } from './mutate-pickle.js';
import { mutateProtobuf } from './mutate-protobuf.js';
import { mutateSafetensors } from './mutate-safetensors.js';
import { mutateTar } from './mutate-tar.js';
import { mutateZip, writeZip } from './mutate-zip.js';
import { runCheckpoint } from './run-checkpoint.js';
import { runGlobs, runNpy, runPolicy } from './run-others.js';

/** Where an input lies, and the fixtures. */
export interface Place {
  readonly directory: string;
  readonly fixtures: string;
}

/** Something that reads files of strangers. */
export interface Reader {
  readonly name: string;
  /** The source files whose coverage is shown as its own. */
  readonly sources: RegExp;
  /** Valid inputs to start from. */
  readonly listSeeds: (fixtures: string) => readonly Input[] | Promise<readonly Input[]>;
  /** How the content of a file is changed. */
  readonly chooseMutator: (file: string) => Mutator;
  /** @throws Fault as the oracle says. */
  readonly run: (place: Place, input: Input) => Promise<void>;
}

const runAsCheckpoint: Reader['run'] = ({ directory, fixtures }, { main, reference, draw }) =>
  runCheckpoint({
    path: join(directory, main),
    reference: join(fixtures, reference),
    restored: join(dirname(directory), 'restored'),
    draw,
  });

function checkpointReader(
  name: string,
  reader: Pick<Reader, 'sources' | 'listSeeds'> & { readonly mutate: Mutator },
): Reader {
  const { mutate, ...rest } = reader;
  const chooseMutator = (file: string) =>
    file.endsWith('.json') ? mutateJson : file.endsWith('.data') ? mutateBytes : mutate;
  return { name, ...rest, chooseMutator, run: runAsCheckpoint };
}

/** Every reader, in the order in which they take turns. */
export const READERS: readonly Reader[] = [
  checkpointReader('safetensors', {
    sources:
      /^src\/(?:formats\/safetensors\/safetensors|formats\/open|checkpoint\/(?:json-reader|dtype))\.ts$/,
    listSeeds: (fixtures) =>
      listFixtures(fixtures, (path) => /(?:before|after|tied|float\d+)\.safetensors$/.test(path)),
    mutate: mutateSafetensors,
  }),
  checkpointReader('shards', {
    sources: /^src\/(?:formats\/(?:open-beside|shards)|checkpoint\/json-reader)\.ts$/,
    listSeeds: (fixtures) => [readDirectory(fixtures, 'containers/sharded/model.safetensors.index.json')],
    mutate: mutateSafetensors,
  }),
  checkpointReader('configs', {
    sources: /^src\/(?:formats\/model-config|checkpoint\/(?:checkpoint|json-reader))\.ts$/,
    listSeeds: (fixtures) => {
      const seed = readDirectory(fixtures, 'containers/huggingface/model.safetensors');
      return CONFIGS.map((configs) => ({ ...seed, files: new Map([...seed.files, ...configs]) }));
    },
    mutate: mutateBytes,
  }),
  checkpointReader('onnx', {
    sources: /^src\/formats\/onnx\//,
    listSeeds: (fixtures) => listFixtures(fixtures, (path) => path.endsWith('.onnx')),
    mutate: mutateProtobuf,
  }),
  checkpointReader('torch zip', {
    sources: /^src\/(?:formats\/torch\/(?!older)|io\/zip)/,
    listSeeds: (fixtures) => listTorch(fixtures, 'zip'),
    mutate: mutateZip,
  }),
  checkpointReader('torch legacy', {
    sources: /^src\/formats\/torch\/(?:older|pickle)/,
    listSeeds: (fixtures) => listTorch(fixtures, 'legacy'),
    mutate: mutatePickles,
  }),
  checkpointReader('numpy pickle', {
    sources: /^src\/(?:formats\/torch\/(?:numpy|pickle)|io\/latin1)/,
    listSeeds: (fixtures) => listFixtures(fixtures, (path) => /arrays.*\.(?:pkl|pdparams)$/.test(path)),
    mutate: mutatePickles,
  }),
  checkpointReader('npz', {
    sources: /^src\/formats\/numpy\//,
    listSeeds: (fixtures) => listFixtures(fixtures, (path) => path.endsWith('.npz')),
    mutate: mutateZip,
  }),
  checkpointReader('torch export', {
    sources: /^src\/formats\/torch\/(?:exported-program|zip-container)\.ts$/,
    listSeeds: (fixtures) => listFixtures(fixtures, (path) => path.endsWith('.pt2')),
    mutate: mutateZip,
  }),
  checkpointReader('torch distributed', {
    sources: /^src\/(?:formats\/torch\/distributed|io\/byte-source)\.ts$/,
    listSeeds: (fixtures) =>
      ['distributed', 'sharded'].map((name) => readDirectory(fixtures, `archives/${name}/.metadata`)),
    mutate: mutatePickles,
  }),
  checkpointReader('archives', {
    sources: /^src\/(?:formats\/open|io\/tar)\.ts$/,
    listSeeds: (fixtures) => listFixtures(fixtures, (path) => /archives.*\.(?:zip|nemo)$/.test(path)),
    mutate: (bytes, random, donor) => (bytes[0] === 0x50 ? mutateZip : mutateTar)(bytes, random, donor),
  }),
  checkpointReader('flax', {
    sources: /^src\/formats\/flax\//,
    listSeeds: (fixtures) => listFixtures(fixtures, (path) => path.endsWith('.msgpack')),
    mutate: mutateBytes,
  }),
  checkpointReader('torch tar', {
    sources: /^src\/formats\/torch\/older/,
    listSeeds: (fixtures) => listTorch(fixtures, 'tar'),
    mutate: mutateTar,
  }),
  checkpointReader('torchscript', {
    sources: /^src\/formats\/torch\/(?:torch|zip-container|pickle)\b/,
    listSeeds: (fixtures) => listTorch(fixtures, 'torchscript'),
    mutate: mutateZip,
  }),
  {
    ...checkpointReader('keras', {
      sources: /^src\/formats\/keras\//,
      listSeeds: (fixtures) =>
        KERAS_FILES.map((name) => ({
          ...inputOf(basename(name), readFileSync(join(fixtures, 'keras', name))),
          reference: 'keras/before.safetensors',
        })),
      mutate: mutateBytes,
    }),
    chooseMutator: (file) => (file.endsWith('.keras') ? mutateZip : mutateBytes),
  },
  checkpointReader('tensorflow', {
    sources: /^src\/formats\/tensorflow\//,
    listSeeds: (fixtures) => [readDirectory(fixtures, 'keras/exported/variables/variables.index')],
    mutate: mutateBytes,
  }),
  checkpointReader('baseline', {
    sources: /^src\/formats\/baseline\/(?!make)/,
    listSeeds: listBaselines,
    mutate: mutateSafetensors,
  }),
  {
    name: 'policy',
    sources: /^src\/policy\.ts$/,
    listSeeds: () => POLICIES.map((policy) => inputOf('bn-audit.config.json', JSON.stringify(policy))),
    chooseMutator: () => mutateJson,
    run: ({ directory, fixtures }, { main }) => runPolicy(join(directory, main), fixtures),
  },
  {
    name: 'globs',
    sources: /^src\/(?:compare\/(?:globs|findings)|norm\/norm-layer)\.ts$/,
    listSeeds: () => GLOBS.map((globs) => inputOf('globs.json', JSON.stringify(globs))),
    chooseMutator: () => mutateJson,
    run: (_, { files, main }) => runGlobs(files.get(main) ?? new Uint8Array(0)),
  },
  {
    name: 'npy',
    sources: /^src\/formats\/numpy\/npy\.ts$/,
    listSeeds: (fixtures) => listArrays(readFileSync(join(fixtures, 'probe/input.npy'))),
    chooseMutator: (file) => (file.endsWith('.npz') ? mutateZip : mutateNpy),
    run: ({ directory }, { main }) => runNpy(join(directory, main)),
  },
];

/** Larger fixtures take longer and hold nothing that smaller ones lack. */
const MAX_SEED_BYTES = 80_000;

/** The forms of a model before its fine-tune, of which each is compared with something. */
const BEFORE = /^before\.(?:safetensors|pt|(?:live|fold)\.onnx)$/;

/** Each different file once; what comes after a fine-tune is compared with what was before, in any form. */
function listFixtures(
  fixtures: string,
  isWanted: (path: string, bytes: Uint8Array) => boolean,
): readonly Input[] {
  const seeds = new Map<string, Input>();
  for (const name of readdirSync(fixtures, { recursive: true, encoding: 'utf8' }).sort()) {
    if (!/\.(?:onnx|pt|pt2|ckpt|tar|safetensors|pkl|pdparams|npz|zip|nemo|msgpack)$/.test(name)) continue;
    const path = join(fixtures, name);
    const bytes = new Uint8Array(readFileSync(path));
    if (bytes.length > MAX_SEED_BYTES || !isWanted(name, bytes)) continue;
    const beside = readdirSync(dirname(path)).filter((other) => other === `${basename(path)}.data`);
    const files = new Map(
      [basename(path), ...beside].map((file) => [
        file,
        new Uint8Array(readFileSync(join(dirname(path), file))),
      ]),
    );
    const digest = createHash('sha256').update(bytes).digest('hex');
    const main = basename(path);
    const partners = readdirSync(dirname(path)).filter((other) => BEFORE.test(other));
    const reference = join(dirname(name), partners[seeds.size % partners.length] ?? main);
    if (!seeds.has(digest)) seeds.set(digest, { main, files, reference, draw: 0 });
  }
  return [...seeds.values()];
}

/** A checkpoint with all files of its directory. */
function readDirectory(fixtures: string, path: string): Input {
  const directory = join(fixtures, dirname(path));
  const files = new Map(
    readdirSync(directory).map((name) => [name, new Uint8Array(readFileSync(join(directory, name)))]),
  );
  return { main: basename(path), files, reference: path, draw: 0 };
}

const KERAS_FILES = [
  ...['before.h5', 'after.keras', 'keras2.keras', 'keras2.h5', 'after.weights.h5'],
  ...['chunked.h5', 'gzip-latest.h5', 'gzip-shuffle-checksum.h5', 'paged-latest.h5'].map(
    (name) => `storage/${name}`,
  ),
];

type TorchContainer = 'zip' | 'legacy' | 'tar' | 'torchscript';

function listTorch(fixtures: string, wanted: TorchContainer): readonly Input[] {
  return listFixtures(
    fixtures,
    (path, bytes) => /\.(?:pt|ckpt|tar)$/.test(path) && containerOf(bytes) === wanted,
  );
}

function containerOf(bytes: Uint8Array): TorchContainer {
  if (bytes[0] === 0x80) return 'legacy';
  if (bytes[0] !== 0x50) return 'tar';
  return Buffer.from(bytes).includes('constants.pkl') ? 'torchscript' : 'zip';
}

const BASELINE_SOURCES = [
  'pairs/full-finetune/before.live.onnx',
  'pairs/full-finetune/before.fold.onnx',
  'pairs/full-finetune/before.safetensors',
  'containers/whole-module.pt',
  'declared/lightning.ckpt',
];

async function listBaselines(fixtures: string): Promise<readonly Input[]> {
  const seeds: Input[] = [];
  for (const reference of BASELINE_SOURCES) {
    const checkpoint = await openCheckpoint(join(fixtures, reference));
    const { bytes } = await createBaseline(checkpoint);
    await checkpoint.close();
    seeds.push({ ...inputOf('baseline.safetensors', bytes), reference });
  }
  return seeds;
}

function inputOf(main: string, content: string | Uint8Array): Input {
  return { main, files: new Map([[main, new Uint8Array(Buffer.from(content))]]), reference: '', draw: 0 };
}

const toFile = (value: unknown) => new Uint8Array(Buffer.from(JSON.stringify(value)));

const CONFIGS: readonly (readonly (readonly [name: string, bytes: Uint8Array])[])[] = [
  [
    [
      'config.json',
      toFile({ architectures: ['ResNet'], model_type: 'resnet', transformers_version: '4.40.0' }),
    ],
    [
      'adapter_config.json',
      toFile({ peft_type: 'LORA', bias: 'none', target_modules: ['conv1'], modules_to_save: ['bn1'] }),
    ],
  ],
  [
    ['config.json', toFile({ architecture: 'resnet18', pretrained_cfg: { tag: 'a1' } })],
    [
      'adapter_config.json',
      toFile({ peft_type: 'IA3', bias: 'all', target_modules: 'all-linear', modules_to_save: null }),
    ],
  ],
];

const POLICIES = [
  { frozen: ['auto'], failOn: 'warning', minShift: 0.5, epsilon: 1e-5, exact: true },
  {
    $schema: 'https://example.com/bn-audit.config.schema.json',
    frozen: ['backbone', 'layer1.**'],
    allow: ['*.bn2', 'head'],
    map: { 'model.': '', encoder: 'backbone' },
    pairs: {
      detector: { before: 'a.pt', after: ['b.pt', 'c/*.pt'], allow: ['x'], minShift: 1 },
      other: { before: 'a', after: 'b' },
    },
    reports: { json: 'out/report.json', html: 'report.html' },
  },
];

const GLOBS = [
  { globs: ['backbone', '*.bn1'], names: ['backbone.bn1', 'backbone.layer1.0.bn1', 'head.bn'] },
  { globs: ['**.bn?', '[a-c]*', '{a,b}.bn', '!x'], names: ['a.bn1', 'b.bn', 'module.c.d.e.f.bn2'] },
  { globs: ['(a+)+b', '*a*a*a*a*c', 'a|b', '\\*'], names: ['aaaaaaaaaaaaaaaa', 'a/b', 'a..b', '.a.'] },
];

/** NumPy's own array, another one in Fortran's order, and both in an .npz file. */
function listArrays(array: Uint8Array): readonly Input[] {
  const data = new Uint8Array(48).map((_, index) => index);
  const fortran = joinNpy("{'descr': '>f8', 'fortran_order': True, 'shape': (2, 3), }\n", data);
  const whole = joinNpy("{'descr': '<i8', 'fortran_order': False, 'shape': (6,), }\n", data);
  const members = [
    ['x.npy', fortran],
    ['y.npy', whole],
  ] as const;
  const archive = writeZip(
    members.map(([name, stored]) => ({ name, stored, method: 0, crc: crc32(stored), size: stored.length })),
  );
  return [
    inputOf('x.npy', array),
    inputOf('x.npy', fortran),
    inputOf('x.npy', whole),
    inputOf('x.npz', archive),
  ];
}
