import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { isDangerous } from '../../../src/checkpoint/torch/dangerous-globals.js';
import { CheckpointError } from '../../../src/errors.js';
import { failureOf } from '../../build/failure.js';
import {
  dict,
  global,
  list,
  none,
  op,
  orderedDict,
  pickle,
  reduce,
  text,
  tuple,
} from './build/pickle-writer.js';
import { legacyCheckpoint, normLayer, open, zipCheckpoint } from './build/torch-files.js';

const COMMAND = text('touch PWNED');

describe('a pickle that names a dangerous callable is refused, naming it', () => {
  test.each([
    ['GLOBAL and REDUCE', 'os.system', reduce(global('os', 'system'), tuple(COMMAND))],
    ['GLOBAL that is never called', 'os.system', global('os', 'system')],
    ['STACK_GLOBAL', 'posix.system', op(text('posix'), text('system'), 0x93)],
    ['INST', 'os.system', op('(', COMMAND, 'ios\nsystem\n')],
    ['OBJ', 'subprocess.Popen', op('(', global('subprocess', 'Popen'), COMMAND, 'o')],
    ['NEWOBJ', 'subprocess.Popen', op(global('subprocess', 'Popen'), tuple(COMMAND), 0x81)],
    [
      'a storage type',
      'os.system',
      op(tuple(text('storage'), global('os', 'system'), COMMAND, text('cpu'), text('4')), 'Q'),
    ],
    ['__setstate__ through BUILD', 'os.system', op('}', dict({ __setstate__: global('os', 'system') }), 'b')],
    ['builtins of Python 2', '__builtin__.eval', reduce(global('__builtin__', 'eval'), tuple(COMMAND))],
    ['pickles within pickles', 'pickle.loads', reduce(global('pickle', 'loads'), tuple(COMMAND))],
    [
      'checkpoints within pickles',
      'torch.storage._load_from_bytes',
      global('torch.storage', '_load_from_bytes'),
    ],
    [
      'a walk through attributes',
      'torch.serialization.os.system',
      op(text('torch.serialization'), text('os.system'), 0x93),
    ],
    [
      'a place deep inside optimizer state',
      'builtins.getattr',
      dict({ optimizer: list(global('builtins', 'getattr')) }),
    ],
  ])('%s', async (_, name, piece) => {
    const root = dict({ state_dict: orderedDict(normLayer('bn.')), extra: piece });
    for (const bytes of [zipCheckpoint(root), legacyCheckpoint(root), pickle(piece)]) {
      const failure = await failureOf(() => open(bytes));
      expect(failure.code).toBe('refused');
      expect(failure.message).toBe(
        `refused: the pickle names "${name}", which would run when the file is loaded`,
      );
      expect(failure.offset).toBeTypeOf('number');
    }
  });

  test('a call of what another call returned is refused without a name', async () => {
    const made = reduce(global('harmless', 'factory'), tuple());
    expect((await failureOf(() => open(pickle(reduce(made, tuple(COMMAND)))))).message).toContain(
      'calls what another call returned',
    );
  });

  test('an extension code is refused', async () => {
    expect((await failureOf(() => open(pickle(op(0x82, 1))))).message).toContain('EXT opcode');
  });

  test('a persistent id that is text is refused', async () => {
    const failure = await failureOf(() => open(zipCheckpoint(op('Pos.system\n'))));
    expect(failure.message).toContain('expected a persistent id of torch.save');
  });
});

describe('names that training scripts pickle are not dangerous', () => {
  test.each([
    ['argparse', 'Namespace'],
    ['collections', 'OrderedDict'],
    ['functools', 'partial'],
    ['pathlib', 'PosixPath'],
    ['pathlib._local', 'PosixPath'],
    ['numpy.core.multiarray', 'scalar'],
    ['numpy', 'dtype'],
    ['_codecs', 'encode'],
    ['torch._utils', '_rebuild_tensor_v2'],
    ['torch.serialization', '_get_layout'],
    ['torch.nn.modules.batchnorm', 'BatchNorm2d'],
    ['__main__', 'Net'],
    ['models.code', 'CodeNet'],
    ['models', 'Outer.Inner'],
    ['omegaconf.dictconfig', 'DictConfig'],
  ])('%s.%s', (module, name) => {
    expect(isDangerous(module, name)).toBe(false);
  });

  test('an unknown class beside a state dict stays opaque data', async () => {
    const namespace = op(global('argparse', 'Namespace'), ')', 0x81, dict({ lr: none }), 'b');
    const checkpoint = await open(
      zipCheckpoint(dict({ args: namespace, state_dict: orderedDict(normLayer('bn.')) })),
    );
    expect(checkpoint.tensors.size).toBe(4);
  });
});

const CORPUS = resolve(import.meta.dirname, '../../../../shared/corpus/malicious-pickle');

/** What a reader that runs something would have to use; each entry point of node that does. */
const REACHING_OUT =
  /\b(child_process|worker_threads|node:vm|node:net|node:http|node:dns|eval\(|new Function|import\()/;

describe('nothing that a pickle names is run, imported or opened', () => {
  test('the reader has no means to: it uses neither processes, nor network, nor evaluation, nor files', () => {
    const directory = resolve(import.meta.dirname, '../../../src/checkpoint/torch');
    for (const file of readdirSync(directory)) {
      const code = readFileSync(join(directory, file), 'utf8').replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, '');
      const imports = code.match(/from '[^']+'/g) ?? [];
      expect(imports.filter((line) => line.includes('node:'))).toEqual([]);
      expect(code.replace(/'[^'\n]*'/g, "''")).not.toMatch(REACHING_OUT);
    }
  });

  test('commands in a pickle leave no trace', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'bn-audit-pickle-'));
    const target = join(directory, 'PWNED');
    const command = reduce(global('os', 'system'), tuple(text(`touch ${target}`)));
    await failureOf(() => open(zipCheckpoint(command)));
    await failureOf(() => open(pickle(command)));
    expect(existsSync(target)).toBe(false);
    execFileSync('rmdir', [directory]);
  });

  test.skipIf(!existsSync(CORPUS))(
    'every malicious pickle of ../shared/corpus is read or refused',
    async () => {
      const files = readdirSync(CORPUS, { recursive: true, withFileTypes: true }).filter((entry) =>
        entry.isFile(),
      );
      expect(files.length).toBeGreaterThan(40);
      let refused = 0;
      for (const file of files) {
        const bytes = Uint8Array.from(readFileSync(join(file.parentPath, file.name)));
        const error = await open(bytes).catch((reason: unknown) => reason);
        expect(error).toBeInstanceOf(CheckpointError);
        if (error instanceof CheckpointError && error.code === 'refused') refused++;
      }
      expect(refused).toBeGreaterThan(40);
    },
  );
});
