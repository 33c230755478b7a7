"""Import weights of another ecosystem: which tensor became which parameter, and a file of ours or of a third one.

python scripts/import_weights.py resnet32-d509ac18.th --model=resnet32_cifar
python scripts/import_weights.py resnet50.pth --model=resnet50 --option=num_classes=10 --out=zoo.safetensors \
    --about="mean=(0.485, 0.456, 0.406)" --about=licence=BSD-3-Clause
python scripts/import_weights.py zoo.safetensors --out=theirs.pth --layout=torchvision
python scripts/import_weights.py theirs.npz --model=mlp --rules=my_rules.py --table=table.tsv

--rules is a Python file (which is run) with RULES = [(regex on our path, name or names in the file, function)] and,
if tensors are to be left out, IGNORE = [regex on names in the file].
"""

import hashlib
import json
import pathlib
import runpy
from typing import Any

from absl import flags
from rich.table import Table

import zoo
from zoo import cli, weights
from zoo.errors import UserError
from zoo.summary import render
from zoo.weights import header, peers, rules

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "A name of zoo.list_models; default: the one in the header of a file of ours.")
flags.DEFINE_multi_string("option", [], "An option of the model, name=value; may be repeated.")
flags.DEFINE_string("input", None, "Shape of one example, such as 32,32,3; default: what the model and the file say.")
flags.DEFINE_string("rules", None, "A Python file with your own RULES.")
flags.DEFINE_string("table", None, "Save the table (path, source, transform, shape) here, tab-separated.")
flags.DEFINE_string("out", None, "Write the weights here: our safetensors file, or what --layout says.")
flags.DEFINE_string("layout", "zoo", "With --out: the names of another ecosystem, see zoo.weights.export.LAYOUTS.")
flags.DEFINE_multi_string("about", [], "With --out, what the header says of the weights, name=value; may be repeated.")
flags.DEFINE_bool(
    "verify",
    False,
    "Compare maps, logits and a training step (of PyTorch's) with the network the file is from; needs torch or Keras.",
)
flags.DEFINE_integer("seed", 0, "Of a new head, where the number of classes differs.")


def main(overrides, arguments):
    if overrides or len(arguments) != 1:
        raise UserError("give one file of weights: import_weights.py FILE --model=NAME")
    path = arguments[0]
    about = cli.pairs("about", FLAGS.about)
    if about and not FLAGS.out:
        raise UserError("--about goes with --out=FILE")
    if FLAGS.layout != "zoo" and not FLAGS.out:
        raise UserError(f"--layout={FLAGS.layout} goes with --out=FILE")
    if FLAGS.model:
        model = zoo.create_model(FLAGS.model, **cli.pairs("option", FLAGS.option))
    elif FLAGS.option:
        raise UserError("--option needs --model=NAME")
    else:
        model, _, _ = zoo.load_model(path)
    try:
        size = tuple(int(n) for n in FLAGS.input.split(",")) if FLAGS.input else None
    except ValueError:
        raise UserError(f"--input={FLAGS.input}: it must be whole numbers, as in 32,32,3") from None
    done = weights.import_weights(model, path, own_rules(), input=size, seed=FLAGS.seed)
    print(shown(done.table))
    print(f"{path}: {len(done.table)} parameters by {done.rules}")
    for note in done.notes:
        print(f"{path}: {note}")
    if FLAGS.verify:
        print(peers.verify(path, model, done, FLAGS.model, size))
    if FLAGS.table:
        lines = [("path", "source", "transform", "shape")]
        lines += [(row.path, " ".join(row.sources), row.transform, "x".join(map(str, row.shape))) for row in done.table]
        write(FLAGS.table, "".join("\t".join(line) + "\n" for line in lines))
    if FLAGS.out:
        known = described(path, model, done) if FLAGS.layout == "zoo" else {}
        shape = size if FLAGS.layout == "torch" else None
        zoo.save_weights(FLAGS.out, model, done.variables, layout=FLAGS.layout, input=shape, **known | about)
        print(f"wrote {FLAGS.out}")


def described(source: str, model, done: weights.Import) -> dict[str, Any]:
    """For the header: what a file of ours or a run says, as far as it still holds; of others, where they are from."""
    path = pathlib.Path(source)
    info = weights.metadata(source) if path.is_dir() else json.loads(done.metadata.get("zoo", "{}"))  # checked before
    known = {name: info[name] for name in header.Metadata._fields if info.get(name) is not None}
    adapted = any(row.transform != "same" for row in done.table)
    if known and (adapted or header.model_of(source, info).num_classes != model.num_classes):
        known = {name: known[name] for name in ("source", "source_sha256", "licence") if name in known}
    if "source" not in known:
        known["source"], _, sha256 = (path.name if path.exists() else source).partition("#sha256=")
        if sha256 := hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else sha256:
            known["source_sha256"] = sha256
    return known


def own_rules() -> rules.Table | None:
    if not FLAGS.rules:
        return None
    try:
        found = runpy.run_path(FLAGS.rules)
    except Exception as error:  # of the user's own code
        raise UserError(f"--rules={FLAGS.rules}: {type(error).__name__}: {error}") from None
    if "RULES" not in found:
        raise UserError(f"--rules={FLAGS.rules} has no RULES = [(regex, source, function), ...]")
    return rules.make(found["RULES"], found.get("IGNORE", ()))


def shown(rows) -> str:
    table = Table("path", "source", "transform", box=None, pad_edge=False)
    table.add_column("shape", justify="right")
    for row in rows:
        table.add_row(row.path, " ".join(row.sources), row.transform, str(list(row.shape)))
    return render(table)


def write(path: str, text: str) -> None:
    try:
        pathlib.Path(path).write_text(text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)
