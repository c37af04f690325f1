"""What is measured: the cells of W1 to W6, and how one run of each is made.

A cell is one workload with its settings. `measure` makes one run of one contender and returns
{metric: value}, lower is better but for per_s; `count_calls` counts system calls per operation as the
difference of two exact lengths under strace, so that start and end cancel out.

The in-process programs (bench/micro):
  micro_NAME w1|w2 kind=pipe|eventfd n=N active=A seconds=S|ops=K
  micro_NAME w3 timers=T seconds=S
  micro_NAME w4 change=flip|swap|transient|pause seconds=S|ops=K
The echo servers and their load: bench/echo.
"""

import contextlib
import subprocess

from processes import Failed, Server

# Lengths for counting system calls: strace makes each of them some fifty times as dear.
CALL_LENGTHS = {"W1": (2000, 6000), "W2": (2000, 6000), "W4": (2000, 6000), "W5": (2000, 8000),
                "W6": (500, 2500)}

IDLE_CONNECTIONS = (1000, 8000)  # between two of these the memory of one is counted

TITLES = {
    "W1": "W1, dispatch: CPU time of an event",
    "W2": "W2, dispatch with an idle timeout pushed back: CPU time of an event",
    "W3": "W3, timers: CPU time of an operation",
    "W4": "W4, changes of interest: CPU time of a change",
    "W5": "W5, echo over loopback, 64 bytes, closed loop",
    "W6": "W6, connect, one request, close; 64 in flight",
}


class Lab:
    """The programs, the cores, and how long a run is."""

    def __init__(self, processes, binaries, seconds, warmup=0.2):
        self.processes = processes
        self.binaries = binaries
        self.seconds = seconds
        self.warmup = warmup
        self.standing_servers = {}  # of contenders that are not started for each run

    def program(self, folder, name, settings):
        return ["%s/%s/%s_%s" % (self.binaries, folder, folder, name)] + settings

    @contextlib.contextmanager
    def serve(self, contender, trace=False):
        if contender.name in self.standing_servers:
            yield self.standing_servers[contender.name]
            return
        with Server(self.processes, self.program("echo", *contender.echo), trace) as server:
            yield server

    def load(self, server, *settings):
        command = [self.binaries + "/echo/echo_load", "port=%d" % server.port,
                   "pid=%d" % server.pid] + list(settings)
        if getattr(server, "extra_pid", None):
            command.append("pid_extra=%d" % server.extra_pid)
        return self.processes.measure(command, self.processes.load_cpu)


class Cell:
    def __init__(self, workload, label, **settings):
        self.workload = workload
        self.label = label
        self.settings = settings

    def arguments(self):
        return ["%s=%s" % pair for pair in self.settings.items()]

    def call_lengths(self):
        return CALL_LENGTHS[self.workload]


class MicroCell(Cell):
    metrics = ("cpu_ns", "wall_ns")  # per operation

    def takes(self, contender):
        return contender.micro is not None

    def command(self, lab, contender, length):
        name, settings = contender.micro
        return lab.program("micro", name, [self.workload.lower()] + self.arguments() + length +
                           settings)

    def measure(self, lab, contender):
        values = lab.processes.measure(
            self.command(lab, contender, ["seconds=%g" % lab.seconds]), lab.processes.measured_cpu)
        return {name: value for name, value in values.items() if name in self.metrics}

    def count_calls(self, lab, contender):
        few, many = (lab.processes.count_calls(self.command(lab, contender, ["ops=%d" % length]))
                     for length in self.call_lengths())
        return difference(few, many, self.call_lengths())


class TimerCell(MicroCell):
    metrics = ("insert_ns", "rearm_ns", "push_ns", "cancel_ns", "fire_ns")

    def takes(self, contender):
        # The variants of a library, its backends, have the same timers.
        return super().takes(contender) and "-" not in contender.name


class EchoCell(Cell):
    mode = "echo"

    def takes(self, contender):
        return contender.echo is not None

    def measure(self, lab, contender):
        with lab.serve(contender) as server:
            values = lab.load(server, "mode=" + self.mode, "seconds=%g" % (2 * lab.seconds),
                              "warmup=%g" % lab.warmup, *self.arguments())
        values["total_cpu_us"] = values["cpu_us"] + values.pop("extra_cpu_us")
        return {name: value for name, value in values.items()
                if name == "per_s" or name.endswith("_us")}

    def count_calls(self, lab, contender):
        counts = []
        for length in self.call_lengths():
            with lab.serve(contender, trace=True) as server:
                lab.load(server, "mode=" + self.mode, "operations=%d" % length, *self.arguments())
            counts.append(server.calls)
        return difference(*counts, self.call_lengths())


class StormCell(EchoCell):
    mode = "storm"


def difference(few, many, lengths):
    """{call: per operation} without those that do not grow with the length."""
    operations = lengths[1] - lengths[0]
    calls = {name: (many.get(name, 0) - few.get(name, 0)) / operations
             for name in sorted(set(few) | set(many))}
    return {name: round(count, 4) for name, count in calls.items() if abs(count) >= 0.0005}


def idle_bytes(lab, contender):
    """Bytes that malloc() has given out, per connection: between two numbers of idle ones.

    Just below a power of two both, so that a table that doubles has grown in proportion.
    """
    few, many = IDLE_CONNECTIONS
    with lab.serve(contender) as server:
        reports = []
        command = [lab.binaries + "/echo/echo_load", "mode=hold", "port=%d" % server.port,
                   "clients=%d,%d" % (few, many)]
        with HeldLoad(lab.processes, command) as load:
            for count in (few, many):
                load.wait_until(count)
                reports.append(server.report()["heap_bytes"])
                load.go_on()
    return (reports[1] - reports[0]) / (many - few)


class HeldLoad:
    """echo_load mode=hold, which goes on line by line."""

    def __init__(self, processes, command):
        self._processes = processes
        self._command = command

    def __enter__(self):
        self._child = self._processes.start(self._command, self._processes.load_cpu,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=subprocess.PIPE)
        return self

    def __exit__(self, *unused):
        self._processes.end(self._child)

    def wait_until(self, count):
        line = self._child.stdout.readline()
        if line.strip() != "held=%d" % count:
            raise Failed("%s: %s" % (" ".join(self._command), self._child.stderr.read()))

    def go_on(self):
        self._child.stdin.write("\n")
        self._child.stdin.flush()


def _dispatch(workload, kind, count, active):
    name = "pipes" if kind == "pipe" else "eventfds"
    return MicroCell(workload, "%d %s, %d active" % (count, name, active), kind=kind, n=count,
                     active=active)


def cells(only, quick):
    """The cells of the chosen workloads (all of them if none is)."""
    result = []
    for workload in ("W1", "W2"):
        shapes = [("pipe", 100, 1), ("pipe", 100, 100)] if quick else \
            [(kind, n, active) for kind in ("pipe", "eventfd") for n in (100, 1000, 10000)
             for active in (1, 100)]
        result += [_dispatch(workload, *shape) for shape in shapes]
    for timers in (1000, 100000) if quick else (1000, 100000, 1000000):
        result.append(TimerCell("W3", "%d timers" % timers, timers=timers))
    result += [MicroCell("W4", change, change=change)
               for change in ("flip", "swap", "transient", "pause")]
    for clients in (50,) if quick else (1, 50, 1000, 10000):
        result.append(EchoCell("W5", "%d client%s" % (clients, "" if clients == 1 else "s"),
                               clients=clients))
    result.append(StormCell("W6", "64 in flight", in_flight=64))
    return [cell for cell in result if not only or cell.workload in only]


def counted(cell):
    """Whether the system calls of a cell are worth counting: one cell for each different answer."""
    if cell.workload in ("W1", "W2"):
        return cell.settings["n"] == 100 and cell.settings["kind"] == "pipe"
    if cell.workload == "W5":
        return cell.settings["clients"] == 50
    return cell.workload in ("W4", "W6")
