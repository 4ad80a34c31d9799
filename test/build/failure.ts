import { CheckpointError, type CheckpointErrorCode, UsageError } from '../../src/errors.js';

/** Everything that a CheckpointError tells a user. */
export interface Failure {
  readonly message: string;
  readonly code: CheckpointErrorCode;
  readonly file: string;
  readonly offset?: number | bigint;
  readonly hint?: string;
}

/** Runs an action that must fail with a CheckpointError, and returns what that says. Any other outcome fails the test. */
export async function failureOf(action: () => unknown): Promise<Failure> {
  try {
    await action();
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
    const { message, code, file, offset, hint } = error;
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
    return { message: error.message, hint: error.hint };
  }
  throw new Error('expected a UsageError, but nothing was thrown');
}
