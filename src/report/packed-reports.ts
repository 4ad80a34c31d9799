import { deserialize, serialize } from 'node:v8';
import { constants, deflateSync, inflateSync } from 'node:zlib';
import type { AuditReport } from './audit-report.js';
import { type ReportHead, type Reports, toHead } from './audit-set.js';

/**
 * Reports of many audits, in some per cent of the memory that they take as objects: each is packed as it comes, and made
 * anew each time it is asked for.
 */
export class PackedReports implements Reports {
  readonly heads: ReportHead[] = [];
  readonly #packed: Uint8Array[] = [];

  get length(): number {
    return this.#packed.length;
  }

  add(report: AuditReport): void {
    const packed = deflateSync(serialize(report), { level: constants.Z_BEST_SPEED });
    this.#packed.push(packed);
    // Unpacked, so that no head keeps a name that is a piece of a file's whole header.
    this.heads.push(toHead(unpack(packed)));
  }

  at(index: number): AuditReport | undefined {
    const packed = this.#packed.at(index);
    return packed === undefined ? undefined : unpack(packed);
  }

  *[Symbol.iterator](): Iterator<AuditReport> {
    for (const packed of this.#packed) yield unpack(packed);
  }
}

function unpack(packed: Uint8Array): AuditReport {
  return deserialize(inflateSync(packed)) as AuditReport;
}
