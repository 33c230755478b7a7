"""Draw input, truth and prediction of a trained segmentation run, as a PNG: one row for each of the first test images.

Without a test split they are validation images. The prediction is the one that an evaluation measures.

python scripts/show_segmentation.py --config=configs/shapes_unet.py
python scripts/show_segmentation.py --config=configs/isbi_unet.py --workdir=runs/isbi_unet --rows=2 --output=isbi.png

Class 0 is black; ignored pixels of the truth are white, and so are the edges where valid convolutions predict nothing.
"""

import pathlib

import jax
import numpy as np
from absl import flags
from PIL import Image

import zoo
from zoo import cli
from zoo.checkpoint import load_variables
from zoo.contact_sheet import COLOURS, GAP
from zoo.errors import UserError
from zoo.run import prepare
from zoo.tasks.supervised import model_input

FLAGS = flags.FLAGS
flags.DEFINE_string("config", "configs/shapes_unet.py", "The recipe that was trained.")
flags.DEFINE_string("workdir", None, "Its run folder; default runs/<name of the config>.")
flags.DEFINE_integer("rows", 4, "How many images.", lower_bound=1)
cli.define_picture("output", "segmentation.png", "The picture to write.")


def main(overrides):
    workdir = pathlib.Path(FLAGS.workdir or pathlib.Path("runs") / pathlib.Path(FLAGS.config).stem)
    run = prepare(zoo.config.load(FLAGS.config, overrides), workdir=workdir)
    if run.config.task.name != "segmentation":
        raise UserError(f"{FLAGS.config} is a recipe not of segmentation, but of {run.config.task.name}")
    variables = jax.device_put(load_variables(workdir))
    state = {k: v for k, v in variables.items() if k != "params"}
    predict = jax.jit(lambda batch: run.task.predict(variables["params"], state, run.dataset.preprocess(batch))[0])
    split = next(name for name in ("test", "validation", "train") if name in run.dataset.meta["splits"])

    rows = []
    for batch in run.dataset.eval(split):
        predictions, batch = jax.device_get((predict(batch), batch))
        for i in np.flatnonzero(batch["mask"]):
            image, label = model_input(batch)[i], batch["label"][i]
            rows.append([grey(image), coloured(label), coloured(padded(predictions[i], label.shape))])
        if len(rows) >= FLAGS.rows:
            break
    sheet = np.concatenate([np.concatenate([framed(panel) for panel in row], 1) for row in rows[: FLAGS.rows]])
    Image.fromarray(sheet).save(FLAGS.output)
    print(f"wrote {FLAGS.output}")


def grey(image: np.ndarray) -> np.ndarray:
    return np.broadcast_to(image[..., :3] if image.shape[-1] >= 3 else image[..., :1], (*image.shape[:2], 3))


def padded(label: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A label map [h, w] in the middle of a larger one of ignored pixels."""
    rims = [(whole - part) // 2 for whole, part in zip(shape, label.shape, strict=True)]
    return np.pad(label, [(rim, rim) for rim in rims], constant_values=255)


def coloured(label: np.ndarray) -> np.ndarray:
    return np.where(label[..., None] == 255, np.uint8(255), COLOURS[label % len(COLOURS)])


def framed(panel: np.ndarray) -> np.ndarray:
    return np.pad(panel, ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)


if __name__ == "__main__":
    cli.run(main)
