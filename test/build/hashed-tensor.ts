import {
  type ChannelLayout,
  type ChannelProjections,
  PROJECTION_COUNT,
} from '../../src/checkpoint/channel-grid.js';
import type { StoredProjections, Tensor } from '../../src/checkpoint/checkpoint.js';
import { TensorSummarizer } from '../../src/checkpoint/fingerprint.js';
import { type ByteRange, type ByteSource, memorySource } from '../../src/io/byte-source.js';

/** A tensor as a baseline has it: its hash and sample and, where a layout is given, its projections; no values. */
export async function toHashed(
  tensor: Tensor,
  layout: ChannelLayout | null,
  { isSampled = true }: { readonly isSampled?: boolean } = {},
): Promise<Tensor> {
  const { sha256, projections, sample } = await new TensorSummarizer().summarize(tensor, layout);
  const source: ByteSource = {
    name: 'baseline',
    byteLength: tensor.range.byteLength,
    async readInto() {
      throw new Error(`${tensor.name} was read, of which there is no more than a hash`);
    },
    async close() {},
  };
  return {
    ...tensor,
    range: { source, offset: 0, byteLength: tensor.range.byteLength },
    fingerprint: {
      sha256,
      projections: projections === null || layout === null ? null : store(projections, layout),
      sample: sample === null || !isSampled ? null : rangeOf(sample),
    },
  };
}

function store(
  { norms, sums, weightsPerChannel }: ChannelProjections,
  layout: ChannelLayout,
): StoredProjections {
  const rows = [...norms].flatMap((norm, channel) => [
    norm,
    ...sums.slice(channel * PROJECTION_COUNT, (channel + 1) * PROJECTION_COUNT),
  ]);
  const bytes = new Uint8Array(Float32Array.from(rows).buffer);
  return {
    layout,
    weightsPerChannel,
    table: rangeOf(bytes),
  };
}

function rangeOf(bytes: Uint8Array): ByteRange {
  return { source: memorySource('baseline', bytes), offset: 0, byteLength: bytes.byteLength };
}
