// Composes guards: Python files that check, while a model trains, that its frozen part stands still.

import { quote, UsageError } from '../errors.js';
import { type GuardMode, suggestName } from '../options.js';
import core from './guards/core.py?bundle';
import keras from './guards/keras.py?bundle';
import lightning from './guards/lightning.py?bundle';
import mmengine from './guards/mmengine.py?bundle';
import pytest from './guards/pytest.py?bundle';
import pytorch from './guards/pytorch.py?bundle';
import transformers from './guards/transformers.py?bundle';
import ultralytics from './guards/ultralytics.py?bundle';

/** What each framework's guard has of its own; what imports from `core` needs that in the file too. */
const PARTS: ReadonlyMap<string, string> = new Map(
  Object.entries({ pytorch, lightning, transformers, mmengine, ultralytics, keras, pytest }),
);

/** What there are guards for. */
export const GUARD_FRAMEWORKS: readonly string[] = [...PARTS.keys()];

/** A guard, and the name that its file has unless another is given. */
interface GuardFile {
  readonly name: string;
  readonly text: string;
}

/**
 * The guard for a framework, as one Python file.
 *
 * @throws UsageError for a framework that there is no guard for.
 */
export function composeGuard(framework: string, mode: GuardMode): GuardFile {
  const part = PARTS.get(framework);
  if (part === undefined)
    throw new UsageError(
      `--guard ${quote(framework)}: no such framework${suggestName(framework, GUARD_FRAMEWORKS)}`,
      `There are guards for ${GUARD_FRAMEWORKS.join(', ')}.`,
    );
  const text = SHARING.test(part) ? mergePython(core, part) : part;
  return {
    // pytest finds tests by the names of their files.
    name: framework === 'pytest' ? 'test_frozen_norms.py' : 'bn_guard.py',
    text: text.replace(
      'MODE = "raise"  # or "warn"',
      mode === 'raise' ? '$&' : 'MODE = "warn"  # or "raise"',
    ),
  };
}

/** The line by which a part says that it needs what the frameworks share. */
const SHARING = /^from core import .*\n/m;

/** One file of two, with the docstring of the second: its imports, sorted, and then the code of both. */
function mergePython(shared: string, part: string): string {
  const [, , sharedImports = '', sharedBody = ''] = SECTIONS.exec(shared) ?? [];
  const [, docstring = '', partImports = '', partBody = ''] = SECTIONS.exec(part.replace(SHARING, '')) ?? [];
  const imports = mergeImports(`${sharedImports}${partImports}`);
  return `${docstring}${imports}\n${sharedBody}\n\n${partBody}`;
}

/** A Python file: its docstring, its imports, the rest. */
const SECTIONS = /^("""[\s\S]*?"""\n)((?:(?:import|from) .*\n|\n)*)([\s\S]*)$/;

const STANDARD_LIBRARY = /^(?:import|from) (?:collections|contextlib|typing|warnings)\b/;

/** Imports as tools for Python sort them: the standard library's first, and a line for each module. */
function mergeImports(lines: string): string {
  const modules = new Map<string, Set<string>>();
  for (const [, start = '', names] of lines.matchAll(/^((?:import|from) \S+)(?: import (.*))?$/gm))
    modules.set(start, new Set([...(modules.get(start) ?? []), ...(names?.split(', ') ?? [])]));
  const sorted = [...modules]
    .map(([start, names]) => (names.size === 0 ? start : `${start} import ${[...names].sort().join(', ')}`))
    .sort((x, y) => Number(y.startsWith('import')) - Number(x.startsWith('import')) || (x < y ? -1 : 1));
  const list = (isStandard: boolean) => sorted.filter((line) => STANDARD_LIBRARY.test(line) === isStandard);
  return [...list(true), '', ...list(false), ''].join('\n');
}
