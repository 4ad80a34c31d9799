import type { NormMode } from '../graph.js';
import type { Evaluator } from './constant.js';
import { readNumbers } from './numbers.js';
import { findAttribute, opsetOf, type Site } from './scope.js';

/** X, scale, B, mean, var; a draft had one more. */
export const INPUT_COUNT = 5;

/**
 * Which statistics the node normalises by (docs/Changelog.md, BatchNormalization 1 to 15).
 *
 * Until opset 6 `is_test` decides, and files that leave it out are ambiguous; until 13 the training form has further
 * outputs; from 14 on `training_mode` decides. A draft of opset 12 had training mode as a sixth input.
 */
export async function findMode(evaluator: Evaluator, site: Site): Promise<NormMode> {
  const opset = opsetOf(site.scope);
  const { inputs, outputs } = site.node;
  const draftInput = inputs[INPUT_COUNT] ?? '';
  if (draftInput !== '') {
    const value = await evaluator.evaluate(site.scope, draftInput);
    if (value.kind === 'unresolved' || value.tensor.elementCount !== 1) return 'unknown';
    const [isTraining] = await readNumbers(value.tensor);
    return isTraining === 0 ? 'running' : 'batch';
  }
  const trainingMode = findAttribute(site, 'training_mode')?.int ?? 0n;
  if (opset >= 14) return trainingMode === 0n ? 'running' : 'batch';
  if (opset >= 7) return outputs.filter((name) => name !== '').length > 1 ? 'batch' : 'running';
  const isTest = findAttribute(site, 'is_test')?.int;
  if (isTest === undefined || opset === 0) return 'unknown';
  return isTest === 0n ? 'batch' : 'running';
}
