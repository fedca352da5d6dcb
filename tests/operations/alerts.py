"""Alerts and runbook: promtool's own checks, one list of metrics, a section for every alert, commands that exist."""

import os
import re
import shlex
import unittest

import exposition
import yaml
from common import DEPLOY, HAPAX, PROMTOOL, SUFFIXES, TOOLS, anchors, main, metrics, run, unknown

RULES = DEPLOY / "prometheus/alerts.yml"
TESTS = DEPLOY / "prometheus/alerts_test.yml"
RUNBOOK = (DEPLOY / "RUNBOOK.md").read_text()
RUNBOOK_URL = "https://github.com/hapax/hapax/blob/main/deploy/RUNBOOK.md#"
# Commands that other parts of this change bring; empty when they are merged.
COMING = set()


def rules():
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def fences(language):
    return re.findall(rf"```{language}\n(.*?)```", RUNBOOK, re.S)


class Alerts(unittest.TestCase):
    def test_promtool_finds_nothing_wrong_with_the_rules(self):
        self.assertIn(f"{len(rules())} rules found", run(PROMTOOL, "check", "rules", RULES))

    def test_each_alert_fires_and_does_not_fire_as_its_tests_say(self):
        self.assertIn("SUCCESS", run(PROMTOOL, "test", "rules", TESTS))

    def test_there_is_a_test_of_each_alert_firing_and_one_of_it_not_firing(self):
        fires, silent = set(), set()
        for test in yaml.safe_load(TESTS.read_text())["tests"]:
            checked = {(check["alertname"], bool(check["exp_alerts"])) for check in test["alert_rule_test"]}
            fires |= {name for name, fired in checked if fired}
            silent |= {name for name, _ in checked} - {name for name, fired in checked if fired}
        names = {rule["alert"] for rule in rules()}
        self.assertEqual(fires, names)
        self.assertEqual(silent, names)

    def test_a_rule_that_is_broken_is_noticed_by_its_tests(self):
        text = RULES.read_text()
        changes = {
            "HapaxPendingOld": ("> 600", "> 60"),
            "HapaxInDoubtOld": ("> 3600", "> 36000"),
            "HapaxRouteBlocked": ("[2m]", "[10m]"),
            "HapaxCertificateExpiry": ("14 * 86400", "1 * 86400"),
            "HapaxCanaryLate": ("clamp_min(3 *", "clamp_min(1 *"),
        }
        for right, wrong in changes.values():
            self.assertEqual(text.count(right), 1, right)
            text = text.replace(right, wrong)
        folder = TOOLS / "broken"
        folder.mkdir(exist_ok=True)
        (folder / RULES.name).write_text(text)
        (folder / TESTS.name).write_text(TESTS.read_text())
        said = run(PROMTOOL, "test", "rules", folder / TESTS.name, ok=False)
        self.assertEqual(set(re.findall(r"alertname: (\w+)", said)), set(changes))

    def test_alerts_use_only_metrics_and_labels_of_the_list(self):
        for rule in rules():
            self.assertEqual(unknown(rule["expr"], metrics()), [], rule["alert"])

    def test_each_alert_has_a_severity_a_summary_and_a_section_of_the_runbook(self):
        for rule in rules():
            self.assertIn(rule["labels"]["severity"], ("critical", "warning"))
            self.assertTrue(rule["annotations"]["summary"] and rule["annotations"]["description"])
            base, anchor = rule["annotations"]["runbook_url"].split("#")
            self.assertEqual(base + "#", RUNBOOK_URL)
            self.assertEqual(anchor, rule["alert"].lower())
            self.assertIn(anchor, anchors(RUNBOOK))

    def test_each_section_says_what_it_means_who_is_affected_where_to_look_what_to_do_and_when_it_is_over(self):
        sections = dict(re.findall(r"^## (Hapax\w+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.M | re.S))
        self.assertEqual(set(sections), {rule["alert"] for rule in rules()})
        for name, text in sections.items():
            for word in ("**Means.**", "**Mail affected.**", "**Look", "**Act", "**Resolved**"):
                self.assertIn(
                    word, text if word != "**Act" else text.replace("and act", "**Act"), f"{name} has no {word}"
                )

    def test_the_comparison_with_what_a_relay_exports_sees_what_lacks_what_is_new_and_wrong_labels(self):
        known = exposition.listed()
        lines = []
        for name, (kind, labels) in known.items():
            text = ",".join(f'{label}="a,\\"b=c"' for label in sorted(labels))
            family = name.removesuffix("_total") if kind == "counter" else name
            lines.append(f"# TYPE {family} {kind}")
            for suffix in SUFFIXES if kind == "histogram" else [""]:
                more = ",".join(filter(None, [text, 'le="+Inf"' if suffix == "_bucket" else ""]))
                lines.append(f"{name}{suffix}{{{more}}} 1.5e3" if more else f"{name}{suffix} 1")
        whole = "\n".join(lines)
        self.assertEqual(list(exposition.differences(whole)), [])
        lacks = whole.replace("hapax_claims_total 1", "")
        self.assertIn("hapax_claims_total is in", "".join(exposition.differences(lacks)))
        self.assertEqual(list(exposition.differences(lacks, ["hapax_claims_total"])), [])
        new = whole + "\n# TYPE hapax_new gauge\nhapax_new 1"
        self.assertEqual(list(exposition.differences(new)), ["hapax_new is exported and not in metrics.txt"])
        labels = whole + '\nhapax_claims_total{address="a"} 1'
        self.assertIn("['address']", "".join(exposition.differences(labels)))

    @unittest.skipUnless(HAPAX, "HAPAX_BIN names no binary")
    def test_each_command_of_the_runbook_is_one_that_hapax_takes(self):
        commands = [line for block in fences("sh") for line in re.sub(r"\\\n\s*", "", block).splitlines()]
        commands += re.findall(r"`(hapax [a-z-]+[^`]*)`", RUNBOOK)
        tried = 0
        for line in dict.fromkeys(commands):
            if not line.startswith("hapax "):
                continue
            words = shlex.split(line.split("|")[0].split("&&")[0])[1:]
            if words[0] in COMING:
                continue
            words = ["0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d" if word in ("ID", "...") else word for word in words]
            run(HAPAX, *words, "--help", env={**os.environ, "HAPAX_LOG": "off"})
            tried += 1
        self.assertGreater(tried, 25)


if __name__ == "__main__":
    main()
