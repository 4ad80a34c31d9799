// What the package exports: the commands as functions, and the types of what they give.

/**
 * bn-audit: finds frozen backbones whose BatchNorm running statistics drifted.
 *
 * @example
 * ```ts
 * import { audit, render } from 'bn-audit';
 *
 * const report = await audit('before.safetensors', 'after.onnx');
 * if (report.verdict === 'drifted') console.error(render(report, { format: 'text' }));
 * ```
 *
 * @packageDocumentation
 */
export { type AuditOptions, type AuditRequest, audit, auditCheckpoints, auditEach } from './audit.js';
export type {
  Checkpoint,
  CheckpointFormat,
  Framework,
  OpenOptions,
  Tensor,
} from './checkpoint/checkpoint.js';
export type { DType } from './checkpoint/dtype.js';
export type { DriftCause, OldShare } from './compare/compare-layers.js';
export type { Finding, FindingKind, FindingLevel } from './compare/findings.js';
export type { PairedBy, PrefixEdit } from './compare/pair-layers.js';
export type { Region } from './compare/regions.js';
export type { LayerStatus, Relation } from './compare/status.js';
export type { ChannelValues } from './compare/unpaired-layers.js';
export { CheckpointError, type CheckpointErrorCode, UsageError, VERSION } from './errors.js';
export { type Baseline, type BaselineOptions, createBaseline } from './formats/baseline/make-baseline.js';
export { openCheckpoint } from './formats/open.js';
export { type InspectOptions, inspect, inspectCheckpoint } from './inspect.js';
export { type ProbeOptions, probe } from './probe/probe.js';
export {
  type ProbeFormat,
  type ProbeLayer,
  type ProbeRenderOptions,
  type ProbeReport,
  renderProbe,
} from './probe/probe-report.js';
export type { ProbeContribution, ProbeOutput } from './probe/run.js';
export type {
  AuditLayer,
  AuditReport,
  CauseSummary,
  CheckpointSummary,
  LayerDeclaration,
  PerChannel,
} from './report/audit-report.js';
export { type AuditFailure, type AuditOutcome, type AuditSet, buildAuditSet } from './report/audit-set.js';
export type { Count } from './report/format-numbers.js';
export type { InspectLayer, InspectReport } from './report/inspect-report.js';
export { type RenderOptions, type ReportFormat, render } from './report/render.js';
export type {
  OrderKey,
  SkippedCheckpoint,
  TraceCheckpoint,
  TraceFinding,
  TraceLayer,
  TraceReport,
  TraceSpan,
} from './report/trace-report.js';
export { type RestoreOptions, restore } from './restore/restore.js';
export type { LeftLayer, RestoredLayer, RestoredPart, RestoreReport } from './restore/restore-report.js';
export { type TraceOptions, trace } from './trace/trace.js';
