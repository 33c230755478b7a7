"""What `import_weights.py --verify` says of files that PyTorch wrote: the same network passes, another does not."""

import importlib
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from torch_networks import PEERS, RECURRENT, TOOLS, UNET, networks, package, randomized, small_torchvision, torch

import zoo
from zoo import activations
from zoo.weights import import_weights, peers

ROOT = pathlib.Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "weights" / "resnet_cifar10"
DIFFERS = r"--verify: .*: logits within .*; at most 1e-04 is rounding"


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_activations(name):
    x = np.random.default_rng(0).standard_normal((3, 9)).astype(np.float32)
    if name == "step":
        assert name not in networks.ACTIVATIONS
    else:
        wanted = networks.activation(name)(torch.from_numpy(x))
        np.testing.assert_allclose(activations.get(name)(x), wanted, rtol=1e-5, atol=1e-6)


def saved(net, path, renamed=str):
    torch.save({renamed(key): tensor for key, tensor in randomized(net).state_dict().items()}, path)
    return path


def proven(path, model, name, input=None, *, changed=True):
    """The lines of --verify; then, if `changed`, a weight is, which it must notice."""
    done = import_weights(model, path, input=input)
    lines = peers.verify(path, model, done, name, input).splitlines()
    if changed:
        done.variables["params"]["head"]["bias"][0] += 1
        with pytest.raises(zoo.UserError, match=DIFFERS):
            peers.verify(path, model, done, name, input)
    return lines


@pytest.mark.parametrize("name", PEERS)
def test_networks(tmp_path, monkeypatch, name):
    """Those of the packages are small, in place of the whole ones of their names."""
    peer = PEERS[name]
    model, net = zoo.create_model(peer.ours, **peer.options), peer.make()
    path = saved(net, tmp_path / "x.pth", peer.renamed)
    where, _ = peers.NETWORKS[peer.rules]
    if where != peers.OWN:
        theirs = f"{peer.ours}d" if "ResNet-D" in peer.rules else peer.ours
        small = small_torchvision("BasicBlock") if name == "timm" else net  # the file has the names of torchvision's
        monkeypatch.setattr(importlib.import_module(where), theirs, lambda num_classes: small)
    input = peer.shape if peer.ours == "mlp" else None
    lines = proven(path, model, peer.ours, input, changed=where == peers.OWN or name == "alexnet")
    assert len(lines) == (4 if peer.stages else 3)
    if peer.stages:
        assert f"maps of {len(peer.stages)} stages" in lines[1]


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent(tmp_path, name):
    ours, options, make = RECURRENT[name]
    torch.manual_seed(0)
    model, path = zoo.create_model(ours, **options), saved(make(), tmp_path / "x.pth")
    assert len(proven(path, model, ours)) == 3


def test_recurrent_over_vectors(tmp_path):
    net = networks.recurrent(torch.nn.LSTM, None, 5, 2, inputs=4, depth=1, pool="last", names=("", "a.lstm", "a.out"))
    model = zoo.create_model("lstm_classifier", width=5, bidirectional=False, pool="last")
    assert len(proven(saved(net, tmp_path / "x.pth"), model, "lstm_classifier", (6, 4))) == 3


@pytest.mark.parametrize(
    "options, dense",
    [
        (
            {"activation": "tanh", "norm": "batch", "norm_place": "after", "norm_eps": 1e-3},
            [("a.0", 6, 6), ("a.3", 6, 6)],
        ),
        ({"activation": "maxout", "pieces": 3, "norm": "batch"}, [("z", 6, 18), ("b", 6, 18)]),
        ({"activation": "maxout", "norm": "batch", "norm_place": "after"}, [("0", 6, 12), ("3", 6, 12)]),
        ({"widths": ()}, []),
    ],
)
def test_perceptrons(tmp_path, options, dense):
    """Under any names; all in one width, so that a wrong order would fit."""
    norms = [f"norm{i}" for i, _ in enumerate(dense)] if "norm" in options else []
    choices = {"act": "activation", "norm_place": "norm_place", "pieces": "pieces", "norm_eps": "norm_eps"}
    given = {theirs: options[ours] for theirs, ours in choices.items() if ours in options}
    net = networks.mlp([*dense, ("out", 6, 6)], norms, **given)
    model = zoo.create_model("mlp", **{"widths": (6, 6), "num_classes": 6} | options)
    assert len(proven(saved(net, tmp_path / "x.pth"), model, "mlp", (6,))) == 3


def test_what_a_file_cannot_tell_is_the_models(tmp_path):
    path = saved(networks.LeNet(1, act="tanh", pool="avg", padding=0), tmp_path / "x.pth")
    for options in ({}, {"activation": "lecun_tanh", "pool": "avg", "padding": 0}):
        model = zoo.create_model("lenet5", **options)
        assert "logits within" in peers.verify(path, model, import_weights(model, path), "lenet5")
    model = zoo.create_model("lenet5", activation="step")
    with pytest.raises(zoo.UserError, match=r"does not fit LeNet in PyTorch: unknown activation in PyTorch 'step'"):
        peers.verify(path, model, import_weights(model, path), "lenet5")


def test_what_a_file_tells_is_refused(tmp_path):
    """The shortcut begins with its convolution, so that nothing pools before it."""
    path = saved(networks.CifarResNet(project=True), tmp_path / "x.pth")
    with pytest.raises(zoo.UserError, match=r"CIFAR ResNet in PyTorch; the model must have shortcut='B', not 'D'"):
        import_weights(zoo.create_model("resnet20_cifar", shortcut="D"), path)


def test_relatives_of_the_cifar_networks(tmp_path):
    """Bottlenecks in four stages, as in the ResNet-50 that many have for CIFAR; with a stem of 7x7 and one channel."""
    stages = ((1, 4, 16), (1, 8, 32), (1, 16, 64), (1, 32, 128))
    net = networks.CifarResNet(stages, (1, 4, 7), 6, project=True, bottleneck=True, strided=1, pool="max")
    options = {"depths": (1, 1, 1, 1), "width": 4, "num_classes": 6, "bottleneck_stride": "1x1", "global_pool": "max"}
    model = zoo.create_model("resnet50", **options)
    assert "maps of 5 stages" in proven(saved(net, tmp_path / "x.pth"), model, "resnet50")[1]


def test_a_single_class(tmp_path):
    """As published for a segmentation: a sigmoid behind the head, and the logistic loss."""
    net = networks.buda(classes=1, channels=1, head_activation="sigmoid", act="swish")
    options = {"num_classes": 1, "head_activation": "sigmoid", "activation": "swish"}
    model = zoo.create_model("unet", **UNET | options)
    assert len(proven(saved(net, tmp_path / "x.pth"), model, "unet")) == 4


def test_another_normalization_is_refused(tmp_path):
    net = networks.CifarResNet()
    torch.save({key: t for key, t in net.state_dict().items() if "running" not in key}, tmp_path / "x.pth")
    model = zoo.create_model("resnet20_cifar", norm="group:8")
    with pytest.raises(
        zoo.UserError, match=r"x.pth does not fit CIFAR ResNet in PyTorch: .* Missing key.*running_mean"
    ):
        peers.verify(tmp_path / "x.pth", model, import_weights(model, tmp_path / "x.pth"), "resnet20_cifar")


def test_recurrent_layers_without_a_name_are_refused(tmp_path):
    net = torch.nn.LSTM(4, 5, batch_first=True)
    net.decoder = torch.nn.Linear(5, 2)
    model = zoo.create_model("lstm_classifier", width=5, bidirectional=False, pool="last")
    done = import_weights(model, saved(net, tmp_path / "x.pth"), input=(6, 4))
    with pytest.raises(zoo.UserError, match="'weight_ih_l0' without a name before it"):
        peers.verify(tmp_path / "x.pth", model, done, "lstm_classifier", (6, 4))


def test_a_file_with_nothing_to_compare_is_refused(tmp_path):
    model = zoo.create_model("mlp", widths=(), num_classes=2)
    variables = model.init(jax.random.key(0), np.zeros((1, 3), np.float32))
    zoo.save_weights(tmp_path / "x.safetensors", model, variables)
    done = import_weights(model, tmp_path / "x.safetensors")
    with pytest.raises(zoo.UserError, match=r"nothing to compare .* with \(our own names\); there is for CIFAR ResNet"):
        peers.verify(tmp_path / "x.safetensors", model, done, "mlp")


def verify(path, *flags):
    command = [sys.executable, "scripts/import_weights.py", path, *flags, "--verify"]
    code = "import sys; sys.path[:0] = sys.argv.pop(1).split(':'); import runpy, importlib.util as i; "
    code += "i.find_spec('torchvision_cpu') and __import__('torchvision_cpu'); sys.argv.pop(0); "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command[1:2] = ["-W", "ignore", "-c", code, f"{ROOT}:{TOOLS}", "scripts/import_weights.py"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=140)


def test_verify(tmp_path):
    """The file is bfloat16, as many are."""
    net = randomized(package("torchvision").resnet18(num_classes=3))
    state = {name: t.bfloat16() if t.is_floating_point() else t for name, t in net.state_dict().items()}
    torch.save(state, tmp_path / "x.pth")
    done = verify(tmp_path / "x.pth", "--model=resnet18", "--option=num_classes=3")
    assert done.returncode == 0, done.stderr
    found = re.findall(r"x.pth: (.*) within ([0-9.e+-]+)( of torchvision.models.resnet18's)?", done.stdout)
    assert [what for what, *_ in found] == ["logits", "maps of 5 stages", "loss of a training step", "its gradients"]
    assert all(float(far) < 1e-4 for _, far, _ in found[:3])
    assert float(found[3][1]) < 1e-2
    done = verify(tmp_path / "x.pth", "--model=resnet18", "--option=num_classes=4")
    assert done.returncode == 2
    assert "--verify compares whole models" in done.stderr


def test_the_command_passes_the_shape_of_images_on(tmp_path):
    path = saved(PEERS["mlp"].make(), tmp_path / "x.pth")
    options = [f"--option={name}={value}" for name, value in PEERS["mlp"].options.items()]
    done = verify(path, "--model=mlp", *options, "--input=4,5,3")
    assert done.returncode == 0, done.stderr
    assert re.search(r"x.pth: logits within [0-9.e+-]+ of PyTorch's, relative to the largest\n", done.stdout)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real weights in {REAL}")
def test_published_weights():
    path, model = REAL / "resnet20-12fca82f.th", zoo.create_model("resnet20_cifar")
    assert len(proven(path, model, "resnet20_cifar", changed=False)) == 4


@pytest.mark.parametrize("part", ["logits", "maps of 2 stages", "loss of a training step", "its gradients"])
def test_verify_refuses_whatever_differs(part):
    right = {"logits": np.ones(3), "maps": [np.ones(3)] * 2, "step": (1.0, {"kernel": np.ones(3), "bias": np.ones(2)})}
    wrong = {
        "logits": {"logits": np.full(3, 1.001)},
        "maps of 2 stages": {"maps": [np.ones(3), np.full(3, 1.001)]},
        "loss of a training step": {"step": (1.001, right["step"][1])},
        "its gradients": {"step": (1.0, {"kernel": np.ones(3), "bias": np.full(2, 1.1)})},
    }
    right, wrong = peers.Outputs(**right), peers.Outputs(**right | wrong[part])
    assert len(list(peers._compared("x", "theirs", right, right))) == 4
    with pytest.raises(zoo.UserError, match=f"--verify: x: {part} within 1.0e-0.*; at most 1e-0. is rounding"):
        list(peers._compared("x", "theirs", wrong, right))


def test_a_gradient_that_is_rounding_on_both_sides_is_no_difference():
    theirs = {"kernel": np.ones(4), "bias": np.full(4, 1e-7)}
    assert peers._far_by_norm(theirs | {"bias": np.full(4, -2e-7)}, theirs) == 0
    assert peers._far_by_norm(theirs | {"bias": np.full(4, 1e-5)}, theirs) > 1
    theirs["bias"] = np.full(4, 2e-6)
    assert peers._far_by_norm(theirs | {"bias": np.full(4, 2.2e-6)}, theirs) == pytest.approx(0.1)
