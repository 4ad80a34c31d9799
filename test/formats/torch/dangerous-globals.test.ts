import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { CheckpointError } from '../../../src/errors.js';
import { isDangerous } from '../../../src/formats/torch/dangerous-globals.js';
import { readPickle } from '../../../src/formats/torch/pickle.js';
import { isNode, type PickleValue } from '../../../src/formats/torch/pickle-values.js';
import { holdBytes } from '../../../src/io/byte-source.js';
import { failureOf } from '../../build/failure.js';
import {
  dict,
  global,
  int,
  list,
  none,
  op,
  orderedDict,
  type Piece,
  pickle,
  reduce,
  text,
  tuple,
} from './build/pickle-writer.js';
import { legacyCheckpoint, normLayer, open, zipCheckpoint } from './build/torch-files.js';

const READ_OPTIONS = { subject: 'the pickle', resolvePersistentId: (id: PickleValue) => id };

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

const getattr = global('__builtin__', 'getattr');

/** `getattr(object, 'name')`, as Python writes it under protocol 2. */
const attribute = (object: Piece, name: string, callee = getattr) =>
  reduce(callee, tuple(object, text(name)));

const stackGlobal = (module: string, name: string) => op(text(module), text(name), 0x93);

describe('getattr of a named class is read as the name that it comes to', () => {
  const history = global('mmengine.logging.history_buffer', 'HistoryBuffer');
  test.each<[string, Piece, string]>([
    ['a method, as mmengine keeps it', attribute(history, 'mean'), 'HistoryBuffer.mean'],
    ['protocol 3', attribute(history, 'mean', global('builtins', 'getattr')), 'HistoryBuffer.mean'],
    ['protocol 4', attribute(history, 'mean', stackGlobal('builtins', 'getattr')), 'HistoryBuffer.mean'],
    [
      'getattr and class from the memo',
      op(
        ...[getattr, 'q', 2, history, 'q', 1, text('min'), 0x86, 'R', '0'],
        ...['h', 2, 'h', 1, text('max'), 0x86, 'R'],
      ),
      'HistoryBuffer.max',
    ],
    ['a class in a class', attribute(attribute(global('m', 'Outer'), 'Inner'), 'Mode'), 'Outer.Inner.Mode'],
    ['a member of an enum', attribute(global('m', 'Mode'), 'eval'), 'Mode.eval'],
    ['a function of torch', attribute(global('torch._C', '_VariableFunctionsClass'), 'sigmoid'), 'sigmoid'],
    ['a method of an array', attribute(global('numpy', 'ndarray'), 'mean'), 'ndarray.mean'],
    ['a method of a string', attribute(global('__builtin__', 'unicode'), 'lower'), 'unicode.lower'],
    ['a name that takes no capitals', attribute(global('m', '模型'), '平均'), '模型.平均'],
  ])('%s', async (_, piece, name) => {
    const found = (await readPickle(holdBytes(pickle(piece)), READ_OPTIONS)).value;
    expect(isNode(found, 'global') && found.qualifiedName.endsWith(name)).toBe(true);
    const root = dict({ state_dict: orderedDict(normLayer('bn.')), message_hub: list(piece) });
    for (const bytes of [zipCheckpoint(root), legacyCheckpoint(root)]) {
      expect((await open(bytes)).tensors.size).toBe(4);
    }
  });

  test('what it comes to may be called: an enum by its value', async () => {
    const member = reduce(attribute(global('project.config', 'History'), 'Mode'), tuple(int(1)));
    const { value } = await readPickle(holdBytes(pickle(member)), READ_OPTIONS);
    expect(value).toMatchObject({
      kind: 'object',
      callee: { module: 'project.config', name: 'History.Mode' },
    });
  });
});

describe('getattr of anything else is refused', () => {
  const named = 'names "__builtin__.getattr"';
  const twice = (piece: Piece) => op(piece, 'q', 9, '0', 'h', 9);
  test.each<[error: string, way: string, piece: Piece]>([
    ['names "torch.os.system"', 'a dotted name', stackGlobal('torch', 'os.system')],
    [
      'names "torch.os.system"',
      'a module that a module imported',
      attribute(global('torch', 'os'), 'system'),
    ],
    ['names "random._os.system"', 'under another name', attribute(global('random', '_os'), 'system')],
    ['names "random._os.system"', 'the same as a dotted name', stackGlobal('random', '_os.system')],
    ['names "torch.hub.load"', 'a submodule', attribute(global('torch', 'hub'), 'load')],
    ['takes "load" from "torch.np"', 'a short name', attribute(global('torch', 'np'), 'load')],
    ['takes "load" from "torch.np"', 'a short name in a dotted one', stackGlobal('torch', 'np.load')],
    ['takes "open" from "torch.PIL"', 'a module with a capital', attribute(global('torch', 'PIL'), 'open')],
    ['takes "conv2d" from "m.F"', 'a usual short name', attribute(global('m', 'F'), 'conv2d')],
    ['takes "run" from "m.helpers"', 'what may be a module', attribute(global('m', 'helpers'), 'run')],
    [
      'takes "run" from "m.Net.tool"',
      'within a class',
      attribute(attribute(global('m', 'Net'), 'tool'), 'run'),
    ],
    ['names "m.Net.os"', 'chained through a class', attribute(attribute(global('m', 'Net'), 'os'), 'system')],
    [
      'takes "eval" from "m.builtins"',
      'builtins where they were imported',
      attribute(global('m', 'builtins'), 'eval'),
    ],
    ['names "builtins.eval"', 'a builtin', attribute(global('builtins', 'eval'), 'x')],
    ['names "m.Net.__init__"', 'a name of the language', attribute(global('m', 'Net'), '__init__')],
    ['names "m.Net.__class__"', 'chained', attribute(attribute(global('m', 'Net'), '__class__'), 'mro')],
    ['names "m.__loader__.load"', 'of an object', attribute(global('m', '__loader__'), 'load')],
    ['names "m.Net._x_"', 'with single underscores', attribute(global('m', 'Net'), '_x_')],
    ['names "os.Class"', 'a dangerous module', attribute(global('os', 'Class'), 'x')],
    ['names "pathlib.Path.unlink"', 'a dangerous method', attribute(global('pathlib', 'Path'), 'unlink')],
    ['names "m.Path.unlink"', 'a class imported elsewhere', attribute(global('m', 'Path'), 'unlink')],
    ['names "numpy.ndarray.tofile"', 'a file', attribute(global('numpy', 'ndarray'), 'tofile')],
    [
      'names "torch._C._VariableFunctionsClass.from_file"',
      'a file by torch',
      attribute(global('torch._C', '_VariableFunctionsClass'), 'from_file'),
    ],
    [
      'takes an attribute of what another call returned',
      "a call's result",
      attribute(reduce(global('m', 'make'), tuple()), 'run'),
    ],
    [
      'takes an attribute of what another call returned',
      'an instance from the memo',
      attribute(twice(op(global('m', 'Net'), ')', 0x81)), 'run'),
    ],
    ['calls getattr, with something else', 'a string', attribute(text('{0}'), 'format')],
    ['calls getattr, with something else', 'a name with dots', attribute(global('m', 'Net'), 'os.system')],
    ['calls getattr, with something else', 'no name', attribute(global('m', 'Net'), '')],
    [
      'calls getattr, with something else',
      'bytes',
      reduce(getattr, tuple(global('m', 'Net'), op('C', 1, 'x'))),
    ],
    [
      'calls getattr, with something else',
      'a made name',
      reduce(getattr, tuple(global('m', 'Net'), reduce(global('m', 'name'), tuple()))),
    ],
    ['calls getattr, with something else', 'one argument', reduce(getattr, tuple(global('m', 'Net')))],
    [
      'calls getattr, with something else',
      'a default',
      reduce(getattr, tuple(global('m', 'Net'), text('x'), global('m', 'Evil'))),
    ],
    [named, 'uncalled', getattr],
    [named, 'uncalled, from the memo', twice(getattr)],
    [named, 'thrown away', op(getattr, '0', none)],
    [named, 'thrown away with its MARK', op('(', getattr, '1', none)],
    [named, 'handed to partial', reduce(global('functools', 'partial'), tuple(getattr, global('m', 'Net')))],
    [named, 'got from itself', attribute(getattr, 'x')],
    [named, 'as a key', op('}', getattr, none, 's')],
    [named, 'as a state', op(global('m', 'Net'), ')', 0x81, getattr, 'b')],
    [named, 'by TUPLE1', op(getattr, 0x85)],
    [named, 'by APPEND', op(']', getattr, 'a')],
    [named, 'by OBJ', op('(', getattr, global('m', 'Net'), text('x'), 'o')],
    [named, 'by INST', op('(', global('m', 'Net'), text('x'), 'i__builtin__\ngetattr\n')],
    [named, 'by NEWOBJ', op(getattr, tuple(global('m', 'Net'), text('x')), 0x81)],
    [named, 'by NEWOBJ_EX', op(getattr, tuple(global('m', 'Net'), text('x')), '}', 0x92)],
    [named, 'as a persistent id', op(getattr, 'Q')],
    ['names "six.moves.builtins.getattr"', 'by another road', global('six.moves.builtins', 'getattr')],
    ['takes "getattr" from "m.builtins"', 'by a walk', stackGlobal('m', 'builtins.getattr')],
  ])('%s: %s', async (error, _, piece) => {
    const root = dict({ state_dict: orderedDict(normLayer('bn.')), extra: piece });
    for (const bytes of [zipCheckpoint(root), legacyCheckpoint(root), pickle(piece)]) {
      const failure = await failureOf(() => open(bytes));
      expect(failure.message).toContain(`refused: the pickle ${error}`);
      expect(failure.code).toBe('refused');
      expect(failure.offset).toBeTypeOf('number');
    }
  });

  test('one that a sound file may hold too says how to save it otherwise', async () => {
    const method = attribute(reduce(global('project', 'Schedule'), tuple()), 'warm_up');
    for (const piece of [method, attribute(global('project', 'config'), 'Mode')]) {
      expect((await failureOf(() => open(pickle(piece)))).hint).toContain('torch.save(model.state_dict()');
    }
  });

  test('a class whose attributes the pickle changes is refused', async () => {
    const piece = op(global('m', 'Net'), tuple(none, dict({ forward: global('m', 'run') })), 'b');
    expect((await failureOf(() => open(pickle(piece)))).message).toContain('sets attributes of "m.Net"');
  });

  test('names without end stop at a limit', async () => {
    let long = global('m', 'A');
    for (let link = 0; link < 20; link++) long = attribute(long, 'A'.repeat(100));
    expect((await failureOf(() => open(pickle(long)))).message).toContain('512 characters in a name');
    const nested = stackGlobal('m', 'A.'.repeat(20));
    expect((await failureOf(() => open(pickle(nested)))).message).toContain('16 nested names');
    const many = Array.from({ length: 2 ** 16 + 1 }, (_, index) => op(global('m', `A${index}`), '0'));
    expect((await failureOf(() => open(pickle(op(...many, none))))).message).toContain(
      '65536 different names',
    );
  });
});

test.each([
  ['pathlib', 'attrgetter'],
  ['mpmath.libmp.backend', 'exec_'],
  ['sympy.printing.preview', 'check_output'],
  ['torch._dynamo.variables', 'GetAttrBuiltinVariable._fn'],
  ['typing', 'ForwardRef._evaluate'],
  ['itertools', 'filterfalse'],
  ['StringIO', 'open'],
  ['__builtin__', 'reduce'],
  ['cloudpickle.cloudpickle', '_builtin_type'],
  ['torch.serialization', 'load'],
])('%s.%s, which reaches a dangerous callable by another name, is refused', (module, name) => {
  expect(isDangerous(module, name)).toBe(true);
});

describe('the list, held against one that was written down before it was put into words', () => {
  /** One a line: `os.*` is a module, `*.Popen` whatever has that name, `torch.hub.*` and `torch.load` are names. */
  const patterns = readFileSync(join(import.meta.dirname, 'build/dangerous-names.txt'), 'utf8')
    .trim()
    .split('\n');
  /** Whether a name fits a pattern, whose pieces between stars must follow each other. */
  const fits = (name: string, pattern: string): boolean => {
    const [start = '', ...pieces] = pattern.split('*');
    const end = pieces.pop();
    if (end === undefined) return name === pattern;
    let at = start.length;
    for (const piece of pieces) {
      const found = name.indexOf(piece, at);
      if (found < 0) return false;
      at = found + piece.length;
    }
    return name.startsWith(start) && name.endsWith(end) && at + end.length <= name.length;
  };
  const isListed = (name: string) => patterns.some((pattern) => fits(name, pattern));
  const split = (full: string): [module: string, name: string] => {
    const dot = full.lastIndexOf('.');
    return [full.slice(0, dot), full.slice(dot + 1)];
  };

  test('every name on it is refused', () => {
    expect(patterns.length).toBe(288);
    const filled = patterns.flatMap((pattern) => ['', 'x', 'x.y'].map((by) => pattern.replaceAll('*', by)));
    expect(filled.filter((name) => !isDangerous(...split(name)))).toEqual([]);
  });

  test('what differs by a letter is refused only where it is on it too', () => {
    const offences: string[] = [];
    for (const pattern of patterns) {
      const name = pattern.replaceAll('*', 'x');
      const near = [`${name}q`, `q${name}`, `${name}.q`, `q.${name}`, name.toUpperCase()];
      for (let at = 0; at < name.length; at++)
        near.push(name.slice(0, at) + name.slice(at + 1), `${name.slice(0, at)}q${name.slice(at + 1)}`);
      const named = near.filter((other) => other.includes('.'));
      offences.push(...named.filter((other) => isDangerous(...split(other)) !== isListed(other)));
    }
    expect(offences).toEqual([]);
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
    ['torch._dynamo.eval_frame', 'OptimizedModule'],
    ['typing', 'Any'],
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
    const directory = resolve(import.meta.dirname, '../../../src/formats/torch');
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
