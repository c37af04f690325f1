# Shared by the tools; sourced, with the repository as working directory.

cache=${POSTHOUSE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/posthouse}
started=$SECONDS

# One line per step, with the time since the tool was started.
step() { printf '[%4ds] %s\n' "$((SECONDS - started))" "$*" >&2; }

die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Runs a command whose output matters only when it fails.
run_quietly() {
  local log status=0
  log=$(mktemp)
  "$@" </dev/null >"$log" 2>&1 || status=$?
  if [ $status -ne 0 ]; then
    tail -n 40 "$log" >&2
    rm -f "$log"
    die "failed with status $status: $*"
  fi
  rm -f "$log"
}

# Debian's wrapper knows only its own Bazel and refuses every version number in
# .bazelversion; users with Bazelisk get what that file says.
bazel() {
  local launcher=bazel
  if command -v bazelisk >/dev/null && [ "${POSTHOUSE_SETUP:-debian}" = none ]; then
    launcher=bazelisk
  else
    export USE_BAZEL_VERSION=latest
  fi
  command "$launcher" "$@"
}
