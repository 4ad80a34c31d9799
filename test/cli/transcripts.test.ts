import { mkdirSync, readdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { f32 } from '../build/bytes.js';
import { safetensorsBytes } from '../build/safetensors.js';
import { makeWorkspace, runCli, splitCommand, toTranscript } from './run.js';

const norm = (path: string, values: readonly number[]) =>
  Object.fromEntries(
    ['running_mean', 'running_var'].map((leaf) => [
      `${path}.${leaf}`,
      { dtype: 'F32', shape: [values.length], data: f32(...values) },
    ]),
  );

const ESCAPE = '\u001b]0;owned\u0007\u001b[2J';

const workspace = makeWorkspace({
  'lfs.safetensors': 'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n',
  'page.onnx': '<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n',
  'empty.pt': '',
  'weights.tar.gz': gzipSync('weights'),
  'words.bin': 'just some words\n',
  'other-width.safetensors': safetensorsBytes(norm('elsewhere.bn', [1, 2, 3, 4, 5])),
  'hostile.safetensors': safetensorsBytes({ ...norm(`${ESCAPE}\nbn`, [1, 2]) }),
  'hostile-moved.safetensors': safetensorsBytes({ ...norm(`${ESCAPE}\nbn`, [1, 3]) }),
  'student-and-teacher.safetensors': safetensorsBytes({
    ...norm('student.bn', [1]),
    ...norm('teacher.bn', [1]),
  }),
  'bare.safetensors': safetensorsBytes(norm('bn', [1])),
  'renamed.safetensors': safetensorsBytes({ ...norm('trunk.bn', [1]), ...norm('trunk.deep.bn', [2]) }),
  'original.safetensors': safetensorsBytes({ ...norm('body.bn', [1]), ...norm('body.deep.bn', [1]) }),
});
mkdirSync(join(workspace, 'folder'));
symlinkSync('loop', join(workspace, 'loop'));

const LEAK = 'pairs/requires-grad-leak/before.safetensors pairs/requires-grad-leak/after.safetensors';
const LEAK_ONNX = 'pairs/requires-grad-leak/before.safetensors pairs/requires-grad-leak/after.live.onnx';
const LEAK_FOLDED = 'pairs/requires-grad-leak/before.safetensors pairs/requires-grad-leak/after.fold.onnx';
const LOCKED = 'pairs/locked/before.safetensors pairs/locked/after.safetensors';

/** Each line is a test and a file in transcripts/: its name, and the command as a user types it. */
const COMMANDS: Readonly<Record<string, readonly (readonly [name: string, command: string])[]>> = {
  'diff, by what happened': [
    ['drift', `diff ${LEAK}`],
    ['clean', `diff ${LOCKED}`],
    ['trained', 'diff pairs/full-finetune/before.safetensors pairs/full-finetune/after.safetensors'],
    ['partly-frozen', 'diff pairs/partly-frozen/before.safetensors pairs/partly-frozen/after.safetensors'],
    ['one-layer', 'diff pairs/one-layer-leak/before.safetensors pairs/one-layer-leak/after.safetensors'],
    ['affine-frozen', 'diff pairs/affine-frozen/before.safetensors pairs/affine-frozen/after.safetensors'],
    ['momentum-zero', 'diff pairs/momentum-zero/before.safetensors pairs/momentum-zero/after.safetensors'],
    ['stats-reset', 'diff pairs/stats-reset/before.safetensors pairs/stats-reset/after.safetensors'],
    ['nan', 'diff pairs/nan/before.safetensors pairs/nan/after.safetensors'],
    ['unpaired', 'diff pairs/unpaired/before.safetensors pairs/unpaired/after.safetensors'],
    ['onnx', 'diff pairs/requires-grad-leak/before.live.onnx pairs/requires-grad-leak/after.live.onnx'],
    ['safetensors-to-onnx', 'diff pairs/locked/before.safetensors pairs/locked/after.live.onnx'],
    ['hostile-names', 'diff hostile.safetensors hostile-moved.safetensors'],
  ],
  'diff, by option': [
    ['all', `diff ${LEAK} --all`],
    ['layer', `diff ${LEAK} --layer backbone.layer1.0.bn1`],
    ['layer-unknown', `diff ${LEAK} --layer backbone.bn9`],
    ['json', 'diff pairs/mlp-bn1d/before.safetensors pairs/mlp-bn1d/after.safetensors --format json'],
    [
      'json-channels',
      'diff pairs/mlp-bn1d/before.safetensors pairs/mlp-bn1d/after.safetensors --format json --channels',
    ],
    ['quiet', `diff ${LEAK} --quiet`],
    ['allow', `diff ${LEAK} --allow backbone.layer1 --allow '**.downsample'`],
    ['allow-everything', `diff ${LEAK} --allow backbone`],
    ['frozen-matching-nothing', `diff ${LEAK} --frozen neck`],
    ['select-matching-nothing', `diff ${LEAK} --select state_dict`],
    ['select-other-part', 'diff pairs/locked/before.safetensors containers/lightning.ckpt --select model'],
    ['select-nothing-to-inspect', 'inspect containers/lightning.ckpt --select model'],
    ['select-nothing-to-keep', 'baseline containers/lightning.ckpt --select model -o kept.safetensors'],
    ['select-nothing-to-suggest', 'init containers/lightning.ckpt --select model'],
    [
      'frozen-and-trained',
      'diff pairs/full-finetune/before.safetensors pairs/full-finetune/after.safetensors --frozen backbone.stem',
    ],
    ['declared', 'diff declared/before.pt declared/whole-module.pt'],
    ['frozen-auto', 'diff declared/before.pt declared/frozen-yet-changed.pt --frozen auto'],
    ['frozen-auto-without-a-word', 'diff declared/before.pt declared/averaged-copy.pt --frozen auto'],
    ['min-shift', `diff ${LEAK} --min-shift 0.25`],
    ['min-shift-above-all', `diff ${LEAK} --min-shift 10`],
    [
      'fail-on-warning',
      'diff pairs/momentum-zero/before.safetensors pairs/momentum-zero/after.safetensors --fail-on warning',
    ],
    ['epsilon', 'diff pairs/eps-1e-3/before.safetensors pairs/eps-1e-3/after.safetensors --epsilon 1e-3'],
    ['map', 'diff original.safetensors renamed.safetensors --map body=trunk'],
    ['map-decides', 'diff bare.safetensors student-and-teacher.safetensors --map bn=teacher.bn'],
  ],
  inspect: [
    ['inspect', 'inspect pairs/locked/before.safetensors'],
    ['inspect-onnx', 'inspect pairs/locked/before.live.onnx'],
    ['inspect-nan', 'inspect pairs/nan/after.safetensors'],
    ['inspect-reset', 'inspect pairs/stats-reset/after.safetensors --fail-on warning'],
    ['inspect-json', 'inspect pairs/mlp-bn1d/before.safetensors --format json --channels'],
    ['inspect-without-layers', 'inspect pairs/layernorm-only/before.safetensors'],
  ],
  probe: [
    ['probe', `probe ${LEAK_ONNX} --input probe/input.npy`],
    ['probe-folded', `probe ${LEAK_FOLDED} --input input=probe/input.npy --layers 2`],
    ['probe-locked', 'probe pairs/locked/before.pt pairs/locked/after.live.onnx --samples 4'],
    [
      'probe-partly-frozen',
      'probe pairs/partly-frozen/before.safetensors pairs/partly-frozen/after.live.onnx --no-ablation',
    ],
    ['probe-help', 'probe --help'],
    ['probe-not-onnx', `probe ${LEAK}`],
    ['probe-wrong-input', `probe ${LEAK_ONNX} --input image=probe/input.npy`],
    ['probe-no-array', `probe ${LEAK_ONNX} --input pairs/locked/before.pt`],
    ['probe-wrong-shape', `probe ${LEAK_ONNX} --shape input=1,1,8,8`],
    ['probe-bad-shape', `probe ${LEAK_ONNX} --shape wide`],
  ],
  explain: [
    ['explain', 'explain'],
    ['explain-unknown', 'explain frozen-drift'],
    ['explain-help', 'explain --help'],
  ],
  'help and usage': [
    ['no-arguments', ''],
    ['help', '--help'],
    ['help-diff', 'diff --help'],
    ['help-inspect', 'inspect --help'],
    ['version', '--version'],
    ['unknown-command', 'compare a b'],
    ['unknown-option', `diff ${LOCKED} --frosen backbone`],
    ['missing-argument', 'diff only-one.pt'],
    ['excess-argument', 'inspect a.pt b.pt'],
    ['unknown-format', `diff ${LOCKED} --format yaml`],
    ['bad-epsilon', `diff ${LOCKED} --epsilon -1`],
    ['bad-min-shift', `diff ${LOCKED} --min-shift much`],
    ['bad-map', `diff ${LOCKED} --map backbone`],
    ['bad-fail-on', `diff ${LOCKED} --fail-on note`],
  ],
  'what cannot be audited': [
    ['misspelt-file', 'diff pairs/locked/befor.safetensors pairs/locked/after.safetensors'],
    ['misspelt-module', `diff ${LEAK} --frozen backbon`],
    ['misspelt-format', `diff ${LOCKED} --format jsn`],
    ['missing-file', 'diff pairs/locked/before.safetensors gone.safetensors'],
    ['lfs-pointer', 'diff lfs.safetensors pairs/locked/after.safetensors'],
    ['html-page', 'inspect page.onnx'],
    ['empty-file', 'inspect empty.pt'],
    ['gzip', 'inspect weights.tar.gz'],
    ['unknown-content', 'inspect words.bin'],
    ['directory', 'inspect folder'],
    ['symlink-loop', 'inspect loop'],
    ['no-norm-layer', 'diff pairs/layernorm-only/before.safetensors pairs/layernorm-only/after.safetensors'],
    ['nothing-paired', 'diff pairs/locked/before.safetensors other-width.safetensors'],
    ['ambiguous-prefix', 'diff bare.safetensors student-and-teacher.safetensors'],
    ['output-into-nowhere', `diff ${LOCKED} --output empty.pt/report.txt`],
    ['debug', 'inspect empty.pt --debug'],
  ],
};

describe.each(Object.entries(COMMANDS))('%s', (_, commands) => {
  test.each(commands)('%s', async (name, command) => {
    const outcome = await runCli(splitCommand(command), workspace);
    const transcript = toTranscript(`bn-audit ${command}`.trimEnd(), outcome);
    await expect(transcript).toMatchFileSnapshot(`transcripts/${name}.txt`);
    // Whatever the files hold, a terminal sees text and line ends alone, and sentences fit 80 columns.
    expect(transcript).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/);
    // Code, commands and rows of a table hold names, which stay whole where output is no terminal.
    const holdsNames = /get_submodule\(|^(?:next| {4}) {2}bn-audit |\S {2,}\S+ {2,}\S/;
    const isWide = (line: string) => [...line].length > 80 && !holdsNames.test(line);
    if (!command.includes('json')) expect(outcome.stdout.split('\n').filter(isWide)).toEqual([]);
  });
});

test('every transcript has a name of its own, and no file is left of a command that is gone', () => {
  const names = Object.values(COMMANDS).flatMap((commands) => commands.map(([name]) => `${name}.txt`));
  // The transcripts of `restore` have a test file of their own.
  const files = readdirSync(new URL('transcripts', import.meta.url)).filter(
    (name) => !name.startsWith('restore'),
  );
  expect(files.sort()).toEqual(names.sort());
});
