"""Everything that moves pixels against a slow loop over pixels in NumPy, with and without label maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from zoo.data import augment, geometry

B, H, W = 24, 9, 7
WARPS = {"rotate": 60.0, "elastic": 1.0, "random_resized_crop": 0.3, "translate": 0.4, "zoom": 0.5}


def apply(settings, batch, seed=0):
    """The batch as augmented; not compiled as a whole, which takes longer than all these tests."""
    return jax.device_get(augment.make(settings)(jax.random.key(seed), jax.device_put(batch)))


def own_key(seed=0):
    """What `make` gives to an augmentation that is alone."""
    return jax.random.split(jax.random.key(seed))[1]


def images(h=H, w=W, b=B, c=2):
    return np.random.default_rng(0).integers(1, 256, size=(b, h, w, c)).astype(np.uint8)


def coordinates(h=H, w=W, b=B):
    """Images whose two channels are the row and the column."""
    return np.tile(np.stack(np.mgrid[:h, :w], -1).astype(np.float32), (b, 1, 1, 1))


def with_maps(h=H, w=W, b=B):
    """Images of coordinates and of noise, label maps that number the pixels, and weights."""
    rng = np.random.default_rng(1)
    return {
        "image": np.concatenate([coordinates(h, w, b), images(h, w, b)], -1),
        "label": np.tile(np.arange(h * w, dtype=np.uint8).reshape(h, w), (b, 1, 1)),
        "weight": rng.random((b, h, w)).astype(np.float32),
    }


def sampled(image, rows, columns):
    """Bilinear at (rows[i, j], columns[i, j]); every neighbour outside the image is 0."""
    (h, w), out = image.shape[:2], np.zeros((*rows.shape, *image.shape[2:]))
    for i, j in np.ndindex(rows.shape):
        r, c = rows[i, j], columns[i, j]
        for y in (int(np.floor(r)), int(np.floor(r)) + 1):
            for x in (int(np.floor(c)), int(np.floor(c)) + 1):
                if 0 <= y < h and 0 <= x < w:
                    out[i, j] += (1 - abs(r - y)) * (1 - abs(c - x)) * image[y, x]
    return out


def check_maps_moved_together(batch, found):
    """Images, weights and labels come from the places that the images of coordinates show."""
    w = batch["label"].shape[2]
    assert found["label"].dtype == batch["label"].dtype
    assert found["weight"].dtype == np.float32
    for k in range(len(batch["label"])):
        rows, columns = found["image"][k, ..., 0].astype(float), found["image"][k, ..., 1].astype(float)
        wanted = sampled(batch["image"][k, ..., 2:], rows, columns)
        np.testing.assert_allclose(found["image"][k, ..., 2:], wanted, atol=0.05)
        np.testing.assert_allclose(found["weight"][k], sampled(batch["weight"][k], rows, columns), atol=1e-3)
        row, column = np.divmod(found["label"][k].astype(int), w)
        for nearest, place in ((row, rows), (column, columns)):
            assert np.abs(nearest - place).max() <= 0.5 + 1e-4


# --- without interpolation ---------------------------------------------------------------------------------------

EXACT = {
    "flip": lambda x, i, j: x[i, len(x[0]) - 1 - j],
    "flip_vertical": lambda x, i, j: x[len(x) - 1 - i, j],
    "transpose": lambda x, i, j: x[j, i],
}


@pytest.mark.parametrize("name", EXACT)
def test_flips_and_transpose(name):
    batch = with_maps(W, W)
    batch["image"] = batch["image"].astype(np.uint8)
    found = apply({name: 0.3}, batch)
    choices = []
    for k in range(B):
        changed = {}
        for key in batch:
            wanted = np.zeros_like(batch[key][k])
            for i, j in np.ndindex(W, W):
                wanted[i, j] = EXACT[name](batch[key][k], i, j)
            changed[key] = wanted
        fits = [
            all((found[key][k] == x[key]).all() for key in batch) for x in (changed, {q: batch[q][k] for q in batch})
        ]
        assert sorted(fits) == [False, True]  # all of an example, or nothing
        choices.append(fits[0])
    assert 0 < sum(choices) < B
    assert all(found[key].dtype == batch[key].dtype for key in batch)
    two = np.tile(np.uint8([[1, 2], [3, 4]])[None, ..., None], (4_000, 1, 1, 1))
    many = apply({name: 0.3}, {"image": two})["image"]
    assert (many != two).any((1, 2, 3)).mean() == pytest.approx(0.3, abs=0.03)
    assert (apply({name: 1.0}, {"image": two})["image"] != two).any((1, 2, 3)).all()


def moved(image, down, right, *, mirrored=False):
    """Shifted by whole pixels, pixel by pixel; 0 comes in, or what a mirror at the border pixels shows."""
    out = np.zeros_like(image)
    rows, columns = (np.pad(np.arange(n), n - 1, mode="reflect") for n in (H, W))
    for i, j in np.ndindex(H, W):
        if mirrored:
            out[i, j] = image[rows[i + down + H - 1], columns[j + right + W - 1]]
        elif 0 <= i + down < H and 0 <= j + right < W:
            out[i, j] = image[i + down, j + right]
    return out


def test_shift():
    """Whole pixels, so exact: every image is one of the 25 that the loop makes of it."""
    batch, offsets = {"image": images()}, set()
    found = apply({"shift": 2}, batch)["image"]
    assert found.dtype == np.uint8
    every = [(d, r) for d in range(-2, 3) for r in range(-2, 3)]
    for image, result in zip(batch["image"], found, strict=True):
        fits = [offset for offset in every if (moved(image, *offset) == result).all()]
        assert len(fits) == 1
        offsets.add(fits[0])
    assert len(offsets) > 8
    many = apply({"shift": 2}, {"image": np.tile(batch["image"][:1], (1_000, 1, 1, 1))})["image"]
    counts = [(many == moved(batch["image"][0], *offset)[None]).all((1, 2, 3)).sum() for offset in every]
    assert sum(counts) == 1_000
    assert min(counts) > 15  # 40 expected: each offset is as likely, the largest included


def test_shift_of_label_maps():
    batch = with_maps()
    found = apply({"shift": 3}, batch)
    every = [(d, r) for d in range(-3, 4) for r in range(-3, 4)]
    for k in range(B):
        fits = [o for o in every if (moved(batch["label"][k], *o, mirrored=True) == found["label"][k]).all()]
        assert len(fits) == 1
        for key in batch:
            assert found[key].dtype == batch[key].dtype
            np.testing.assert_array_equal(found[key][k], moved(batch[key][k], *fits[0], mirrored=True))


def test_the_largest_shift_shows_only_the_outside():
    found = apply({"shift": W}, {"image": images(b=500)})["image"]
    assert (found[:, :, 0] == 0).all((1, 2)).mean() > 0.4
    assert (found == 0).all((1, 2, 3)).any()


@pytest.mark.parametrize("side", [1, 4, W])
def test_crop(side):
    batch, places = with_maps(b=200), set()
    batch["image"] = batch["image"].astype(np.uint8)
    found = apply({"crop": side}, batch)
    for k in range(200):
        top, left = divmod(int(found["label"][k, 0, 0]), W)
        for key in batch:
            assert found[key].dtype == batch[key].dtype
            window = [[batch[key][k, top + i, left + j] for j in range(side)] for i in range(side)]
            np.testing.assert_array_equal(found[key][k], window)
        places.add((top, left))
    every = (H - side + 1) * (W - side + 1)
    assert len(places) == every if every < 40 else len(places) > 0.8 * every


# --- one map at a time -------------------------------------------------------------------------------------------


def test_zoom():
    """The drawn factors are read from images that hold their own coordinates, then the loop must agree."""
    batch = {"image": images()}
    found, places = (apply({"zoom": 0.3}, {"image": x})["image"] for x in (batch["image"], coordinates()))
    centre, factors = np.array([(H - 1) / 2, (W - 1) / 2]), []
    for image, place, result in zip(batch["image"], places, found, strict=True):
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


def drawn_angles(number, degrees):
    drawn = jax.random.uniform(own_key(), (number, 1, 1), minval=-degrees, maxval=degrees)
    return np.deg2rad(np.float64(drawn).ravel())


def test_rotate_is_a_rotation():
    """As scipy turns a smooth image, to the 1 % that linear interpolation costs."""
    y, x = np.mgrid[:51, :51] - 25
    smooth = 200 * np.exp(-((x - 4) ** 2 + (y + 3) ** 2) / 60) + 100 * np.exp(-((x + 5) ** 2 + (y - 4) ** 2) / 40)
    found = apply({"rotate": 30.0}, {"image": np.tile(np.float32(smooth)[None, ..., None], (8, 1, 1, 1))})["image"]
    angles = np.rad2deg(drawn_angles(8, 30))
    assert np.ptp(angles) > 20
    for result, angle in zip(found[..., 0], angles, strict=True):  # scipy turns the other way
        np.testing.assert_allclose(result, ndimage.rotate(smooth, -angle, reshape=False, order=3), atol=0.01 * 200)


def rotated(rows, columns, angle):
    y, x = rows - (H - 1) / 2, columns - (W - 1) / 2
    down = np.cos(angle) * y - np.sin(angle) * x + (H - 1) / 2
    return down, np.sin(angle) * y + np.cos(angle) * x + (W - 1) / 2


def test_rotate_is_bilinear():
    batch = {"image": images()}
    found = apply({"rotate": 180.0}, batch)["image"]
    for image, result, angle in zip(batch["image"], found, drawn_angles(B, 180), strict=True):
        wanted = sampled(image, *rotated(*np.mgrid[:H, :W], angle))
        np.testing.assert_allclose(result, wanted, atol=0.05)


@pytest.mark.parametrize("side", [4, 5])
def test_rotate_by_a_right_angle_is_exact(side, monkeypatch):
    batch = {"image": images(side, side, 2, 3)}
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, minval, maxval: np.full(shape, maxval, np.float32))
    found = augment.make({"rotate": 90.0})(jax.random.key(0), batch)["image"]
    np.testing.assert_allclose(found, np.rot90(batch["image"], -1, (1, 2)), atol=1e-3)


def test_translate():
    """By parts of pixels, each axis on its own, up to the given fraction of its size."""
    fraction, batch = 0.25, {"image": images()}
    offsets = np.float64(jax.random.uniform(own_key(), (2, B, 1, 1), minval=-fraction, maxval=fraction))[..., 0, 0]
    found = apply({"translate": fraction}, batch)["image"]
    for image, result, down, right in zip(batch["image"], found, offsets[0] * H, offsets[1] * W, strict=True):
        wanted = sampled(image, *np.mgrid[:H, :W] + np.array([down, right])[:, None, None])
        np.testing.assert_allclose(result, wanted, atol=0.05)
    seen = apply({"translate": fraction}, {"image": coordinates(41, 61, 400)})["image"]
    down, right = seen[:, 20, 30, 0] - 20, seen[:, 20, 30, 1] - 30
    for moves, size in ((down, 41), (right, 61)):
        assert np.abs(moves).max() == pytest.approx(fraction * size, rel=0.02)
        assert np.abs(moves).max() <= fraction * size
        assert np.abs(moves - np.round(moves)).mean() == pytest.approx(0.25, abs=0.05)
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.15


@pytest.mark.parametrize("smallest", [0.2, 0.6])
def test_random_resized_crop(smallest):
    """The window of each image is read from its coordinates; then the loop must agree, and the windows be as asked."""
    h, w, n = 24, 30, 300
    batch = {"image": np.concatenate([coordinates(h, w, n), images(h, w, n, 1)], -1)}
    found, windows = apply({"random_resized_crop": smallest}, batch)["image"], []
    for k in range(n):
        window = []
        for size, places in ((h, found[k, :, w // 2, 0]), (w, found[k, h // 2, :, 1])):
            middle = size // 2
            slope = (places[middle + 4] - places[middle - 4]) / 8.0
            start = places[middle] + 0.5 - slope * (middle + 0.5)
            window += [slope * size, start]
        height, top, width, left = window
        windows.append((height, width))
        assert -0.01 <= top <= h - height + 0.01
        assert -0.01 <= left <= w - width + 0.01
        if k < 8:
            rows = np.clip(top + (np.arange(h) + 0.5) * height / h - 0.5, 0, h - 1)
            columns = np.clip(left + (np.arange(w) + 0.5) * width / w - 0.5, 0, w - 1)
            wanted = sampled(batch["image"][k, ..., 2:], *np.meshgrid(rows, columns, indexing="ij"))
            np.testing.assert_allclose(found[k, ..., 2:], wanted, atol=0.1)
    height, width = np.array(windows).T
    whole = (height < h - 0.01) & (width < w - 0.01)  # neither side was cut to the image
    share, ratio = (height * width / (h * w))[whole], (width / height)[whole]
    assert smallest - 0.01 < share.min() < smallest + 0.05
    assert 0.75 - 0.01 < ratio.min() < 0.8
    assert 1.25 < ratio.max() < 4 / 3 + 0.01
    if smallest == 0.2:  # windows of less than half the image are never cut
        small = share < 0.5
        assert share[small].mean() == pytest.approx((0.2 + 0.5) / 2, abs=0.03)
        assert np.log(ratio[small]).mean() == pytest.approx(0, abs=0.05)


def spline(values, t):
    """Through 3 values at 0, 1, 2 with the slopes (next - previous) / 2, as Hermite's cubics; the ends repeated."""
    p = [values[0], *values, values[-1]]
    k = min(int(t), 1)
    u, a, b = t - k, p[k + 1], p[k + 2]
    slope_a, slope_b = (p[k + 2] - p[k]) / 2, (p[k + 3] - p[k + 1]) / 2
    return (
        (2 * u**3 - 3 * u**2 + 1) * a
        + (u**3 - 2 * u**2 + u) * slope_a
        + (3 * u**2 - 2 * u**3) * b
        + (u**3 - u**2) * slope_b
    )


def fields(number, h, w, std):
    """[number, 2, h, w]: the moves at 3 x 3 points, interpolated along the rows and then along the columns."""
    points = std * np.float64(jax.random.normal(own_key(), (2, number, 3, 3)))
    out = np.zeros((number, 2, h, w))
    for k, axis, i, j in np.ndindex(*out.shape):
        along = [spline(points[axis, k, q], 2 * j / (w - 1)) for q in range(3)]
        out[k, axis, i, j] = spline(along, 2 * i / (h - 1))
    return out


def test_elastic():
    batch = {"image": images()}
    found = apply({"elastic": 1.2}, batch)["image"]
    for image, result, field in zip(batch["image"], found, fields(B, H, W, 1.2), strict=True):
        np.testing.assert_allclose(result, sampled(image, *(np.mgrid[:H, :W] + field)), atol=0.05)


def test_elastic_moves_by_its_deviation():
    """Read at the centre, one of the 3 x 3 points, and far enough from the border."""
    std = 2.0
    seen = apply({"elastic": std}, {"image": coordinates(41, 41, 600)})["image"]
    moves = seen[:, 20, 20] - 20
    assert moves.std(0) == pytest.approx([std, std], rel=0.1)
    assert moves.mean(0) == pytest.approx([0, 0], abs=0.15 * std)


# --- label maps and compositions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WARPS)
def test_label_maps_move_with_their_images(name):
    batch = with_maps()
    found = apply({name: WARPS[name]}, batch)
    check_maps_moved_together(batch, found)
    plain = apply({name: WARPS[name]}, {"image": batch["image"]})["image"]
    places = plain[..., :2]
    inside = (plain[..., 2:] == found["image"][..., 2:]).all(-1)
    assert 0.2 < inside.mean() <= 1  # the same map: only the outside differs
    np.testing.assert_allclose(places[inside], found["image"][..., :2][inside], atol=1e-4)


def folded(places, size):
    """Where a mirror in the middle of the border pixels shows these places."""
    out = np.array(places, float)
    for index in np.ndindex(out.shape):
        while not 0 <= out[index] <= size - 1:
            out[index] = -out[index] if out[index] < 0 else 2 * (size - 1) - out[index]
    return out


def test_outside_of_label_maps_is_mirrored():
    """A turn by up to 180 degrees sees much of the outside, of a high image even beyond the first mirror."""
    batch = with_maps()
    found = apply({"rotate": 180.0}, batch)
    beyond = 0
    for k, angle in enumerate(drawn_angles(B, 180)):
        rows, columns = rotated(*np.mgrid[:H, :W], angle)
        beyond += ((columns < 0) | (columns > W - 1)).sum()
        wanted = np.stack([folded(rows, H), folded(columns, W)], -1)
        np.testing.assert_allclose(found["image"][k, ..., :2], wanted, atol=1e-3)
    assert beyond > 50


def test_far_outside_is_mirrored_again():
    places = jnp.linspace(-40, 40, 161)[None, :, None]
    for size in (1, 2, 5, 9):
        wanted = folded(places, size) if size > 1 else np.zeros_like(places)
        np.testing.assert_allclose(geometry._mirrored(places, size), wanted, atol=1e-5)


def test_a_map_of_one_row():
    batch = {"image": images(1, 6, 3), "label": np.zeros((3, 1, 6), np.int32)}
    assert np.isfinite(apply({"rotate": 90.0, "elastic": 2.0}, batch)["image"]).all()


def test_labels_keep_their_type_and_values():
    batch = with_maps()
    batch["label"] = np.random.default_rng(2).choice([0, 1, 255], size=(B, H, W)).astype(np.int16)  # 255: not labelled
    found = apply({**WARPS, "flip": 0.5, "shift": 1, "crop": 5}, batch)
    assert found["label"].dtype == np.int16
    assert found["label"].shape == found["weight"].shape == (B, 5, 5)
    assert set(np.unique(found["label"])) == {0, 1, 255}


def test_warps_are_interpolated_once():
    """Together they take every pixel from where the maps, one after the other, say it comes from."""
    settings = {"rotate": 40.0, "elastic": 0.7, "random_resized_crop": 0.5, "translate": 0.2}
    batch = with_maps()
    found = apply(settings, batch)
    check_maps_moved_together(batch, found)
    key, shape, keys = jax.random.key(0), (B, H, W), {}
    for name in settings:
        key, keys[name] = jax.random.split(key)
    rows, columns = (np.arange(n, dtype=np.float32).reshape(s) for n, s in ((H, (1, H, 1)), (W, (1, 1, W))))
    for name in ("translate", "random_resized_crop", "elastic", "rotate"):
        rows, columns = getattr(geometry, name)(keys[name], rows, columns, shape, settings[name])
    for k in range(0, B, 6):
        wanted = np.stack([folded(rows[k], H), folded(columns[k], W)], -1)
        np.testing.assert_allclose(found["image"][k, ..., :2], wanted, atol=1e-3)


def test_rows_over_devices(mesh):
    """The same, and still spread, when the batch lies on all devices."""
    from zoo.data import feed

    batch, settings = with_maps(), {**WARPS, "flip": 0.5, "shift": 1, "crop": 5}
    spread = jax.device_put(batch, feed.sharded(mesh))
    found = jax.jit(augment.make(settings))(jax.random.key(0), spread)
    for key, value in apply(settings, batch).items():
        np.testing.assert_allclose(found[key], value, atol=1e-3)
        assert len({str(shard.index) for shard in found[key].addressable_shards}) == mesh.size
