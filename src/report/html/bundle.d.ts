/** What esbuild makes of the file, or Python as it is, as text; see build/bundle-text.js. */
declare module '*?bundle' {
  const text: string;
  export default text;
}
