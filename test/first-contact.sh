#!/usr/bin/env bash
# Plays a stranger who follows the docs, with nothing but a packed tarball: an empty folder, a baseline, a policy, hooks of
# the real pre-commit, a commit; then a drifted checkpoint, which no hook and no CI step may let pass.
#
#   test/first-contact.sh TARBALL PRE_COMMIT...
#
# TARBALL is what npm pack made, each PRE_COMMIT a pre-commit to try. The way with the first of them, from the empty folder to
# the failing CI step, must take less than five minutes; then come the other hooks that the docs show.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
tarball="$(realpath "$1")"
shift
pair="$root/fixtures/pairs/requires-grad-leak"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# Nothing of the machine's own but where npm has packages from: environments of hooks, packages and settings are new.
npm_config_userconfig="$(npm config get userconfig)"
npm_config_globalconfig="$(npm config get globalconfig)"
export npm_config_userconfig npm_config_globalconfig
export HOME="$work/home" PRE_COMMIT_HOME="$work/pre-commit" npm_config_prefix="$work/npm" npm_config_cache="$work/cache"
export GIT_CONFIG_GLOBAL="$work/gitconfig" GIT_CONFIG_NOSYSTEM=1 npm_config_update_notifier=false
mkdir -p "$HOME" "$work/npm"
git config --global user.name stranger
git config --global user.email stranger@example.org
git config --global init.defaultBranch main

log="$work/log"
begin=$SECONDS
step() {
  echo "$((SECONDS - begin)) s  $1"
}
fail() {
  echo "FAILED: $1" >&2
  cat "$log" >&2
  exit 1
}
# Runs a command that must end with the exit code $1; what it prints is in the log.
expect_exit() {
  local expected="$1" status=0
  shift
  "$@" > "$log" 2>&1 || status=$?
  [ "$status" -eq "$expected" ] || fail "exit code $status, expected $expected: $*"
}
expect() { grep -q -- "$1" "$log" || fail "expected \"$1\""; }

# The blocks of a page that hold $2, each without its indent, in files $3-1, $3-2, …
extract() {
  node -e '
    const [page, wanted, prefix] = process.argv.slice(1);
    const blocks = fs.readFileSync(page, "utf8").match(/(?:^(?: {4}.*)?\n)+/gm).filter((block) => block.includes(wanted));
    blocks.forEach((block, index) =>
      fs.writeFileSync(`${prefix}-${index + 1}`, block.replace(/^ {4}/gm, "").trim() + "\n"));
  ' "$1" "$2" "$3"
}

step 'an empty folder becomes a project: bn-audit, a baseline, a policy'
mkdir "$work/project"
cd "$work/project"
git init --quiet
npm init --yes > /dev/null
expect_exit 0 npm install --save-dev --no-audit --no-fund "$tarball"
mkdir models
cp "$pair/before.pt" models/backbone.pt
expect_exit 0 npx bn-audit baseline models/backbone.pt -o models/backbone.bn.safetensors
expect_exit 0 npx bn-audit init models/backbone.pt
printf 'node_modules/\nmodels/backbone.pt\n' > .gitignore
git add .
git commit --quiet --message 'A baseline and a policy'

# The mirror as it is published, but for where npm has bn-audit from.
cp -R "$root/pre-commit" "$work/mirror"
sed -i.bak "s#['\"]bn-audit@[^'\"]*['\"]#'$tarball'#" "$work/mirror/.pre-commit-hooks.yaml"
rm "$work/mirror/.pre-commit-hooks.yaml.bak"
grep -q "$tarball" "$work/mirror/.pre-commit-hooks.yaml" || fail 'the hook installs no bn-audit'
git -C "$work/mirror" init --quiet
git -C "$work/mirror" add .
git -C "$work/mirror" commit --quiet --message mirror
extract "$root/docs/ci/pre-commit.md" 'repos:' "$work/hook"
git -C "$work/mirror" tag "$(sed -n 's/^ *rev: //p' "$work/hook-1")"
[ -f "$work/hook-3" ] || fail 'expected three examples in docs/ci/pre-commit.md'
export GIT_ALLOW_PROTOCOL=file
# What the hook $2 does with the pre-commit $1.
try_hook() {
  local version
  version="$("$1" --version)"
  step "$version, ${2##*/}: what stood still is committed, what drifted is not"
  sed "s#https://github.com/.*/bn-audit-pre-commit#file://$work/mirror#; s#['\"]bn-audit@[^'\"]*['\"]#'$tarball'#" \
    "$2" > .pre-commit-config.yaml
  expect_exit 0 "$1" install
  cp "$pair/before.pt" models/tuned.pt
  git add .pre-commit-config.yaml models/tuned.pt
  expect_exit 0 git commit --message "Tuned, with $version"
  cp "$pair/after.pt" models/tuned.pt
  git add models/tuned.pt
  expect_exit 1 "$1" run
  expect 'DRIFTED'
  expect 'frozen-stats-drift'
  expect_exit 1 git commit --message 'Drifted'
  git reset --quiet --hard
  git rm --quiet models/tuned.pt
  git commit --quiet --message 'Start again' --no-verify
  expect_exit 0 "$1" uninstall
}

first="$1"
try_hook "$first" "$work/hook-1"

page="$root/docs/ci/github-actions.md"
export GITHUB_ACTIONS=true GITHUB_WORKSPACE="$PWD" GITHUB_STEP_SUMMARY="$work/summary.md" RUNNER_TEMP="$work"
cp "$pair/after.pt" models/tuned.pt

step 'the steps of the workflow without the action'
expect_exit 0 npm install --global --ignore-scripts --no-audit --no-fund "$tarball"
node -e '
  const step = /- run: >\n((?: +.*\n)+?) {6}- if/.exec(fs.readFileSync(process.argv[1], "utf8").replace(/^ {4}/gm, ""));
  console.log(step[1].replace(/\s+/g, " "));
' "$page" > "$work/step.sh"
grep -q 'bn-audit diff .*--report sarif' "$work/step.sh" || fail 'expected the audit in docs/ci/github-actions.md'
expect_exit 1 env PATH="$work/npm/bin:$PATH" bash -eo pipefail "$work/step.sh"
expect '^::error .*file=models/tuned.pt'
grep -q '❌ Drifted' "$work/summary.md" || fail 'expected the drift in the job summary'
[ -s bn-audit.html ] && [ -s bn-audit.sarif ] || fail 'expected both reports'

step 'the action, as a runner has it: the sources, which it builds itself'
mkdir "$work/action"
(cd "$root" && git ls-files -z bin build build.js docs src package.json package-lock.json .npmrc 'tsconfig*.json' action.sh |
  xargs -0 tar c) | tar x -C "$work/action"
: > "$work/output"
for input in COMMAND RUN PAIR FROZEN ALLOW FAIL_ON MIN_SHIFT EPSILON MAP CONFIG ARGS; do export "INPUT_$input="; done
expect_exit 1 env GITHUB_ACTION_PATH="$work/action" GITHUB_OUTPUT="$work/output" INPUT_FROZEN=backbone \
  INPUT_BEFORE=models/backbone.bn.safetensors INPUT_AFTER=models/tuned.pt \
  bash -c 'POSIXLY_CORRECT=y; source "$GITHUB_ACTION_PATH/action.sh"'
expect '^::error .*file=models/tuned.pt'
grep -q '^verdict=drifted$' "$work/output" || fail 'expected the verdict among the outputs of the action'

seconds=$((SECONDS - begin))
step 'that was the first contact'
[ "$seconds" -lt 300 ] || fail "it took $seconds seconds, expected under 300"

unset GITHUB_ACTIONS GITHUB_WORKSPACE GITHUB_STEP_SUMMARY
for pre_commit in "$@"; do
  for hook in "$work"/hook-*; do
    [ "$pre_commit $hook" = "$first $work/hook-1" ] || try_hook "$pre_commit" "$hook"
  done
done
step 'done'
