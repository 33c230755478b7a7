"""Words in Morse code to letters, without being told where a letter begins (Graves et al. 2006).

    python train.py --config configs/morse_words.py

Of the letters of the test words 0.85 +- 0.29 % are wrong, missing or superfluous, and 97.5 +- 0.9 % of the words (1 to
5 letters) are right, over the seeds 0 to 2, 61 s each on 2 cores of an AMD EPYC (CPU).
"""

from zoo.config import default


def get_config():
    config = default()
    config.model = {"name": "lstm_classifier", "width": 64, "pool": "none"}
    config.task = {"name": "transcription"}
    config.data.update(name="morse_words", batch_size=100)
    config.optim.update(name="adamw", lr=1e-2, weight_decay=0.01, clip_global_norm=1.0)
    config.schedule.update(name="cosine", warmup_percent=5)
    config.total_epochs = 10
    return config
