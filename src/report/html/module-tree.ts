import type { Region } from '../../compare/regions.js';
import { showSafely } from '../any-report.js';
import type { AuditLayer, AuditReport } from '../audit-report.js';
import { formatCount, formatMagnitude, formatMeasure, formatPlural } from '../format-numbers.js';
import { renderBar } from './layer-rows.js';
import { html, type Markup } from './markup.js';

/** Deeper components count as one: names come from files, and the walks below recurse. */
const MAX_DEPTH = 32;

/** So many modules are in the tree; the table has every layer. */
const MAX_MODULES = 2000;

/** A module with what lies under it. */
interface Module {
  readonly path: string;
  /** Its name under the parent: one component, or several where nothing branches. */
  label: string;
  children: Map<string, Module>;
  region: Region | null;
  /** Where it is a norm layer itself: its position in the report. */
  layer: { readonly index: number; readonly layer: AuditLayer } | null;
  layers: number;
  drifted: number;
  worst: number;
}

/** The module tree with its frozen and trained regions and how far each part drifted; parts fold away. */
export function renderModuleTree(report: AuditReport): Markup {
  const root = buildTree(report);
  const budget = { left: MAX_MODULES };
  const scale = root.worst;
  const modules = root.region === null ? [...root.children.values()] : [root];
  return html`<section id="modules" aria-labelledby="modules-title">
<h2 id="modules-title">Modules</h2>
<p class="lead">Regions whose learned tensors are all unchanged (frozen) or all changed (trained), and the norm layers in them.</p>
<div class="panel"><ul class="tree">
${modules.map((module) => renderModule(module, { scale, budget, inRegion: false }))}
${budget.left <= 0 ? html`<li class="faint">… the rest is in the table of layers</li>` : null}
</ul></div>
</section>`;
}

function buildTree({ regions, layers }: AuditReport): Module {
  const root = makeModule('', '(model)');
  for (const region of regions) findModule(root, region.path).region = region;
  layers.forEach((layer, index) => {
    const module = findModule(root, layer.name);
    module.layer = { index, layer };
  });
  summarize(root);
  for (const module of root.children.values()) joinChains(module);
  return root;
}

function makeModule(path: string, label: string): Module {
  return { path, label, children: new Map(), region: null, layer: null, layers: 0, drifted: 0, worst: 0 };
}

function findModule(root: Module, path: string): Module {
  if (path === '') return root;
  const components = path.split('.');
  const limited =
    components.length <= MAX_DEPTH
      ? components
      : [...components.slice(0, MAX_DEPTH - 1), components.slice(MAX_DEPTH - 1).join('.')];
  let module = root;
  for (const component of limited) {
    let child = module.children.get(component);
    if (child === undefined) {
      child = makeModule(module.path === '' ? component : `${module.path}.${component}`, component);
      module.children.set(component, child);
    }
    module = child;
  }
  return module;
}

function summarize(module: Module): void {
  if (module.layer !== null) {
    const { status, outputShift } = module.layer.layer;
    module.layers = 1;
    module.drifted = status === 'drifted' ? 1 : 0;
    module.worst =
      status === 'drifted' && outputShift !== null && Number.isFinite(outputShift) ? outputShift : 0;
  }
  for (const child of module.children.values()) {
    summarize(child);
    module.layers += child.layers;
    module.drifted += child.drifted;
    module.worst = Math.max(module.worst, child.worst);
  }
}

/** A module that only holds one other is shown with it, as `backbone.body`. */
function joinChains(module: Module): void {
  for (;;) {
    const [only] = module.children.values();
    if (module.children.size !== 1 || only === undefined || module.region !== null || module.layer !== null)
      break;
    module.label = `${module.label}.${only.label}`;
    module.children = only.children;
    module.region = only.region;
    module.layer = only.layer;
  }
  for (const child of module.children.values()) joinChains(child);
}

interface TreeContext {
  readonly scale: number;
  readonly budget: { left: number };
  /** Whether a region above says already whether this is frozen. */
  readonly inRegion: boolean;
}

function renderModule(module: Module, context: TreeContext): Markup | null {
  if (context.budget.left-- <= 0) return null;
  const isLeaf = module.children.size === 0 || (module.layers === 0 && module.region !== null);
  if (isLeaf || module.layer !== null)
    return html`<li class="leaf${module.layer === null ? '' : ` is-${module.layer.layer.status}`}">${renderHead(module, context)}</li>
`;
  const inner = { ...context, inRegion: context.inRegion || module.region !== null };
  // Open down to the regions: what is inside one is all frozen or all trained.
  const isOpen =
    module.region === null && !context.inRegion
      ? containsRegion(module)
      : module.region !== null && module.drifted > 0;
  return html`<li><details${isOpen ? html` open` : null}><summary>${renderHead(module, context)}</summary><ul>
${[...module.children.values()].map((child) => renderModule(child, inner))}</ul></details></li>
`;
}

function containsRegion({ children }: Module): boolean {
  return [...children.values()].some((child) => child.region !== null || containsRegion(child));
}

function renderHead(module: Module, { scale, inRegion }: TreeContext): Markup {
  const { layer, region, label, layers, drifted, worst } = module;
  const name = html`<bdi class="name">${showSafely(label, 80)}</bdi>`;
  if (layer !== null) {
    const { status, outputShift } = layer.layer;
    const shift = outputShift === null ? '' : formatMeasure(outputShift);
    return html`<a href="#layer-${layer.index}">${name}</a><span class="status">${status}</span>${status === 'locked' ? null : renderMeasure(renderBar(outputShift, scale), shift)}`;
  }
  const tag =
    region !== null && !inRegion ? html`<span class="tag ${region.status}">${region.status}</span>` : null;
  const learned =
    region === null || inRegion
      ? ''
      : `${formatPlural(region.learned.tensors, 'learned tensor')} (${formatMagnitude(region.learned.elements)} values), `;
  const counts =
    layers === 0
      ? 'no norm layer'
      : `${formatPlural(layers, 'norm layer')}${drifted > 0 ? '' : ', none drifted'}`;
  return html`${name}${tag}<span class="faint">${learned}${counts}</span>${drifted > 0 ? html`<strong class="drifted">${formatCount(drifted)} drifted</strong>${renderMeasure(renderBar(worst, scale), formatMeasure(worst))}` : null}`;
}

function renderMeasure(bar: Markup, shift: string): Markup {
  return html`<span class="measure">${bar}<b>${shift}</b></span>`;
}
