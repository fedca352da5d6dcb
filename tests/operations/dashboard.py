"""The dashboard: written by its program, only metrics that exist, every expression one that Prometheus can read."""

import json
import re
import unittest

import yaml
from common import DEPLOY, PROMTOOL, TOOLS, main, metrics, run, unknown

PROGRAM = DEPLOY / "grafana/dashboard.py"
FILE = DEPLOY / "grafana/hapax.json"
BOARD = json.loads(FILE.read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]


def expressions():
    """Title and expression, with Grafana's variables filled in."""
    found = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
    found += [(note["name"], note["expr"]) for note in BOARD["annotations"]["list"]]
    values = {"$__rate_interval": "5m", "$__range": "3h", "$job": ".*", "$route": ".*"}
    for title, expression in found:
        for variable, value in values.items():
            expression = expression.replace(variable, value)
        yield title, expression


class Dashboard(unittest.TestCase):
    def test_it_is_what_its_program_writes(self):
        self.assertEqual(
            run("/usr/bin/env", "python3", PROGRAM),
            FILE.read_text(),
            "type: deploy/grafana/dashboard.py > deploy/grafana/hapax.json",
        )

    def test_promtool_can_read_every_expression(self):
        rules = [
            {"record": f"panel:{number}", "expr": expression} for number, (_, expression) in enumerate(expressions())
        ]
        file = TOOLS / "dashboard-rules.yml"
        file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
        self.assertIn(f"{len(rules)} rules found", run(PROMTOOL, "check", "rules", file))
        file.write_text(file.read_text().replace("sum by (", "sum of (", 1))
        run(PROMTOOL, "check", "rules", file, ok=False)

    def test_panels_use_only_metrics_and_labels_of_the_list(self):
        for title, expression in expressions():
            self.assertNotIn("$", expression, title)
            self.assertEqual(unknown(expression, metrics()), [], title)
            self.assertRegex(expression, r"hapax_|process_", title)
        self.assertEqual(
            unknown('hapax_nothing{job="a"} + hapax_build_info{address="b"}', metrics()),
            ["hapax_nothing", "hapax_build_info{address}"],
        )

    def test_every_metric_is_shown_somewhere(self):
        shown = " ".join(expression for _, expression in expressions())
        base = {re.sub("_(bucket|sum|count)$", "", name) for name in metrics()} - {"up"}
        self.assertEqual({name for name in base if not re.search(rf"\b{name}(_bucket|_sum|_count)?\b", shown)}, set())

    def test_variables_ask_for_metrics_that_exist(self):
        for variable in BOARD["templating"]["list"]:
            self.assertEqual(unknown(str(variable["query"]).replace("$job", ".*"), metrics()), [])

    def test_each_row_asks_a_question_and_panels_do_not_overlap(self):
        rows = [panel for panel in BOARD["panels"] if panel["type"] == "row"]
        self.assertEqual(len(rows), 6)
        for row in rows:
            self.assertTrue(row["title"].endswith("?"))
        taken, numbers = set(), set()
        for panel in BOARD["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            self.assertFalse(cells & taken, panel["title"])
            self.assertLessEqual(place["x"] + place["w"], 24, panel["title"])
            self.assertNotIn(panel["id"], numbers)
            taken |= cells
            numbers.add(panel["id"])

    def test_each_panel_says_what_it_shows_and_in_which_unit(self):
        for panel in PANELS:
            self.assertTrue(panel["title"] and panel["description"], panel)
            self.assertTrue(panel["fieldConfig"]["defaults"]["unit"], panel["title"])
            names = [target["refId"] for target in panel["targets"]]
            self.assertEqual(len(names), len(set(names)), panel["title"])


if __name__ == "__main__":
    main()
