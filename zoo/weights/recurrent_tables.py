"""Tables for LSTM, GRU and tanh RNN of PyTorch, and for TensorFlow's BasicLSTMCell; Keras has `keras_tables`.

All put the gates of a layer side by side: PyTorch as ours do (i, f, g, o), BasicLSTMCell as i, j, f, o.
"""

import re
from collections.abc import Mapping, Sequence

import flax.linen as nn

from zoo.weights.rules import Rule, Table
from zoo.weights.transforms import (
    SAME,
    TIED,
    TORCH,
    TORCH_BIASES,
    tensorflow_bias,
    tensorflow_input_kernel,
    tensorflow_recurrent_kernel,
)


def candidates(model: nn.Module, paths: Mapping[str, str], names: Sequence[str]) -> list[Table]:
    if not any(path.startswith("recurrent/") for path in paths):
        return []
    return [pytorch(model, paths, names), tensorflow(names)]


def pytorch(model: nn.Module, paths: Mapping[str, str], names: Sequence[str]) -> Table:
    """nn.LSTM, nn.GRU or nn.RNN between an nn.Embedding and an nn.Linear, whatever they are called.

    Without names (an export) they are encoder, rnn and decoder, as in PyTorch's example of a language model. A GRU has
    its second bias inside of a product with the reset gate, so the model needs one too.
    """
    cell = next((name.removesuffix("weight_ih_l0") for name in names if name.endswith("weight_ih_l0")), "rnn.")
    others = [name for name in names if not name.startswith(cell)]
    heads = [name.removesuffix(".bias") for name in others if name.endswith(".bias")]
    head = heads[0] if len(heads) == 1 else "decoder"
    embeds = [name for name in others if name.endswith(".weight") and name != f"{head}.weight"]
    embed = embeds[0] if len(embeds) == 1 else "encoder.weight"
    rules = [Rule("head/bias", (f"{head}.bias",), *SAME)]
    if "head/kernel" in paths:
        rules += [Rule("embed/embedding", (embed,), *SAME), Rule("head/kernel", (f"{head}.weight",), *TORCH)]
    else:
        both = (embed, f"{head}.weight") if "head/bias" in paths else (embed,)
        rules += [Rule("embed/embedding", both, *(TIED if len(both) == 2 else SAME))]
    for reverse in ("", "_reverse"):
        layers = {path.split("/")[1] for path in paths if path.startswith("recurrent/")}
        for layer in (name for name in layers if name.endswith("_reverse") == bool(reverse)):
            ours, end = f"recurrent/{layer}", f"_l{int(re.findall(r'[0-9]+', layer)[0]) - 1}{reverse}"
            biases = f"{cell}bias_ih{end}", f"{cell}bias_hh{end}"
            rules += [
                Rule(f"{ours}/input/kernel", (f"{cell}weight_ih{end}",), *TORCH),
                Rule(f"{ours}/recurrent/kernel", (f"{cell}weight_hh{end}",), *TORCH),
            ]
            if f"{ours}/recurrent/bias" in paths:
                rules += [
                    Rule(f"{ours}/input/bias", biases[:1], *SAME),
                    Rule(f"{ours}/recurrent/bias", biases[1:], *SAME),
                ]
            else:
                rules += [Rule(f"{ours}/input/bias", biases, *TORCH_BIASES)]
    requires = {"biases": 2} if getattr(model, "cell", "") == "gru" else {}
    return Table("recurrent layers of PyTorch", tuple(rules), requires=requires, layouts=("torch",))


def tensorflow(names: Sequence[str]) -> Table:
    """BasicLSTMCell in a MultiRNNCell, '.' or '/' between the parts of a name; embedding, softmax_w and softmax_b."""

    def named(pattern: str) -> str:
        return next((name for name in names if re.fullmatch(rf"(.*[./])?{pattern}", name)), pattern)

    rules = [
        Rule("embed/embedding", (named("embedding"),), *SAME),
        Rule("head/kernel", (named("softmax_w"),), *SAME),
        Rule("head/bias", (named("softmax_b"),), *SAME),
    ]
    for name in names:
        if found := re.fullmatch(r"(.*cell_(\d+)[./]basic_lstm_cell[./])(weights|kernel)", name):
            ours, bias = f"recurrent/layer{int(found[2]) + 1}", {"weights": "biases", "kernel": "bias"}[found[3]]
            rules += [
                Rule(f"{ours}/input/kernel", (name,), tensorflow_input_kernel),
                Rule(f"{ours}/recurrent/kernel", (name,), tensorflow_recurrent_kernel),
                Rule(f"{ours}/input/bias", (found[1] + bias,), tensorflow_bias),
            ]
    note = "BasicLSTMCell: 1 was added to the bias of the forget gate, its forget_bias unless it was made with another"
    requires = {"cell": "lstm", "biases": 1}
    return Table("BasicLSTMCell of TensorFlow", tuple(rules), requires=requires, notes=(note,))
