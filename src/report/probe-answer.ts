import { formatCount, formatMeasure, formatPlural } from './format-numbers.js';
import type { ProbeOutput, ProbeReport } from './probe-report.js';

/** What a probe found, in words. */
export interface ProbeAnswer {
  readonly outcome: 'moved' | 'still';
  readonly headline: string;
  readonly explanation: string;
}

/**
 * Says what a probe found.
 *
 * @param showOutput how an output's name is shown.
 */
export function describeProbe(report: ProbeReport, showOutput: (name: string) => string): ProbeAnswer {
  const worst = findWorstOutput(report.outputs);
  const { layers } = report.putBack;
  const outcome = worst === null || worst.relativeL2 === 0 ? 'still' : 'moved';
  return {
    outcome,
    headline: writeHeadline(report, outcome === 'still' ? null : worst, showOutput),
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

function writeHeadline(
  { putBack, outputs, layers }: ProbeReport,
  moved: ProbeOutput | null,
  showOutput: (name: string) => string,
): string {
  if (moved === null) {
    if (putBack.layers > 0) return 'putting the statistics back changes no output';
    return layers.some(({ status }) => status === 'drifted' || status === 'invalid')
      ? 'nothing could be put back: the notes below say why'
      : 'no norm layer drifted: nothing is put back, and the outputs agree exactly';
  }
  const output = outputs.length === 1 ? 'the output' : `the output ${showOutput(moved.name)}`;
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

/** Where the inputs come from, in a few words. */
export function describeInputs({ inputs }: ProbeReport, showFile: (name: string) => string): string {
  const samples = formatPlural(inputs.samples, 'sample');
  if (inputs.kind === 'random') return `${samples} of random numbers (standard normal, seed ${inputs.seed})`;
  const files = [...new Set(inputs.arrays.flatMap(({ file }) => file ?? []))];
  return `${samples} from ${files.map((file) => showFile(file)).join(', ')}`;
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
