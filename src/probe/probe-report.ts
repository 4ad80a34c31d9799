// The report of `probe`, and the answer at its head.

import type { DType } from '../checkpoint/dtype.js';
import { measuresOf, viaOf } from '../compare/compare-layers.js';
import { describeUnpaired } from '../compare/findings.js';
import type { LayerStatus } from '../compare/status.js';
import { TOOL_NAME, VERSION } from '../errors.js';
import type { Answer } from '../report/answer.js';
import { encloseName } from '../report/any-report.js';
import { type AuditReport, type CheckpointSummary, groupNotes } from '../report/audit-report.js';
import { formatCount, formatMeasure, formatPlural } from '../report/format-numbers.js';
import type { InputRuns } from './inputs.js';
import type { LayerResult, OutputResult, RunResults } from './run.js';

/** An output of the model: after, measured against after with before's statistics. */
export interface ProbeOutput {
  readonly name: string;
  readonly type: string;
  /** All runs together. */
  readonly shape: readonly number[];
  /** ‖after − restored‖ / ‖restored‖; null, like all measures, where the output holds no numbers. */
  readonly relativeL2: number | null;
  readonly cosine: number | null;
  readonly maxDifference: number | null;
  /** Values that are NaN or infinite. */
  readonly nonFinite: { readonly after: number; readonly restored: number } | null;
  /** Samples whose largest logit is another one; null where the output is no `[samples, classes]`. */
  readonly top1: { readonly samples: number; readonly changed: number; readonly share: number } | null;
}

/** How much of the outputs' difference goes when the statistics of one layer alone are put back. */
export interface ProbeContribution {
  /** 1 − remaining / whole difference, the mean over the outputs that differ; negative where it grows. */
  readonly explained: number;
  readonly outputs: readonly {
    readonly name: string;
    /** Relative L2 that remains. */
    readonly relativeL2: number;
    readonly explained: number;
  }[];
}

/** A norm layer of a probe, along the depth of after's graph. */
export interface ProbeLayer {
  readonly name: string;
  readonly node: string | null;
  readonly status: LayerStatus;
  readonly via: 'live' | 'folded';
  readonly channels: number;
  readonly putBack: boolean;
  /** What the statistics alone predict; null where folding hides them. */
  readonly outputShift: number | null;
  /** How far the layer's output really moves, relative L2; null where it cannot be tapped. */
  readonly movement: {
    /** With the layer's own statistics alone put back: comparable with outputShift. Null without ablation. */
    readonly sameInput: number | null;
    /** With all statistics put back, so that what the layers before it changed counts as well. */
    readonly inNetwork: number;
  } | null;
  /** Null for layers that were not put back, and without ablation. */
  readonly contribution: ProbeContribution | null;
  readonly notes: readonly string[];
}

/** The result of a probe: exactly what `--format json` prints. */
export interface ProbeReport {
  readonly schemaVersion: 1;
  readonly tool: { readonly name: string; readonly version: string };
  readonly before: CheckpointSummary;
  readonly after: CheckpointSummary;
  readonly runtime: { readonly name: 'onnxruntime-node'; readonly version: string };
  readonly inputs: {
    readonly kind: 'files' | 'random';
    readonly samples: number;
    readonly runs: number;
    /** Null for files. */
    readonly seed: number | null;
    readonly arrays: readonly {
      readonly name: string;
      readonly dtype: DType;
      readonly shape: readonly number[];
      readonly file: string | null;
    }[];
  };
  /** How many layers were put back, and how many of those alone as well. */
  readonly putBack: { readonly layers: number; readonly alone: number };
  readonly outputs: readonly ProbeOutput[];
  readonly layers: readonly ProbeLayer[];
  /** Relative L2 between the outputs of after itself and of the copy that the probe runs: rounding. */
  readonly copyError: number;
  /** The same between two runs of that copy on the same inputs: zero unless the model draws random numbers. */
  readonly repeatError: number;
  readonly warnings: readonly string[];
}

/** What a report is made from. */
interface ProbeResults {
  readonly audit: AuditReport;
  readonly runtimeVersion: string;
  readonly inputs: InputRuns;
  readonly results: RunResults;
  /** Outputs of the model that are no tensors, and so were not fetched. */
  readonly unfetched: readonly string[];
}

/** The copy differs from after by rounding; float16 rounds to 5e-4. */
const MAX_COPY_ERROR = 5e-3;

/** Puts a probe's results in the report's form. */
export function buildProbeReport({
  audit,
  runtimeVersion,
  inputs,
  results,
  unfetched,
}: ProbeResults): ProbeReport {
  const layers = results.layers.map((layer) => toProbeLayer(layer, results.outputs));
  const outputs = results.outputs.map((output) => toProbeOutput(output, inputs));
  return {
    schemaVersion: 1,
    tool: { name: TOOL_NAME, version: VERSION },
    before: audit.before,
    after: audit.after,
    runtime: { name: 'onnxruntime-node', version: runtimeVersion },
    inputs: {
      kind: inputs.kind,
      samples: inputs.samples,
      runs: inputs.runs,
      seed: inputs.seed,
      arrays: inputs.arrays,
    },
    putBack: {
      layers: layers.filter(({ putBack }) => putBack).length,
      alone: layers.filter(({ contribution }) => contribution !== null).length,
    },
    outputs,
    layers,
    copyError: results.copyError,
    repeatError: results.repeatError,
    warnings: listWarnings(audit, { inputs, results, outputs, layers, unfetched }),
  };
}

function toProbeOutput(
  { name, type, shape, difference, topOne }: OutputResult,
  { runs, samples }: InputRuns,
): ProbeOutput {
  const isSplit = runs > 1 && shape.length > 0;
  return {
    name,
    type,
    shape: isSplit ? [samples, ...shape.slice(1)] : shape,
    relativeL2: difference?.relativeL2 ?? null,
    cosine: difference?.cosine ?? null,
    maxDifference: difference?.maxDifference ?? null,
    nonFinite:
      difference === null
        ? null
        : { after: difference.nonFinite.value, restored: difference.nonFinite.reference },
    top1: topOne,
  };
}

function toProbeLayer(
  { plan, inNetwork, sameInput, remaining }: LayerResult,
  outputs: readonly OutputResult[],
): ProbeLayer {
  const { comparison, fed, notes } = plan;
  const { name, after, status, channels } = comparison;
  return {
    name,
    node: after.nodeName,
    status,
    via: viaOf(comparison),
    channels,
    putBack: fed !== null,
    outputShift: measuresOf(comparison)?.outputShift ?? null,
    movement: inNetwork === null ? null : { sameInput, inNetwork },
    contribution: remaining === null ? null : toContribution(remaining, outputs),
    notes,
  };
}

function toContribution(
  remaining: NonNullable<LayerResult['remaining']>,
  outputs: readonly OutputResult[],
): ProbeContribution {
  const shares = remaining.flatMap(({ output, relativeL2 }) => {
    const whole = outputs.find(({ name }) => name === output)?.difference?.relativeL2;
    // Where nothing differs there is nothing to explain.
    return whole === undefined
      ? []
      : [
          {
            name: output,
            relativeL2,
            explained: whole === 0 ? 0 : 1 - relativeL2 / whole,
            isMoved: whole !== 0,
          },
        ];
  });
  const moved = shares.filter(({ isMoved }) => isMoved);
  const sum = moved.reduce((total, { explained }) => total + explained, 0);
  return {
    explained: moved.length === 0 ? 0 : sum / moved.length,
    outputs: shares.map(({ name, relativeL2, explained }) => ({ name, relativeL2, explained })),
  };
}

interface WarningFacts {
  readonly outputs: readonly ProbeOutput[];
  readonly inputs: InputRuns;
  readonly results: RunResults;
  readonly layers: readonly ProbeLayer[];
  readonly unfetched: readonly string[];
}

function listWarnings(
  audit: AuditReport,
  { inputs, results, outputs, layers, unfetched }: WarningFacts,
): readonly string[] {
  const left = layers.filter(
    ({ putBack, status }) => !putBack && status !== 'locked' && status !== 'held' && status !== 'drifted',
  );
  const statuses = [...new Set(left.map(({ status }) => status))].join(', ');
  return [
    ...(inputs.kind === 'random'
      ? [
          'the inputs are random numbers: norm layers see statistics that no real data has, which as a rule exaggerates the differences; give real samples with --input',
        ]
      : []),
    ...(results.repeatError === 0
      ? []
      : [
          `the model gives other outputs each time it runs on the same inputs (relative L2 ${results.repeatError.toPrecision(2)}): it draws random numbers, and the differences hold those as well`,
        ]),
    ...(results.copyError <= MAX_COPY_ERROR
      ? []
      : [
          `the copy of after that was run differs from after itself by ${results.copyError.toPrecision(2)} (relative L2), more than rounding explains`,
        ]),
    ...outputs
      .filter(({ nonFinite }) => nonFinite !== null && nonFinite.after + nonFinite.restored > 0)
      .map(
        ({ name, nonFinite }) =>
          `the output ${name} holds ${nonFinite?.after} values that are NaN or infinite in after, ${nonFinite?.restored} with the statistics put back`,
      ),
    ...(left.length > 0
      ? [
          `${left.length} of ${layers.length} norm layers did more than drift (${statuses}) and keep after's statistics; --layer GLOB puts those of other layers back`,
        ]
      : []),
    ...unfetched.map((name) => `the output ${name} is no tensor and is not compared`),
    ...groupNotes(layers),
    ...describeUnpaired(audit.findings, 'not put back'),
    ...audit.warnings,
  ];
}

/** What a probe found. */
export function answerProbe(report: ProbeReport): Answer {
  const worst = findWorstOutput(report.outputs);
  const { layers } = report.putBack;
  const isStill = worst === null || worst.relativeL2 === 0;
  return {
    outcome: isStill ? 'clean' : 'drifted',
    word: isStill ? 'Still' : 'Moved',
    headline: writeHeadline(report, isStill ? null : worst),
    explanation:
      layers === 0
        ? 'Both runs have the statistics of after.'
        : `One run is after as it stands, the other after with before’s statistics in ${formatCount(layers)} of ${formatPlural(report.layers.length, 'norm layer')}; weights and inputs are the same, so the difference is that of the statistics alone.${describeAlone(report)}`,
  };
}

function describeAlone({ putBack: { layers, alone } }: ProbeReport): string {
  if (alone === layers) return '';
  return alone === 0
    ? ' No layer was put back alone.'
    : ` ${formatCount(alone)} of them were put back alone as well.`;
}

function writeHeadline({ putBack, outputs, layers }: ProbeReport, moved: ProbeOutput | null): string {
  if (moved === null) {
    if (putBack.layers > 0) return 'putting the statistics back changes no output';
    return layers.some(({ status }) => status === 'drifted' || status === 'invalid')
      ? 'nothing could be put back: the notes below say why'
      : 'no norm layer drifted: nothing is put back, and the outputs agree exactly';
  }
  const output = outputs.length === 1 ? 'the output' : `the output ${encloseName(moved.name)}`;
  const size = `${formatMeasure(moved.relativeL2 ?? Number.NaN)} of its own size`;
  return putBack.layers === 0
    ? `nothing is put back, yet two runs of the model differ in ${output} by ${size}`
    : `the statistics move ${output} by ${size}${describeTopOne(moved)}`;
}

/** The output that differs most; a NaN counts as most. */
function findWorstOutput(outputs: readonly ProbeOutput[]): ProbeOutput | null {
  const rank = ({ relativeL2 }: ProbeOutput) =>
    relativeL2 === null ? -1 : Number.isNaN(relativeL2) ? Number.POSITIVE_INFINITY : relativeL2;
  return outputs.reduce<ProbeOutput | null>(
    (worst, output) => (rank(output) > (worst === null ? -1 : rank(worst)) ? output : worst),
    null,
  );
}

function describeTopOne({ top1 }: ProbeOutput): string {
  if (top1 === null) return '';
  const samples = formatPlural(top1.samples, 'sample');
  return top1.changed === 0
    ? `; the top class of all ${samples} stays`
    : `; the top class of ${formatCount(top1.changed)} of ${samples} changes`;
}

/** Where the inputs come from, in a phrase. */
export function describeInputs({ inputs }: ProbeReport): string {
  const samples = formatPlural(inputs.samples, 'sample');
  if (inputs.kind === 'random') return `${samples} of random numbers (standard normal, seed ${inputs.seed})`;
  const files = [...new Set(inputs.arrays.flatMap(({ file }) => file ?? []))];
  return `${samples} from ${files.map(encloseName).join(', ')}`;
}

/** A share with its sign, in per cent: `36 %`, `−4.1 %`. */
export function formatShare(share: number): string {
  if (!Number.isFinite(share)) return formatMeasure(share);
  const percent = share * 100;
  const text = Math.abs(percent) >= 9.95 || percent === 0 ? percent.toFixed(0) : percent.toFixed(1);
  return `${text.replace(/^-(?=[\d.]*[1-9])/, '−').replace(/^-/, '')} %`;
}

/** A cosine: as many digits as it takes to tell it from 1. */
export function formatCosine(cosine: number): string {
  if (cosine === 1 || !Number.isFinite(cosine)) return formatMeasure(cosine).replace(/\.0+$/, '');
  const text = cosine.toFixed(4);
  return (text === '1.0000' ? `1 − ${formatMeasure(1 - cosine)}` : text).replace(/^-/, '−');
}

/** What the columns of the layers' table mean; those of runs that were not made are left out. */
export function explainColumns({
  putBack,
}: ProbeReport): readonly (readonly [term: string, meaning: string])[] {
  return COLUMN_NOTES.filter(([term]) => putBack.alone > 0 || term === 'predicted' || term === 'in network');
}

const COLUMN_NOTES = [
  ['predicted', 'the output shift that the statistics alone tell (docs/measures.md)'],
  ['alone', 'how far the layer’s output moves on these inputs when its own statistics are put back'],
  ['in network', 'how far the layer’s output moves when all statistics are put back'],
  [
    'explains',
    'how much of the outputs’ difference goes when this layer alone is put back; layers act on each other, so that shares may be negative and need not add up to 100 %',
  ],
] as const;
