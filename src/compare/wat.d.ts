/** What the text of a WebAssembly module assembles to; see assemble-wat.js. */
declare module '*.wat' {
  const bytes: Uint8Array<ArrayBuffer>;
  export default bytes;
}
