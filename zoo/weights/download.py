"""Weights at `https://...#sha256=<64 hex digits>`: fetched once, believed only with the right content."""

import hashlib
import http.client
import os
import pathlib
import re
import shutil
import urllib.error
import urllib.request

from zoo import compilation
from zoo.errors import UserError
from zoo.replacing import replaced

TIMEOUT = 60  # seconds without a byte


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if not newurl.startswith("https://"):
            raise urllib.error.URLError(f"it leads to {newurl[:80]}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


opener = urllib.request.build_opener(_OnlyHttps)


def download(source: str) -> pathlib.Path:
    """The path of the file in the cache folder, below its hash.

    Raises:
      UserError: no hash, no connection, or another content than the hash says.
    """
    url, _, wanted = source.partition("#sha256=")
    if not re.fullmatch(r"[0-9a-fA-F]{64}", wanted):
        raise UserError(f"{source} needs the hash of its content: https://...#sha256=<64 hex digits>")
    folder = compilation.cache_dir() / "weights"
    path = folder / wanted.lower()
    if path.is_file() and _sha256(path) == wanted.lower():
        return path
    folder.mkdir(mode=0o700, exist_ok=True)
    with replaced(path) as temporary:
        try:
            with opener.open(url, timeout=TIMEOUT) as response, open(temporary, "wb") as file:
                shutil.copyfileobj(response, file, 2**20)
        except (OSError, http.client.HTTPException, ValueError) as error:  # URLError is an OSError
            raise UserError(f"cannot fetch {url}: {getattr(error, 'reason', None) or error}") from None
        found = _sha256(temporary)
        if found != wanted.lower():
            raise UserError(f"{url} has the sha256 {found}, not {wanted.lower()}; it was not used")
    return path


def _sha256(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
