#!/usr/bin/env python3
"""Writes compile_commands.json from Bazel's own action graph (standard input: aquery jsonproto).

Paths are relative to Bazel's execution root, so the commands are run from there.
"""

import json
import sys


def main():
    directory, output = sys.argv[1:]
    graph = json.load(sys.stdin)
    commands, seen = [], set()
    for action in graph.get("actions", []):
        arguments = action["arguments"]
        if "-c" not in arguments:
            continue
        source = arguments[arguments.index("-c") + 1]
        if source in seen or source.startswith("external/"):
            continue
        seen.add(source)
        # clang does not know these options of gcc.
        unknown = ("-fno-canonical-system-headers", "-Wno-free-nonheap-object",
                   "-Wunused-but-set-parameter")
        commands.append({
            "directory": directory,
            "file": source,
            "arguments": [a for a in arguments
                          if a not in unknown and not a.startswith(("-D__DATE__", "-D__TIME"))],
        })
    with open(output, "w", encoding="utf-8") as file:
        json.dump(commands, file, indent=1)
    print(f"{len(commands)} commands", file=sys.stderr)


if __name__ == "__main__":
    main()
