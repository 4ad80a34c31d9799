import { mkdirSync, renameSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { f32, i64 } from './bytes.js';
import { safetensorsBytes } from './safetensors.js';
import { makeTempDirectory } from './sources.js';

const toModel = (shift: number) => ({
  'backbone.conv.weight': { dtype: 'F32', shape: [2, 2], data: f32(0.5, -0.25, 0.125, 1) },
  'backbone.bn.weight': { dtype: 'F32', shape: [2], data: f32(1.5, 0.5) },
  'backbone.bn.bias': { dtype: 'F32', shape: [2], data: f32(0.25, -0.5) },
  'backbone.bn.running_mean': { dtype: 'F32', shape: [2], data: f32(0.5 + shift, -0.25 + shift) },
  'backbone.bn.running_var': { dtype: 'F32', shape: [2], data: f32(1, 1) },
  'backbone.bn.num_batches_tracked': { dtype: 'I64', shape: [], data: i64(shift === 0 ? 10 : 20) },
  'head.weight': { dtype: 'F32', shape: [1, 2], data: f32(1, 2 + shift) },
});

/** A small model: a frozen backbone whose mean is moved by `shift`, and a head that `shift` trained. */
export function modelBytes(shift: number): Uint8Array {
  return safetensorsBytes(toModel(shift));
}

/** The names of its tensors. */
export const MODEL_TENSORS = Object.keys(toModel(0));

/** A directory that a training run writes its checkpoints to. */
export class RunDirectory {
  /** Beside it lies what is outside. */
  readonly outside = makeTempDirectory();
  readonly path = join(this.outside, 'run');
  #seconds = 1_000_000;

  constructor() {
    mkdirSync(this.path);
  }

  at(name: string): string {
    return join(this.path, name);
  }

  /** Each file is a second younger than the last, whatever the clock of the machine can tell apart. */
  write(name: string, bytes: string | Uint8Array): string {
    const path = this.at(name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, bytes);
    this.touch(name);
    return path;
  }

  touch(name: string): void {
    this.#seconds++;
    utimesSync(this.at(name), this.#seconds, this.#seconds);
  }

  rename(from: string, to: string): void {
    mkdirSync(dirname(this.at(to)), { recursive: true });
    renameSync(this.at(from), this.at(to));
  }

  remove(name: string): void {
    rmSync(this.at(name), { recursive: true });
  }
}
