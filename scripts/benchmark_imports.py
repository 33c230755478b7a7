"""`benchmark.py weights`: reading a ResNet-50 beside PyTorch, from its own format and from safetensors."""

import os
import tempfile

from benchmark_harness import compare
from benchmark_report import target
from benchmark_sequences import ON_CPU, SCRIPTS, Results
from benchmark_worker import Worker, require

FORMATS = (".pth", ".safetensors")
SMALLEST = {"depths": (1, 1), "width": 4}


def _worker(library: str, path: str, options: dict, folder: str) -> Worker:
    require(library)
    environment = {**ON_CPU, "ZOO_CACHE_DIR": os.path.join(folder, "zoo")}
    return Worker(SCRIPTS / "benchmark_weights.py", library, path, options, environment=environment)


def weights(options) -> Results:
    """The zoo may take 1.5 times as long as PyTorch, which transposes nothing, and 2.2 times the memory."""
    network = SMALLEST if options.quick else {}
    for ending in FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, f"resnet50{ending}")
            with _worker("zoo", path, network, folder) as zoo:
                size = zoo.ask("make", path)
            with _worker("zoo", path, network, folder) as zoo, _worker("torch", path, network, folder) as torch:
                grown = zoo.ask("grown") / size
                sides = {"zoo": zoo.side("load"), "torch": torch.side("load")}
                result = compare(sides, window_s=options.window_s, **options.how)
        result["work"] = {"amount": size, "unit": "MB"}
        result["targets"] = [
            target("zoo / torch", 1 / result["ratios"]["torch"]["median"], at_most=1.5),
            target("memory of an import / size of the weights", grown, at_most=2.2),
        ]
        yield f"resnet50{ending}", result
