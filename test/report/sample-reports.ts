import {
  type Finding,
  type FindingKind,
  type FindingLevel,
  makeFinding,
} from '../../src/compare/findings.js';
import { LAYER_STATUSES, type LayerStatus } from '../../src/compare/status.js';
import type { AnyReport } from '../../src/report/any-report.js';
import { type AuditLayer, type AuditReport, summarizeCauses } from '../../src/report/audit-report.js';
import type { InspectReport } from '../../src/report/inspect-report.js';
import { type RenderOptions, type ReportFormat, render } from '../../src/report/render.js';

/** What renders a report in one format. */
export function renderAs(format: ReportFormat): (report: AnyReport, options?: RenderOptions) => string {
  return (report, options) => render(report, { ...options, format });
}

/** A layer that drifted by half its size; whatever a test cares about is overridden. */
export function makeLayer(name: string, overrides: Partial<AuditLayer> = {}): AuditLayer {
  const side = { name, node: null, mean: `${name}.running_mean`, variance: `${name}.running_var` };
  return {
    name,
    named: true,
    kind: 'BatchNorm',
    status: 'drifted',
    allowed: false,
    channels: 4,
    channelsMoved: 4,
    affine: 'equal',
    neighbours: 'equal',
    equality: 'exact',
    relativeDifference: 0,
    neighboursFrom: 'names',
    epsilon: 1e-5,
    epsilonFrom: 'default',
    batches: 1250,
    cause: { kind: 'training-mode', old: { share: 0.9 ** 1250, momentum: 0.1, momentumFrom: 'default' } },
    meanShift: { rms: 0.84, max: 2.1 },
    logStdRatio: { rms: 0.32, max: 0.9 },
    divergence: 0.41,
    outputShift: 0.5,
    pairedBy: 'name',
    via: 'live',
    before: side,
    after: side,
    ...overrides,
  };
}

/** What a report is made of; the rest follows from it. */
export interface ReportParts {
  readonly layers: readonly AuditLayer[];
  readonly findings?: readonly Finding[];
  readonly regions?: AuditReport['regions'];
  readonly warnings?: readonly string[];
  readonly paths?: readonly [before: string, after: string];
  readonly notAudited?: number;
  /** All that both checkpoints have are equal unless given. */
  readonly learned?: { readonly equal: number; readonly changed: number };
}

/** A report of the layers: findings are those of the drifted ones unless given. */
export function makeReport({
  layers,
  findings,
  regions,
  warnings,
  paths,
  notAudited,
  learned,
}: ReportParts): AuditReport {
  const drifted = layers.filter(({ status }) => status === 'drifted');
  const found =
    findings ??
    drifted.map(({ name }) =>
      makeFinding('frozen-stats-drift', name, 'the running statistics of 4 of 4 channels moved'),
    );
  const worst = [...drifted].sort((x, y) => (y.outputShift ?? 0) - (x.outputShift ?? 0))[0];
  const byStatus = Object.fromEntries(
    LAYER_STATUSES.map((status) => [status, layers.filter((layer) => layer.status === status).length]),
  ) as Record<LayerStatus, number>;
  const side = (path: string) => ({
    path,
    format: 'PyTorch' as const,
    inModuleOrder: true,
    framework: 'pytorch' as const,
    layers: layers.length,
    folded: 0,
    learned: layers.length * 3,
  });
  return {
    schemaVersion: 1,
    tool: { name: 'bn-audit', version: '0.0.0' },
    verdict: found.some(({ level }) => level === 'error') ? 'drifted' : 'clean',
    before: side(paths?.[0] ?? 'runs/base.pt'),
    after: side(paths?.[1] ?? 'runs/tuned.pt'),
    summary: {
      layers: layers.length,
      byStatus,
      notAudited: notAudited ?? 0,
      batches: drifted.length > 0 ? { min: 1250, max: 1250 } : null,
      worst: worst === undefined ? null : { layer: worst.name, outputShift: worst.outputShift ?? 0 },
      causes: summarizeCauses(layers, found),
      learned: {
        compared: layers.length * 3,
        equal: layers.length * 3,
        rounded: 0,
        changed: 0,
        ...learned,
        incomparable: 0,
        onlyBefore: 0,
        onlyAfter: 0,
      },
    },
    regions: regions ?? [],
    layers,
    findings: found,
    warnings: warnings ?? [],
  };
}

/** A frozen region with a layer that drifted. */
export function makeRegion(path: string): AuditReport['regions'][number] {
  return {
    path,
    status: 'frozen',
    equality: 'exact',
    relativeDifference: 0,
    layers: 1,
    drifted: 1,
    learned: { tensors: 3, equal: 3, elements: 12 },
  };
}

/** A small audit with a bit of everything: drift, a warning, an accepted layer, a new layer, a trained head. */
export function makeMixedReport(): AuditReport {
  const layers = [
    makeLayer('backbone.bn1', { outputShift: 0.12, meanShift: { rms: 0.1, max: 0.3 } }),
    makeLayer('backbone.layer1.bn1', { outputShift: 0.97, channels: 2048, channelsMoved: 2048 }),
    makeLayer('backbone.layer1.bn2', { allowed: true, outputShift: 0.2 }),
    makeLayer('neck.bn', { status: 'affine-frozen', outputShift: 0.3, neighbours: 'changed' }),
    makeLayer('neck.bn2', {
      status: 'locked',
      channelsMoved: 0,
      batches: 0,
      meanShift: { rms: 0, max: 0 },
      logStdRatio: { rms: 0, max: 0 },
      divergence: 0,
      outputShift: 0,
    }),
    makeLayer('head.bn', {
      status: 'invalid',
      meanShift: null,
      logStdRatio: null,
      divergence: null,
      outputShift: null,
    }),
  ];
  const moved = 'the running statistics of 4 of 4 channels moved (mean by 0.840 σ rms)';
  return makeReport({
    layers,
    findings: [
      makeFinding('frozen-stats-drift', 'backbone.bn1', moved),
      makeFinding('frozen-stats-drift', 'backbone.layer1.bn1', moved),
      makeFinding('frozen-stats-drift', 'backbone.layer1.bn2', `allowed: ${moved}`, 'note'),
      makeFinding('affine-frozen-drift', 'neck.bn', `${moved} with the trained weights that feed it`),
      makeFinding('invalid-stats', 'head.bn', 'the running variance of channel 3 is NaN in after'),
      makeFinding('unpaired-layer', 'head.bn3', 'the layer is new in after', 'note'),
    ],
    regions: [
      {
        path: 'backbone',
        status: 'frozen',
        equality: 'exact',
        relativeDifference: 0,
        layers: 3,
        drifted: 3,
        learned: { tensors: 9, equal: 9, elements: 23_500_000 },
      },
      {
        path: 'head',
        status: 'trained',
        equality: 'exact',
        relativeDifference: 0,
        layers: 1,
        drifted: 0,
        learned: { tensors: 4, equal: 0, elements: 2050 },
      },
    ],
    warnings: ['after: the optimizer state was not read'],
  });
}

/** An audit without a finding: every layer locked. */
export function makeCleanReport(): AuditReport {
  const still = { status: 'locked', channelsMoved: 0, batches: 0, outputShift: 0, divergence: 0 } as const;
  const zero = { rms: 0, max: 0 };
  return makeReport({
    layers: ['backbone.bn1', 'backbone.bn2'].map((name) =>
      makeLayer(name, { ...still, meanShift: zero, logStdRatio: zero }),
    ),
    regions: [
      {
        path: '',
        status: 'frozen',
        equality: 'exact',
        relativeDifference: 0,
        layers: 2,
        drifted: 0,
        learned: { tensors: 6, equal: 6, elements: 1000 },
      },
    ],
  });
}

/** An audit of a deep network, with the statistics of every channel; the same for the same count. */
export function makeDeepReport(layerCount: number): AuditReport {
  const random = makeRandom(layerCount);
  const layers = Array.from({ length: layerCount }, (_, index) => makeDeepLayer(index, layerCount, random));
  const frozen = layers.filter(({ name }) => !name.startsWith('head'));
  return makeReport({
    layers,
    findings: layers.flatMap((layer) => findDeep(layer)),
    regions: [
      {
        path: 'backbone',
        status: 'frozen',
        equality: 'exact',
        relativeDifference: 0,
        layers: frozen.length,
        drifted: frozen.filter(({ status }) => status === 'drifted').length,
        learned: { tensors: frozen.length * 3, equal: frozen.length * 3, elements: 54_300_000 },
      },
      {
        path: 'neck',
        status: 'frozen',
        equality: 'exact',
        relativeDifference: 0,
        layers: 0,
        drifted: 0,
        learned: { tensors: 8, equal: 8, elements: 1_240_000 },
      },
      {
        path: 'head',
        status: 'trained',
        equality: 'exact',
        relativeDifference: 0,
        layers: layers.length - frozen.length,
        drifted: 0,
        learned: { tensors: 14, equal: 0, elements: 2_098_000 },
      },
    ],
    paths: ['runs/2024-11-base/backbone-epoch-300.safetensors', 'runs/2024-11-tuned/detector-final.onnx'],
  });
}

function makeDeepLayer(index: number, count: number, random: () => number): AuditLayer {
  const depth = index / count;
  const isHead = depth > 0.95;
  const stage = Math.min(4, 1 + Math.floor((depth / 0.95) * 4));
  const name = isHead
    ? `head.tower.${index - Math.floor(count * 0.95)}.norm`
    : `backbone.layer${stage}.${Math.floor(index / 3) % Math.max(1, Math.floor(count / 12))}.bn${1 + (index % 3)}`;
  const status: LayerStatus = isHead ? 'trained' : depth < 0.06 ? 'locked' : 'drifted';
  const channels = [64, 128, 256, 512, 1024][Math.min(4, isHead ? 2 : stage)] ?? 256;
  const strength = status === 'locked' ? 0 : 0.03 + 0.9 * depth ** 2 * (0.4 + random());
  const before = listStatistics(channels, random);
  const after = {
    mean: before.mean.map(
      (mean, channel) => mean + strength * Math.sqrt(before.variance[channel] ?? 1) * (random() - 0.4) * 2,
    ),
    variance: before.variance.map((variance) => variance * Math.exp(strength * (random() - 0.3))),
  };
  const measures =
    status === 'locked'
      ? { meanShift: { rms: 0, max: 0 }, logStdRatio: { rms: 0, max: 0 } }
      : {
          meanShift: { rms: strength * 0.9, max: strength * 3 },
          logStdRatio: { rms: strength * 0.4, max: strength * 0.7 },
        };
  return makeLayer(name, {
    ...measures,
    status,
    channels,
    channelsMoved: status === 'locked' ? 0 : channels,
    affine: isHead ? 'changed' : 'equal',
    neighbours: isHead ? 'changed' : 'equal',
    batches: status === 'locked' ? 0 : 1250,
    divergence: strength ** 2 / 2,
    outputShift: strength,
    perChannel: {
      before,
      after,
      stdRatio: before.variance.map((variance, channel) =>
        Math.sqrt((after.variance[channel] ?? 1) / variance),
      ),
    },
  });
}

function findDeep({ name, status, channels }: AuditLayer): readonly Finding[] {
  if (status !== 'drifted') return [];
  const message = `the running statistics of ${channels} of ${channels} channels moved after 1250 training-mode batches, although its weight and bias and the weights that feed it are identical`;
  return [makeFinding('frozen-stats-drift', name, message)];
}

function listStatistics(channels: number, random: () => number): { mean: number[]; variance: number[] } {
  const gaussian = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  return {
    mean: Array.from({ length: channels }, () => gaussian() * 0.4 - 0.2),
    variance: Array.from({ length: channels }, () => Math.exp(gaussian() * 0.8 - 1.5)),
  };
}

/** A small generator of numbers in [0, 1), the same for the same seed (mulberry32). */
function makeRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let bits = Math.imul(state ^ (state >>> 15), 1 | state);
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits;
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Names that try to get out of one format or another. */
export const HOSTILE_NAMES: Readonly<Record<string, string>> = {
  script: '<script>alert(1)</script>',
  'script end': '</script><script>alert(1)</script>',
  pipe: 'a|b|c',
  'escaped pipe': 'a\\|b\\',
  backticks: '``` `x` ``',
  'workflow command': '::error::x',
  'old workflow command': '##[error]x',
  'line and workflow command': 'x\n::error file=a::b\r\n::set-output name=a::b',
  'ANSI escape': '\u001b[31mred\u001b[0m\u009b31m\u001b]0;title\u0007',
  newlines: 'a\n\n# heading\n\n- item\u2028b\u2029c',
  'carriage return': 'good\rbad',
  NUL: 'a\u0000b',
  'end of CDATA': ']]>',
  'comment and image': '--><img src=x onerror=alert(1)>',
  mention: '@everyone',
  'mention and issue': 'hello @octocat #1 GH-1 a@b.example',
  'Markdown link': '[x](javascript:alert(1))',
  'Markdown image': '![x](https://tracker.example/p.png)',
  autolinks: 'https://evil.example www.evil.example <https://evil.example>',
  'right-to-left override': 'abc\u202egnp.exe',
  'attribute breakout': `" onmouseover="alert(1)' x='`,
  'SARIF placeholder': '{0} [link](1)',
  entity: '&lt;b&gt;&amp;&#60;',
  percent: '%0A::error::x%25',
  'lone surrogate': 'a\ud800b',
  noncharacter: 'a\ufffe\uffffb',
  prototype: '__proto__',
  long: `backbone.${'x'.repeat(10_000)}.bn`,
  'long and hostile': '`|<@\n'.repeat(2000),
};

/** A report in which every name that comes from a file is a hostile one. */
export function makeHostileReport(names: readonly string[] = Object.values(HOSTILE_NAMES)): AuditReport {
  const levels: readonly FindingLevel[] = ['error', 'warning', 'note'];
  const kinds: readonly FindingKind[] = [
    'frozen-stats-drift',
    'unresolved-stats',
    'affine-frozen-drift',
    'unpaired-layer',
  ];
  return makeReport({
    layers: names.map((name, index) =>
      makeLayer(name, {
        kind: name,
        outputShift: 1 / (index + 1),
        before: { name, node: name, mean: name, variance: name },
        after: { name: `${name}!`, node: null, mean: name, variance: null },
        perChannel: {
          before: { mean: [0, 1], variance: [1, 2] },
          after: { mean: [1, 2], variance: [2, 3] },
          stdRatio: [1, 1],
        },
      }),
    ),
    findings: names.flatMap((name) =>
      kinds.map((kind, index) =>
        makeFinding(kind, name, `its tensor ${name} has ${name}`, levels[index % 3]),
      ),
    ),
    regions: names.map((path) => ({
      path,
      status: 'frozen',
      equality: 'exact',
      relativeDifference: 0,
      layers: 1,
      drifted: 1,
      learned: { tensors: 3, equal: 3, elements: 10 },
    })),
    warnings: names.map((name) => `${name}: ${name}`),
    paths: [names.slice(0, -2).join('/'), names.slice(0, -2).join('\\')],
  });
}

/** An inspection of the layers, healthy or not. */
export function makeInspectReport(names: readonly string[] = ['stem.bn', 'head.bn']): InspectReport {
  return {
    schemaVersion: 1,
    tool: { name: 'bn-audit', version: '0.0.0' },
    health: names.length > 1 ? 'unhealthy' : 'healthy',
    checkpoint: {
      path: names[0] ?? 'model.onnx',
      format: 'ONNX',
      inModuleOrder: true,
      framework: 'pytorch',
      layers: names.length,
      folded: 0,
      learned: 3,
    },
    layers: names.map((name, index) => ({
      name,
      kind: 'BatchNormalization',
      status: index === 0 ? 'ok' : 'invalid',
      channels: 2,
      epsilon: 1e-5,
      epsilonFrom: 'graph',
      momentum: 0.1,
      mode: 'running',
      batches: 12,
      mean: { min: -1, max: 1, rms: 0.5 },
      variance: { min: 0.1, max: 2, geometricMean: 0.9 },
      affine: true,
      source: { mean: name, variance: name },
      notes: [name],
      perChannel: { mean: [-1, 1], variance: [0.1, 2], gamma: null, beta: null },
    })),
    findings: names
      .slice(1)
      .map((name) => makeFinding('invalid-stats', name, `the running mean of ${name} is NaN`)),
    warnings: [],
  };
}

/** Reports of every sort, for what must hold in all of them. */
export const SAMPLE_REPORTS: readonly (readonly [what: string, report: AnyReport])[] = [
  ['a mixed report', makeMixedReport()],
  ['a clean report', makeCleanReport()],
  ['a deep report', makeDeepReport(300)],
  ['an inspection', makeInspectReport()],
  ['an inspection of hostile names', makeInspectReport(Object.values(HOSTILE_NAMES))],
  ['a report of hostile names', makeHostileReport()],
];
