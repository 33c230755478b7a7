"""Weights on the Hugging Face hub: `hf:owner/repo[/file][@revision]`, downloaded once and cached by its library."""

import importlib
import re

from zoo.errors import UserError

FILES = ("model.safetensors", "pytorch_model.bin")  # tried in this order where no file is named


def download(source: str) -> str:
    """The path of the file on this machine; offline (HF_HUB_OFFLINE=1) only what is cached."""
    found = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:/([^@]+))?(?:@(.+))?", source)
    if not found:
        raise UserError(f"{source!r} is not an address on the hub; it must be hf:owner/repo[/file][@revision]")
    repo, file, revision = found.groups()
    try:
        # An extra: only these addresses need it.
        hub, errors = (importlib.import_module(name) for name in ("huggingface_hub", "huggingface_hub.errors"))
    except ImportError:
        raise UserError(f"{source} needs huggingface_hub: pip install -e '.[hf]'") from None
    error = None
    for name in (file,) if file else FILES:
        try:
            return hub.hf_hub_download(repo, name, revision=revision)
        except (errors.EntryNotFoundError, errors.LocalEntryNotFoundError) as missing:
            error = missing
        except (errors.HfHubHTTPError, OSError, ValueError) as refused:
            error = refused
            break
    raise UserError(f"cannot fetch {source}: {str(error).strip().splitlines()[0]}")
