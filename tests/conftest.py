"""How all tests run: on 4 fake CPU devices, with strict shapes, away from the user's cache."""

import contextlib
import os
import pathlib
import signal

import pytest

# XLA reads its flags once, so they must stand before the first import of jax. The last of two equal flags wins.
DEVICES = 4
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the fake devices are CPUs; set it to run the tests elsewhere

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import Mesh  # noqa: E402

from zoo import compilation, loop  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# Real data that is too large for the repository lies beside the checkout, where there is any.
SHARED_DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _environment(tmp_path_factory):
    """One compilation cache for the session (processes that tests start inherit it), never the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE_DIR", str(tmp_path_factory.mktemp("zoo_cache")))
        if SHARED_DATA.is_dir():
            patch.setenv("ZOO_DATA_DIR", str(SHARED_DATA))
        compilation.enable_cache()
        yield


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real data; skips the test where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the real data in {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture
def signalled():
    """signalled(step): while open, a run in this process gets SIGTERM as it does the step after so many."""

    @contextlib.contextmanager
    def during(step: int):
        def prepare_and_signal(*args):
            run = prepare(*args)

            def train_step(state, *rest):
                if int(state.step) == step:
                    os.kill(os.getpid(), signal.SIGTERM)
                return run.train_step(state, *rest)

            return run._replace(train_step=train_step)

        prepare = loop.prepare
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "prepare", prepare_and_signal)
            yield

    return during


@pytest.fixture(scope="session")
def mesh():
    """All devices in one axis, as in a run."""
    assert jax.local_device_count() == DEVICES
    return Mesh(np.array(jax.local_devices()), ("data",))
