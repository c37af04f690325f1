#!/bin/sh
# Runs a test program once more, with other arguments.
exec "$@"
