#!/usr/bin/env python3
"""Measures posthouse's event layer beside other event libraries and a hand-written epoll loop.

  tools/bench [--quick] [--only W1,W3] [--rounds N] [--contenders NAME,...]
              [--json FILE] [--markdown FILE] [--update-docs]

Prints tables; docs/performance.md says what they mean. What else runs on the machine disturbs it.
"""

import argparse
import os
import shutil
import signal
import sys

import contenders
import machine
import ratios
from processes import Failed, Processes, choose_cpus
from report import Report
from session import Session
from stock_echo import StockEcho
from workloads import TITLES, Lab, cells

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
DOCUMENT = os.path.join(ROOT, "docs", "performance.md")
BEGIN, END = "<!-- tools/bench begin -->", "<!-- tools/bench end -->"


def parse_options(arguments):
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true",
                        help="under a minute: fewer cells, contenders and rounds")
    parser.add_argument("--only", metavar="W1,W3", default="", help="these workloads alone")
    parser.add_argument("--rounds", type=int, help="default 7; with --quick 3")
    parser.add_argument("--contenders", metavar="NAME,...",
                        help="besides raw: %s" % ", ".join(c.name for c in contenders.ALL[2:]))
    parser.add_argument("--seconds", type=float, help="length of a run, of W5 and W6 twice that; default 0.12")
    parser.add_argument("--json", metavar="FILE", help="everything that was measured")
    parser.add_argument("--markdown", metavar="FILE", help="the tables, as printed")
    parser.add_argument("--update-docs", action="store_true",
                        help="puts the tables into docs/performance.md")
    parser.add_argument("--no-calls", action="store_true", help="no counting under strace")
    # From tools/bench: where the programs are, where the user is, whether this is a rehearsal.
    parser.add_argument("--binaries", metavar="DIRECTORY", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--directory", default=".", help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.json = options.json and os.path.join(options.directory, options.json)
    options.markdown = options.markdown and os.path.join(options.directory, options.markdown)
    options.only = [name.upper() for name in options.only.split(",") if name]
    for name in options.only:
        if name not in TITLES:
            parser.error("unknown workload %s (known: %s)" % (name, ", ".join(TITLES)))
    if options.rounds is None:
        options.rounds = 3 if options.quick else 7
    if options.seconds is None:
        options.seconds = 0.05 if options.quick else 0.12
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("rounds and seconds are to be positive")
    default = contenders.QUICK if options.quick else [c.name for c in contenders.ALL[1:]]
    try:
        options.chosen = contenders.choose(options.contenders.split(",")) if options.contenders \
            else [contenders.BY_NAME[name] for name in default]
    except ValueError as error:
        parser.error(str(error))
    return options


def check_outputs(options):
    """Before anything is measured: a run of minutes must not end with a file that cannot be."""
    for path in (options.json, options.markdown):
        if path:
            with open(path, "a"):
                pass
    if options.update_docs:
        with open(DOCUMENT, encoding="utf-8") as document:
            text = document.read()
        if text.find(BEGIN) < 0 or text.find(END) < text.find(BEGIN):
            raise Failed("%s lacks the lines %s and %s" % (DOCUMENT, BEGIN, END))


def update_document(tables):
    with open(DOCUMENT, encoding="utf-8") as document:
        text = document.read()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    with open(DOCUMENT, "w", encoding="utf-8") as document:
        document.write(before + BEGIN + "\n\n" + tables + "\n" + END + after)


def run(options, processes):
    measured_cpu, load_cpu = processes.measured_cpu, processes.load_cpu
    lab = Lab(processes, options.binaries, options.seconds, warmup=0.1 if options.quick else 0.2)
    chosen_cells = cells(options.only, options.quick)
    described = machine.describe(ROOT, measured_cpu, load_cpu)
    noise = machine.Noise()
    chosen = list(options.chosen)
    with StockEcho(options.binaries, measured_cpu) as stock:
        wanted = not options.quick and any(cell.workload == "W5" for cell in chosen_cells)
        if wanted and stock.start():
            lab.standing_servers[stock.contender.name] = stock
            chosen.append(stock.contender)
        session = Session(lab, contenders.BY_NAME["raw"], chosen, chosen_cells, options.rounds)
        if os.getloadavg()[0] > 0.5:
            session.progress.say("the machine is busy (load average %.1f): expect noise" %
                                 os.getloadavg()[0])
        if measured_cpu == load_cpu:
            session.progress.say("only one core: load and server share it")
        if wanted and stock.reason:
            session.progress.say("multi_server is left out: " + stock.reason)
        session.measure()
        if not options.no_calls:
            # With --quick of the two that are compared: strace takes its time.
            session.count_calls(["raw", "posthouse"] if options.quick else
                                ["raw"] + [c.name for c in options.chosen if c.name != "raw2"])
        if any(cell.workload == "W5" for cell in chosen_cells):
            session.count_memory([session.raw] + options.chosen + [
                contenders.WITH_IDLE_TIMER for c in options.chosen if c.name == "posthouse"])
        for complaint in stock.complaints():
            session.fail(complaint)
    settings = {"rounds": options.rounds, "seconds": options.seconds, "quick": options.quick,
                "group": ratios.GROUP}
    return Report(session, settings, described, noise.report())


def main(arguments):
    options = parse_options(arguments)
    sys.stdout.reconfigure(errors="replace")  # for terminals that know no "≤"
    # Ends as Ctrl-C does: children first.
    signal.signal(signal.SIGTERM, lambda *unused: sys.exit(143))
    try:
        check_outputs(options)
        if options.check:
            return 0
        if not options.no_calls and shutil.which("strace") is None:
            raise Failed("strace is not installed (tools/setup bench)")
        measured_cpu, load_cpu = choose_cpus(os.sched_getaffinity(0))
        with Processes(measured_cpu, load_cpu) as processes:
            os.sched_setaffinity(0, {load_cpu})  # the driver keeps away from what it measures
            report = run(options, processes)
        tables = report.as_markdown()
        print(tables, end="")
        for path, content in ((options.json, report.as_json()), (options.markdown, tables)):
            if path:
                with open(path, "w", encoding="utf-8") as out:
                    out.write(content)
        if options.update_docs:
            update_document(tables)
        return 1 if report.session.failures else 0
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except (Failed, OSError) as error:
        print("\nerror: %s" % error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
