"""Recurrent layers over whole sequences: LSTM, GRU and tanh RNN, in one or both directions.

Sources: LSTM with a forget gate, Hochreiter & Schmidhuber 1997 and Gers et al. 2000; GRU, Cho et al. 2014
(arXiv:1406.1078), with the reset gate after the recurrent product, as in cuDNN, PyTorch and Keras; tanh RNN, Elman
1990. Dropout of the non-recurrent connections, Zaremba et al. 2014 (arXiv:1409.2329); with one mask for all time
steps, and of the recurrent connections, Gal & Ghahramani 2016 (arXiv:1512.05287).

What costs time is arranged so that all but one matrix product leave the loop over time: the product of the inputs
with their kernel comes before it, and the gradients of both kernels are one product each after the backward loop (JAX's
own gradient of a scan adds to that of the recurrent kernel in every step). Arrays inside are time first, and called so:
T steps, B rows, D inputs, H units, G = gates * H. Gates lie side by side in one kernel, in PyTorch's order: LSTM input,
forget, cell, output; GRU reset, update, new.
"""

# ruff: noqa: N803  arguments have shape suffixes, such as x_BTH

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.errors import UserError, lookup
from zoo.models.layers import DTYPES
from zoo.options import check_least, check_rate

Carry = dict[str, jax.Array]  # 'h' [B, H], and 'c' [B, H] of an LSTM


class Cell(NamedTuple):
    gates: int
    carry: tuple[str, ...]
    step: Callable  # (carry, input_BG, recurrent_BG) -> carry: the part of a step without matrix products


def _lstm(carry, input_BG, recurrent_BG):
    """Long short-term memory with a forget gate (Hochreiter & Schmidhuber 1997; Gers et al. 2000)."""
    i, f, g, o = jnp.split(input_BG + recurrent_BG, 4, axis=-1)
    c = nn.sigmoid(f) * carry["c"] + nn.sigmoid(i) * jnp.tanh(g)
    return {"h": nn.sigmoid(o) * jnp.tanh(c), "c": c}


def _gru(carry, input_BG, recurrent_BG):
    """Gated recurrent unit (Cho et al. 2014), the reset gate after the product, as in PyTorch and cuDNN."""
    (xr, xu, xn), (hr, hu, hn) = (jnp.split(part, 3, axis=-1) for part in (input_BG, recurrent_BG))
    update, new = nn.sigmoid(xu + hu), jnp.tanh(xn + nn.sigmoid(xr + hr) * hn)
    return {"h": (1 - update) * new + update * carry["h"]}


def _rnn(carry, input_BG, recurrent_BG):
    """tanh of both products (Elman 1990)."""
    return {"h": jnp.tanh(input_BG + recurrent_BG)}


CELLS = {"gru": Cell(3, ("h",), _gru), "lstm": Cell(4, ("h", "c"), _lstm), "rnn": Cell(1, ("h",), _rnn)}


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x, kernel, dtype):
    """x [..., D] times kernel [D, K], both rounded to `dtype`, with sums and result in float32; so are the gradients.

    JAX's own gradient multiplies rounded operands with float32 ones, which is no faster than float32 throughout.
    """
    return jnp.matmul(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)


def _product_backward(dtype, residuals, grad):
    x, kernel = residuals
    rows, grad_rows = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
    return product(grad, kernel.T, dtype), product(rows.T, grad_rows, dtype)


product.defvjp(lambda x, kernel, dtype: (product(x, kernel, dtype), (x, kernel)), _product_backward)


def dense_product(dtype: str) -> Callable | None:
    """`product` as the `dot_general` of an `nn.Dense`; None, JAX's own, for float32."""
    if dtype == "float32":
        return None
    return lambda x, kernel, *_, **__: product(x, kernel, DTYPES[dtype])


def _masked_step(cell: Cell, keep_B1, carry, input_BG, recurrent_BG):
    """A step that leaves the carry of rows as it is where `keep_B1` is False."""
    new = cell.step(carry, input_BG, recurrent_BG)
    return new if keep_B1 is None else jax.tree.map(partial(jnp.where, keep_B1), new, carry)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def run(cell: Cell, reverse: bool, dtype, carry: Carry, input_TBG, kernel_HG, bias_G, keep_TB1=None, drop_BH=None):
    """The recurrent part of a layer: (last carry, h_TBH), float32.

    Args:
      cell: one of CELLS.
      reverse: from the last step to the first.
      dtype: that the operands of the recurrent product are rounded to.
      carry: before the first step.
      input_TBG: products of the inputs with their kernel, and their bias.
      kernel_HG, bias_G: of the recurrent product.
      keep_TB1: bool; where False, the carry stays as it is. None: all True.
      drop_BH: factors on h before the recurrent product, the same in all steps. None: ones.
    """
    return _run(cell, reverse, dtype, carry, input_TBG, kernel_HG, bias_G, keep_TB1, drop_BH)[0]


def _dropped(h, drop_BH):
    return h if drop_BH is None else h * drop_BH


def _run(cell, reverse, dtype, carry, input_TBG, kernel_HG, bias_G, keep_TB1, drop_BH):
    rounded_HG = kernel_HG.astype(dtype)

    def step(carry, inputs):
        input_BG, keep_B1 = inputs
        recurrent_BG = product(_dropped(carry["h"], drop_BH), rounded_HG, dtype) + bias_G[None]
        new = _masked_step(cell, keep_B1, carry, input_BG, recurrent_BG)
        return new, (new["h"], carry, recurrent_BG)

    last, (h_TBH, before, recurrent_TBG) = jax.lax.scan(step, carry, (input_TBG, keep_TB1), reverse=reverse)
    return (last, h_TBH), (before, input_TBG, recurrent_TBG, kernel_HG, keep_TB1, drop_BH)


def _run_backward(cell, reverse, dtype, residuals, grads):
    before, input_TBG, recurrent_TBG, kernel_HG, keep_TB1, drop_BH = residuals
    last_grad, h_grad_TBH = grads
    kernel_GH = kernel_HG.T.astype(dtype)

    def step(grad, inputs):
        h_grad, keep_B1, *point = inputs
        _, pull = jax.vjp(partial(_masked_step, cell, keep_B1), *point)
        grad, input_grad, recurrent_grad = pull({**grad, "h": grad["h"] + h_grad})
        grad["h"] += _dropped(product(recurrent_grad, kernel_GH, dtype), drop_BH)
        return grad, (input_grad, recurrent_grad)

    inputs = (h_grad_TBH, keep_TB1, before, input_TBG, recurrent_TBG)
    grad, (input_grad, recurrent_grad) = jax.lax.scan(step, last_grad, inputs, reverse=not reverse)
    h_TBH = before["h"] if drop_BH is None else before["h"] * drop_BH[None]
    operands = (array.astype(dtype) for array in (h_TBH, recurrent_grad))
    kernel_grad = jnp.einsum("tbh,tbg->hg", *operands, preferred_element_type=jnp.float32)
    return grad, input_grad, kernel_grad, recurrent_grad.sum((0, 1)), None, None


run.defvjp(_run, _run_backward)


class RecurrentKernel(nn.Module):
    """The weights of a recurrent product: kernel [H, G], bias [G]."""

    shape: tuple[int, int]
    use_bias: bool
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self):
        kernel = self.param("kernel", self.kernel_init, self.shape)
        if not self.use_bias:
            return kernel, jnp.zeros(self.shape[1])
        return kernel, self.param("bias", nn.initializers.zeros, self.shape[1:])


class Layer(nn.Module):
    """One layer in one direction; the attributes are those of `Recurrent`."""

    width: int
    cell: str
    biases: int
    forget_bias: float
    kernel_init: nn.initializers.Initializer
    recurrent_dropout: float
    dtype: str
    reverse: bool = False

    @nn.compact
    def __call__(self, x_TBD, carry: Carry, keep_TB1=None, *, train: bool = False):
        cell = CELLS[self.cell]
        columns, drop_BH = cell.gates * self.width, None

        def bias_init(key, shape, dtype=jnp.float32):
            bias = jnp.zeros(shape, dtype)
            return bias.at[self.width : 2 * self.width].set(self.forget_bias) if self.cell == "lstm" else bias

        options = {"kernel_init": self.kernel_init, "bias_init": bias_init, "name": "input"}
        input_TBG = nn.Dense(columns, dot_general=dense_product(self.dtype), **options)(x_TBD)
        shape = (self.width, columns)
        kernel, bias = RecurrentKernel(shape, self.biases == 2, self.kernel_init, name="recurrent")()
        if train and self.recurrent_dropout:
            kept = 1 - self.recurrent_dropout
            drop_BH = jax.random.bernoulli(self.make_rng("dropout"), kept, carry["h"].shape) / kept
        carry, h_TBH = run(cell, self.reverse, DTYPES[self.dtype], carry, input_TBG, kernel, bias, keep_TB1, drop_BH)
        return carry, h_TBH if keep_TB1 is None else jnp.where(keep_TB1, h_TBH, 0)


class Recurrent(nn.Module):
    """Layers on top of each other: x [B, T, D] to (carry after the last step, h [B, T, H], 2H if bidirectional).

    Attributes:
      width: H, the units of a layer (in each direction).
      depth: number of layers.
      cell: a name of CELLS.
      bidirectional: a second layer beside each, from the last step to the first; both outputs side by side.
      biases: 1, or 2 as in PyTorch and cuDNN, one of them in the recurrent product (it matters for the GRU alone).
      forget_bias: what the bias of an LSTM's forget gate starts at.
      init_scale: weights start uniform in +-init_scale; None: 1 / sqrt(width), as in PyTorch.
      dropout: rate on what enters and leaves each layer (Zaremba et al. 2014).
      variational: the same mask at all time steps (Gal & Ghahramani 2016).
      recurrent_dropout: rate on h where it enters the recurrent product, with one mask for all time steps.
      dtype: what the operands of matrix products are rounded to, 'float32' or 'bfloat16'; all else is float32.
    """

    width: int
    depth: int = 1
    cell: str = "lstm"
    bidirectional: bool = False
    biases: int = 1
    forget_bias: float = 0.0
    init_scale: float | None = None
    dropout: float = 0.0
    variational: bool = False
    recurrent_dropout: float = 0.0
    dtype: str = "float32"

    def initial_carry(self, rows: int) -> dict[str, Carry]:
        """Zeros, for `rows` sequences."""
        names = [f"layer{i}" for i in range(1, self.depth + 1)]
        names += [f"{name}_reverse" for name in names] if self.bidirectional else []
        return {name: {key: jnp.zeros((rows, self.width)) for key in CELLS[self.cell].carry} for name in names}

    @nn.compact
    def __call__(self, x_BTD, carry=None, *, keep_BT=None, train: bool = False):
        carry = self.initial_carry(len(x_BTD)) if carry is None else carry
        keep_TB1 = None if keep_BT is None else keep_BT.T[..., None]
        x_TBD, last = x_BTD.swapaxes(0, 1), {}
        time = (0,) if self.variational else ()
        for i in range(1, self.depth + 1):
            x_TBD = nn.Dropout(self.dropout, broadcast_dims=time, deterministic=not train, name=f"dropout{i}")(x_TBD)
            found = []
            for name in [f"layer{i}"] + ([f"layer{i}_reverse"] if self.bidirectional else []):
                layer = Layer(
                    width=self.width,
                    cell=self.cell,
                    biases=self.biases,
                    forget_bias=self.forget_bias,
                    kernel_init=uniform(self.init_scale or self.width**-0.5),
                    recurrent_dropout=self.recurrent_dropout,
                    dtype=self.dtype,
                    reverse=name.endswith("_reverse"),
                    name=name,
                )
                last[name], h_TBH = layer(x_TBD, carry[name], keep_TB1, train=train)
                found.append(h_TBH)
            x_TBD = jnp.concatenate(found, axis=-1)
        x_TBD = nn.Dropout(self.dropout, broadcast_dims=time, deterministic=not train, name="dropout_out")(x_TBD)
        return last, x_TBD.swapaxes(0, 1)


def uniform(scale: float) -> nn.initializers.Initializer:
    """Uniform in +-scale."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -scale, scale)


def check_options(name: str, model) -> None:
    """Raises UserError where an option that all recurrent models share makes no sense."""
    lookup(f"cell of {name}", model.cell, CELLS)
    lookup(f"dtype of {name}", model.dtype, DTYPES)
    check_rate(name, dropout=model.dropout, recurrent_dropout=model.recurrent_dropout)
    check_least(name, model, width=1, depth=1)
    if model.num_classes < 0:
        raise UserError(f"{name}: num_classes is {model.num_classes}; it must be at least 1, or 0 for features")
    if model.biases not in (1, 2):
        raise UserError(f"{name}: biases is {model.biases}; it must be 1 or 2")
    if model.init_scale is not None and not model.init_scale > 0:
        raise UserError(f"{name}: init_scale is {model.init_scale}; it must be more than 0")
    if model.variational and not model.dropout:
        raise UserError(f"{name}: variational is a kind of dropout; set dropout too, for example to 0.3")
    if model.forget_bias and model.cell != "lstm":
        raise UserError(f"{name}: forget_bias is {model.forget_bias}; only cell 'lstm' has a forget gate")


def tokens(name: str, token_BT) -> None:
    """Raises UserError unless it is an integer array [B, T]."""
    if token_BT.ndim != 2 or not jnp.issubdtype(token_BT.dtype, jnp.integer):
        raise UserError(f"{name}: the input is {token_BT.dtype}{list(token_BT.shape)}; it must be integers [B, T]")
