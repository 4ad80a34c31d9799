import { copyFileSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { audit } from '../../../src/audit.js';
import { openCheckpoint } from '../../../src/formats/open.js';
import { render } from '../../../src/report/render.js';
import { restore } from '../../../src/restore/restore.js';
import { bytesOf, f32 } from '../../build/bytes.js';
import { failureOf } from '../../build/failure.js';
import { makeTempDirectory } from '../../build/sources.js';

const DIRECTORY = resolve(import.meta.dirname, '../../../fixtures/darknet');
const at = (name: string) => join(DIRECTORY, name);

/** The JSON of an audit of two fixtures, but for their names, formats and what they were trained with. */
async function auditOf(before: string, after: string): Promise<unknown> {
  const report = JSON.parse(render(await audit(at(before), at(after)), { format: 'json' }));
  for (const side of [report.before, report.after])
    for (const key of ['path', 'format', 'framework', 'inModuleOrder']) delete side[key];
  return report;
}

/** A directory with files of these contents. */
function directoryOf(files: Readonly<Record<string, Uint8Array | string>>): string {
  const directory = makeTempDirectory();
  for (const [name, content] of Object.entries(files)) writeFileSync(join(directory, name), content);
  return directory;
}

describe('an audit of weights that Darknet wrote', () => {
  test('says what one of safetensors says', async () => {
    expect(await auditOf('tiny.weights', 'tiny_final.weights')).toEqual(
      await auditOf('before.safetensors', 'after.safetensors'),
    );
  });

  test('measures what NumPy does', async () => {
    const { meanShiftRms } = JSON.parse(readFileSync(at('expected.json'), 'utf8'));
    const { layers, after } = await audit(at('tiny.weights'), at('tiny_final.weights'));
    expect(after.framework).toBe('darknet');
    expect(layers.map(({ name }) => name).sort()).toEqual(Object.keys(meanShiftRms).sort());
    for (const { name, meanShift } of layers) expect(meanShift?.rms).toBeCloseTo(meanShiftRms[name], 9);
  });

  test('says what stopbackward freezes: its layer and all before it', async () => {
    const cfg = readFileSync(at('tiny.cfg'), 'utf8');
    const [net = '', first = '', second = '', ...rest] = cfg.split(/(?=^\[)/m);
    const stopped = [net, first, second.trimEnd(), '\nstopbackward=1\n', ...rest].join('');
    const directory = directoryOf({ 'n.cfg': stopped, 'n.weights': readFileSync(at('tiny.weights')) });
    const { declarations, close } = await openCheckpoint(join(directory, 'n.weights'));
    await close();
    expect(declarations).toMatchObject([
      { kind: 'paths', by: 'darknet-stopbackward', paths: ['layers.0', 'layers.1'] },
    ]);
  });

  test('reads a backbone as far as it goes', async () => {
    const { tensors, warnings } = await openCheckpoint(at('tiny.conv.4'));
    expect([...tensors.keys()].at(-1)).toBe('layers.3.bn.running_var');
    expect(warnings).toEqual([
      expect.stringMatching(/^the file ends before the last 3 layers with weights of ".*tiny\.cfg"$/),
    ]);
  });

  test('restores into weights beside their .cfg', async () => {
    const directory = makeTempDirectory();
    for (const name of ['tiny.cfg', 'tiny_final.weights']) copyFileSync(at(name), join(directory, name));
    const fixed = join(directory, 'fixed.weights');
    expect((await restore(at('tiny.weights'), join(directory, 'tiny_final.weights'), fixed)).outcome).toBe(
      'restored',
    );
    expect((await audit(at('tiny.weights'), fixed)).verdict).toBe('clean');
  });
});

const CFG = '[net]\nheight=1\nwidth=1\nchannels=1\n[conv]\nfilters=2\n';
const header = (minor: number) => bytesOf(new Uint8Array(4), minor, new Uint8Array(minor === 1 ? 11 : 15));
const WEIGHTS = bytesOf(header(2), f32(1, 2, 3, 4));

describe('the .cfg', () => {
  const open = (directory: string, name: string) => openCheckpoint(join(directory, name));

  test.each([
    ['n.weights', 'n.cfg'],
    ['n_final.weights', 'n.cfg'],
    ['n_last.weights', 'n_last.cfg'],
    ['n-1000.weights', 'n.cfg'],
    ['n.conv.15', 'n.cfg'],
    ['n.backup', 'n.cfg'],
  ])('of %s is %s', async (weights, cfg) => {
    const directory = directoryOf({
      [weights]: WEIGHTS,
      [cfg]: CFG,
      'other.cfg': '[net]',
      'another.cfg': '[net]',
    });
    expect((await open(directory, weights)).tensors.size).toBe(2);
  });

  test('may be the only one', async () => {
    expect(
      (await open(directoryOf({ 'n.weights': WEIGHTS, 'any.cfg': CFG }), 'n.weights')).tensors.size,
    ).toBe(2);
  });

  test.each([
    ['none', {}],
    ['several, none of which has the name', { 'a.cfg': CFG, 'b.cfg': CFG }],
  ])('%s: the weights are refused, and say what they need', async (_, files) => {
    const failure = await failureOf(() => open(directoryOf({ 'n.weights': WEIGHTS, ...files }), 'n.weights'));
    expect(failure.code).toBe('unrecognised-format');
    expect(`${failure.message} ${failure.hint}`).toMatch(/\.cfg of the Darknet weights.*convert/);
  });

  test('that is a link out of the directory is refused', async () => {
    const elsewhere = directoryOf({ 'n.cfg': CFG });
    const directory = directoryOf({ 'n.weights': WEIGHTS });
    symlinkSync(join(elsewhere, 'n.cfg'), join(directory, 'n.cfg'));
    expect((await failureOf(() => open(directory, 'n.weights'))).code).toBe('refused');
  });

  test('and the weights must go together', async () => {
    const messageOf = async (weights: Uint8Array, cfg = CFG) =>
      (await failureOf(() => open(directoryOf({ 'n.weights': weights, 'n.cfg': cfg }), 'n.weights'))).message;
    expect(await messageOf(bytesOf(header(2), f32(1, 2, 3, 4, 5)))).toMatch(
      /end of the weights at byte 36, found 4 more bytes: is ".*n\.cfg" the \.cfg/,
    );
    expect(await messageOf(bytesOf(header(2), f32(1, 2, 3)))).toMatch(
      /expected 8 bytes of layers\.0\.conv\.weight, found 4/,
    );
    expect(await messageOf(header(2))).toMatch(/expected weights in the file of Darknet, found none/);
    expect(await messageOf(WEIGHTS, `${CFG.replace('[conv]', '[lstm]')}`)).toMatch(
      /layer 0 is a "lstm", whose weights are not read here/,
    );
    expect(await messageOf(WEIGHTS, `${CFG}size=30000`)).toMatch(
      /expected 7200000000 bytes of layers\.0\.conv\.weight/,
    );
    expect(await messageOf(WEIGHTS, `${CFG}${'#'.repeat(1_000_001)}`)).toMatch(/at most 1000000 bytes/);
  });

  test('of a version before 0.2 has a shorter header', async () => {
    const directory = directoryOf({ 'n.weights': bytesOf(header(1), f32(1, 2, 3, 4)), 'n.cfg': CFG });
    const { tensors } = await open(directory, 'n.weights');
    expect(tensors.get('layers.0.conv.bias')?.range.offset).toBe(16);
  });
});
