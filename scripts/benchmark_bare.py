"""The same networks as somebody writes them by hand with flax and optax, for scripts/benchmark.py: no line of the zoo.

Plain `nn.Conv` and `nn.BatchNorm` with JAX's own convolution; the submodules are made in the order of the zoo's.
"""

import functools
import itertools
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from benchmark_cases import CASES, LR, MOMENTUM, Case, synthetic
from benchmark_worker import serve


def norm(x, train: bool):
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)(x)


def conv(x, features: int, size: int = 3, stride: int = 1):
    """Without a bias; the size stays at stride 1."""
    return nn.Conv(features, (size, size), stride, padding=size // 2, use_bias=False)(x)


def pool(x):
    return nn.max_pool(x, (2,) * (x.ndim - 2), (2,) * (x.ndim - 2))


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        x = x.reshape(len(x), -1)
        for width in (512, 512):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(10)(x)


class LeNet5(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        x = pool(nn.relu(nn.Conv(6, (5, 5), padding=2)(x)))
        x = pool(nn.relu(nn.Conv(16, (5, 5), padding=0)(x)))
        x = x.reshape(len(x), -1)
        for width in (120, 84):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(10)(x)


class ConvNet(nn.Module):
    dims: int

    @nn.compact
    def __call__(self, x, train: bool):
        for width in (32, 64, 128):
            x = pool(nn.relu(nn.Conv(width, (3,) * self.dims, padding=1)(x)))
        return nn.Dense(10)(x.mean(tuple(range(1, x.ndim - 1))))


class AlexNet(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.relu(nn.Conv(64, (11, 11), 4, padding=2)(x))
        x = nn.relu(nn.Conv(192, (5, 5), padding=2)(nn.max_pool(x, (3, 3), (2, 2))))
        x = nn.max_pool(x, (3, 3), (2, 2))
        for width in (384, 256, 256):
            x = nn.relu(nn.Conv(width, (3, 3), padding=1)(x))
        x = nn.max_pool(x, (3, 3), (2, 2)).reshape(len(x), -1)
        for _ in range(2):
            x = nn.Dropout(0.5, deterministic=not train)(nn.relu(nn.Dense(4096)(x)))
        return nn.Dense(1000)(x)


class ResNet20(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.relu(norm(conv(x, 16), train))
        for width, stride in ((16, 1), (16, 1), (16, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1)):
            y = nn.relu(norm(conv(x, width, 3, stride), train))
            y = norm(conv(y, width), train)
            if stride > 1:
                half = width // 4
                x = jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (half, half)))
            x = nn.relu(x + y)
        return nn.Dense(10)(x.mean((1, 2)))


class ResNet18(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.relu(norm(conv(x, 64, 7, 2), train))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for width, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
            y = nn.relu(norm(conv(x, width, 3, stride), train))
            y = norm(conv(y, width), train)
            if stride > 1:
                x = norm(conv(x, width, 1, stride), train)
            x = nn.relu(x + y)
        return nn.Dense(1000)(x.mean((1, 2)))


class WideResNet16x4(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        x = conv(x, 16)
        for width, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
            y = nn.relu(norm(x, train))
            start = y
            y = nn.relu(norm(conv(y, width, 3, stride), train))
            y = conv(y, width)
            x = y + (x if x.shape[-1] == width else conv(start, width, 1, stride))
        return nn.Dense(10)(nn.relu(norm(x, train)).mean((1, 2)))


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        def block(x, width):
            for _ in range(2):
                x = nn.relu(norm(conv(x, width), train))
            return x

        skips = []
        for width in (16, 32, 64, 128):
            skips.append(block(x, width))
            x = pool(skips[-1])
        x = block(x, 256)
        for width in (128, 64, 32, 16):
            x = nn.ConvTranspose(width, (2, 2), (2, 2), padding="VALID")(x)
            x = block(jnp.concatenate([skips.pop(), x], -1), width)
        return nn.Conv(2, (1, 1))(x)


NETWORKS = {
    "mlp": MLP,
    "lenet5": LeNet5,
    "convnet1d": functools.partial(ConvNet, 1),
    "convnet2d": functools.partial(ConvNet, 2),
    "alexnet": AlexNet,
    "resnet20_cifar": ResNet20,
    "resnet18": ResNet18,
    "wrn16_4": WideResNet16x4,
    "unet": UNet,
}


def engine(model: str, *, rows: int, batch_size: int):
    """train: one jitted step, of which only the loss comes back; eval: the sums of losses and of right answers.

    As in the zoo, the data lies on the device, and a batch is a gather of rows in a random order inside the step.
    """
    case: Case = CASES[model]._replace(rows=rows, batch_size=batch_size)
    network, tx = NETWORKS[model](), optax.sgd(LR, MOMENTUM)
    inputs, labels = map(jnp.asarray, synthetic(case))
    key, random, batches = jax.random.key(0), np.random.default_rng(0), rows // batch_size
    variables = jax.jit(functools.partial(network.init, train=False))(key, inputs[:1])
    params, stats = variables["params"], variables.get("batch_stats", {})
    parameters = sum(x.size for x in jax.tree.leaves(params))
    assert parameters == case.parameters, f"{parameters} parameters"
    state = (params, stats, tx.init(params), 0)

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state, inputs, labels, order):
        params, stats, opt_state, step = state

        def loss_fn(params):
            rngs = {"dropout": jax.random.fold_in(key, step)}
            variables = {"params": params, "batch_stats": stats}
            logits, updated = network.apply(variables, inputs[order], True, rngs=rngs, mutable=["batch_stats"])
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels[order]).mean()
            return loss, updated.get("batch_stats", {})

        (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), stats, opt_state, step + 1), loss

    @jax.jit
    def eval_step(params, stats, inputs, labels):
        logits = network.apply({"params": params, "batch_stats": stats}, inputs, False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.sum(), (logits.argmax(-1) == labels).sum()

    def in_random_order():
        while True:
            yield from random.permutation(rows)[: batches * batch_size].reshape(batches, batch_size).astype(np.int32)

    orders = in_random_order()

    def train(steps: int) -> float:
        nonlocal state
        started = time.perf_counter()
        for i, order in enumerate(itertools.islice(orders, steps), start=1):
            state, loss = train_step(state, inputs, labels, order)
            if i % 50 == 0:  # somebody looks at the loss; never to wait is slower (a long queue needs more memory)
                jax.block_until_ready(loss)
        jax.block_until_ready(state)
        return time.perf_counter() - started

    starts = range(0, batches * batch_size, batch_size)
    in_order = itertools.cycle([tuple(x[i : i + batch_size] for x in (inputs, labels)) for i in starts[:78]])

    def evaluate(steps: int) -> float:
        started = time.perf_counter()
        found = [eval_step(*state[:2], *batch) for batch in itertools.islice(in_order, steps)]
        jax.block_until_ready(found)
        return time.perf_counter() - started

    return {"train": train, "eval": evaluate}


if __name__ == "__main__":
    serve(lambda model, options: engine(model, **options))
