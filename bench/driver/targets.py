"""What posthouse must reach: the table of targets, one line each.

A target says: `metric` of `contender`, divided by that of `to`, is at most `bound`, in every cell of
`workload` whose settings are among `where`. `to` is a contender, or "W1" for the same contender's
cell of W1 with the same settings. Other units than a ratio: ns (the metric itself), calls (system
calls per operation), bytes (of user memory per idle connection).

Two kinds of rows name somebody who is no contender here and stay "not measured": edge-triggered
epoll (posthouse-et), which is not built, and ae, whose figures are of once.
"""

import collections

Target = collections.namedtuple("Target", "workload where metric contender unit to bound")


def _ratio(workload, metric, bound, to="raw", contender="posthouse", **where):
    return Target(workload, where, metric, contender, "ratio", to, bound)


def _absolute(workload, unit, bound, metric=None, contender="posthouse", **where):
    return Target(workload, where, metric or unit, contender, unit, None, bound)


ALL = [
    # Dispatch.
    _ratio("W1", "cpu_ns", 1.02, active=1),
    _ratio("W1", "cpu_ns", 0.94, contender="posthouse-io_uring", active=1),
    _ratio("W1", "cpu_ns", 0.97, contender="posthouse-et", active=1),
    _ratio("W1", "cpu_ns", 0.91, to="libuv", active=1),
    _ratio("W1", "cpu_ns", 0.82, to="libev", active=1),
    _ratio("W1", "cpu_ns", 1.00, to="ae", active=1),
    _ratio("W1", "cpu_ns", 1.01, active=100),
    _ratio("W1", "cpu_ns", 0.97, contender="posthouse-et", active=100),
    _ratio("W1", "cpu_ns", 0.93, contender="posthouse-io_uring", active=100),
    _ratio("W1", "cpu_ns", 0.98, to="libev", active=100),
    _ratio("W1", "cpu_ns", 0.93, to="libevent", active=100),
    # Dispatch with a timeout pushed back.
    _ratio("W2", "cpu_ns", 1.00, active=1),
    _ratio("W2", "cpu_ns", 0.88, to="libev", active=1),
    _ratio("W2", "cpu_ns", 1.01, active=100),
    _ratio("W2", "cpu_ns", 1.02, to="W1", active=100),
    _ratio("W2", "cpu_ns", 0.94, to="libev", active=100),
    _ratio("W2", "cpu_ns", 0.80, to="libuv", active=100),
    _ratio("W2", "cpu_ns", 0.80, to="libevent", active=100),
    # Timers.
    _ratio("W3", "insert_ns", 1.2),
    _absolute("W3", "ns", 13, "insert_ns"),
    _ratio("W3", "insert_ns", 0.25, to="libev"),
    _ratio("W3", "push_ns", 1.1),
    _ratio("W3", "push_ns", 0.45, to="libev", timers=1000),
    _ratio("W3", "push_ns", 0.35, to="libev", timers=100000),
    _ratio("W3", "push_ns", 0.15, to="libev", timers=1000000),
    _ratio("W3", "rearm_ns", 1.1),
    _ratio("W3", "rearm_ns", 0.6, to="libev", timers=1000),
    _ratio("W3", "rearm_ns", 0.45, to="libev", timers=100000),
    _ratio("W3", "rearm_ns", 0.4, to="libev", timers=1000000),
    _ratio("W3", "cancel_ns", 1.1),
    _ratio("W3", "cancel_ns", 0.3, to="libev", timers=1000),
    _ratio("W3", "cancel_ns", 0.3, to="libev", timers=100000),
    _ratio("W3", "cancel_ns", 0.5, to="libev", timers=1000000),
    _ratio("W3", "fire_ns", 0.8),
    _absolute("W3", "ns", 85, "fire_ns", timers=1000),
    _absolute("W3", "ns", 260, "fire_ns", timers=1000000),
    _ratio("W3", "fire_ns", 0.6, to="libev"),
    # Changes of interest.
    _ratio("W4", "cpu_ns", 0.22, change="flip"),
    _ratio("W4", "cpu_ns", 0.25, contender="posthouse-io_uring", change="flip"),
    _ratio("W4", "cpu_ns", 0.8, to="libevent-changelist", change="flip"),
    _absolute("W4", "calls", 0.5, change="flip"),
    _ratio("W4", "cpu_ns", 1.02, change="swap"),
    _ratio("W4", "cpu_ns", 0.9, to="libev", change="swap"),
    _absolute("W4", "calls", 1.0, change="swap"),
    _ratio("W4", "cpu_ns", 0.03, change="transient"),
    _absolute("W4", "ns", 6, "cpu_ns", change="transient"),
    _absolute("W4", "calls", 0, change="transient"),
    _ratio("W4", "cpu_ns", 0.15, to="libevent-changelist", change="transient"),
    _ratio("W4", "cpu_ns", 0.02, change="pause"),
    _absolute("W4", "ns", 6, "cpu_ns", change="pause"),
    _absolute("W4", "calls", 0, change="pause"),
    _ratio("W4", "cpu_ns", 0.1, to="libev", change="pause"),
    # Echo.
    _ratio("W5", "cpu_us", 1.02),
    _ratio("W5", "cpu_us", 0.92, contender="posthouse-stream", clients=50),
    _ratio("W5", "cpu_us", 0.85, contender="posthouse-stream", clients=10000),
    _ratio("W5", "cpu_us", 0.95, to="libuv-stream"),
    _absolute("W5", "calls", 2.05, clients=50),
    _absolute("W5", "calls", 0.15, contender="posthouse-stream", clients=50),
    _absolute("W5", "bytes", 64),
    _absolute("W5", "bytes", 104, contender="posthouse, idle timer"),
    Target("W5", {}, "bytes", "posthouse", "bytes", "libev", 0.65),
    # Connections.
    _ratio("W6", "cpu_us", 1.02),
    _absolute("W6", "calls", 6.1),
    _ratio("W6", "cpu_us", 0.80, contender="posthouse-stream"),
    _absolute("W6", "calls", 2, contender="posthouse-stream"),
    _ratio("W6", "cpu_us", 0.95, to="libev"),
]
