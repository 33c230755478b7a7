"""Find a learning rate: a short run of a recipe, from its own start, with a rate that grows until the loss explodes.

python scripts/lr_find.py --config=configs/digits_lenet.py
python scripts/lr_find.py --config=configs/mnist_mlp.py --low=1e-5 --high=1 --steps=100 --output=mnist.png

Prints the loss at every tenth of the steps, a rate to train with and the most that a cycle should reach, and draws them
(pip install -e '.[plot]'). Nothing else is written. Settings work as in training.
"""

from absl import flags

import zoo
from zoo import cli, lr_find
from zoo.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string("config", "configs/digits_lenet.py", "The recipe.")
flags.DEFINE_float("low", 1e-6, "The rate of the first step.")
flags.DEFINE_float("high", 10.0, "The rate of the last step, if it comes to that.")
flags.DEFINE_integer("steps", 200, "How many steps.")
cli.define_picture("output", "lr.png", "The picture to write.")


def draw(found: lr_find.RangeTest, path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(6, 4))
    panel.semilogx(found.rates, found.losses, color="0.8", label="loss of the batch")
    panel.semilogx(found.rates, found.smoothed, label="moving average")
    for rate, name in ((found.suggestion, "falls fastest"), (found.maximum, "most for cycles")):
        panel.axvline(rate, linestyle="--", color="0.4")
        panel.annotate(f" {name}\n {rate:.2g}", (rate, 0.02), xycoords=("data", "axes fraction"), fontsize="small")
    panel.set(xlabel="learning rate", ylabel="training loss", ylim=_limits(found))
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _limits(found: lr_find.RangeTest) -> tuple[float, float]:
    """The explosion itself would hide everything else."""
    low, start = found.smoothed.min(), found.smoothed[0]
    return low - 0.2 * (start - low), start + 0.5 * (start - low)


def main(overrides):
    config = zoo.config.load(FLAGS.config, overrides)
    found = lr_find.range_test(config, low=FLAGS.low, high=FLAGS.high, steps=FLAGS.steps)
    print("      rate      loss")
    every = max(FLAGS.steps // 10, 1)
    for step in sorted({*range(0, len(found.rates), every), len(found.rates) - 1}):
        print(f"{found.rates[step]:10.2e}{found.smoothed[step]:10.4f}")
    if found.exploded:
        print(f"exploded at a rate of {found.rates[-1]:.2g}")
    else:
        print(f"the loss never was {lr_find.EXPLODED} times its lowest; if it was still falling, raise --high")
    print(f"suggestion: --config.optim.lr={found.suggestion:.2g}; at most {found.maximum:.2g}, the peak of a cycle")
    try:
        draw(found, FLAGS.output)
        print(f"wrote {FLAGS.output}")
    except ImportError:
        print("no picture: that needs matplotlib, pip install -e '.[plot]'")
    except OSError as error:
        raise UserError(f"cannot write --output={FLAGS.output}: {error.strerror or error}") from None


if __name__ == "__main__":
    cli.run(main)
