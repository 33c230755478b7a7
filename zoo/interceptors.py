"""Interceptors of the model that is trained, which leave alone its teacher, applied within the same loss."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import flax.linen as nn

_passing = contextvars.ContextVar("passing", default=False)  # whether calls pass by all interceptors


def of_trained(interceptor: Callable):
    """`nn.intercept_methods(interceptor)`, but for what is called `unseen`."""

    def intercept(call, args, kwargs, context):
        return call(*args, **kwargs) if _passing.get() else interceptor(call, args, kwargs, context)

    return nn.intercept_methods(intercept)


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """For a model that is applied in the loss and is not the one that is trained."""
    token = _passing.set(True)
    try:
        yield
    finally:
        _passing.reset(token)
