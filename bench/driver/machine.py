"""Where the numbers were measured, and how quiet it was."""

import os
import platform
import subprocess
import time

PACKAGES = ["libevent-core-2.1-7", "libev4", "libuv1", "libasio-dev", "postfix", "gcc", "libc6"]


def _first_line(command, cwd=None):
    try:
        result = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, universal_newlines=True)
    except OSError:
        return ""
    return result.stdout.strip().splitlines()[0] if result.returncode == 0 and result.stdout else ""


def _processor():
    with open("/proc/cpuinfo") as text:
        for line in text:
            if line.startswith(("model name", "Model", "cpu model")):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def describe(root, measured_cpu, load_cpu):
    revision = _first_line(["git", "rev-parse", "--short=12", "HEAD"], root)
    if revision and _first_line(["git", "status", "--porcelain", "--untracked-files=no"], root):
        revision += " with local changes"
    versions = {name: _first_line(["dpkg-query", "-W", "-f", "${Version}", name])
                for name in PACKAGES}
    return {
        "revision": revision or "unknown",
        "kernel": "%s %s" % (platform.system(), platform.release()),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "measured_cpu": measured_cpu,
        "load_cpu": load_cpu,
        "packages": {name: version for name, version in versions.items() if version},
        "compiler": _first_line(["gcc", "--version"]),
    }


class Noise:
    """What others took from the machine while this object lived."""

    def __init__(self):
        self._begun = time.time()
        self._before = self._ticks()
        self._load_before = os.getloadavg()[0]

    @staticmethod
    def _ticks():
        with open("/proc/stat") as text:
            # user nice system idle iowait irq softirq steal
            return [int(field) for field in text.readline().split()[1:9]]

    def report(self):
        passed = [now - then for now, then in zip(self._ticks(), self._before)]
        total = sum(passed) or 1
        return {
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._begun)),
            "seconds": round(time.time() - self._begun),
            "steal_percent": round(100 * passed[7] / total, 2),
            "idle_percent": round(100 * (passed[3] + passed[4]) / total, 1),
            "load_before": round(self._load_before, 2),
            "load_after": round(os.getloadavg()[0], 2),
        }
