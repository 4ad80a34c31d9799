import { describe, expect, test } from 'vitest';
import type { AuditFailure } from '../../src/report/audit-set.js';
import { Landings } from '../../src/watch/landings.js';
import type { FoundCheckpoint, Listing } from '../../src/watch/list-checkpoints.js';

interface Facts {
  readonly size?: number;
  readonly time?: number;
  /** When permissions or names changed last. */
  readonly changed?: number;
  readonly inode?: string;
}

function found(path: string, { size = 1, time = 1, changed, inode = path }: Facts = {}): FoundCheckpoint {
  const content = `${size}:${time}`;
  return {
    path,
    files: [path],
    identity: `${inode}:${content}`,
    stamp: { content, all: `${content}:${changed ?? time}`, written: time },
  };
}

const look = (
  landings: Landings,
  checkpoints: readonly FoundCheckpoint[],
  unread: Listing['unread'] = [],
) => {
  const { landed, stuck, gone, isBusy } = landings.take({ checkpoints, unread });
  return { landed: landed.map(({ path }) => path), stuck: stuck.map(({ after }) => after), gone, isBusy };
};

const failure = (after: string): AuditFailure => ({
  before: 'b',
  after,
  code: 'truncated',
  message: '',
  hint: null,
});

const NOTHING = { landed: [], stuck: [], gone: [], isBusy: false };
const BUSY = { ...NOTHING, isBusy: true };

describe('a checkpoint', () => {
  test('lands when it stands still from one look to the next, once', () => {
    const landings = new Landings();
    expect(look(landings, [found('a')])).toEqual(BUSY);
    expect(look(landings, [found('a', { size: 2 })])).toEqual(BUSY);
    expect(look(landings, [found('a', { size: 2, time: 2 })])).toEqual(BUSY);
    expect(look(landings, [found('a', { size: 2, time: 2 })])).toEqual({ ...BUSY, landed: ['a'] });
    landings.conclude('a', null);
    expect(look(landings, [found('a', { size: 2, time: 2 })])).toEqual(NOTHING);
  });

  test('lands again when it is written again, not when it is linked or chmodded', () => {
    const landings = new Landings();
    const land = (one: FoundCheckpoint) => {
      look(landings, [one]);
      const { landed } = look(landings, [one]);
      if (landed.length > 0) landings.conclude('last', null);
      return landed;
    };
    expect(land(found('last'))).toEqual(['last']);
    expect(land(found('last', { changed: 2 }))).toEqual([]);
    expect(land(found('last', { time: 2 }))).toEqual(['last']);
    expect(land(found('last', { time: 1 }))).toEqual(['last']);
  });

  test('stays what it is under another name', () => {
    const landings = new Landings();
    look(landings, [found('a', { inode: '7' })]);
    look(landings, [found('a', { inode: '7' })]);
    landings.conclude('a', null);
    expect(look(landings, [found('b', { inode: '7', changed: 2 })])).toEqual(NOTHING);
    expect(look(landings, [found('c', { inode: '7', time: 2 })])).toEqual(BUSY);
  });

  test('that was renamed before it landed lands under its new name, and none is gone', () => {
    const landings = new Landings();
    look(landings, [found('tmp/a', { inode: '7' })]);
    expect(look(landings, [found('a', { inode: '7', changed: 2 })])).toEqual({ ...BUSY, landed: ['a'] });
  });

  test('several that land together come in the order in which they were written, then by name', () => {
    const landings = new Landings();
    const all = [found('a', { time: 3 }), found('b9'), found('b10'), found('c', { time: 2 })];
    look(landings, all);
    expect(look(landings, all).landed).toEqual(['b9', 'b10', 'c', 'a']);
  });
});

describe('what could not be audited', () => {
  const fail = (landings: Landings, one: FoundCheckpoint) => {
    look(landings, [one]);
    expect(look(landings, [one]).landed).toEqual(['a']);
    landings.conclude('a', failure('a'));
  };

  test('is told of once, when it stands still, and is tried again when it changes', () => {
    const landings = new Landings();
    fail(landings, found('a'));
    expect(look(landings, [found('a')])).toEqual({ ...BUSY, stuck: ['a'] });
    expect(look(landings, [found('a')])).toEqual(NOTHING);
    expect(look(landings, [found('a', { size: 2 })])).toEqual(BUSY);
    expect(look(landings, [found('a', { size: 2 })]).landed).toEqual(['a']);
    landings.conclude('a', failure('a'));
    expect(look(landings, [found('a', { size: 2 })])).toEqual(NOTHING);
    expect(landings.listRest()).toEqual({ failed: 1, untold: [], changing: [] });
  });

  test('is not told of while it goes on being written', () => {
    const landings = new Landings();
    fail(landings, found('a'));
    expect(landings.listRest()).toEqual({ failed: 1, untold: [failure('a')], changing: [] });
    expect(look(landings, [found('a', { size: 2 })])).toEqual(BUSY);
    expect(landings.listRest()).toEqual({ failed: 0, untold: [], changing: ['a'] });
  });

  test('is tried again when its permissions change', () => {
    const landings = new Landings();
    fail(landings, found('a'));
    look(landings, [found('a')]);
    expect(look(landings, [found('a', { changed: 2 })])).toEqual(BUSY);
    expect(look(landings, [found('a', { changed: 2 })]).landed).toEqual(['a']);
  });

  test('is no failure any more when it was audited, or deleted', () => {
    const landings = new Landings();
    fail(landings, found('a'));
    look(landings, [found('a', { size: 2 })]);
    look(landings, [found('a', { size: 2 })]);
    landings.conclude('a', null);
    expect(landings.listRest()).toEqual({ failed: 0, untold: [], changing: [] });
    fail(landings, found('a', { size: 3 }));
    expect(look(landings, [])).toEqual({ ...BUSY, gone: ['a'] });
    expect(landings.listRest()).toEqual({ failed: 0, untold: [], changing: [] });
  });
});

describe('what is deleted', () => {
  test('is told of where it had not been audited, and forgotten', () => {
    const landings = new Landings();
    look(landings, [found('a'), found('b')]);
    look(landings, [found('a'), found('b')]);
    landings.conclude('a', null);
    expect(look(landings, [])).toEqual({ ...BUSY, gone: ['b'] });
    expect(look(landings, [])).toEqual(NOTHING);
    expect(look(landings, [found('a')])).toEqual(BUSY);
  });

  test('is not deleted where its directory could not be looked into', () => {
    const landings = new Landings();
    look(landings, [found('run/x/a'), found('run/b'), found('run/xy')]);
    const unread = [{ path: 'run/x', message: 'no permission to read it' }];
    expect(look(landings, [found('run/b')], unread)).toEqual({
      ...BUSY,
      landed: ['run/b'],
      gone: ['run/xy'],
    });
    expect(look(landings, [found('run/x/a')])).toEqual({ ...BUSY, landed: ['run/x/a'], gone: ['run/b'] });
  });

  test.each(['run/', '.', '/'])('is not deleted where nothing could be looked into: %s', (path) => {
    const landings = new Landings();
    const file = `${path === '.' ? '' : path}a`;
    look(landings, [found(file)]);
    expect(look(landings, [], [{ path, message: '' }])).toEqual(NOTHING);
    expect(look(landings, [found(file)]).landed).toEqual([file]);
  });
});
