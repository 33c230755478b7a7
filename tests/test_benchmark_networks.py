"""All sides of scripts/benchmark.py train the same network: the zoo, by hand in flax, and PyTorch."""

import functools
import importlib.util
import sys
from pathlib import Path

import flax.traverse_util
import jax
import numpy as np
import pytest

import zoo

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import benchmark_bare as bare
from benchmark_cases import CASES, synthetic

# Smaller images where the network allows it: what is compared is the network, not its input.
SHAPES = {"unet": (32, 32, 1), "resnet18": (64, 64, 3)}
# What is flattened before the first dense layer, which PyTorch does as CHW.
FLATTENED = {"lenet5": (5, 5, 16), "alexnet": (6, 6, 256)}


def flat_in_order(tree):
    """Path -> leaf, in the order in which a module made them, which passing through a JAX transformation would lose."""
    return flax.traverse_util.flatten_dict(tree, sep="/")


def traced(model, x, **options):
    """(variables as {path: ShapeDtypeStruct} in the order of their making, shape of the output)."""
    order = []

    def init(key):
        y, variables = model.init_with_output(key, x, train=False, **options)
        for collection in ("params", "batch_stats"):
            order.extend((collection, path) for path in flat_in_order(variables.get(collection, {})))
        return y, variables

    y, variables = jax.eval_shape(init, jax.random.key(0))
    flat = {(collection, p): leaf for collection, tree in variables.items() for p, leaf in flat_in_order(tree).items()}
    return {name: flat[name] for name in order}, y.shape


def networks(name):
    case = CASES[name]
    return zoo.create_model(name, num_classes=case.classes, **case.options), bare.NETWORKS[name]()


def inputs(name, rows=2):
    shape = SHAPES.get(name, CASES[name].shape)
    return np.random.default_rng(1).standard_normal((rows, *shape), np.float32)


def values(leaves):
    """Numbers for every leaf that keep activations of order 1, statistics included."""
    rng = np.random.default_rng(2)
    found = []
    for (_, path), leaf in leaves.items():
        x = rng.standard_normal(leaf.shape, np.float32)
        if path.endswith("kernel"):
            found.append(x * np.sqrt(2 / np.prod(leaf.shape[:-1])).astype(np.float32))
        else:
            found.append(1 + 0.1 * np.abs(x) if path.endswith(("scale", "var")) else 0.1 * x)
    return found


def variables(leaves, arrays):
    tree = {}
    for (collection, path), array in zip(leaves, arrays, strict=True):
        tree.setdefault(collection, {})[path] = array
    return {k: flax.traverse_util.unflatten_dict(flat, sep="/") for k, flat in tree.items()}


@functools.cache
def zoo_logits(name):
    model, _ = networks(name)
    x = inputs(name)
    leaves, _ = traced(model, x)
    return leaves, jax.jit(model.apply)(variables(leaves, values(leaves)), x)


@pytest.mark.parametrize("name", CASES)
def test_same_parameters_in_the_same_order(name):
    case = CASES[name]
    x = np.zeros((case.batch_size, *case.shape), np.float32)
    ours, by_hand = (traced(model, x) for model in networks(name))
    assert [leaf.shape for leaf in ours[0].values()] == [leaf.shape for leaf in by_hand[0].values()]
    assert sum(leaf.size for (kind, _), leaf in ours[0].items() if kind == "params") == case.parameters
    assert ours[1] == by_hand[1] == (case.batch_size, *(case.shape[:2] if case.per_pixel else ()), case.classes)


@pytest.mark.parametrize("name", ["convnet1d", "lenet5", "resnet20_cifar", "wrn16_4", "unet"])
def test_same_outputs_as_by_hand(name):
    leaves, expected = zoo_logits(name)
    _, model = networks(name)
    order, _ = traced(model, inputs(name))
    found = jax.jit(model.apply, static_argnums=2)(variables(order, values(leaves)), inputs(name), False)
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", CASES)
def test_same_network_in_torch(name):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs torch: pip install -e '.[bench]'")
    import benchmark_torch
    import torch

    leaves, expected = zoo_logits(name)
    network = benchmark_torch.NETWORKS[name]().eval()
    named = dict(network.named_parameters())
    assert sum(p.numel() for p in named.values()) == CASES[name].parameters
    sources = iter(
        [(path, array) for (kind, path), array in zip(leaves, values(leaves), strict=True) if kind == "params"]
    )
    modules = [module for module in network.modules() if next(module.parameters(recurse=False), None) is not None]
    dense_seen = False
    with torch.no_grad():
        for module in modules:
            own = dict(module.named_parameters(recurse=False))
            for target in own.values():
                path, array = next(sources)
                if path.endswith("kernel"):
                    if array.ndim == 2 and not dense_seen:
                        dense_seen = True
                        if name in FLATTENED:
                            height, width, channels = FLATTENED[name]
                            array = array.reshape(height, width, channels, -1).transpose(2, 0, 1, 3)
                            array = array.reshape(height * width * channels, -1)
                    if isinstance(module, torch.nn.ConvTranspose2d):
                        array = array[::-1, ::-1].transpose(2, 3, 0, 1)
                    else:
                        array = np.moveaxis(array, (-1, -2), (0, 1))
                target.copy_(torch.from_numpy(np.ascontiguousarray(array)))
        assert next(sources, None) is None
        norms = [module for module in modules if hasattr(module, "running_mean")]
        stats = [array for (kind, _), array in zip(leaves, values(leaves), strict=True) if kind == "batch_stats"]
        for module, mean, var in zip(norms, stats[::2], stats[1::2], strict=True):
            module.running_mean.copy_(torch.from_numpy(mean))
            module.running_var.copy_(torch.from_numpy(var))
        found = network(torch.from_numpy(inputs(name)).movedim(-1, 1))
    found = found.movedim(1, -1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_synthetic_data():
    images, labels = synthetic(CASES["unet"]._replace(rows=3))
    assert (images.shape, images.dtype) == ((3, 128, 128, 1), np.float32)
    assert labels.shape == (3, 128, 128)
    assert set(np.unique(labels)) == {0, 1}
    images, labels = synthetic(CASES["resnet20_cifar"]._replace(rows=500), "uint8")
    assert (images.shape, images.dtype, images.max()) == ((500, 32, 32, 3), np.uint8, 255)
    assert set(labels) == set(range(10))
