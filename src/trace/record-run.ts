// Keeps of each checkpoint of a run what its report shows, and no more: memory does not grow with what checkpoints hold.

import { deserialize, serialize } from 'node:v8';
import { type Finding, isExcusedDrift, isLeadingDrift, verdictOf } from '../compare/findings.js';
import { countNone, type LayerStatus } from '../compare/status.js';
import { fail, TOOL_NAME, VERSION } from '../errors.js';
import type { AuditLayer, AuditReport } from '../report/audit-report.js';
import { LEVEL_RANKS } from '../report/finding-groups.js';
import { formatCount } from '../report/format-numbers.js';
import {
  makeMoments,
  type NameMoment,
  type OrderKey,
  type SkippedCheckpoint,
  type TraceCheckpoint,
  type TraceFinding,
  type TraceLayer,
  type TraceReport,
  type TraceSpan,
} from '../report/trace-report.js';
import { isChanged, judgeStep } from './judge-step.js';
import type { Progress } from './order-checkpoints.js';

/** Layers times checkpoints, for each of which a number is kept: 5,000 checkpoints of a network of 4,000 norm layers. */
const MAX_CELLS = 20_000_000;

/** Each checkpoint may have warnings of its own. */
const MAX_WARNINGS = 200;

/** Statuses of layers whose learned tensors stood still, and of those that were trained at least in part. */
const FROZEN: readonly LayerStatus[] = ['locked', 'drifted', 'ambiguous'];
const TRAINED: readonly LayerStatus[] = ['trained', 'affine-frozen', 'held'];

interface Track extends Pick<TraceLayer, 'name' | 'kind' | 'channels' | 'allowed'> {
  readonly spans: { readonly status: LayerStatus; readonly from: number; to: number }[];
  readonly outputShift: (number | null)[];
  /** Whether its learned tensors were other than before's when it was seen last. */
  isChanged: boolean;
}

interface RecordedFinding extends Pick<TraceFinding, 'first' | 'last' | 'times'> {
  readonly finding: Finding;
  /** How far the layer's output moved where the finding is taken from. */
  readonly shift: number;
}

/** One checkpoint against before, and, where before alone cannot tell, the one that came before it against it. */
interface AuditedCheckpoint {
  readonly progress: Progress;
  readonly report: AuditReport;
  readonly step: AuditReport | null;
}

/** What is known of a run beside its audits. */
interface RunFacts {
  readonly order: readonly OrderKey[];
  readonly skipped: readonly SkippedCheckpoint[];
  readonly doubts: readonly string[];
}

/** The record of a run, to which checkpoints are added in order. */
export class RunRecord {
  readonly #tracks = new Map<string, Track>();
  readonly #checkpoints: TraceCheckpoint[] = [];
  readonly #findings = new Map<string, RecordedFinding>();
  /** At how many checkpoints each stands. */
  readonly #warnings = new Map<string, number>();
  #before: AuditReport['before'] | null = null;
  #audit: AuditReport | null = null;

  get length(): number {
    return this.#checkpoints.length;
  }

  /** @throws CheckpointError `limit-exceeded` where the run is too large to be kept. */
  add({ progress, report, step }: AuditedCheckpoint): void {
    const { path, format } = report.after;
    const index = this.length;
    if (report.layers.length * (index + 1) > MAX_CELLS) {
      const message = `expected at most ${MAX_CELLS} norm layers in the checkpoints of a run together, found more`;
      fail(path, message, 'limit-exceeded');
    }
    this.#before ??= copy(report.before);
    const byStatus = countNone();
    const isMoved = new Set<string>();
    const between = new Map((step?.layers ?? []).map((layer) => [layer.after.name, layer]));
    let worst: TraceCheckpoint['worst'] = null;
    for (const layer of report.layers) {
      const track = this.#trackOf(layer);
      const status = judgeStep(layer, lastOf(track, index), between.get(layer.after.name));
      if (status === 'drifted' && layer.status !== 'drifted') isMoved.add(layer.name);
      byStatus[status]++;
      follow(track, status, { index, layer });
      const { outputShift } = layer;
      if (status === 'drifted' && outputShift !== null && !(outputShift <= (worst?.outputShift ?? -1)))
        worst = { layer: track.name, outputShift };
    }
    // What a layer did since it was trained, the step alone tells.
    const ofStep = (step?.findings ?? []).filter(
      (finding) => isMoved.has(finding.layer) && (isLeadingDrift(finding) || isExcusedDrift(finding)),
    );
    const findings = [...report.findings, ...ofStep];
    this.#note(report.findings, index, shiftsOf(report));
    // A step's message is about the step: its numbers count as such.
    if (step !== null) this.#note(ofStep, index, shiftsOf(step));
    for (const warning of report.warnings) this.#warn(warning);
    if (step !== null && ofStep.some(isLeadingDrift)) this.#keepWorst(step);
    this.#keepWorst(report);
    const verdict = verdictOf(findings);
    this.#checkpoints.push(copy({ path, format, ...progress, verdict, byStatus, worst }));
  }

  /**
   * The report of all that was added.
   *
   * @throws Error where nothing was.
   */
  conclude({ order, skipped, doubts }: RunFacts): TraceReport {
    if (this.#before === null) throw new Error('a run without a checkpoint has no report');
    const layers = [...this.#tracks.values()].map((track) => describeTrack(track, this.length));
    const at = makeMoments(this.#checkpoints, (name) => name);
    const findings = [...this.#findings.values()].map(({ finding, shift: _, ...where }) => ({
      ...finding,
      message: `${describePlace(finding, where, { at, length: this.length })}: ${finding.message}`,
      checkpoint: this.#checkpoints[where.first]?.path ?? '',
      ...where,
    }));
    return {
      schemaVersion: 1,
      tool: { name: TOOL_NAME, version: VERSION },
      verdict: verdictOf(findings),
      before: this.#before,
      order,
      checkpoints: this.#checkpoints,
      skipped,
      summary: summarize(layers, findings, this.#checkpoints),
      layers,
      findings,
      audit: this.#audit,
      warnings: [...doubts, ...this.#listWarnings()],
    };
  }

  #trackOf({ name, kind, channels, allowed, before }: AuditLayer): Track {
    let track = this.#tracks.get(before.name);
    if (track === undefined) {
      track = { ...copy({ name, kind, channels, allowed }), spans: [], outputShift: [], isChanged: false };
      this.#tracks.set(copy(before.name), track);
    }
    return track;
  }

  /** Of findings of one kind about one layer that with the highest level is kept, and of these where it moved most. */
  #note(findings: readonly Finding[], index: number, shifts: ReadonlyMap<string, number>): void {
    for (const finding of findings) {
      const key = `${finding.kind}\n${finding.layer}`;
      const known = this.#findings.get(key);
      const shift = shifts.get(finding.layer) || 0;
      const rank = known === undefined ? -1 : LEVEL_RANKS[finding.level] - LEVEL_RANKS[known.finding.level];
      const isWorse = known === undefined || rank < 0 || (rank === 0 && shift > known.shift);
      const isNew = known === undefined || known.last < index;
      this.#findings.set(known === undefined ? copy(key) : key, {
        ...(isWorse ? { finding: copy(finding), shift } : { finding: known.finding, shift: known.shift }),
        first: known === undefined || rank < 0 ? index : known.first,
        last: index,
        times: (known?.times ?? 0) + Number(isNew),
      });
    }
  }

  #warn(warning: string): void {
    const count = this.#warnings.get(warning);
    if (count !== undefined) this.#warnings.set(warning, count + 1);
    else if (this.#warnings.size <= MAX_WARNINGS) this.#warnings.set(copy(warning), 1);
  }

  #listWarnings(): readonly string[] {
    return [...this.#warnings]
      .slice(0, MAX_WARNINGS)
      .map(([warning, count]) =>
        count === this.length
          ? warning
          : `${warning} (${formatCount(count)} of ${formatCount(this.length)} checkpoints)`,
      );
  }

  #keepWorst(report: AuditReport): void {
    const [one, other] = [rankOf(report), this.#audit === null ? [0, 0] : rankOf(this.#audit)];
    const [drifted = 0, shift = 0] = one;
    const [mostDrifted = 0, mostShift = 0] = other;
    if (drifted > mostDrifted || (drifted === mostDrifted && drifted > 0 && shift > mostShift))
      this.#audit = copy(report);
  }
}

/** `locked to epoch 3, drifted from epoch 4 on, at 9 of 12 checkpoints`. */
function describePlace(
  finding: Finding,
  { first, times }: Pick<TraceFinding, 'first' | 'times'>,
  { at, length }: { readonly at: NameMoment; readonly length: number },
): string {
  const began = isLeadingDrift(finding)
    ? `${first === 0 ? '' : `not yet at ${at(first - 1)}, `}drifted from ${at(first)} on`
    : `from ${at(first)} on`;
  return times === length
    ? `at every checkpoint`
    : `${began}, at ${formatCount(times)} of ${formatCount(length)} checkpoints`;
}

function shiftsOf({ layers }: AuditReport): ReadonlyMap<string, number> {
  return new Map(layers.map(({ name, outputShift }) => [name, outputShift ?? 0]));
}

function rankOf({ findings, summary }: AuditReport): readonly [drifted: number, shift: number] {
  return [findings.filter(isLeadingDrift).length, summary.worst?.outputShift ?? 0];
}

/** A value of its own: a name that is a piece of a file's header would keep the whole header in memory. */
function copy<Value>(value: Value): Value {
  return deserialize(serialize(value)) as Value;
}

/** What the layer was at the checkpoint just before; null where that does not have it. */
function lastOf(
  { spans, isChanged }: Track,
  index: number,
): { status: LayerStatus; isChanged: boolean } | null {
  const span = spans.at(-1);
  return span === undefined || span.to !== index - 1 ? null : { status: span.status, isChanged };
}

function follow(
  track: Track,
  status: LayerStatus,
  { index, layer }: { index: number; layer: AuditLayer },
): void {
  const span = track.spans.at(-1);
  if (span !== undefined && span.status === status && span.to === index - 1) span.to = index;
  else track.spans.push({ status, from: index, to: index });
  while (track.outputShift.length < index) track.outputShift.push(null);
  track.outputShift.push(layer.outputShift);
  track.isChanged = isChanged(layer);
}

function describeTrack({ isChanged: _, outputShift, ...track }: Track, length: number): TraceLayer {
  const { spans } = track;
  const missing = Array.from({ length: length - outputShift.length }, () => null);
  const thawed = spans.find(({ status }) => TRAINED.includes(status))?.from ?? null;
  return {
    ...track,
    outputShift: [...outputShift, ...missing],
    onset: findOnset(spans),
    thawed,
    refrozen:
      thawed === null
        ? null
        : (spans.find(({ status, from }) => from > thawed && FROZEN.includes(status))?.from ?? null),
  };
}

function findOnset(spans: readonly TraceSpan[]): TraceLayer['onset'] {
  const index = spans.findIndex(({ status }) => status === 'drifted');
  const drifted = spans[index];
  return drifted === undefined ? null : { locked: spans[index - 1]?.to ?? null, drifted: drifted.from };
}

function summarize(
  layers: readonly TraceLayer[],
  findings: readonly TraceFinding[],
  checkpoints: readonly TraceCheckpoint[],
): TraceReport['summary'] {
  const leading = findings.filter(isLeadingDrift);
  const first = leading.reduce((least, finding) => Math.min(least, finding.first), Number.POSITIVE_INFINITY);
  let worst: TraceReport['summary']['worst'] = null;
  for (const [checkpoint, { worst: here }] of checkpoints.entries())
    if (here !== null && !(here.outputShift <= (worst?.outputShift ?? -1))) worst = { ...here, checkpoint };
  return {
    checkpoints: checkpoints.length,
    layers: layers.length,
    drifted: layers.filter(({ onset }) => onset !== null).length,
    thawed: layers.filter(({ thawed }) => thawed !== null).length,
    refrozen: layers.filter(({ refrozen }) => refrozen !== null).length,
    onset:
      leading.length === 0
        ? null
        : {
            locked: first === 0 ? null : first - 1,
            drifted: first,
            layers: leading.filter((finding) => finding.first === first).length,
          },
    worst,
  };
}
