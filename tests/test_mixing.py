"""mixup and cutmix: shares, partners and boxes, pixel by pixel."""

import jax
import numpy as np
import pytest
from scipy import stats

from zoo.data import augment

B, H, W = 40, 10, 8


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, size=(B, H, W, 3)).astype(np.uint8),
        "label": np.arange(B, dtype=np.int32),
    }


def apply(settings, batch, seed=0):
    return jax.device_get(augment.make(settings)(jax.random.key(seed), jax.device_put(batch)))


def check_labels(batch, found):
    np.testing.assert_array_equal(found["label"], batch["label"])
    np.testing.assert_array_equal(found["label_mixed"], [batch["label"][k - 1] for k in range(len(batch["label"]))])
    assert found["label_mixed"].dtype == batch["label"].dtype
    assert found["label_share"].dtype == np.float32
    assert ((found["label_share"] >= 0) & (found["label_share"] <= 1)).all()


def check_mixup(batch, found):
    check_labels(batch, found)
    for k in range(B):
        share, wanted = float(found["label_share"][k]), np.zeros((H, W, 3))
        for place in np.ndindex(H, W, 3):
            wanted[place] = share * batch["image"][k][place] + (1 - share) * batch["image"][k - 1][place]
        np.testing.assert_allclose(found["image"][k], wanted, atol=1e-3)


def check_cutmix(batch, found):
    """Each image is its own outside of one box and its partner's inside; returns the boxes' rows and columns."""
    check_labels(batch, found)
    sizes = []
    for k in range(B):
        taken = (found["image"][k] != batch["image"][k]).any(-1)
        rows, columns = np.flatnonzero(taken.any(1)), np.flatnonzero(taken.any(0))
        top, bottom, left, right = (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) if taken.any() else (0,) * 4
        wanted = batch["image"][k].copy()
        for i in range(top, bottom):
            for j in range(left, right):
                wanted[i, j] = batch["image"][k - 1][i, j]
        np.testing.assert_array_equal(found["image"][k], wanted)
        area = (bottom - top) * (right - left)
        assert found["label_share"][k] == pytest.approx(1 - area / (H * W), abs=1e-6)
        sizes.append((bottom - top, right - left))
    return sizes


def test_mixup(batch):
    found = apply({"mixup": 1.0}, batch)
    check_mixup(batch, found)
    assert len(set(found["label_share"])) == B  # every image draws its own


def test_cutmix(batch):
    found = apply({"cutmix": 1.0}, batch)
    assert found["image"].dtype == np.uint8
    assert len(set(check_cutmix(batch, found))) > 10


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_shares_are_beta(name, alpha):
    """Those of cutmix as far as its boxes are not cut at the border: no box is larger than drawn."""
    batch = {"image": np.zeros((2_000, 32, 32, 1), np.uint8), "label": np.zeros(2_000, np.int32)}
    share = apply({name: alpha}, batch)["label_share"]
    wanted = stats.beta(alpha, alpha)
    if name == "mixup":
        assert stats.kstest(share, wanted.cdf).pvalue > 1e-3
    else:
        drawn = wanted.rvs(20_000, random_state=0)
        for quantile in (0.1, 0.5, 0.9):  # half a pixel at each side of the box
            assert np.quantile(share, quantile) > np.quantile(drawn, quantile) - 0.1
        assert share.mean() > 0.5 + 0.05  # cut at the border
    assert 0 <= share.min() <= share.max() <= 1


def test_boxes_of_cutmix_have_the_proportions_of_the_image_and_are_anywhere():
    half = np.indices((1_000,)).reshape(-1, 1, 1, 1) % 2 * 200
    images = np.broadcast_to(half, (1_000, 20, 40, 1)).astype(np.uint8)
    found = apply({"cutmix": 1.0}, {"image": images, "label": np.zeros(1_000, np.int32)})
    taken = found["image"][..., 0] != images[..., 0]
    inner = ~(taken[:, 0].any(1) | taken[:, -1].any(1) | taken[:, :, 0].any(1) | taken[:, :, -1].any(1)) & taken.any(
        (1, 2)
    )
    heights, widths = taken.any(2).sum(1)[inner], taken.any(1).sum(1)[inner]
    assert inner.sum() > 100
    assert np.abs(widths - 2 * heights).max() <= 3
    often = taken.mean(0)
    assert 0.1 < often.min() < often.max() < 0.65


def test_one_of_both(batch):
    """Over the seeds, one or the other for the whole batch, about as often."""
    run = jax.jit(lambda seed: augment.make({"mixup": 1.0, "cutmix": 1.0})(jax.random.key(seed), batch))
    chosen = []
    for seed in range(40):
        found = jax.device_get(run(seed))
        blended = (found["image"] % 1 != 0).any((1, 2, 3))
        assert blended.mean() in (0, 1) or blended.mean() > 0.9
        chosen.append(bool(blended.any()))
        if seed < 4:
            (check_mixup if chosen[-1] else check_cutmix)(batch, found)
    assert 10 < sum(chosen) < 30


def test_each_alone_draws_the_same_as_ever(batch):
    """A mixed label does not depend on what comes before in the table, only on what is on."""
    found = apply({"mixup": 0.5, "flip": 1e-9}, batch)
    key = jax.random.split(jax.random.split(jax.random.key(0))[0])[1]
    np.testing.assert_allclose(found["label_share"], jax.random.beta(key, 0.5, 0.5, (B,)), rtol=1e-5)
