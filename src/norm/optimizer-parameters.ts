import type { OptimizerDeclaration, OptimizerParameter } from '../checkpoint/declarations.js';
import { withoutWrappers } from './naming.js';

/** A parameter of the model, as far as an optimizer's state can tell it from others. */
export interface ModelParameter {
  readonly name: string;
  readonly shape: readonly number[];
}

/** Which of the model's parameters an optimizer holds under which of its numbers, or why that is not clear. */
export type OptimizerMapping<Fact> =
  | { readonly kind: 'mapped'; readonly held: ReadonlyMap<string, Fact> }
  | { readonly kind: 'unclear'; readonly reason: string };

/** Steps of the search for places; real optimizers need some thousand. */
const MAX_STEPS = 20_000_000;

/** Beginnings of names tried; real ones differ by a wrapper or two. */
const MAX_PREFIXES = 1_000;

/** More groups than anyone writes by hand: code made them, going over the parameters. */
const GENERATED_GROUPS = 8;

/** One parameter of the optimizer, and what it says of whichever of the model's it is. */
interface Slot<Fact> {
  readonly name: string | null;
  /** The shape as text; null where it is not known. */
  readonly shape: string | null;
  readonly fact: Fact;
  /** The model's parameter, by its place in module order; null while that is open. */
  place: number | null;
}

/**
 * Finds out which of the model's parameters the numbers of an optimizer stand for: by names where the file has them,
 * else by the order and the shapes. Whoever hands parameters to an optimizer goes over the modules in their order, so
 * that each group is in module order, and what the optimizer keeps has the shape of its parameter.
 *
 * Nothing is guessed: a number is mapped where only one parameter fits, or where all that are open say the same.
 *
 * @param model every parameter of the model in module order, tied ones once.
 * @param factOf what the optimizer says of one of its parameters; equal facts are equal by `===`.
 */
export function mapOptimizer<Fact>(
  { groups }: OptimizerDeclaration,
  model: readonly ModelParameter[],
  factOf: (parameter: OptimizerParameter, group: number) => Fact,
): OptimizerMapping<Fact> {
  const slots = groups.map(({ parameters }, group) =>
    parameters.map(
      (parameter): Slot<Fact> => ({
        name: parameter.name,
        shape: parameter.shape?.join() ?? null,
        fact: factOf(parameter, group),
        place: null,
      }),
    ),
  );
  const all = slots.flat();
  if (all.every(({ name }) => name !== null)) return mapByName(all, model);
  if (all.length > model.length)
    return unclear(`holds ${all.length} parameters, and the model has ${model.length} learned tensors`);
  const shapes = model.map(({ shape }) => shape.join());
  if (standInOrder(slots, shapes) || areAllAlike(all, shapes)) {
    all.forEach((slot, place) => {
      slot.place = place;
    });
  } else {
    const problem = new PlaceSearch(slots, shapes).run();
    if (problem !== null) return unclear(problem);
  }
  const held = new Map(all.map(({ place, fact }) => [model[place ?? 0]?.name ?? '', fact]));
  return { kind: 'mapped', held };
}

function unclear(reason: string): { readonly kind: 'unclear'; readonly reason: string } {
  return { kind: 'unclear', reason };
}

/** Names of the optimizer's may lack a prefix that the model's have, or the other way round; one must fit them all. */
function mapByName<Fact>(
  slots: readonly Slot<Fact>[],
  model: readonly ModelParameter[],
): OptimizerMapping<Fact> {
  const names = slots.map(({ name }) => withoutWrappers(name ?? ''));
  const known = new Map(model.map(({ name }) => [withoutWrappers(name), name]));
  const [first = ''] = names;
  const prefixes = new Set<string>(['']);
  for (const name of known.keys()) {
    if (name.endsWith(`.${first}`)) prefixes.add(name.slice(0, name.length - first.length));
    if (first.endsWith(`.${name}`)) prefixes.add(`-${first.slice(0, first.length - name.length)}`);
  }
  const fitting = [...prefixes]
    .slice(0, MAX_PREFIXES)
    .filter((prefix) => names.every((name) => known.has(reprefix(name, prefix))));
  const [prefix] = fitting;
  if (prefix === undefined || (fitting.length > 1 && prefix !== ''))
    return unclear('names parameters that the model does not have under these names');
  return {
    kind: 'mapped',
    held: new Map(
      slots.map(({ fact }, index) => [known.get(reprefix(names[index] ?? '', prefix)) ?? '', fact]),
    ),
  };
}

/** With the prefix in front, or without it where it comes after a minus. */
function reprefix(name: string, prefix: string): string {
  if (!prefix.startsWith('-')) return prefix + name;
  return name.startsWith(prefix.slice(1)) ? name.slice(prefix.length - 1) : '';
}

/**
 * Whether the optimizer was handed every parameter, one after the other in module order: as one group, or each as a
 * group of its own, which takes evidence: the shapes of at least half of them.
 */
function standInOrder<Fact>(slots: readonly (readonly Slot<Fact>[])[], shapes: readonly string[]): boolean {
  const all = slots.flat();
  const known = all.filter(({ shape }) => shape !== null).length;
  const areSingle = slots.length >= GENERATED_GROUPS && slots.every(({ length }) => length === 1);
  return (
    all.length === shapes.length &&
    (slots.length === 1 || (areSingle && 2 * known >= all.length)) &&
    all.every(({ shape }, place) => shape === null || shape === shapes[place])
  );
}

/** Whether the optimizer was handed every parameter and says the same of all: then it does not matter which is which. */
function areAllAlike<Fact>(all: readonly Slot<Fact>[], shapes: readonly string[]): boolean {
  const [first] = all;
  if (all.length !== shapes.length || all.some(({ fact, shape }) => fact !== first?.fact || shape === null))
    return false;
  const sorted = all.map(({ shape }) => shape ?? '').sort();
  return [...shapes].sort().every((shape, index) => shape === sorted[index]);
}

/**
 * Gives each slot the only place that it can have: as far to the front as its group's order and the shapes allow is as
 * far to the back as they do. Places that are taken narrow the others down.
 */
class PlaceSearch<Fact> {
  readonly #slots: readonly (readonly Slot<Fact>[])[];
  /** Of the model's parameters. */
  readonly #shapes: readonly string[];
  readonly #taken = new Set<number>();
  #steps = 0;

  constructor(slots: readonly (readonly Slot<Fact>[])[], shapes: readonly string[]) {
    this.#slots = slots;
    this.#shapes = shapes;
  }

  /** @returns why some slots have no place; null where all have one. */
  run(): string | null {
    for (let isNarrowing = true; isNarrowing; ) {
      isNarrowing = false;
      for (const group of this.#slots.filter((slots) => slots.some(({ place }) => place === null))) {
        const [first, last] = [this.#place(group, 1), this.#place(group, -1)];
        if (this.#steps > MAX_STEPS) return 'holds too many parameters alike to tell them apart';
        if (first === null || last === null)
          return 'numbers parameters whose shapes, in module order, are not those of the model';
        group.forEach((slot, index) => {
          const place = first[index];
          if (slot.place !== null || place === undefined || place !== last[index]) return;
          slot.place = place;
          this.#taken.add(place);
          isNarrowing = true;
        });
      }
    }
    return this.#fillAlike();
  }

  /** The places of a group, each the foremost possible (`step` 1) or the hindmost (−1); null where it has none. */
  #place(group: readonly Slot<Fact>[], step: 1 | -1): readonly number[] | null {
    const places: number[] = [];
    this.#steps += group.length;
    let next = step === 1 ? 0 : this.#shapes.length - 1;
    for (let count = 0; count < group.length; count++) {
      const index = step === 1 ? count : group.length - 1 - count;
      const slot = group[index];
      if (slot === undefined) return null;
      while (!this.#mayTake(slot, next)) {
        next += step;
        if (++this.#steps > MAX_STEPS || next < 0 || next >= this.#shapes.length) return null;
      }
      places[index] = next;
      next += step;
    }
    return places;
  }

  #mayTake({ place, shape }: Slot<Fact>, at: number): boolean {
    if (place !== null) return place === at;
    return !this.#taken.has(at) && (shape === null ? at in this.#shapes : shape === this.#shapes[at]);
  }

  /** Slots that are left, as many as places are left: where all say the same, it does not matter which is which. */
  #fillAlike(): string | null {
    const open = this.#slots.flat().filter(({ place }) => place === null);
    if (open.length === 0) return null;
    const free = this.#shapes.map((_, place) => place).filter((place) => !this.#taken.has(place));
    const isAlike = open.every(({ fact }) => fact === open[0]?.fact);
    if (!isAlike || open.length !== free.length)
      return `knows its parameters by number, and ${open.length} of its ${open.length + this.#taken.size} could be several of the model's: what it says of the freeze cannot be told`;
    open.forEach((slot, index) => {
      slot.place = free[index] ?? null;
    });
    return null;
  }
}
