"""Fixtures and settings that all tests share."""

import faulthandler
import gc
import os
import signal

# transformers must not look for a network, and its own warnings are not ours.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# What one test leaves on disk must not reach another.
os.environ.setdefault("LLAMA3_MLX_CACHE_GB", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A shell starts what runs in its background with Ctrl-C ignored, and every child would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

# Before anything imports MLX: the package loads a fast BLAS.
import llama3_mlx  # noqa: F401  # isort: skip
from llama3_mlx import device

from .support.installed_wheel import Installed, install_wheel
from .support.llama3_tokenizer import save_llama3_tokenizer
from .support.quick_kernels import quick_path
from .support.small_chat import save_small_chat
from .support.smollm2 import save_smollm2
from .support.tiny_model import save_tiny


def pytest_collection_finish() -> None:
    """Leave what collecting imported, hundreds of thousands of objects, out of each collection of garbage."""
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """Set `faulthandler_timeout` again, which pytest lifts when a test fails: its fixtures may hang."""
    if isinstance(node, pytest.Item):
        seconds = float(node.config.getini("faulthandler_timeout"))
        faulthandler.dump_traceback_later(seconds, file=node.config.stash[fault_handler_stderr_fd_key], exit=True)


@pytest.fixture(scope="session")
def llama3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Llama 3's tokenizer.json and tokenizer_config.json."""
    return save_llama3_tokenizer(tmp_path_factory.mktemp("llama3"))


@pytest.fixture(scope="session")
def smollm2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct in float32 as a Hugging Face folder, built without this package."""
    return save_smollm2(tmp_path_factory.mktemp("smollm2"))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, llama3_folder: Path) -> Path:
    """A tiny random model with Llama 3's tokenizer."""
    folder = save_tiny(tmp_path_factory.mktemp("tiny"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).symlink_to(llama3_folder / name)
    return folder


@pytest.fixture(scope="session")
def small_chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model of bytes with Llama 3's dialog format and a tied head."""
    return save_small_chat(tmp_path_factory.mktemp("chat") / "small")


@pytest.fixture(scope="session")
def quick_kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have MLX compile the kernels of whole runs in a sixth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", quick_path(tmp_path_factory.mktemp("kernels")))
        yield


@pytest.fixture
def gpu_branches(quick_kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every choice as on a GPU: what is compiled, in which dtype, with which costs; MLX stays on the CPU."""
    monkeypatch.setattr(device, "on_gpu", lambda: True)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel, and an environment that has it and this one's dependencies, but not this folder."""
    return install_wheel(tmp_path_factory.mktemp("packaging"))
