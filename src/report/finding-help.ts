// The help for each kind of finding, as code scanners show it, in the words of the framework that the model is of.

import type { Framework } from '../checkpoint/checkpoint.js';
import { type FindingKind, makeFinding } from '../compare/findings.js';
import { findDocs } from '../errors.js';

interface FindingHelp {
  readonly meaning: string;
  readonly remedy: string;
}

/** What is called otherwise where the modules are not those of PyTorch. None of these counts batches. */
interface FrameworkWords {
  /** What freezes learned tensors, and does not stop statistics. */
  readonly freezing: string;
  /** How layers run so that their statistics move. */
  readonly running: string;
  /** What keeps the statistics of frozen layers still; the rest of a sentence that says to do it. */
  readonly holding: string;
}

const OTHER_WORDS: Readonly<Partial<Record<Framework, FrameworkWords>>> = {
  keras: {
    freezing: 'leaving its weights out of the updates',
    running: 'it was called with training=True',
    holding:
      'set trainable=False on the frozen layers before compile(), and do not call them with training=True',
  },
  flax: {
    freezing: 'gradients of zero or an optimizer that leaves it out',
    running: 'it was called with use_running_average=False',
    holding: 'call the BatchNorm layers of the frozen part with use_running_average=True in training, too',
  },
  paddle: {
    freezing: 'stop_gradient=True or a learning rate of 0',
    running: 'it ran in training mode',
    holding: 'put the frozen layers in evaluation mode after every model.train()',
  },
  mxnet: {
    freezing: 'a gradient that is not applied',
    running: 'it ran in training mode',
    holding: 'make the BatchNorm layers of the frozen part with use_global_stats=True',
  },
  caffe2: {
    freezing: 'a gradient that is not applied',
    running: 'it ran in training mode',
    holding: 'run the SpatialBN operators of the frozen part with is_test=1',
  },
  darknet: {
    freezing: 'stopbackward=1',
    running: 'every forward pass in training moves them',
    holding:
      'put the statistics of before back after the training (bn-audit restore): no option of the .cfg keeps them still',
  },
};

/** What {@link HELP} says otherwise, of those kinds that speak of what a framework does. */
function adaptHelp({
  freezing,
  running,
  holding,
}: FrameworkWords): Partial<Record<FindingKind, FindingHelp>> {
  const capital = `${holding.charAt(0).toUpperCase()}${holding.slice(1)}`;
  return {
    'frozen-stats-drift': {
      meaning: `Every learned tensor of the layer and of what feeds it is identical in both checkpoints, yet its moving mean or variance moved: the layer was frozen by ${freezing}, but ${running}.`,
      remedy: `${capital}. Then restore the statistics of the checkpoint from before.`,
    },
    'folded-scale-drift': {
      meaning: HELP['folded-scale-drift'].meaning,
      remedy: `${capital}. Then restore the statistics of the checkpoint from before and export again.`,
    },
    'affine-frozen-drift': {
      meaning: HELP['affine-frozen-drift'].meaning,
      remedy: `If the layer was meant to be frozen, ${holding}; if not, train its affine as well, or accept it with --allow.`,
    },
    'trained-norm-in-frozen': {
      meaning:
        'The weights that feed the layer are identical in both checkpoints, while its own scale or shift was trained: convolutions were frozen, norm layers were not. What the frozen part computes has changed.',
      remedy: `If the whole part was meant to be frozen, freeze all of its weights and ${holding}; if not, accept it with --allow.`,
    },
    'stats-reset': {
      meaning: HELP['stats-reset'].meaning,
      remedy: 'Load the statistics together with the weights.',
    },
    'training-mode-graph': {
      meaning: HELP['training-mode-graph'].meaning,
      remedy: 'Export the model in inference mode.',
    },
    'frozen-weights-changed': {
      meaning: HELP['frozen-weights-changed'].meaning,
      remedy: 'Leave the weight out of what the optimizer updates.',
    },
    'stats-removed': {
      meaning: HELP['stats-removed'].meaning,
      remedy:
        'Load the statistics of the checkpoint from before; where the layer was replaced on purpose, accept it with --allow.',
    },
  };
}

/** Help for a kind of finding, in the words of the framework that a checkpoint is of; null stands for PyTorch. */
export function helpWith(kind: FindingKind, framework: Framework | null): FindingHelp {
  const words = framework === null ? undefined : OTHER_WORDS[framework];
  return (words === undefined ? undefined : adaptHelp(words)[kind]) ?? HELP[kind];
}

/** Whether a framework's checkpoints count the batches that moved statistics. */
export function countsBatches(framework: Framework | null): boolean {
  return framework === null || OTHER_WORDS[framework] === undefined;
}

/** Where a reader finds the page of a kind of finding: its web address, or the command that prints it. */
export function findPage(kind: FindingKind): string {
  return findDocs(makeFinding(kind, '', '').docs);
}

/** Help for each kind, in the words of PyTorch; the whole story is in docs/findings. */
const HELP: Readonly<Record<FindingKind, FindingHelp>> = {
  'frozen-stats-drift': {
    meaning:
      'Every learned tensor of the layer and of what feeds it is identical in both checkpoints, yet its running mean or variance moved. Where the batch count rose, the layer was frozen by requires_grad=False or lr=0, but it ran in training mode.',
    remedy:
      'Where the batch count rose, put the frozen modules in evaluation mode after every model.train(); where it did not, the message says what moved the statistics. Then restore those of the checkpoint from before.',
  },
  'invalid-stats': {
    meaning:
      'A running mean or variance is NaN or infinite, or a variance is negative: every output of the layer is wrong.',
    remedy:
      'Look for overflow in training (mixed precision, a diverging loss) and restore the last healthy checkpoint.',
  },
  'stats-reset': {
    meaning:
      'The running statistics hold their initial values, mean 0 and variance 1, under a trained affine: the layer was rebuilt or reset and its statistics were not loaded.',
    remedy:
      'Load the buffers together with the parameters (load_state_dict with strict=True), and do not call reset_running_stats().',
  },
  'training-mode-graph': {
    meaning:
      'The node in the graph normalises by the statistics of each batch instead of the running statistics, wherever it is deployed.',
    remedy: 'Call model.eval() before the export, and export with training mode EVAL.',
  },
  'unresolved-stats': {
    meaning: 'The statistics are not stored in the file, so the layer was not audited.',
    remedy:
      'Export with the statistics as initializers, or audit the checkpoint that the graph was exported from.',
  },
  'folded-scale-drift': {
    meaning:
      'Each output channel of a frozen convolution was rescaled by a constant. Where a norm layer was folded into it, that is its running variance, which moved before the export.',
    remedy:
      'Keep the frozen modules in evaluation mode during training, restore their statistics and export again.',
  },
  'folded-bias-drift': {
    meaning:
      'Normalisation was folded into a convolution whose weights are equal while its bias moved: either the running mean drifted, or a bias was trained on its own; a folded file cannot tell which.',
    remedy: 'Audit the checkpoint from before the export, which tells the two apart.',
  },
  'affine-frozen-drift': {
    meaning:
      "The layer's weight and bias stayed frozen while its running statistics moved together with the trained weights that feed it.",
    remedy:
      'If the layer was meant to be frozen, put it in evaluation mode; if not, train its affine as well, or accept it with --allow.',
  },
  'trained-norm-in-frozen': {
    meaning:
      'The weights that feed the layer are identical in both checkpoints, while its own weight or bias was trained: convolutions were frozen, norm layers were not, as Lightning’s BackboneFinetuning and fastai do by default. What the frozen part computes has changed.',
    remedy:
      'If the whole part was meant to be frozen, set requires_grad=False on all of its parameters and put it in evaluation mode after every model.train(); if not, accept it with --allow.',
  },
  'batch-stats-while-frozen': {
    meaning:
      'The batch count rose while the statistics stood still: in training the layer normalised by the statistics of each batch, and in evaluation it will not.',
    remedy:
      'Put the layer in evaluation mode for training as well; momentum 0 does not make it use its running statistics.',
  },
  'unpaired-layer': {
    meaning:
      'Only one of the checkpoints has the layer, or both have it with another number of channels, so it was not audited.',
    remedy:
      'If it was merely renamed, say how with --map FROM=TO; if it was removed on purpose, accept it with --allow.',
  },
  'stats-removed': {
    meaning:
      'Before normalises by running statistics, and after has the layer without any: it normalises by the statistics of each batch wherever it is used, or is another kind of layer by now.',
    remedy:
      'Leave track_running_stats as it was and load the buffers of the checkpoint from before; where the layer was replaced on purpose, accept it with --allow.',
  },
  'epsilon-changed': {
    meaning:
      'The two files tell another epsilon for the layer, which is added to the variance under the root: its outputs changed though nothing was trained.',
    remedy:
      'Build and export the model with the epsilon that it was trained with (PyTorch eps=1e-5, Keras epsilon=0.001).',
  },
  'frozen-weights-changed': {
    meaning: 'A learned tensor that --frozen says must not change did change.',
    remedy:
      'Leave the parameter out of the optimizer, or set requires_grad=False before the optimizer is made.',
  },
  'declared-frozen-changed': {
    meaning:
      'The checkpoint itself says that a learned tensor was frozen (no optimizer state, learning rate 0, requires_grad=False, a setting), yet it is not the one of the checkpoint from before.',
    remedy:
      'Check that before is the file that this training started from, and look for what else writes weights: an earlier phase, weight averaging, a momentum encoder.',
  },
  'initial-stats': {
    meaning: 'Every channel still has mean 0 and variance 1: the running statistics were never updated.',
    remedy:
      'If the model was trained, check that the layer ran in training mode and that its buffers were saved.',
  },
};
