"""Overlap-tile prediction: every pixel once, at its place, and no seams."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import rules, tiling
from zoo.errors import UserError
from zoo.models import unet
from zoo.tiling import predict

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # these run once: quicker in all


def images(*shape, seed=0):
    return np.float32(np.random.default_rng(seed).standard_normal(shape))


def blurred(x):
    """What looks 2 pixels up and left and 1 down, with zeros at its border, as padded convolutions."""
    y = jnp.pad(x, ((0, 0), (2, 1), (2, 0), (0, 0)))
    return y[:, 2:-1, 2:] + 2 * y[:, :-3, :-2] + 3 * y[:, 3:, 2:]


def valid_blurred(x):
    return x[:, 2:-2, 2:-2] + 2 * x[:, :-4, :-4] + 3 * x[:, 3:-1, 2:-2]


@pytest.mark.parametrize("tile, margin, batch_size", [(8, 2, 4), (7, 3, 1), (32, 2, 3), (9, 2, 2)])
@pytest.mark.parametrize("shape", [(2, 21, 13, 2), (1, 8, 8, 1), (3, 3, 5, 1), (1, 1, 9, 2)])
def test_tiles_are_put_together(shape, tile, margin, batch_size):
    """Against NumPy's mirroring and one pass over the whole image."""
    x = images(*shape)
    wanted = [np.asarray(valid_blurred(np.pad(im, ((2, 2), (2, 2), (0, 0)), mode="reflect")[None])[0]) for im in x]
    shapes = []
    for apply in (blurred, valid_blurred):
        found = list(
            predict(
                lambda t, f=apply: shapes.append(t.shape) or f(t), x, tile=tile, margin=margin, batch_size=batch_size
            )
        )
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        assert set(shapes) == {(batch_size, tile, tile, shape[-1])}


def test_images_of_different_sizes_share_batches():
    x = [images(9, 5, 1), images(3, 3, 1, seed=1), images(1, 1, 1, seed=2), images(20, 14, 1, seed=3)]
    together = list(predict(blurred, x, tile=8, margin=2, batch_size=5))
    for a, im in zip(together, x, strict=True):
        assert a.shape == im.shape
        np.testing.assert_allclose(a, next(predict(blurred, [im], tile=10, margin=2)), rtol=1e-5, atol=1e-6)
    assert list(predict(blurred, [], tile=8)) == []


def test_images_come_as_they_are_done():
    calls = []
    found = predict(lambda x: calls.append(1) or x, images(3, 8, 8, 1), tile=8, batch_size=1)
    before = len(calls)
    next(found)
    assert len(calls) - before == 2  # the next image's first tile shows that the first image is done


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_mirroring(size):
    index = np.arange(-20, 30)
    wanted = np.pad(np.arange(size), (20, 30 - size), mode="reflect")
    np.testing.assert_array_equal(tiling._mirrored(index, size), wanted)


def test_tiles_start_on_the_grid_of_the_poolings():
    """A network that is not translation invariant: the place modulo 4 within its input is what it gives."""

    def place(x):
        rows, columns = (jnp.arange(side) % 4 for side in x.shape[1:3])
        one = (10 * rows[:, None] + columns[None])[None, :, :, None]
        return jnp.broadcast_to(one, x.shape)

    image = images(30, 23, 1)
    wanted = np.asarray(place(image[None]))[0]
    for tile, margin in ((16, 0), (20, 3), (18, 4), (40, 5)):
        np.testing.assert_array_equal(next(predict(place, [image], tile=tile, margin=margin, multiple=4)), wanted)


def network(variant, **options):
    model = unet.make(variant, num_classes=3, width=2, activation="elu", **options)  # no unit is dead
    size = 44
    shapes = jax.eval_shape(model.init, {"params": jax.random.key(0)}, np.zeros((1, size, size, 1), np.float32))
    normal = np.random.default_rng(3).standard_normal

    def draw(path, s):  # as at the start of training, and no bias is 0
        if rules.path_of(path).endswith(("var", "scale")):
            return np.ones(s.shape, np.float32)
        return np.float32(normal(s.shape) * (2 / max(np.prod(s.shape[:-1]), 20)) ** 0.5)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    return model, jit(lambda x: model.apply(variables, x))


@pytest.mark.parametrize(
    "variant, options, tiles",
    [
        ("same", {"depth": 2}, (64, 76)),
        ("same", {"depth": 1, "up": "transpose"}, (26, 50)),
        ("2015", {"depth": 2}, (44, 60)),
        ("2015", {"depth": 1, "up": "resize"}, (22, 50)),
    ],
)
def test_no_seams_in_a_unet(variant, options, tiles):
    model, apply = network(variant, **options)
    margin, step = unet.receptive_radius(model) if model.padding == "same" else 0, 2**model.depth
    x = [images(50, 37, 1)]
    first, *others = (next(predict(apply, x, tile=tile, margin=margin, multiple=step, batch_size=2)) for tile in tiles)
    assert first.shape == (50, 37, 3)
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-4, atol=1e-5)
    if model.padding == "same":
        # The whole image at once is the same away from the border, where it has zeros in place of the mirror image.
        whole = np.asarray(apply(np.pad(x[0], ((0, 30), (0, 43), (0, 0)), mode="reflect")[None]))[0]
        np.testing.assert_allclose(first[margin:, margin:], whole[margin:50, margin:37], rtol=1e-4, atol=1e-5)
        less = next(predict(apply, x, tile=20, margin=step, multiple=step, batch_size=2))
        assert np.abs(less - first).max() > 1e-3  # the margin is what it takes
    else:
        lost = unet.shrinkage(model) // 2
        fit = [lost + (-size - 2 * lost - 4) % step for size in (50, 37)]
        whole = apply(np.pad(x[0], ((lost, fit[0]), (lost, fit[1]), (0, 0)), mode="reflect")[None])
        np.testing.assert_allclose(first, np.asarray(whole)[0, :50, :37], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options, line",
    [
        ({"tile": 0}, r"tiling: tile is 0; it must be at least 1"),
        ({"margin": -1}, r"tiling: margin is -1; it must be at least 0"),
        ({"multiple": 0}, r"tiling: multiple is 0"),
        ({"batch_size": 0}, r"tiling: batch_size is 0"),
        ({"margin": 4}, r"nothing is left of a tile of 8 pixels with 4 of context on each side; it must be at least 9"),
        ({"margin": 1, "multiple": 4}, r"nothing is left of a tile of 8 .* it must be at least 12"),
    ],
)
def test_mistakes(options, line):
    with pytest.raises(UserError, match=line) as error:
        predict(blurred, images(1, 8, 8, 1), **{"tile": 8} | options)
    assert "\n" not in str(error.value)


def test_inputs_and_outputs_that_do_not_fit():
    with pytest.raises(UserError, match=r"tiling: image 1 has shape \(4, 4, 2\); it must be \[H, W, 1\]"):
        predict(blurred, [images(4, 4, 1), images(4, 4, 2)], tile=8)
    with pytest.raises(UserError, match=r"tiling: image 0 has shape \(8, 8\)"):
        predict(blurred, images(1, 8, 8), tile=8)
    for apply in (lambda x: x.mean((1, 2)), lambda x: x[:, ::2, ::2, 0], lambda x: x[:, 1:], lambda x: x[:, 1:, 1:]):
        with pytest.raises(UserError, match=r"tiling: tiles of shape \(4, 8, 8, 1\) give logits of shape"):
            predict(apply, images(1, 8, 8, 1), tile=8)
