"""What an installation brings along."""

import ast
import importlib.metadata
import pathlib
import subprocess
import sys
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parent.parent
HEAVY = {"tensorflow", "tensorflow-cpu", "tf-nightly", "torch", "keras", "tf-keras"}


def resolved(name: str, extras=("",)) -> set[str]:
    """Every package that installing `name` brings along, as resolved in this environment."""
    found, todo = set(), [(canonicalize_name(name), tuple(extras))]
    while todo:
        package, extras = todo.pop()
        if (package, extras) in found:
            continue
        found.add((package, extras))
        for text in importlib.metadata.requires(package) or []:
            requirement = Requirement(text)
            wanted = not requirement.marker or any(requirement.marker.evaluate({"extra": e}) for e in extras)
            if wanted:
                todo.append((canonicalize_name(requirement.name), ("", *sorted(requirement.extras))))
    return {package for package, _ in found}


def test_the_core_brings_no_heavy_framework():
    core = resolved("jax-model-zoo")
    assert {"jax", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "importlib-resources"} <= core
    assert len(core) > 20  # the walk went past the first level
    assert not core & HEAVY
    assert not resolved("jax-model-zoo", ("", "test")) & HEAVY


def test_what_the_zoo_imports_is_declared():
    imported = set()
    proofs = {ROOT / "zoo" / "weights" / f"torch_{name}.py" for name in ("networks", "peers")}  # these need torch
    assert all(path.exists() for path in proofs)
    for path in set((ROOT / "zoo").rglob("*.py")) - proofs:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
    found = importlib.metadata.packages_distributions()
    packages = {canonicalize_name(found.get(n, [n])[0]) for n in imported - {"zoo"} - sys.stdlib_module_names}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [project["optional-dependencies"][extra] for extra in ("hf", "keras", "plot")]
    texts = sum(extras, project["dependencies"])
    assert {"jax", "pillow", "scipy"} <= packages
    # array_record comes with tensorflow-datasets where it exists at all; its absence is told.
    assert packages - {"array-record"} <= {canonicalize_name(Requirement(text).name) for text in texts}


def test_every_core_package_is_installed():
    for package in resolved("jax-model-zoo"):
        assert importlib.metadata.version(package)


def test_importing_the_zoo_loads_no_heavy_framework():
    code = "import sys, zoo; print(*{m.partition('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "jax" in loaded
    assert not set(loaded) & {"tensorflow", "torch", "keras", "tensorflow_datasets", "sklearn", "matplotlib"}


def test_known_bad_versions_are_excluded():
    requirements = map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    bounds = {requirement.name: requirement.specifier for requirement in requirements}
    for package in ("jax", "jaxlib"):
        assert "0.10.1" in bounds[package]
        assert "0.10.2" not in bounds[package]
        assert "0.11.0" not in bounds[package]
    assert not any(spec.operator in ("==", "<", "<=", "~=") for specs in bounds.values() for spec in specs)
