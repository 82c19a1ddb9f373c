"""What the trainer's tests share. No hub, one thread: results are then the same on every machine of a kind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
settings.register_profile("whole", deadline=None, max_examples=100)
settings.register_profile("developer", deadline=None, max_examples=20)


def pytest_configure(config: pytest.Config) -> None:
    """The developer's loop (`-m "not slow ..."`) tries fewer examples than the whole suite."""
    settings.load_profile("developer" if "not slow" in config.option.markexpr else "whole")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported stays: it is not looked through for garbage while it is loaded, nor at any later time, as after
    every run of one of Streamlit's pages."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one thread, whatever a test before has set."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Specs of the small world's domains by name."""
    from small_world import write_domains

    return write_domains(tmp_path_factory.mktemp("domains"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world's model."""
    from small_world import write_model

    return write_model(tmp_path_factory.mktemp("model"), seed=1)


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store for recipes that share teachers."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(autouse=True)
def same_main_module() -> Iterator[None]:
    """Streamlit's AppTest leaves its script behind as the main module, which worker processes would then run."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


VERL = [
    "verl==0.9.1", "hydra-core", "omegaconf", "antlr4-python3-runtime==4.9.3", "tensordict", "ray", "pyvers", "orjson",
    "cloudpickle", "msgpack", "codetiming",
]  # fmt: skip


@pytest.fixture(scope="session")
def verl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds verl, installed apart from everything else; MOPD_TEST_VERL names one that stands already."""
    if "MOPD_TEST_VERL" in os.environ:
        return Path(os.environ["MOPD_TEST_VERL"])
    target = tmp_path_factory.mktemp("verl")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), *VERL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"verl cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return target
