"""Every augmentation against a slow loop over pixels in NumPy."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from zoo.data import augment
from zoo.errors import UserError

B, H, W = 24, 9, 7
AUGMENTS = augment.AUGMENTS
STRENGTH = {"flip": 0.5, "rotate": 20.0, "zoom": 0.3, "shift": 2.0, "cutout": 3.0}


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(1, 256, size=(B, H, W, 2)).astype(np.uint8)


def apply(name, images, strength, seed=0):
    run = jax.jit(AUGMENTS[name][0], static_argnums=2)
    return np.asarray(run(jax.random.key(seed), images, strength))


def moved(image, down, right):
    """Shifted by whole pixels, pixel by pixel; 0 comes in."""
    out = np.zeros_like(image)
    for i in range(H):
        for j in range(W):
            if 0 <= i + down < H and 0 <= j + right < W:
                out[i, j] = image[i + down, j + right]
    return out


def sampled(image, rows, columns):
    """Bilinear at (rows[i, j], columns[i, j]); every neighbour outside the image is 0."""
    out = np.zeros(image.shape)
    for i in range(H):
        for j in range(W):
            r, c = rows[i, j], columns[i, j]
            for y in (int(np.floor(r)), int(np.floor(r)) + 1):
                for x in (int(np.floor(c)), int(np.floor(c)) + 1):
                    if 0 <= y < H and 0 <= x < W:
                        out[i, j] += (1 - abs(r - y)) * (1 - abs(c - x)) * image[y, x]
    return out


def test_flip(images):
    found = apply("flip", images, 0.3)
    assert found.dtype == np.uint8
    mirrored = np.stack([[[row[::-1] for row in channel] for channel in image.transpose(2, 0, 1)] for image in images])
    mirrored = mirrored.transpose(0, 2, 3, 1)
    turned = [(f == m).all() for f, m in zip(found, mirrored, strict=True)]
    kept = [(f == image).all() for f, image in zip(found, images, strict=True)]
    assert [a != b for a, b in zip(turned, kept, strict=True)] == [True] * B
    many = apply("flip", np.tile(np.uint8([[[[1], [2]]]]), (4_000, 1, 1, 1)), 0.3)
    assert (many[:, 0, 0, 0] == 2).mean() == pytest.approx(0.3, abs=0.03)
    np.testing.assert_array_equal(apply("flip", images, 1.0), mirrored)


def test_shift(images):
    """Whole pixels, so exact: every image is one of the 25 that the loop makes of it."""
    found, offsets = apply("shift", images, 2.0), set()
    for image, result in zip(images, found, strict=True):
        fits = [(d, r) for d in range(-2, 3) for r in range(-2, 3) if (moved(image, d, r) == result).all()]
        assert len(fits) == 1
        offsets.add(fits[0])
    assert len(offsets) > 8
    many = apply("shift", np.tile(images[:1], (1_000, 1, 1, 1)), 2.0)
    counts = [(many == moved(images[0], d, r)[None]).all((1, 2, 3)).sum() for d in range(-2, 3) for r in range(-2, 3)]
    assert sum(counts) == 1_000
    assert min(counts) > 15  # 40 expected: each offset is as likely, the largest included


def test_shift_beyond_the_border_is_black(images):
    found = apply("shift", images, 1e4)
    assert (found == 0).all((1, 2, 3)).mean() > 0.9


def test_zoom(images):
    """The drawn factors are read from images that hold their own coordinates, then the loop must agree."""
    found = apply("zoom", images, 0.3)
    down = np.broadcast_to(np.arange(H, dtype=np.float32)[None, :, None, None], (B, H, W, 1))
    right = np.broadcast_to(np.arange(W, dtype=np.float32)[None, None, :, None], (B, H, W, 1))
    places = apply("zoom", np.concatenate([down, right], -1), 0.3)
    centre, factors = np.array([(H - 1) / 2, (W - 1) / 2]), []
    for image, place, result in zip(images, places, found, strict=True):
        # Between the centre and the next pixel, nothing of the outside is seen: the slope is 1 / factor.
        slope = np.array([place[5, 3, 0] - place[4, 3, 0], place[4, 4, 1] - place[4, 3, 1]])
        rows = centre[0] + (np.arange(H) - centre[0]) * slope[0]
        columns = centre[1] + (np.arange(W) - centre[1]) * slope[1]
        wanted = sampled(image, *np.meshgrid(rows, columns, indexing="ij"))
        np.testing.assert_allclose(result, wanted, atol=0.05)
        factors.append(1 / slope)
    factors = np.array(factors)
    assert 0.7 <= factors.min() < 0.85 < 1.15 < factors.max() <= 1.3
    assert np.abs(factors[:, 0] - factors[:, 1]).max() > 0.2  # height and width each have their own


def drawn_angles(number, degrees, seed=0):
    drawn = jax.random.uniform(jax.random.key(seed), (number, 1, 1), minval=-degrees, maxval=degrees)
    return np.asarray(drawn).ravel()


def test_rotate_is_a_rotation():
    """As scipy turns a smooth image, to the 1 % that linear interpolation costs."""
    y, x = np.mgrid[:51, :51] - 25
    smooth = 200 * np.exp(-((x - 4) ** 2 + (y + 3) ** 2) / 60) + 100 * np.exp(-((x + 5) ** 2 + (y - 4) ** 2) / 40)
    found = apply("rotate", np.tile(np.float32(smooth)[None, ..., None], (8, 1, 1, 1)), 30.0)[..., 0]
    angles = drawn_angles(8, 30)
    assert angles.min() < -15 < 15 < angles.max()
    for result, angle in zip(found, angles, strict=True):  # scipy turns the other way
        np.testing.assert_allclose(result, ndimage.rotate(smooth, -angle, reshape=False, order=3), atol=0.01 * 200)


def test_rotate_is_bilinear(images):
    y, x = np.meshgrid(np.arange(H) - (H - 1) / 2, np.arange(W) - (W - 1) / 2, indexing="ij")
    angles = np.deg2rad(np.float64(drawn_angles(B, 60)))
    for image, result, a in zip(images, apply("rotate", images, 60.0), angles, strict=True):
        rows = np.cos(a) * y - np.sin(a) * x + (H - 1) / 2
        columns = np.sin(a) * y + np.cos(a) * x + (W - 1) / 2
        np.testing.assert_allclose(result, sampled(image, rows, columns), atol=0.05)


@pytest.mark.parametrize("side", [4, 5])
def test_rotate_by_a_right_angle_is_exact(side, monkeypatch):
    images = np.random.default_rng(0).integers(1, 256, size=(2, side, side, 3)).astype(np.uint8)
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, minval, maxval: np.full(shape, maxval, np.float32))
    found = augment.rotate(jax.random.key(0), images, 90.0)
    np.testing.assert_allclose(found, np.rot90(images, -1, (1, 2)), atol=1e-3)


@pytest.mark.parametrize("size", [1.0, 2.0, 3.0, 4.0])
def test_cutout(images, size):
    """Exactly one square of size x size, cut where it reaches over the border; everything else as it was."""
    found = apply("cutout", np.tile(images, (10, 1, 1, 1)), size)
    assert found.dtype == np.uint8
    n, tops = int(size), set()
    for image, result in zip(np.tile(images, (10, 1, 1, 1)), found, strict=True):
        hidden = (result == 0).all(-1)
        i, j = np.flatnonzero(hidden.any(1)), np.flatnonzero(hidden.any(0))
        assert hidden.sum() == len(i) * len(j) > 0
        assert (np.diff(i) == 1).all()
        assert (np.diff(j) == 1).all()
        for span, last in ((i, H - 1), (j, W - 1)):
            assert len(span) == n or (len(span) < n and (span[0] == 0 or span[-1] == last))
        wanted = image.copy()
        for row in i:
            for column in j:
                wanted[row, column] = 0
        np.testing.assert_array_equal(result, wanted)
        tops.add((i[0], j[0]))
    assert len(tops) > 30  # anywhere


def test_cutout_centres_are_everywhere():
    found = apply("cutout", np.ones((6_300, H, W, 1), np.uint8), 1.0)
    counts = (found == 0).sum((0, 3))
    assert counts.sum() == 6_300
    assert counts.min() > 60  # 100 expected
    assert counts.max() < 140


# --- what holds for all of them ----------------------------------------------------------------------------------


def compiled(settings):
    """(images, seed) -> images, as in the training step."""
    fn = jax.jit(lambda seed, images: augment.make(settings)(jax.random.key(seed), {"image": images})["image"])
    return lambda images, seed=0: np.asarray(fn(seed, images))


def test_every_augmentation_is_tested():
    assert STRENGTH.keys() == AUGMENTS.keys()


@pytest.mark.parametrize("name", AUGMENTS)
def test_keyed(name, images):
    run = compiled({name: STRENGTH[name]})
    found = run(images)
    assert found.shape == images.shape
    np.testing.assert_array_equal(run(images), found)
    assert (run(images, seed=1) != found).any()
    same = run(np.tile(images[:1], (B, 1, 1, 1)))
    assert (same != same[:1]).any()  # every image has its own draw


@pytest.mark.parametrize("name", AUGMENTS)
def test_strength_zero_is_off(name):
    for strength in (0, 0.0, None):
        assert augment.make({name: strength}) is None
    assert augment.make({}) is None


def test_what_is_off_changes_nothing_else(images):
    off = compiled(dict.fromkeys(AUGMENTS, 0) | {"cutout": 3.0})
    np.testing.assert_array_equal(off(images), compiled({"cutout": 3.0})(images))


@pytest.mark.parametrize("name", sorted(AUGMENTS.keys() - {"shift"}))  # which moves by whole pixels
def test_almost_no_strength_changes_almost_nothing(name, images):
    np.testing.assert_allclose(compiled({name: 1e-6})(images), images, atol=0.01)


def test_the_rest_of_a_batch_is_left_alone(images):
    batch = {"image": images, "label": np.arange(B)}
    found = augment.make({"flip": 1.0})(jax.random.key(0), batch)
    assert set(found) == {"image", "label"}
    np.testing.assert_array_equal(found["label"], np.arange(B))
    np.testing.assert_array_equal(found["image"], images[:, :, ::-1])


def test_order_and_keys(images):
    """In the order of AUGMENTS, whatever the order of the settings; each with its own key."""
    found = compiled({"cutout": 3.0, "shift": 1.0, "flip": 0.5})(images)

    @jax.jit
    def by_hand(images):
        key = jax.random.key(0)
        for name, strength in (("flip", 0.5), ("shift", 1.0), ("cutout", 3.0)):
            key, own = jax.random.split(key)
            images = AUGMENTS[name][0](own, images, strength)
        return images

    np.testing.assert_allclose(found, by_hand(images), atol=1e-3)


@pytest.mark.parametrize(
    "settings, line",
    [
        ({"filp": 0.5}, r"unknown augmentation 'filp'; did you mean 'flip'"),
        ({"flip": 1.5}, r"config\.data\.augment\.flip is 1\.5; it must be a number in 0\.\.1"),
        ({"shift": 1.5}, r"shift is 1\.5; it must be a whole number of pixels"),
        ({"shift": -1}, r"config\.data\.augment\.shift is -1"),
        ({"zoom": 1.0}, r"config\.data\.augment\.zoom is 1\.0; it must be a number in 0\.\.0\.9"),
        ({"rotate": 91}, r"config\.data\.augment\.rotate is 91"),
        ({"shift": "two"}, r"config\.data\.augment\.shift is 'two'"),
        ({"shift": float("nan")}, r"config\.data\.augment\.shift is nan"),
        ({"flip": 0.5, "cutout": (2,)}, r"config\.data\.augment\.cutout is \(2,\)"),
    ],
)
def test_mistakes(settings, line):
    with pytest.raises(UserError, match=line):
        augment.make(settings)
