#!/bin/bash
# The driver of tools/bench, see driver_test.py.
#
#   driver_test.sh DRIVER
set -euo pipefail
export BENCH_DRIVER=$1
exec python3 -B "$(dirname "$0")/driver_test.py"
