"""What a model is made of: layers, shapes, parameters and floating-point operations.

Operations are counted in the traced program, two per multiply-add of every matrix product and convolution, and
attributed to layers by the scopes that linen gives them. XLA's own `cost_analysis` does not see what cuDNN computes.
"""

import io
import math
from collections import Counter
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.extend.core
import numpy as np
from rich.console import Console
from rich.table import Table

from zoo import rules, sparsity


class Layer(NamedTuple):
    """One module that was called; the numbers include the modules inside it."""

    path: str  # '' is the model itself
    kind: str
    shape: tuple[int, ...]  # of its output
    parameters: int
    flops: int  # per example


def layers(model: nn.Module, x, masks: sparsity.Masks | None = None) -> list[Layer]:
    """The layers of a model on an input [B, ...] (an array or a ShapeDtypeStruct), in the order they are called.

    Computes nothing: everything comes from shapes. With `masks` (of `zoo.sparsity`), parameters and operations are
    those of the connections that exist.
    """
    calls: list[tuple[str, str, tuple[int, ...]]] = []

    def record(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.method_name == "__call__":
            first = jax.tree.leaves(out)[0]
            calls.append(("/".join(context.module.path), type(context.module).__name__, first.shape))
        return out

    key = jax.eval_shape(lambda: jax.random.key(0))
    with nn.intercept_methods(record):
        variables = jax.eval_shape(lambda k, x: model.init({"params": k}, x, train=False), key, x)
    sizes = {path: leaf.size for path, leaf in rules.flatten(variables["params"]).items()}
    flops = Counter()
    for scope, n in _flops(jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, x).jaxpr).items():
        # Scopes start with the name of the model's class, and name methods as `Class._method`; parameters do neither.
        flops["/".join(part for part in scope.split("/")[1:] if "." not in part)] += n
    for path, mask in (masks or {}).items():
        sizes[path] = int(mask.sum())
        module = path.rpartition("/")[0]
        if module not in flops:  # a recurrent product belongs to the layer around the module that holds its kernel
            module = module.rpartition("/")[0]
        if module in flops:
            flops[module] = round(flops[module] * mask.mean())

    def inside(path: str, name: str) -> bool:
        return not path or name == path or name.startswith(path + "/")

    def row(path, kind, shape):
        used = sum(n for scope, n in flops.items() if inside(path, scope))
        return Layer(path, kind, shape, sum(n for p, n in sizes.items() if inside(path, p)), used // x.shape[0])

    ordered = sorted(dict.fromkeys(calls), key=lambda call: (call[0] != "", calls.index(call)))
    return [row(*call) for call in ordered]


def summary(model: nn.Module, x, masks: sparsity.Masks | None = None) -> str:
    """The table of `layers` as text: path, layer, output shape, parameters, FLOPs per example.

    With `masks` (of `zoo.sparsity`), two more columns: what is left of both.
    """
    table = Table("path", "layer", "output", box=None, pad_edge=False)
    counts = [layers(model, x)] + ([layers(model, x, masks)] if masks else [])
    for title in ("parameters", "FLOPs / example", "kept", "FLOPs kept")[: 2 * len(counts)]:
        table.add_column(title, justify="right")
    for layer, *kept in zip(*counts, strict=True):
        numbers = (f"{n:,}" for row in (layer, *kept) for n in (row.parameters, row.flops))
        table.add_row(layer.path or "(all)", layer.kind, str(list(layer.shape)), *numbers)
    return render(table)


def render(table: Table) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=110, highlight=False, no_color=True).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().rstrip().splitlines())


def _flops(jaxpr, outer: str = "", times: int = 1) -> Counter:
    """Scope -> operations of one traced program, with everything it calls."""
    found = Counter()
    for eqn in jaxpr.eqns:
        scope = "/".join(filter(None, (outer, str(eqn.source_info.name_stack))))
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            lhs = eqn.invars[0].aval.shape
            found[scope] += times * 2 * eqn.outvars[0].aval.size * math.prod(lhs[d] for d in contracted)
        elif eqn.primitive.name == "conv_general_dilated":
            kernel = eqn.invars[1].aval
            features = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
            found[scope] += times * 2 * eqn.outvars[0].aval.size * kernel.size // features
        if eqn.primitive.name == "cond" and eqn.params.get("branches_platforms"):
            # One operation written differently per platform (`zoo.models.conv`): count the general form, the last.
            found += _flops(eqn.params["branches"][-1].jaxpr, scope, times)
            continue
        repeats = times * eqn.params.get("length", 1) if eqn.primitive.name == "scan" else times
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                found += _flops(getattr(inner, "jaxpr", inner), scope, repeats)
    return found


def _is_jaxpr(x) -> bool:
    return isinstance(x, jax.extend.core.Jaxpr | jax.extend.core.ClosedJaxpr)


def bytes_of(tree) -> int:
    """Bytes of all arrays (or shapes of arrays) in a tree."""
    return sum(int(np.prod(x.shape)) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))
