"""Data sets of tensorflow-datasets (tfds, https://www.tensorflow.org/datasets), read without TensorFlow.

Prepared array_record files are read through the data source of tfds. TensorFlow is needed only to prepare a
set with images, once, on any machine. Encoded images are decoded here, as TensorFlow would: without it tfds
takes the colour indices of a palette image for grey values.
"""

import bisect
import contextlib
import difflib
import importlib.util
import io
import itertools
import logging
import os
import pathlib
import re
import urllib.error
import urllib.request
from collections.abc import Iterator

import numpy as np
from absl import logging as absl_logging
from PIL import Image

from zoo.errors import UserError, did_you_mean
from zoo.types import Source

# tfds registers its data sets package by package, and stops at d4rl where h5py is not installed.
AFTER_D4RL = ("question_answering", "ranking", "recommendation", "structured", "summarization", "text", "translate")
NAME = re.compile(r"([a-zA-Z]\w*)(/[\w+.-]+)?(:(\d+|\*)(\.(\d+|\*)){2})?")  # as in tfds, less namespaces
SPLITS = {"train": ("train",), "validation": ("validation", "valid"), "test": ("test",)}  # ours -> theirs
INPUTS = {"image": ("image",), "feature": ("feature", "features")}  # batch key -> customary feature names
OUTPUTS = {"label": ("label",), "target": ("target",)}
DTYPES = {"image": np.uint8, "feature": np.float32, "label": np.int32, "target": np.float32}
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # number of channels -> Pillow's name


def load(name: str, *, data_dir: str | None = None) -> Source:
    """The data set `name` of tensorflow-datasets: `mnist`, `cifar10:3.0.2`, `my_set/config:1.0.0`.

    The input is the image or else the vector, the output the class label or else the real scalar. Supervised
    keys decide where the set declares them. An evaluation split without labels (all are -1) is left out.

    Args:
      name: data set, optionally configuration and version; default: the latest version that is prepared.
      data_dir: folder of prepared data sets; default: $ZOO_DATA_DIR/tfds if it exists, else the folder of
        tfds ($TFDS_DATA_DIR or ~/tensorflow_datasets). A missing set is prepared there, if that can work.

    Raises:
      UserError: an unknown name; a set that is not prepared, or not as array_record; damaged files; features
        or splits that make no data set for the zoo; images of different sizes.
    """
    with _quiet():
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import constants

        for package in AFTER_D4RL:
            with contextlib.suppress(ImportError):
                importlib.import_module(f"tensorflow_datasets.{package}")
    ours = pathlib.Path(os.environ.get("ZOO_DATA_DIR") or os.devnull, "tfds").expanduser()
    root = pathlib.Path(data_dir or (ours if ours.is_dir() else constants.DATA_DIR)).expanduser().absolute()
    builder = _builder(tfds, name, root)
    columns = _columns(tfds, name, builder.info)
    sizes = {split: info.num_examples for split, info in builder.info.splits.items() if info.num_examples}
    chosen = {split: next((n for n in names if n in sizes), None) for split, names in SPLITS.items()}
    if not chosen["train"]:
        raise UserError(f"tfds:{name} has no split 'train'; it has {', '.join(sorted(sizes)) or 'no rows'}")
    with _quiet():
        rows = {split: _rows(tfds, builder, n, columns) for split, n in chosen.items() if n}
    for key, feature in columns.items():
        shapes = sorted({row.shape for split in rows.values() for row in split[key]})
        if len(shapes) > 1:
            raise UserError(f"tfds:{name} has different shapes in {feature!r}, such as {shapes[0]} and {shapes[1]}")
    arrays = {
        split: {key: np.stack(values).astype(DTYPES[key]) for key, values in columns_of.items()}
        for split, columns_of in rows.items()
    }
    class_names = None
    if "label" in columns:
        for split in [s for s in arrays if s != "train" and (arrays[s]["label"] == -1).all()]:
            absl_logging.info("tfds:%s: split %s has no labels and is left out", name, split)
            del arrays[split]
        class_names = _class_names(name, builder.info.features[columns["label"]], arrays)
    return Source(**arrays, class_names=class_names)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the banners, progress bars and log lines of tfds and of what it uses."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)


def _line(error: BaseException) -> str:
    """The first cause, in one line without the arguments and examples that tfds quotes at length."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, ModuleNotFoundError):
        return f"the Python package {error.name!r} is not installed"
    text = " ".join(f"{type(error).__name__}: {error}".split())
    text = re.sub(r'Failed to construct dataset .*?}": ', "", text)
    return text if len(text) <= 300 else f"{text[:140]} ... {text[-140:]}"


def _builder(tfds, name: str, root: pathlib.Path):
    """The builder of the set, which is then prepared as array_record."""
    from tensorflow_datasets.core import read_only_builder

    match = NAME.fullmatch(name)
    if not match:
        raise UserError(f"'tfds:{name}' is not of the form tfds:name[/config][:version], as in tfds:mnist:3.0.1")
    call = f"tfds.builder('{name}', data_dir='{root}', file_format='array_record').download_and_prepare()"
    command = f'python -c "import tensorflow_datasets as tfds; {call}"'
    problem, folder = None, root / match[1]
    try:
        with _quiet():
            try:  # the files first: the code may need packages of its own, and knows only its latest version
                builder = read_only_builder.builder_from_files(name, data_dir=str(root))
            except tfds.core.DatasetNotFoundError:
                builder = tfds.builder(name, data_dir=str(root), file_format="array_record")
        folder = pathlib.Path(builder.data_dir)
        if not folder.exists():
            problem = _prepare(tfds, name, builder)
        elif not (folder / "dataset_info.json").exists():
            problem = f"{folder} has no dataset_info.json"
    except tfds.core.DatasetNotFoundError:
        raise UserError(f"unknown data set 'tfds:{name}'{_near(tfds, match[1], root)}") from None
    except ImportError as error:
        problem = _line(error)
    except Exception as error:  # anything: a damaged description, or what the code of a data set does
        raise UserError(f"tfds:{name} in {folder} cannot be opened: {_line(error)}") from None
    if problem:
        raise UserError(
            f"tfds:{name} is not prepared: {problem}; run `{command}` where there is TensorFlow (pip install "
            f"tensorflow) and network, or copy its prepared array_record folder to {folder}"
        )
    formats = sorted(form.value for form in builder.info.available_file_formats())
    if "array_record" not in formats:
        raise UserError(
            f"tfds:{name} in {folder} is prepared as {' and '.join(formats) or 'unknown'}, and only "
            f"array_record can be read; move it away and run `{command}` where there is TensorFlow"
        )
    return builder


def _near(tfds, base: str, root: pathlib.Path) -> str:
    """The end of the error line of an unknown name: what is near, or else what is prepared."""
    prepared: dict[str, list[str]] = {}  # set -> its configurations and versions
    for path in sorted([*root.glob("*/*/features.json"), *root.glob("*/*/*/features.json")]):
        *names, version = path.parent.relative_to(root).parts
        prepared.setdefault(names[0], []).append(f"{'/'.join(names)}:{version}")
    known = {*tfds.list_builders(with_community_datasets=False), *prepared}
    if base not in prepared and difflib.get_close_matches(base, known):
        return did_you_mean(base, known)
    listed = prepared.get(base) or itertools.chain(*prepared.values())
    return f"; prepared in {root}: {', '.join(listed) or 'nothing'}"


def _prepare(tfds, name: str, builder) -> str | None:
    """Downloads and prepares the set, or tells why that cannot be done here."""
    if type(builder).__module__.startswith("tensorflow_datasets."):  # a set of the user may need neither
        images = [f for f in builder.info.features.flat_features if isinstance(f, tfds.features.Image)]
        if images and importlib.util.find_spec("tensorflow") is None:
            return "TensorFlow, which encodes its images, is not installed"
        try:  # tfds itself would try for minutes
            urllib.request.urlopen("https://storage.googleapis.com", timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()  # an answer all the same
        except OSError:
            return "it has to be downloaded, and there is no network"
    absl_logging.warning("tfds:%s: downloading and preparing it in %s", name, builder.data_dir)
    try:
        with _quiet():
            builder.download_and_prepare()
    except Exception as error:  # anything: the code of a data set, a host that is gone
        return _line(error)
    return None


def _kind(tfds, key: str, feature) -> str | None:
    """The batch key that a feature can be, judged by its type and, where that leaves a choice, its name."""
    types = tfds.features
    if isinstance(feature, types.ClassLabel):
        return "label"
    if not isinstance(feature, types.Image | types.Tensor):
        return None
    if isinstance(feature, types.LabeledImage | types.BBoxFeature):  # kinds of Image and Tensor
        return None
    rank, dtype = len(feature.shape), np.dtype(feature.np_dtype)
    integer, real = dtype.kind in "iub", dtype.kind == "f"
    if dtype == np.uint8 and (rank == 3 or (rank == 2 and key in INPUTS["image"])):
        return "image"
    if rank == 1 and (real or (integer and key in INPUTS["feature"])):
        return "feature"
    if rank == 0 and integer and key in OUTPUTS["label"]:
        return "label"
    return "target" if rank == 0 and (real or (integer and key in OUTPUTS["target"])) else None


def _columns(tfds, name: str, info) -> dict[str, str]:
    """Batch key -> name of the feature."""
    features = info.features if isinstance(info.features, tfds.features.FeaturesDict) else {}
    features = {key: features[key] for key in sorted(features)}  # their order on disk is not fixed
    listed = ", ".join(f"{key!r}: {' '.join(str(feature).split())[:60]}" for key, feature in features.items())
    keys = (info.supervised_keys or ())[:2]
    if keys and all(isinstance(key, str) and key in features for key in keys):
        x, y = keys
        source = _kind(tfds, x, features[x]) or _kind(tfds, "feature", features[x])
        result = _kind(tfds, "label", features[y])  # any integer
        if source not in INPUTS or (result not in OUTPUTS and x != y):
            raise UserError(
                f"tfds:{name} is meant to predict {y!r} from {x!r}; the zoo predicts a class label or a real "
                f"scalar from an image or a vector, and the features are {listed}"
            )
        return {source: x} if x == y else {source: x, result: y}
    columns = {}
    for kinds in (INPUTS, OUTPUTS):
        for kind, customary in kinds.items():
            fit = [key for key, feature in features.items() if _kind(tfds, key, feature) == kind]
            named = [key for key in fit if key in customary]
            if len(fit) > 1 and len(named) != 1:
                several = " or ".join(map(repr, fit))
                raise UserError(f"tfds:{name} does not tell which feature is the {kind}: {several}")
            if fit:
                columns[kind] = (named or fit)[0]
                break
        if not columns:
            raise UserError(f"tfds:{name} has neither an image nor a vector of real numbers, but {listed}")
    return columns


def _rows(tfds, builder, split: str, columns: dict[str, str]) -> dict[str, list[np.ndarray]]:
    """All rows of a split by batch key, in the order of its files."""
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise UserError(f"tfds: data sets need array_record (pip install array_record): {error}") from None
    image = columns.get("image")
    encoded = image and isinstance(builder.info.features[image], tfds.features.Image)
    decoders = {image: tfds.decode.SkipDecoding()} if encoded else None
    source = builder.as_data_source(split, decoders=decoders, file_format="array_record")
    info = builder.info.splits[split]
    for path, records in zip(info.filepaths, info.shard_lengths, strict=True):
        if records and not path.exists():
            raise UserError(f"{path} is missing; it should hold {records} records")
        # A file cut to one block of 64 KiB opens, counts no records, and then gives empty ones.
        found = array_record_module.ArrayRecordReader(str(path)).num_records() if records else 0
        if found != records:
            raise UserError(f"{path} is damaged: {found} of its {records} records are there")
    ends = [*itertools.accumulate(info.shard_lengths)]
    rows = {key: [] for key in columns}
    for index in range(len(source)):
        try:
            example = source[index]
            if encoded:
                example[image] = _pixels(example[image], builder.info.features[image].shape[-1])
        except Exception as error:  # anything of array_record, protobuf, tfds and Pillow
            path = info.filepaths[bisect.bisect_right(ends, index)]
            raise UserError(f"{path} is damaged: record {index} of split {split!r}: {_line(error)}") from None
        for key, feature in columns.items():
            value = np.asarray(example[feature])
            rows[key].append(value[..., None] if key == "image" and value.ndim == 2 else value)
    return rows


def _pixels(data: bytes, channels: int | None) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith("I"):  # 16 bits, which Pillow clips
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return np.asarray(image.convert(MODES[channels or 3]))


def _class_names(name: str, feature, arrays: dict[str, dict[str, np.ndarray]]) -> tuple[str, ...]:
    """The names of the classes, or their numbers; checks that the labels fit."""
    labels = np.concatenate([split["label"] for split in arrays.values()])
    named = getattr(feature, "num_classes", None)  # None: a plain integer feature
    number = named or int(labels.max()) + 1
    if labels.min() < 0 or labels.max() >= number:
        raise UserError(f"tfds:{name} has labels {labels.min()} to {labels.max()} for {number} classes")
    return tuple(feature.names if named else map(str, range(number)))
