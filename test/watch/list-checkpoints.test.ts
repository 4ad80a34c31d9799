import { execFileSync } from 'node:child_process';
import { chmodSync, linkSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { compareNaturally } from '../../src/norm/naming.js';
import { listCheckpoints, rememberFiles, stampFiles } from '../../src/watch/list-checkpoints.js';
import { failureOf, usageFailureOf } from '../build/failure.js';
import { RunDirectory } from '../build/run-directory.js';

function makeRun(...names: readonly string[]): RunDirectory {
  const run = new RunDirectory();
  for (const name of names) run.write(name, name);
  return run;
}

const pathsIn = (run: RunDirectory, options: Parameters<typeof listCheckpoints>[1] = {}) =>
  listCheckpoints(run.path, options)
    .checkpoints.map(({ path }) => path.slice(run.path.length + 1))
    .sort(compareNaturally);

describe('what is a checkpoint', () => {
  test('files with the ending of one, wherever trainers put them', () => {
    const names = [
      'checkpoint-500/model.safetensors',
      'checkpoint-1000/pytorch_model.bin',
      'epoch_9.pth',
      'epoch_10.pth',
      'last.ckpt',
      'lightning_logs/version_0/checkpoints/epoch=1-step=20.ckpt',
      'model_best.pth.tar',
      'model_optimized.onnx',
      'random_forest.pt',
      'weights.h5',
    ];
    expect(pathsIn(makeRun(...names))).toEqual(names);
  });

  test('not what trainers save beside it, nor what is hidden or not complete by its name', () => {
    const passed = [
      'checkpoint-500/optimizer.pt',
      'checkpoint-500/rng_state_0.pth',
      'checkpoint-500/scheduler.pt',
      'checkpoint-500/training_args.bin',
      'checkpoint-500/random_states_0.pkl',
      'events.out.tfevents.1',
      'hparams.yaml',
      'model.optimizer.pth.tar',
      'model.pt.tmp',
      '.model.pt',
      '.nfs0001',
    ];
    const run = makeRun(...passed, '.ipynb_checkpoints/model.pt');
    const listing = listCheckpoints(run.path, {});
    expect(listing.checkpoints).toEqual([]);
    expect(listing.passed.count).toBe(passed.length);
    expect(listing.passed.example).toContain(run.path);
  });

  test('globs say which: a directory means what is below it, a file needs no ending', () => {
    const run = makeRun('a/checkpoint_100', 'a/checkpoint_100.json', 'a/b/model.pt', 'c/model.pt', 'd.pt');
    expect(pathsIn(run, { match: ['a/checkpoint_*0'] })).toEqual(['a/checkpoint_100']);
    expect(pathsIn(run, { match: ['a'] })).toEqual(['a/b/model.pt']);
    expect(pathsIn(run, { match: ['**/model.*', 'd.pt'] })).toEqual(['a/b/model.pt', 'c/model.pt', 'd.pt']);
    expect(pathsIn(run, { match: ['none'] })).toEqual([]);
  });
});

describe('files that are one checkpoint', () => {
  test('shards, named by their index', () => {
    const shards = [
      'checkpoint-5/model-00001-of-00002.safetensors',
      'checkpoint-5/model-00002-of-00002.safetensors',
    ];
    const run = makeRun(...shards);
    expect(pathsIn(run)).toEqual([]);
    run.write('checkpoint-5/model.safetensors.index.json', '{}');
    const [one, ...others] = listCheckpoints(run.path, {}).checkpoints;
    expect(others).toEqual([]);
    expect(one?.path).toBe(run.at('checkpoint-5/model.safetensors.index.json'));
    expect([...(one?.files ?? [])].sort()).toEqual(
      [...shards, 'checkpoint-5/model.safetensors.index.json'].map((name) => run.at(name)),
    );
  });

  test('a distributed checkpoint, named by its directory, with all that is in it', () => {
    const run = makeRun(
      'step_5/__0_0.distcp',
      'step_5/__1_0.distcp',
      'step_5/meta.pt',
      'step_6/__0_0.distcp',
    );
    expect(pathsIn(run)).toEqual(['step_5/meta.pt']);
    run.write('step_5/.metadata', '');
    expect(pathsIn(run)).toEqual(['step_5']);
    expect(listCheckpoints(run.path, {}).checkpoints[0]?.files).toHaveLength(4);
  });

  test('a .metadata alone makes no checkpoint of its directory', () => {
    expect(pathsIn(makeRun('.metadata', 'model.pt'))).toEqual(['model.pt']);
  });

  test('shards of Keras, by their index; without it they may be the epochs of a training', () => {
    const run = makeRun('m_00000.weights.h5', 'm_00001.weights.h5', 'other.weights.h5');
    expect(pathsIn(run)).toEqual(['m_00000.weights.h5', 'm_00001.weights.h5', 'other.weights.h5']);
    run.write('m.weights.json', '');
    expect(pathsIn(run)).toEqual(['m.weights.json', 'other.weights.h5']);
    const counts = listCheckpoints(run.path, {}).checkpoints.map(({ files }) => files.length);
    expect(counts.sort()).toEqual([1, 3]);
  });

  test('those of DeepSpeed, TensorFlow and ONNX', () => {
    const run = makeRun(
      'global_step5/zero_pp_rank_0_mp_rank_00_model_states.pt',
      'global_step5/zero_pp_rank_1_mp_rank_00_model_states.pt',
      'global_step5/zero_pp_rank_0_mp_rank_00_optim_states.pt',
      'tf/ckpt-1.index',
      'tf/ckpt-1.data-00000-of-00001',
      'tf/ckpt-10.index',
      'tf/ckpt-10.data-00000-of-00001',
      'model.onnx',
      'model.onnx.data',
    );
    expect(pathsIn(run)).toEqual([
      'global_step5/zero_pp_rank_0_mp_rank_00_model_states.pt',
      'model.onnx',
      'tf/ckpt-1.index',
      'tf/ckpt-10.index',
    ]);
    const counts = listCheckpoints(run.path, {}).checkpoints.map(({ files }) => files.length);
    expect(counts.sort()).toEqual([2, 2, 2, 3]);
  });
});

describe('how a checkpoint stands', () => {
  const stampOf = (run: RunDirectory) => listCheckpoints(run.path, {}).checkpoints[0]?.stamp;

  test('changes with any of its files', () => {
    const run = makeRun('model.onnx', 'model.onnx.data');
    const first = stampOf(run);
    expect(stampOf(run)).toEqual(first);
    run.touch('model.onnx.data');
    expect(stampOf(run)?.content).not.toBe(first?.content);
  });

  test('says of permissions apart', () => {
    const run = makeRun('model.pt');
    const first = stampOf(run);
    chmodSync(run.at('model.pt'), 0o600);
    const second = stampOf(run);
    expect(second?.content).toBe(first?.content);
    expect(second?.all).not.toBe(first?.all);
  });

  test('is the same when only its files are asked about, and nothing when one is gone', () => {
    const run = makeRun('model.onnx', 'model.onnx.data');
    const [found] = listCheckpoints(run.path, {}).checkpoints;
    expect(stampFiles(found?.files ?? [])).toEqual(found?.stamp);
    run.remove('model.onnx.data');
    expect(stampFiles(found?.files ?? [])).toBeNull();
  });
});

describe('several names of one file', () => {
  test('count once: a link is another name, and so is a hard link', () => {
    const run = makeRun('epoch1.ckpt', 'epoch2.ckpt');
    symlinkSync('epoch2.ckpt', run.at('best.ckpt'));
    linkSync(run.at('epoch1.ckpt'), run.at('last.ckpt'));
    expect(pathsIn(run)).toEqual(['epoch1.ckpt', 'epoch2.ckpt']);
  });

  test('a link that leads out of the directory is a checkpoint of its own', () => {
    const run = makeRun('epoch1.ckpt');
    writeFileSync(join(run.outside, 'far.ckpt'), 'x');
    symlinkSync(join(run.outside, 'far.ckpt'), run.at('far.ckpt'));
    expect(pathsIn(run)).toEqual(['epoch1.ckpt', 'far.ckpt']);
  });

  test('what is known is left out by whatever name, renamed or replaced', () => {
    const run = makeRun('before.pt', 'other.pt');
    symlinkSync('before.pt', run.at('alias.pt'));
    const without = rememberFiles([run.at('before.pt'), run.at('gone.pt')]);
    expect(pathsIn(run, { without })).toEqual(['other.pt']);
    run.write('before.pt', 'replaced');
    expect(pathsIn(run, { without })).toEqual(['other.pt']);
    const again = rememberFiles([run.at('before.pt')]);
    run.rename('before.pt', 'renamed.pt');
    expect(pathsIn(run, { without: again })).toEqual(['other.pt']);
  });
});

describe('what cannot be looked at', () => {
  test('links in a circle, links to nowhere, pipes and directories are no checkpoints', () => {
    const run = makeRun('model.pt');
    symlinkSync('loop.pt', run.at('loop.pt'));
    symlinkSync('nowhere', run.at('nowhere.pt'));
    symlinkSync('.', run.at('self'));
    symlinkSync('..', run.at('up.pt'));
    execFileSync('mkfifo', [run.at('pipe.pt')]);
    symlinkSync('pipe.pt', run.at('pipe-link.pt'));
    mkdirSync(run.at('directory.pt'));
    const { unread } = listCheckpoints(run.path, {});
    expect(pathsIn(run)).toEqual(['model.pt']);
    expect(unread).toEqual([{ path: run.at('loop.pt'), message: 'its symbolic links lead in a circle' }]);
  });

  test('a name that is no Unicode text is said, not passed over', () => {
    const run = makeRun('model.pt');
    writeFileSync(
      Buffer.concat([Buffer.from(`${run.path}/b`), Buffer.from([0xff]), Buffer.from('d.pt')]),
      'x',
    );
    expect(listCheckpoints(run.path, {}).unread).toEqual([
      { path: run.at('b\ufffdd.pt'), message: 'its name is no Unicode text' },
    ]);
  });

  test('a directory that is not there is none, and a file is an error', async () => {
    const run = makeRun('model.pt');
    const listing = listCheckpoints(join(run.path, 'later'), {});
    expect(listing).toMatchObject({ isThere: false, checkpoints: [], unread: [] });
    const path = run.at('model.pt');
    for (const file of [path, join(path, 'below')])
      expect(await failureOf(() => listCheckpoints(file, {}))).toMatchObject({
        code: 'not-a-file',
        file,
        message: 'expected a directory to watch, found something else',
      });
  });

  test('a glob that is none is a usage error', async () => {
    const { message } = await usageFailureOf(() =>
      listCheckpoints(makeRun().path, { match: ['x'.repeat(2000)] }),
    );
    expect(message).toContain('expected a glob of at most');
  });
});
