"""A character LSTM (2 layers of 512) on tinyshakespeare; the last 10 % are held out.

    python train.py --config configs/shakespeare_lstm.py
    python scripts/generate.py runs/shakespeare_lstm --prompt="ROMEO:" --temperature=0.8

Seed 0 alone was measured: 1.688 nats per character on the test part, 1.564 on the validation part before it; 23 minutes
on 2 cores of an AMD EPYC (CPU) that other work shared.
"""

from zoo.config import default


def get_config():
    config = default()
    config.model = {
        "name": "lstm_lm", "width": 512, "depth": 2, "embed_dim": 128, "forget_bias": 1.0, "dropout": 0.4,
        "dtype": "bfloat16",
    }  # fmt: skip
    config.task = {"name": "language_model"}
    config.data.update(name="tinyshakespeare", batch_size=32, length=64, validation=0.0, eval_batch_size=50)
    config.optim.update(name="adamw", lr=2e-3, weight_decay=0.01, clip_global_norm=1.0)
    config.schedule.update(name="cosine", warmup_percent=5)
    config.averaging = {"name": "ema", "decay": 0.999}
    config.total_epochs = 20
    config.eval_every_percent = 10
    return config
