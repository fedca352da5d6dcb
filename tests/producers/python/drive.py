"""Executes one scenario of one recipe and prints one JSON object: see `run`."""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "deploy" / "producers" / "python"))
sys.path.insert(0, str(HERE / "shop"))


def main(recipe, scenario, *arguments):
    if recipe == "django":
        import drive_django as driver
    elif recipe == "sqlalchemy":
        import drive_sqlalchemy as driver
    elif recipe == "psycopg":
        import drive_psycopg as driver
    elif recipe == "shop":
        import shop as driver
    else:
        raise SystemExit(f"no recipe {recipe}")
    function = getattr(driver, scenario.replace("-", "_"), None)
    if function is None:
        raise SystemExit(f"{recipe} has no scenario {scenario}")
    print(json.dumps(function(*arguments), default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
