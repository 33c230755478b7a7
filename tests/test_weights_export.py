"""Weights under the names of others: what is refused, inverses, the bytes of a PyTorch file. See also tests/peers."""

import jax
import numpy as np
import pytest
import weight_files as make

import zoo
from zoo import rules as tree
from zoo.errors import UserError
from zoo.weights import export, files, pytorch_file, tables, transforms

MODEL = zoo.create_model("mlp", widths=(4,), num_classes=3)
VARIABLES = {
    "params": {
        "dense1": {"kernel": np.arange(8, dtype=np.float32).reshape(2, 4), "bias": np.ones(4, np.float32)},
        "head": {"kernel": np.ones((4, 3), np.float32), "bias": np.zeros(3, np.float32)},
    }
}


def test_a_pytorch_file_without_pytorch(tmp_path):
    """Read by our own reader, which takes PyTorch's files; shapes of every kind."""
    tensors = make.arrays() | {"scalar": np.float32(2.5).reshape(()), "odd": np.arange(6.0).reshape(2, 3).T}
    pytorch_file.write(tmp_path / "x.pth", tensors)
    found = files.read(tmp_path / "x.pth")
    assert found.format == "PyTorch zip"
    assert list(found.tensors) == list(tensors)
    for name, array in tensors.items():
        assert (found.tensors[name].dtype, found.tensors[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found.tensors[name], array)
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_names_and_order(tmp_path):
    zoo.save_weights(tmp_path / "x.npz", MODEL, VARIABLES, layout="torch")
    found = np.load(tmp_path / "x.npz")
    assert list(found) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    np.testing.assert_array_equal(found["fc1.weight"], VARIABLES["params"]["dense1"]["kernel"].T)
    assert found["fc1.weight"].flags.c_contiguous


@pytest.mark.parametrize(
    "path, options, line",
    [
        ("x.pth", {"layout": "torchvison"}, "unknown layout of weights 'torchvison'; did you mean 'torchvision'"),
        (
            "x.pth",
            {"layout": "torchvision"},
            r"layout 'torchvision' has no place for 2 of 4 parameters, such as dense1/bias",
        ),
        ("x.pth", {"layout": "keras"}, r"layout 'keras' go to a file that ends in \.h5"),
        ("x.h5", {"layout": "torch"}, r"layout 'torch' go to a file that ends in \.npz or \.pt or \.pth"),
        ("x.pth", {"layout": "torch", "licence": "MIT"}, "licence can be said in our own files only"),
        ("x.pth", {}, r"x.pth: layout 'zoo' writes safetensors; for others say layout=buda\|cifar\|keras"),
        ("x.keras", {"licence": "MIT"}, r"x.keras: layout 'zoo' writes safetensors"),
        ("x.safetensors", {"input": (1, 2, 1)}, "input is for a layout of PyTorch"),
        ("no/x.pth", {"layout": "torch"}, r"cannot write .*No such file"),
    ],
)
def test_refused(tmp_path, path, options, line):
    with pytest.raises(UserError, match=line):
        zoo.save_weights(tmp_path / path, MODEL, VARIABLES, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options, line",
    [
        ({"bn_eps": 1e-3}, "bn_eps=1e-05; the model has bn_eps=0.001"),
        ({"shortcut": "A"}, "shortcut='B'; the model has shortcut='A'"),
        ({"shortcut": "D"}, "shortcut='B'; the model has shortcut='D'"),
    ],
)
def test_a_model_that_computes_something_else(options, line):
    model = zoo.create_model("resnet18", depths=(1, 1), width=4, **options)
    arrays = {f"params/{path}": np.ones(1, np.float32) for path in ("stem/kernel", "head/bias")}
    with pytest.raises(UserError, match=f"torchvision's ResNet computes with {line}"):
        export.tensors(model, arrays, "torchvision", None)


@pytest.mark.parametrize(
    "name, layout, options, line",
    [
        ("resnet18", "torchvision", {"norm": "none"}, "ResNet normalizes by batch or layer or group or instance; the"),
        ("resnetv2_18", "timm", {"norm": "response"}, "normalizes by .*; the model has norm='response'"),
        ("resnet20_cifar", "cifar", {"norm": "none"}, "CIFAR ResNet in PyTorch normalizes by"),
        ("unet", "milesial", {"norm": "none"}, "milesial's U-Net normalizes by batch; the model has norm='none'"),
        ("unet", "buda", {"norm": "group:2"}, "mateuszbuda's U-Net normalizes by batch; the model has norm='group:2'"),
        ("resnet20_cifar", "cifar", {"norm": "group:4"}, None),
        ("resnet20_cifar", "cifar", {"norm": "batch", "weight_standardization": True}, ["weight_standardization"]),
        ("unet", "milesial", {"activation": "gelu", "head_activation": "tanh"}, ["activation", "head_activation"]),
    ],
)
def test_norms_that_the_networks_do_not_have(name, layout, options, line):
    sizes = {"depth": 1, "width": 4, "up": "transpose"} if name == "unet" else {"depths": (1, 1), "width": 4}
    model = zoo.create_model(name, **sizes, **options)
    shapes = jax.eval_shape(model.init, {"params": jax.random.key(0)}, np.zeros((1, 16, 16, 3), np.float32))
    arrays = {path: np.ones(leaf.shape, np.float32) for path, leaf in tree.flatten(shapes).items()}
    if not isinstance(line, str):
        notes = export.tensors(model, arrays, layout, None)[1]
        assert [note.partition("=")[0] for note in notes] == (line or [])
    else:
        with pytest.raises(UserError, match=line):
            export.tensors(model, arrays, layout, None)


@pytest.mark.parametrize(
    "name, path, layout", [("unet", "x.h5", "keras"), ("lenet5", "x.pth", "torchvision"), ("alexnet", "x.pth", "torch")]
)
def test_layouts_that_have_no_such_network(tmp_path, name, path, layout):
    model = zoo.create_model(name)
    image = np.zeros((1, 28, 28, 1) if name == "lenet5" else (1, 224, 224, 3), np.float32)
    shapes = jax.eval_shape(model.init, {"params": jax.random.key(0)}, image)
    variables = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    with pytest.raises(UserError, match=f"layout '{layout}'.* has no"):
        zoo.save_weights(tmp_path / path, model, variables, layout=layout)


PAIRS = [value for name, value in vars(transforms).items() if name.isupper()]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].__name__)
def test_every_inverse(pair):
    """Ours of theirs of ours is ours, to the bit."""
    forwards, backwards = pair
    rng = np.random.default_rng(0)
    name = forwards.__name__
    shapes = {"torch_kernel_1x1": (5, 7), "torch_kernel_after_flatten": (18, 5), "torch_bias_sum": (6,)}
    kernel = rng.random(shapes.get(name, (2, 2, 9, 4)), np.float32)
    more = (np.ones(2, np.float32),) if name == "torch_kernel_after_flatten" else ()
    theirs = backwards(kernel, *more)
    theirs = theirs if isinstance(theirs, tuple) else (theirs, *more)
    np.testing.assert_array_equal(forwards(*theirs), kernel)
    if name not in ("same", "tied", "torch_bias_sum"):
        assert theirs[0].shape != kernel.shape


def test_every_layout_has_a_table():
    models = [zoo.create_model(name) for name in ("resnet50", "resnetv2_50", "unet", "lstm_lm", "mlp")]
    paths = [
        ["layer1_0/conv1/kernel", "layer1_0/norm1/scale", "stem_norm/scale"],
        ["layer1_0/conv1/kernel", "layer1_0/norm1/scale"],
        ["down0/conv1/kernel"],
        ["recurrent/layer1/input/kernel"],
        ["dense1/kernel"],
    ]
    found = set()
    for model, some in zip(models, paths, strict=True):
        known = {path: f"params/{path}" for path in some}
        found |= {layout for t in tables.candidates(model, known, (), None) for layout in t.layouts}
    assert found - {"keras h5"} == set(export.LAYOUTS)
