"""A character LSTM (2 layers of 512) on tinyshakespeare; the last 10 % are held out.

    python train.py --config configs/shakespeare_lstm.py
    python scripts/generate.py runs/shakespeare_lstm --prompt="ROMEO:" --temperature=0.8

1.442 +- 0.006 nats per character on the test part over the seeds 0 to 2; 25 to 39 minutes on 2 cores of an AMD EPYC
(CPU with AVX512_BF16) of which other work took a third and more.
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
