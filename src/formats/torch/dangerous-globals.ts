// Names that a pickle imports only to do harm, e.g. `os.system`.

// No checkpoint needs these names; they run code, read or write files, or reach the network when a pickle that names
// them is loaded. Gathered from the pickle scanners picklescan, fickling and modelscan, whose bypass reports (GHSA-…)
// account for the odder ones. The lists protect nobody by themselves: this program never imports or calls anything.
// They are there so that a file which would attack the next person to load it is refused by name instead of being
// audited as if it were sound.

/** Modules of which every name is refused, submodules included. */
const DANGEROUS_MODULES = listWords(`
  # Processes, the interpreter, the operating system
  os posix nt subprocess sys pty commands popen2 multiprocessing asyncio concurrent faulthandler gc atexit
  _aix_support _osx_support _posixsubprocess _winapi winreg _winreg venv ensurepip pip setuptools distutils
  pkg_resources pexpect _pyrepl tkinter _tkinter Tkinter
  # Code from text, from files, or from other pickles
  _frozen_importlib _frozen_importlib_external _imp py_compile compileall anydbm dbhash dumbdbm gdbm whichdb
  runpy importlib imp zipimport pkgutil codeop marshal pickle _pickle cPickle shelve dbm jsonpickle bdb pdb
  cProfile timeit doctest pydoc idlelib lib2to3 unittest ctypes _ctypes cffi numba rlcompleter cgitb
  # Files
  shutil tempfile fileinput linecache glob zipfile tarfile mmap sqlite3 _sqlite3
  # The network
  BaseHTTPServer SimpleHTTPServer CGIHTTPServer SimpleXMLRPCServer DocXMLRPCServer socket _socket socketserver
  SocketServer ssl _ssl http httplib httplib2 urllib urllib2 urllib3 requests aiohttp httpx ftplib smtplib smtpd
  poplib imaplib nntplib telnetlib xmlrpc xmlrpclib webbrowser antigravity paramiko wsgiref cgi
`);

/** Single names: a module and names of it; a * stands for anything. */
const DANGEROUS_NAMES = toRegExp(`
  # Whatever module they are taken from, such as pathlib.attrgetter
  * attrgetter methodcaller exec_ check_output check_call Popen popen import_module ModuleType CodeType
  * FunctionType Unpickler _unpickler from_pretrained load_from_checkpoint
  builtins eval exec execfile compile open file input raw_input breakpoint reload apply __import__ getattr setattr
  builtins delattr globals locals vars map filter reduce exit quit
  # What calls what it is given, builds code objects, or evaluates text
  functools reduce
  _functools reduce
  itertools starmap imap ifilter* filterfalse dropwhile takewhile accumulate
  code Interactive* interact* compile_command
  profile run* Profile*
  trace Trace*
  ast PyCF*
  inspect *
  typing ForwardRef* _eval_type get_type_hints
  dataclasses _create_fn
  sympy sympify parsing.*
  threading Thread
  _thread start_new*
  thread start_new*
  signal raise_signal alarm pthread_kill
  # What reads and writes files, starts processes, or holds modules that do
  test support.* test_support.*
  platform popen* _syscmd*
  uuid _*
  ntpath *
  posixpath *
  site *
  io open* FileIO
  _io open* FileIO
  _pyio *
  StringIO open*
  cStringIO open*
  codecs open
  pathlib *Path.*
  logging config.* handlers.* FileHandler*
  six moves.*
  nltk *
  IPython *
  # PyTorch: whatever loads or runs something else, or holds builtins
  torch load save serialization.load serialization.save *from_file *getattr_from_fqn storage._load_from_bytes
  torch hub.* package.* multiprocessing.* testing._internal.* onnx.*load* export.load* _export.serde.*
  torch _C.PyTorchFile* _C.import_ir* _C._import_ir* ops.load_library _ops.*load_library*
  torch classes.load_library _classes.*load_library*
  torch jit.load* jit._serialization.* jit.unsupported_tensor_ops.* fx.experimental.symbolic_shapes.ShapeEnv.*
  torch _dynamo.variables* _dynamo.trace_rules.* _dynamo.symbolic_convert.* _dynamo.guards.GuardBuilder*
  torch _inductor.codecache.* distributed.run.* distributed.rpc.* distributed.launch*
  torch utils.cpp_extension.* utils.model_zoo.* utils.bottleneck.* utils.collect_env.* utils._config_module.*
  torch utils.data.datapipes.utils.decoder.*
  # Other packages that load pickles, read files or evaluate text
  numpy *.tofile *.dump testing.* load* fromfile memmap save* f2py.* distutils.* lib.npyio.* lib._npyio_impl.*
  numpy genfromtxt
  pandas read_* io.* eval core.computation.*
  joblib *load* numpy_pickle*
  yaml load* unsafe_load* full_load*
  dill load* _dill.load* _dill._import_module _dill._eval_repr _dill._locate_function _dill._get_attr
  cloudpickle load* cloudpickle.load* cloudpickle.subimport cloudpickle._builtin_type cloudpickle._make_*
  cloudpickle cloudpickle._function_setstate
  keras *load_model
  tensorflow *load* io.*
  safetensors *load*
`);

/** Classes of files: none of their attributes is harmless, wherever the class was imported. */
const FILE_CLASSES = listWords('Path PosixPath WindowsPath');

/** Lower-case names of classes whose attributes real files keep: `numpy.ndarray.mean`, `datetime.datetime.now`. */
const LOWER_CASE_CLASSES = toRegExp(`
  builtins bool bytearray bytes complex dict float frozenset int list long range set slice str tuple unicode
  numpy bool bool_ complex64 complex128 float16 float32 float64 generic int8 int16 int32 int64 ndarray
  numpy uint8 uint16 uint32 uint64
  datetime date datetime time timedelta timezone
  collections defaultdict deque
  itertools chain
`);

/** Modules, and usual short names of modules, that are written as classes are. */
const CAPITALISED_MODULES = listWords(
  'Crypto Cryptodome Cython IPython MySQLdb OpenGL OpenSSL PIL Xlib F K T TF TVF',
);

/**
 * Whether loading a pickle that names `module` and `name` could run code, touch files or reach the network.
 *
 * @param name may have dots: it then walks through attributes, as `getattr` does.
 */
export function isDangerous(module: string, name: string): boolean {
  const full = `${homeOf(module)}.${name}`;
  if (DANGEROUS_MODULES.has(full.split('.', 1)[0] ?? '') || DANGEROUS_NAMES.test(full)) return true;
  const attributes = name.split('.');
  if (attributes.length === 1) return false;
  return (
    // Modules are attributes of whoever imported them: `torch.serialization` + `os.system` is os.system, and many
    // import them under a name of their own (`random._os`).
    attributes.some(
      (known) => DANGEROUS_MODULES.has(known) || DANGEROUS_MODULES.has(known.replace(/^_+/, '')),
    ) ||
    // These lead from any class to any module: `Net.__init__.__globals__`.
    attributes.some((attribute) => attribute.startsWith('_') && attribute.endsWith('_')) ||
    attributes.slice(0, -1).some((attribute) => FILE_CLASSES.has(attribute))
  );
}

/**
 * The first part of a dotted `name` that may be a module, with `module` in front: `torch.serialization.np` of
 * `torch.serialization` + `np.load`; null where there is none. A module hands out whatever it imported, under names
 * that no list can know. What picklers walk through are classes, whose names begin with a capital by the convention
 * of the language (PEP 8), where those of modules do not; the few others that real files hold are listed.
 */
export function findModuleWithin(module: string, name: string): string | null {
  let [path, known] = [module, homeOf(module)];
  for (const attribute of name.split('.').slice(0, -1)) {
    path += `.${attribute}`;
    known += `.${attribute}`;
    const looksLikeClass = /^_*[\p{Lu}\p{Lt}\p{Lo}]/u.test(attribute) && !CAPITALISED_MODULES.has(attribute);
    if (!looksLikeClass && !LOWER_CASE_CLASSES.test(known)) return path;
  }
  return null;
}

/** `__builtin__` of Python 2 is taken for `builtins`. */
function homeOf(module: string): string {
  return module === '__builtin__' ? 'builtins' : module;
}

function listWords(list: string): ReadonlySet<string> {
  return new Set(list.replace(/#.*/g, '').trim().split(/\s+/));
}

/** What full names match that a list gives, line by line, as a module and names of it. */
function toRegExp(list: string): RegExp {
  const lines = list
    .replace(/#.*/g, '')
    .split('\n')
    .map((line) => line.trim().split(/\s+/));
  const patterns = lines.flatMap(([module, ...names]) => names.map((name) => `${module}.${name}`));
  const source = patterns.join('|').replaceAll('.', '\\.').replaceAll('*', '.*');
  return new RegExp(`^(?:${source})$`, 's');
}
