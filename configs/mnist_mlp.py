"""A multi-layer perceptron with dropout on MNIST, without augmentation: the order of the pixels does not matter."""

from zoo.config import default


def get_config():
    config = default()
    config.model = {"name": "mlp", "widths": (512, 512), "dropout_input": 0.1, "dropout": 0.3}
    config.data.update(name="mnist", batch_size=128)
    config.data.augment.update(shift=1)
    config.optim.update(name="adamw", lr=2e-3, weight_decay=0.05)
    config.schedule.update(name="one_cycle")
    config.total_epochs = 40
    config.eval_every_percent = 20
    config.ema = 0.998
    return config
