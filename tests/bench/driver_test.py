"""The driver of tools/bench on made-up numbers and made-up programs."""

import ctypes
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree as ElementTree

DRIVER = os.path.realpath(os.environ["BENCH_DRIVER"])
sys.path.insert(0, os.path.dirname(DRIVER))
sys.dont_write_bytecode = True

import bench  # noqa: E402
import contenders  # noqa: E402
import processes  # noqa: E402
import ratios  # noqa: E402
import report  # noqa: E402
import session  # noqa: E402
import targets  # noqa: E402
import workloads  # noqa: E402


class RatiosTest(unittest.TestCase):
    def test_every_contender_runs_between_two_runs_of_raw(self):
        names = [str(n) for n in range(8)]
        for number in range(9):
            line = ratios.order(names, number)
            self.assertEqual((line[0], line[-1]), ("raw", "raw"))
            self.assertEqual(sorted(n for n in line if n != "raw"), names)
            gaps = "".join("r" if n == "raw" else "x" for n in line).split("r")
            self.assertLessEqual(max(map(len, gaps)), ratios.GROUP)
            self.assertNotIn("rr", "".join("r" if n == "raw" else "x" for n in line))

    def test_the_order_is_rotated_with_each_round(self):
        names = ["a", "b", "c", "d"]
        first = [[n for n in ratios.order(names, number) if n != "raw"][0] for number in range(4)]
        self.assertEqual(first, names)

    def test_a_value_is_divided_by_the_median_of_its_neighbours(self):
        runs = [("raw", 10), ("x", 30), ("y", 10), ("raw", 20), ("z", 40), ("raw", 60)]
        self.assertEqual(ratios.to_neighbours(runs), [("x", 2.0), ("y", 10 / 15), ("z", 1.0)])

    def test_drift_of_the_machine_cancels_out(self):
        speed = iter(1 + 0.02 * n for n in range(100))
        runs = []
        for number in range(3):
            for name in ratios.order(["x", "y", "z", "w"], number):
                runs.append((name, next(speed) * (1.5 if name == "x" else 1.0)))
        for name, ratio in ratios.to_neighbours(runs):
            self.assertAlmostEqual(ratio, 1.5 if name == "x" else 1.0, delta=0.05)

    def test_without_a_neighbour_there_is_no_ratio(self):
        self.assertEqual(ratios.to_neighbours([("x", 1), ("y", 2)]), [])
        self.assertEqual(ratios.to_neighbours([("raw", 0), ("x", 1), ("raw", 0)]), [])
        self.assertEqual(ratios.to_neighbours([("raw", 2), ("x", 1)]), [("x", 0.5)])

    def test_intervals_are_order_statistics_with_90_percent(self):
        self.assertEqual(ratios.interval([5, 1, 4, 2, 3]), (1, 5, 1 - 2 / 32))
        self.assertEqual(ratios.interval(range(7)), (0, 6, 1 - 2 / 128))
        self.assertEqual(ratios.interval(range(9))[:2], (1, 7))
        low, high, confidence = ratios.interval(range(31))
        self.assertEqual((low, high), (10, 20))
        self.assertGreaterEqual(confidence, 0.9)

    def test_with_few_ratios_the_interval_admits_it(self):
        self.assertEqual(ratios.interval([2, 1]), (1, 2, 0.5))
        self.assertEqual(ratios.interval([7]), (7, 7, 0.0))

    def test_verdicts(self):
        quiet = ratios.summary([0.99, 1.0, 1.01, 1.0, 1.0])
        noisy = ratios.summary([1.03, 1.04, 1.05, 1.04, 1.04])
        near = ratios.summary([1.01, 1.03, 1.03, 1.04, 1.05])
        far = ratios.summary([1.05, 1.06, 1.07, 1.06, 1.06])
        self.assertEqual(ratios.verdict(near, 1.03, quiet), ratios.MET)
        self.assertEqual(ratios.verdict(near, 1.02, quiet), ratios.WITHIN_NOISE)
        # The raw loop under another name must read 1.00 in the same run.
        self.assertEqual(ratios.verdict(near, 1.02, noisy), ratios.MISSED)
        self.assertEqual(ratios.verdict(near, 1.02, None), ratios.MISSED)
        self.assertEqual(ratios.verdict(far, 1.02, quiet), ratios.MISSED)
        # Only what is as near to raw as the noise gets that mercy.
        self.assertEqual(ratios.verdict(ratios.summary([0.93, 0.95, 0.96, 0.95, 0.95]), 0.94, quiet),
                         ratios.MISSED)
        self.assertEqual(ratios.verdict(None, 1.02, quiet), ratios.NOT_MEASURED)

    def test_a_row_is_as_bad_as_its_worst_cell(self):
        self.assertEqual(ratios.worst([ratios.MET, ratios.MISSED, ratios.WITHIN_NOISE]),
                         ratios.MISSED)
        self.assertEqual(ratios.worst([ratios.MET, ratios.WITHIN_NOISE]), ratios.WITHIN_NOISE)
        self.assertEqual(ratios.worst([]), ratios.NOT_MEASURED)


class CallsTest(unittest.TestCase):
    TABLE = """\
    calls syscall
--------- ----------------
     4000 read
        7 mmap
      100 epoll_wait
--------- ----------------
     4107 total
"""

    def test_the_table_of_strace_is_read(self):
        self.assertEqual(processes.parse_strace(self.TABLE),
                         {"read": 4000, "mmap": 7, "epoll_wait": 100})
        with self.assertRaises(processes.Failed):
            processes.parse_strace("strace: no such program\n")

    def test_what_does_not_grow_with_the_length_cancels_out(self):
        calls = workloads.difference({"read": 2000, "mmap": 7, "close": 3},
                                     {"read": 6000, "mmap": 7, "write": 2000, "close": 4},
                                     (2000, 6000))
        self.assertEqual(calls, {"read": 1.0, "write": 0.5})

    def test_the_wait_is_no_part_of_a_change_of_interest(self):
        for workload, expected in (("W4", 0.5), ("W1", 0.515)):
            result = session.CellResult(workloads.MicroCell(workload, "flip"), [])
            result.calls["posthouse"] = {"epoll_ctl": 0.5, "epoll_wait": 0.015}
            self.assertAlmostEqual(result.calls_of("posthouse"), expected)


class TablesTest(unittest.TestCase):
    def test_targets_name_what_is_measured(self):
        cells = workloads.cells([], quick=False)
        absent = {"posthouse-et", "ae", "posthouse-stream"}  # see targets.py
        for target in targets.ALL:
            known = set(contenders.BY_NAME) | absent | {contenders.WITH_IDLE_TIMER.name}
            self.assertIn(target.contender, known, target)
            self.assertIn(target.to, known | {None, "W1"}, target)
            self.assertIn(target.metric, report.METRIC_NAMES, target)
            matching = [cell for cell in cells if cell.workload == target.workload and all(
                cell.settings.get(key) == value for key, value in target.where.items())]
            self.assertTrue(matching, target)
            if target.unit == "calls":
                self.assertTrue(any(map(workloads.counted, matching)), target)

    def test_a_name_stands_for_its_variants(self):
        names = [c.name for c in contenders.choose(["libuv", "libevent-stream"])]
        self.assertEqual(names, ["raw2", "libevent-stream", "libuv", "libuv-stream"])
        with self.assertRaises(ValueError):
            contenders.choose(["libevnt"])

    def test_two_threads_of_one_core_are_no_two_cores(self):
        measured, load = processes.choose_cpus({0})
        self.assertEqual((measured, load), (0, 0))
        measured, load = processes.choose_cpus({0, 1})
        self.assertEqual((measured, load), (1, 0))


class Program:
    """A directory of programs made of shell lines."""

    def __init__(self):
        self._directory = tempfile.TemporaryDirectory(prefix="bench-driver-test.")
        self.path = self._directory.name

    def __enter__(self):
        for folder in ("micro", "echo"):
            os.mkdir(os.path.join(self.path, folder))
        return self

    def __exit__(self, *unused):
        self._directory.cleanup()

    def write(self, name, *lines):
        path = os.path.join(self.path, name)
        with open(path, "w") as out:
            out.write("#!/bin/sh\n" + "\n".join(lines) + "\n")
        os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
        return path


def alive(pid):
    try:
        return processes.state_of(pid) not in "ZX"
    except OSError:
        return False


def wait_for(condition, what):
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("never: " + what)
        time.sleep(0.01)


class RunTest(unittest.TestCase):
    def run_driver(self, programs, *arguments):
        result = subprocess.run(
            [sys.executable, "-B", DRIVER, "--binaries", programs.path, "--no-calls", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=120)
        return result

    def micro(self, programs, name, ns):
        programs.write("micro/micro_" + name,
                       "echo kind=pipe cpu_ns=%s wall_ns=9 ops=100 best_cpu_ns=1" % ns)

    def test_a_whole_run(self):
        with Program() as programs:
            self.micro(programs, "raw", 100)
            self.micro(programs, "posthouse", 30)
            programs.write("micro/micro_libevent", "echo unsupported",
                           "echo 'no such thing' >&2", "exit 3")
            out = os.path.join(programs.path, "out.json")
            result = self.run_driver(programs, "--only", "W4", "--rounds", "3", "--contenders",
                                     "posthouse,libevent", "--json", out)
            self.assertEqual(result.returncode, 0, result.stderr)
            with open(out) as text:
                found = json.load(text)
        flip = found["cells"][0]
        self.assertEqual((flip["workload"], flip["label"]), ("W4", "flip"))
        self.assertEqual(flip["contenders"]["posthouse"]["cpu_ns"]["ratio"]["values"], [0.3] * 3)
        self.assertEqual(flip["contenders"]["raw2"]["cpu_ns"]["ratio"]["median"], 1)
        self.assertNotIn("libevent", flip["contenders"])
        self.assertEqual(flip["left_out"]["libevent"], "no such thing")
        row = next(t for t in found["targets"]
                   if t["where"] == {"change": "flip"} and t["to"] == "raw")
        self.assertEqual((row["bound"], row["verdict"]), (0.22, "missed"))
        row = next(t for t in found["targets"]
                   if t["where"] == {"change": "swap"} and t["to"] == "raw")
        self.assertEqual((row["bound"], row["verdict"]), (1.02, "met"))
        self.assertIn("| flip | 100 | 1.00 (1.00–1.00) | 0.30 (0.30–0.30) |", result.stdout)

    def test_a_program_that_fails_is_told_and_makes_the_run_fail(self):
        with Program() as programs:
            self.micro(programs, "raw", 100)
            programs.write("micro/micro_posthouse", "echo out of tokens >&2", "exit 1")
            result = self.run_driver(programs, "--only", "W4", "--rounds", "1", "--contenders",
                                     "posthouse")
            self.assertEqual(result.returncode, 1)
            self.assertIn("out of tokens", result.stdout)

    def test_without_the_raw_loop_there_is_no_run(self):
        with Program() as programs:
            programs.write("micro/micro_raw", "exit 3")
            result = self.run_driver(programs, "--only", "W4", "--contenders", "posthouse")
            self.assertEqual(result.returncode, 1)
            self.assertIn("error: raw cannot do", result.stderr)

    def test_nothing_is_left_behind(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            with self.subTest(number=number), Program() as programs:
                pid_file = os.path.join(programs.path, "pid")
                programs.write("micro/micro_raw", "echo $$ >%s.new" % pid_file,
                               "mv %s.new %s" % (pid_file, pid_file), "exec sleep 1000")
                driver = subprocess.Popen(
                    [sys.executable, "-B", DRIVER, "--binaries", programs.path, "--no-calls",
                     "--only", "W4", "--contenders", "posthouse"],
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                try:
                    wait_for(lambda: os.path.exists(pid_file), "a first run")
                    with open(pid_file) as text:
                        child = int(text.read())
                    self.assertTrue(alive(child))
                    driver.send_signal(number)
                    status = driver.wait(60)
                finally:
                    driver.kill()
                    driver.wait()
                wait_for(lambda: not alive(child), "the end of the child")
                if number == signal.SIGKILL:
                    os.waitpid(child, 0)  # inherited, see the end of this file
                self.assertEqual(status, {signal.SIGINT: 130, signal.SIGTERM: 143}.get(
                    number, -number))


class ServerTest(unittest.TestCase):
    def serve(self, programs, *lines):
        program = programs.write("echo/echo_x", *lines)
        with processes.Processes(*processes.choose_cpus(os.sched_getaffinity(0))) as lab:
            with processes.Server(lab, [program]) as server:
                return server.port, server.pid

    def test_a_server_says_where_it_is_and_is_ended(self):
        with Program() as programs:
            port, pid = self.serve(programs, "echo port=1234 pid=$$", "exec sleep 1000")
            self.assertEqual(port, 1234)
            wait_for(lambda: not alive(pid), "the end of the server")

    def test_a_server_that_cannot_is_left_out(self):
        with Program() as programs, self.assertRaisesRegex(processes.Unsupported, "no such backend"):
            self.serve(programs, "echo unsupported", "echo no such backend >&2", "exit 3")

    def test_a_server_that_ends_by_itself_has_failed(self):
        with Program() as programs, self.assertRaisesRegex(processes.Failed, "ran away"):
            program = programs.write("echo/echo_x", "echo port=1 pid=$$", "echo ran away >&2",
                                     "exit 1")
            with processes.Processes(*processes.choose_cpus(os.sched_getaffinity(0))) as lab:
                with processes.Server(lab, [program]) as server:
                    wait_for(lambda: not alive(server.pid), "the end of the server")
                    raise processes.Failed("the load found nobody")


class DocumentTest(unittest.TestCase):
    def test_the_tables_replace_the_old_ones(self):
        with tempfile.TemporaryDirectory() as directory:
            bench.DOCUMENT = os.path.join(directory, "performance.md")
            with open(bench.DOCUMENT, "w") as out:
                out.write("before\n%s\nold\n%s\nafter\n" % (bench.BEGIN, bench.END))
            bench.update_document("new\n")
            bench.update_document("newer\n")
            with open(bench.DOCUMENT) as text:
                self.assertEqual(text.read(), "before\n%s\n\nnewer\n\n%s\nafter\n" %
                                 (bench.BEGIN, bench.END))


def write_xml(path, result, suite):
    """What Bazel and tools/count_tests.py read."""
    failed = {case.id(): text for case, text in result.failures + result.errors}
    root = ElementTree.Element("testsuite", name="driver_test")
    for case in suite:
        _, name, method = case.id().rsplit(".", 2)
        element = ElementTree.SubElement(root, "testcase", classname=name, name=method)
        for identity, text in failed.items():
            if identity.startswith(case.id()):
                ElementTree.SubElement(element, "failure").text = text
    ElementTree.ElementTree(root).write(path)


def cases(suite):
    for part in suite:
        if isinstance(part, unittest.TestSuite):
            yield from cases(part)
        else:
            yield part


PR_SET_CHILD_SUBREAPER = 36

if __name__ == "__main__":
    # What a killed driver leaves comes here and not to a process 1 that may not reap it.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    everything = list(cases(unittest.defaultTestLoader.loadTestsFromModule(sys.modules[__name__])))
    outcome = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite(everything))
    if "XML_OUTPUT_FILE" in os.environ:
        write_xml(os.environ["XML_OUTPUT_FILE"], outcome, everything)
    sys.exit(0 if outcome.wasSuccessful() else 1)
