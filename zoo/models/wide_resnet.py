"""Wide residual networks for 32x32 images (Zagoruyko & Komodakis 2016, "Wide residual networks", arXiv:1605.07146).

WRN-d-k has d layers, of which 6n + 4 are counted: the stem, 3 groups of n blocks of two 3x3 convolutions, and the 3
projections; the groups have 16k, 32k and 64k channels. It is `zoo.models.resnet.ResNet` with preactivation;
`block_dropout` is the paper's dropout between the convolutions (0.3 on CIFAR, 0.4 on SVHN; section 2.4).

| model | parameters, 10 classes | published test error on CIFAR-10 |
|---|--:|--:|
| wrn16_4 | 2,748,890 | |
| wrn16_8 | 10,961,370 | 4.27 % |
| wrn28_10 | 36,479,194 | 4.00 %, with dropout 3.89 % |
| wrn40_2 | 2,243,546 | |
| wrn40_4 | 8,949,210 | 4.53 % |

Input: images [B, H, W, C] of any size.
"""

from zoo.errors import lookup
from zoo.models.resnet import ResNet

DEPTHS_AND_KS = (
    (16, 2), (16, 4), (16, 8), (16, 10), (22, 8), (28, 2), (28, 10), (28, 12), (40, 2), (40, 4), (40, 8),
)  # fmt: skip
VARIANTS = {f"wrn{d}_{k}": {"depths": ((d - 4) // 6,) * 3, "width": 16 * k} for d, k in DEPTHS_AND_KS}
COMMON = {"stem": "3x3", "stem_width": 16, "preactivation": True, "num_classes": 10}


def make(variant: str, **options) -> ResNet:
    """The wide residual network called `variant` in `VARIANTS`; further options are those of `ResNet`."""
    return ResNet(**COMMON | lookup("wide_resnet variant", variant, VARIANTS) | options)
