"""What holds for all augmentations, and those of pixel values, against slow loops in NumPy."""

import jax
import numpy as np
import pytest

from zoo import config, run
from zoo.data import augment
from zoo.errors import UserError

B, H, W = 24, 9, 7
AUGMENTS = augment.AUGMENTS
STRENGTH = {
    "flip": 0.5, "flip_vertical": 0.5, "transpose": 0.5, "rotate": 20.0, "elastic": 1.0, "random_resized_crop": 0.3,
    "translate": 0.2, "zoom": 0.3, "shift": 2, "crop": 5, "brightness": 0.4, "contrast": 0.4, "noise": 20.0,
    "cutout": 3.0, "mixup": 1.0, "cutmix": 1.0,
}  # fmt: skip
MIXING = ("mixup", "cutmix")


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, size=(B, H, W, 2)).astype(np.uint8)
    return {"image": images, "label": np.arange(B, dtype=np.int32)}


def augmented(settings):
    """(batch, seed) -> batch; not compiled as a whole, which takes longer than all these tests."""
    fn = augment.make(settings)
    return lambda batch, seed=0: jax.device_get(fn(jax.random.key(seed), jax.device_put(batch)))


def fitting(name, batch):
    """The batch, with square images where the augmentation needs them."""
    return {k: x[:, :W] if x.ndim >= 3 else x for k, x in batch.items()} if name == "transpose" else batch


# --- values of the pixels ----------------------------------------------------------------------------------------


def drawn_factors(strength, seed=0):
    """What `make` with this augmentation alone draws."""
    own = jax.random.split(jax.random.key(seed))[1]
    return np.asarray(jax.random.uniform(own, (B, 1, 1, 1), minval=1 - strength, maxval=1 + strength)).ravel()


@pytest.mark.parametrize("strength", [0.2, 0.9])
@pytest.mark.parametrize("name", ["brightness", "contrast"])
def test_brightness_and_contrast(name, strength, batch):
    found, clipped = augmented({name: strength})(batch)["image"], 0
    factors = drawn_factors(strength)
    assert 1 - strength <= factors.min() < 1 - strength / 2 < 1 + strength / 2 < factors.max() <= 1 + strength
    for image, result, factor in zip(batch["image"], found, factors, strict=True):
        wanted = np.zeros(image.shape)
        centre = 0 if name == "brightness" else sum(map(int, image.ravel())) / image.size
        for place in np.ndindex(image.shape):
            wanted[place] = centre + (image[place] - centre) * factor
            clipped += not 0 <= wanted[place] <= 255
            wanted[place] = min(max(wanted[place], 0), 255)
        np.testing.assert_allclose(result, wanted, atol=1e-3)
    assert clipped > 10  # both ends of the range are kept


@pytest.mark.parametrize("std", [2.0, 20.0])
def test_noise(std):
    grey = {"image": np.full((40, 16, 16, 3), 128, np.uint8)}
    found = augmented({"noise": std})(grey)["image"] - 128.0
    assert found.mean() == pytest.approx(0, abs=5 * std / found.size**0.5)
    assert found.std() == pytest.approx(std, rel=0.02)
    assert np.mean(np.abs(found) < std) == pytest.approx(0.6827, abs=0.01)  # as a normal distribution has it
    assert abs(np.corrcoef(found[..., 0].ravel(), found[..., 1].ravel())[0, 1]) < 0.05  # each channel its own
    for value in (0, 255):
        image = augmented({"noise": std})({"image": np.full_like(grey["image"], value)})["image"]
        assert (image == value).mean() == pytest.approx(0.5, abs=0.02)  # cut at the ends of the range
        assert ((image >= 0) & (image <= 255)).all()


# --- cutout ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1.0, 2.0, 3.0, 4.0])
def test_cutout(batch, size):
    """Exactly one square of size x size, cut where it reaches over the border; everything else as it was."""
    images = np.tile(batch["image"], (10, 1, 1, 1))
    found = augmented({"cutout": size})({"image": images})["image"]
    assert found.dtype == np.uint8
    n, tops = int(size), set()
    for image, result in zip(images, found, strict=True):
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
    found = augmented({"cutout": 1.0})({"image": np.ones((6_300, H, W, 1), np.uint8)})["image"]
    counts = (found == 0).sum((0, 3))
    assert counts.sum() == 6_300
    assert counts.min() > 60  # 100 expected
    assert counts.max() < 140


# --- what holds for all of them ----------------------------------------------------------------------------------


def test_every_augmentation_is_tested():
    assert list(STRENGTH) == list(AUGMENTS)


@pytest.mark.parametrize("name", AUGMENTS)
def test_keyed(name, batch):
    batch, run = fitting(name, batch), augmented({name: STRENGTH[name]})
    found = run(batch)["image"]
    side = STRENGTH["crop"]
    assert found.shape == ((B, side, side, 2) if name == "crop" else batch["image"].shape)
    np.testing.assert_array_equal(run(batch)["image"], found)
    assert (run(batch, seed=1)["image"] != found).any()
    same = run(batch | {"image": np.tile(batch["image"][:1], (B, 1, 1, 1))})
    if name in MIXING:  # nothing to see in the mixture of equal images
        same = {"image": same["label_share"]}
    assert (same["image"] != same["image"][:1]).any()  # every image has its own draw


@pytest.mark.parametrize("name", AUGMENTS)
def test_a_stronger_one_does_more(name, batch):
    """Of each augmentation: no strength is as good as another."""
    batch = fitting(name, batch)
    weak, strong = (
        augmented({name: s})(batch) for s in (1 if name == "shift" else STRENGTH[name] / 2.5, STRENGTH[name])
    )
    if name == "crop":
        assert weak["image"].shape[1:3] == (2, 2)
        return

    def change(found):
        return np.abs(found["image"].astype(float) - batch["image"]).mean()

    if name == "random_resized_crop":  # its strength is what is kept at least
        assert change(weak) > change(strong) > 0
    elif name in MIXING:  # Beta(alpha, alpha) is nearer to 1/2
        assert weak["label_share"].std() > strong["label_share"].std() > 0
    else:
        assert 0 < change(weak) < change(strong)


@pytest.mark.parametrize("name", AUGMENTS)
def test_strength_zero_is_off(name):
    for strength in (0, 0.0, None):
        assert augment.make({name: strength}) is None
    assert augment.make({}) is None


def test_what_is_off_changes_nothing_else(batch):
    off = augmented(dict.fromkeys(AUGMENTS, 0) | {"cutout": 3.0})
    np.testing.assert_array_equal(off(batch)["image"], augmented({"cutout": 3.0})(batch)["image"])


# The others move by whole pixels, keep almost nothing when weak, or choose one of two images.
@pytest.mark.parametrize("name", [n for n in AUGMENTS if n not in ("shift", "crop", "random_resized_crop", *MIXING)])
def test_almost_no_strength_changes_almost_nothing(name, batch):
    batch = fitting(name, batch)
    np.testing.assert_allclose(augmented({name: 1e-6})(batch)["image"], batch["image"], atol=0.01)


def test_the_rest_of_a_batch_is_left_alone(batch):
    batch |= {"target": np.float32(np.arange(B))}
    for settings in ({"flip": 1.0}, {"rotate": 10.0}, {"noise": 9.0}, {"cutout": 3.0}):
        found = augmented(settings)(batch)
        assert set(found) == set(batch)
        for key in ("label", "target"):
            np.testing.assert_array_equal(found[key], batch[key])
            assert found[key].dtype == batch[key].dtype


def test_pixels_stay_bytes_where_nothing_is_computed_with_them(batch):
    kept = {
        name for name in AUGMENTS if augmented({name: STRENGTH[name]})(fitting(name, batch))["image"].dtype == np.uint8
    }
    assert kept == {"flip", "flip_vertical", "transpose", "shift", "crop", "cutout", "cutmix"}


def test_order_and_keys(batch):
    """In the order of AUGMENTS, whatever the order of the settings; each with its own key, split off in that order.

    The published results depend on these keys.
    """
    found = augmented({"cutout": 3.0, "shift": 1.0, "flip": 0.5, "contrast": 0.5})(batch)["image"]

    @jax.jit
    def by_hand(batch):
        key = jax.random.key(0)
        for name, strength in (("flip", 0.5), ("shift", 1.0), ("contrast", 0.5), ("cutout", 3.0)):
            key, own = jax.random.split(key)
            batch = AUGMENTS[name].fn(own, batch, strength)
        return batch

    np.testing.assert_allclose(found, by_hand(batch)["image"], atol=1e-3)


def test_compiled_as_in_a_training_step(batch):
    """(Almost) all together, in a scan over steps: the same as step by step and operation by operation."""
    settings = {
        name: STRENGTH[name] for name in AUGMENTS if name not in ("cutmix", "zoom")
    }  # which take long to compile
    batch = fitting("transpose", batch)
    keys = jax.random.split(jax.random.key(0), 2)

    @jax.jit
    def run(batch):
        return jax.lax.scan(lambda _, key: (None, augment.make(settings)(key, batch)), None, keys)[1]

    found = run(batch)
    assert found["image"].shape == (2, B, 5, 5, 2)
    assert (found["image"][0] != found["image"][1]).any()
    for step in range(2):
        wanted = augment.make(settings)(keys[step], jax.device_put(batch))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x[step], y, atol=0.01), found, wanted)  # noqa: B023


def test_whole_numbers_are_strengths_too(batch):
    """As they come from the command line."""
    batch = fitting("transpose", batch)
    for settings in ({"flip": 1, "rotate": 20, "zoom": 0.5}, {"elastic": 1, "translate": 1, "mixup": 1}, {"cutmix": 1}):
        floats = {name: float(strength) for name, strength in settings.items()}
        jax.tree.map(np.testing.assert_array_equal, augmented(settings)(batch), augmented(floats)(batch))


@pytest.mark.parametrize(
    "settings, line",
    [
        ({"filp": 0.5}, r"unknown augmentation 'filp'; did you mean 'flip'"),
        ({"flip": 1.5}, r"config\.data\.augment\.flip is 1\.5; it must be a number in 0\.\.1"),
        ({"shift": 1.5}, r"shift is 1\.5; it must be a whole number of pixels"),
        ({"crop": 3.5}, r"crop is 3\.5; it must be a whole number of pixels"),
        ({"shift": -1}, r"config\.data\.augment\.shift is -1"),
        ({"zoom": 1.0}, r"config\.data\.augment\.zoom is 1\.0; it must be a number in 0\.\.0\.9"),
        ({"rotate": 181}, r"config\.data\.augment\.rotate is 181"),
        ({"shift": "two"}, r"config\.data\.augment\.shift is 'two'"),
        ({"shift": float("nan")}, r"config\.data\.augment\.shift is nan"),
        ({"flip": 0.5, "cutout": (2,)}, r"config\.data\.augment\.cutout is \(2,\)"),
        ({"random_resized_crop": 1.1}, r"random_resized_crop is 1\.1; it must be a number in 0\.\.1"),
        ({"brightness": 2}, r"brightness is 2; it must be a number in 0\.\.1"),
        ({"mixup": -0.1}, r"mixup is -0\.1; it must be a number in 0\.\.100"),
    ],
)
def test_mistakes(settings, line):
    with pytest.raises(UserError, match=line):
        augment.make(settings)


@pytest.mark.parametrize(
    "settings, changed, line",
    [
        ({"transpose": 0.5}, {}, r"config\.data\.augment\.transpose needs square images; these are 9x7"),
        ({"crop": 8}, {}, r"config\.data\.augment\.crop is 8, larger than the images \(9x7\)"),
        ({"shift": 8}, {}, r"config\.data\.augment\.shift is 8, more than the images have pixels \(9x7\)"),
        (
            {"noise": 9},
            {"image": np.zeros((2, 4, 4, 1), np.float32)},
            r"noise needs pixels of 0\.\.255 \(uint8\); these",
        ),
        ({"contrast": 0.5}, {"image": np.zeros((2, 4, 4, 1), np.float32)}, r"contrast needs .* these are float32"),
        ({"mixup": 1}, {"label": np.zeros((B, H, W), np.uint8)}, r"augment\.mixup: only .* this data has label maps"),
        ({"cutmix": 1}, {"label": None}, r"augment\.cutmix: only images with one class each .* has no labels"),
        (
            {"mixup": 1, "cutmix": 1},
            {"label": None},
            r"config\.data\.augment\.mixup and config\.data\.augment\.cutmix: ",
        ),
        (
            {"mixup": 1},
            {"image": np.zeros((1, 4, 4, 1)), "label": np.zeros(1, int)},
            r"mixup: batches must have at least 2",
        ),
    ],
)
def test_data_that_an_augmentation_cannot_work_on(settings, changed, line, batch):
    """At the latest when the step is traced."""
    batch = {key: value for key, value in (batch | changed).items() if value is not None}
    with pytest.raises(UserError, match=line):
        jax.eval_shape(augment.make(settings), jax.random.key(0), batch)


def test_a_crop_that_a_network_of_fixed_size_cannot_take():
    """One that pools its last map can."""
    base = [("data.name", "digits"), ("data.augment.crop", 6), ("total_steps", 1), ("model.widths", (4,))]
    with pytest.raises(UserError, match=r"config\.data\.augment\.crop gives 6x6, .* was built for 8x8\b"):
        run.prepare(config.override(config.default(), [*base, ("model.name", "mlp")]))
    run.prepare(config.override(config.default(), [*base, ("model.name", "convnet2d")]))
