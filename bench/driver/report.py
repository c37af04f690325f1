"""The report of a run: JSON for programs, Markdown for people.

JSON (--json FILE), one object:
  schema      1
  settings    rounds, seconds (of a run), quick, group (contenders between two runs of raw)
  machine     revision, kernel, processor, cores, measured_cpu, load_cpu, compiler,
              packages {name: version}
  noise       began, seconds, steal_percent, idle_percent, load_before, load_after
  cells       a list of {workload, label, settings, left_out {contender: why},
              contenders {name: {metric: {median, values, ratio {median, low, high, confidence,
              values}}}}}; raw has no ratio
  calls       a list of {workload, label, contender, per_operation, by_call {name: count}}
  memory      {contender: bytes of malloc per idle connection}
  targets     a list of {workload, where, metric, contender, to, unit, bound, verdict,
              cells [{label, measured, low, high, verdict}]}
  elapsed     {workload: seconds that its runs took}
  failures    what went wrong, a list of sentences
Times are in the unit that ends a metric's name: _ns, _us. How medians, ratios, intervals and verdicts
are made: ratios.py.
"""

import json
import statistics

import ratios
import targets
from workloads import IDLE_CONNECTIONS, TITLES

DEFINITIONS = """\
Ratios are to the neighbouring runs of `raw`, a hand-written epoll loop: below 1 is better, but for
requests per second. Median of the rounds, in brackets an interval that holds the median with at least
{confidence:.0f} % (with few rounds: their range). `raw2` is `raw` under another name: what it reads
away from 1.00 is noise."""

MOST_FAILURES = 10

TIMER_METRICS = {"insert_ns": "insert", "rearm_ns": "re-arm", "push_ns": "push back",
                 "cancel_ns": "cancel", "fire_ns": "fire"}
METRIC_NAMES = dict(TIMER_METRICS, cpu_ns="CPU time", cpu_us="server CPU time",
                    calls="system calls", bytes="bytes per idle connection")


class Report:
    def __init__(self, session, settings, machine, noise):
        self.session = session
        self.settings = settings
        self.machine = machine
        self.noise = noise
        self.targets = [self._judge(target) for target in targets.ALL]

    # ---- The targets.

    def _judge(self, target):
        if target.unit == "bytes":
            cells = self._judge_bytes(target)
        else:
            cells = [judged for result in self._matching(target)
                     for judged in [self._judge_cell(target, result)] if judged]
        return {"workload": target.workload, "where": target.where, "metric": target.metric,
                "contender": target.contender, "to": target.to, "unit": target.unit,
                "bound": target.bound, "cells": cells,
                "verdict": ratios.worst([cell["verdict"] for cell in cells])}

    def _matching(self, target):
        return [result for result in self.session.results
                if result.cell.workload == target.workload and
                all(result.cell.settings.get(key) == value
                    for key, value in target.where.items())]

    def _judge_bytes(self, target):
        memory = self.session.memory
        if target.contender not in memory or (target.to and target.to not in memory):
            return []
        measured = memory[target.contender]
        if target.to:
            measured = round(measured / memory[target.to], 2)
        else:
            measured = round(measured)
        return [{"label": "idle", "measured": measured,
                 "verdict": ratios.MET if measured <= target.bound else ratios.MISSED}]

    def _judge_cell(self, target, result):
        if target.unit == "calls":
            if target.contender not in result.calls:
                return None
            count = round(result.calls_of(target.contender), 2)
            return {"label": result.cell.label, "measured": count,
                    "verdict": ratios.MET if count <= target.bound else ratios.MISSED}
        values = self._values(target, result)
        if not values:
            return None
        summary = ratios.summary(values)
        raw2 = result.ratios_of("raw2", target.metric)
        verdict = ratios.verdict(summary, target.bound, ratios.summary(raw2) if raw2 else None) \
            if target.to == "raw" else \
            ratios.MET if summary["median"] <= target.bound else ratios.MISSED
        return {"label": result.cell.label, "measured": summary["median"], "low": summary["low"],
                "high": summary["high"], "verdict": verdict}

    def _values(self, target, result):
        if target.unit == "ns":
            return result.values(target.contender, target.metric)
        if target.to != "W1":
            return result.ratios_of(target.contender, target.metric, target.to)
        for other in self.session.results:
            if other.cell.workload == "W1" and other.cell.settings == result.cell.settings:
                return [mine / its for mine, its in
                        zip(result.values(target.contender, target.metric),
                            other.values(target.contender, target.metric))]
        return []

    # ---- JSON.

    def as_json(self):
        return json.dumps({
            "schema": 1, "settings": self.settings, "machine": self.machine, "noise": self.noise,
            "cells": [self._cell_json(result) for result in self.session.results],
            "calls": [{"workload": result.cell.workload, "label": result.cell.label,
                       "contender": name, "per_operation": round(result.calls_of(name), 4),
                       "by_call": calls}
                      for result in self.session.results for name, calls in result.calls.items()],
            "memory": self.session.memory, "targets": self.targets,
            "elapsed": {name: round(seconds, 1) for name, seconds in
                        self.session.elapsed.items()},
            "failures": self.session.failures}, indent=1) + "\n"

    @staticmethod
    def _cell_json(result):
        contenders = {}
        for name in ["raw"] + [c.name for c in result.contenders]:
            metrics = {}
            for metric in result.metrics():
                values = result.values(name, metric)
                if not values:
                    continue
                metrics[metric] = {"median": statistics.median(values), "values": values}
                found = result.ratios_of(name, metric)
                if found:
                    metrics[metric]["ratio"] = ratios.summary(found)
            if metrics:
                contenders[name] = metrics
        return {"workload": result.cell.workload, "label": result.cell.label,
                "settings": result.cell.settings, "left_out": result.left_out,
                "contenders": contenders}

    # ---- Markdown.

    def as_markdown(self):
        parts = [self._head()]
        for workload in TITLES:
            results = [r for r in self.session.results if r.cell.workload == workload]
            if results:
                parts.append("### %s\n" % TITLES[workload])
                parts.append({"W3": self._timer_tables, "W5": self._echo_tables,
                              "W6": self._echo_tables}.get(workload, self._tables)(results))
        parts += [self._calls_table(), self._memory_table(), self._left_out(),
                  self._targets_table()]
        if self.session.failures:
            parts.append("### What went wrong\n\n" + self._failures())
        return "\n\n".join(part.rstrip() for part in parts if part) + "\n"

    def _head(self):
        machine, noise, settings = self.machine, self.noise, self.settings
        packages = ", ".join("%s %s" % pair for pair in machine["packages"].items())
        return (
            "%s, %d cores, %s; %s. Revision %s. %d round%s, %g s a run%s.\n"
            "Noise: %.1f %% of the time was stolen by other guests of the machine, load average %.2f "
            "before.\n\n%s" % (
                machine["kernel"], machine["cores"], machine["processor"], packages,
                machine["revision"], settings["rounds"], "" if settings["rounds"] == 1 else "s",
                settings["seconds"], ", --quick" if settings["quick"] else "",
                noise["steal_percent"], noise["load_before"],
                DEFINITIONS.format(confidence=100 * ratios.CONFIDENCE)))

    def _failures(self):
        shown = self.session.failures[:MOST_FAILURES]
        text = "\n".join("- " + failure for failure in shown)
        more = len(self.session.failures) - len(shown)
        return text + ("\n- and %d more, see the JSON" % more if more else "")

    @staticmethod
    def _ratio_text(values):
        if not values:
            return "–"
        s = ratios.summary(values)
        return "%s (%s–%s)" % tuple(_short(s[key]) for key in ("median", "low", "high"))

    def _columns(self, results):
        names = [c.name for c in self.session.contenders]
        return [name for name in names if any(name in r.names() for r in results)]

    def _tables(self, results):
        names = self._columns(results)
        rows = []
        for result in results:
            raw = statistics.median(result.values("raw", "cpu_ns"))
            rows.append([result.cell.label, "%.0f" % raw] +
                        [self._ratio_text(result.ratios_of(name, "cpu_ns")) for name in names])
        return _table(["", "raw, ns"] + names, rows)

    def _timer_tables(self, results):
        names = self._columns(results)
        rows = []
        for result in results:
            for metric in [m for m in TIMER_METRICS if m in result.metrics()]:
                raw = statistics.median(result.values("raw", metric))
                rows.append(["%s, %s" % (result.cell.label, TIMER_METRICS[metric]), "%.1f" % raw] +
                            [self._ratio_text(result.ratios_of(name, metric)) for name in names])
        return _table(["", "raw, ns"] + names, rows)

    def _echo_tables(self, results):
        return "\n\n".join(self._echo_table(result) for result in results)

    def _echo_table(self, result):
        what = "request" if result.cell.workload == "W5" else "connection"
        heads = [result.cell.label, what + "s/s", "server CPU µs", "ratio", "p50 µs", "p99 µs",
                 "p99.9 µs"]
        rows = []
        for name in ["raw"] + result.names():
            medians = {metric: statistics.median(result.values(name, metric))
                       for metric in result.metrics() if result.values(name, metric)}
            if not medians:
                continue
            cpu = "%.2f" % medians["cpu_us"]
            if name in self.session.lab.standing_servers:
                cpu += " (%.2f with the master)" % medians["total_cpu_us"]
            rows.append([name, "%.0f" % medians["per_s"], cpu,
                         "1" if name == "raw" else
                         self._ratio_text(result.ratios_of(name, "cpu_us")),
                         "%.0f" % medians["p50_us"], "%.0f" % medians["p99_us"],
                         "%.0f" % medians["p999_us"]])
        return _table(heads, rows)

    def _calls_table(self):
        results = [r for r in self.session.results if r.calls]
        if not results:
            return ""
        names = ["raw"] + [c.name for c in self.session.contenders
                           if any(c.name in r.calls for r in results)]
        rows = [["%s, %s" % (r.cell.workload, r.cell.label)] +
                ["%.2f" % r.calls_of(name) if name in r.calls else "–"
                 for name in names] for r in results]
        return "### System calls per operation\n\nCounted under strace, as the difference of two " \
            "exact lengths; W4 without the wait that ends each sweep over 64 descriptors.\n\n" + _table([""] + names, rows)

    def _memory_table(self):
        if not self.session.memory:
            return ""
        return ("### Bytes of user memory per idle connection\n\nWhat malloc() has given out, between "
                "%d and %d idle connections.\n\n" % IDLE_CONNECTIONS) + _table(
                    list(self.session.memory),
                    [["%.1f" % count for count in self.session.memory.values()]])

    def _left_out(self):
        reasons = {}
        for result in self.session.results:
            for name, why in result.left_out.items():
                reasons.setdefault((name, why), []).append(result.cell)
        if not reasons:
            return ""
        return "Left out:\n\n" + "\n".join(
            "- %s: %s (%s)" % (name, why, self._cells_text(cells))
            for (name, why), cells in reasons.items())

    def _cells_text(self, cells):
        """"W1, W2 (1000 pipes, 1 active; ...)": cells by name unless they are all of a workload."""
        parts = []
        for workload in TITLES:
            labels = [cell.label for cell in cells if cell.workload == workload]
            count = sum(r.cell.workload == workload for r in self.session.results)
            if labels:
                parts.append(workload if len(labels) == count else
                             "%s: %s" % (workload, "; ".join(labels)))
        return ", ".join(parts)

    def _targets_table(self):
        chosen = {r.cell.workload for r in self.session.results}
        rows, not_measured = [], []
        for target in self.targets:
            if target["workload"] not in chosen:
                continue
            where = _where_text(target)
            if not target["cells"]:
                not_measured.append("%s %s ≤ %g" % (where, _what_text(target), target["bound"]))
                continue
            rows.append([where, _what_text(target), "≤ %g" % target["bound"],
                         " / ".join(_measured_text(target, cell) for cell in target["cells"]),
                         target["verdict"]])
        text = "### Targets\n\nSeveral figures are those of the cells of a row, in the order of the " \
            "tables above; the verdict is the worst one's.\n\n" + _table(
                ["", "", "target", "measured", "verdict"], rows)
        if not_measured:
            text += "\n\nNot measured here: " + "; ".join(not_measured) + "."
        return text


def _short(number):
    return "%.3f" % number if abs(number) < 0.1 else "%.2f" % number


def _measured_text(target, cell):
    if target["unit"] == "ns":
        return "%.1f" % cell["measured"]
    if target["unit"] == "bytes" and target["to"] is None:
        return "%d" % cell["measured"]
    return _short(cell["measured"])


def _where_text(target):
    return ", ".join([target["workload"]] + [
        "%s %s" % (value, key) if isinstance(value, int) else value
        for key, value in target["where"].items()])


def _what_text(target):
    what = METRIC_NAMES[target["metric"]]
    if target["unit"] == "ns":
        what += ", ns"
    if target["to"]:
        what += ", to " + ("its own W1" if target["to"] == "W1" else target["to"])
    return "%s: %s" % (target["contender"], what)


def _table(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
