# What action.yml runs, as its step's shell reads it: bn-audit, from the action's own folder.
#
# The step stands in a checkout that is untrusted. Nothing in there may decide what runs: no package of that name, no
# .npmrc, and no program that a step before has put on PATH.

# Functions that a step before exported would take the place of commands. In POSIX mode, which action.yml has switched
# on, none takes the place of unset.
POSIXLY_CORRECT=y
unset -f unset compgen
unset POSIXLY_CORRECT
for name in $(compgen -A function); do unset -f -- "$name"; done

set -euo pipefail
unset CDPATH NODE_OPTIONS NODE_PATH NODE_COMPILE_CACHE
# What has node read or write other files.
unset NODE_V8_COVERAGE NODE_EXTRA_CA_CERTS NODE_REDIRECT_WARNINGS NODE_PENDING_DEPRECATION

workspace="$(cd "${GITHUB_WORKSPACE:-.}" && pwd -P)"

# Whether the path $1, which need not be there, is none in the checkout, nor a link that leads there.
is_trusted() {
  local file="$1" folder target links
  for ((links = 0; links < 40; links++)); do
    folder="$(cd -P "${file%/*}/" 2> /dev/null && pwd -P)" || return 1
    case "$folder/" in "${workspace%/}"/*) return 1 ;; esac
    [ -L "$file" ] || return 0
    target="$(command -p readlink "$file")" || return 1
    case "$target" in /*) file="$target" ;; *) file="$folder/$target" ;; esac
  done
  return 1
}

# Prints the entries of PATH that are no folders of the checkout, such as its node_modules/.bin, and have no program to
# run that is a link into it.
list_trusted_path() {
  local entry entries program trusted=''
  IFS=':' read -ra entries <<< "$PATH"
  for entry in "${entries[@]}"; do
    case "$entry" in /*) ;; *) continue ;; esac
    for program in '' node npm mktemp rm; do
      is_trusted "$entry/$program" || continue 2
    done
    trusted+="${trusted:+:}$entry"
  done
  printf '%s\n' "$trusted"
}

# Leaves the outputs $1 and $2, verdict and report, and ends with the exit code $3.
finish() {
  {
    echo "verdict=$1"
    echo "report=$2"
  } >> "$GITHUB_OUTPUT"
  exit "$3"
}

refuse() {
  echo "bn-audit: $1" >&2
  finish failed '' 2
}

# A checkout of the action holds sources only. They are built once, from their lockfile, which names the hash of every
# package; no package's own scripts run.
build() {
  cd "$GITHUB_ACTION_PATH" &&
    npm ci --ignore-scripts --no-workspaces --no-audit --no-fund --loglevel=error &&
    "$node" build.js
}

# Adds every line of $2 that is not blank, after the option $1.
add_lines() {
  local line
  while IFS= read -r line || [ -n "$line" ]; do
    line="${line#"${line%%[![:space:]]*}"}"
    line="${line%"${line##*[![:space:]]}"}"
    if [ -n "$line" ]; then arguments+=("$1$line"); fi
  done <<< "$2"
}

PATH="$(list_trusted_path)"
# Version managers choose a Node by what the working directory holds: the one that they choose for the action's counts.
# An empty PATH would mean the working directory.
node="$([ -n "$PATH" ] && cd "$GITHUB_ACTION_PATH" && type -P node > /dev/null && node -p process.execPath)" &&
  is_trusted "$node" ||
  refuse 'expected Node 20 or newer on PATH, outside the checkout, found none: let a step with actions/setup-node come before'
if [ ! -d "$GITHUB_ACTION_PATH/dist" ]; then
  (build) >&2 || {
    rm -rf "$GITHUB_ACTION_PATH/dist"
    refuse 'the action could not be built: npm ci needs its registry, and Node 20 or newer'
  }
fi

# A directory of its own: a report of an earlier step must never be taken for this one's.
report="$(mktemp -d "${RUNNER_TEMP:-/tmp}/bn-audit-XXXXXX")/report.json"
# Callers of an earlier version set neither.
: "${INPUT_COMMAND:=diff}" "${INPUT_RUN:=}"
command="$INPUT_COMMAND"
if [ -n "$INPUT_RUN" ]; then command=trace; fi
case "$command" in
  diff | trace) ;;
  *) refuse 'command: expected diff or trace' ;;
esac
arguments=("$command" "--report=json=$report")
add_lines --run= "$INPUT_RUN"
add_lines --pair= "$INPUT_PAIR"
add_lines --frozen= "$INPUT_FROZEN"
add_lines --allow= "$INPUT_ALLOW"
add_lines --fail-on= "$INPUT_FAIL_ON"
add_lines --min-shift= "$INPUT_MIN_SHIFT"
add_lines --epsilon= "$INPUT_EPSILON"
add_lines --map= "$INPUT_MAP"
add_lines --config= "$INPUT_CONFIG"
add_lines '' "$INPUT_ARGS"
if [ -n "$INPUT_BEFORE$INPUT_AFTER" ]; then
  arguments+=(-- "$INPUT_BEFORE")
  add_lines '' "$INPUT_AFTER"
fi

status=0
"$node" "$GITHUB_ACTION_PATH/bin/bn-audit.js" "${arguments[@]}" || status=$?

verdict=failed
if [ -f "$report" ]; then
  verdict="$("$node" -p 'JSON.parse(fs.readFileSync(process.argv[1], "utf8")).verdict' "$report")" ||
    refuse 'the report could not be read'
elif [ "$status" -lt 2 ]; then
  refuse 'expected an audit and its report, found none: args must not ask for anything else, such as --help'
else
  report=''
fi
finish "$verdict" "$report" "$status"
