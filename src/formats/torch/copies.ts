// Tells the networks in a checkpoint from copies of one of them: a running average, the raw weights beside it.

/** A running average of the model, or an earlier one, kept beside it. */
const COPY_KEY = /(^|[_\-.])(ema|swa|avg|average|averaged|shadow|best)([_\-.]|$)/i;

/** What Lightning's WeightAveraging keeps of the raw weights: `state_dict` holds the average, and is what is loaded. */
const RAW_KEY = 'current_model_state';

/** A network that a checkpoint holds. */
interface Network {
  /** Keys from the root to it. */
  readonly path: readonly string[];
}

/** A network, and the copies of it that lie beside it. */
export interface NetworkWithCopies<One extends Network> {
  readonly network: One;
  readonly copies: readonly One[];
}

/** Whether the model under the key is an average or an earlier copy of the one that was trained. */
export function isCopy(key: string): boolean {
  return COPY_KEY.test(key);
}

/**
 * Puts copies to the networks that they are copies of. A copy says so by its key, and has the tensors of another network:
 * the same names and shapes. A student and its teacher, or two generators of one class, are networks of their own.
 *
 * @param signatureOf tells networks of the same names and shapes, as equal texts.
 * @param isCopyLoaded whether the framework loads the copy where there is one, as Ultralytics does.
 */
export function sortCopies<One extends Network>(
  networks: readonly One[],
  signatureOf: (network: One) => string,
  isCopyLoaded: boolean,
): readonly NetworkWithCopies<One>[] {
  const [originals, others] = [networks.filter((one) => !isKeptBeside(one)), networks.filter(isKeptBeside)];
  if (originals.length === 0 || others.length === 0)
    return networks.map((network) => ({ network, copies: [] }));
  const signatures = new Map(networks.map((network) => [network, signatureOf(network)]));
  const owners = new Map<One, One[]>(originals.map((original) => [original, []]));
  const alone: One[] = [];
  for (const other of others) {
    const alike = originals.filter((original) => signatures.get(original) === signatures.get(other));
    const [owner] = [...alike.filter((original) => isNamedAfter(other, original)), ...alike];
    if (owner === undefined) alone.push(other);
    else owners.get(owner)?.push(other);
  }
  const sorted = [...owners].map(([network, copies]) => {
    const [copy] = copies;
    return isCopyLoaded && copy !== undefined
      ? { network: copy, copies: [network, ...copies.slice(1)] }
      : { network, copies };
  });
  return [...sorted, ...alone.map((network) => ({ network, copies: [] }))];
}

function isKeptBeside({ path }: Network): boolean {
  return path.some(isCopy) || path.at(-1) === RAW_KEY;
}

/** Whether the copy's key holds the original's: `generator_ema` of `generator`. */
function isNamedAfter(copy: Network, original: Network): boolean {
  const keys = copy.path.join('.');
  return original.path.every((key) => keys.includes(key));
}
