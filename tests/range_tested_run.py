"""Finds a rate for a recipe and trains with it: `range_tested_run.py RECIPE EPOCHS WORKDIR` prints test accuracies.

A process of its own, on one device: four fake ones on a busy machine may wait for each other too long for XLA.
"""

import json
import pathlib
import sys

import zoo
from zoo import lr_find
from zoo.errors import NonFiniteError


def main(recipe, epochs, workdir):
    config = zoo.config.load(f"configs/{recipe}.py", [("total_epochs", epochs), ("eval_every_percent", "100")])
    config.averaging = {"name": "none"}
    found = lr_find.range_test(config)
    accuracies = {}
    for name, lr, schedule in (
        ("suggestion", found.suggestion, "constant"),
        ("100 times", 100 * found.suggestion, "constant"),
        ("peak of a cycle", found.maximum, "one_cycle"),
    ):
        config.optim.lr, config.schedule = lr, {"name": schedule}
        try:
            report = zoo.train(config, pathlib.Path(workdir, name))
            accuracies[name] = report["metrics"]["test"]["accuracy"]
        except NonFiniteError:
            accuracies[name] = 0.0
    print(json.dumps(accuracies))


if __name__ == "__main__":
    main(*sys.argv[1:])
