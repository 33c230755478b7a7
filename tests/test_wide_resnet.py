"""Wide residual networks: their counts, and what they are made of."""

import jax
import numpy as np
import pytest

from zoo import create_model
from zoo.errors import UserError
from zoo.models import resnet, wide_resnet

# 10 classes; table 1 and 4 of the paper give the same in millions.
PARAMETERS = {
    "wrn16_2": 691_674,
    "wrn16_4": 2_748_890,
    "wrn16_8": 10_961_370,
    "wrn16_10": 17_116_634,
    "wrn22_8": 17_158_106,
    "wrn28_2": 1_467_610,
    "wrn28_10": 36_479_194,
    "wrn28_12": 52_517_850,
    "wrn40_2": 2_243_546,
    "wrn40_4": 8_949_210,
    "wrn40_8": 35_748_314,
}


def params_of(name, **options):
    x = np.zeros((1, 32, 32, 3), np.float32)
    return jax.eval_shape(create_model(name, **options).init, {"params": jax.random.key(0)}, x)["params"]


def test_parameters():
    assert PARAMETERS.keys() == wide_resnet.VARIANTS.keys()
    found = {name: sum(leaf.size for leaf in jax.tree.leaves(params_of(name))) for name in PARAMETERS}
    assert found == PARAMETERS


@pytest.mark.parametrize("name", PARAMETERS)
def test_depth_and_width(name):
    """WRN-d-k: d is the number of convolutions; table 1 has the widths."""
    depth, k = map(int, name.removeprefix("wrn").split("_"))
    params = params_of(name)
    convolutions = [key for block in params.values() for key in block if key.startswith(("conv", "proj"))]
    assert len(convolutions) + len(["stem"]) == depth
    assert params["stem"]["kernel"].shape == (3, 3, 3, 16)
    assert [params[f"layer{i}_0"]["conv2"]["kernel"].shape[-1] for i in (1, 2, 3)] == [16 * k, 32 * k, 64 * k]
    assert [stage.stride for stage in create_model(name).stages] == [1, 1, 2, 4]


def test_it_is_a_residual_network_with_settings():
    by_hand = resnet.ResNet(
        depths=(4, 4, 4), width=160, stem="3x3", stem_width=16, preactivation=True, block_dropout=0.3, num_classes=100
    )
    assert create_model("wrn28_10", block_dropout=0.3, num_classes=100) == by_hand


def test_unknown_variant():
    with pytest.raises(UserError, match=r"unknown wide_resnet variant 'wrn28_11'; did you mean 'wrn28_1"):
        wide_resnet.make("wrn28_11")
