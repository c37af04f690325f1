#!/bin/bash
# F8: runs a test program under an interval timer of 1 kHz.
#
#   kilohertz_test.sh LIBRARY PROGRAM ARGUMENT...
set -euo pipefail
library=$(realpath "$1")
shift
if grep -q __asan_init "$1" 2>/dev/null; then
  echo "skipped: a sanitizer wants to be the first library"
  exit 0
fi
LD_PRELOAD=$library exec "$@"
