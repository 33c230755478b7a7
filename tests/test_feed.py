"""Batches: every row once an epoch, the same ones from the device and from the host, over all devices."""

import itertools

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from zoo.data import feed

ROWS, BATCH = 43, 8  # 5 whole batches, 3 rows left over
STEPS = ROWS // BATCH
FEEDS = {"on_device": feed.on_device, "streamed": feed.streamed}


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(256, size=(ROWS, 2, 3, 1)).astype(np.uint8),
        "label": np.arange(ROWS, dtype=np.int32),  # the row itself
    }


def batches(kind, arrays, mesh, steps, *, seed=0, batch_size=BATCH):
    """The batches of these steps, in this order."""
    train = FEEDS[kind](arrays, batch_size, seed, mesh)
    compiled = jax.jit(train.batch)
    return [jax.device_get(compiled(train.fetch(step), np.int32(step))) for step in steps]


def order(kind, arrays, mesh, steps, **options):
    return [batch["label"].tolist() for batch in batches(kind, arrays, mesh, steps, **options)]


@pytest.mark.parametrize("kind", FEEDS)
def test_every_epoch_is_a_permutation(kind, arrays, mesh):
    found = order(kind, arrays, mesh, range(4 * STEPS))
    epochs = [list(itertools.chain(*found[e * STEPS : (e + 1) * STEPS])) for e in range(4)]
    for rows in epochs:
        assert len(rows) == len(set(rows)) == STEPS * BATCH
        assert set(rows) <= set(range(ROWS))
        assert rows != sorted(rows)
    assert len(set(map(tuple, epochs))) == 4
    left_out = [set(range(ROWS)) - set(rows) for rows in epochs]
    assert set.intersection(*left_out) == set()  # the remainder is another one each epoch


@pytest.mark.parametrize("kind", FEEDS)
def test_rows_stay_together(kind, arrays, mesh):
    for batch in batches(kind, arrays, mesh, range(STEPS + 1)):
        assert batch["image"].dtype == np.uint8
        assert batch["label"].dtype == np.int32
        np.testing.assert_array_equal(batch["image"], arrays["image"][batch["label"]])


def test_both_feeds_give_the_same_batches(arrays, mesh):
    steps = range(2 * STEPS + 1)
    assert order("on_device", arrays, mesh, steps, seed=5) == order("streamed", arrays, mesh, steps, seed=5)


@pytest.mark.parametrize("kind", FEEDS)
def test_a_batch_depends_on_seed_and_step_alone(kind, arrays, mesh):
    """Whatever was asked for before: a run that starts again in the middle goes on as if it had not stopped."""
    straight = order(kind, arrays, mesh, range(3 * STEPS))
    jumps = [2 * STEPS + 1, 2 * STEPS + 2, 0, STEPS - 1, STEPS, 0, 3 * STEPS - 1]
    assert order(kind, arrays, mesh, jumps) == [straight[step] for step in jumps]
    assert order(kind, arrays, mesh, [7]) == [straight[7]]


@pytest.mark.parametrize("kind", FEEDS)
def test_seeds_differ(kind, arrays, mesh):
    first, other = (order(kind, arrays, mesh, range(STEPS), seed=seed) for seed in (0, 1))
    assert first != other


@pytest.mark.parametrize("kind", FEEDS)
def test_order_does_not_depend_on_the_devices(kind, arrays, mesh):
    one = Mesh(np.array(jax.local_devices()[:1]), ("data",))
    steps = range(STEPS + 1)
    assert order(kind, arrays, one, steps) == order(kind, arrays, mesh, steps)


@pytest.mark.parametrize("kind", FEEDS)
def test_a_batch_of_all_rows(kind, arrays, mesh):
    found = order(kind, {key: value[:40] for key, value in arrays.items()}, mesh, range(2), batch_size=40)
    assert [sorted(rows) for rows in found] == [list(range(40))] * 2


def devices_of(array):
    return {shard.device: shard.data.shape[0] for shard in array.addressable_shards}


@pytest.mark.parametrize("kind", FEEDS)
def test_rows_are_spread_over_the_devices(kind, arrays, mesh):
    train = FEEDS[kind](arrays, BATCH, 0, mesh)
    batch = jax.jit(train.batch)(train.fetch(0), np.int32(0))
    for value in batch.values():
        assert devices_of(value) == dict.fromkeys(mesh.devices.flat, BATCH // 4)


def test_only_one_program_for_all_steps(arrays, mesh):
    train = feed.on_device(arrays, BATCH, 0, mesh)
    compiled = jax.jit(train.batch)
    for step in range(2 * STEPS + 1):
        compiled(train.fetch(step), np.int32(step))
    assert compiled._cache_size() == 1


def test_a_failure_of_the_stream_is_seen(mesh):
    class Broken:
        shape, dtype = (ROWS,), np.dtype(np.int32)

        def __len__(self):
            return ROWS

        def __getitem__(self, index):
            raise OSError("disk gone")

    train = feed.streamed({"label": Broken()}, BATCH, 0, mesh)
    with pytest.raises(OSError, match="disk gone"):
        train.fetch(0)


# --- evaluation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("rows, batch_size", [(43, 8), (40, 8), (3, 8), (43, 44), (1, 4)])
def test_one_exact_pass(arrays, mesh, rows, batch_size, keep):
    split = {key: value[:rows] for key, value in arrays.items()}
    evaluate = feed.evaluation({"test": split, "train": arrays}, batch_size, mesh, keep=keep)
    for _ in range(3):  # the second and third come from what was kept
        seen = []
        for batch in evaluate("test"):
            mask = np.asarray(batch["mask"])
            assert mask.dtype == bool
            for key, value in split.items():
                assert batch[key].shape == (batch_size, *value.shape[1:])  # one shape: nothing compiles again
                assert batch[key].dtype == value.dtype
                np.testing.assert_array_equal(batch[key][mask], value[np.asarray(batch["label"])[mask]])
            assert devices_of(batch["label"]) == dict.fromkeys(mesh.devices.flat, batch_size // 4)
            seen += np.asarray(batch["label"])[mask].tolist()
        assert seen == list(range(rows))


def test_splits_are_kept_apart(arrays, mesh):
    splits = {name: {"label": np.full(5, number)} for number, name in enumerate(("train", "test"))}
    evaluate = feed.evaluation(splits, 4, mesh, keep=True)
    for _ in range(2):
        for number, name in enumerate(splits):
            assert all((batch["label"] == number).all() for batch in evaluate(name))


def test_a_pass_that_was_left_early_is_not_kept(arrays, mesh):
    evaluate = feed.evaluation({"test": arrays}, 8, mesh, keep=True)
    next(evaluate("test"))
    assert sum(int(batch["mask"].sum()) for batch in evaluate("test")) == ROWS


# --- resizing ----------------------------------------------------------------------------------------------------


def test_resized_is_bilinear():
    images = np.random.default_rng(0).integers(256, size=(2, 4, 4, 3)).astype(np.uint8)
    found = feed.resized(images, 8)
    assert found.shape == (2, 8, 8, 3)
    assert found.dtype == np.uint8
    # The output pixel i lies at (i + 0.5) / 2 - 0.5 of the input; beyond the border is the border.
    place = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    weight = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(4)))
    wanted = np.einsum("ij,bjkc,lk->bilc", weight, np.float64(images), weight)
    np.testing.assert_allclose(found, wanted, atol=0.51)


def test_floats_stay_floats():
    images = np.random.default_rng(0).integers(256, size=(2, 9, 9, 3)).astype(np.uint8)
    found = feed.resized(images / 255, 5)
    assert found.dtype == np.float32
    np.testing.assert_allclose(255 * found, feed.resized(images, 5), atol=0.51)


def test_shrinking_averages():
    board = np.indices((8, 8)).sum(0)[None, :, :, None] % 2 * 200
    found = feed.resized(board.astype(np.uint8), 2)
    assert (np.abs(found.astype(int) - 100) <= 30).all()  # without antialiasing it would be 0 or 200


def test_resizing_to_the_same_size_changes_nothing():
    images = np.random.default_rng(0).integers(256, size=(2, 4, 4, 1)).astype(np.uint8)
    assert feed.resized(images, 4) is images
