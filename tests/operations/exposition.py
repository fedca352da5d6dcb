#!/usr/bin/env python3
"""Compares what a relay says at /metrics (standard input) with deploy/prometheus/metrics.txt, by name and label.

Usage: exposition.py [NAME...] < metrics     NAMEs may be missing; any other difference is printed, and ends it with 1.
"""

import re
import sys
from pathlib import Path

LIST = Path(__file__).resolve().parents[2] / "deploy/prometheus/metrics.txt"
SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*?)\})? [-+\w.]+(?: [\d.]+)?(?: # .*)?$")


def listed():
    """Name -> (type, labels)."""
    lines = [line.split() for line in LIST.read_text().splitlines() if line and not line.startswith("#")]
    return {name: (kind, set() if labels == "-" else set(labels.split(","))) for name, kind, labels, *_ in lines}


def exposed(text):
    """Name of a family, as the list has it -> (type, label sets)."""
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    found = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        sample = SAMPLE.match(line)
        if not sample:
            raise ValueError(f"not a sample: {line}")
        name, labels = sample[1], frozenset(re.findall(r'(\w+)="', sample[2] or ""))
        base = re.sub("_(bucket|sum|count)$", "", name)
        if types.get(base) == "histogram":
            name, labels = base, labels - {"le"}
        family = name if name in types else name.removesuffix("_total")
        kind, seen = found.setdefault(name, (types.get(family, "untyped"), set()))
        seen.add(labels)
    return found


def differences(text, may_be_missing=()):
    known, found = listed(), exposed(text)
    for name in sorted(set(known) - set(found) - set(may_be_missing)):
        yield f"{name} is in {LIST.name} and not exported"
    for name in sorted(set(found) - set(known)):
        yield f"{name} is exported and not in {LIST.name}"
    for name in sorted(set(found) & set(known)):
        kind, labels = known[name]
        if found[name][0] != kind:
            yield f"{name} is a {found[name][0]}, the list says {kind}"
        for seen in found[name][1]:
            if seen != labels:
                yield f"{name} has labels {sorted(seen)}, the list says {sorted(labels)}"


if __name__ == "__main__":
    problems = list(differences(sys.stdin.read(), sys.argv[1:]))
    print("\n".join(problems) if problems else "every metric is as listed")
    sys.exit(bool(problems))
