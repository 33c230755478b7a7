"""The curriculum: which rows each step may draw, by whose judgement, and that a killed run draws the same."""

import pathlib

import jax
import numpy as np
import pytest

import zoo
from zoo import run, teacher
from zoo.data import curriculum, feed
from zoo.errors import Interrupted, UserError
from zoo.types import Dataset, Feed

ROOT = pathlib.Path(__file__).parent.parent
ROWS, BATCH, FULL = 90, 8, 25  # 11 steps in an epoch; the curriculum ends in the third
STEPS = ROWS // BATCH
DIFFICULTY = np.random.default_rng(0).permutation(ROWS).astype(np.float32)
FEEDS = {"on_device": feed.on_device, "streamed": feed.streamed}


def batches(mesh, steps, *, kind="on_device", pace="linear", start=0.2, seed=3):
    """The rows of these steps, in this order."""
    arrays = {"label": np.arange(ROWS, dtype=np.int32), "hard": DIFFICULTY}
    meta = {"splits": {"train": ROWS}, "batch_size": BATCH, "steps_per_epoch": STEPS, "name": "test"}
    meta |= {"shapes": {"label": (), "hard": ()}}
    evaluation = feed.evaluation({"train": arrays}, 16, mesh, keep=True)
    dataset = Dataset(FEEDS[kind](arrays, BATCH, seed, mesh), evaluation, lambda batch: batch, meta)
    options = {"start_share": start, "pace": pace}
    hard = curriculum.from_column(dataset, "hard")
    train = curriculum.make(options, dataset, hard, full=FULL, seed=seed).train
    compiled = jax.jit(train.batch)
    return [np.asarray(compiled(train.fetch(step), np.int32(step))["label"]) for step in steps]


def rows_of(seed, *, pace="linear"):
    """The rows of the first 4 epochs, [steps, batch], without a device."""
    meta = {"splits": {"train": ROWS}, "batch_size": BATCH, "steps_per_epoch": STEPS}
    dataset = Dataset(Feed(None, None, lambda order: order), None, None, meta)
    options = {"start_share": 0.2, "pace": pace}
    order = curriculum.make(options, dataset, lambda: DIFFICULTY, full=FULL, seed=seed).train
    return np.concatenate([order(epoch) for epoch in range(4)]).reshape(-1, BATCH)


SHARES = {
    "linear": lambda p: 0.2 + 0.8 * p,
    "root": lambda p: np.sqrt(0.2**2 + (1 - 0.2**2) * p),
    "step": lambda p: 0.2 if p < 1 else 1,
}


def test_every_pace_is_tested():
    assert SHARES.keys() == curriculum.PACES.keys()


@pytest.mark.parametrize("pace", SHARES)
def test_a_growing_share_of_the_hard_rows(pace):
    """No batch has a row harder than its share, nor one twice; many seeds together draw all that they may."""
    seen = [set() for _ in range(3 * STEPS)]
    for seed in range(250):
        for rows, drawn in zip(rows_of(seed, pace=pace), seen, strict=False):
            assert len(set(rows)) == BATCH
            drawn |= set(DIFFICULTY[rows].astype(int))
    for step, drawn in enumerate(seen):
        assert drawn == set(range(int(np.ceil(SHARES[pace](min(step / FULL, 1)) * ROWS)))), step


def test_then_epochs_of_all_rows(mesh):
    found = np.concatenate(batches(mesh, range(3 * STEPS, 4 * STEPS)))
    np.testing.assert_array_equal(found, feed.epoch_order(ROWS, BATCH, 3, 3))
    np.testing.assert_array_equal(found, rows_of(3)[3 * STEPS :].ravel())


@pytest.mark.parametrize("kind", FEEDS)
def test_seed_and_step_alone_decide(mesh, kind):
    straight = batches(mesh, range(3 * STEPS), kind="on_device")
    jumps = [STEPS + 1, 0, 2 * STEPS, STEPS - 1, 3 * STEPS - 1]
    for found, step in zip(batches(mesh, jumps, kind=kind), jumps, strict=True):
        np.testing.assert_array_equal(found, straight[step])
    assert (np.stack(batches(mesh, range(STEPS), kind=kind, seed=4)) != np.stack(straight[:STEPS])).any()


def test_a_share_below_a_batch_is_a_batch(mesh):
    assert set(DIFFICULTY[batches(mesh, [0], start=0.01)[0]]) == set(range(BATCH))


# --- in a run ----------------------------------------------------------------------------------------------------


def config(**overrides):
    settings = {"averaging.name": "none", "total_steps": 30} | {k.replace("__", "."): v for k, v in overrides.items()}
    return zoo.config.load(ROOT / "tests/tiny.py", settings.items())


def with_difficulty():
    source = zoo.data.load("digits")
    hard = np.random.default_rng(0).random(len(source.train["label"])).astype(np.float32)
    return source._replace(train={**source.train, "hard": hard})


def test_killed_and_resumed(signalled, tmp_path):
    settings, source = config(data__curriculum__by="hard"), with_difficulty()
    whole = zoo.train(settings, tmp_path / "whole", source=source)
    with signalled(8), pytest.raises(Interrupted):
        zoo.train(settings, tmp_path / "killed", source=source)
    again = zoo.train(settings, tmp_path / "killed", source=source)
    files = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "killed")]
    assert files[0] == files[1]
    assert again["metrics"] == whole["metrics"]
    plain = zoo.train(config(), tmp_path / "plain", source=source)
    assert plain["metrics"] != whole["metrics"]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """(a run folder, a file of the same weights, the model, its variables)."""
    folder = tmp_path_factory.mktemp("teacher")
    zoo.train(config(total_steps=12), folder)
    model = run.prepare(config()).model
    variables = zoo.load_weights(model, folder)
    zoo.save_weights(folder / "weights.safetensors", model, variables, input_size=(8, 8, 1))
    return folder, model, variables


@pytest.mark.parametrize("file", ["", "weights.safetensors"])
def test_a_teachers_losses(taught, file):
    folder, model, variables = taught
    settings = config(data__augment__shift=2)  # which the teacher is not asked about
    dataset = run.prepare(settings).dataset
    found = teacher.difficulty(str(folder / file), settings, dataset)()
    wanted = []
    for batch in dataset.eval("train"):
        logits = np.asarray(model.apply(variables, dataset.preprocess(batch)["image"]), np.float64)
        losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), np.asarray(batch["label"])]
        wanted += losses[np.asarray(batch["mask"])].tolist()
    assert len(found) == dataset.meta["splits"]["train"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_teacher_decides_the_batches(taught):
    """Of the first step: nothing above the teacher's easiest fifth."""
    folder, *_ = taught
    settings = config(data__curriculum__by=f"teacher:{folder}")
    made = run.prepare(settings).dataset
    losses = teacher.difficulty(str(folder), settings, made)()
    images = np.concatenate([np.asarray(b["image"])[np.asarray(b["mask"])] for b in made.eval("train")])
    easy = {image.tobytes() for image in images[np.argsort(losses)[: int(np.ceil(0.2 * len(losses)))]]}
    batch = jax.jit(made.train.batch)(made.train.fetch(0), np.int32(0))
    assert {image.tobytes() for image in np.asarray(batch["image"])} <= easy


@pytest.mark.parametrize(
    "settings, line",
    [
        ({"by": "harrd"}, r"unknown column \(config\.data\.curriculum\.by\) 'harrd'; did you mean 'hard'"),
        ({"by": "image"}, r"config\.data\.curriculum\.by: 'image' has the shape \[8, 8, 1\] in each row, not one"),
        ({"by": "hard", "pace": "liner"}, r"unknown pace \(config\.data\.curriculum\.pace\) 'liner'; .*'linear'"),
        ({"by": "hard", "start_share": 0.0}, r"config\.data\.curriculum\.start_share is 0\.0"),
        ({"by": "hard", "full_steps": 0}, r"config\.data\.curriculum\.full_steps is 0; it must be at least 1 step"),
        ({"by": "teacher:/nowhere"}, r"/nowhere"),
        ({"by": f"teacher:{ROOT}"}, r"has no header of this zoo"),
    ],
)
def test_mistakes(settings, line):
    overrides = {f"data__curriculum__{key}": value for key, value in settings.items()}
    with pytest.raises(UserError, match=line) as error:
        run.prepare(config(**overrides), with_difficulty())
    assert "\n" not in str(error.value)


def test_a_teacher_with_other_outputs(taught):
    folder, *_ = taught
    settings = config(data__curriculum__by=f"teacher:{folder}")
    two = with_difficulty()
    few = two.train["label"] < 2
    two = zoo.Source({key: value[few] for key, value in two.train.items()}, class_names=("0", "1"))
    with pytest.raises(UserError, match=r"the teacher .* has 10 outputs, but the task needs 2"):
        run.prepare(settings, two)


def test_running_text_has_its_order(tmp_path):
    (tmp_path / "novel.txt").write_text("a rose is a rose is a rose\n" * 300)
    settings = zoo.config.default()
    settings.model = {"name": "lstm_lm"}
    settings.task = {"name": "language_model"}
    settings.data.update(name=f"text:{tmp_path}/novel.txt", batch_size=4, length=8, tokens="characters")
    settings.total_steps = 3
    settings.data.curriculum.by = "token"
    with pytest.raises(
        UserError, match=r"config\.data\.curriculum: data set .* is running text, which is read in order"
    ):
        run.prepare(settings)
