import { createHash } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { audit } from '../../../src/audit.js';
import type { PageChannels, PageData } from '../../../src/report/html/page-data.js';
import {
  makeDeepReport,
  makeLayer,
  makeMixedReport,
  makeReport,
  renderAs,
  SAMPLE_REPORTS,
} from '../sample-reports.js';

const renderHtml = renderAs('html');

/** Elements that the page is made of; a name from a file must not add one. */
const OWN_ELEMENTS = new Set(
  'html head meta title style body a header p svg path nav div main section h1 h2 h3 dl dt dd small ul li i b bdi code span rect circle noscript table caption thead tr th tbody td button wbr details summary strong article figure figcaption pre footer script'.split(
    ' ',
  ),
);

interface PageParts {
  readonly style: string;
  readonly script: string;
  readonly json: readonly string[];
  /** What is left without the style and the scripts. */
  readonly markup: string;
}

function splitPage(page: string): PageParts {
  const contents = (pattern: RegExp) => [...page.matchAll(pattern)].map(([, content = '']) => content);
  const [style = ''] = contents(/<style>([\s\S]*?)<\/style>/g);
  const [script = ''] = contents(/<script type="text\/javascript">([\s\S]*?)<\/script>/g);
  return {
    style,
    script,
    json: contents(/<script type="application\/json" id="\w+">([\s\S]*?)<\/script>/g),
    markup: page.replace(/<style>[\s\S]*?<\/style>|<script[^>]*>[\s\S]*?<\/script>/g, ''),
  };
}

function dataOf(page: string): {
  readonly data: PageData;
  readonly channels: readonly (PageChannels | null)[];
} {
  const [data = '', channels = ''] = splitPage(page).json;
  return { data: JSON.parse(data), channels: JSON.parse(channels) };
}

describe('the HTML page', () => {
  test('holds the answer, the modules, the layers and the findings without its script', async () => {
    const { markup } = splitPage(renderHtml(makeMixedReport()));
    const stable = markup.replace(/sha256-[\w+/=]+/g, 'sha256-…');
    await expect(stable).toMatchFileSnapshot('__snapshots__/mixed.html.txt');
  });

  test('says what to do right below the answer, and what was found before every layer', () => {
    const { markup } = splitPage(renderHtml(makeMixedReport()));
    const sections = [...markup.matchAll(/<section (?:id|class)="(\w+)/g)].map(([, name]) => name);
    expect(sections).toEqual(['answer', 'fix', 'findings', 'chart', 'modules', 'layers', 'notes']);
    const targets = [...markup.matchAll(/<li><a href="#([^"]+)"><span class="level/g)].map(([, id]) => id);
    expect(targets[0]).toBe('error-frozen-stats-drift');
    for (const id of targets) expect(markup).toContain(`<article class="panel finding" id="${id}">`);
  });

  test('stands in the order of the network only where before keeps it, else in that of names', () => {
    const report = makeReport({
      layers: ['layer10.bn', 'layer2.bn', 'head.bn'].map((name) => makeLayer(name)),
    });
    const namesOf = (page: string) => dataOf(page).data.layers.map(({ name }) => name);
    const ordered = renderHtml(report);
    expect(namesOf(ordered)).toEqual(['layer10.bn', 'layer2.bn', 'head.bn']);
    expect(ordered).toContain('Movement along the depth</h2>');
    const named = renderHtml({ ...report, before: { ...report.before, inModuleOrder: false } });
    expect(namesOf(named)).toEqual(['head.bn', 'layer2.bn', 'layer10.bn']);
    expect(named).toContain(
      'by name, with numbers by value: the file does not keep the order of the network',
    );
    expect(named).not.toContain('along the depth');
  });

  test('offers no measure that no layer has', () => {
    const layers = [makeLayer('bn', { outputShift: null, meanShift: null, divergence: null })];
    const { data } = dataOf(renderHtml(makeReport({ layers, findings: [] })));
    expect(data.measures.map(({ label }) => label)).toEqual(['Std ratio']);
  });

  test('shows no number that folded weights do not tell', async () => {
    const [before, after] = ['before', 'after'].map((side) =>
      fileURLToPath(new URL(`../../../fixtures/pairs/requires-grad-leak/${side}.fold.onnx`, import.meta.url)),
    );
    const { markup } = splitPage(renderHtml(await audit(before ?? '', after ?? '')));
    expect(markup).toContain('<strong class="drifted">8 drifted</strong>');
    expect(markup).toContain('folded weights do not tell');
    expect(markup).not.toContain('nothing drifted');
    expect(markup).not.toMatch(/<b>0?<\/b>/);
  });

  test.each(SAMPLE_REPORTS)('is made of nothing but its own elements in %s', (_, report) => {
    const { markup, json } = splitPage(renderHtml(report));
    const names = [...markup.matchAll(/<\/?([^\s>/]+)/g)].map(([, name = '']) => name);
    expect(names.filter((name) => !OWN_ELEMENTS.has(name) && name !== '!doctype')).toEqual([]);
    expect(json).toHaveLength(2);
    for (const text of json) expect(text).not.toMatch(/[<>&\u2028\u2029]/);
  });

  test.each(SAMPLE_REPORTS)('has no handler, inline style, or control character in %s', (_, report) => {
    const { markup } = splitPage(renderHtml(report));
    for (const [tag] of markup.matchAll(/<[a-z][^>]*>/g))
      expect(tag).not.toMatch(/\s(?:on\w+|style|src|formaction)=/);
    expect(markup).not.toMatch(
      /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/,
    );
  });

  test.each(SAMPLE_REPORTS)('links to nothing outside in %s', (_, report) => {
    const { markup, style, script } = splitPage(renderHtml(report));
    for (const [, target = ''] of markup.matchAll(/href="([^"]*)"/g)) expect(target).toMatch(/^#[\w-]+$/);
    expect(style).not.toMatch(/url\(|@import/);
    const addresses = [...script.matchAll(/https?:\/\/[^"'`\s]+/g)].map(([address]) => address);
    // Names of XML namespaces, which nothing loads.
    expect(addresses.filter((address) => !address.startsWith('http://www.w3.org/'))).toEqual([]);
  });

  test('allows its own style and script by hash, and nothing else', () => {
    const page = renderHtml(makeMixedReport());
    const { style, script } = splitPage(page);
    const hash = (text: string) => `&#39;sha256-${createHash('sha256').update(text).digest('base64')}&#39;`;
    const [, policy] = /http-equiv="Content-Security-Policy" content="([^"]*)"/.exec(page) ?? [];
    expect(policy).toBe(
      `default-src &#39;none&#39;; script-src ${hash(script)}; style-src ${hash(style)}; base-uri &#39;none&#39;; form-action &#39;none&#39;`,
    );
  });

  test('holds every channel where there is room', () => {
    const { data, channels } = dataOf(renderHtml(makeDeepReport(40)));
    expect(channels).toHaveLength(40);
    expect(channels.every((channel) => channel?.indices === null)).toBe(true);
    expect(data.layers[data.opened ?? -1]?.status).toBe('drifted');
  });

  test('holds the channels that moved most where there is not', () => {
    const { channels } = dataOf(renderHtml(makeDeepReport(300)));
    const cut = channels.filter((channel) => channel !== null && channel.indices !== null);
    expect(cut.length).toBeGreaterThan(100);
    for (const channel of cut) {
      const indices = channel?.indices ?? [];
      expect(indices.length).toBeLessThan(channel?.total ?? 0);
      expect([...indices].sort((x, y) => x - y)).toEqual(indices);
    }
  });

  test('keeps one copy of statistics that did not move', () => {
    const { channels } = dataOf(renderHtml(makeDeepReport(40)));
    expect(channels[0]?.after).toBe('same');
  });

  test('weighs under 1 MB with 300 layers', () => {
    expect(Buffer.byteLength(renderHtml(makeDeepReport(300)))).toBeLessThan(1_000_000);
  });

  test('weighs under 1 MB with 300 layers of long names', () => {
    const report = makeDeepReport(300);
    const prefix = 'model.detector.backbone.encoder.stages_with_long_names.';
    const layers = report.layers.map((layer) => ({ ...layer, name: prefix + layer.name }));
    const findings = report.findings.map((finding) => ({ ...finding, layer: prefix + finding.layer }));
    expect(Buffer.byteLength(renderHtml({ ...report, layers, findings }))).toBeLessThan(1_000_000);
  });

  test('says numbers that are not finite', () => {
    const layer = makeLayer('bn', {
      status: 'invalid',
      outputShift: Number.NaN,
      meanShift: { rms: Number.POSITIVE_INFINITY, max: 1 },
    });
    const page = renderHtml(makeReport({ layers: [layer], findings: [] }));
    expect(dataOf(page).data.layers[0]?.values.slice(0, 2)).toEqual(['NaN', 'Infinity']);
    expect(page).toContain('<b>NaN</b>');
  });
});
