"""Predict with the weights of a run folder or a file: class names and probabilities, masks, or numbers.

python scripts/predict.py runs/digits_lenet three.png scans/            # images, and folders of them
python scripts/predict.py runs/iris_mlp flowers.csv --output=flowers.json
python scripts/predict.py runs/sst2_lstm_attention "a joy from start to end" reviews.txt
python scripts/predict.py runs/shapes_unet photo.png --output=masks     # a PNG whose grey values are the classes
python scripts/predict.py resnet32-d509ac18.th cat.png --model=resnet32_cifar --input_size=32,32,3 \
    --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225

Run folders and files of zoo.save_weights know what they are to be fed with. A table is .csv or .tsv, read as in
training, with the names of its columns or, where it is all numbers, without; a .txt file has a text per line.
"""

import csv
import json
import pathlib
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from zoo import cli, predict
from zoo.contact_sheet import COLOURS
from zoo.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_integer("top_k", 5, "How many classes to print, the likeliest first.", lower_bound=1)
flags.DEFINE_string("output", None, "A .csv or .json file to write; of segmentation, the folder of the masks.")
flags.DEFINE_integer("batch_size", 32, "Examples at a time.", lower_bound=1)
flags.DEFINE_string("model", None, "A name of zoo.list_models, for files that do not say which model they are of.")
flags.DEFINE_multi_string("option", [], "An option of that model, name=value; may be repeated.")
flags.DEFINE_list("input_size", None, "Height, width and channels of an image, or the number of features.")
flags.DEFINE_list("mean", None, "Per channel of images in 0..1, or per feature.")
flags.DEFINE_list("std", None, "Likewise, the standard deviation.")
flags.DEFINE_list("class_names", None, "In the order of the outputs.")
flags.DEFINE_string("channel_order", None, "RGB, BGR or L (grey).")
flags.DEFINE_float("crop", None, "Part of the shorter side that is looked at, such as 0.875; 0: all, stretched.")
flags.DEFINE_string("interpolation", None, "Of resizing, such as bilinear or bicubic.")


def main(overrides, arguments):
    if overrides or len(arguments) < 2:
        raise UserError("give weights and inputs: predict.py RUN_OR_FILE INPUT...")
    if FLAGS.option and not FLAGS.model:
        raise UserError("--option needs --model=NAME")
    source, inputs = arguments[0], arguments[1:]
    predictor = predict.load(source, FLAGS.model, cli.pairs("option", FLAGS.option), **given())
    segments = predictor.task == "segmentation"
    output = pathlib.Path(FLAGS.output or "masks") if segments or FLAGS.output else None
    if output and not segments and output.suffix not in (".csv", ".json"):
        raise UserError(f"--output is {str(output)!r}; it must be a .csv or .json file")
    called, examples = predict.read(predictor, inputs)
    if segments:
        write_masks(predictor, called, examples, output)
        return
    found = predict.outputs(predictor, examples, FLAGS.batch_size)
    if predictor.task == "regression":
        rows = [{"input": name, "value": value.tolist()} for name, value in zip(called, found, strict=True)]
    else:
        words = predict.names(predictor, found.shape[1])
        rows = [{"input": name} | ranked(row, words) for name, row in zip(called, found, strict=True)]
    for row in rows:
        print(shown(row))
    if output:
        write(output, rows)
        print(f"wrote {output}")


def given() -> dict[str, Any]:
    """What the flags say of the input, by the names of zoo.weights.header.Metadata."""
    info = {}
    for name, kind in (("input_size", int), ("mean", float), ("std", float), ("class_names", str)):
        if FLAGS[name].value is not None:
            try:
                info[name] = tuple(kind(part) for part in FLAGS[name].value)
            except ValueError:
                raise UserError(
                    f"--{name}={','.join(FLAGS[name].value)}: it must be numbers, such as 32,32,3"
                ) from None
    scalars = {name: FLAGS[name].value for name in ("channel_order", "crop", "interpolation")}
    return info | {name: value for name, value in scalars.items() if value is not None}


def ranked(probabilities: np.ndarray, words: list[str]) -> dict[str, Any]:
    best = np.argsort(-probabilities, kind="stable")[: FLAGS.top_k]
    return {"classes": [words[k] for k in best], "probabilities": [round(float(probabilities[k]), 6) for k in best]}


def shown(row: dict[str, Any]) -> str:
    if "value" in row:
        return f"{row['input']}: " + ", ".join(f"{value:.6g}" for value in np.atleast_1d(row["value"]))
    parts = zip(row["classes"], row["probabilities"], strict=True)
    return f"{row['input']}: " + ", ".join(f"{name} {100 * p:.2f} %" for name, p in parts)


def write(output: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    try:
        with open(output, "w", newline="") as file:
            if output.suffix == ".json":
                json.dump(rows, file, indent=2)
                return
            table = csv.writer(file)
            if "value" in rows[0]:
                targets = np.size(rows[0]["value"])
                table.writerow(["input", *(f"value{k + 1}" if targets > 1 else "value" for k in range(targets))])
                table.writerows([row["input"], *np.atleast_1d(row["value"])] for row in rows)
                return
            ranks = range(1, len(rows[0]["classes"]) + 1)
            table.writerow(["input", *(f"{what}{rank}" for rank in ranks for what in ("class", "probability"))])
            for row in rows:
                both = zip(row["classes"], row["probabilities"], strict=True)
                table.writerow([row["input"], *(cell for pair in both for cell in pair)])
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from None


def write_masks(
    predictor: predict.Predictor, called: list[str], images: list[np.ndarray], output: pathlib.Path
) -> None:
    """One PNG per image, whose values are the classes, and their shares on the terminal."""
    files = [output / f"{pathlib.Path(name).stem}.png" for name in called]
    for name, file in zip(called, files, strict=True):
        if files.count(file) > 1 or file.resolve() == pathlib.Path(name).resolve():
            raise UserError(f"the mask of {name} would overwrite another file, {file}; predict them apart")
    words = None
    for name, file, mask in zip(called, files, predict.masks(predictor, images), strict=True):
        words = words or predict.names(predictor, max(predictor.model.num_classes, 2))
        picture = Image.fromarray(mask)
        picture.putpalette(np.resize(COLOURS, (256, 3)).tobytes())  # the values stay the classes
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            picture.save(file)
        except OSError as error:
            raise UserError(f"cannot write {file}: {error.strerror}") from None
        shares = np.bincount(mask.ravel(), minlength=len(words)) / mask.size
        told = ", ".join(f"{word} {100 * share:.2f} %" for word, share in zip(words, shares, strict=True))
        print(f"{name}: {told} -> {file}")


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)
