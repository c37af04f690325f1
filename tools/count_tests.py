#!/usr/bin/env python3
"""Counts test cases from Bazel's build event files and the test.xml files they name.

The last line printed is "N passed, N failed, N skipped". A target that failed without a failed
case (it crashed, timed out, or did not build) counts as one failed case. Exit status 1 when
anything failed or nothing ran.
"""

import argparse
import json
import os
import sys
import urllib.parse
import xml.etree.ElementTree as ElementTree


def xml_path(event):
    for output in event["testResult"].get("testActionOutput", []):
        if output.get("name") == "test.xml":
            return urllib.parse.unquote(urllib.parse.urlparse(output["uri"]).path)
    return None


def read_events(path):
    """Yields (label, status, [xml paths]) per test target, and labels that did not build."""
    results, not_built = {}, []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            event = json.loads(line)
            identity = event.get("id", {})
            if "testResult" in event:
                label = identity["testResult"]["label"]
                entry = results.setdefault(label, {"xml": {}, "status": None})
                key = (identity["testResult"].get("run"), identity["testResult"].get("shard"))
                entry["xml"][key] = xml_path(event)  # the last attempt counts
            elif "testSummary" in event:
                label = identity["testSummary"]["label"]
                results.setdefault(label, {"xml": {}, "status": None})["status"] = event[
                    "testSummary"].get("overallStatus")
            elif "targetCompleted" in identity and "aborted" in event:
                not_built.append(identity["targetCompleted"]["label"])
            elif "completed" in event and not event["completed"].get("success", False):
                label = identity.get("targetCompleted", {}).get("label")
                if label:
                    not_built.append(label)
    return results, not_built


def count_xml(path):
    passed, failed, skipped, names = 0, 0, 0, []
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        if case.get("status") == "notrun":
            continue  # disabled or filtered out
        name = f'{case.get("classname", "")}.{case.get("name", "")}'.strip(".")
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
            names.append(name)
        elif case.find("skipped") is not None or case.get("result") == "skipped":
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped, names


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--leftovers", help="a file with one line per process left behind")
    parser.add_argument("--broken", help="a file with one line per workspace that Bazel gave up")
    parser.add_argument("events", nargs="+")
    arguments = parser.parse_args()

    passed = failed = skipped = 0
    complaints = []
    for path in arguments.events:
        results, not_built = read_events(path)
        for label in sorted(set(not_built) - set(results)):
            failed += 1
            complaints.append(f"{label}: did not build")
        for label, entry in sorted(results.items()):
            failed_before = failed
            for xml in entry["xml"].values():
                if not xml or not os.path.exists(xml):
                    continue
                try:
                    counts = count_xml(xml)
                except ElementTree.ParseError:
                    continue  # cut short by a crash; the target's status tells
                passed, failed, skipped = (passed + counts[0], failed + counts[1],
                                           skipped + counts[2])
                complaints += [f"{label}: {name}" for name in counts[3]]
            if entry["status"] == "FLAKY":
                print(f"passed at the second attempt only: {label}")
            if entry["status"] not in ("PASSED", "FLAKY") and failed == failed_before:
                failed += 1
                complaints.append(f'{label}: {entry["status"] or "NO STATUS"}')

    if arguments.leftovers:
        with open(arguments.leftovers, encoding="utf-8") as lines:
            leftovers = [line.strip() for line in lines if line.strip()]
        if leftovers:
            failed += 1
            complaints += [f"left behind: {line}" for line in leftovers]
        else:
            passed += 1

    if arguments.broken:
        with open(arguments.broken, encoding="utf-8") as lines:
            broken = [line.strip() for line in lines if line.strip()]
        # What did not build is counted above; what Bazel did not even begin is not.
        if broken and not failed:
            failed += len(broken)
        complaints += broken

    for complaint in complaints:
        print(f"FAILED {complaint}")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
