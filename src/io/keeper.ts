/** Lets one of several sources at a time hold what it has computed, so that memory stays at what one of them holds. */
export class Keeper {
  #release: () => void = () => {};

  /** Has the source that held something before give it up. @param release the one that holds something from here on. */
  take(release: () => void): void {
    if (release === this.#release) return;
    this.#release();
    this.#release = release;
  }
}
