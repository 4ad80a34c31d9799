/** Modules that wrap another and put their name before its own: DDP, torch.compile, FSDP, activation checkpointing. */
const WRAPPERS = /(^|\.)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)/g;

/** A name without the modules that wrappers put into it. */
export function stripWrappers(name: string): string {
  return name.replace(WRAPPERS, '').replace(/^\./, '');
}
