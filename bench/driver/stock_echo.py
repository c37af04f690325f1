"""examples/echo as a worker of the stock master: multi_server, a contender of W5.

It is started once and serves all of its runs: a master does not start a process for each either.
"""

import os
import socket

from contenders import Contender
from processes import Failed
from stock_master import StockMaster, why_not

PROGRAM = "posthouse-echo"


class StockEcho:
    contender = Contender("multi_server", None, ("multi_server", []),
                          "the skeleton, under the stock master")

    def __init__(self, binaries, cpu):
        self._echo = os.path.join(os.path.dirname(binaries), "examples", "echo", "echo")
        self._cpu = cpu
        self._master = None
        self._client = None
        self.reason = None  # why it could not be started

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if self._client is not None:
            self._client.close()
        if self._master is not None:
            self._master.close()

    def start(self):
        self.reason = why_not()
        if self.reason is None:
            try:
                self._start()
            except (Failed, OSError) as error:
                self.reason = str(error)
        return self.reason is None

    def _start(self):
        self.port = free_port()
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self._cpu})  # master and worker inherit it
        try:
            self._master = StockMaster("127.0.0.1:%d inet n - n - 1 %s\n" % (self.port, PROGRAM),
                                       {PROGRAM: self._echo})
        finally:
            os.sched_setaffinity(0, before)
        # A first connection starts the worker; kept open, it keeps it from leaving.
        self._client = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        self._client.sendall(b"hello\n")
        if self._client.recv(100) != b"hello\n":
            raise Failed("the worker does not answer; log:\n" + self._master.log())
        self.pid, self.extra_pid = self._master.worker(PROGRAM), self._master.pid()
        if self.pid is None:
            raise Failed("no process of " + PROGRAM)

    def complaints(self):
        return ["log of the stock master: " + line for line in self._master.complaints()] \
            if self._master is not None else []


def free_port():
    """One that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
