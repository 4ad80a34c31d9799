import { type Mutator, mutateBytes, mutateText } from './mutate-bytes.js';
import { BORDER_NUMBERS, type Random } from './random.js';

/** A JSON value that may hold what no JavaScript value can: a key twice, a number out of range. */
export type JsonNode =
  | { readonly kind: 'object'; readonly members: (readonly [key: string, value: JsonNode])[] }
  | { readonly kind: 'array'; readonly items: JsonNode[] }
  | { readonly kind: 'token'; readonly text: string };

/** @throws SyntaxError where the text is no JSON. */
export function parseJson(text: string): JsonNode {
  return toNode(JSON.parse(text));
}

function toNode(value: unknown): JsonNode {
  if (Array.isArray(value)) return { kind: 'array', items: value.map(toNode) };
  if (typeof value !== 'object' || value === null) return { kind: 'token', text: JSON.stringify(value) };
  return {
    kind: 'object',
    members: Object.entries(value).map(([key, item]) => [key, toNode(item)] as const),
  };
}

/** The text of a value, without spaces. */
export function writeJson(node: JsonNode): string {
  switch (node.kind) {
    case 'object':
      return `{${node.members.map(([key, value]) => `${JSON.stringify(key)}:${writeJson(value)}`).join(',')}}`;
    case 'array':
      return `[${node.items.map(writeJson).join(',')}]`;
    case 'token':
      return node.text;
  }
}

/** A text as JSON has it. */
export function textNode(text: string): JsonNode {
  return { kind: 'token', text: JSON.stringify(text) };
}

const ODD_TOKENS: readonly [string, ...string[]] = [
  'null',
  'true',
  'false',
  '{}',
  '[]',
  '""',
  '[[]]',
  '1.5',
  '-0',
  '1e400',
  '1e-400',
  '0.1',
  '[1,2]',
  '{"a":1}',
  '[null]',
  '01',
  '+1',
  'NaN',
  "'a'",
  '"\\ud800"',
  '"\\u0000"',
  '1E2',
  '9007199254740993',
];

/** As deep as no real file is, and deeper than recursion goes. */
const WRAPPED_LEVELS: readonly [number, ...number[]] = [1, 2, 20, 150, 20_000];

/** Changes one value, key or number somewhere in a tree. The tree stays as it is. */
export function mutateTree(node: JsonNode, random: Random, donor: JsonNode): JsonNode {
  if (node.kind === 'token' || random.oneIn(12)) return mutateNode(node, random, donor);
  if (node.kind === 'array') {
    const items = [...node.items];
    if (items.length > 0 && !random.oneIn(3)) {
      const at = pickChild(items, random);
      items[at] = mutateTree(items[at] ?? node, random, donor);
    } else {
      mutateList(items, random, pickNode(donor, random));
    }
    return { kind: 'array', items };
  }
  const members = [...node.members];
  const at = pickChild(
    members.map(([, value]) => value),
    random,
  );
  const [key, value] = members[at] ?? ['', node];
  if (members.length > 0 && !random.oneIn(4)) members[at] = [key, mutateTree(value, random, donor)];
  else if (random.oneIn(2)) members[at] = [mutateText(key, random, listTexts(donor)), value];
  else mutateList(members, random, [random.pick(listTexts(donor)) ?? key, pickNode(donor, random)] as const);
  return { kind: 'object', members };
}

/** Half of the time by size: a graph in the metadata of a baseline is one member among hundreds of tensors. */
function pickChild(children: readonly JsonNode[], random: Random): number {
  if (random.oneIn(2)) return random.below(children.length);
  const sizes = children.map((child) => writeJson(child).length);
  let rest = random.below(sizes.reduce((sum, size) => sum + size, 0));
  return Math.max(
    0,
    sizes.findIndex((size) => {
      rest -= size;
      return rest < 0;
    }),
  );
}

function mutateList<Item>(list: Item[], random: Random, foreign: Item): void {
  const at = random.below(list.length);
  const [item = foreign] = list.slice(at, at + 1);
  switch (random.below(5)) {
    case 0:
      list.splice(at, 1);
      break;
    case 1:
      list.splice(at, 0, item);
      break;
    case 2:
      list.splice(random.below(list.length + 1), 0, foreign);
      break;
    case 3:
      list[at] = list[random.below(list.length)] ?? foreign;
      break;
    default:
      list.reverse();
  }
}

function mutateNode(node: JsonNode, random: Random, donor: JsonNode): JsonNode {
  switch (random.below(8)) {
    case 0:
      return { kind: 'token', text: random.pick(ODD_TOKENS) };
    case 1:
      return pickNode(donor, random);
    case 2:
      return wrap(node, random);
    default:
      return node.kind === 'token' ? mutateToken(node.text, random, donor) : pickNode(node, random);
  }
}

function wrap(node: JsonNode, random: Random): JsonNode {
  const levels = random.pick(WRAPPED_LEVELS);
  const [open, close] = random.pick([
    ['[', ']'],
    ['{"a":', '}'],
  ]);
  return { kind: 'token', text: open.repeat(levels) + writeJson(node) + close.repeat(levels) };
}

function mutateToken(token: string, random: Random, donor: JsonNode): JsonNode {
  if (token.startsWith('"')) return mutateTextToken(token, random, donor);
  if (!/^-?\d+$/.test(token)) return { kind: 'token', text: random.pick(ODD_TOKENS) };
  const number = BigInt(token);
  const changed = random.pick([
    () => random.pick(BORDER_NUMBERS),
    () => number + BigInt(random.pick([1, -1, 2, 4, 8, -4])),
    () => number * 2n,
    () => number / 2n,
    () => -number,
    () => number + random.pick(BORDER_NUMBERS),
  ])();
  return { kind: 'token', text: String(changed) };
}

/** A text may be JSON itself, as the metadata of a baseline is. */
function mutateTextToken(token: string, random: Random, donor: JsonNode): JsonNode {
  let text: string;
  try {
    text = JSON.parse(token);
  } catch {
    return { kind: 'token', text: random.pick(ODD_TOKENS) };
  }
  if (/^[[{]/.test(text) && !random.oneIn(8)) {
    try {
      const inner = parseJson(text);
      return textNode(writeJson(mutateTree(inner, random, inner)));
    } catch {
      return textNode(mutateText(text, random));
    }
  }
  return textNode(mutateText(text, random, listTexts(donor)));
}

/** Keys of the outermost objects and a few below: names that mean something in the format. */
function listTexts(node: JsonNode): readonly string[] {
  if (node.kind !== 'object') return [];
  return node.members.flatMap(([key, value]) =>
    value.kind === 'object' ? [key, ...value.members.slice(0, 20).map(([inner]) => inner)] : [key],
  );
}

/** Any value within a value, or itself. */
function pickNode(node: JsonNode, random: Random): JsonNode {
  let picked = node;
  while (picked.kind !== 'token' && !random.oneIn(3)) {
    const children: readonly JsonNode[] =
      picked.kind === 'array' ? picked.items : picked.members.map(([, value]) => value);
    const child = random.pick(children);
    if (child === undefined) break;
    picked = child;
  }
  return picked;
}

/** Changes a JSON file: mostly its tree, now and then its bytes. */
export const mutateJson: Mutator = (bytes, random, donor) => {
  if (random.oneIn(10)) return mutateBytes(bytes, random, donor);
  const [text, donorText] = [bytes, donor].map((each) => Buffer.from(each).toString());
  return Buffer.from(writeJson(mutateTree(parseJson(text ?? ''), random, parseJson(donorText ?? ''))));
};
