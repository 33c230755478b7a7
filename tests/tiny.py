"""A recipe for tests: a second of training that uses every kind of state (moments, batch statistics, averages)."""

from zoo.config import default


def get_config():
    config = default()
    config.model = {"name": "mlp", "widths": (32,), "norm": "batch", "dropout": 0.1}
    config.data.update(name="digits", batch_size=128, validation=0.1, test=0.1)
    config.data.augment.update(shift=1)
    config.optim.update(name="adamw", lr=1e-2, weight_decay=1e-2)
    config.schedule.update(name="cosine", warmup_steps=5)
    config.total_steps = 60
    config.eval_every_steps = 10
    config.log_every_steps = 7
    config.checkpoint.every_steps = 6
    config.averaging = {"name": "ema", "decay": 0.9}
    return config
