import { describe, expect, test } from 'vitest';
import { orderCheckpoints, readNamedProgress } from '../../src/trace/order-checkpoints.js';

interface Given {
  readonly path?: string;
  readonly epoch?: number;
  readonly step?: number;
  readonly batches?: number;
}

/** The order of checkpoints, by their place among those given, and what told it. */
function orderOf(...given: readonly Given[]) {
  const places = given.map((one, index) => ({
    epoch: null,
    step: null,
    batches: null,
    path: `${index}.pt`,
    index,
    ...one,
  }));
  const { ordered, by, doubts } = orderCheckpoints(places);
  return { order: ordered.map(({ index }) => index), by, doubts };
}

describe('checkpoints stand in the order of', () => {
  test('epochs, where every file tells another', () => {
    expect(orderOf({ epoch: 10 }, { epoch: 2 }, { epoch: 3 })).toMatchObject({
      order: [1, 2, 0],
      by: ['epoch'],
    });
  });

  test('epochs and steps, where epochs alone do not tell them apart', () => {
    const given = [
      { epoch: 1, step: 20 },
      { epoch: 0, step: 30 },
      { epoch: 1, step: 10 },
    ];
    expect(orderOf(...given)).toMatchObject({ order: [1, 2, 0], by: ['epoch', 'step'] });
  });

  test('steps, where no file tells an epoch', () => {
    expect(orderOf({ step: 500 }, { step: 90 })).toMatchObject({ order: [1, 0], by: ['step'] });
  });

  test('batch counts, where one file tells no epoch', () => {
    const given = [{ batches: 30 }, { epoch: 1, batches: 10 }, { epoch: 2, batches: 20 }];
    expect(orderOf(...given)).toMatchObject({ order: [1, 2, 0], by: ['batches'] });
  });

  test('batch counts, where epochs start anew in a second training', () => {
    const given = [
      { epoch: 1, batches: 30 },
      { epoch: 0, batches: 10 },
      { epoch: 0, batches: 20 },
    ];
    expect(orderOf(...given)).toMatchObject({ order: [1, 2, 0], by: ['batches'] });
  });

  test('numbers in their names, where nothing else tells: 9 before 10, and a name without one last', () => {
    const given = [{ path: 'run2/last.pt' }, { path: 'run2/e10.pt' }, { path: 'run2/e9.pt' }];
    expect(orderOf(...given)).toMatchObject({ order: [2, 1, 0], by: ['name'] });
  });

  test('what all tell, and then their names, where that tells only some apart', () => {
    const given = [
      { path: 'b2.pt', epoch: 1, batches: 5 },
      { path: 'b1.pt', epoch: 1, batches: 5 },
      { path: 'a.pt', epoch: 2, batches: 5 },
    ];
    expect(orderOf(...given)).toMatchObject({ order: [1, 0, 2], by: ['epoch', 'name'] });
  });
});

test('counts that go back against the epochs are a doubt', () => {
  const given = [
    { epoch: 1, batches: 10 },
    { epoch: 2, batches: 90 },
    { epoch: 3, batches: 40 },
  ];
  const { order, doubts } = orderOf(...given);
  expect(order).toEqual([0, 1, 2]);
  expect(doubts).toEqual([expect.stringContaining('the batch counts go back from 1.pt to 2.pt')]);
  expect(orderOf({ epoch: 1, batches: 10 }, { epoch: 2, batches: 10 }).doubts).toEqual([]);
});

test.each([
  ['runs/epoch_12.pth', { epoch: 12, step: null }],
  ['RFB-Epoch-100-Loss-2.716068.pth', { epoch: 100, step: null }],
  ['epoch=3-step=400.ckpt', { epoch: 3, step: 400 }],
  ['out/checkpoint-500/model.safetensors', { epoch: null, step: 500 }],
  ['iter_8000.pth', { epoch: null, step: 8000 }],
  ['epoch7.pt', { epoch: 7, step: null }],
  ['resnet50.pt', { epoch: null, step: null }],
  ['deep12/last.pt', { epoch: null, step: null }],
])('%s tells %j by its name', (path, progress) => {
  expect(readNamedProgress(path)).toEqual(progress);
});
