"""What scripts/benchmark.py trains and computes, as plain data: every side gets the same networks and the same numbers.

All networks are trained with SGD and momentum 0.9 on synthetic data, by classification, or by segmentation where every
pixel has a label.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

LR, MOMENTUM = 0.01, 0.9


class Case(NamedTuple):
    """A network and its data."""

    shape: tuple[int, ...]  # of an example: [H, W, C], or [T, D] of a sequence
    parameters: int
    classes: int = 10
    batch_size: int = 128
    rows: int = 10_000
    goal: float | None = None  # how many times as fast as PyTorch a training step should be
    options: Mapping[str, Any] = {}  # of zoo.create_model
    per_pixel: bool = False  # segmentation

    def smallest(self) -> "Case":
        """For a run that shows only that it runs. 4 rows, as the tests have up to 4 devices."""
        return self._replace(batch_size=4, rows=8)


MNIST = (28, 28, 1)
CIFAR = (32, 32, 3)
IMAGENET = (224, 224, 3)
UNET = {"variant": "same", "width": 16, "up": "transpose"}
CASES = {
    "mlp": Case(MNIST, 669_706, rows=60_000, goal=1.8),
    "lenet5": Case(MNIST, 61_706, rows=60_000, goal=0.8),
    "convnet1d": Case((128, 16), 33_770),
    "convnet2d": Case(CIFAR, 94_538),
    "alexnet": Case(IMAGENET, 61_100_840, classes=1000, batch_size=16, rows=256),
    "resnet20_cifar": Case(CIFAR, 269_722, goal=0.6),
    "resnet18": Case(IMAGENET, 11_689_512, classes=1000, batch_size=8, rows=256),
    "wrn16_4": Case(CIFAR, 2_748_890, batch_size=32),
    "unet": Case(
        (128, 128, 1), 1_942_306, classes=2, batch_size=4, rows=256, goal=0.9, options=UNET, per_pixel=True
    ),
}  # fmt: skip


def synthetic(case: Case, dtype: str = "float32"):
    """Examples [rows, *shape], uint8 in 0..255 or float32 of unit variance, and labels int32 [rows] or [rows, H, W]."""
    import numpy as np

    rng = np.random.default_rng(0)
    shape = (case.rows, *case.shape)
    inputs = rng.integers(0, 256, shape, np.uint8) if dtype == "uint8" else rng.standard_normal(shape, np.float32)
    return inputs, rng.integers(0, case.classes, shape[: 3 if case.per_pixel else 1], np.int32)


class LanguageModel(NamedTuple):
    """A word language model of Zaremba et al. 2014: two LSTM layers, SGD, gradients clipped by their global norm."""

    width: int
    length: int  # steps of a window
    dropout: float = 0.0
    batch_size: int = 20
    words: int = 10_000  # of the vocabulary
    clip: float = 0.25
    windows: int = 50  # of the text, which is random

    @property
    def parameters(self) -> int:
        layer = 4 * self.width * (2 * self.width + 2)  # with two biases, as PyTorch has it
        return 2 * self.width * self.words + self.words + 2 * layer

    def text(self):
        """Words int32 [batch_size, windows * length + 1]: one stream per row."""
        import numpy as np

        shape = (self.batch_size, self.windows * self.length + 1)
        return np.random.default_rng(0).integers(0, self.words, shape, np.int32)


LANGUAGE_MODELS = {
    "hidden 200": LanguageModel(200, 20),
    "hidden 650": LanguageModel(650, 35, dropout=0.5),
    "hidden 1500": LanguageModel(1500, 35, dropout=0.65),
}
SMALLEST_LANGUAGE_MODEL = LanguageModel(8, 4, batch_size=4, words=20, windows=3)

REPEATS = 4  # applications of a layer in a step of `benchmark.py conv`


class Layer(NamedTuple):
    """A layer whose formulations `benchmark.py conv` compares: square images and kernels, padded to keep the size."""

    kind: str  # 'conv', 'up' (2x2, to twice the size) or 'norm'
    batch_size: int
    size: int
    channels: int
    features: int
    kernel: int = 3
    stride: int = 1

    @property
    def name(self) -> str:
        shape = f"{self.batch_size}x{self.size}x{self.size}"
        if self.kind == "norm":
            return f"norm, {shape}, {self.channels} channels"
        window = "up 2x2" if self.kind == "up" else f"conv {self.kernel}x{self.kernel}"
        stride = f" / {self.stride}" if self.stride > 1 else ""
        return f"{window}{stride}, {shape}, {self.channels} to {self.features}"

    @property
    def gflop(self) -> float | None:
        """10^9 multiplications and additions of the forward pass (either gradient has as many); None of a norm."""
        if self.kind == "norm":
            return None
        places = self.size**2 * 4 if self.kind == "up" else (self.size // self.stride) ** 2
        taps = 1 if self.kind == "up" else self.kernel**2  # of the input that an output pixel sees
        return 2e-9 * self.batch_size * places * taps * self.channels * self.features

    def smallest(self) -> "Layer":
        return self._replace(batch_size=2, size=8)


LAYERS: Sequence[Layer] = (
    Layer("conv", 128, 32, 16, 16),
    Layer("conv", 128, 32, 16, 32, stride=2),
    Layer("conv", 128, 16, 32, 32),
    Layer("conv", 128, 8, 64, 64),
    Layer("conv", 4, 128, 16, 16),
    Layer("conv", 4, 64, 32, 32),
    Layer("conv", 4, 32, 64, 64),
    Layer("conv", 32, 14, 256, 256, kernel=1),
    Layer("up", 4, 64, 32, 16),
    Layer("up", 4, 16, 128, 64),
    Layer("norm", 128, 32, 16, 16),
    Layer("norm", 128, 8, 64, 64),
    Layer("norm", 4, 128, 16, 16),
)
