"""A small multi-layer perceptron on the embedded breast_cancer data."""

from zoo.config import default


def get_config():
    config = default()
    config.model = {"name": "mlp", "widths": (32,)}
    config.data.update(name="breast_cancer", batch_size=32, test=0.2)
    config.optim.update(name="adamw", lr=1e-2, weight_decay=0.1)
    config.schedule.update(name="one_cycle")
    config.total_steps = 400
    config.eval_every_percent = 50
    return config
