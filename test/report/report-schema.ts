// docs/report.schema.json as a table: the JSON that commands print and that a baseline holds. A member of a report's type
// that is forgotten here, or that is no longer one, is an error of types.

import { DTYPE_NAMES } from '../../src/checkpoint/dtype.js';
import type {
  DriftCause,
  EpsilonFrom,
  MergedInto,
  NeighboursFrom,
} from '../../src/compare/compare-layers.js';
import { FINDING_KINDS, type Finding, type FindingLevel } from '../../src/compare/findings.js';
import type { PairedBy } from '../../src/compare/pair-layers.js';
import type { Region } from '../../src/compare/regions.js';
import type { RmsAndMax } from '../../src/compare/statistics.js';
import { LAYER_STATUSES, type Relation } from '../../src/compare/status.js';
import type { CheckpointErrorCode } from '../../src/errors.js';
import { METADATA_KEYS } from '../../src/formats/baseline/open-baseline.js';
import type { DeclaredBy } from '../../src/norm/declared-freeze.js';
import type { ProbeLayer, ProbeReport } from '../../src/probe/probe-report.js';
import type { ProbeOutput } from '../../src/probe/run.js';
import type {
  AuditLayer,
  AuditReport,
  CauseSummary,
  CheckpointSummary,
  LayerDeclaration,
  LayerSide,
  PerChannel,
} from '../../src/report/audit-report.js';
import type { AuditFailure, AuditSet } from '../../src/report/audit-set.js';
import type { InspectLayer, InspectReport } from '../../src/report/inspect-report.js';
import type {
  OrderKey,
  SkippedCheckpoint,
  TraceCheckpoint,
  TraceFinding,
  TraceLayer,
  TraceReport,
} from '../../src/report/trace-report.js';
import type { Part } from '../../src/restore/plan-layers.js';
import type {
  LeftLayer,
  RestoredLayer,
  RestoredPart,
  RestoreReport,
} from '../../src/restore/restore-report.js';

/** A JSON Schema. */
interface Schema {
  readonly [keyword: string]: unknown;
}

/** What an object need not have. */
class Optional {
  constructor(readonly schema: Schema) {}
}

/** A row for each member of a type. */
type Members<Type> = {
  readonly [Key in keyof Type]-?: object extends Pick<Type, Key> ? Optional : Schema;
};

/** Any object, whose members no type tells. */
type Untyped = Readonly<Record<string, Schema | Optional>>;

/** The members of all kinds of a union in one type: those that not all kinds have need not be there. */
type Merged<Union extends { readonly kind: unknown }> = Pick<Union, 'kind'> & {
  readonly [Key in Exclude<Union extends unknown ? keyof Union : never, 'kind'>]?: unknown;
};

const text: Schema = { type: 'string' };
const flag: Schema = { type: 'boolean' };
const whole: Schema = { type: 'integer', minimum: 0 };
const number = refer('number');
const count = refer('count');

function refer(name: string): Schema {
  return { $ref: `#/$defs/${name}` };
}

function list(items: Schema): Schema {
  return { type: 'array', items };
}

function orNull(schema: Schema): Schema {
  return typeof schema['type'] === 'string'
    ? { ...schema, type: [schema['type'], 'null'] }
    : { anyOf: [schema, { type: 'null' }] };
}

function optional(schema: Schema): Optional {
  return new Optional(schema);
}

/** One of these words; a word of the type that is left out is an error of types. */
function word<Word extends string>(words: Readonly<Record<Word, 0>>): Schema {
  return { enum: Object.keys(words) };
}

/** An object by names of whose none is known beforehand. */
function map(values: Schema): Schema {
  return { type: 'object', additionalProperties: values };
}

/** An object with these members; of a type that is named, each of its members. */
function object<Type = never>(members: NoInfer<[Type] extends [never] ? Untyped : Members<Type>>): Schema {
  const rows: readonly (readonly [string, unknown])[] = Object.entries(members);
  return {
    type: 'object',
    required: rows.filter(([, row]) => !(row instanceof Optional)).map(([name]) => name),
    properties: Object.fromEntries(
      rows.map(([name, row]) => [name, row instanceof Optional ? row.schema : row]),
    ),
  };
}

const head = { schemaVersion: { const: 1 }, tool: refer('tool') };
const warnings = list(text);
const verdict = word<AuditReport['verdict']>({ clean: 0, drifted: 0 });
const via = word<AuditLayer['via']>({ live: 0, folded: 0 });
const relation = word<Relation>({ equal: 0, changed: 0, none: 0 });
const equality: Schema = { enum: ['exact', 'rounded', null] };
const epsilonFrom = word<EpsilonFrom>({ graph: 0, default: 0, option: 0, weights: 0 });
const byStatus: Schema = { type: 'object', propertyNames: refer('status'), additionalProperties: whole };
const measure = object<RmsAndMax>({ rms: number, max: number });
const bounds = (value: Schema) => object({ low: value, high: value });
const momentum: Schema = { anyOf: [number, { const: 'cumulative' }] };
const dtype: Schema = { enum: DTYPE_NAMES };
const shape = list(whole);

const finding: Members<Finding> = {
  kind: { enum: FINDING_KINDS },
  level: word<FindingLevel>({ error: 0, warning: 0, note: 0 }),
  layer: text,
  message: text,
  docs: text,
  checkpoint: optional(text),
};

const code = word<CheckpointErrorCode>({
  'not-found': 0,
  unreadable: 0,
  'not-a-file': 0,
  'unrecognised-format': 0,
  truncated: 0,
  malformed: 0,
  'limit-exceeded': 0,
  refused: 0,
  unsupported: 0,
  ambiguous: 0,
  unwritable: 0,
  'same-file': 0,
  'no-norm-layers': 0,
  'nothing-paired': 0,
});
const why = {
  code: { enum: [...(code['enum'] as readonly string[]), 'usage'] },
  message: text,
  hint: orNull(text),
};

/** What more than one report has. */
const PARTS = {
  number: {
    anyOf: [{ type: 'number' }, { enum: ['NaN', 'Infinity', '-Infinity'] }],
    description: 'A finite number, or what JSON has no number for.',
  },
  count: {
    anyOf: [{ type: 'number' }, { type: 'string', pattern: '^-?[0-9]+$' }],
    description: 'A count; beyond 2^53 a string of digits.',
  },
  status: { enum: LAYER_STATUSES, description: 'What became of a norm layer: docs/measures.md.' },
  tool: object({ name: { const: 'bn-audit' }, version: text }),
  checkpoint: object<CheckpointSummary>({
    path: text,
    format: text,
    inModuleOrder: flag,
    framework: orNull(text),
    layers: whole,
    folded: whole,
    unmarked: optional(whole),
    learned: whole,
    parts: optional(list(text)),
  }),
  finding: object<Finding>(finding),
  cause: word<DriftCause['kind']>({
    'training-mode': 0,
    uncounted: 0,
    ema: 0,
    're-estimated': 0,
    reset: 0,
    averaged: 0,
    'batch-statistics': 0,
    recounted: 0,
  }),
  layerSide: object<LayerSide>({
    name: text,
    node: orNull(text),
    mean: orNull(text),
    variance: orNull(text),
  }),
  statistics: object({ mean: list(number), variance: list(number) }),
  region: object<Region>({
    path: text,
    status: word<Region['status']>({ frozen: 0, trained: 0 }),
    equality,
    relativeDifference: number,
    layers: whole,
    drifted: whole,
    learned: object<Region['learned']>({ tensors: whole, equal: whole, elements: whole }),
  }),
  auditLayer: object<AuditLayer>({
    name: text,
    named: flag,
    kind: text,
    status: refer('status'),
    allowed: flag,
    channels: whole,
    channelsMoved: orNull(whole),
    channelsHidden: optional(whole),
    affine: relation,
    neighbours: relation,
    equality,
    relativeDifference: number,
    neighboursFrom: word<NeighboursFrom>({ graph: 0, names: 0, unknown: 0 }),
    epsilon: number,
    epsilonFrom,
    epsilonAfter: optional(number),
    batches: orNull(count),
    cause: orNull(
      object<Merged<DriftCause>>({
        kind: refer('cause'),
        old: optional(
          orNull(
            object({
              share: number,
              momentum,
              momentumFrom: { enum: ['module', 'default'] },
            }),
          ),
        ),
        side: optional({ enum: ['before', 'after'] }),
        count: optional(number),
        rose: optional(flag),
      }),
    ),
    meanShift: orNull(measure),
    logStdRatio: orNull(measure),
    logStdRatioBounds: optional(object<RmsAndMax>({ rms: bounds(number), max: bounds(number) })),
    block: optional(object<MergedInto>({ name: text, branches: whole, meanShift: orNull(measure) })),
    divergence: orNull(number),
    outputShift: orNull(number),
    pairedBy: word<PairedBy>({ name: 0, map: 0, order: 0, values: 0 }),
    via,
    before: refer('layerSide'),
    after: refer('layerSide'),
    declared: optional(
      object<LayerDeclaration>({
        side: { enum: ['before', 'after'] },
        frozen: orNull(flag),
        by: {
          enum: [
            ...(word<DeclaredBy>({
              'lr-0': 0,
              'not-in-optimizer': 0,
              'no-optimizer-state': 0,
              'optimizer-state': 0,
              'requires-grad': 0,
              'frozen-stages': 0,
              'norm-cfg': 0,
              'ultralytics-freeze': 0,
              'keras-trainable': 0,
              'darknet-stopbackward': 0,
              'peft-adapter': 0,
            })['enum'] as readonly string[]),
            null,
          ],
        },
        where: orNull(text),
        training: orNull(flag),
        evalBy: orNull(text),
      }),
    ),
    perChannel: optional(
      object<PerChannel>({
        before: orNull(refer('statistics')),
        after: orNull(refer('statistics')),
        stdRatio: list(number),
        stdRatioBounds: optional(bounds(list(number))),
      }),
    ),
  }),
  failure: object<AuditFailure>({ before: text, after: text, ...why }),
} satisfies Readonly<Record<string, Schema>>;

const moment = orNull(whole);

/** What commands print: one of these, but for `watch` of several lines. */
const PRINTED = {
  audit: {
    ...object<AuditReport>({
      ...head,
      verdict,
      before: refer('checkpoint'),
      after: refer('checkpoint'),
      summary: object<AuditReport['summary']>({
        layers: whole,
        byStatus,
        notAudited: whole,
        batches: orNull(object({ min: count, max: count })),
        worst: orNull(object({ layer: text, outputShift: number })),
        causes: list(
          object<CauseSummary>({ kind: refer('cause'), layers: whole, sentence: text, remedy: text }),
        ),
        learned: object<AuditReport['summary']['learned']>({
          compared: whole,
          equal: whole,
          rounded: whole,
          changed: whole,
          incomparable: whole,
          onlyBefore: whole,
          onlyAfter: whole,
        }),
      }),
      regions: list(refer('region')),
      layers: list(refer('auditLayer')),
      findings: list(refer('finding')),
      warnings,
    }),
    description:
      'What `bn-audit diff BEFORE AFTER --format json` prints, and `watch` as a line for each checkpoint.',
  },
  auditSet: {
    ...object<AuditSet>({
      ...head,
      verdict: word<AuditSet['verdict']>({ clean: 0, drifted: 0, failed: 0 }),
      reports: list(refer('audit')),
      failures: list(refer('failure')),
    }),
    description: 'What `bn-audit diff --format json` prints for several checkpoints or pairs.',
  },
  trace: {
    ...object<TraceReport>({
      ...head,
      verdict,
      before: refer('checkpoint'),
      order: list(word<OrderKey>({ epoch: 0, step: 0, batches: 0, name: 0 })),
      checkpoints: list(
        object<TraceCheckpoint>({
          path: text,
          format: text,
          epoch: orNull(number),
          step: orNull(number),
          batches: orNull(number),
          verdict,
          byStatus,
          worst: orNull(object({ layer: text, outputShift: number })),
        }),
      ),
      skipped: list(
        object<SkippedCheckpoint>({
          path: text,
          reason: word<SkippedCheckpoint['reason']>({ duplicate: 0, failed: 0 }),
          code: { enum: [...(code['enum'] as readonly string[]), null] },
          message: text,
        }),
      ),
      summary: object<TraceReport['summary']>({
        checkpoints: whole,
        layers: whole,
        drifted: whole,
        thawed: whole,
        refrozen: whole,
        onset: orNull(object({ locked: moment, drifted: whole, layers: whole })),
        worst: orNull(object({ layer: text, outputShift: number, checkpoint: whole })),
      }),
      layers: list(
        object<TraceLayer>({
          name: text,
          kind: text,
          channels: whole,
          allowed: flag,
          spans: list(object({ status: refer('status'), from: whole, to: whole })),
          outputShift: list(orNull(number)),
          onset: orNull(object({ locked: moment, drifted: whole })),
          thawed: moment,
          refrozen: moment,
        }),
      ),
      findings: list(
        object<TraceFinding>({ ...finding, checkpoint: text, first: whole, last: whole, times: whole }),
      ),
      audit: orNull(refer('audit')),
      warnings,
    }),
    description: 'What `bn-audit trace --format json` prints.',
  },
  watchFailure: {
    ...object({
      ...head,
      verdict: { const: 'failed' },
      before: object({ path: text }),
      after: object({ path: text }),
      ...why,
    }),
    description: 'A line of `bn-audit watch --format json`: a checkpoint that could not be audited.',
  },
  watchGone: {
    ...object({ ...head, verdict: { const: 'gone' }, after: object({ path: text }) }),
    description:
      'A line of `bn-audit watch --format json`: a checkpoint that was deleted before it could be audited.',
  },
  inspection: {
    ...object<InspectReport>({
      ...head,
      health: word<InspectReport['health']>({ healthy: 0, warning: 0, unhealthy: 0 }),
      checkpoint: refer('checkpoint'),
      layers: list(
        object<InspectLayer>({
          name: text,
          kind: text,
          status: word<InspectLayer['status']>({ ok: 0, invalid: 0, unresolved: 0 }),
          channels: whole,
          epsilon: number,
          epsilonFrom,
          momentum: orNull(momentum),
          mode: word<InspectLayer['mode']>({ running: 0, batch: 0, unknown: 0 }),
          batches: orNull(count),
          mean: orNull(object({ min: number, max: number, rms: number })),
          variance: orNull(object({ min: number, max: number, geometricMean: number })),
          affine: flag,
          source: object<InspectLayer['source']>({ mean: orNull(text), variance: orNull(text) }),
          notes: list(text),
          perChannel: optional(
            object({
              mean: list(number),
              variance: list(number),
              gamma: orNull(list(number)),
              beta: orNull(list(number)),
            }),
          ),
        }),
      ),
      findings: list(refer('finding')),
      warnings,
    }),
    description: 'What `bn-audit inspect FILE --format json` prints.',
  },
  restoration: {
    ...object<RestoreReport>({
      ...head,
      outcome: word<RestoreReport['outcome']>({ restored: 0, planned: 0, nothing: 0 }),
      before: object({ path: text, format: text }),
      after: object({ path: text, format: text }),
      files: list(text),
      layers: list(
        object<RestoredLayer>({
          name: text,
          status: refer('status'),
          via,
          channels: whole,
          channelsMoved: orNull(whole),
          outputShift: orNull(number),
          batches: orNull(object({ from: count, to: count })),
          parts: list(
            object<RestoredPart>({
              part: word<Part>({
                'running mean': 0,
                'running variance': 0,
                'batch count': 0,
                'folded weight': 0,
                'folded bias': 0,
              }),
              tensor: text,
              dtype,
              elements: whole,
            }),
          ),
          notes: list(text),
        }),
      ),
      left: list(object<LeftLayer>({ name: text, status: refer('status') })),
      warnings,
    }),
    description: 'What `bn-audit restore --format json` prints.',
  },
  probe: {
    ...object<ProbeReport>({
      ...head,
      before: refer('checkpoint'),
      after: refer('checkpoint'),
      runtime: object<ProbeReport['runtime']>({ name: { const: 'onnxruntime-node' }, version: text }),
      inputs: object<ProbeReport['inputs']>({
        kind: { enum: ['files', 'random'] },
        samples: whole,
        runs: whole,
        seed: orNull(number),
        arrays: list(object({ name: text, dtype, shape, file: orNull(text) })),
      }),
      putBack: object<ProbeReport['putBack']>({ layers: whole, alone: whole }),
      outputs: list(
        object<ProbeOutput>({
          name: text,
          type: text,
          shape,
          relativeL2: orNull(number),
          cosine: orNull(number),
          maxDifference: orNull(number),
          nonFinite: orNull(object({ after: whole, restored: whole })),
          top1: orNull(object({ samples: whole, changed: whole, share: number })),
        }),
      ),
      layers: list(
        object<ProbeLayer>({
          name: text,
          node: orNull(text),
          status: refer('status'),
          via,
          channels: whole,
          putBack: flag,
          outputShift: orNull(number),
          movement: orNull(object({ sameInput: orNull(number), inNetwork: number })),
          contribution: orNull(
            object({
              explained: number,
              outputs: list(object({ name: text, relativeL2: number, explained: number })),
            }),
          ),
          notes: list(text),
        }),
      ),
      copyError: number,
      repeatError: number,
      warnings,
    }),
    description: 'What `bn-audit probe --format json` prints.',
  },
} satisfies Readonly<Record<string, Schema>>;

const tensor = {
  dtype,
  shape,
  sha256: optional({ type: 'string', pattern: '^[0-9a-f]{64}$' }),
  sample: optional({ anyOf: [{ const: true }, text] }),
  values: optional({ anyOf: [{ const: true }, text] }),
  projections: optional(
    object({ weights: whole, table: optional(text), axis: optional(whole), groups: optional(whole) }),
  ),
  isBuffer: optional(flag),
  requiresGrad: optional(flag),
};

const input = object({
  tensor: optional(text),
  constant: optional(text),
  unresolved: optional(text),
  source: optional(text),
  overridable: optional({ const: true }),
});

const node = { node: text, path: optional(text), scope: optional(list(text)) };

/** What a baseline's `__metadata__` holds, once the texts in it that are JSON are read as such. */
const BASELINE: Schema = {
  ...object({
    [METADATA_KEYS.version]: { const: '1' },
    [METADATA_KEYS.source]: text,
    [METADATA_KEYS.format]: text,
    [METADATA_KEYS.order]: { enum: ['module', 'name'] },
    [METADATA_KEYS.tensors]: map(object(tensor)),
    [METADATA_KEYS.modules]: optional(
      map(
        object({
          className: optional(text),
          epsilon: optional(number),
          momentum: optional(momentum),
          trackRunningStats: optional(flag),
          training: optional(flag),
          version: optional(whole),
        }),
      ),
    ),
    [METADATA_KEYS.graph]: optional(
      object({
        producer: text,
        norms: list(
          object({
            ...node,
            inputs: { type: 'array', items: input, minItems: 4, maxItems: 4 },
            inputNames: optional(list(text)),
            epsilon: number,
            momentum: number,
            mode: optional({ enum: ['batch', 'unknown'] }),
            opset: whole,
            neighbours: optional(list(text)),
            linear: optional(whole),
            notes: optional(list(text)),
          }),
        ),
        linears: list(
          object({
            op: { enum: ['Conv', 'ConvTranspose', 'Gemm', 'MatMul'] },
            ...node,
            foldedNorm: optional(text),
            looksFolded: optional({ const: true }),
            weight: input,
            weightName: optional(text),
            bias: optional(input),
            biasName: optional(text),
            axis: optional(whole),
            groups: optional(whole),
            channels: whole,
            feedsNorm: optional({ const: true }),
          }),
        ),
        constants: optional(map(object({ name: text, ...tensor }))),
      }),
    ),
    [METADATA_KEYS.warnings]: optional(object({ warnings })),
  }),
  description:
    'The __metadata__ of a baseline, in which the texts under tensors, modules, graph and warnings are read as JSON: docs/baseline.md.',
};

export const REPORT_SCHEMA = {
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  title: 'JSON of bn-audit',
  description:
    'What each command prints with --format json, each under $defs by itself, and what a baseline holds. Keys and values of enumerations are only ever added within a schemaVersion: docs/json.md.',
  oneOf: Object.keys(PRINTED).map(refer),
  $defs: { ...PARTS, ...PRINTED, baseline: BASELINE },
};
