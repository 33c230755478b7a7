"""Imports: real weights with known results, adaptations, and what does not fit."""

import gzip
import hashlib
import json
import lzma
import os
import pathlib
import re
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weight_files as make

import zoo
from zoo import rules as tree
from zoo.errors import UserError
from zoo.weights import import_weights, rules, tables, transforms

ROOT = pathlib.Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "weights"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real weights in {REAL}")


def cifar(shared_data, count):
    content = lzma.decompress((shared_data / "cifar10/test_batch.bin.xz").read_bytes())
    rows = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    images = rows[:count, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).astype(np.float32) / 255
    mean, std = np.float32([[[0.485, 0.456, 0.406]]]), np.float32([[[0.229, 0.224, 0.225]]])
    return (images - mean[None]) / std[None], rows[:count, 0]


def mnist(shared_data, count):
    read = {
        name: np.frombuffer(gzip.decompress((shared_data / f"mnist/t10k-{name}-ubyte.gz").read_bytes()), np.uint8)
        for name in ("images-idx3", "labels-idx1")
    }
    images = read["images-idx3"][16:].reshape(-1, 28, 28, 1)[:count].astype(np.float32)
    return images / 255 * 2 - 1, read["labels-idx1"][8 : 8 + count]


def correct(model, variables, images, labels) -> tuple[int, np.ndarray]:
    """How many of the images are classified right, and the first 8 logits."""
    apply = jax.jit(model.apply)
    logits = np.concatenate([apply(variables, images[i : i + 500]) for i in range(0, len(images), 500)])
    return int((logits.argmax(1) == labels).sum()), logits[:8]


CASES = {  # model -> file, its entry in expected.json, data, right of the first 500, right of all
    "resnet20_cifar": ("resnet_cifar10/resnet20-12fca82f.th", cifar, 455, 9173),
    "resnet32_cifar": ("resnet_cifar10/resnet32-d509ac18.th", cifar, 466, 9263),
    "lenet5": ("lenet5_mnist/lenet5.npz", mnist, 493, 9869),
}


def real(name, shared_data, count, capsys):
    file, data, few, whole = CASES[name]
    model = zoo.create_model(name)
    found, logits = correct(model, zoo.load_weights(model, REAL / file), *data(shared_data, count))
    told = json.loads((REAL / file).parent.joinpath("expected.json").read_text())
    told = told.get(pathlib.Path(file).stem, told)
    np.testing.assert_allclose(logits, told["first_8_test_logits"], rtol=1e-4, atol=2e-3)
    assert ("without their 'module.'" in capsys.readouterr().out) == (data is cifar)
    assert found == (whole if count == 10_000 else few)


@needs_real
@pytest.mark.parametrize("name", ["resnet20_cifar", "lenet5"])
def test_real_weights_on_500_images(shared_data, capsys, name):
    real(name, shared_data, 500, capsys)


@needs_real
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_real_weights_on_the_test_set(shared_data, capsys, name):
    real(name, shared_data, 10_000, capsys)


def torch_names(model, x, table) -> dict[str, np.ndarray]:
    """A file that the table fits, with its transforms undone where they are transpositions: random, of our shapes."""
    rng, found = np.random.default_rng(0), {}
    shapes = tree.flatten(jax.eval_shape(model.init, {"params": jax.random.key(0)}, x))
    for full, leaf in shapes.items():
        path = full.partition("/")[2]
        for rule in table.rules:
            if m := re.fullmatch(rule.path, path):
                array = rng.random(leaf.shape, np.float32) + 0.5
                if rule.transform is transforms.torch_kernel:
                    array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
                found[m.expand(rule.sources[0])] = np.ascontiguousarray(array)
    return found | {"bn1.num_batches_tracked": np.array(3)}


TINY = {"depths": (1, 1), "width": 4, "num_classes": 5}


@pytest.fixture(scope="module")
def tiny():
    """A residual network of two blocks, its file, and a function that writes changed copies of it."""
    model = zoo.create_model("resnet18", **TINY)
    return model, torch_names(model, jnp.zeros((1, 32, 32, 3)), tables.RESNETS[0])


@pytest.fixture
def load(tiny, tmp_path):
    """load(options, **changed tensors) -> Import; a tensor None is left out."""

    def load_changed(options=None, changed=None, **more):
        tensors = {k: v for k, v in (tiny[1] | (changed or {})).items() if v is not None}
        path = tmp_path / "theirs.npz"
        path.write_bytes(make.npz(tensors))
        return import_weights(zoo.create_model("resnet18", **TINY | (options or {})), path, **more)

    return load_changed


def test_a_complete_import(tiny, load):
    model, tensors = tiny
    done = load()
    assert (done.rules, done.notes) == ("torchvision's ResNet", [])
    found = tree.flatten(done.variables)
    np.testing.assert_array_equal(found["params/stem/kernel"], tensors["conv1.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(
        found["batch_stats/layer2_0/proj_norm/var"], tensors["layer2.0.downsample.1.running_var"]
    )
    np.testing.assert_array_equal(found["params/head/kernel"], tensors["fc.weight"].T)
    assert len(done.table) == len(found) == len(tensors) - 1
    row = next(row for row in done.table if row.path == "layer2_0/proj/kernel")
    assert row == ("layer2_0/proj/kernel", ("layer2.0.downsample.0.weight",), "torch_kernel", (1, 1, 4, 8))
    shapes = jax.eval_shape(model.init, {"params": jax.random.key(0)}, jnp.zeros((1, 32, 32, 3)))
    assert jax.tree.structure(shapes) == jax.tree.structure(done.variables)
    assert all(leaf.dtype == np.float32 and leaf.flags.c_contiguous for leaf in found.values())


MISFITS = {
    "missing": (
        {"layer1.0.bn1.bias": None},
        r"layer1_0/norm1/bias: needs 'layer1.0.bn1.bias' \(near: .*layer1.0.bn2.bias",
    ),
    "unused": ({"layer1.0.bn1.biass": np.ones(2)}, r"'layer1.0.bn1.biass' in the file is not used"),
    "shape": (
        {"layer1.0.conv1.weight": np.ones((4, 3, 3, 3), np.float32)},
        r"layer1_0/conv1/kernel: \[3, 3, 3, 4\] in the file \(layer1.0.conv1.weight\), \[3, 3, 4, 4\] in the model",
    ),
    "same size": (  # that a reshape would have hidden
        {"layer1.0.conv1.weight": np.ones((3, 3, 4, 4), np.float32)},
        r"layer1_0/conv1/kernel: \[4, 4, 3, 3\] in the file",
    ),
    "rank": ({"bn1.weight": np.ones((4, 1), np.float32)}, r"stem_norm/scale: \[4, 1\] in the file"),
    "integers": ({"bn1.weight": np.ones(4, np.int64)}, r"'bn1.weight' is int64, not a floating-point"),
    "NaN": ({"bn1.weight": np.float32([1, 2, np.nan, 4])}, r"bn1.weight has values that are NaN or infinite"),
    "float64 too large": ({"bn1.weight": np.array([1, 2, 3, 1e300])}, r"bn1.weight has values that are NaN or inf"),
    "head": ({"fc.weight": np.ones((5, 9), np.float32)}, r"head/kernel: \[9, 5\] in the file"),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_what_does_not_fit_is_refused(load, kind):
    changed, line = MISFITS[kind]
    with pytest.raises(UserError, match=r"does not fit the model \(by torchvision's ResNet\).*" + line):
        load(changed=changed)


def test_where_nothing_fits_no_table_is_named(tmp_path, tiny):
    (tmp_path / "x.npz").write_bytes(make.npz({"zz/a": np.ones(3, np.float32)}))
    with pytest.raises(UserError, match=r"\(by none of the known layouts\): .*'zz/a' in the file is not used"):
        import_weights(tiny[0], tmp_path / "x.npz")


def test_one_error_lists_everything(load):
    changed = {k: v for kind in ("missing", "unused", "shape", "integers") for k, v in MISFITS[kind][0].items()}
    with pytest.raises(UserError) as error:
        load(changed=changed)
    for kind in ("missing", "unused", "shape", "integers"):
        assert re.search(MISFITS[kind][1].partition(r" \(near")[0], str(error.value)), kind
    assert str(error.value).count(";") == 3
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options, must",
    [
        ({"shortcut": "D"}, "shortcut='B', not 'D'"),
        ({"shortcut": "D", "bn_eps": 1e-3}, "bn_eps=1e-05, shortcut='B', not 0.001, 'D'"),
    ],
)
def test_a_model_that_computes_something_else_is_refused(load, options, must):
    with pytest.raises(UserError, match=f"holds torchvision's ResNet; the model must have {must}"):
        load(options)


def test_a_shortcut_without_a_projection_is_told_by_the_names(load, tiny):
    without = {name: None for name in tiny[1] if "downsample" in name}
    assert load({"shortcut": "A"}, without).notes == []
    with pytest.raises(UserError, match=r"'layer2.0.downsample.0.weight' in the file is not used"):
        load({"shortcut": "A"})


def test_what_is_not_usual_is_told(load):
    line = "global_pool='avg' is usual for torchvision's ResNet; the model has 'max', and the file cannot tell which is"
    assert load({"global_pool": "max"}).notes == [f"{line} right"]
    (note,) = load({"weight_standardization": True}).notes  # as in published networks with these names
    assert note.startswith("weight_standardization=False is usual for torchvision's ResNet; the model has True")


def test_another_number_of_classes_gives_a_new_head(tiny, load):
    done = load({"num_classes": 7})
    assert done.notes == ["a new head: 5 classes in the file, 7 in the model"]
    model = zoo.create_model("resnet18", **TINY | {"num_classes": 7})
    x = jnp.zeros((1, 32, 32, 3))
    fresh = jax.jit(lambda key: model.init({"params": key}, x)["params"]["head"])(jax.random.key(0))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), done.variables["params"]["head"], fresh)
    other = load({"num_classes": 7}, seed=1).variables["params"]
    assert (other["head"]["kernel"] != fresh["kernel"]).any()
    np.testing.assert_array_equal(other["stem"]["kernel"], tiny[1]["conv1.weight"].transpose(2, 3, 1, 0))
    assert [row.path for row in done.table if row.transform == "new"] == ["head/bias", "head/kernel"]


def test_a_model_without_head_needs_none(load):
    done = load({"num_classes": 0})
    assert "head" not in done.variables["params"]


@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_other_input_channels(tiny, load, n):
    """The response to equal channels stays: to one image in 1 channel, or in n with n / 3 of the sum."""
    done = load({"in_channels": n})
    theirs, ours = tiny[1]["conv1.weight"].transpose(2, 3, 1, 0), done.variables["params"]["stem"]["kernel"]
    assert ours.shape[2] == n
    if n == 1:
        np.testing.assert_allclose(ours, theirs.sum(2, keepdims=True), rtol=1e-6)
        assert done.notes == ["stem/kernel: 3 input channels summed to 1"]
    else:
        for c in range(n):
            np.testing.assert_allclose(ours[:, :, c], theirs[:, :, c % 3] * 3 / n, rtol=1e-6)
        assert done.notes == [f"stem/kernel: 3 input channels repeated to {n}, scaled by 3/{n}"]


def test_channels_that_no_adaptation_is_known_for(load):
    two = np.ones((4, 2, 7, 7), np.float32)
    assert (
        load(changed={"conv1.weight": two}).variables["params"]["stem"]["kernel"].shape[2] == 2
    )  # the model takes any
    for how in ({"options": {"in_channels": 3}}, {"input": (32, 32, 3)}):
        with pytest.raises(UserError, match=r"stem/kernel: \[7, 7, 2, 4\] in the file.*\[7, 7, 3, 4\] in the model"):
            load(changed={"conv1.weight": two}, **how)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_are_told(tiny, tmp_path, capsys, dtype):
    model, tensors = tiny
    low = {k: v.astype(jnp.bfloat16 if dtype == "bfloat16" else dtype) for k, v in tensors.items() if v.ndim}
    path = tmp_path / "theirs"
    zoo.weights.safetensors.write(path, low, {})
    variables = zoo.load_weights(model, path)
    assert capsys.readouterr().out == f"{path}: {len(low)} tensors are {dtype}; float32 from here on\n"
    kernel = variables["params"]["stem"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, low["conv1.weight"].astype(np.float32).transpose(2, 3, 1, 0))


@pytest.mark.parametrize(
    "names, prefix",
    [("module.{}", "module."), ("module.model.{}", "module.model."), ("_orig_mod.{}", "_orig_mod."), ("x.{}", None)],
)
def test_prefixes_of_wrappers(tiny, tmp_path, names, prefix):
    model, tensors = tiny
    path = tmp_path / "theirs"
    path.write_bytes(make.torch_zip({"state_dict": make.state_dict({names.format(k): v for k, v in tensors.items()})}))
    if prefix is None:
        with pytest.raises(UserError, match=r"does not fit the model .*'x\.\S+' in the file is not used"):
            import_weights(model, path)
    else:
        done = import_weights(model, path)
        assert done.notes == [f"names without their {prefix!r}"]
        assert len(done.table) == len(tensors) - 1


def dense_layers(*layers, bias_first=False) -> dict[str, np.ndarray]:
    """Square layers of PyTorch, so that no shape tells them apart: the bias of each is its number."""
    parts = [{"weight": np.ones((4, 4)), "bias": np.full(4, i)} for i in range(1, len(layers) + 1)]
    parts = [dict(reversed(part.items())) if bias_first else part for part in parts]
    named = zip(layers, parts, strict=True)
    return {f"{layer}.{leaf}": array.astype(np.float32) for layer, part in named for leaf, array in part.items()}


@pytest.mark.parametrize(
    "layers, order",
    [
        (("input", "hidden", "output"), (1, 2, 3)),  # as a state_dict has them: that of the definition
        (("zz", "aa", "mm"), (1, 2, 3)),
        (("fc", "fc2", "out"), (1, 2, 3)),
        (("body.0", "body.2", "head"), (1, 2, 3)),
        (("fc10", "fc2", "fc1"), (3, 2, 1)),  # numbers say more than the order of the definitions
        (("out", "fc1", "fc2"), None),
        (("fc2", "fc1", "last"), None),
    ],
)
def test_the_order_of_dense_layers(tmp_path, layers, order):
    model = zoo.create_model("mlp", widths=(4, 4), num_classes=4)
    (tmp_path / "x").write_bytes(make.torch_zip(make.state_dict(dense_layers(*layers))))
    if order is None:
        line = rf"x: the order of the layers {', '.join(layers)} cannot be told: their numbers and the file's order"
        with pytest.raises(UserError, match=line):
            import_weights(model, tmp_path / "x", input=(4,))
        return
    params = import_weights(model, tmp_path / "x", input=(4,)).variables["params"]
    assert tuple(params[name]["bias"][0] for name in ("dense1", "dense2", "head")) == order


def test_the_order_of_dense_layers_in_a_file_that_is_sorted_by_name(tmp_path):
    model = zoo.create_model("mlp", widths=(4, 4), num_classes=4)
    for layers, wanted in ((("fc1", "fc2", "output"), (1, 2, 3)), (("hidden", "input", "output"), None)):
        (tmp_path / "x.npz").write_bytes(make.npz(dense_layers(*layers, bias_first=True)))
        if wanted is None:
            with pytest.raises(UserError, match="not numbered, and the file is sorted; give rules"):
                import_weights(model, tmp_path / "x.npz", input=(4,))
        else:
            params = import_weights(model, tmp_path / "x.npz", input=(4,)).variables["params"]
            assert tuple(params[name]["bias"][0] for name in ("dense1", "dense2", "head")) == wanted


# A user's own rules.

MLP = zoo.create_model("mlp", widths=(6,), num_classes=3)
THEIRS = {
    "a/w": np.ones((4, 6), np.float32),
    "a/b": np.ones(6),
    "z.w": np.ones((3, 6)),
    "z.b": np.ones(3),
    "n": np.ones(1),
}
OWN = [(r"dense(\d)/kernel", "a/w", np.copy), (".*1/bias", ("a/b",), np.copy), ("head/kernel", "z.w", np.transpose)]
OWN += [("head/bias", "z.b", np.copy)]


def by_rules(tmp_path, given, ignore=("n",)):
    path = tmp_path / "theirs.npz"
    path.write_bytes(make.npz(THEIRS))
    return import_weights(MLP, path, rules.make(given, ignore))


def test_own_rules(tmp_path):
    done = by_rules(tmp_path, OWN)
    assert done.variables["params"]["head"]["kernel"].shape == (6, 3)
    assert {(row.path, row.transform) for row in done.table} == {
        ("dense1/bias", "copy"), ("dense1/kernel", "copy"), ("head/bias", "copy"), ("head/kernel", "transpose"),
    }  # fmt: skip
    (tmp_path / "theirs.npz").write_bytes(make.npz({k: v for k, v in THEIRS.items() if k != "n"}))
    listed = zoo.load_weights(MLP, tmp_path / "theirs.npz", OWN)
    jax.tree.map(np.testing.assert_array_equal, listed, done.variables)


@pytest.mark.parametrize(
    "given, ignore, line",
    [
        (OWN, (), r"'n' in the file is not used"),
        (OWN[1:], ["n"], r"dense1/kernel: no rule fills it.*'a/w' in the file is not used"),
        ([*OWN, (".*/kernel", "a/w", np.copy)], ["n"], r"dense1/kernel: 2 rules fill it: 'dense.*' and '\.\*/kernel'"),
        ([*OWN[:-1], ("head/bias", "z.bb", np.copy)], ["n"], r"head/bias: needs 'z\.bb' \(near: z\.b"),
        (
            [*OWN[:-1], ("head/bias", "z.w", np.copy)],
            ["n"],
            r"head/bias: \[3, 6\] in the file.*'z.b' in the file is not",
        ),
        ([("dense1/(", "a/w", np.copy)], [], r"'dense1/\(' is not a regular expression"),
        ([("dense1/kernel", "a/w")], [], r"a rule is \(regex on our path.*not \('dense1/kernel', 'a/w'\)"),
        ([("dense1/kernel", 5, np.copy)], [], r"a rule is \(regex"),
        ([("dense1/kernel", r"\2", np.copy)], [], r"'dense1/kernel': invalid group reference"),
        ([*OWN[1:], ("dense1/kernel", "a/w", lambda x: x.transpose(2, 1, 0))], ["n"], r"cannot take \[4, 6\]"),
        (
            [*OWN[1:], ("dense1/kernel", "a/w", lambda x, y: x)],
            ["n"],
            r"<lambda> cannot take \[4, 6\]: .*argument: 'y'",
        ),
        ([*OWN[1:], ("dense1/kernel", "a/w", lambda x: x.permute(1, 0))], ["n"], r"cannot take .*attribute 'permute'"),
        ([*OWN[1:], ("dense1/kernel", "a/w", lambda x: {}[x.size])], ["n"], r"dense1/kernel: <lambda> cannot .*: 24$"),
        ([*OWN[1:], ("dense1/kernel", "a/w", partial(np.reshape, shape=(5,)))], ["n"], r"partial cannot take \[4, 6\]"),
        ([*OWN[1:], ("dense1/kernel", "a/w", np.ndarray.tolist)], ["n"], r"tolist gives list, not an array of numbers"),
        (
            [*OWN[1:], ("dense1/kernel", "a/w", lambda x: x.astype(str))],
            ["n"],
            r"<lambda> gives <U32, not an array of n",
        ),
        (OWN, "n", r"what is ignored is a list of regular expressions, not 'n'"),
        (OWN, None, r"what is ignored is a list of regular expressions, not None"),
        (OWN, ["n("], r"ignored is 'n\(', no regular expression: missing \)"),
        (OWN, [5], r"ignored is 5, no regular expression"),
        (7, [], r"they are a list of rules, not 7"),
        ({"a": 1}, [], r"they are a list of rules, not \{'a': 1\}"),
    ],
)
def test_own_rules_that_are_wrong(tmp_path, given, ignore, line):
    with pytest.raises(UserError, match=line):
        by_rules(tmp_path, given, ignore)


def script(*arguments):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "scripts/import_weights.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def test_the_script(tmp_path):
    path, out, table = tmp_path / "theirs.npz", tmp_path / "ours.safetensors", tmp_path / "table.tsv"
    path.write_bytes(make.npz(THEIRS))
    (tmp_path / "own.py").write_text(
        "import numpy as np\nRULES = [('dense1/kernel', 'a/w', np.copy), ('dense1/bias', 'a/b', np.copy),\n"
        "('head/kernel', 'z.w', np.transpose), ('head/bias', 'z.b', np.copy)]\nIGNORE = ['n']\n"
    )
    done = script(
        path, "--model=mlp", "--option=widths=(6,)", "--option=num_classes=3", f"--rules={tmp_path / 'own.py'}",
        "--input=4", f"--out={out}", f"--table={table}", "--about=licence=MIT", "--about=class_names=('a','b','c')",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"head/kernel +z.w +transpose +\[6, 3\]", done.stdout)
    assert table.read_text().splitlines()[1:3] == ["dense1/bias\ta/b\tcopy\t6", "dense1/kernel\ta/w\tcopy\t4x6"]
    model, variables, says = zoo.load_model(out)
    assert model == MLP
    assert (says["licence"], says["class_names"], says["source"]) == ("MIT", ["a", "b", "c"], "theirs.npz")
    assert len(says["source_sha256"]) == 64
    np.testing.assert_array_equal(variables["params"]["dense1"]["kernel"], THEIRS["a/w"])
    again = script(out, f"--out={tmp_path / 'again.safetensors'}", "--about=licence=BSD")
    assert again.returncode == 0, again.stderr
    assert zoo.load_model(tmp_path / "again.safetensors")[2] == says | {"licence": "BSD"}
    more = script(out, "--model=mlp", "--option=widths=(6,)", "--option=num_classes=4", f"--out={tmp_path / 'more'}")
    assert more.returncode == 0, more.stderr
    four = zoo.load_model(tmp_path / "more")[2]
    assert (four["class_names"], four["source"], four["licence"]) == (None, "theirs.npz", "MIT")
    back = script(out, f"--out={tmp_path / 'back.npz'}", "--layout=torch")
    assert back.returncode == 0, back.stderr
    found = np.load(tmp_path / "back.npz")
    np.testing.assert_array_equal(found["fc2.weight"], THEIRS["z.w"])
    refused = script(path, "--model=mlp")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "is not used" in refused.stderr


def test_the_script_with_an_address(tmp_path, monkeypatch):
    """Of weights that were fetched before."""
    content, out = make.npz(dense_layers("fc1", "fc2")), tmp_path / "ours.safetensors"
    sha256 = hashlib.sha256(content).hexdigest()
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / sha256).write_bytes(content)
    options = "--model=mlp", "--option=widths=(4,)", "--option=num_classes=4", "--input=4", f"--out={out}"
    done = script(f"https://weights.example/w.npz#sha256={sha256}", *options)
    assert done.returncode == 0, done.stderr
    says = zoo.load_model(out)[2]
    assert (says["source"], says["source_sha256"]) == ("https://weights.example/w.npz", sha256)
