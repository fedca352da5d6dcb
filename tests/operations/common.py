"""Where things are, and what the tests of deploy/ share. Reads nothing but the repository and target/operations."""

import os
import re
import subprocess
import sys
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
DEPLOY = TOP / "deploy"
TOOLS = TOP / "target/operations"
PROMTOOL = TOOLS / "promtool"
HAPAX = os.environ.get("HAPAX_BIN")

# What a histogram is stored as.
SUFFIXES = ("_bucket", "_sum", "_count")


def run(*command, ok=True, **more):
    """What a program said. Fails, with all it said, unless it ended as expected."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **more)
    if (done.returncode == 0) != ok:
        raise AssertionError(f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr


def metrics():
    """Name as an expression may write it -> set of labels, of metrics.txt."""
    known = {"up": {"job", "instance", "namespace"}}
    for line in (DEPLOY / "prometheus/metrics.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        name, kind, labels, *_ = line.split()
        labels = set() if labels == "-" else set(labels.split(","))
        for full in [name + suffix for suffix in SUFFIXES] if kind == "histogram" else [name]:
            known[full] = labels | ({"le"} if full.endswith("_bucket") else set())
    return known


def unknown(expression, known):
    """Metrics and labels of an expression that nobody exports."""
    target = {"job", "namespace", "instance", "pod"}
    found = []
    for name, selector in re.findall(r"\b((?:hapax_|process_|up\b)\w*)(?:\{([^}]*)\})?", expression):
        if name not in known:
            found.append(name)
            continue
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector):
            if label not in known[name] | target:
                found.append(f"{name}{{{label}}}")
    return found


def anchors(markdown):
    """The anchors of its headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", markdown, flags=re.S), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def main():
    """Runs the tests of a file; CI reads unittest's closing lines."""
    sys.exit(not unittest.main(exit=False, verbosity=2).result.wasSuccessful())
