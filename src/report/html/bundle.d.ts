/** What esbuild makes of the file, as text; see build/bundle-text.js. */
declare module '*?bundle' {
  const text: string;
  export default text;
}
