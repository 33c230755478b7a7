"""Draw input, truth and prediction of a trained segmentation run, as a PNG: one row for each of the first test images.

python scripts/show_segmentation.py --config=configs/shapes_unet.py
python scripts/show_segmentation.py --config=configs/isbi_unet.py --workdir=runs/isbi_unet --rows=2 --output=isbi.png

Class 0 is black; ignored pixels of the truth are white.
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
from zoo.tasks.supervised import apply_model, model_input

FLAGS = flags.FLAGS
flags.DEFINE_string("config", "configs/shapes_unet.py", "The recipe that was trained.")
flags.DEFINE_string("workdir", None, "Its run folder; default runs/<name of the config>.")
flags.DEFINE_integer("rows", 4, "How many images.", lower_bound=1)
flags.DEFINE_string("output", "segmentation.png", "The picture to write.")


def main(overrides):
    workdir = pathlib.Path(FLAGS.workdir or pathlib.Path("runs") / pathlib.Path(FLAGS.config).stem)
    run = prepare(zoo.config.load(FLAGS.config, overrides))
    if run.config.task.name != "segmentation":
        raise UserError(f"{FLAGS.config} is no recipe of segmentation, but of {run.config.task.name}")
    variables = jax.device_put(load_variables(workdir))
    state = {k: v for k, v in variables.items() if k != "params"}

    @jax.jit
    def predict(batch):
        batch = run.dataset.preprocess(batch)
        logits, _ = apply_model(run.model, variables["params"], state, batch, None, train=False)
        return logits.argmax(-1) if logits.shape[-1] > 1 else (logits[..., 0] > 0).astype(np.int32)

    rows = []
    for batch in run.dataset.eval(run.splits[-1]):
        predictions, batch = jax.device_get((predict(batch), batch))
        for i in np.flatnonzero(batch["mask"]):
            rows.append([grey(model_input(batch)[i]), coloured(batch["label"][i]), coloured(predictions[i])])
        if len(rows) >= FLAGS.rows:
            break
    sheet = np.concatenate([np.concatenate([framed(panel) for panel in row], 1) for row in rows[: FLAGS.rows]])
    Image.fromarray(sheet).save(FLAGS.output, format="PNG")
    print(f"wrote {FLAGS.output}")


def grey(image: np.ndarray) -> np.ndarray:
    return np.broadcast_to(image[..., :3] if image.shape[-1] >= 3 else image[..., :1], (*image.shape[:2], 3))


def coloured(label: np.ndarray) -> np.ndarray:
    return np.where(label[..., None] == 255, np.uint8(255), COLOURS[label % len(COLOURS)])


def framed(panel: np.ndarray) -> np.ndarray:
    return np.pad(panel, ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)


if __name__ == "__main__":
    cli.run(main)
