"""Config files and `--config.key=value`."""

import json
import textwrap

import pytest

from zoo import config as configs
from zoo.errors import UserError, did_you_mean, lookup


def recipe(tmp_path, body):
    path = tmp_path / "recipe.py"
    path.write_text("from zoo.config import default\n\n\ndef get_config():\n    config = default()\n"
                    + textwrap.indent(body, "    ") + "\n    return config\n")  # fmt: skip
    return path


@pytest.mark.parametrize(
    "key, text, value",
    [
        ("seed", "7", 7),
        ("data.validation", "0.5", 0.5),
        ("data.validation", "0", 0.0),
        ("data.name", "iris", "iris"),
        ("data.name", "5", "5"),
        ("data.normalize", "none", "none"),
        ("data.normalize", "pca:2", "pca:2"),
        ("data.normalize", "('minmax','zca:0.1')", ("minmax", "zca:0.1")),
        ("model.widths", "(32,16)", (32, 16)),
        ("model.activation", "tanh", "tanh"),
        ("optim.weight_decay", "1e-4", 1e-4),
        ("optim.wd_mults", "(('.*',1.0),)", ((".*", 1.0),)),
        ("early_stopping.restore_best", "false", False),
        ("data.augment.shift", "2", 2),
        ("total_epochs", "3", 3.0),
    ],
)
def test_override_takes_the_type_of_the_setting(key, text, value):
    config = configs.override(configs.default(), [(key, text)])
    assert configs.flat(config)[key] == value
    assert type(configs.flat(config)[key]) is type(value)


@pytest.mark.parametrize(
    "key, text, message",
    [
        ("seeed", "1", "unknown setting config.seeed; did you mean 'seed'?"),
        ("data.batchsize", "1", "did you mean 'data.batch_size'"),
        ("dta.batch_size", "1", "did you mean 'data.batch_size'?"),
        ("lr", "0.1", "unknown setting config.lr; did you mean 'optim.lr'?"),
        ("optimizer", "sgd", "did you mean 'optim.name' or "),
        ("patence", "3", "did you mean 'early_stopping.patience' or 'plateau.patience'"),
        ("zzz", "1", "unknown setting config.zzz; zoo/config.py lists them all"),
        ("data.batch_size", "x", "must be of type int, for example 128"),
        ("data.batch_size", "1.5", "must be of type int"),
        ("data.batch_size", "none", "must be of type int"),
        ("optim.freeze", "conv1/.*", "is 'conv1/.*'; it must be of type tuple, for example ('conv1/.*',)"),
        ("optim.wd_mults", "0.1", "is 0.1; it must be of type tuple, for example (('.*kernel', 1.0),)"),
        ("early_stopping.restore_best", "1", "must be of type bool"),
        ("total_steps", "1.5", "must be of type int"),
        ("data", "1", "is a group of settings"),
        ("data.name.x", "1", "config.data.name is not a group"),
    ],
)
def test_override_refuses(key, text, message):
    with pytest.raises(UserError, match=r"^[^\n]*$") as error:
        configs.override(configs.default(), [(key, text)])
    assert message in str(error.value)


def test_long_lists_of_names_end():
    names = [f"column{i:02}" for i in range(30)]
    assert did_you_mean("x", names) == f"; known: {', '.join(names[:10])} and 20 more"
    assert did_you_mean("x", names[:2]) == "; known: column00, column01"
    with pytest.raises(UserError, match=r"^unknown name 'x'; known: .*, column29$"):
        lookup("name", "x", dict.fromkeys(names))  # of ours: all


def test_a_new_name_drops_the_options_of_the_old_one():
    config = configs.default()
    config.model = {"name": "lenet5", "pool": "avg"}
    config.optim.update(name="adamw", b1=0.8, lr=0.5)
    config.schedule.update(name="cyclical", cycle_steps=5, warmup_steps=3)
    configs.override(
        config,
        [("model.widths", "(8,)"), ("model.name", "mlp"), ("optim.name", "sgd"), ("schedule.name", "cosine")],
    )
    assert config.model.to_dict() == {"name": "mlp", "widths": (8,)}
    assert config.optim.lr == 0.5
    assert "b1" not in config.optim
    assert config.schedule.to_dict() == {"name": "cosine", "warmup_steps": 3}


def test_the_same_name_again_keeps_the_options():
    config = configs.default()
    config.model = {"name": "lenet5", "pool": "avg"}
    assert configs.override(config, [("model.name", "lenet5")]).model.pool == "avg"


def test_a_duration_replaces_the_other_unit_unless_both_are_given():
    config = configs.default()
    config.total_epochs = 10
    assert configs.override(config, [("total_steps", "5")]).total_epochs is None
    both = configs.override(config, [("total_steps", "5"), ("total_epochs", "2")])
    assert (both.total_steps, both.total_epochs) == (5, 2.0)  # durations.resolve refuses the pair


def test_load(tmp_path):
    path = recipe(tmp_path, "config.optim.lr = 0.25\nconfig.total_epochs = 2")
    assert configs.load(path).optim.lr == 0.25
    assert configs.load(path, [("optim.lr", "0.5")]).optim.lr == 0.5


@pytest.mark.parametrize(
    "body, message",
    [
        ("config.total_epoch = 2", "unknown setting 'total_epoch'; did you mean 'total_epochs'"),
        ("config.data.batch_sice = 2", "did you mean 'data.batch_size'"),
        ("config.lr = 0.1", "unknown setting 'lr'; did you mean 'optim.lr'?"),
        ("config.seed = 'x'", "seed"),
        ("config.seed =", "invalid syntax"),
        ("import no_such_module", "no_such_module"),
        ("no_such_name", "NameError: name 'no_such_name' is not defined"),
        ("return None", "get_config() returns NoneType; it must return the config"),
    ],
)
def test_load_names_the_file_and_the_mistake(tmp_path, body, message):
    path = recipe(tmp_path, body)
    with pytest.raises(UserError, match=r"^[^\n]*$") as error:
        configs.load(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_load_of_what_is_no_recipe(tmp_path):
    (tmp_path / "notes.md").write_text("lr 0.1")
    with pytest.raises(UserError, match=r"notes\.md is not a recipe: a recipe is a Python file with get_config\(\)"):
        configs.load(tmp_path / "notes.md")


def test_load_without_a_file_names_the_nearest(tmp_path):
    recipe(tmp_path, "pass")
    with pytest.raises(UserError, match=r"did you mean .*recipe\.py"):
        configs.load(tmp_path / "recip.py")


def test_file_without_get_config(tmp_path):
    (tmp_path / "x.py").write_text("config = 1\n")
    with pytest.raises(UserError, match="get_config"):
        configs.load(tmp_path / "x.py")


def test_json_and_changes():
    old, new = configs.default(), configs.default()
    new.optim.lr = 0.5
    new.model.pool = "avg"
    assert json.loads(configs.to_json(new))["optim"]["lr"] == 0.5
    assert configs.changes(old.to_dict(), new.to_dict()) == ["model.pool: None -> avg", "optim.lr: 0.001 -> 0.5"]
    assert configs.changes(json.loads(configs.to_json(old)), configs.default().to_dict()) == []


def test_a_setting_that_an_older_version_lacked_stood_at_its_default():
    new, older = configs.default(), configs.default().to_dict()
    del older["plateau"], older["seed"]
    new.seed = 3
    assert configs.changes(older, new.to_dict()) == ["seed: 0 -> 3"]
