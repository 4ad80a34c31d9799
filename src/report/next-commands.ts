// Which commands go on from an audit that found drift.

import { isLeadingDrift } from '../compare/findings.js';
import { escapeControls, shorten } from '../errors.js';
import { isPlace } from '../io/places.js';
import type { AuditReport } from './audit-report.js';

/** The name of an index of shards: what is restored would be a directory of its own. */
const INDEX = /\.index\.json$/i;

/** A file of a model on the Hub: what is restored is called after it, and lies here. A web address may lack its signature. */
const HUB_FILE = /^hf:[^:]*:(?:.*\/)?([^/]+)$/is;

/** What stands behind the last dot of a file's name. */
const ENDING = /(?<=[^/\\])\.[A-Za-z0-9]{1,12}$/;

/**
 * The arguments of the commands with which a user goes on from drift: what it does to the outputs, where after is a model
 * that runs, and after with the statistics of before. None where nothing drifted, or a path cannot be typed as it is.
 *
 * @param matching options that pair the two checkpoints, as the audit was given them: `['--map', 'a=b']`.
 */
export function listNextCommands(
  { before, after, layers, findings }: AuditReport,
  matching: readonly string[],
): readonly (readonly string[])[] {
  const paths = [before.path, after.path].map((path) => (path.startsWith('-') ? `./${path}` : path));
  const areTyped = [...paths, ...matching].every(
    (word) => word !== '' && word === shorten(word) && word === escapeControls(word),
  );
  const [beforePath = '', afterPath = ''] = paths;
  const hubFile = HUB_FILE.exec(afterPath)?.[1];
  const isElsewhere = isPlace(afterPath) && hubFile === undefined;
  if (!areTyped || isElsewhere || !findings.some(isLeadingDrift)) return [];
  const name = hubFile ?? afterPath.replace(/[/\\]+$/, '');
  const ending = ENDING.exec(name)?.[0] ?? '';
  const fixed = `${name.slice(0, name.length - ending.length)}.restored${ending}`;
  // The sum of a block's branches tells no means, and neither that nor the codes of quantised weights take statistics back.
  const areLost = layers.some(
    ({ block, logStdRatioBounds, status }) =>
      status === 'drifted' && (block !== undefined || logStdRatioBounds !== undefined),
  );
  return [
    ...(after.format === 'ONNX' ? [['probe', beforePath, afterPath, ...matching]] : []),
    ...(INDEX.test(name) || areLost ? [] : [['restore', beforePath, afterPath, ...matching, '-o', fixed]]),
  ];
}
