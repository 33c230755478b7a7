"""The update rules by name: optax's own, put together in the order that each is known for.

Each takes `(decay, rate, **options)` and returns the whole transformation from gradients to updates. `decay` adds
`weight_decay * parameter`, `rate` multiplies by minus the learning rate of the step; where they stand in the chain
is the convention. Decay before everything else is an L2 penalty (coupled, as PyTorch has it for the classical
optimizers); decay between the direction and the rate is decoupled from the gradient's scale (Loshchilov & Hutter 2019,
arXiv:1711.05101).
"""

import re
from collections.abc import Callable

import jax
import optax

from zoo import rules
from zoo.errors import UserError, lookup
from zoo.ftrl import ftrl
from zoo.gradients import is_masked

Rule = Callable[..., optax.GradientTransformation]

BY_ADAM = r"head/.*|(.*/)?embedding"  # what Muon leaves to Adam, beside the vectors


def sgd(decay, rate, *, momentum: float = 0.0, nesterov: bool = False, form: str = "pytorch"):
    """Stochastic gradient descent, with momentum and Nesterov's momentum as options; coupled decay.

    Args:
      momentum: share of the last direction that is kept.
      nesterov: look ahead by one step of the momentum (Nesterov 1983; Sutskever et al. 2013, section 2).
      form: what the momentum collects, which matters when the rate changes. 'pytorch': gradients, so that a new rate
        holds at once for all of it (v = momentum v + g, w -= lr v). 'keras': steps, which keep the rate they were made
        with (v = momentum v - lr g, w += v; Polyak 1964, Sutskever et al. 2013).
    """
    if not momentum and (nesterov or form != "pytorch"):
        what = "nesterov" if nesterov else "form"
        raise UserError(f"optim: {what} needs a momentum; set optim.momentum, for example 0.9")
    trace = optax.trace(decay=momentum, nesterov=nesterov) if momentum else optax.identity()
    orders = {"pytorch": (decay, trace, rate), "keras": (decay, rate, trace)}
    return optax.chain(*lookup("optim.form", form, orders))


def momentum(decay, rate, *, momentum: float = 0.9, form: str = "pytorch"):
    """Heavy-ball momentum (Polyak 1964), PyTorch's form or Keras's; coupled decay."""
    return sgd(decay, rate, momentum=momentum, form=form)


def nesterov(decay, rate, *, momentum: float = 0.9, form: str = "pytorch"):
    """Nesterov's accelerated gradient (1983), in the form of Sutskever et al. 2013; coupled decay."""
    return sgd(decay, rate, momentum=momentum, nesterov=True, form=form)


def adagrad(decay, rate, *, initial_accumulator: float = 0.1, eps: float = 1e-7):
    """AdaGrad, rates that fall with the sum of squared gradients (Duchi et al. 2011); coupled decay."""
    return optax.chain(decay, optax.scale_by_rss(initial_accumulator, eps), rate)


def adadelta(decay, rate, *, rho: float = 0.9, eps: float = 1e-6):
    """AdaDelta (Zeiler 2012, arXiv:1212.5701), which is made for lr=1; coupled decay."""
    return optax.chain(decay, optax.scale_by_adadelta(rho, eps), rate)


def rmsprop(
    decay,
    rate,
    *,
    rho: float = 0.9,
    eps: float = 1e-8,
    centered: bool = False,
    momentum: float = 0.0,
    nesterov: bool = False,
    form: str = "pytorch",
):
    """RMSProp (Tieleman & Hinton 2012), plain, centered (Graves 2013), with momentum as in sgd; coupled decay."""
    scale = (optax.scale_by_stddev if centered else optax.scale_by_rms)(decay=rho, eps=eps)
    return optax.chain(decay, scale, sgd(optax.identity(), rate, momentum=momentum, nesterov=nesterov, form=form))


def adam(decay, rate, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, nesterov: bool = False):
    """Adam (Kingma & Ba 2015, arXiv:1412.6980); coupled decay."""
    return optax.chain(decay, optax.scale_by_adam(b1, b2, eps, nesterov=nesterov), rate)


def adamax(decay, rate, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8):
    """Adam by the infinity norm (Kingma & Ba 2015, section 7.1); coupled decay."""
    return optax.chain(decay, optax.scale_by_adamax(b1, b2, eps), rate)


def nadam(decay, rate, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8):
    """Adam with Nesterov's momentum (Dozat 2016), without the paper's schedule of b1; coupled decay."""
    return adam(decay, rate, b1=b1, b2=b2, eps=eps, nesterov=True)


def adamw(decay, rate, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, nesterov: bool = False):
    """Adam with decoupled decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""
    return optax.chain(optax.scale_by_adam(b1, b2, eps, nesterov=nesterov), decay, rate)


def amsgrad(decay, rate, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, bias_correction: bool = True):
    """Adam with a second moment that never falls (Reddi et al. 2018, arXiv:1904.09237); coupled decay.

    `bias_correction` False is the paper's algorithm 2; True corrects both moments as Adam does, before the maximum
    (PyTorch and Keras correct after it).
    """
    scale = optax.scale_by_amsgrad(b1, b2, eps, bias_correction_mu=bias_correction, bias_correction_nu=bias_correction)
    return optax.chain(decay, scale, rate)


def lamb(decay, rate, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6):
    """LAMB, Adam with a trust ratio per parameter, for large batches (You et al. 2020, arXiv:1904.00962).

    The decay is added to Adam's direction and the ratio |w| / |direction + decay| scales both (algorithm 2).
    """
    return optax.chain(optax.scale_by_adam(b1, b2, eps), decay, optax.scale_by_trust_ratio(), rate)


def lars(decay, rate, *, momentum: float = 0.9, nesterov: bool = False, trust: float = 1e-3, eps: float = 0.0):
    """LARS, momentum with a trust ratio per parameter, for large batches (You et al. 2017, arXiv:1708.03888).

    The ratio is `trust * |w| / (|g + decay| + eps)` (the paper adds the norms of the two instead). The momentum
    collects steps with their rate (Keras's form, algorithm 1). Vectors (biases, norms) keep the plain rate, as in
    the implementations that reproduced it: of norm 0 at first, they have no ratio.
    """
    adapted = optax.masked(
        optax.scale_by_trust_ratio(trust_coefficient=trust, eps=eps),
        lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    )
    return optax.chain(decay, adapted, rate, optax.trace(decay=momentum, nesterov=nesterov))


def lion(decay, rate, *, b1: float = 0.9, b2: float = 0.99):
    """Lion, the sign of a momentum (Chen et al. 2023, arXiv:2302.06675); decoupled decay.

    The paper advises a rate 3 to 10 times smaller than AdamW's and a decay larger by the same factor.
    """
    return optax.chain(optax.scale_by_lion(b1, b2), decay, rate)


def muon(
    decay,
    rate,
    *,
    beta: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    rms: float = 0.2,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
):
    """Muon, momentum made orthogonal, for matrices and convolutions (Jordan 2024); decoupled decay.

    Kernels of convolutions count as matrices [height * width * in, out]. Vectors, embeddings and the head are left to
    Adam (`b1`, `b2`), by the same learning rate.

    Args:
      beta: decay of the momentum, which is corrected for its start as Adam's is (optax).
      nesterov: of the momentum, and of Adam.
      ns_steps: iterations of Newton and Schulz that make it orthogonal.
      rms: root mean square of an update in units of the rate, by `rms * sqrt(max(in, out))`: 0.2 is that of AdamW,
        whose rates then fit (Liu et al. 2025, arXiv:2502.16982). 0: Jordan's `sqrt(max(1, out / in))`.
    """

    def dimensions(params):
        def of(path, leaf):
            if leaf.ndim < 2 or re.fullmatch(BY_ADAM, rules.path_of(path)):
                return None
            return optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)

        return jax.tree_util.tree_map_with_path(of, params)

    descent = optax.contrib.muon(
        1.0, beta=beta, nesterov=nesterov, ns_steps=ns_steps, eps=eps, adam_b1=b1, adam_b2=b2,
        consistent_rms=rms or None, muon_weight_dimension_numbers=dimensions,
    )  # fmt: skip
    return optax.chain(descent, optax.scale(-1.0), decay, rate)


def schedule_free_sgd(decay, rate, *, b1: float = 0.9, weight_power: float = 2.0):
    """SGD whose average stands in for a falling rate (Defazio et al. 2024, arXiv:2405.15682); coupled decay."""
    return _schedule_free(optax.chain(decay, rate), b1, weight_power)


def schedule_free_adamw(
    decay, rate, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_power: float = 2.0
):
    """AdamW whose average stands in for a falling rate (Defazio et al. 2024, arXiv:2405.15682); decoupled decay."""
    scale = optax.scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True)
    return _schedule_free(optax.chain(scale, decay, rate), b1, weight_power)


def _schedule_free(base, b1: float, weight_power: float) -> optax.GradientTransformationExtraArgs:
    """Gradients at y = (1 - b1) z + b1 x; `base` moves z; x is the mean of all z, weighted by lr ** weight_power.

    What is trained and decayed is y; what is to be evaluated is x (`schedule_free_average`). Give it a constant rate
    after a warmup.
    """
    if not 0 < b1 < 1:
        raise UserError(f"config.optim.b1 is {b1}; schedule-free averaging needs it between 0 and 1, for example 0.9")

    def at(lr):
        return optax.contrib.schedule_free(base, lambda _: lr, b1=b1, weight_lr_power=weight_power)

    def update(updates, state, params=None, *, lr, **extra):
        return at(lr).update(updates, state, params, lr=lr, **extra)

    return optax.GradientTransformationExtraArgs(at(0.0).init, update)


def schedule_free_average(opt_state, params):
    """The averaged parameters x of the schedule-free optimizers, and None for all others."""
    kind = optax.contrib.ScheduleFreeState
    states = [s for s in jax.tree.leaves(opt_state, is_leaf=lambda s: isinstance(s, kind)) if isinstance(s, kind)]
    for state in states:  # more than one where parameters join in later
        own = jax.tree.map(lambda z, y: z if is_masked(z) else y, state.z, params, is_leaf=is_masked)
        average = optax.contrib.schedule_free_eval_params(state, own)
        params = jax.tree.map(lambda x, y: y if is_masked(x) else x, average, params, is_leaf=is_masked)
    return params if states else None


OPTIMIZERS: dict[str, Rule] = {
    "adadelta": adadelta,
    "adagrad": adagrad,
    "adam": adam,
    "adamax": adamax,
    "adamw": adamw,
    "amsgrad": amsgrad,
    "ftrl": ftrl,
    "lamb": lamb,
    "lars": lars,
    "lion": lion,
    "momentum": momentum,
    "muon": muon,
    "nadam": nadam,
    "nesterov": nesterov,
    "rmsprop": rmsprop,
    "schedule_free_adamw": schedule_free_adamw,
    "schedule_free_sgd": schedule_free_sgd,
    "sgd": sgd,
}

SCHEDULE_FREE = ("schedule_free_adamw", "schedule_free_sgd")  # those that bring an average of their own to evaluate
