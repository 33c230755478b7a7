"""PyTorch in a process of its own, for scripts/benchmark.py; the submodules are made in the order of the zoo's."""

import functools
import itertools
import time

import torch
from benchmark_cases import CASES, LR, MOMENTUM, Case, synthetic
from benchmark_harness import cpus
from benchmark_worker import serve
from torch import nn
from torch.nn import functional


def conv(channels: int, features: int, size: int = 3, stride: int = 1):
    """Without a bias; the size stays at stride 1."""
    return nn.Conv2d(channels, features, size, stride, size // 2, bias=False)


def dense(*widths: int):
    """Dense layers with a ReLU between each two."""
    layers = [layer for pair in itertools.pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    return layers[:-1]


def convnet(dims: int, channels: int):
    kinds = {1: (nn.Conv1d, nn.MaxPool1d, nn.AdaptiveAvgPool1d), 2: (nn.Conv2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d)}
    convolution, pool, mean = kinds[dims]
    layers = []
    for width in (32, 64, 128):
        layers += [convolution(channels, width, 3, padding=1), nn.ReLU(), pool(2)]
        channels = width
    return nn.Sequential(*layers, mean(1), nn.Flatten(), nn.Linear(128, 10))


def lenet5():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), *dense(400, 120, 84, 10),
    )  # fmt: skip


def alexnet():
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(),
        nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(),
        nn.Linear(4096, 1000),
    )  # fmt: skip


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut: subsampled and filled up with zeros, or projected where `project`."""

    def __init__(self, channels: int, width: int, stride: int, project: bool):
        super().__init__()
        self.conv1, self.norm1 = conv(channels, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = conv(width, width), nn.BatchNorm2d(width)
        self.stride, self.new = stride, width - channels
        self.proj = nn.Sequential(conv(channels, width, 1, stride), nn.BatchNorm2d(width)) if project else None

    def forward(self, x):
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        if self.proj is not None:
            x = self.proj(x)
        elif self.stride > 1:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.new // 2, self.new // 2))
        return functional.relu(x + y)


class PreactivationBlock(nn.Module):
    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), conv(channels, width, 3, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(width), conv(width, width)
        self.proj = conv(channels, width, 1, stride) if channels != width else None

    def forward(self, x):
        y = functional.relu(self.norm1(x))
        x = x if self.proj is None else self.proj(y)
        return x + self.conv2(functional.relu(self.norm2(self.conv1(y))))


def residual(stem, block, channels: int, widths, depth: int, tail, classes: int):
    layers = list(stem)
    for i, width in enumerate(widths):
        for j in range(depth):
            layers.append(block(channels, width, 2 if i and not j else 1))
            channels = width
    return nn.Sequential(*layers, *tail, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def resnet20_cifar():
    stem = (conv(3, 16), nn.BatchNorm2d(16), nn.ReLU())
    return residual(stem, functools.partial(Block, project=False), 16, (16, 32, 64), 3, (), 10)


def resnet18():
    stem = (conv(3, 64, 7, 2), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    block = lambda channels, width, stride: Block(channels, width, stride, project=stride > 1)  # noqa: E731
    return residual(stem, block, 64, (64, 128, 256, 512), 2, (), 1000)


def wrn16_4():
    tail = (nn.BatchNorm2d(256), nn.ReLU())
    return residual((conv(3, 16),), PreactivationBlock, 16, (64, 128, 256), 2, tail, 10)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()

        def block(channels, width):
            pairs = ((channels, width), (width, width))
            return nn.Sequential(*(x for c, w in pairs for x in (conv(c, w), nn.BatchNorm2d(w), nn.ReLU())))

        widths = (16, 32, 64, 128)
        self.down = nn.ModuleList(block(c, w) for c, w in itertools.pairwise((1, *widths)))
        self.bottom = block(128, 256)
        self.up = nn.ModuleList(
            nn.ModuleList((nn.ConvTranspose2d(2 * w, w, 2, 2), block(2 * w, w))) for w in reversed(widths)
        )
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x):
        skips = []
        for block in self.down:
            skips.append(block(x))
            x = functional.max_pool2d(skips[-1], 2)
        x = self.bottom(x)
        for up, block in self.up:
            x = block(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)


NETWORKS = {
    "mlp": lambda: nn.Sequential(nn.Flatten(), *dense(784, 512, 512, 10)),
    "lenet5": lenet5,
    "convnet1d": functools.partial(convnet, 1, 16),
    "convnet2d": functools.partial(convnet, 2, 3),
    "alexnet": alexnet,
    "resnet20_cifar": resnet20_cifar,
    "resnet18": resnet18,
    "wrn16_4": wrn16_4,
    "unet": UNet,
}


def engine(model: str, *, rows: int, batch_size: int, channels_last: bool = False, compiled: bool = False):
    """PyTorch on float32 examples that lie in memory, each batch a gather of rows in a random order, as in the zoo.

    train: zero_grad, forward, loss, backward, the optimizer's step; no metrics (the zoo's step has them). eval: the
    sums of losses and of right answers.

    Args:
      channels_last: keep images and maps as NHWC in memory, not as NCHW; for models of images.
      compiled: by torch.compile.
    """
    torch.set_num_threads(cpus())
    torch.manual_seed(0)
    case: Case = CASES[model]._replace(rows=rows, batch_size=batch_size)
    inputs, labels = map(torch.from_numpy, synthetic(case))
    inputs, labels = inputs.movedim(-1, 1).contiguous(), labels.long()
    network = NETWORKS[model]()
    if channels_last:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        network = network.to(memory_format=torch.channels_last)
    assert sum(p.numel() for p in network.parameters()) == case.parameters
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=MOMENTUM)
    batches = rows // batch_size

    def loss(inputs, labels):
        return functional.cross_entropy(network(inputs), labels)

    def sums(inputs, labels):
        logits = network(inputs)
        return functional.cross_entropy(logits, labels, reduction="sum"), (logits.argmax(1) == labels).sum()

    if compiled:
        loss, sums = torch.compile(loss), torch.compile(sums)

    def in_random_order():
        while True:
            yield from torch.randperm(rows)[: batches * batch_size].split(batch_size)

    orders = in_random_order()

    def train(steps: int) -> float:
        started = time.perf_counter()
        network.train()
        for batch in itertools.islice(orders, steps):
            optimizer.zero_grad()
            loss(inputs[batch], labels[batch]).backward()
            optimizer.step()
        return time.perf_counter() - started

    in_order = itertools.cycle(slice(i * batch_size, (i + 1) * batch_size) for i in range(min(batches, 78)))

    def evaluate(steps: int) -> float:
        started = time.perf_counter()
        network.eval()
        with torch.inference_mode():
            _ = [sums(inputs[batch], labels[batch]) for batch in itertools.islice(in_order, steps)]
        return time.perf_counter() - started

    return {"train": train, "eval": evaluate}


if __name__ == "__main__":
    serve(lambda model, options: engine(model, **options))
