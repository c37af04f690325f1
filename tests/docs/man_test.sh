#!/bin/bash
# The manual pages are well formed, and name every option and every parameter of their programs.
set -u
failed=0
fail() { echo "FAILED: $*"; failed=1; }

page() { # NAME.SECTION: as a reader sees it, without overstrikes
  groff -mandoc -Tutf8 -rLL=200n "docs/man/$1" 2>/dev/null | sed -e 's/.\x08//g' -e 's/\x1b\[[0-9;]*m//g'
}

for file in docs/man/*.[178]; do
  complaints=$(groff -mandoc -ww -rCHECKSTYLE=3 -Tutf8 "$file" 2>&1 >/dev/null)
  [ -z "$complaints" ] || fail "$file: $complaints"
done

# Parameters, as --help lists them in the table of the program's own.
names_of() { # PROGRAM PREFIX
  "$1" --help 2>&1 | grep -oE "^ *$2[a-z0-9_]+" | tr -d ' ' | sort -u
}
expect_parameters() { # PROGRAM PREFIX PAGE
  local names name text
  names=$(names_of "$1" "$2")
  [ -n "$names" ] || fail "$1 --help lists no parameter that begins with $2"
  text=$(page "$3")
  for name in $names; do
    grep -qwF -- "$name" <<<"$text" || fail "$3 does not name $name"
  done
}
expect_parameters examples/policy/policyd policy_ policyd.8
expect_parameters examples/anvil/anvil anvil_ posthouse-anvil.8

expect_options() { # PAGE OPTION ...
  local text option page=$1
  shift
  text=$(page "$page")
  for option; do
    grep -qE -- "^ +$option\b" <<<"$text" || fail "$page does not explain $option"
  done
}
# The letters of a master (M1, F100) and of a worker (S25).
expect_options posthouse-master.8 -c -D -d -e -i -r -s -t -v -w
expect_options posthouse-worker.7 -c -D -d -i -l -m -n -o -S -s -t -u -V -v -z --listen --listen-mode
expect_options policy-ask.1 -c -t -h

[ $failed = 0 ] && echo "every page is right"
exit $failed
