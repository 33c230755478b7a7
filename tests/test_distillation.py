"""Knowledge distillation: a teacher's softened probabilities in the training loss."""

import jax
import numpy as np
import pytest
from scipy.special import log_expit, log_softmax, softmax
from test_classification import META, ROWS, passing

import zoo
from zoo import fine_tuning, freezing, regularize, run, tasks
from zoo.errors import UserError

WIDTH = 7


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """(file of weights, logits of inputs)."""
    model = zoo.create_model("mlp", num_classes=WIDTH, widths=())
    rng = np.random.default_rng(1)
    params = {"head": {"kernel": rng.normal(size=(WIDTH, WIDTH)), "bias": rng.normal(size=WIDTH)}}
    variables = {"params": jax.tree.map(np.float32, params)}
    path = tmp_path_factory.mktemp("teacher") / "weights.safetensors"
    zoo.save_weights(path, model, variables, input_size=(WIDTH,))
    return str(path), lambda x: np.float64(x) @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    feature = np.float32(2 * rng.standard_normal((ROWS, WIDTH)))
    return {"feature": feature, "label": rng.integers(WIDTH, size=ROWS).astype(np.int32)}


def loss_of(batch, *, train=True, **options):
    task = tasks.make({"name": "classification", **options}, passing(), META)
    return float(jax.jit(lambda batch: task.loss({}, {}, batch, jax.random.key(0), train=train)[0])(batch))


@pytest.mark.parametrize("given", [{}, {"teacher_share": 0.3, "teacher_temperature": 1.5}, {"teacher_share": 1.0}])
def test_the_formula(teacher, batch, given):
    path, teach = teacher
    share, t = given.get("teacher_share", 0.9), given.get("teacher_temperature", 4.0)
    p, log_q = softmax(teach(batch["feature"]) / t, -1), log_softmax(np.float64(batch["feature"]) / t, -1)
    divergence = (p * (np.log(p) - log_q)).sum(-1)
    hard = -log_softmax(np.float64(batch["feature"]), -1)[np.arange(ROWS), batch["label"]]
    wanted = ((1 - share) * hard + share * t**2 * divergence).mean()
    assert loss_of(batch, teacher=path, **given) == pytest.approx(wanted, rel=1e-5)
    assert loss_of(batch, teacher=path, train=False, **given) == pytest.approx(hard.mean(), rel=1e-5)


def test_one_logit_is_two_classes(batch, tmp_path):
    """KL between two Bernoulli distributions."""
    model = zoo.create_model("mlp", num_classes=1, widths=())
    kernel = np.random.default_rng(2).normal(size=(WIDTH, 1)).astype(np.float32)
    variables = {"params": {"head": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}}
    zoo.save_weights(tmp_path / "w.safetensors", model, variables, input_size=(WIDTH,))
    options = {"binary": True, "teacher": str(tmp_path / "w.safetensors"), "teacher_share": 1.0}
    student = passing(lambda x: x[:, :1])
    task = tasks.make({"name": "classification", **options}, student, META | {"num_classes": 2})
    batch["label"] %= 2
    p, q = (1 / (1 + np.exp(-np.float64(z) / 4)) for z in (batch["feature"] @ kernel, batch["feature"][:, :1]))
    wanted = 16 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    assert float(task.loss({}, {}, batch, jax.random.key(0), train=True)[0]) == pytest.approx(wanted, rel=1e-4)


def test_one_class_against_the_rest(batch, tmp_path):
    """The probabilities, of teacher and student, are the logistic ones, scaled to a sum of 1."""
    model = zoo.create_model("mlp", num_classes=WIDTH, widths=())
    params = {"head": {"kernel": np.eye(WIDTH, dtype=np.float32)[::-1], "bias": np.zeros(WIDTH, np.float32)}}
    path, x = str(tmp_path / "w.safetensors"), np.float64(batch["feature"])
    zoo.save_weights(path, model, {"params": params}, input_size=(WIDTH,), target_link="logit")
    log_p = log_softmax(log_expit(x[:, ::-1]) / 4, -1)
    for loss, log_q in (("binary_cross_entropy", log_expit(x)), ("cross_entropy", x)):
        wanted = 16 * (np.exp(log_p) * (log_p - log_softmax(log_q / 4, -1))).sum(-1).mean()
        assert loss_of(batch, teacher=path, teacher_share=1.0, loss=loss) == pytest.approx(wanted, rel=1e-5)


def config(**task):
    settings = zoo.config.default()
    settings.model = {"name": "mlp", "widths": (16,)}
    settings.task.update(**task)
    settings.data.update(name="digits", batch_size=128, test=0.2)
    settings.optim.update(name="adam", lr=1e-2)
    settings.total_steps = 60
    return settings


def test_a_student_learns_from_a_teacher_alone(tmp_path):
    """Without labels (share 1, and wrong ones at that) it does what its teacher does."""
    taught = zoo.train(config(), tmp_path / "teacher")["metrics"]["test"]["accuracy"]
    digits = zoo.data.load("digits")
    wrong = digits._replace(train={**digits.train, "label": (digits.train["label"] + 1) % 10})
    alone = config(teacher=str(tmp_path / "teacher"), teacher_share=1.0)
    zoo.train(alone, tmp_path / "student", source=wrong)
    _, found = zoo.evaluate(alone, tmp_path / "student")  # on the right labels
    assert taught > 0.8
    assert found["test"]["accuracy"] > 0.7  # as good as none of the labels it was given


@pytest.mark.parametrize(
    "options, line",
    [
        ({"teacher_share": 0.5}, r"teacher_share is 0\.5, but there is no teacher; set teacher too"),
        ({"teacher_temperature": 2.0}, r"teacher_temperature is 2\.0, but there is no teacher"),
        ({"teacher": "{path}", "teacher_share": 0.0}, r"teacher_share is 0\.0; it must be in \(0, 1\]"),
        ({"teacher": "{path}", "teacher_temperature": 0.0}, r"teacher_temperature is 0\.0; it must be above 0"),
        ({"teacher": "{path}"}, r"the teacher .* has 7 outputs, but the task needs 10"),
        ({"teacher": "/nowhere"}, "/nowhere"),
        ({"teacher": "{path}", "teacher_share": 1.0, "label_smoothing": 0.1}, "label_smoothing has no effect with"),
        ({"teacher": "{path}", "teacher_share": 1.0, "class_weights": "balanced"}, "class_weights has no effect with"),
    ],
)
def test_mistakes(teacher, options, line):
    given = {key: value.format(path=teacher[0]) if isinstance(value, str) else value for key, value in options.items()}
    with pytest.raises(UserError, match=line) as error:
        run.prepare(config(**given))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, options, said, line",
    [
        ("mlp", {"widths": ()}, {"input_size": (7,)}, r"w cannot take inputs \[\d+, 8, 8, 1\]: "),
        (
            "unet",
            {"depth": 1, "width": 4},
            {"input_size": (8, 8, 1)},
            r"teacher .*w: the model gives \[\d+, 8, 8,",
        ),
        ("mlp", {"widths": ()}, {"input_size": (8, 8, 1), "task": "segmentation"}, "is for the task segmentation, and"),
        (
            "mlp",
            {"widths": ()},
            {"input_size": (8, 8, 1), "class_names": tuple("9876543210")},
            "knows the classes 9, 8, .*; the run has 0, 1",
        ),
    ],
)
def test_teachers_of_something_else(tmp_path, name, options, said, line):
    model = zoo.create_model(name, num_classes=10, **options)
    variables = model.init(jax.random.key(0), np.zeros((1, *said["input_size"]), np.float32))
    zoo.save_weights(tmp_path / "w", model, variables, **said)
    with pytest.raises(UserError, match=line):
        run.prepare(config(teacher=str(tmp_path / "w")))


def test_a_teacher_has_a_temperature_of_its_own(batch, tmp_path):
    model = zoo.create_model("mlp", num_classes=WIDTH, widths=())
    kernel = np.random.default_rng(3).normal(size=(WIDTH, WIDTH)).astype(np.float32)
    losses = []
    for temperature, factor in ((3.0, 1), (None, 3)):
        variables = {"params": {"head": {"kernel": kernel / factor, "bias": np.zeros(WIDTH, np.float32)}}}
        zoo.save_weights(tmp_path / "w", model, variables, input_size=(WIDTH,), temperature=temperature)
        losses.append(loss_of(batch, teacher=str(tmp_path / "w")))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_probe_has_no_inputs_for_a_teacher(tmp_path):
    model = zoo.create_model("mlp", num_classes=10, widths=())
    variables = model.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    zoo.save_weights(tmp_path / "w.safetensors", model, variables, input_size=(8, 8, 1))
    settings = config(teacher=str(tmp_path / "w.safetensors"))
    settings.probe = True
    with pytest.raises(UserError, match=r"trains the head alone; leave task\.teacher out"):
        run.prepare(settings)


@pytest.mark.parametrize("own", ["none", "batch"])
def test_what_is_told_of_the_student_leaves_its_teacher_alone(batch, tmp_path, own):
    """Frozen parts and penalties on outputs, where the teacher has layers of the same names, or others."""
    models = [zoo.create_model("mlp", num_classes=WIDTH, widths=(5,), norm=norm) for norm in ("batch", own)]
    variables = [jax.jit(model.init)(jax.random.key(i), batch["feature"]) for i, model in enumerate(models)]
    zoo.save_weights(tmp_path / "w.safetensors", models[0], variables[0], input_size=(WIDTH,))
    student = {**variables[1]}
    params, found = student.pop("params"), []
    for options in ({}, {"teacher": str(tmp_path / "w.safetensors")}):
        task = tasks.make({"name": "classification", **options}, models[1], META)
        labels = fine_tuning.frozen_labels(("dense1/.*",), params)
        rules = {"penalties": (), "constraints": (), "sparsity": (), "sparsity_kind": "random"}
        rules["activity"] = (("l1", "dense1", 1.0),)
        task = regularize.make(rules, task, params, labels, seed=0).task
        task = freezing.frozen(task, labels, freezing.norms(("norm1",) if own == "batch" else (), variables[1]))
        found.append(jax.jit(task.loss, static_argnames="train")(params, student, batch, jax.random.key(2), train=True))
    (_, (state, metrics)), (_, (taught_state, taught)) = found
    assert taught["penalty"] == metrics["penalty"]
    jax.tree.map(np.testing.assert_array_equal, taught_state, state)


def test_a_layer_that_the_teacher_alone_has(batch, tmp_path):
    model = zoo.create_model("mlp", num_classes=10, widths=(5,))
    variables = model.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    zoo.save_weights(tmp_path / "w.safetensors", model, variables, input_size=(8, 8, 1))
    settings = config(teacher=str(tmp_path / "w.safetensors"))
    settings.model.widths = ()
    settings.regularize.activity = (("l1", "dense1", 1.0),)
    with pytest.raises(UserError, match="rule 'dense1' matches no module"):
        run.prepare(settings)
