"""Addresses on the hub, with the library and its cache played by a stand-in: nothing is downloaded."""

import sys
import types

import numpy as np
import pytest
import weight_files as make

from zoo.errors import UserError
from zoo.weights import files


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the stand-in was asked for; it has one repository with one file."""
    calls = []
    names = ("EntryNotFoundError", "LocalEntryNotFoundError", "HfHubHTTPError")
    errors = types.SimpleNamespace(**{name: type(name, (Exception,), {}) for name in names})

    def hf_hub_download(repo, name, revision=None):
        calls.append((repo, name, revision))
        if repo != "owner/repo.v1":
            raise errors.HfHubHTTPError("404 Client Error\nand more")
        if name == "model.safetensors":
            raise errors.EntryNotFoundError("no such file")
        path = tmp_path / "cached"
        path.write_bytes(make.npz({"w": np.ones(2)}))
        return str(path)

    module = types.ModuleType("huggingface_hub")
    module.hf_hub_download, module.errors = hf_hub_download, errors
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return calls


@pytest.mark.parametrize(
    "address, wanted",
    [
        ("hf:owner/repo.v1", [("model.safetensors", None), ("pytorch_model.bin", None)]),
        ("hf:owner/repo.v1/a/b.npz", [("a/b.npz", None)]),
        ("hf:owner/repo.v1/b.npz@v1.0", [("b.npz", "v1.0")]),
        ("hf:owner/repo.v1@main", [("model.safetensors", "main"), ("pytorch_model.bin", "main")]),
    ],
)
def test_addresses(asked, address, wanted):
    assert files.read(address).tensors.keys() == {"w"}
    assert asked == [("owner/repo.v1", *call) for call in wanted]


@pytest.mark.parametrize(
    "address, line",
    [
        ("hf:other/repo", r"cannot fetch hf:other/repo: 404 Client Error$"),
        ("hf:owner/repo.v1/model.safetensors", r"cannot fetch hf:\S+: no such file"),
        ("hf:owner", r"must be hf:owner/repo\[/file\]\[@revision\]"),
        ("hf:owner/re po", r"must be hf:owner/repo"),
    ],
)
def test_refused(asked, address, line):
    with pytest.raises(UserError, match=line):
        files.read(address)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"needs huggingface_hub: pip install -e '\.\[hf\]'"):
        files.read("hf:owner/repo")
