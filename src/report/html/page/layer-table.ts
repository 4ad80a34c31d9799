// Sorts and filters the table of layers, and opens a layer's plots.

import { formatCount } from '../../format-numbers.js';
import type { PageChannels, PageData, PageLayer } from '../page-data.js';
import { drawChannelPlots } from './channel-plots.js';
import { makeElement } from './dom.js';

/** The table of layers, brought to life. */
export interface LayerTable {
  /** Opens a layer's row, whatever the filter hides, and scrolls to it. */
  readonly show: (layer: number) => void;
}

/** Makes the columns of a table in the markup sort, its rows open, and puts a filter above it. */
export function enhanceLayerTable(table: HTMLTableElement, filter: HTMLElement, data: PageData): LayerTable {
  const body = table.tBodies[0];
  if (body === undefined) return { show: () => {} };
  const rows = [...body.rows];
  const showAllRows = () => table.classList.remove('opening');
  addEventListener('load', () => requestAnimationFrame(() => setTimeout(showAllRows)));
  const rowOf = new Map(rows.map((row) => [indexOf(row), row]));
  makeSortable(table, body, rows);
  const toggleRow = makeToggle(data);
  body.addEventListener('click', ({ target }) => {
    const row = target instanceof Element ? target.closest('.open')?.closest('tr') : null;
    if (row != null) toggleRow(row, findDetail(row)?.hidden !== false);
  });
  const clearFilter = addFilter(filter, rows, data.layers);
  return {
    show: (layer) => {
      const row = rowOf.get(layer);
      if (row === undefined) return;
      showAllRows();
      if (row.hidden) clearFilter();
      toggleRow(row, true);
      row.scrollIntoView({ block: 'start' });
      row.querySelector<HTMLElement>('.open')?.focus({ preventScroll: true });
    },
  };
}

/** A row's layer, by its id. */
function indexOf(row: HTMLTableRowElement): number {
  return Number(row.id.slice('layer-'.length));
}

function makeSortable(
  table: HTMLTableElement,
  body: HTMLTableSectionElement,
  rows: readonly HTMLTableRowElement[],
): void {
  const headers = [...(table.tHead?.rows[0]?.cells ?? [])];
  headers.forEach((header, column) => {
    const button = makeElement('button', {
      class: 'sort',
      text: header.textContent ?? '',
      attributes: { type: 'button' },
    });
    header.replaceChildren(button);
    button.addEventListener('click', () => {
      const isNumber = header.classList.contains('number') && column > 0;
      const current = header.getAttribute('aria-sort');
      const order =
        current === 'none'
          ? isNumber
            ? 'descending'
            : 'ascending'
          : current === 'ascending'
            ? 'descending'
            : 'ascending';
      for (const other of headers) other.setAttribute('aria-sort', other === header ? order : 'none');
      body.append(...sortRows(rows, column, order === 'ascending' ? 1 : -1));
    });
  });
}

/** Rows in order, each with its opened panel behind it; cells without a value come last either way. */
function sortRows(
  rows: readonly HTMLTableRowElement[],
  column: number,
  sign: number,
): readonly HTMLElement[] {
  const keyed = rows.map((row, index) => {
    const cell = row.cells[column];
    const value = cell?.dataset['v'];
    return {
      row,
      index,
      text: cell?.textContent ?? '',
      value: value === undefined || value === '' ? null : Number(value),
      isNumber: value !== undefined,
    };
  });
  keyed.sort((x, y) => {
    if (!x.isNumber) return sign * TEXT_ORDER.compare(x.text, y.text) || x.index - y.index;
    if (x.value === null || y.value === null)
      return Number(x.value === null) - Number(y.value === null) || x.index - y.index;
    return sign * (weightOf(x.value) - weightOf(y.value)) || x.index - y.index;
  });
  return keyed.flatMap(({ row }) => {
    const detail = findDetail(row);
    return detail === null ? [row] : [row, detail];
  });
}

/** Names in natural order: layer2 before layer10. */
const TEXT_ORDER = new Intl.Collator('en', { numeric: true });

/** NaN and infinity are the worst; finite so that two of them subtract to zero. */
function weightOf(value: number): number {
  return Number.isFinite(value) ? value : Number.MAX_VALUE;
}

function findDetail(row: HTMLTableRowElement): HTMLElement | null {
  const next = row.nextElementSibling;
  return next instanceof HTMLElement && next.classList.contains('detail') ? next : null;
}

type ToggleRow = (row: HTMLTableRowElement, isOpen: boolean) => void;

/** Opens and closes rows; a row's panel is made when it first opens, and the channels are parsed with the first. */
function makeToggle({ layers, facts }: PageData): ToggleRow {
  let channels: readonly (PageChannels | null)[] | null = null;
  return (row, isOpen) => {
    const index = indexOf(row);
    const layer = layers[index];
    if (layer === undefined) return;
    let detail = findDetail(row);
    if (detail === null && isOpen) {
      channels ??= JSON.parse(
        document.getElementById('channels')?.textContent ?? '[]',
      ) as (PageChannels | null)[];
      detail = makeDetail(row.cells.length, { layer, labels: facts, channels: channels[index] ?? null });
      row.after(detail);
    }
    if (detail !== null) detail.hidden = !isOpen;
    row.classList.toggle('opened', isOpen);
    row.querySelector('.open')?.setAttribute('aria-expanded', String(isOpen));
  };
}

/** Longer values, which are names, get the room of two. */
const BROAD_LENGTH = 22;

interface DetailContents {
  readonly layer: PageLayer;
  /** What the layer's facts are called. */
  readonly labels: readonly string[];
  readonly channels: PageChannels | null;
}

function makeDetail(columns: number, { layer, labels, channels }: DetailContents): HTMLElement {
  const facts = makeElement(
    'dl',
    { class: 'facts' },
    labels.flatMap((label, index) => {
      const value = layer.facts[index] ?? null;
      if (value === null) return [];
      const parts = [makeElement('dt', { text: label }), makeElement('dd', { text: value })];
      return [makeElement('div', value.length > BROAD_LENGTH ? { class: 'broad' } : {}, parts)];
    }),
  );
  const said = layer.findings.map(({ level, text }) =>
    makeElement('p', { class: 'said' }, [
      makeElement('span', { class: `level ${level}`, text: level }),
      document.createTextNode(text),
    ]),
  );
  const plots = makeElement('div');
  if (channels === null) {
    plots.append(makeElement('p', { class: 'faint', text: 'Statistics per channel are not in this page.' }));
  } else drawChannelPlots(plots, channels);
  const cell = makeElement('td', { attributes: { colspan: String(columns) } }, [
    makeElement('div', { class: 'detail-box' }, [...said, facts, plots]),
  ]);
  return makeElement('tr', { class: 'detail' }, [cell]);
}

/** A search field, one switch a status, and how many rows are left; returns what clears them all. */
function addFilter(
  box: HTMLElement,
  rows: readonly HTMLTableRowElement[],
  layers: readonly PageLayer[],
): () => void {
  const search = makeElement('input', {
    attributes: {
      type: 'search',
      placeholder: 'Filter by name',
      'aria-label': 'Filter layers by name',
      'aria-controls': 'layer-table',
      spellcheck: 'false',
    },
  });
  const output = makeElement('output', { attributes: { 'aria-live': 'polite' } });
  const pressed = new Set<string>();
  const apply = () => {
    const words = search.value
      .toLowerCase()
      .split(/\s+/)
      .filter((word) => word !== '');
    let count = 0;
    for (const row of rows) {
      const layer = layers[indexOf(row)];
      const name = layer?.name.toLowerCase() ?? '';
      row.hidden =
        !words.every((word) => name.includes(word)) ||
        (pressed.size > 0 && !pressed.has(layer?.status ?? ''));
      const detail = findDetail(row);
      if (detail !== null) detail.hidden = row.hidden || !row.classList.contains('opened');
      if (!row.hidden) count++;
    }
    output.textContent =
      count === rows.length
        ? `${formatCount(count)} layers`
        : `${formatCount(count)} of ${formatCount(rows.length)} layers`;
  };
  const chips = countStatuses(layers).map(([status, count]) => {
    const chip = makeElement(
      'button',
      { class: `chip is-${status}`, attributes: { type: 'button', 'aria-pressed': 'false' } },
      [makeElement('i', { class: 'dot' }), document.createTextNode(`${status} ${formatCount(count)}`)],
    );
    chip.addEventListener('click', () => {
      const isPressed = !pressed.delete(status);
      if (isPressed) pressed.add(status);
      chip.setAttribute('aria-pressed', String(isPressed));
      apply();
    });
    return chip;
  });
  search.addEventListener('input', apply);
  box.replaceChildren(
    makeElement('div', { class: 'filter', attributes: { role: 'search' } }, [
      search,
      ...(chips.length > 1 ? chips : []),
      output,
    ]),
  );
  apply();
  return () => {
    search.value = '';
    pressed.clear();
    for (const chip of chips) chip.setAttribute('aria-pressed', 'false');
    apply();
  };
}

function countStatuses(layers: readonly PageLayer[]): readonly (readonly [status: string, count: number])[] {
  const counts = new Map<string, number>();
  for (const { status } of layers) counts.set(status, (counts.get(status) ?? 0) + 1);
  return [...counts].sort(([, x], [, y]) => y - x);
}
