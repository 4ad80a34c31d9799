// The page's script for one report.

import type { PageData } from '../page-data.js';
import { drawDepthChart } from './depth-chart.js';
import { addThemeSwitch, makeElement } from './dom.js';
import { enhanceLayerTable, type LayerTable } from './layer-table.js';

/** Brings the page to life: everything it needs stands in it. */
function start(): void {
  const data: PageData = JSON.parse(find('data').textContent ?? '');
  addThemeSwitch(find('theme'));
  addCopyButtons();
  const table = enhanceLayerTable(find('layer-table') as HTMLTableElement, find('layer-filter'), data);
  drawDepthChart(find('depth-chart'), data, (layer) => {
    const hash = `#layer-${layer}`;
    // A second click on the same bar changes no address, and should still lead to the layer.
    if (location.hash === hash) table.show(layer);
    else location.hash = hash;
  });
  if (!followAddress(table) && data.opened !== null) openQuietly(data.opened);
  addEventListener('hashchange', () => followAddress(table));
}

function find(id: string): HTMLElement {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`the page has no element ${id}`);
  return element;
}

/** Opens the layer that the page's address names, as links in the page do. */
function followAddress(table: LayerTable): boolean {
  const [, layer] = /^#layer-(\d+)$/.exec(location.hash) ?? [];
  if (layer === undefined) return false;
  table.show(Number(layer));
  return true;
}

/** Opens the worst layer's row without moving the page or the focus. */
function openQuietly(layer: number): void {
  document.getElementById(`layer-${layer}`)?.querySelector<HTMLElement>('.open')?.click();
}

function addCopyButtons(): void {
  if (navigator.clipboard === undefined) return;
  for (const caption of document.querySelectorAll('#fix figcaption')) {
    const button = makeElement('button', { class: 'quiet', text: 'Copy', attributes: { type: 'button' } });
    button.addEventListener('click', async () => {
      const code = caption.parentElement?.querySelector('pre')?.textContent ?? '';
      try {
        await navigator.clipboard.writeText(code);
        button.textContent = 'Copied';
      } catch {
        button.textContent = 'Not allowed';
      }
    });
    caption.append(button);
  }
}

start();
