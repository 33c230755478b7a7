"""The command line: every mistake is one clear line and exit code 2, and nothing is written."""

import gzip
import pathlib
import struct
import sys

import pytest
from absl import flags

from zoo import cli

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
import train  # noqa: E402


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """run(*arguments) -> (exit code, stdout, stderr) of train.py in this process."""
    monkeypatch.chdir(ROOT)

    def run(*arguments, workdir=tmp_path / "run"):
        for name in ("config", "workdir", "dry_run", "eval_only"):
            flags.FLAGS[name].unparse()
        code = 0
        try:
            cli.run(train.main, ["train.py", "--workdir", str(workdir), *map(str, arguments)])
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return run


MISTAKES = [
    (["--config", "configs/digits_lenett.py"], "did you mean 'configs/digits_lenet.py'"),
    (["--config", "configs/none.py"], "no config file"),
    (["--config.seeed=1"], "did you mean 'seed'"),
    (["--config.data.batch_size=abc"], "must be of type int"),
    (["--config.data.batch_size=0"], "batch_size is 0; it must be at least 1"),
    (["--config.data.batch_size=-4"], "batch_size is -4"),
    (["--config.data.batch_size=100000"], "larger than the 1438 training rows"),
    (["--config.data.batch_size=126"], "not divisible by the 4 devices; 128 is"),
    (["--config.data.eval_batch_size=0"], "eval_batch_size is 0"),
    (["--config.model.name=lenet"], "unknown model 'lenet'; did you mean 'lenet5'"),
    (["--config.model.dropuot=0.1"], "no option 'dropuot'; did you mean 'dropout'"),
    (["--config.model.activation=rellu"], "unknown activation 'rellu'; did you mean 'relu'"),
    (["--config.model.dropout=abc"], "dropout is 'abc'; it must be a number"),
    (["--config.model.dropout=1.5"], "dropout is 1.5; it must be in [0, 1)"),
    (["--config.model.name=mlp", "--config.model.widths=32"], "widths is 32; it must be a tuple of integers"),
    (["--config.model.name=mlp", "--config.model.widths=(32,0)"], "every layer needs at least 1 unit"),
    (["--config.model.num_classes=7"], "needs 10 outputs"),
    (["--config.task.name=classify"], "unknown task"),
    (["--config.task.name=regression"], "has no targets; use task classification"),
    (["--config.task.label_smooth=0.1"], "did you mean 'label_smoothing'"),
    (["--config.task.label_smoothing=2"], "must be in [0, 1)"),
    (["--config.task.binary=true"], "needs 2 classes"),
    (["--config.task.top_k=(10,)"], "between 1 and 9"),
    (["--config.data.name=digitz"], "unknown data set 'digitz'; did you mean 'digits'?"),
    (["--config.data.name=mnist", "--config.data.dir=/nowhere"], "/nowhere/mnist is not a folder"),
    (["--config.data.validation=-1"], "config.data.validation is -1"),
    (["--config.data.test=1.0", "--config.data.validation=0.999"], "data.test"),
    (["--config.data.normalize=std"], "unknown normalization"),
    (["--config.data.image_size=8"], "the network needs 12x12"),
    (["--config.data.normalize=zca", "--config.data.augment.crop=4"], "zca was fitted to 400 values of each example"),
    (["--config.data.augment.shft=1"], "unknown augmentation 'shft'; did you mean 'shift'"),
    (["--config.data.augment.shift=-1"], "must be a number in"),
    (["--config.data.device=maybe"], "'maybe'"),
    (["--config.optim.name=adamv"], "unknown optimizer 'adamv'; did you mean 'adam"),
    (["--config.optim.momentum=0.9"], "adamw has no option 'momentum'"),
    (["--config.optim.lr=-1"], "lr is -1.0; it must be a positive number"),
    (["--config.optim.weight_decay=-1"], "weight_decay is -1.0"),
    (["--config.optim.clip_norm=0"], "clip_norm is 0"),
    (["--config.optim.freeze=('convv.*',)"], "matches no parameter; the nearest paths are"),
    (["--config.optim.freeze=('.*',)"], "nothing is left to train"),
    (["--config.schedule.name=cosin"], "unknown schedule 'cosin'; did you mean 'cosine'"),
    (["--config.schedule.cycle_steps=5"], "has no option 'cycle_steps'"),
    (["--config.schedule.name=cyclical"], "needs cycle_steps, cycle_epochs"),
    (["--config.schedule.warmup_steps=-5"], "zero or more"),
    (["--config.schedule.warmup_epochs=500"], "leaves nothing"),
    (["--config.total_epochs=-1"], "total_epochs is -1.0"),
    (["--config.total_epochs=0"], "at least 1 step"),
    (["--config.total_epochs=3", "--config.total_steps=3"], "two durations for one thing"),
    (["--config.total_epochs=none"], "how long to train?"),
    (["--config.eval_every_steps=0"], "eval_every_steps is 0"),
    (["--config.checkpoint.every_epochs=-2"], "checkpoint.every_epochs is -2.0"),
    (["--config.checkpoint.keep=0"], "checkpoint.keep is 0"),
    (["--config.checkpoint.monitor=test/acc"], "did you mean 'test/accuracy'"),
    (["--config.checkpoint.best=3"], "checkpoint.best has no effect without config.checkpoint.monitor or a validation"),
    (["--config.checkpoint.mode=max"], "checkpoint.mode has no effect without config.checkpoint.monitor or a"),
    (["--config.data.border_sigma=3"], "data.border_sigma is 3.0, but border_weight is 0; leave it at 5.0"),
    (["--config.data.curriculum.start_share=0.5"], "curriculum.start_share is 0.5, but curriculum.by is empty; leave"),
    (["--config.data.curriculum.full_steps=5"], "curriculum.full_steps is 5, but curriculum.by is empty; leave it at"),
    (["--config.early_stopping.monitor=validation/loss"], "no metric 'validation/loss' is evaluated"),
    (["--config.early_stopping.mode=ma"], "must be 'min', 'max' or 'auto'"),
    (["--config.early_stopping.patience=-1"], "patience is -1"),
    (["--config.early_stopping.monitor=test/loss", "--config.checkpoint.best=0"], "needs the best checkpoint"),
    (["--config.early_stopping.monitor=test/loss", "--config.checkpoint.monitor=test/accuracy"], "its own monitor"),
    (["--config.averaging.name=ema", "--config.averaging.decay=1"], "config.averaging.decay is 1.0;"),
    (["--config.early_stopping.patience=3"], "patience has no effect without config.early_stopping.monitor"),
    (["--config.plateau.factor=0.5"], "plateau.factor has no effect without config.plateau.monitor; set both"),
    (["--config.plateau.monitor=test/los"], "config.plateau.monitor: no metric 'test/los' is evaluated; did you mean"),
    (["--config.plateau.factor=1"], "plateau.factor is 1.0; it must be in (0, 1)"),
    (["--config.plateau.patience=0"], "plateau.patience is 0; it must be at least 1"),
    (["--config.plateau.min_delta=-1"], "plateau.min_delta is -1.0; it must be zero or more"),
    (["--config.plateau.cooldown=-1"], "plateau.cooldown is -1; it must be zero or more"),
    (["--config.plateau.min_scale=1"], "plateau.min_scale is 1.0; it must be in [0, 1)"),
    (["--config.plateau.mode=low"], "config.plateau.mode is 'low'; it must be 'min', 'max' or 'auto'"),
    (
        ["--config.early_stopping.monitor=test/loss", "--config.checkpoint.mode=max"],
        "early_stopping.mode is 'min' for 'test/loss', but config.checkpoint.mode is 'max'; set both to the same",
    ),
    (
        ["--config.plateau.monitor=test/loss", "--config.plateau.mode=max", "--config.checkpoint.monitor=test/loss"],
        "config.plateau.mode is 'max' for 'test/loss', but config.checkpoint.mode is 'min'; set both to the same",
    ),
    (["--config.seed=-1"], "config.seed is -1"),
    (["--config.init_from=/nowhere"], "cannot read the weights /nowhere"),
    (["--eval_only"], "has no checkpoint to evaluate"),
    (["--worddir=x"], "workdir"),
    (["extra"], "unexpected argument 'extra'; give settings as --config.key=value"),
    (["tests/tiny.py"], "unexpected argument 'tests/tiny.py'; give the recipe as --config=FILE"),
    (["--config.seed"], "needs a value"),
    (["--config.probe", "--workdir", "runs/a"], "error: --config.probe needs a value: --config.probe=..."),
]


@pytest.mark.parametrize("arguments, message", MISTAKES, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_a_mistake_is_one_line_and_writes_nothing(run, tmp_path, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert message in err
    assert not (tmp_path / "run").exists()


def test_restated_defaults_are_no_mistake(run):
    settings = ("checkpoint.best=1", "checkpoint.mode=auto", "data.border_sigma=5", "data.curriculum.start_share=0.2")
    assert run("--dry_run", "--config.checkpoint.best=0", *(f"--config.{setting}" for setting in settings))[0] == 0
    more = ("checkpoint.best=3", "checkpoint.mode=max", "data.validation=0.1")
    assert run("--dry_run", *(f"--config.{setting}" for setting in more))[0] == 0


def test_workdir_that_is_a_file_or_cannot_be_written(run, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for workdir in (file, file / "below", pathlib.Path("/proc/nowhere")):
        code, _, err = run("--config", "tests/tiny.py", workdir=workdir)
        assert code == 2
        assert err.count("\n") == 1
        assert str(workdir) in err
    assert file.read_text() == "mine"


def idx(dimensions, data, magic=None):
    header = struct.pack(">I", magic or (8 << 8 | len(dimensions)))
    return header + struct.pack(f">{len(dimensions)}I", *dimensions) + bytes(data)


def test_damaged_idx_files_name_the_file(run, tmp_path):
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    good = {
        "train-images-idx3-ubyte": idx((2, 28, 28), [0] * 1568),
        "train-labels-idx1-ubyte": idx((2,), [1, 2]),
        "t10k-images-idx3-ubyte": idx((1, 28, 28), [0] * 784),
        "t10k-labels-idx1-ubyte": idx((1,), [3]),
    }
    bad = [
        ("train-images-idx3-ubyte", idx((2, 28, 28), [0] * 1500), "truncated"),
        ("train-labels-idx1-ubyte", idx((2,), [1, 2], magic=2050), "magic number is 2050, not 2049"),
        ("train-labels-idx1-ubyte", idx((3,), [1, 2, 3]), "2 images but"),
        ("t10k-labels-idx1-ubyte", idx((1,), [10]), "label 10 of row 0 is out of range"),
        ("t10k-labels-idx1-ubyte.gz", b"no gzip", "not a whole gzip file"),
        ("t10k-labels-idx1-ubyte.gz", gzip.compress(good["t10k-labels-idx1-ubyte"])[:-9], "not a whole gzip file"),
        ("t10k-images-idx3-ubyte", None, "has no file t10k-images-idx3-ubyte[.gz]"),
    ]
    for name, content, message in bad:
        for path in folder.iterdir():
            path.unlink()
        for other, data in good.items():
            if other != name.removesuffix(".gz"):
                (folder / other).write_bytes(data)
        if content is not None:
            (folder / name).write_bytes(content)
        code, _, err = run("--config.data.name=mnist", f"--config.data.dir={tmp_path / 'data'}")
        assert code == 2
        assert err.count("\n") == 1
        assert message in err
        assert name in err
        assert not (tmp_path / "run").exists()


def test_dry_run_shows_everything_and_writes_nothing(run, tmp_path):
    code, out, err = run("--dry_run")
    assert (code, err) == (0, "")
    for shown in (
        "train 1,438, test 359",
        "conv1",
        "parameters",
        "FLOPs",
        "60 epochs",
        "optimizer state",
        "█",
        "step 660",
    ):
        assert shown in out, shown
    assert not (tmp_path / "run").exists()


def test_a_file_that_cannot_be_written_is_one_line(capsys):
    def main(overrides):
        pathlib.Path("/no/such/folder/x.png").write_bytes(b"")

    with pytest.raises(SystemExit) as exit_:
        cli.run(main, ["script.py"])
    assert exit_.value.code == 2
    line = "error: cannot read or write /no/such/folder/x.png: No such file or directory\n"
    assert capsys.readouterr().err == line


def test_overrides_with_a_space():
    rest, overrides = cli.take_overrides(["train.py", "--config", "a.py", "--config.x.y", "-1", "--config.z=--a=b"])
    assert rest == ["train.py", "--config", "a.py"]
    assert overrides == [("x.y", "-1"), ("z", "--a=b")]
