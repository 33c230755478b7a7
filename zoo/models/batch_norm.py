"""Batch normalization (Ioffe & Szegedy 2015, arXiv:1502.03167).

As `flax.linen.BatchNorm`, but on rows: XLA's CPU backend adds up the rows of [N, C] several times faster than it sums
[B, H, W, C] over three axes, forwards and in the gradients.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax


class BatchNorm(nn.Module):
    """Normalization over all axes but the last, then a scale and an offset per channel.

    It uses (and updates) the statistics of the batch if and only if the caller makes 'batch_stats' mutable, and does
    not say `use_running_average` (as `zoo.freezing` does). `momentum` is flax's, 1 - PyTorch's. The running variance is
    the biased one, as in flax and Keras.

    Attributes:
      momentum: of the running statistics.
      epsilon: added to the variance.
      scale_init: initializer of the scale.
      dtype: of the result; statistics and parameters are float32.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, *, use_running_average: bool = False):
        width = x.shape[-1]
        scale = self.param("scale", self.scale_init, (width,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (width,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (width,), jnp.float32)
        rows = x.reshape(-1, width).astype(jnp.float32)
        batch = self.is_mutable_collection("batch_stats") and not self.is_initializing()
        if batch and not use_running_average:
            mean, square = jnp.mean(rows, 0), jnp.mean(jnp.square(rows), 0)
            var = jnp.maximum(square - jnp.square(mean), 0)
            running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
            running_var.value = self.momentum * running_var.value + (1 - self.momentum) * var
            if self.is_mutable_collection("batch_moments"):  # asked for by zoo.averaging
                self.put_variable("batch_moments", "mean", mean)
                self.put_variable("batch_moments", "square", square)
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * lax.rsqrt(var + self.epsilon)
        return (rows * factor[None] + (bias - mean * factor)[None]).reshape(x.shape).astype(self.dtype)
