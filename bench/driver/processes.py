"""Starting, pinning and ending the programs that are measured.

Every child is in a session of its own, so that Ctrl-C reaches the driver alone, and dies with the
driver, however that ends. `Processes` ends what is left when its block is left.
"""

import ctypes
import os
import re
import selectors
import signal
import subprocess
import tempfile
import time

PR_SET_PDEATHSIG = 1
UNSUPPORTED = 3  # the exit status of a program that cannot do the workload


class Failed(Exception):
    """A program did what it must not do."""


class Unsupported(Exception):
    """A contender cannot do a workload."""


def pairs(line):
    """"a=1 b=2.5 c=x" -> {"a": 1.0, "b": 2.5}"""
    numbers = {}
    for pair in line.split():
        name, _, value = pair.partition("=")
        try:
            numbers[name] = float(value)
        except ValueError:
            pass  # a name
    return numbers


def choose_cpus(available):
    """(for what is measured, for the load): two cores, or one twice if there is only one.

    The last ones: interrupts tend to come to the first. Two threads of one core are no two cores.
    """
    cpus = sorted(available)
    measured = cpus[-1]
    siblings = _siblings(measured)
    others = [cpu for cpu in cpus if cpu not in siblings] or \
        [cpu for cpu in cpus if cpu != measured] or [measured]
    return measured, others[-1]


def _siblings(cpu):
    try:
        with open("/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list" % cpu) as text:
            numbers = set()
            for part in text.read().strip().split(","):
                first, _, last = part.partition("-")
                numbers.update(range(int(first), int(last or first) + 1))
            return numbers
    except OSError:
        return {cpu}


def state_of(pid):
    """The letter of /proc/PID/stat: R, S, D, ..."""
    with open("/proc/%d/stat" % pid) as stat:
        return stat.read().rsplit(")", 1)[1].split()[0]


class Processes:
    def __init__(self, measured_cpu, load_cpu):
        self.measured_cpu = measured_cpu
        self.load_cpu = load_cpu
        self._children = set()
        self._libc = ctypes.CDLL(None)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        for child in list(self._children):
            self.end(child)

    def start(self, command, cpu, **options):
        libc = self._libc

        def prepare():
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.sched_setaffinity(0, {cpu})

        try:
            child = subprocess.Popen(command, start_new_session=True, preexec_fn=prepare,
                                     universal_newlines=True, **options)
        except FileNotFoundError:
            raise Failed("no such program: " + command[0])
        self._children.add(child)
        return child

    def end(self, child, number=signal.SIGKILL):
        """Sends a signal to the child and what it started, and waits."""
        if child.poll() is None:
            try:
                os.killpg(child.pid, number)
            except ProcessLookupError:
                pass
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                stream.close()
        self._children.discard(child)

    def run(self, command, cpu, timeout=120):
        """Runs a program to its end; its output. Unsupported or Failed if it says so."""
        child = self.start(command, cpu, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           stdin=subprocess.DEVNULL)
        try:
            output, complaint = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise Failed("no end after %d s: %s" % (timeout, " ".join(command)))
        finally:
            self.end(child)
        check(child.returncode, command, complaint)
        return output

    def measure(self, command, cpu, timeout=120):
        """The name=value pairs of the one line that a program prints."""
        return pairs(self.run(command, cpu, timeout))

    def count_calls(self, command, timeout=300):
        """{system call: how often} of a program that ends by itself."""
        with tempfile.NamedTemporaryFile("r", prefix="posthouse-bench.") as table:
            self.run(strace(table.name) + command, self.measured_cpu, timeout)
            return parse_strace(table.read())


def check(status, command, complaint):
    words = " ".join(command)
    if status == UNSUPPORTED:
        raise Unsupported(complaint.strip().splitlines()[-1] if complaint.strip() else "unsupported")
    if status != 0:
        raise Failed("status %s: %s\n%s" % (status, words, complaint.strip()))


def strace(table):
    return ["strace", "-f", "-c", "-U", "calls,name", "-o", table, "--"]


def parse_strace(table):
    calls = {}
    for line in table.splitlines():
        match = re.match(r"\s*(\d+)\s+([a-z]\w*)$", line)
        if match and match.group(2) != "total":
            calls[match.group(2)] = int(match.group(1))
    if not calls:
        raise Failed("strace has counted nothing:\n" + table)
    return calls


class Server:
    """An echo server: `port` and `pid`, for as long as the block lasts."""

    PATIENCE_S = 20

    def __init__(self, processes, command, trace=False):
        self._processes = processes
        self._command = command
        self._trace = trace
        self.calls = None  # of the whole life, when traced and over

    def __enter__(self):
        self._table = tempfile.NamedTemporaryFile("r", prefix="posthouse-bench.")
        self._errors = tempfile.TemporaryFile("w+")
        command = strace(self._table.name) + self._command if self._trace else self._command
        self._child = self._processes.start(command, self._processes.measured_cpu,
                                            stdout=subprocess.PIPE, stderr=self._errors,
                                            stdin=subprocess.DEVNULL)
        try:
            ready = pairs(self._line())
        except BaseException:
            self._processes.end(self._child)
            raise
        self.port, self.pid = int(ready["port"]), int(ready["pid"])
        return self

    def __exit__(self, kind, *unused):
        if kind is not None and issubclass(kind, Failed):
            # The load failed because the server did, perhaps: that says more.
            self._wait(1)
        ended_by_itself = self._child.poll() is not None
        if not ended_by_itself and self._trace:
            os.kill(self.pid, signal.SIGTERM)  # strace ends with it, and writes its table
            self._wait(self.PATIENCE_S)
        self._processes.end(self._child, signal.SIGTERM)
        with self._table, self._errors:
            if ended_by_itself and (kind is None or issubclass(kind, Failed)):
                self._complain()
            if self._trace and kind is None:
                self.calls = parse_strace(self._table.read())

    def _wait(self, seconds):
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            pass

    def _complain(self):
        self._errors.seek(0)
        check(self._child.returncode, self._command, self._errors.read())
        raise Failed("ended by itself: " + " ".join(self._command))

    def _line(self):
        with selectors.DefaultSelector() as selector:
            selector.register(self._child.stdout, selectors.EVENT_READ)
            if not selector.select(self.PATIENCE_S):
                raise Failed("no word from " + " ".join(self._command))
        line = self._child.stdout.readline()
        if "=" not in line:
            self._wait(self.PATIENCE_S)
            self._complain()
        return line

    def report(self):
        """What the server says about itself. Only while nobody asks it anything."""
        deadline = time.monotonic() + self.PATIENCE_S
        while state_of(self.pid) != "S":
            if time.monotonic() > deadline:
                raise Failed("never idle: " + " ".join(self._command))
            time.sleep(0.01)
        os.kill(self.pid, signal.SIGUSR1)
        return pairs(self._line())
