// Stands in for the package with which the install script of onnxruntime-node begins. The script would fetch hundreds of
// megabytes of CUDA, which no test needs, and fail where it may not: it ends here. (An .npmrc that has it skipped makes
// newer versions of npm warn.)
exports.bootstrap = () => process.exit(0);
