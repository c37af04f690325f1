"""A private instance of stock Postfix in a scratch directory, with services of ours in it."""

import os
import shutil
import subprocess
import tempfile

from processes import Failed

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {d}/spool
data_directory = {d}/data
daemon_directory = {d}/sbin
maillog_file_prefixes = {d}
maillog_file = {d}/log/maillog
myhostname = bench.example.test
inet_interfaces = loopback-only
# Nobody leaves while another one is measured.
max_idle = 3600s
max_use = 2000000000
"""

POSTLOG = "postlog unix-dgram n - n - 1 postlogd\n"


def _run(*command):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            stdin=subprocess.DEVNULL, universal_newlines=True)
    if result.returncode != 0:
        raise Failed("status %d: %s\n%s" % (result.returncode, " ".join(command), result.stdout))
    return result.stdout


def why_not():
    """Why there can be no stock master here, or None."""
    if os.geteuid() != 0:
        return "the stock master runs as root: so must this"
    if shutil.which("postfix") is None:
        return "Debian's postfix is not installed (tools/setup postfix)"
    return None


class StockMaster:
    """Postfix that knows only the services of `master_cf`; `programs`, {name: path}, are ours."""

    def __init__(self, master_cf, programs):
        self.directory = tempfile.mkdtemp(prefix="posthouse-bench.")
        try:
            self._fill(master_cf, programs)
            _run("postfix", "-c", self.path("etc"), "start")
        except BaseException:
            self.close()
            raise

    def _fill(self, master_cf, programs):
        os.chmod(self.directory, 0o755)
        for name in ("etc", "spool", "data", "log"):
            os.mkdir(self.path(name))
        # Copies: Postfix complains about links, and the build's output may change meanwhile.
        shutil.copytree(_run("postconf", "-dh", "daemon_directory").strip(), self.path("sbin"))
        for name, program in programs.items():
            shutil.copy(program, self.path("sbin", name))
        shutil.chown(self.path("data"), _run("postconf", "-dh", "mail_owner").strip())
        for name, content in (("main.cf", MAIN_CF.format(d=self.directory)),
                              ("master.cf", master_cf + POSTLOG)):
            with open(self.path("etc", name), "w") as out:
                out.write(content)
        _run("postfix", "-c", self.path("etc"), "post-install", "create-missing")

    def path(self, *parts):
        return os.path.join(self.directory, *parts)

    def pid(self):
        with open(self.path("spool", "pid", "master.pid")) as pid:
            return int(pid.read())

    def worker(self, program):
        """The process of a service's program; None if it has not been started."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/cmdline" % pid, "rb") as command_line:
                    argv = command_line.read().split(b"\0")
                with open("/proc/%s/stat" % pid) as stat:
                    parent = int(stat.read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue  # it has ended meanwhile
            if parent == self.pid() and os.path.basename(argv[0].decode()) == program:
                return int(pid)
        return None

    def log(self):
        with open(self.path("log", "maillog")) as log:
            return log.read()

    def complaints(self):
        """The lines of the log that should not be there."""
        return [line for line in self.log().splitlines()
                if any(word in line for word in ("warning:", "error:", "fatal:", "panic:"))]

    def close(self):
        subprocess.run(["postfix", "-c", self.path("etc"), "stop"], stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        shutil.rmtree(self.directory, ignore_errors=True)
