// Names that a pickle imports only to do harm, e.g. `os.system`.

/**
 * Names that no checkpoint needs and that run code, read or write files, or reach the network when a pickle that
 * names them is loaded. Gathered from the pickle scanners picklescan, fickling and modelscan, whose bypass reports
 * (GHSA-…) account for the odder ones.
 *
 * The list protects nobody by itself: this program never imports or calls anything. It is there so that a file which
 * would attack the next person to load it is refused by name instead of being audited as if it were sound.
 */

/** Modules of which every name is refused, submodules included. */
const DANGEROUS_MODULES = new Set([
  // Processes, the interpreter, the operating system.
  ...['os', 'posix', 'nt', 'subprocess', 'sys', 'pty', 'commands', 'popen2', 'multiprocessing', 'asyncio'],
  ...['concurrent', 'faulthandler', 'gc', 'atexit', '_aix_support'],
  ...[
    '_osx_support',
    '_posixsubprocess',
    '_winapi',
    'winreg',
    '_winreg',
    'venv',
    'ensurepip',
    'pip',
    'setuptools',
  ],
  ...['distutils', 'pkg_resources', 'pexpect', '_pyrepl', 'tkinter', '_tkinter', 'Tkinter'],
  // Code from text, from files, or from other pickles.
  ...['_frozen_importlib', '_frozen_importlib_external', '_imp', 'py_compile', 'compileall'],
  ...['anydbm', 'dbhash', 'dumbdbm', 'gdbm', 'whichdb'],
  ...[
    'runpy',
    'importlib',
    'imp',
    'zipimport',
    'pkgutil',
    'codeop',
    'marshal',
    'pickle',
    '_pickle',
    'cPickle',
  ],
  ...[
    'shelve',
    'dbm',
    'jsonpickle',
    'bdb',
    'pdb',
    'cProfile',
    'timeit',
    'doctest',
    'pydoc',
    'idlelib',
    'lib2to3',
  ],
  ...['unittest', 'ctypes', '_ctypes', 'cffi', 'numba', 'rlcompleter', 'cgitb'],
  // Files.
  ...[
    'shutil',
    'tempfile',
    'fileinput',
    'linecache',
    'glob',
    'zipfile',
    'tarfile',
    'mmap',
    'sqlite3',
    '_sqlite3',
  ],
  // The network.
  ...['BaseHTTPServer', 'SimpleHTTPServer', 'CGIHTTPServer', 'SimpleXMLRPCServer', 'DocXMLRPCServer'],
  ...[
    'socket',
    '_socket',
    'socketserver',
    'SocketServer',
    'ssl',
    '_ssl',
    'http',
    'httplib',
    'httplib2',
    'urllib',
  ],
  ...[
    'urllib2',
    'urllib3',
    'requests',
    'aiohttp',
    'httpx',
    'ftplib',
    'smtplib',
    'smtpd',
    'poplib',
    'imaplib',
  ],
  ...[
    'nntplib',
    'telnetlib',
    'xmlrpc',
    'xmlrpclib',
    'webbrowser',
    'antigravity',
    'paramiko',
    'wsgiref',
    'cgi',
  ],
]);

const DANGEROUS_BUILTINS: readonly string[] = [
  ...[
    'eval',
    'exec',
    'execfile',
    'compile',
    'open',
    'file',
    'input',
    'raw_input',
    'breakpoint',
    'reload',
    'apply',
  ],
  ...[
    '__import__',
    'getattr',
    'setattr',
    'delattr',
    'globals',
    'locals',
    'vars',
    'map',
    'filter',
    'reduce',
    'exit',
    'quit',
  ],
].map((name) => `builtins.${name}`);

/** Single names, written `module.name`; a `*` stands for anything. */
const DANGEROUS_PATTERNS: readonly string[] = [
  ...DANGEROUS_BUILTINS,
  // Gadgets of the standard library that call what they are given, or build code objects.
  ...['operator.attrgetter', 'operator.methodcaller', '_operator.attrgetter', '_operator.methodcaller'],
  ...[
    'functools.reduce',
    '_functools.reduce',
    'itertools.starmap',
    'itertools.imap',
    'itertools.ifilter*',
    'itertools.filterfalse',
    'itertools.dropwhile',
    'itertools.takewhile',
    'itertools.accumulate',
    'types.CodeType',
    'types.FunctionType',
  ],
  ...['code.Interactive*', 'code.interact*', 'code.compile_command', 'profile.run*', 'profile.Profile*'],
  ...[
    'test.support.*',
    'test.test_support.*',
    'platform.popen*',
    'platform._syscmd*',
    'uuid._*',
    'ntpath.*',
    'posixpath.*',
    'inspect.*',
  ],
  ...[
    'io.open*',
    'StringIO.open*',
    'cStringIO.open*',
    'io.FileIO',
    '_io.open*',
    '_io.FileIO',
    '_pyio.*',
    'codecs.open',
    'pathlib.*Path.*',
  ],
  ...['signal.raise_signal', 'signal.alarm', 'signal.pthread_kill', 'trace.Trace*'],
  ...[
    'logging.config.*',
    'logging.handlers.*',
    'logging.FileHandler*',
    'threading.Thread',
    '_thread.start_new*',
  ],
  ...[
    'thread.start_new*',
    'yaml.load*',
    'yaml.unsafe_load*',
    'yaml.full_load*',
    'ast.PyCF*',
    'types.ModuleType',
  ],
  // What evaluates text that it is given.
  ...['typing.ForwardRef*', 'typing._eval_type', 'typing.get_type_hints', 'dataclasses._create_fn', 'site.*'],
  // PyTorch: whatever loads or runs something else, or holds builtins.
  ...['torch._dynamo.variables*', 'torch._dynamo.trace_rules.*', 'torch._dynamo.symbolic_convert.*'],
  ...['torch.*getattr_from_fqn'],
  ...['torch.load', 'torch.save', 'torch.serialization.load', 'torch.serialization.save', 'torch.*from_file'],
  ...[
    'torch._C.PyTorchFile*',
    'torch._C.import_ir*',
    'torch._C._import_ir*',
    'torch.storage._load_from_bytes',
    'torch.hub.*',
  ],
  ...[
    'torch.jit.load*',
    'torch.jit._serialization.*',
    'torch.jit.unsupported_tensor_ops.*',
    'torch.ops.load_library',
  ],
  ...[
    'torch._ops.*load_library*',
    'torch.classes.load_library',
    'torch._classes.*load_library*',
    'torch.package.*',
  ],
  ...[
    'torch.utils.cpp_extension.*',
    'torch.utils.model_zoo.*',
    'torch.utils.bottleneck.*',
    'torch.utils.collect_env.*',
  ],
  ...[
    'torch.utils._config_module.*',
    'torch.utils.data.datapipes.utils.decoder.*',
    'torch._inductor.codecache.*',
  ],
  ...['torch._dynamo.guards.GuardBuilder*', 'torch.fx.experimental.symbolic_shapes.ShapeEnv.*'],
  ...['torch.multiprocessing.*'],
  ...[
    'torch.distributed.run.*',
    'torch.distributed.rpc.*',
    'torch.distributed.launch*',
    'torch.export.load*',
  ],
  ...['torch._export.serde.*', 'torch.testing._internal.*', 'torch.onnx.*load*'],
  // Other packages that load pickles, read files or evaluate text.
  ...['numpy.*.tofile', 'numpy.*.dump', 'six.moves.*'],
  ...['numpy.testing.*', 'numpy.load*', 'numpy.fromfile', 'numpy.memmap', 'numpy.save*', 'numpy.f2py.*'],
  ...[
    'numpy.distutils.*',
    'numpy.lib.npyio.*',
    'numpy.lib._npyio_impl.*',
    'numpy.genfromtxt',
    'joblib.*load*',
  ],
  ...['joblib.numpy_pickle*', 'pandas.read_*', 'pandas.io.*', 'pandas.eval', 'pandas.core.computation.*'],
  ...[
    'dill.load*',
    'dill._dill.load*',
    'dill.Unpickler',
    'cloudpickle.load*',
    'cloudpickle.cloudpickle.load*',
    'cloudpickle.cloudpickle.subimport',
    'cloudpickle.cloudpickle._builtin_type',
    'cloudpickle.cloudpickle._make_*',
    'cloudpickle.cloudpickle._function_setstate',
  ],
  ...[
    'dill._dill._import_module',
    'dill._dill._eval_repr',
    'dill._dill._locate_function',
    'dill._dill._get_attr',
  ],
  ...[
    'keras.models.load_model',
    'keras.*load_model',
    'tensorflow.*load*',
    'tensorflow.io.*',
    'safetensors.*load*',
  ],
  ...['nltk.*', 'IPython.*', 'sympy.sympify', 'sympy.parsing.*'],
];

/** Names that are refused whatever module they are taken from, such as `pathlib.attrgetter`, or class, a Path's. */
const DANGEROUS_LEAVES = new Set([
  ...['attrgetter', 'methodcaller', 'exec_', 'check_output', 'check_call', 'Popen', 'popen', 'import_module'],
  ...['ModuleType', 'CodeType', 'FunctionType', 'Unpickler', '_unpickler'],
  ...['from_pretrained', 'load_from_checkpoint'],
]);
const FILE_CLASSES = new Set(['Path', 'PosixPath', 'WindowsPath']);

const EXACT_NAMES = new Set(DANGEROUS_PATTERNS.filter((pattern) => !pattern.includes('*')));
const WILDCARDS = toRegExp(DANGEROUS_PATTERNS.filter((pattern) => pattern.includes('*')));

/** Lower-case names of classes whose attributes real files keep: `numpy.ndarray.mean`, `datetime.datetime.now`. */
const LOWER_CASE_CLASSES = new Set([
  ...namesIn('builtins', 'bool bytearray bytes complex dict float frozenset int list long range set slice'),
  ...namesIn('builtins', 'str tuple unicode'),
  ...namesIn(
    'numpy',
    'bool bool_ complex64 complex128 float16 float32 float64 generic int8 int16 int32 int64',
  ),
  ...namesIn('numpy', 'ndarray uint8 uint16 uint32 uint64'),
  ...namesIn('datetime', 'date datetime time timedelta timezone'),
  ...['collections.defaultdict', 'collections.deque', 'itertools.chain'],
]);

/** Modules, and usual short names of modules, that are written as classes are. */
const CAPITALISED_MODULES = new Set([
  ...['Crypto', 'Cryptodome', 'Cython', 'IPython', 'MySQLdb', 'OpenGL', 'OpenSSL', 'PIL', 'Xlib'],
  ...['F', 'K', 'T', 'TF', 'TVF'],
]);

/**
 * Whether loading a pickle that names `module` and `name` could run code, touch files or reach the network.
 *
 * @param name may have dots: it then walks through attributes, as `getattr` does.
 */
export function isDangerous(module: string, name: string): boolean {
  const home = homeOf(module);
  if (DANGEROUS_MODULES.has(rootOf(home))) return true;
  // Modules are attributes of whoever imported them: `torch.serialization` + `os.system` is os.system, and many
  // import them under a name of their own (`random._os`).
  const attributes = name.split('.');
  if (attributes.length > 1 && attributes.some((attribute) => isDangerousModule(attribute))) return true;
  // These lead from any class to any module: `Net.__init__.__globals__`.
  if (attributes.length > 1 && attributes.some(isReserved)) return true;
  if (attributes.slice(0, -1).some((attribute) => FILE_CLASSES.has(attribute))) return true;
  if (DANGEROUS_LEAVES.has(attributes.at(-1) ?? '')) return true;
  const full = `${home}.${name}`;
  return EXACT_NAMES.has(full) || WILDCARDS.test(full);
}

/**
 * The first part of a dotted `name` that may be a module, with `module` in front: `torch.serialization.np` of
 * `torch.serialization` + `np.load`; null where there is none. A module hands out whatever it imported, under names
 * that no list can know. What picklers walk through are classes, whose names begin with a capital by the convention
 * of the language (PEP 8), where those of modules do not; the few others that real files hold are listed.
 */
export function findModuleWithin(module: string, name: string): string | null {
  const attributes = name.split('.');
  let path = module;
  let known = homeOf(module);
  for (const attribute of attributes.slice(0, -1)) {
    path = `${path}.${attribute}`;
    known = `${known}.${attribute}`;
    const looksLikeClass = /^_*[\p{Lu}\p{Lt}\p{Lo}]/u.test(attribute) && !CAPITALISED_MODULES.has(attribute);
    if (!looksLikeClass && !LOWER_CASE_CLASSES.has(known)) return path;
  }
  return null;
}

function isDangerousModule(attribute: string): boolean {
  return DANGEROUS_MODULES.has(attribute) || DANGEROUS_MODULES.has(attribute.replace(/^_+/, ''));
}

/** Names with underscores at both ends belong to the language. */
function isReserved(attribute: string): boolean {
  return attribute.startsWith('_') && attribute.endsWith('_');
}

/** `__builtin__` of Python 2 is taken for `builtins`. */
function homeOf(module: string): string {
  return module === '__builtin__' ? 'builtins' : module;
}

function namesIn(module: string, names: string): string[] {
  return names.split(' ').map((name) => `${module}.${name}`);
}

function rootOf(module: string): string {
  return module.split('.', 1)[0] ?? '';
}

function toRegExp(patterns: readonly string[]): RegExp {
  const source = patterns.join('|').replaceAll('.', '\\.').replaceAll('*', '.*');
  return new RegExp(`^(?:${source})$`, 's');
}
