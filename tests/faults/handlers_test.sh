#!/bin/bash
# F24: what signal handlers reach. There are two in the library, Watchdog::OnAlarm and
# SignalPipe::OnSignal, and they may call nothing but functions that are async-signal-safe: the
# seam's answers of sigpending(2), getpid(2) and write(2), sigset functions, and Expire(), which does
# not return. Whoever installs a third handler, or lets one of these log or allocate, finds this test
# red.
#
#   handlers_test.sh PROGRAM
set -euo pipefail
program=$1
fail() { echo "FAILED: $*" >&2; exit 1; }

code=$(mktemp)
trap 'rm -f "$code"' EXIT
objdump -d --no-show-raw-insn "$program" >"$code"

# Who sets dispositions. The watchdog and the signal watch install the handlers; the others set
# SIG_IGN or SIG_DFL.
setters=$(awk '/^[0-9a-f]+ <.*>:$/ { name = $2; gsub(/[<>:]/, "", name) }
  /[ \t](call|jmp)[ \t].*<_ZN9posthouse2os9SigactionE[^>]*>/ { print name }' "$code" | sort -u)
for setter in $setters; do
  case $setter in
    _ZN9posthouse8Watchdog*) ;;
    _ZNK9posthouse11SignalWatch* | _ZN9posthouse11SignalWatch*) ;;
    *SetDisposition*) ;;                # process/signals.cc; a worker passes SIG_IGN or SIG_DFL
    _ZN9posthouse6Worker7EndLoopEv) ;;  # SIG_IGN
    *) fail "$setter sets a signal's disposition" ;;
  esac
done
[ -n "$setters" ] || fail "nobody sets a disposition in $program"

callees() {  # FUNCTION: what it calls or jumps to, by name
  awk -v name="<$1>:" '
    index($0, name) { inside = 1; next }
    /^$/ { inside = 0 }
    inside && /[ \t](call|jmp)[ \t].*</ { sub(/.*</, ""); sub(/>.*/, ""); if (!/\+0x/) print }
    inside && /[ \t]call[ \t]+\*/ { print "through-a-pointer" }' "$code" | sort -u
}

# Leaves: nothing behind these is followed. Expire() ends the process; see watchdog.h.
leaf='^(_ZN9posthouse8Watchdog6Expire|_ZN9posthouse2os(10Sigpending|6Getpid|5Write)E|sigemptyset@|sigismember@|__errno_location@|__stack_chk_fail@|__asan_|__ubsan_|__tsan_)'
# Followed: ours, and accessors of the standard library that only compute.
followed='^(_ZNK?9posthouse8Watchdog|_ZNK9posthouse11SignalWatch7Pending|_ZNK?9posthouse10SignalPipe|_ZNK9posthouse8UniqueFd3getEv|_ZNK?9posthouse9EventLoop8counters|_ZNK?9posthouse9EventLoop4Impl8counters|_ZNK?9posthouse10TimerQueue|_ZNK?9posthouse10WatchTable|_ZNK9posthouse12HandlerMeter|_ZNK9posthouse6Poller8counters|_ZNKSt|_ZSt|_ZNSt)'
todo=(_ZN9posthouse8Watchdog7OnAlarmEiP9siginfo_tPv _ZN9posthouse10SignalPipe8OnSignalEi)
for handler in "${todo[@]}"; do
  grep -q "<$handler>:" "$code" || fail "the handler $handler was not found in $program"
done
declare -A seen
while [ ${#todo[@]} -gt 0 ]; do
  function=${todo[0]}
  todo=("${todo[@]:1}")
  [ -z "${seen[$function]:-}" ] || continue
  seen[$function]=1
  [[ $function =~ $leaf ]] && continue
  [[ $function =~ $followed ]] || fail "a handler reaches $function"
  while read -r callee; do
    [ -n "$callee" ] && todo+=("$callee")
  done < <(callees "$function")
done
[ "${#seen[@]}" -gt 3 ] || fail "the calls of the handlers were not found in $program"
echo "the signal handlers reach ${#seen[@]} functions, all of them allowed:"
printf '  %s\n' "${!seen[@]}"
