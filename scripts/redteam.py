"""Runs the red team's tests and counts; called by redteam.sh. Exit status 0 if every candidate was run.

Its last lines:
  worst_probe_nats    largest difference of a probe that an honest candidate showed
  caught              candidates that got the status they must get, and harmed nobody, of those that cheat or do harm
  false_alarms        honest candidates that did not come out `ok`, of all of them

tests/redteam/test_clock.py runs with them and is in neither count: it tests the clock, not what becomes of a candidate.
"""

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

CHEATS = (
    "test_a_cheat_gets_its_status_and_nothing_else",
    "test_a_usual_source_of_chance_is_fixed_and_found",
    "test_chance_past_python_is_found",
)
HONEST = "test_an_honest_candidate_is_ok"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = [
            "tests/redteam",
            *("-m", "", "-n", "2", "--dist=loadfile"),
            *(f"--junitxml={report}", "-o", "junit_family=xunit1"),  # which keeps properties
        ]
        subprocess.run([sys.executable, "-m", "pytest", *words], check=False)
        cases = list(ElementTree.parse(report).iter("testcase"))
    passed: dict[str, list[bool]] = {name: [] for name in (*CHEATS, HONEST)}
    for case in cases:
        results = passed.get(case.get("name", "").partition("[")[0])
        if results is not None:
            if case.find("skipped") is not None:
                print(f"redteam: not run: {case.get('name')}")
                return 1
            results.append(case.find("failure") is None and case.find("error") is None)
    if not all(passed.values()):
        print("redteam: nothing was run")
        return 1
    caught = [result for name in CHEATS for result in passed[name]]
    worst = max(float(p.get("value", "nan")) for case in cases for p in case.iter("property"))
    print(f"worst_probe_nats: {worst:.3g}")
    print(f"caught: {sum(caught)} of {len(caught)}")
    print(f"false_alarms: {passed[HONEST].count(False)} of {len(passed[HONEST])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
