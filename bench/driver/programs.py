"""What the run scripts share: running commands, building programs of this repository."""

import os
import subprocess
import sys

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))


def run(*command, **options):
    """The output of a command; ends the script when it fails."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            universal_newlines=True, **options)
    if result.returncode != 0:
        sys.exit("failed: %s\n%s" % (" ".join(command), result.stdout))
    return result.stdout


def build(*targets):
    """Builds the targets, optimised, and returns their paths; says so because it may take minutes."""
    print("building", *targets, "with --config=opt", file=sys.stderr, flush=True)
    environment = dict(os.environ)
    if os.environ.get("POSTHOUSE_SETUP", "debian") != "none":
        environment["USE_BAZEL_VERSION"] = "latest"
    run("bazel", "build", "--config=opt", *targets, cwd=ROOT, env=environment)
    out = run("bazel", "info", "--config=opt", "bazel-bin", cwd=ROOT, env=environment)
    binaries = out.strip().splitlines()[-1]
    return [os.path.join(binaries, target[2:].replace(":", "/")) for target in targets]
