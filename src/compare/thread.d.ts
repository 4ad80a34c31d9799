/** What esbuild makes of the file, as text; see bundle-text.js. */
declare module '*?thread' {
  const text: string;
  export default text;
}
