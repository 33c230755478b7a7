"""Train, resume or evaluate a recipe.

    python train.py --config configs/digits_lenet.py --config.optim.lr=0.01 --workdir runs/a

The same command again resumes; a finished run is evaluated. Any setting of the config can be changed on the command
line as --config.key=value; `zoo/config.py` explains them all.
"""

import pathlib

from absl import flags

import zoo
from zoo import cli, metrics

FLAGS = flags.FLAGS
flags.DEFINE_string("config", "configs/digits_lenet.py", "The recipe: a Python file with get_config().")
flags.DEFINE_string("workdir", None, "The run folder; default runs/<name of the config>.")
flags.DEFINE_bool("dry_run", False, "Show data, model, schedule and memory; train nothing.")
flags.DEFINE_bool("eval_only", False, "Evaluate the best checkpoint, or the last where nothing is monitored.")


def main(overrides):
    config = zoo.config.load(FLAGS.config, overrides)
    workdir = pathlib.Path(FLAGS.workdir or pathlib.Path("runs") / pathlib.Path(FLAGS.config).stem)
    if FLAGS.dry_run:
        print(zoo.dry_run(config))
    elif FLAGS.eval_only:
        step, results = zoo.evaluate(config, workdir)
        for split, values in results.items():
            print(f"{workdir.name} step {step}: {split} {metrics.text(values)}")
    else:
        zoo.train(config, workdir)


if __name__ == "__main__":
    cli.run(main)
