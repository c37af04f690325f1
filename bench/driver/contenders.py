"""Who is measured: which program with which settings. A contender is one line here.

`micro` and `echo` are the program's name after "micro_" and "echo_" and its settings; None where the
contender has no part in those workloads. W1 to W4 use `micro`, W5 and W6 `echo`.

raw is the hand-written epoll loop that the others are divided by; raw2 is the same program under
another name, so what it reads away from 1.00 is the noise of the run.
"""

import collections

Contender = collections.namedtuple("Contender", "name micro echo title")


def _program(name, **settings):
    return name, ["%s=%s" % pair for pair in settings.items()]


def _posthouse(backend):
    return _program("posthouse", backend=backend)


ALL = [
    Contender("raw", _program("raw"), _program("raw"), "a hand-written epoll loop"),
    Contender("raw2", _program("raw"), _program("raw"), "the same, under another name"),
    Contender("posthouse", _posthouse("epoll"), _posthouse("epoll"), "on epoll"),
    Contender("posthouse-stream", None, _program("posthouse_stream"),
              "completion streams on io_uring"),
    Contender("posthouse-io_uring", _posthouse("io_uring"), _posthouse("io_uring"), "on io_uring"),
    Contender("posthouse-poll", _posthouse("poll"), _posthouse("poll"), "on poll"),
    Contender("posthouse-select", _posthouse("select"), _posthouse("select"), "on select"),
    Contender("libevent", _program("libevent"), _program("libevent_readiness"), "events"),
    Contender("libevent-changelist", _program("libevent", variant="changelist"), None,
              "events, EVENT_BASE_FLAG_EPOLL_USE_CHANGELIST"),
    Contender("libevent-stream", None, _program("libevent_stream"), "bufferevents"),
    Contender("libev", _program("libev"), _program("libev"), "ev_io, ev_timer"),
    Contender("libuv", _program("libuv"), _program("libuv_readiness"), "uv_poll, uv_timer"),
    Contender("libuv-stream", None, _program("libuv_stream"), "uv_tcp"),
    Contender("asio", _program("asio"), _program("asio_readiness"), "async_wait"),
    Contender("asio-stream", None, _program("asio_stream"), "async_read_some, async_write"),
]

BY_NAME = {contender.name: contender for contender in ALL}

# For tools/bench --quick.
QUICK = ["raw2", "posthouse", "libevent", "libev", "libuv", "asio"]

# Whose memory per connection is counted besides: an idle timeout on each.
WITH_IDLE_TIMER = Contender("posthouse, idle timer", None,
                            _program("posthouse", backend="epoll", idle=1), "")


def choose(names):
    """The contenders of a list of names besides raw, in the order of ALL, raw2 always among them.

    A name stands for its variants as well: "libuv" brings "libuv-stream".
    """
    known = {contender.name.partition("-")[0] for contender in ALL} | set(BY_NAME)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError("unknown contender %s (known: %s)" %
                         (", ".join(unknown), ", ".join(sorted(known))))
    return [c for c in ALL if c.name != "raw" and
            (c.name == "raw2" or c.name in names or c.name.partition("-")[0] in names)]
