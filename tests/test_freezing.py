"""Frozen parts: no gradient, no update, no decay, no use of the batch, and nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from zoo import checkpoint, fine_tuning, freezing, tasks
from zoo.errors import UserError
from zoo.rules import flatten

ENCODER = ("(?!head/).*",)
META = {"name": "dots", "num_classes": 3, "class_names": ("a", "b", "c"), "shapes": {"label": ()}}


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "remat"])
def small(request):
    """(task, variables, batch) of a residual network with 7 batch normalizations."""
    options = {"depths": (1, 1), "width": 4, "num_classes": 3, "remat": request.param}
    model = zoo.create_model("resnet20_cifar", **options)
    rng = np.random.default_rng(0)
    batch = {"image": jnp.float32(rng.normal(1, 2, (6, 8, 8, 3))), "label": jnp.arange(6) % 3}
    task = tasks.make({"name": "classification"}, model, META)
    return task, task.init(jax.random.key(0), batch), batch


def gradients(task, variables, batch):
    state = {"batch_stats": variables["batch_stats"]}

    def loss(params):
        return task.loss(params, state, batch, jax.random.key(1), train=True)

    (_, (state, _)), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    return flatten(grads), flatten(state["batch_stats"])


def frozen(small, *, freeze=(), stats=()):
    task, variables, _ = small
    labels = fine_tuning.frozen_labels(freeze, variables["params"])
    return freezing.frozen(task, labels, freezing.norms(stats, variables))


def test_without_rules_the_task_is_the_same(small):
    assert frozen(small) is small[0]


def test_frozen_parameters_are_constants(small):
    task, variables, batch = small
    made = frozen(small, freeze=("layer1_.*", "stem.*"))
    (whole, _), (some, _) = jax.jit(lambda v: (gradients(task, v, batch), gradients(made, v, batch)))(variables)
    for path, grad in some.items():
        wanted = np.zeros_like(grad) if path.startswith(("layer1_", "stem")) else whole[path]
        np.testing.assert_allclose(grad, wanted, rtol=1e-4, atol=1e-6, err_msg=path)
    assert not any(np.array_equal(grad, np.zeros_like(grad)) for path, grad in whole.items() if "kernel" in path)


def test_no_work_is_done_for_them(small):
    """Below the head nothing has a gradient: the compiled step has no convolution but those of the forward pass."""
    task, variables, batch = small
    state = {"batch_stats": variables["batch_stats"]}

    def convolutions(fn):
        return str(jax.make_jaxpr(fn)(variables)).count("conv_general_dilated[")

    forwards = convolutions(lambda v: task.loss(v["params"], state, batch, jax.random.key(1), train=True))
    assert convolutions(lambda v: gradients(frozen(small, freeze=ENCODER), v, batch)) == forwards > 0
    assert convolutions(lambda v: gradients(task, v, batch)) > forwards


def test_frozen_statistics(small):
    """Those that are frozen neither change nor use the batch; the others do both."""
    task, variables, batch = small
    stats = flatten(variables["batch_stats"])
    made = frozen(small, stats=("layer1_.*/norm2",))
    found = jax.jit(lambda v: gradients(made, v, batch)[1])(variables)
    for path in stats:
        assert np.array_equal(found[path], stats[path]) == path.startswith("layer1_0/norm2/"), path
    state = {"batch_stats": variables["batch_stats"]}
    all_frozen = frozen(small, stats=(".*",))
    loss, (state, _) = all_frozen.loss(variables["params"], state, batch, jax.random.key(1), train=True)
    assert flatten(state["batch_stats"]).keys() == stats.keys()
    evaluated, _ = task.loss(variables["params"], state, batch, None, train=False)
    np.testing.assert_allclose(loss, evaluated, rtol=1e-6)
    trained, _ = task.loss(variables["params"], state, batch, jax.random.key(1), train=True)
    assert abs(float(trained) - float(loss)) > 1e-3


def test_evaluation_is_not_touched(small):
    task, variables, batch = small
    made = frozen(small, freeze=("stem/.*",), stats=(".*",))
    state = {"batch_stats": variables["batch_stats"]}
    losses = [t.loss(variables["params"], state, batch, None, train=False)[0] for t in (task, made)]
    assert float(losses[0]) == float(losses[1])


def test_mistakes(small):
    _, variables, _ = small
    with pytest.raises(UserError, match=r"config\.freeze_stats is '\.\*'; it must be a tuple of regexes"):
        freezing.norms(".*", variables)
    with pytest.raises(
        UserError, match=r"config\.freeze_stats: rule 'layer9_0/.*' matches no parameter.*layer1_0/norm1"
    ):
        freezing.norms(("layer9_0/norm1",), variables)
    with pytest.raises(UserError, match=r"config\.freeze_stats: the model has no batch normalization"):
        freezing.norms((".*",), {"params": {}})


def test_averaged_weights_keep_frozen_statistics(tmp_path):
    """Those that are computed anew for the average are the others."""
    settings = {"model.widths": "(4,4)", "averaging.name": "swa", "averaging.start_steps": "6", "total_steps": "12"}
    config = zoo.config.load("tests/tiny.py", [*settings.items(), ("freeze_stats", "('norm1',)")])
    zoo.train(config, tmp_path)
    stats = checkpoint.load_variables(tmp_path)["batch_stats"]
    np.testing.assert_array_equal(stats["norm1"]["mean"], np.zeros(4))
    np.testing.assert_array_equal(stats["norm1"]["var"], np.ones(4))
    assert (stats["norm2"]["mean"] != 0).all()
