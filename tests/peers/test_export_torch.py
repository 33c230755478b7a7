"""Our weights under the names of others: PyTorch takes them with strict=True and computes the same."""

import jax
import numpy as np
import pytest
from test_torch_weights import compare
from torch_networks import LM, PEERS, RECURRENT, SMALL, jit, small_torchvision, torch

import zoo
from zoo.weights import import_weights, shapes


def random_variables(model, shape):
    """Of every parameter and statistic, with values that no mistake leaves as they are."""
    rng = np.random.default_rng(5)

    def leaf(path, like):
        scale = 0.5 * like.shape[-2] ** -0.5 if len(like.shape) > 1 else 0.3
        array = scale * rng.standard_normal(like.shape, np.float32)
        return np.abs(array) + 0.5 if path[-1].key in ("scale", "var") else array

    return jax.tree_util.tree_map_with_path(leaf, shapes.of(model, shape)[0])


def equal(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize("name", PEERS)
def test_strict_and_the_same_logits(tmp_path, name):
    peer = PEERS[name]
    model, net = zoo.create_model(peer.ours, **peer.options), peer.make().eval()
    variables = random_variables(model, peer.shape)
    path = tmp_path / "x.pth"
    zoo.save_weights(path, model, variables, layout=peer.layout, input=peer.shape)
    net.load_state_dict(torch.load(path, weights_only=True), strict=True)
    compare(model, variables, net, peer.shape)
    equal(import_weights(model, path, input=peer.shape).variables, variables)


def test_safetensors_and_npz(tmp_path):
    """The library's own loader gives torch's tensors; the three formats hold the same."""
    load_file = pytest.importorskip("safetensors.torch").load_file
    model = zoo.create_model("resnet18", **SMALL)
    variables = random_variables(model, (33, 33, 3))
    for ending in ("safetensors", "npz", "pt"):
        zoo.save_weights(tmp_path / f"x.{ending}", model, variables, layout="torchvision")
        equal(import_weights(model, tmp_path / f"x.{ending}").variables, variables)
    net = small_torchvision("BasicBlock")
    net.load_state_dict(load_file(tmp_path / "x.safetensors"), strict=True)
    kept = torch.load(tmp_path / "x.pt", weights_only=True)
    for key, tensor in np.load(tmp_path / "x.npz").items():
        np.testing.assert_array_equal(net.state_dict()[key], tensor)
        assert torch.equal(kept[key], net.state_dict()[key])


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent(tmp_path, name):
    """In, the same logits; out again, under the names of the example, strictly; and back, bit for bit."""
    ours, options, make = RECURRENT[name]
    torch.manual_seed(0)
    model, net = zoo.create_model(ours, **options), make()
    torch.save(net.state_dict(), tmp_path / "theirs.pth")
    done = import_weights(model, tmp_path / "theirs.pth")
    assert done.rules == "recurrent layers of PyTorch"
    token = np.random.default_rng(0).integers(0, 11, (3, 7)).astype(np.int32)
    apply = jit(model.apply)
    with torch.no_grad():
        wanted = net(torch.from_numpy(token)).numpy()
    np.testing.assert_allclose(apply(done.variables, token), wanted, rtol=1e-4, atol=1e-5)
    zoo.save_weights(tmp_path / "ours.pth", model, done.variables, layout="torch")
    again = make()
    again.load_state_dict(torch.load(tmp_path / "ours.pth", weights_only=True), strict=True)
    with torch.no_grad():
        np.testing.assert_allclose(again(torch.from_numpy(token)).numpy(), wanted, rtol=1e-5, atol=1e-6)
    equal(import_weights(model, tmp_path / "ours.pth").variables, done.variables)


def test_a_gru_needs_both_biases(tmp_path):
    torch.save(RECURRENT["gru"][2]().state_dict(), tmp_path / "x.pth")
    model = zoo.create_model("lstm_lm", **LM, cell="gru")
    with pytest.raises(zoo.UserError, match=r"recurrent layers of PyTorch; the model must have biases=2, not 1"):
        import_weights(model, tmp_path / "x.pth")


def test_a_tied_model_refuses_two_kernels(tmp_path):
    net = RECURRENT["tied"][2]()
    net.decoder.weight = torch.nn.Parameter(net.encoder.weight + 1)
    torch.save(net.state_dict(), tmp_path / "x.pth")
    with pytest.raises(zoo.UserError, match=r"embed/embedding: tied cannot take .* the model ties them"):
        import_weights(zoo.create_model("lstm_lm", **LM | {"width": 6, "tied": True}), tmp_path / "x.pth")
