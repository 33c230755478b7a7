"""Write the generated parts of the README again: results, fine-tuning, speed, and the list of names.

    python scripts/readme.py

Each table stands between `<!-- name ... -->` and `<!-- end of name -->`. The speed of every side is in
benchmarks/README.md, which is generated as a whole. Nothing is measured here: scripts/results.py, scripts/finetune.py
and scripts/benchmark.py did that, and left what they found in benchmarks/*.json.
"""

import json
import pathlib
import re

import finetune
import list as names
import results
from benchmark_report import goals, markdown

from zoo import cli
from zoo.errors import UserError
from zoo.run_folder import write_atomically

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DETAILS = ROOT / "benchmarks" / "README.md"


def speed() -> dict:
    """What scripts/benchmark.py found; where there are several machines, with their names."""
    files = sorted({*DETAILS.parent.glob("*.json")} - {results.FILE, finetune.FILE})
    return {
        name if len(files) == 1 else f"{path.stem}, {name}": result
        for path in files
        for name, result in json.loads(path.read_text()).items()
    }


def tables() -> dict[str, str]:
    """Name of the place -> table."""
    return {
        "results": results.table(json.loads(results.FILE.read_text())),
        "finetune": finetune.table(json.loads(finetune.FILE.read_text())),
        "benchmarks": goals(speed()),
        "list": names.markdown(names.KINDS),
    }


def rendered(text: str, tables: dict[str, str]) -> str:
    """`text` with these tables in their places."""
    for name, table in tables.items():
        place = re.compile(rf"(<!-- {name}\b[^>]*-->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        if not place.search(text):
            raise UserError(f"the README has no <!-- {name} --> and <!-- end of {name} --> after it, for the table")
        text = place.sub(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text, count=1)
    return text


def details() -> str:
    """All of benchmarks/README.md."""
    how = "Every side of every comparison, from the .json files here. Generated: `python scripts/readme.py`."
    return f"# Speed, in full\n\n{how}\n\n{markdown(speed())}\n"


def main(overrides):
    if overrides:
        raise UserError("scripts/readme.py has no --config settings")
    write_atomically(README, rendered(README.read_text(), tables()))
    write_atomically(DETAILS, details())


if __name__ == "__main__":
    cli.run(main)
