import { expect, test } from 'vitest';
import { memorySource } from '../../src/io/byte-source.js';
import { listTar } from '../../src/io/tar.js';
import { failureOf } from '../build/failure.js';

/** Headers of empty files, by their numbers. */
function tarOf(count: number): Uint8Array {
  const bytes = new Uint8Array(512 * (count + 2));
  for (let index = 0; index < count; index++)
    bytes.set(Buffer.from(`${`f${index}`.padEnd(124, '\0') + '00000000000\0'.padEnd(32)}0`), 512 * index);
  return bytes;
}

test('every member is listed, so that one checkpoint is known to be the only one', async () => {
  expect((await listTar(memorySource('m.tar', tarOf(100)))).has('f99')).toBe(true);
});

test('an archive of more members than any checkpoint has is refused', async () => {
  const { code } = await failureOf(() => listTar(memorySource('m.tar', tarOf(10_001))));
  expect(code).toBe('limit-exceeded');
});

/** A member: its header, with the size and the type, and its content in whole blocks. */
function memberOf(name: string, content: string, type = '0', prefix = ''): Buffer {
  const size = Buffer.byteLength(content);
  const header = Buffer.alloc(512);
  header.write(name.slice(0, 100), 0);
  header.write(`${size.toString(8).padStart(11, '0')}\0`, 124);
  header.write(type, 156);
  header.write('ustar\x0000', 257);
  header.write(prefix, 345);
  return Buffer.concat([header, Buffer.from(content), Buffer.alloc((512 - (size % 512)) % 512)]);
}

const namesIn = async (...members: readonly Buffer[]) => [
  ...(await listTar(memorySource('m.tar', Uint8Array.from(Buffer.concat([...members, Buffer.alloc(1024)]))))),
];

const LONG = `${'checkpoints/'.repeat(20)}model.pt`;
/** A record of PAX, e.g. `11 size=10` and a line end: the length counts itself. */
const record = (text: string) => {
  const length = text.length + 2 + String(text.length).length;
  return `${text.length + 2 + String(length).length} ${text}\n`;
};

test('names of more than 100 characters are those that GNU tar and PAX write', async () => {
  const gnu = await namesIn(
    memberOf('././@LongLink', `${LONG}\0`, 'L'),
    memberOf(LONG, 'abc'),
    memberOf('b', ''),
  );
  expect(gnu.map(([name, { byteLength }]) => [name, byteLength])).toEqual([
    [LONG, 3],
    ['b', 0],
  ]);
  const records = record('mtime=1.5') + record(`path=${LONG}`);
  const pax = await namesIn(
    memberOf('g', record('comment=x'), 'g'),
    memberOf('x', records, 'x'),
    memberOf('s', 'abc'),
  );
  expect(pax.map(([name]) => name)).toEqual([LONG]);
});

test('a name of two parts is put together', async () => {
  expect((await namesIn(memberOf('model.pt', '', '0', 'runs/one'))).map(([name]) => name)).toEqual([
    'runs/one/model.pt',
  ]);
});

test.each(['99999999', '-3', 'many', ''])(
  'a size of PAX that leads out of the file is refused: %j',
  async (size) => {
    const failure = await failureOf(() =>
      namesIn(memberOf('x', record(`size=${size}`), 'x'), memberOf('m', 'abc')),
    );
    expect(failure.code).toBe('malformed');
  },
);
