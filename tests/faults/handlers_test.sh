#!/bin/bash
# F24: what signal handlers reach. There is one handler in the library, Watchdog::OnAlarm, and it
# may call nothing but functions that are async-signal-safe: the seam's answer of sigpending(2),
# sigset functions, and Expire(), which does not return. Whoever installs a second handler, or lets
# this one log or allocate, finds this test red.
#
#   handlers_test.sh PROGRAM
set -euo pipefail
program=$1
fail() { echo "FAILED: $*" >&2; exit 1; }

code=$(mktemp)
trap 'rm -f "$code"' EXIT
objdump -d --no-show-raw-insn "$program" >"$code"

# Who sets dispositions. The watchdog installs the handler; the others set SIG_IGN or SIG_DFL.
setters=$(awk '/^[0-9a-f]+ <.*>:$/ { name = $2; gsub(/[<>:]/, "", name) }
  /[ \t](call|jmp)[ \t].*<_ZN9posthouse2os9SigactionE[^>]*>/ { print name }' "$code" | sort -u)
for setter in $setters; do
  case $setter in
    _ZN9posthouse8Watchdog*) ;;
    _ZNK9posthouse11SignalWatch* | _ZN9posthouse11SignalWatch*) ;;  # SIG_DFL, which a signal descriptor needs
    *SetDisposition*) ;;                # worker_start.cc: its handler is SIG_IGN or SIG_DFL
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
leaf='^(_ZN9posthouse8Watchdog6Expire|_ZN9posthouse2os10SigpendingE|sigemptyset@|sigismember@|__errno_location@|__stack_chk_fail@|__asan_|__ubsan_|__tsan_)'
# Followed: ours, and accessors of the standard library that only compute.
followed='^(_ZN9posthouse8Watchdog|_ZNK9posthouse8Watchdog|_ZNK?9posthouse9EventLoop8counters|_ZNK?9posthouse9EventLoop4Impl8counters|_ZNK?9posthouse10TimerQueue|_ZNK?9posthouse10WatchTable|_ZNK9posthouse12HandlerMeter|_ZNK9posthouse6Poller8counters|_ZNKSt|_ZSt|_ZNSt)'
todo=(_ZN9posthouse8Watchdog7OnAlarmEiP9siginfo_tPv)
grep -q "<${todo[0]}>:" "$code" || fail "the handler was not found in $program"
declare -A seen
while [ ${#todo[@]} -gt 0 ]; do
  function=${todo[0]}
  todo=("${todo[@]:1}")
  [ -z "${seen[$function]:-}" ] || continue
  seen[$function]=1
  [[ $function =~ $leaf ]] && continue
  [[ $function =~ $followed ]] || fail "the handler reaches $function"
  while read -r callee; do
    [ -n "$callee" ] && todo+=("$callee")
  done < <(callees "$function")
done
[ "${#seen[@]}" -gt 3 ] || fail "the calls of the handler were not found in $program"
echo "the signal handler reaches ${#seen[@]} functions, all of them allowed:"
printf '  %s\n' "${!seen[@]}"
