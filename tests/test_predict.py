"""Prediction: what evaluation computes, from files as they are; scripts/predict.py prints and writes it."""

import csv
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import zoo
from zoo import checkpoint, data, predict, semantics
from zoo.data import preprocess, sklearn_sets
from zoo.errors import UserError
from zoo.run import prepare

ROOT = pathlib.Path(__file__).parent.parent
IMAGES = {"input_size": (6, 6, 3), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


def script(*arguments):
    command = [sys.executable, "scripts/predict.py", *map(str, arguments)]
    environment = {**os.environ, "XLA_FLAGS": ""}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def save(path, model, **said):
    """Random weights of a model with a header; returns them."""
    size, tokens = said["input_size"], "vocab" in said
    x = jax.ShapeDtypeStruct((1, *size), np.int32 if tokens else np.float32)
    shapes = jax.eval_shape(model.init, {"params": jax.random.key(0)}, x)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32) ** 2, shapes)
    zoo.save_weights(path, model, variables, **said)
    return variables


def picture(path, shape, mode=None):
    array = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    Image.fromarray(array, mode).save(path)
    return array


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder of a run on the digits, folder with its test images by class)."""
    folder = tmp_path_factory.mktemp("predict")
    config = zoo.config.load("tests/tiny.py", [("total_steps", "30"), ("averaging.name", "none")])
    zoo.train(config, folder / "run")
    source = sklearn_sets.digits()
    arrays = data.splits.split(source, validation=0.1, test=0.1, seed=0)["test"]
    for row, (image, label) in enumerate(zip(arrays["image"], arrays["label"], strict=True)):
        (folder / "test" / f"{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / f"test/{label}/{row:03}.png")
    return folder / "run", folder / "test"


def test_a_run_predicts_what_its_evaluation_found(run):
    folder, images = run
    done = script(folder, images, "--top_k=2", f"--output={folder.parent / 'found.csv'}")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((folder.parent / "found.csv").read_text().splitlines()))
    right = [pathlib.Path(row["input"]).parent.name == row["class1"] for row in rows]
    assert len(rows) == 180
    assert np.mean(right) == json.loads((folder / "report.json").read_text())["metrics"]["test"]["accuracy"]
    assert rows[0].keys() == {"input", "class1", "probability1", "class2", "probability2"}
    assert 1 >= float(rows[0]["probability1"]) >= float(rows[0]["probability2"]) >= 0
    percent = f"{100 * float(rows[0]['probability1']):.2f} %"
    assert done.stdout.splitlines()[0].startswith(f"{rows[0]['input']}: {rows[0]['class1']} {percent}, ")


@pytest.mark.parametrize("normalize", ["lda", ("standardize", "pca:20")])
def test_images_become_features_as_in_training(run, tmp_path, normalize):
    config = zoo.config.load("tests/tiny.py", [("total_steps", "30"), ("averaging.name", "none")])
    config.data.normalize = normalize
    accuracy = zoo.train(config, tmp_path)["metrics"]["test"]["accuracy"]
    called, inputs = predict.read(predictor := predict.load(tmp_path), [str(run[1])])
    classes = predict.outputs(predictor, inputs).argmax(1)
    right = [pathlib.Path(name).parent.name == str(found) for name, found in zip(called, classes, strict=True)]
    assert np.mean(right) == accuracy > 0.3
    with pytest.raises(UserError, match=r"was trained on images of \[8, 8, 1\]; leave input_size out"):
        predict.load(tmp_path, input_size=(16, 16, 1))


@pytest.mark.parametrize("in_unit", [True, False])
def test_a_run_on_floats_predicts_files(run, tmp_path, in_unit):
    """Whose images are bytes, as floats in 0..1, if it was trained on such; there are no files of others."""
    folder, images = run
    shutil.copytree(folder, tmp_path / "run")
    statistics = preprocess.load(folder) | {"float_images": np.array(in_unit)}
    for key in ("shift", "scale"):
        statistics[f"normalize/0/standardize/{key}"] /= 255
    preprocess.save(tmp_path / "run", statistics)
    predictor = predict.load(tmp_path / "run")
    if not in_unit:
        with pytest.raises(UserError, match=r"run was trained on float images that are not in 0\.\.1, and files have"):
            predict.read(predictor, [str(images)])
        return
    _, inputs = predict.read(predictor, [str(images)])
    wanted = predict.outputs(predict.load(folder), inputs)
    np.testing.assert_allclose(predict.outputs(predictor, inputs), wanted, rtol=1e-3, atol=1e-6)
    floats = list(np.stack(inputs) / np.float32(255))
    np.testing.assert_allclose(predict.outputs(predictor, floats), wanted, rtol=1e-3, atol=1e-6)


def test_a_run_says_what_it_is(run):
    model, variables, said = zoo.load_model(run[0])
    assert model == zoo.create_model("mlp", widths=(32,), norm="batch", dropout=0.1)
    assert (said["task"], said["input_size"], said["channel_order"]) == ("classification", [8, 8, 1], "L")
    assert said["class_names"] == list("0123456789")
    arrays = data.splits.split(sklearn_sets.digits(), validation=0.1, test=0.1, seed=0)["train"]
    np.testing.assert_allclose(said["mean"], arrays["image"].mean() / 255, rtol=1e-6)
    np.testing.assert_allclose(said["std"], arrays["image"].std() / 255, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, variables, checkpoint.load_variables(run[0]))
    described = {key: said[key] for key in ("input_size", "mean", "std", "class_names")}
    zoo.save_weights(run[0].parent / "x.safetensors", model, variables, **described)
    assert zoo.load_model(run[0].parent / "x.safetensors")[0] == model


def test_probabilities_are_those_of_the_normalized_image(tmp_path):
    model = zoo.create_model("mlp", num_classes=3, widths=(4,))
    variables = save(tmp_path / "w", model, **IMAGES, class_names=("a", "b", "c"), channel_order="BGR")
    image = picture(tmp_path / "x.png", (6, 6, 3))
    predictor = predict.load(tmp_path / "w")
    called, inputs = predict.read(predictor, [str(tmp_path / "x.png")] * 3)
    assert called == [str(tmp_path / "x.png")] * 3
    x = (image[None, ..., ::-1] / 255 - np.array(IMAGES["mean"])) / np.array(IMAGES["std"])
    wanted = jax.nn.softmax(model.apply(variables, x.astype(np.float32)))
    for batch_size in (1, 2, 8):  # the last batch is filled up
        found = predict.outputs(predictor, inputs, batch_size)
        np.testing.assert_allclose(found, np.repeat(wanted, 3, 0), rtol=1e-4, atol=1e-6)


def test_size_crop_and_interpolation(tmp_path):
    image = picture(tmp_path / "x.png", (20, 40, 3))
    said = {"input_size": (6, 6, 3), "crop": 0.75, "interpolation": "bicubic"}
    whole = Image.fromarray(image).resize((16, 8), Image.Resampling.BICUBIC)
    wanted = np.asarray(whole.crop((5, 1, 11, 7)))
    np.testing.assert_array_equal(predict.image(tmp_path / "x.png", said), wanted)
    said = {"input_size": (5, 10, 3), "crop": None, "interpolation": None}  # not square
    wanted = np.asarray(Image.fromarray(image).resize((10, 5), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(predict.image(tmp_path / "x.png", said), wanted)
    np.testing.assert_array_equal(predict.image(tmp_path / "x.png", said, "segmentation"), image)


@pytest.mark.parametrize("shape, crop", [((20, 40, 3), 0.0), ((30, 20, 3), 0.0), ((20, 20, 3), 1.0)])
def test_images_are_stretched_as_in_training(tmp_path, shape, crop):
    image = picture(tmp_path / "x.png", shape)
    source = zoo.Source({"image": np.stack([image] * 20), "label": np.arange(20) % 2}, class_names=("a", "b"))
    config = zoo.config.load("tests/tiny.py", [("data.image_size", "8"), ("data.batch_size", "8")])
    run = prepare(config, source)
    said = semantics.of(run.config, run.model, run.dataset)
    assert (said["crop"], said["input_size"]) == (crop, (8, 8, 3))
    trained = next(iter(run.dataset.eval("test")))["image"][0]
    np.testing.assert_allclose(predict.image(tmp_path / "x.png", said), trained, atol=1)


def test_channels(tmp_path):
    grey = picture(tmp_path / "grey.png", (6, 6))
    three, one = ({"input_size": (6, 6, n), "crop": 1.0, "interpolation": "bilinear"} for n in (3, 1))
    np.testing.assert_array_equal(predict.image(tmp_path / "grey.png", three), np.repeat(grey[..., None], 3, -1))
    Image.fromarray(grey).convert("RGB").save(tmp_path / "grey_rgb.png")
    np.testing.assert_array_equal(predict.image(tmp_path / "grey_rgb.png", one), grey[..., None])
    picture(tmp_path / "colour.png", (6, 6, 3))
    with pytest.raises(UserError, match=r"colour\.png has 3 channels \(RGB\); the model takes 1"):
        predict.image(tmp_path / "colour.png", one)
    (tmp_path / "broken.png").write_bytes((tmp_path / "grey.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"broken\.png cannot be read: .*truncated"):
        predict.image(tmp_path / "broken.png", one)
    with pytest.raises(UserError, match=r"gone\.png cannot be read: .*No such file"):
        predict.image(tmp_path / "gone.png", one)


def test_one_logit(tmp_path):
    model = zoo.create_model("mlp", num_classes=1, widths=())
    said = {"input_size": (2,), "mean": (1.0, 1.0), "std": (1.0, 2.0), "class_names": ("no", "yes")}
    zoo.save_weights(
        tmp_path / "w", model, {"params": {"head": {"kernel": np.float32([[1], [2]]), "bias": np.float32([0])}}}, **said
    )
    (tmp_path / "t.csv").write_text("2,3\n1,1\n")
    predictor = predict.load(tmp_path / "w")
    called, inputs = predict.read(predictor, [str(tmp_path / "t.csv")])
    assert called == [f"{tmp_path}/t.csv:1", f"{tmp_path}/t.csv:2"]
    odds = 1 / (1 + np.exp(-3))
    np.testing.assert_allclose(predict.outputs(predictor, inputs), [[1 - odds, odds], [0.5, 0.5]], rtol=1e-6)
    assert predict.names(predictor, 2) == ["no", "yes"]


def test_tables_and_numbers(tmp_path):
    """Columns by name, in any order and among others; the prediction in the units of the target."""
    model = zoo.create_model("mlp", num_classes=1, widths=())
    said = {
        "input_size": (2,), "mean": (1.0, 10.0), "std": (2.0, 5.0), "task": "regression",
        "feature_names": ("height", "age"), "target_mean": 100.0, "target_std": 10.0,
    }  # fmt: skip
    params = {"head": {"kernel": np.float32([[1], [3]]), "bias": np.float32([0.5])}}
    zoo.save_weights(tmp_path / "w", model, {"params": params}, **said)
    predictor = predict.load(tmp_path / "w")
    wanted = [100 + 10 * (1 * (3 - 1) / 2 + 3 * (20 - 10) / 5 + 0.5)]
    for name, content in (
        ("named.csv", "age,name,height\n20,x,3\n"), ("plain.csv", "3,20\n"), ("tabs.tsv", "height\tage\n3\t20\n"),
        ("semicolons.csv", "age;name;height\n20;x, y;3\n"), ("spaces.txt", "3  20\n"),
    ):  # fmt: skip
        (tmp_path / name).write_text(content)
        _, inputs = predict.read(predictor, [str(tmp_path / name)])
        np.testing.assert_allclose(predict.outputs(predictor, inputs), wanted, rtol=1e-6)
    for content, line in (
        ("ages,height\n1,2\n", r"has no column 'age'; did you mean 'ages'"),
        ("age,height\n1\n", r"bad\.csv, line 2: 1 cells, but there are 2 columns"),
        ("age,height\n1,x\n", r"bad\.csv, line 2: column 'height' is 'x'; it must be a finite number"),
        ("age,height\n1,2\n\n1,\n", r"bad\.csv, line 4: 'height' is missing; the training data had no missing values"),
        ("1,2,3\n", r"bad\.csv, line 1: 3 cells, but there are 2 columns"),
        ("age,height\n", r"bad\.csv: the file has a header and no rows"),
        ("", r"is empty"),
    ):
        (tmp_path / "bad.csv").write_text(content)
        with pytest.raises(UserError, match=line):
            predict.read(predictor, [str(tmp_path / "bad.csv")])


def test_columns_of_a_table(tmp_path):
    """Those of the training rows, however many the model sees; without names, as many as it takes."""
    (tmp_path / "t.csv").write_text("b,a,c\n1,2,3\n")
    said, names = {"input_size": (1,), "feature_names": None}, {"feature_names": np.array(["a", "b", "c"])}
    (row,) = predict.table(tmp_path / "t.csv", said, names).values()  # as before 'pca:1'
    np.testing.assert_array_equal(row, [2, 1, 3])
    words = {"category_names": np.array(["b"]), "levels/0": np.array(["0", "1"])}
    (row,) = predict.table(tmp_path / "t.csv", {"input_size": (2,), "feature_names": ("b=0", "b=1")}, words).values()
    np.testing.assert_array_equal(row, [1])
    (row,) = predict.table(tmp_path / "t.csv", said | {"input_size": (2,)}).values()
    np.testing.assert_array_equal(row, [1, 2])
    with pytest.raises(UserError, match=r"t\.csv has 3 columns; the model takes 4"):
        predict.table(tmp_path / "t.csv", said | {"input_size": (4,)})


@pytest.mark.parametrize("link", [None, "log"])
def test_several_numbers(tmp_path, link):
    """Each in its own units, side by side; with a link, rates."""
    said = {"input_size": (1,), "mean": (0.0,), "std": (1.0,), "task": "regression", "target_link": link}
    said |= {"target_mean": (5.0, 100.0), "target_std": (2.0, 10.0)}
    params = {"head": {"kernel": np.float32([[1, 2]]), "bias": np.float32([0, 0.5])}}
    zoo.save_weights(tmp_path / "w", zoo.create_model("mlp", num_classes=2, widths=()), {"params": params}, **said)
    (tmp_path / "t.csv").write_text("1\n-1\n")
    predictor = predict.load(tmp_path / "w")
    outputs = np.array([[1, 2.5], [-1, -1.5]])
    wanted = [5, 100] * np.exp(outputs) if link else outputs * [2, 10] + [5, 100]
    _, inputs = predict.read(predictor, [str(tmp_path / "t.csv")])
    np.testing.assert_allclose(predict.outputs(predictor, inputs), wanted, rtol=1e-6)
    if not link:
        done = script(tmp_path / "w", tmp_path / "t.csv", f"--output={tmp_path / 'found.csv'}")
        assert done.stdout.splitlines()[0] == f"{tmp_path}/t.csv:1: 7, 125", done.stderr
        rows = list(csv.reader((tmp_path / "found.csv").read_text().splitlines()))
        assert rows[0] == ["input", "value1", "value2"]
        assert [[float(x) for x in row[1:]] for row in rows[1:]] == [[7, 125], [3, 85]]


def test_a_temperature_evens_the_probabilities_out(tmp_path):
    said = {"input_size": (1,), "mean": (0.0,), "std": (1.0,), "temperature": 4.0}
    params = {"head": {"kernel": np.float32([[1, 2]]), "bias": np.float32([0, 0])}}
    zoo.save_weights(tmp_path / "w", zoo.create_model("mlp", num_classes=2, widths=()), {"params": params}, **said)
    found = predict.outputs(predict.load(tmp_path / "w"), [np.float32([2])])
    np.testing.assert_allclose(found, [np.exp([0.5, 1]) / np.exp([0.5, 1]).sum()], rtol=1e-6)


def test_probabilities_of_one_class_against_the_rest(tmp_path):
    """Logistic ones, scaled to a sum of 1: of two logits z and -z that of z, and not of 2 z."""
    said = {"input_size": (1,), "mean": (0.0,), "std": (1.0,), "temperature": 2.0, "target_link": "logit"}
    for kernel in ([[-2, 2]], [[2, -4, 6]]):
        model = zoo.create_model("mlp", num_classes=len(kernel[0]), widths=())
        params = {"head": {"kernel": np.float32(kernel), "bias": np.zeros(len(kernel[0]), np.float32)}}
        zoo.save_weights(tmp_path / "w", model, {"params": params}, **said)
        odds = 1 / (1 + np.exp(-np.array(kernel) / 2))
        found = predict.outputs(predict.load(tmp_path / "w"), [np.float32([1])])
        np.testing.assert_allclose(found, odds / odds.sum(), rtol=1e-6)


def test_texts(tmp_path):
    vocab = ("good", "bad", "<unk>")
    model = zoo.create_model("text_cnn", vocab_size=3, embed_dim=2, filters=2, kernel_sizes=(1,), dropout=0.0)
    variables = save(tmp_path / "w", model, input_size=(4,), vocab=vocab, tokens="words", class_names=("-", "+"))
    predictor = predict.load(tmp_path / "w")
    (tmp_path / "x.txt").write_text("good\n\nnever heard , bad\n")
    called, inputs = predict.read(predictor, ["bad good good good good", str(tmp_path / "x.txt")])
    assert called == ["bad good good good good", "good", "never heard , bad"]
    tokens = np.array([[1, 0, 0, 0], [0, -1, -1, -1], [2, 2, 2, 1]])
    np.testing.assert_array_equal(inputs, tokens)
    wanted = jax.nn.softmax(model.apply(variables, tokens))
    np.testing.assert_allclose(predict.outputs(predictor, inputs), wanted, rtol=1e-5)


def test_masks(tmp_path, monkeypatch):
    """Whole images, and the same ones in tiles; the PNG holds the classes."""
    model = zoo.create_model("unet", num_classes=3, width=2, depth=1, in_channels=3)
    variables = save(tmp_path / "w", model, **(IMAGES | {"input_size": (16, 16, 3)}), class_names=("a", "b", "c"))
    (tmp_path / "in").mkdir()
    image = picture(tmp_path / "in/x.png", (70, 50, 3))
    done = script(tmp_path / "w", tmp_path / "in", f"--output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = np.asarray(Image.open(tmp_path / "out/x.png"))
    x = np.float32((image[None] / 255 - np.array(IMAGES["mean"])) / np.array(IMAGES["std"]))
    logits = np.asarray(jax.jit(model.apply)(variables, x))[0]
    sure = np.sort(logits, -1)
    sure = sure[..., -1] - sure[..., -2] > 1e-4
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(found[sure], logits.argmax(-1)[sure])
    assert f"a {100 * np.mean(found == 0):.2f} %" in done.stdout
    monkeypatch.setattr(predict, "WHOLE", 0)
    monkeypatch.setattr(predict, "TILE", 32)
    (tiled,) = predict.masks(predict.load(tmp_path / "w"), [image])
    inner = sure[16:-16, 16:-16]  # at its border a tile sees mirrored pixels, the whole image zeros
    np.testing.assert_array_equal(tiled[16:-16, 16:-16][inner], found[16:-16, 16:-16][inner])


def segmenter(path, size=(160, 160), **options):
    """Saves random weights of a U-Net; returns noise on a ramp."""
    model, rng = zoo.create_model("unet", in_channels=1, **options), np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, {"params": jax.random.key(0)}, np.zeros((1, 32, 32, 1), np.float32))
    one = {"scale": np.ones, "var": np.ones, "bias": np.zeros, "mean": np.zeros, "kernel": rng.standard_normal}
    variables = jax.tree.map_with_path(lambda name, leaf: one[name[-1].key](leaf.shape).astype(np.float32), shapes)
    zoo.save_weights(path, model, variables, input_size=(32, 32, 1), mean=(0.5,), std=(0.25,))
    ramp = np.linspace(60, 210, size[1])[:, None] + 20 * np.random.default_rng(0).standard_normal((*size, 1))
    return ramp.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("norm", ["instance", "layer", "group:4", "per_image"])
def test_large_images_are_normalized_as_small_ones(tmp_path, monkeypatch, capsys, norm):
    """Over the whole image, not over a tile."""
    options = {"norm": "batch" if norm == "per_image" else norm}
    image = segmenter(tmp_path / "w", depth=1, width=4, **options)
    if norm == "per_image":
        fitted = preprocess.fit(
            {"image": image[None]}, zoo.config.default().data.to_dict() | {"normalize": norm}, zoo.Source({})
        )
        monkeypatch.setattr(preprocess, "load", lambda _: fitted)
    predictor = predict.load(tmp_path / "w")
    (whole,) = predict.masks(predictor, [image])
    monkeypatch.setattr(predict, "WHOLE", 1000)
    monkeypatch.setattr(predict, "TILE", 64)
    tiled, again = predict.masks(predictor, [image] * 2)
    inner = slice(16, -16)  # at its border a tile sees mirrored pixels, the whole image zeros
    assert 0.01 < whole.mean() < 0.99
    assert np.mean(whole[inner, inner] != tiled[inner, inner]) < 1e-3  # of rounding
    np.testing.assert_array_equal(tiled, again)
    line = f"{tmp_path / 'w'}: norm {norm!r} is over whole maps: large images in one piece\n"
    assert capsys.readouterr().out == ("" if norm == "per_image" else line)


def test_tiles_are_larger_than_what_a_pixel_sees(tmp_path, monkeypatch):
    """Of deep networks, which see further than a tile of the usual size."""
    image = segmenter(tmp_path / "w", size=(140, 120), depth=2, width=1)
    predictor = predict.load(tmp_path / "w")
    (whole,) = predict.masks(predictor, [image])
    monkeypatch.setattr(predict, "WHOLE", 0)
    monkeypatch.setattr(predict, "TILE", 32)
    (tiled,) = predict.masks(predictor, [image])
    inner = slice(32, -32)
    assert np.mean(whole[inner, inner] != tiled[inner, inner]) < 1e-3
    assert not np.array_equal(whole, tiled)  # it was tiled: the border is mirrored


@pytest.mark.parametrize("behind", ["linear", "sigmoid", "softplus", "relu", "tanh"])
def test_masks_of_one_class(tmp_path, behind):
    """The foreground is where the logit is above 0, whatever the network makes of it."""
    options = {"num_classes": 1, "width": 2, "depth": 1, "in_channels": 3}
    model = zoo.create_model("unet", head_activation=behind, **options)
    said = IMAGES | {"input_size": (16, 16, 3)}
    variables = save(tmp_path / "w", model, **said)
    image = picture(tmp_path / "x.png", (16, 16, 3))
    x = np.float32((image[None] / 255 - np.array(IMAGES["mean"])) / np.array(IMAGES["std"]))
    raw, head = zoo.create_model("unet", **options), variables["params"]["head"]
    head["kernel"] *= 1e6
    head["bias"] -= np.median(jax.jit(raw.apply)(variables, x))
    zoo.save_weights(tmp_path / "w", model, variables, **said)
    (found,) = predict.masks(predict.load(tmp_path / "w"), [image])
    logits = np.asarray(jax.jit(raw.apply)(variables, x))[0, ..., 0]
    sure = np.abs(logits) > 1e-3
    assert np.abs(logits).max() < 5
    assert 0.4 < np.mean(logits > 0) < 0.6
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(found[sure], (logits > 0)[sure])


def test_other_tasks(tmp_path):
    """Told as such, not as 2 names that do not fit 3 outputs."""
    model = zoo.create_model("mlp", num_classes=3, widths=())
    variables = model.init(jax.random.key(0), np.zeros((1, 4), np.float32))
    said = {"input_size": (4,), "mean": (0.0,), "std": (1.0,), "class_names": ("A", "B"), "task": "transcription"}
    zoo.save_weights(tmp_path / "w", model, variables, **said)
    with pytest.raises(UserError, match=r"w is for the task transcription; prediction is for classification, regr"):
        predict.load(tmp_path / "w")


def test_files_that_do_not_say_what_they_are(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "w.npz", **{"fc.weight": rng.normal(size=(3, 4)), "fc.bias": np.zeros(3)})
    (tmp_path / "t.csv").write_text("1,2,3,4\n")
    with pytest.raises(UserError, match="does not say which model it is; give the model, input_size, mean and std"):
        predict.load(tmp_path / "w.npz")
    options = {"model": "mlp", "model_options": {"widths": (), "num_classes": 3}}
    with pytest.raises(UserError, match="does not say the input_size, mean, std of its input; give them"):
        predict.load(tmp_path / "w.npz", **options)
    given = {"input_size": (4,), "mean": (0.0,), "std": (1.0,)}
    predict.load(tmp_path / "w.npz", **options, **given)
    with pytest.raises(UserError, match=r"a new head: 3 classes in the file, 10 in the model; .*set num_classes"):
        predict.load(tmp_path / "w.npz", "mlp", {"widths": ()}, **given)
    with pytest.raises(UserError, match="2 class names for 3 outputs"):
        predict.load(tmp_path / "w.npz", **options, **given, class_names=("a", "b"))
    with pytest.raises(UserError, match="mean and std have 3 and 1 numbers for 4 channels"):
        predict.load(tmp_path / "w.npz", **options, **(given | {"mean": (0.0, 1.0, 2.0)}))
    flags = ["--model=mlp", "--option=widths=()", "--option=num_classes=3", "--input_size=4", "--mean=0", "--std=1"]
    done = script(tmp_path / "w.npz", tmp_path / "t.csv", *flags, f"--output={tmp_path / 'x.json'}")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "x.json").read_text())
    assert sorted(row["classes"]) == ["class 0", "class 1", "class 2"]
    assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["gone", "x.png"], "cannot read the weights gone"),
        (["gone", "x.png", "--mean=a"], "--mean=a: it must be numbers"),
    ],
)
def test_mistakes_on_the_command_line(arguments, line):
    done = script(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {line}")
    assert len(done.stderr.splitlines()) == 1
