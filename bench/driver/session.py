"""One run of the benchmark: rounds over cells over contenders, then the counting."""

import sys
import time

import ratios
from processes import Failed, Unsupported
from workloads import counted, idle_bytes

WAITS = ("epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6")


class Progress:
    """One line on standard error that says what is done at the moment."""

    def __init__(self, out=sys.stderr):
        self._out = out
        self._live = out.isatty()
        self._length = 0

    def show(self, text):
        if not self._live:
            return
        self._out.write("\r" + text.ljust(self._length))
        self._out.flush()
        self._length = len(text)

    def step(self, text):
        """What show() says in more detail, for those who read a log."""
        if not self._live:
            self.say(text)

    def say(self, text):
        self.show("")
        self._out.write(("\r" if self._live else "") + text + "\n")
        self._out.flush()


class CellResult:
    """The runs of a cell, round by round, in the order of time."""

    def __init__(self, cell, contenders):
        self.cell = cell
        self.contenders = [c for c in contenders if cell.takes(c)]
        self.rounds = []  # of [(name, {metric: value})]
        self.left_out = {}  # name: why
        self.calls = {}  # name: {system call: per operation}

    def names(self):
        return [c.name for c in self.contenders if c.name not in self.left_out]

    def calls_of(self, name):
        """System calls per operation; in W4 without the wait that ends each sweep, which is no
        part of a change."""
        return sum(count for call, count in self.calls[name].items()
                   if self.cell.workload != "W4" or call not in WAITS)

    def metrics(self):
        for runs in self.rounds:
            for _, values in runs:
                return list(values)
        return []

    def values(self, name, metric):
        return [values[metric] for runs in self.rounds for who, values in runs
                if who == name and metric in values]

    def ratios(self, metric):
        """One {name: ratio to raw} per round."""
        result = []
        for runs in self.rounds:
            line = [(name, values[metric]) for name, values in runs if metric in values]
            result.append(dict(ratios.to_neighbours(line)))
        return result

    def ratios_of(self, name, metric, to="raw"):
        """The ratios of a contender to raw or to a peer, of the rounds that have both."""
        result = []
        for by_name in self.ratios(metric):
            if name not in by_name or (to != "raw" and not by_name.get(to)):
                continue
            result.append(by_name[name] / (1 if to == "raw" else by_name[to]))
        return result


class Session:
    def __init__(self, lab, raw, contenders, cells, rounds):
        self.lab = lab
        self.raw = raw
        self.contenders = contenders
        self.rounds = rounds
        self.results = [CellResult(cell, contenders) for cell in cells]
        self.memory = {}  # name: bytes per idle connection
        self.failures = []
        self.elapsed = {}  # workload: seconds that its runs took
        self.progress = Progress()

    def measure(self):
        for number in range(self.rounds):
            self.progress.step("round %d of %d" % (number + 1, self.rounds))
            for result in self.results:
                begun = time.monotonic()
                self._measure_round(result, number)
                workload = result.cell.workload
                self.elapsed[workload] = self.elapsed.get(workload, 0) + time.monotonic() - begun
        self.progress.show("")

    def _measure_round(self, result, number):
        by_name = {c.name: c for c in result.contenders}
        by_name["raw"] = self.raw
        runs = []
        for name in ratios.order(result.names(), number):
            if name in result.left_out:
                continue  # since this round began
            self.progress.show("round %d of %d: %s, %s: %s" % (
                number + 1, self.rounds, result.cell.workload, result.cell.label, name))
            values = self._attempt(result, name,
                                   lambda: result.cell.measure(self.lab, by_name[name]))
            if values is not None:
                runs.append((name, values))
        result.rounds.append(runs)

    def _attempt(self, result, name, action):
        try:
            return action()
        except Unsupported as error:
            if name == "raw":
                raise Failed("raw cannot do %s: %s" % (result.cell.label, error))
            result.left_out[name] = str(error)
        except Failed as error:
            if name == "raw":
                raise
            result.left_out[name] = "failed"
            self.fail("%s, %s: %s: %s" % (result.cell.workload, result.cell.label, name, error))
        return None

    def fail(self, complaint):
        self.failures.append(complaint.replace(self.lab.binaries + "/", ""))

    def count_calls(self, names):
        """Of raw and of the contenders of these names."""
        for result in self.results:
            if not counted(result.cell):
                continue
            for contender in [self.raw] + result.contenders:
                name = contender.name
                if name in result.left_out or name not in names:
                    continue
                self.progress.show("system calls: %s, %s: %s" % (
                    result.cell.workload, result.cell.label, name))
                calls = self._attempt(result, name,
                                      lambda: result.cell.count_calls(self.lab, contender))
                if calls is not None:
                    result.calls[name] = calls
        self.progress.show("")

    def count_memory(self, contenders):
        for contender in contenders:
            if contender.echo is None or contender.name == "raw2":
                continue
            self.progress.show("memory per connection: " + contender.name)
            try:
                self.memory[contender.name] = idle_bytes(self.lab, contender)
            except Unsupported:
                pass
            except Failed as error:
                self.fail("memory of %s: %s" % (contender.name, error))
        self.progress.show("")
