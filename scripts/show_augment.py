"""Draw what augmentation does to an image, as a PNG: the original, then several draws, one row per augmentation.

python scripts/show_augment.py                                    # everything there is, on the embedded digits
python scripts/show_augment.py --data=cifar10 --draws=10
python scripts/show_augment.py --config=configs/mnist_lenet.py    # what a recipe uses, one by one and all together

Label maps, where the data has them, are laid over a second copy of each image. Settings such as
--config.data.augment.rotate=20 and --config.data.image_size=64 work as in training.
"""

from absl import flags

import zoo
from zoo import cli, contact_sheet
from zoo.data import augment
from zoo.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string("config", None, "The recipe whose augmentation to show; default: every one there is.")
flags.DEFINE_string("data", None, "The data set; default: that of the recipe, else the embedded digits.")
flags.DEFINE_integer("draws", 8, "How many draws of each.", lower_bound=1)
cli.define_picture("output", "augment.png", "The picture to write.")


def main(overrides):
    if FLAGS.data:
        overrides = [*overrides, ("data.name", FLAGS.data)]
    if FLAGS.config:
        config = zoo.config.load(FLAGS.config, overrides)
    else:
        config = zoo.config.override(zoo.config.default(), overrides)
    chosen = {name: strength for name, strength in config.data.augment.items() if strength}
    augment.make(chosen)  # reports mistakes before the data is read
    if FLAGS.config and not chosen:
        raise UserError(f"{FLAGS.config} has no augmentation")
    batch = contact_sheet.read(config, FLAGS.draws + 1)
    every = chosen or contact_sheet.examples(min(batch["image"].shape[1:3]))
    settings = [{name: every[name]} for name in augment.AUGMENTS if name in every]
    if len(chosen) > 1:
        settings.append({name: strength for setting in settings for name, strength in setting.items()})
    picture, left_out = contact_sheet.draw(batch, settings, config.seed)
    if left_out and chosen:
        raise UserError(left_out[0])
    for reason in left_out:
        print(f"left out: {reason}")
    try:
        picture.save(FLAGS.output)
    except OSError as error:
        raise UserError(f"cannot write --output={FLAGS.output}: {error.strerror or error}") from None
    print(f"wrote {FLAGS.output}")


if __name__ == "__main__":
    cli.run(main)
