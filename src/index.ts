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
export { type AuditOptions, audit, auditCheckpoints } from './audit.js';
export { type AuditRequest, auditEach } from './audit-each.js';
export { type Baseline, type BaselineOptions, createBaseline } from './baseline.js';
export type { Checkpoint, CheckpointFormat, Framework, Tensor } from './checkpoint/checkpoint.js';
export type { DType } from './checkpoint/dtype.js';
export { type OpenOptions, openCheckpoint } from './checkpoint/open.js';
export type { PerChannel } from './compare/compare-layers.js';
export type { DriftCause, OldShare } from './compare/drift-cause.js';
export type { ChannelValues } from './compare/examine-layer.js';
export type { Finding, FindingKind, FindingLevel } from './compare/finding.js';
export type { PairedBy, PrefixEdit } from './compare/pair-layers.js';
export type { Region } from './compare/regions.js';
export type { LayerStatus, Relation } from './compare/status.js';
export { CheckpointError, type CheckpointErrorCode, UsageError } from './errors.js';
export { type InspectOptions, inspect, inspectCheckpoint } from './inspect.js';
export { type ProbeOptions, probe } from './probe.js';
export type {
  AuditLayer,
  AuditReport,
  CheckpointSummary,
  Count,
  LayerDeclaration,
} from './report/audit-report.js';
export { type AuditFailure, type AuditOutcome, type AuditSet, buildAuditSet } from './report/audit-set.js';
export type { CauseSummary } from './report/causes.js';
export type { InspectLayer, InspectReport } from './report/inspect-report.js';
export { type ProbeFormat, type ProbeRenderOptions, renderProbe } from './report/probe-render.js';
export type {
  ProbeContribution,
  ProbeLayer,
  ProbeOutput,
  ProbeReport,
} from './report/probe-report.js';
export { type RenderOptions, type ReportFormat, render } from './report/render.js';
export type { LeftLayer, RestoredLayer, RestoredPart, RestoreReport } from './report/restore-report.js';
export { type RestoreOptions, restore } from './restore.js';
export { VERSION } from './version.js';
