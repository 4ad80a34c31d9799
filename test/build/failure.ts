import { CheckpointError, type CheckpointErrorCode, UsageError } from '../../src/errors.js';

/** Everything that a CheckpointError tells a user. */
export interface Failure {
  readonly message: string;
  readonly code: CheckpointErrorCode;
  readonly file: string;
  readonly offset?: number | bigint;
  readonly hint?: string;
}

/** Fails the test where a message holds characters that steer a terminal, whatever the names in the file. */
export function refuseSteering(message: string): void {
  if (/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/u.test(message))
    throw new Error(`a message holds what it should have escaped: ${JSON.stringify(message)}`);
}

/** Runs an action that must fail with a CheckpointError, and returns what that says. Any other outcome fails the test. */
export async function failureOf(action: () => unknown): Promise<Failure> {
  try {
    await action();
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
    const { message, code, file, offset, hint } = error;
    refuseSteering(`${message}${hint ?? ''}`);
    return {
      message,
      code,
      file,
      ...(offset === undefined ? {} : { offset }),
      ...(hint === undefined ? {} : { hint }),
    };
  }
  throw new Error('expected a CheckpointError, but nothing was thrown');
}

/** Runs an action that must fail with a UsageError, and returns its message and hint. */
export async function usageFailureOf(
  action: () => unknown,
): Promise<{ message: string; hint: string | undefined }> {
  try {
    await action();
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    refuseSteering(`${error.message}${error.hint ?? ''}`);
    return { message: error.message, hint: error.hint };
  }
  throw new Error('expected a UsageError, but nothing was thrown');
}
