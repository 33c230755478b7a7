"""Let the language model of a run folder, or of a file of `zoo.save_weights`, go on writing, on the terminal.

python scripts/generate.py runs/shakespeare_lstm --prompt="ROMEO:" --temperature=0.8 --length=500
"""

import itertools

from absl import flags

import zoo
from zoo import cli, sampling
from zoo.data import text
from zoo.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string("prompt", "", "What it goes on from; empty: the start of a line.")
flags.DEFINE_integer("length", 500, "Characters, or words, to write.")
flags.DEFINE_float("temperature", 1.0, "Below 1: safer; above: wilder; 0: always the likeliest.")
flags.DEFINE_integer("top_k", 0, "Only among the k likeliest; 0: all.")
flags.DEFINE_float("top_p", 1.0, "Only among the likeliest that have this probability together.")
flags.DEFINE_integer("seed", 0, "Another one, another text.")


def load(source: str):
    """(model, params, vocabulary) of a run folder or a file."""
    model, variables, info = zoo.load_model(source)
    if info.get("task") != "language_model":
        raise UserError(f"{source} was trained for {info.get('task')}; only a language_model generates text")
    if not info.get("vocab"):
        raise UserError(f"{source} does not say its vocabulary; train it again")
    return model, variables["params"], info["vocab"]


def main(overrides, folders):
    if overrides or len(folders) != 1:
        raise UserError("name one run folder, such as runs/shakespeare_lstm")
    if FLAGS.length < 1:
        raise UserError(f"--length is {FLAGS.length}; it must be at least 1")
    sampling.check(FLAGS.temperature, FLAGS.top_k, FLAGS.top_p)
    model, params, vocab = load(folders[0])
    words = text.EOS in vocab
    prompt = FLAGS.prompt.split() if words else list(FLAGS.prompt)
    unknown = [token for token in prompt if token not in vocab]
    if unknown and text.UNK not in vocab:
        raise UserError(f"--prompt: the model does not know {unknown[0]!r}; known: {''.join(sorted(vocab))!r}")
    ids = text.encode([text.EOS if words else "\n", *prompt], vocab)
    print(FLAGS.prompt, end=" " if words and prompt else "", flush=True)
    tokens = sampling.generate(
        model, params, ids, seed=FLAGS.seed, temperature=FLAGS.temperature, top_k=FLAGS.top_k, top_p=FLAGS.top_p
    )
    for token in itertools.islice(tokens, FLAGS.length):
        word = vocab[token]
        print("\n" if word == text.EOS else f"{word} " if words else word, end="", flush=True)
    print()


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)
