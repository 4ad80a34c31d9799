// The page's table of layers and its tree of modules.

import type { Region } from '../../compare/regions.js';
import { LAYER_STATUSES } from '../../compare/status.js';
import { getOrMake } from '../../norm/naming.js';
import { isAudit, type OneReport, showSafely } from '../any-report.js';
import type { AuditLayer, AuditReport } from '../audit-report.js';
import { type Column, LAYER_COLUMNS, listInspectColumns } from '../document.js';
import { formatCount, formatMagnitude, formatMeasure, formatPlural } from '../format-numbers.js';
import type { InspectLayer } from '../inspect-report.js';
import { formatLayers, nameLayers } from '../layer-nouns.js';
import { capitalize, html, type Markup, markNames } from './markup.js';

/** The table of layers. The page's script makes it sortable and opens rows; the order here is what sorts first. */
export function renderLayerTable(report: OneReport, isOrdered: boolean): Markup {
  return isAudit(report)
    ? renderTable(report.layers, { columns: LAYER_COLUMNS, order: AUDIT_ORDER, isOrdered })
    : renderTable(report.layers, {
        columns: listInspectColumns(report.layers),
        order: GIVEN_ORDER,
        isOrdered,
      });
}

interface Order<Layer> {
  /** The column that says so. */
  readonly sorted: string;
  readonly groupOf: (layer: Layer) => number;
  /** Within a group, the largest first. */
  readonly sizeOf: (layer: Layer) => number | null;
}

const AUDIT_ORDER: Order<AuditLayer> = {
  sorted: 'status',
  // What needs attention comes first.
  groupOf: ({ status }) => LAYER_STATUSES.indexOf(status),
  sizeOf: ({ outputShift }) => outputShift,
};

/** The order of the report. */
const GIVEN_ORDER: Order<InspectLayer> = { sorted: '#', groupOf: () => 0, sizeOf: () => null };

interface TableOptions<Layer> {
  readonly columns: readonly Column<Layer>[];
  readonly order: Order<Layer>;
  /** Whether the report's order is that of the network. */
  readonly isOrdered: boolean;
}

function renderTable<Layer extends AuditLayer | InspectLayer>(
  layers: readonly Layer[],
  { columns, order, isOrdered }: TableOptions<Layer>,
): Markup {
  const { ranked, scale } = rankLayers(layers, order);
  const kind = order.sorted === '#' ? 'inspected' : 'audited';
  return html`<section id="layers" aria-labelledby="layers-title">
<h2 id="layers-title">Layers</h2>
<div id="layer-filter"></div>
<div class="panel scroll"><table id="layer-table" class="layers ${kind} shortened">
<caption class="unseen">Norm layers</caption>
${renderHead(columns, order.sorted, isOrdered)}
<tbody>
${ranked.map(({ layer, index }) => renderRow(layer, index, { columns, scale, isOpenable: true }))}</tbody>
</table></div>
<div id="layer-rest"></div>
</section>`;
}

/** The layers of an audit that come first in the order of its own page, without a script: a table of so many rows. */
export function renderWorstLayers(report: AuditReport, count: number): Markup {
  const { ranked, scale } = rankLayers(report.layers, AUDIT_ORDER);
  return html`<div class="panel scroll"><table class="layers audited">
<caption class="unseen">Norm layers, the worst first</caption>
${renderHead(LAYER_COLUMNS, null, report.before.inModuleOrder)}
<tbody>
${ranked.slice(0, count).map(({ layer, index }) => renderRow(layer, index, { columns: LAYER_COLUMNS, scale, isOpenable: false }))}</tbody>
</table></div>`;
}

interface RankedLayers<Layer> {
  readonly ranked: readonly { readonly layer: Layer; readonly index: number }[];
  /** The largest finite size: that of a full bar. */
  readonly scale: number;
}

function rankLayers<Layer>(layers: readonly Layer[], { groupOf, sizeOf }: Order<Layer>): RankedLayers<Layer> {
  const ranked = layers.map((layer, index) => ({
    layer,
    index,
    group: groupOf(layer),
    size: rankSize(sizeOf(layer)),
  }));
  ranked.sort((x, y) => x.group - y.group || y.size - x.size || x.index - y.index);
  const scale = ranked.reduce((most, { size }) => (size < Number.MAX_VALUE ? Math.max(most, size) : most), 0);
  return { ranked, scale };
}

/** Column titles; where the table sorts, the column that it is sorted by. */
function renderHead<Layer>(
  columns: readonly Column<Layer>[],
  sorted: string | null,
  isOrdered: boolean,
): Markup {
  const position: Omit<Column<Layer>, 'cell'> = {
    title: '#',
    hint: isOrdered ? 'position in the network' : 'position by name',
    isNumber: true,
  };
  const sortOf = (title: string) => (title === sorted ? 'ascending' : 'none');
  return html`<thead><tr>${[position, ...columns].map(({ title, hint, isNumber, bar }) => html`<th scope="col"${isNumber ? html` class="${bar === undefined ? 'number' : 'number wide'}"` : null}${sorted === null ? null : html` aria-sort="${sortOf(title)}"`}${hint === undefined ? null : html` title="${hint}"`}>${capitalize(title)}</th>`)}</tr></thead>`;
}

/** Values that are not finite are the worst; layers without a value come last. */
function rankSize(value: number | null): number {
  if (value === null) return -1;
  return Number.isFinite(value) ? value : Number.MAX_VALUE;
}

interface RowOptions<Layer> {
  readonly columns: readonly Column<Layer>[];
  readonly scale: number;
  /** Whether the page's script makes a panel below the row, which its name opens. */
  readonly isOpenable: boolean;
}

function renderRow<Layer extends AuditLayer | InspectLayer>(
  layer: Layer,
  index: number,
  { columns, scale, isOpenable }: RowOptions<Layer>,
): Markup {
  const name = renderName(layer.name);
  const id = isOpenable ? html` id="layer-${index}"` : null;
  const head = isOpenable
    ? html`<button type="button" class="open" aria-expanded="false">${name}</button>`
    : name;
  const cells = columns.slice(1).map(({ title, isNumber, isStrong, value, bar, cell }) => {
    const said = markNames(cell(layer));
    // As exactly as sorting needs it.
    const key = value?.(layer)?.toPrecision(8);
    const attributes = [
      isNumber ? null : html` class="${title === 'status' ? title : 'text'}"`,
      value === undefined || !isOpenable
        ? null
        : html` data-v="${key === undefined ? '' : String(Number(key))}"`,
    ];
    const drawn = bar === undefined ? null : renderBar(bar(layer), scale);
    return html`<td${attributes}>${drawn}${isStrong ? html`<b>${said}</b>` : said}</td>`;
  });
  return html`<tr${id} class="is-${layer.status}"><td>${index + 1}</td><th scope="row">${head}</th>${cells}</tr>
`;
}

/** A module path with its last part set off; it may wrap behind its dots. */
export function renderName(name: string): Markup {
  const parts = showSafely(name).split('.');
  const last = parts.pop() ?? '';
  return html`<bdi class="name"><span>${parts.map((part) => html`${part}.<wbr>`)}</span>${last}</bdi>`;
}

/** A bar of a share of its width, in the colour of the status that it stands in; none for what is no number. */
export function renderBar(value: number | null, scale: number): Markup | null {
  if (value === null || Number.isNaN(value)) return null;
  const width = scale > 0 ? Math.min(1, value / scale) * 100 : 0;
  return html`<svg class="bar" aria-hidden="true">${width > 0 ? html`<rect width="${Math.max(width, 1).toFixed()}%" height="7"/>` : null}</svg>`;
}

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
  /** The largest known output shift of what drifted; null where none is known. */
  worst: number | null;
}

/** The module tree with its frozen and trained regions and how far each part drifted; parts fold away. */
export function renderModuleTree(report: AuditReport): Markup {
  const root = buildTree(report);
  const budget = { left: MAX_MODULES };
  const scale = root.worst ?? 0;
  const modules = root.region === null ? [...root.children.values()] : [root];
  return html`<section id="modules" aria-labelledby="modules-title">
<h2 id="modules-title">Modules</h2>
<p class="lead">Regions whose learned tensors are all unchanged (frozen) or all changed (trained), and the ${nameLayers(report.layers)} in them.</p>
<div class="panel"><ul class="tree">
${modules.map((module) => renderModule(module, { all: report.layers, scale, budget, inRegion: false }))}
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
  return { path, label, children: new Map(), region: null, layer: null, layers: 0, drifted: 0, worst: null };
}

function findModule(root: Module, name: string): Module {
  if (name === '') return root;
  const components = name.split('.');
  const limited =
    components.length <= MAX_DEPTH
      ? components
      : [...components.slice(0, MAX_DEPTH - 1), components.slice(MAX_DEPTH - 1).join('.')];
  let module = root;
  for (const component of limited) {
    const path = module.path === '' ? component : `${module.path}.${component}`;
    module = getOrMake(module.children, component, () => makeModule(path, component));
  }
  return module;
}

function summarize(module: Module): void {
  if (module.layer !== null) {
    const { status, outputShift } = module.layer.layer;
    module.layers = 1;
    module.drifted = status === 'drifted' ? 1 : 0;
    module.worst =
      status === 'drifted' && outputShift !== null && Number.isFinite(outputShift) ? outputShift : null;
  }
  for (const child of module.children.values()) {
    summarize(child);
    module.layers += child.layers;
    module.drifted += child.drifted;
    if (child.worst !== null) module.worst = Math.max(module.worst ?? 0, child.worst);
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
  /** All layers of the report, which tell what to call some. */
  readonly all: AuditReport['layers'];
  readonly scale: number;
  readonly budget: { left: number };
  /** Whether a region above says already whether this is frozen. */
  readonly inRegion: boolean;
}

function renderModule(module: Module, context: TreeContext): Markup | null {
  if (context.budget.left-- <= 0) return null;
  const isLeaf = module.children.size === 0 || (module.layers === 0 && module.region !== null);
  if (isLeaf || module.layer !== null)
    return html`<li class="leaf${module.layer === null ? '' : ` is-${module.layer.layer.status}`}">${renderTreeHead(module, context)}</li>
`;
  const inner = { ...context, inRegion: context.inRegion || module.region !== null };
  // Open down to the regions: what is inside one is all frozen or all trained.
  const isOpen =
    module.region === null && !context.inRegion
      ? containsRegion(module)
      : module.region !== null && module.drifted > 0;
  return html`<li><details${isOpen ? html` open` : null}><summary>${renderTreeHead(module, context)}</summary><ul>
${[...module.children.values()].map((child) => renderModule(child, inner))}</ul></details></li>
`;
}

function containsRegion({ children }: Module): boolean {
  return [...children.values()].some((child) => child.region !== null || containsRegion(child));
}

function renderTreeHead(module: Module, { all, scale, inRegion }: TreeContext): Markup {
  const { layer, region, label, layers, drifted, worst } = module;
  const name = html`<bdi class="name">${showSafely(label, 80)}</bdi>`;
  if (layer !== null) {
    const { status, outputShift } = layer.layer;
    const isMeasured = status !== 'locked' && outputShift !== null;
    return html`<a href="#layer-${layer.index}">${name}</a><span class="status">${status}</span>${isMeasured ? renderMeasure(renderBar(outputShift, scale), formatMeasure(outputShift)) : null}`;
  }
  const tag =
    region !== null && !inRegion ? html`<span class="tag ${region.status}">${region.status}</span>` : null;
  const learned =
    region === null || inRegion
      ? ''
      : `${formatPlural(region.learned.tensors, 'learned tensor')} (${formatMagnitude(region.learned.elements)} values), `;
  const counts =
    layers === 0 ? 'no norm layer' : `${formatLayers(layers, all)}${drifted > 0 ? '' : ', none drifted'}`;
  return html`${name}${tag}<span class="faint">${learned}${counts}</span>${drifted > 0 ? html`<strong class="drifted">${formatCount(drifted)} drifted</strong>${worst === null ? null : renderMeasure(renderBar(worst, scale), formatMeasure(worst))}` : null}`;
}

function renderMeasure(bar: Markup | null, shift: string): Markup {
  return html`<span class="measure">${bar}<b>${shift}</b></span>`;
}
