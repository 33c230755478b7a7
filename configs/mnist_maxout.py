"""Maxout with dropout and max-norm weights on MNIST, permutation invariant: no augmentation, no convolution.

    python train.py --config configs/mnist_maxout.py

Goodfellow et al. 2013 (arXiv:1302.4389, section 5.1): two layers of 240 units with 5 pieces, dropout, and an upper
bound on the norm of each unit's incoming weights; test error 0.94 %. Here with Nesterov momentum and
one cycle of the learning rate.
"""

from zoo.config import default


def get_config():
    config = default()
    config.model = {
        "name": "mlp",
        "widths": (240, 240),
        "activation": "maxout",
        "pieces": 5,
        "dropout_input": 0.2,
        "dropout": 0.5,
    }
    config.regularize.constraints = (("max_norm", ".*kernel", 1.9365),)
    config.data.update(name="mnist", batch_size=128, normalize="none")
    config.optim.update(name="sgd", lr=0.1, momentum=0.9, nesterov=True)
    config.schedule.update(name="one_cycle")
    config.total_epochs = 60
    config.eval_every_percent = 10
    config.averaging = {"name": "ema", "decay": 0.998}
    return config
