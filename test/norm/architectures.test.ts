import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { expect, test } from 'vitest';
import type { Tensor } from '../../src/checkpoint/checkpoint.js';
import { memorySource } from '../../src/io/byte-source.js';
import { findNamedLayers } from '../../src/norm/find-layers.js';
import { splitPath } from '../../src/norm/naming.js';
import { checkpointOf } from '../build/checkpoints.js';

/** What fixtures/README.md says of feeds/architectures.txt.gz. */
interface Architecture {
  readonly name: string;
  readonly tensors: Tensor[];
  /** The modules that feed each norm layer, as automatic differentiation found them. */
  readonly feeds: Map<string, ReadonlySet<string>>;
}

const NOTHING = memorySource('nothing', new Uint8Array(0));

const architectures = readArchitectures();

function readArchitectures(): readonly Architecture[] {
  const file = new URL('../../fixtures/feeds/architectures.txt.gz', import.meta.url);
  const all: Architecture[] = [];
  for (const line of gunzipSync(readFileSync(file)).toString().trim().split('\n')) {
    const [path = '', ...rest] = line.split(' ');
    if (path === '=') all.push({ name: rest.join(' '), tensors: [], feeds: new Map() });
    else addModule(all.at(-1), path, rest);
  }
  return all;
}

function addModule(architecture: Architecture | undefined, path: string, rest: readonly string[]): void {
  const add = (leaf: string, shape: readonly number[]) =>
    architecture?.tensors.push(headerOf(path === '' ? leaf : `${path}.${leaf}`, shape));
  const [channels = '', affine = '', ...feeds] = rest;
  if (!channels.startsWith('~')) {
    for (const [leaf = '', sizes = ''] of rest.map((part) => part.split(':'))) {
      add(leaf, sizes === '' ? [] : sizes.split(',').map(Number));
    }
    return;
  }
  const isKeras = architecture?.name.startsWith('keras/') === true;
  const statistics = isKeras ? ['moving_mean', 'moving_variance'] : ['running_mean', 'running_var'];
  for (const leaf of [...(affine === '-' ? [] : affine.split(',')), ...statistics]) {
    add(leaf, [Number(channels.slice(1))]);
  }
  if (feeds[0] !== '?') architecture?.feeds.set(path, new Set(feeds[0] === '-' ? [] : feeds));
}

/** A tensor of which only the header is looked at. */
function headerOf(name: string, shape: readonly number[]): Tensor {
  const elementCount = shape.reduce((product, size) => product * size, 1);
  return { name, dtype: 'F32', shape, elementCount, range: { source: NOTHING, offset: 0, byteLength: 0 } };
}

interface Figures {
  /** Norm layers whose feed was told for certain, and rightly. */
  certain: number;
  /** Norm layers of which it was said that names leave their feed open, and what may feed them holds it. */
  open: number;
  readonly wrong: string[];
}

/**
 * Holds what names tell against what is so. Certain modules are wrong unless all of them feed the layer. Modules of which
 * one may are wrong unless one does: what is then said is true of all of them, so of that one. Where nothing learned
 * feeds the layer they are no mistake: what is said is true of all that is around.
 */
function judge({ name, tensors, feeds }: Architecture, inModuleOrder: boolean, figures: Figures): void {
  const sorted = inModuleOrder ? tensors : [...tensors].sort((x, y) => (x.name < y.name ? -1 : 1));
  for (const layer of findNamedLayers(checkpointOf(sorted, { inModuleOrder })).layers) {
    const truth = feeds.get(layer.name);
    if (truth === undefined) continue;
    const told = [...new Set(layer.neighbours.map((tensor) => splitPath(tensor)[0]))];
    const isCertain = layer.areNeighboursCertain !== false && told.length > 0;
    const isRight = isCertain
      ? told.every((module) => truth.has(module))
      : truth.size === 0 || told.some((module) => truth.has(module));
    if (!isRight) figures.wrong.push(`${name}: ${layer.name} is fed by ${[...truth]}, not by ${told}`);
    else if (isCertain) figures.certain++;
    else figures.open++;
  }
}

test('the architectures are many, of many libraries', () => {
  expect(new Set(architectures.map(({ name }) => name.split('/')[0])).size).toBe(8);
  expect(architectures.length).toBeGreaterThan(300);
});

test.each([
  { inModuleOrder: true, least: 0.75 },
  { inModuleOrder: false, least: 0.7 },
])('no feed is told wrongly, module order kept: $inModuleOrder', ({ inModuleOrder, least }) => {
  const figures: Figures = { certain: 0, open: 0, wrong: [] };
  for (const architecture of architectures) judge(architecture, inModuleOrder, figures);
  expect(figures.wrong).toEqual([]);
  const layers = figures.certain + figures.open;
  expect(layers).toBeGreaterThan(17_000);
  expect(figures.certain / layers).toBeGreaterThan(least);
});
