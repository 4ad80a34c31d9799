/** What the values of a weight are drawn from; `channels`: normal, with a spread of its own for each nine. */
export type WeightKind = 'normal' | 'uniform' | 'heavy' | 'channels';

/** Optimizers, as PyTorch computes their steps in float32. */
export type Optimizer = 'sgd' | 'adam' | 'adamw';

/** Numbers from 0 up to 1, the same ones for the same seed (mulberry32). */
export function makeRandom(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Numbers of the standard normal distribution (Box and Muller). */
export function makeNormal(random: () => number): () => number {
  return () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

/** Weights of a convolution, float32. */
export function drawWeights({
  size,
  seed,
  kind,
}: {
  size: number;
  seed: number;
  kind: WeightKind;
}): Float32Array {
  const random = makeRandom(seed);
  const normal = makeNormal(random);
  let spread = 1;
  return Float32Array.from({ length: size }, (_, i) => {
    if (kind === 'uniform') return 0.12 * (random() - 0.5);
    if (kind === 'heavy') return (0.02 * normal()) / Math.sqrt((normal() ** 2 + normal() ** 2) / 2);
    if (kind === 'channels' && i % 9 === 0) spread = Math.exp(0.7 * normal());
    return 0.05 * spread * normal();
  });
}

/** An exponential moving average of weights that stay: `v ← d·v + (1 − d)·w`; `ramp` lets d grow as YOLO does. */
export function average(
  weights: Float32Array,
  { decay, steps, form }: { decay: number; steps: number; form: 'scale and add' | 'ramp' },
): Float32Array {
  const averaged = weights.slice();
  for (let step = 1; step <= steps; step++) {
    const d = form === 'ramp' ? decay * (1 - Math.exp(-step / 2000)) : decay;
    const [keep, add] = [Math.fround(d), Math.fround(1 - d)];
    let isSettled = true;
    for (let i = 0; i < averaged.length; i++) {
      const value = averaged[i] as number;
      const next = Math.fround(Math.fround(value * keep) + Math.fround((weights[i] as number) * add));
      if (next !== value) isSettled = false;
      averaged[i] = next;
    }
    if (isSettled && form !== 'ramp') break;
  }
  return averaged;
}

/** The mean of several checkpoints that hold the same weights: their sum over their count, or a sum of shares. */
export function mean(
  weights: Float32Array,
  { count, form }: { count: number; form: 'sum' | 'weighted' },
): Float32Array {
  const share = Math.fround(1 / count);
  return weights.map((weight) => {
    let sum = form === 'sum' ? weight : 0;
    if (form === 'sum') for (let i = 1; i < count; i++) sum = Math.fround(sum + weight);
    else for (let i = 0; i < count; i++) sum = Math.fround(sum + Math.fround(weight * share));
    return form === 'sum' ? sum / count : sum;
  });
}

/** Weights after some steps of an optimizer, whose gradients have a trend and noise, and a spread for each nine. */
export function train(
  weights: Float32Array,
  { optimizer, lr, steps, seed }: { optimizer: Optimizer; lr: number; steps: number; seed: number },
): Float32Array {
  const normal = makeNormal(makeRandom(seed + 1));
  const trained = weights.slice();
  const spreads = Float64Array.from({ length: Math.ceil(weights.length / 9) }, () =>
    Math.exp(0.7 * normal()),
  );
  const trends = Float64Array.from(
    weights,
    (_, i) => 0.02 * normal() * (spreads[Math.floor(i / 9)] as number),
  );
  const [first, second] = [new Float32Array(weights.length), new Float32Array(weights.length)];
  for (let step = 1; step <= steps; step++) {
    for (let i = 0; i < trained.length; i++) {
      const gradient = (trends[i] as number) + 0.04 * normal() * (spreads[Math.floor(i / 9)] as number);
      if (optimizer === 'sgd') {
        trained[i] = (trained[i] as number) - Math.fround(lr * gradient);
        continue;
      }
      first[i] = 0.9 * (first[i] as number) + 0.1 * gradient;
      second[i] = 0.999 * (second[i] as number) + 0.001 * gradient * gradient;
      const size = Math.sqrt((second[i] as number) / (1 - 0.999 ** step)) + 1e-8;
      if (optimizer === 'adamw') trained[i] = (trained[i] as number) * Math.fround(1 - lr * 0.01);
      trained[i] =
        (trained[i] as number) - Math.fround((lr * (first[i] as number)) / (1 - 0.9 ** step) / size);
    }
  }
  return trained;
}

/** Weight decay alone: every step takes the same share of every value. */
export function decay(
  weights: Float32Array,
  { share, steps }: { share: number; steps: number },
): Float32Array {
  const decayed = weights.slice();
  for (let step = 0; step < steps; step++)
    for (let i = 0; i < decayed.length; i++)
      decayed[i] = (decayed[i] as number) - Math.fround(share * (decayed[i] as number));
  return decayed;
}

/** LoRA merged and unmerged: a product of rank 4, `scale` times as large as the weights, added and subtracted. */
export function mergeAndUnmerge(
  weights: Float32Array,
  { scale, seed }: { scale: number; seed: number },
): Float32Array {
  const normal = makeNormal(makeRandom(seed));
  const rows = 16;
  const columns = Math.ceil(weights.length / rows);
  const up = Float64Array.from({ length: rows * 4 }, normal);
  const down = Float64Array.from({ length: columns * 4 }, normal);
  return weights.map((weight, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    let product = 0;
    for (let k = 0; k < 4; k++) product += (up[row * 4 + k] as number) * (down[column * 4 + k] as number);
    const delta = Math.fround(product * 0.025 * scale);
    return Math.fround(weight + delta) - delta;
  });
}
