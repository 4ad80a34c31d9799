import { expect, test } from 'vitest';
import { completeFacts } from '../../../src/formats/torch/torch.js';

const UNKNOWN = {
  className: 'BatchNorm1d',
  epsilon: null,
  momentum: null,
  trackRunningStats: null,
  training: false,
  version: null,
};

test('constants of a scripted class', () => {
  const source = [
    'class Other(Module):',
    '  eps : Final[float] = 5.0',
    'class BatchNorm1d(Module):',
    '  training : bool',
    '  eps : Final[float] = 1.0000000000000001e-05',
    '  momentum : Final[NoneType] = None',
    '  track_running_stats : Final[bool] = False',
  ].join('\n');
  expect(completeFacts(UNKNOWN, source)).toEqual({
    ...UNKNOWN,
    epsilon: 1e-5,
    momentum: 'cumulative',
    trackRunningStats: false,
  });
});

test('arguments of the one call of a traced class', () => {
  const source = [
    'class BatchNorm1d(Module):',
    '  def forward(self, argument_1: Tensor) -> Tensor:',
    '    _0 = torch.batch_norm(argument_1, weight, bias, running_mean, running_var, False, 0.25, 0.001, True)',
    '    return _0',
  ].join('\n');
  expect(completeFacts(UNKNOWN, source)).toEqual({ ...UNKNOWN, epsilon: 0.001, momentum: 0.25 });
});

test('a source without the class changes nothing', () => {
  expect(completeFacts(UNKNOWN, 'class Net(Module):\n  eps : Final[float] = 1.0\n')).toEqual(UNKNOWN);
});
