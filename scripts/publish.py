"""Make a folder of a trained run, or of a file of weights, that can be published: a model card and safetensors.

    python scripts/publish.py runs/digits_lenet --out=card --licence=MIT
    python scripts/publish.py resnet20.safetensors --out=card
    python scripts/publish.py runs/digits_lenet --out=card --push=owner/name    # uploads; needs huggingface_hub

Nothing leaves this machine without --push. The card (README.md) says what the header of the weights and the run's
report.json say: model, data, results with the seed, licence, how to load it: `zoo.load_model("hf:owner/name")`.
"""

import importlib
import json
import pathlib

from absl import flags

import zoo
from zoo import cli, metrics
from zoo import rules as tree
from zoo.errors import UserError
from zoo.run_folder import write_atomically
from zoo.weights import header

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "The folder to write.")
flags.DEFINE_string("licence", None, "Of the weights, such as MIT or cc-by-4.0.")
flags.DEFINE_string("push", None, "Upload the folder to this repository on the hub, owner/name.")
flags.DEFINE_bool("private", False, "With --push: make the repository private.")

CARD = """\
---
library_name: jax-model-zoo
tags: [jax, flax]
{front}---
# {title}

{name}, {parameters:,} parameters, for the JAX model zoo.

```python
import zoo

model, variables, info = zoo.load_model("{address}")
logits = model.apply(variables, x)
```

{body}"""


def main(overrides, arguments):
    if overrides or len(arguments) != 1 or not FLAGS.out:
        raise UserError("give a run folder or a file of ours, and a folder: publish.py runs/<name> --out=FOLDER")
    if FLAGS.private and not FLAGS.push:
        raise UserError("--private goes with --push=owner/name")
    source, out = arguments[0], pathlib.Path(FLAGS.out)
    folder = pathlib.Path(source)
    report = read_report(folder) if folder.is_dir() else None
    model, variables, info = zoo.load_model(source)
    about = {key: value for key in header.Metadata._fields if (value := info.get(key)) is not None}
    if FLAGS.licence:
        about["licence"] = FLAGS.licence
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {out}: {error.strerror}") from None
    path = out / "model.safetensors"
    zoo.save_weights(path, model, variables, **about)
    write_atomically(out / "README.md", card(folder.stem, zoo.load_model(path)[2], variables, report))
    print(f"wrote {out / 'README.md'} and {path}")
    if FLAGS.push:
        print(f"pushed to {push(out, FLAGS.push)}")
    else:
        print("nothing was uploaded; --push=owner/name does it")


def read_report(folder: pathlib.Path) -> dict:
    try:
        return json.loads((folder / "report.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} has no report.json of a finished run: {error}") from None


def card(title: str, info: dict, variables: dict, report: dict | None) -> str:
    """README.md with the front matter that the hub reads."""
    front = f"license: {info['licence'].lower()}\n" if info.get("licence") else ""
    if report and "test" in report["metrics"]:
        front += index(title, info, report["metrics"]["test"])
    options = ", ".join(f"{k}={v!r}" for k, v in info["options"].items())
    parts = [f"## Model\n\n`zoo.create_model({', '.join(filter(None, [repr(info['model']), options]))})`"]
    facts = {key: info[key] for key in header.Metadata._fields if info.get(key) is not None}
    parts.append("| of the input and the weights | |\n|---|---|\n" + rows(facts))
    if report:
        table = "".join(
            f"| {split} | {name} | {value:.4f} |\n"
            for split, values in report["metrics"].items()
            for name, value in metrics.numbers(values).items()
        )
        parts.append(
            f"## Results\n\nSeed {report['seed']}, step {report['step']:,}, "
            f"{report['seconds']['total']:.0f} s on {report['device']['kind']}.\n\n"
            f"| split | metric | value |\n|---|---|--:|\n{table}"
        )
        parts.append(f"## Settings\n\n```json\n{json.dumps(report['config'], indent=1)}\n```\n")
    return CARD.format(
        front=front,
        title=title,
        name=info["model"],
        parameters=sum(leaf.size for leaf in tree.flatten(variables["params"]).values()),
        address=f"hf:{FLAGS.push}" if FLAGS.push else "model.safetensors",
        body="\n\n".join(parts),
    )


def index(title: str, info: dict, results: dict) -> str:
    """The results as the hub lists them."""
    lines = ["model-index:", f"- name: {title}", "  results:", "  - task: {type: other}"]
    lines += [f"    dataset: {{name: {json.dumps(info.get('source') or 'test')}, type: other}}", "    metrics:"]
    lines += [f"    - {{type: {name}, value: {value:.6g}}}" for name, value in metrics.numbers(results).items()]
    return "\n".join(lines) + "\n"


def rows(facts: dict) -> str:
    return "".join(f"| {key.replace('_', ' ')} | {shown(value)} |\n" for key, value in facts.items())


def shown(value) -> str:
    """A value as a cell of a table; of a list the first 100, for it may be a vocabulary."""
    listed = value if isinstance(value, list) else [value]
    more = f", ... ({len(listed):,} in all)" if len(listed) > 100 else ""
    return ", ".join(map(str, listed[:100])).replace("\n", "\\n").replace("|", "\\|") + more


def push(folder: pathlib.Path, repo: str) -> str:
    """The address of what was uploaded, by huggingface_hub and the login that it knows."""
    try:
        hub, errors = (importlib.import_module(name) for name in ("huggingface_hub", "huggingface_hub.errors"))
    except ImportError:
        raise UserError("--push needs huggingface_hub: pip install -e '.[hf]'") from None
    try:
        hub.create_repo(repo, private=FLAGS.private, exist_ok=True)
        done = hub.upload_folder(repo_id=repo, folder_path=folder, commit_message="Weights of the JAX model zoo")
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, ValueError) as error:
        raise UserError(f"--push={repo}: {str(error).strip().splitlines()[0]}") from None
    return str(done.commit_url)


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)
