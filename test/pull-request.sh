#!/usr/bin/env bash
# Stands in for a team's pull requests: a baseline is committed once, then fine-tuned checkpoints come in.
# Runs the built command line as a GitHub Actions step would, and checks exit codes, annotations and job summary.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
pairs="$root/fixtures/pairs"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"

bn_audit() { node "$root/bin/bn-audit.js" "$@"; }

fail() {
  echo "FAILED: $1" >&2
  for file in stdout stderr summary.md; do
    if [ -f "$file" ]; then
      echo "--- $file" >&2
      cat "$file" >&2
    fi
  done
  exit 1
}

# A job's step: pull_request PAIR EXPECTED_EXIT_CODE
pull_request() {
  : > summary.md
  local status=0
  GITHUB_ACTIONS=true GITHUB_STEP_SUMMARY="$work/summary.md" GITHUB_WORKSPACE="$work" \
    bn_audit diff --pair "$1" > stdout 2> stderr || status=$?
  [ "$status" -eq "$2" ] || fail "$1: expected exit code $2, found $status"
}

expect() { grep -q -- "$2" "$1" || fail "expected \"$2\" in $1"; }
expect_no() { ! grep -q -- "$2" "$1" || fail "expected no \"$2\" in $1"; }

echo 'main: the checkpoints from before the freeze become baselines, and the policy names the pairs'
mkdir models
bn_audit baseline "$pairs/requires-grad-leak/before.safetensors" -o models/leak.bn.safetensors
bn_audit baseline "$pairs/locked/before.safetensors" -o models/locked.bn.safetensors
cat > bn-audit.config.json << 'JSON'
{
  "frozen": ["backbone"],
  "pairs": {
    "drifted": {"before": "models/leak.bn.safetensors", "after": "models/drifted.safetensors"},
    "locked": {"before": "models/locked.bn.safetensors", "after": "models/locked.safetensors"},
    "unknown": {"before": "models/gone.bn.safetensors", "after": "models/locked.safetensors"}
  },
  "reports": {"html": "report.html", "junit": "report.xml"}
}
JSON

echo 'pull request 1: the backbone was frozen by requires_grad=False, and drifted'
cp "$pairs/requires-grad-leak/after.safetensors" models/drifted.safetensors
pull_request drifted 1
expect stdout 'DRIFTED'
expect stderr '^::error title=Statistics of a frozen layer drifted,file=models/drifted.safetensors::8 layers of backbone, the worst backbone\.'
expect summary.md '^### ❌ Drifted: '
expect report.html '<!doctype html>'
expect report.xml '<failure '

echo 'pull request 2: the backbone was put in eval() after every train()'
cp "$pairs/locked/after.safetensors" models/locked.safetensors
pull_request locked 0
expect stdout 'CLEAN'
expect_no stderr '^::error'
expect summary.md '^### ✅ '

echo 'pull request 3: the baseline is missing'
pull_request unknown 2
expect stderr '^bn-audit: models/gone.bn.safetensors: no such file'
expect stderr '^::error .*models/gone.bn.safetensors: no such file'
expect summary.md '^### ❌ Failed'

echo 'all pull requests at once: what can be audited is, and the exit code is that of what cannot'
: > summary.md
status=0
bn_audit diff --all-pairs > stdout 2> stderr || status=$?
[ "$status" -eq 2 ] || fail "expected exit code 2, found $status"
expect stdout '1 of 3 checkpoints drifted, 1 failed: it could not be audited'

echo 'ok'
