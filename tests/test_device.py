"""What depends on the device and the system."""

import os
import re
from pathlib import Path

import mlx.core as mx
import pytest

from llama3_mlx import device
from llama3_mlx.engine import engine as engine_module

from .support.byte_llama import byte_llama


@pytest.mark.parametrize(
    ("available", "level"), [(50, device.NORMAL), (8, device.WARNING), (3, device.CRITICAL), (None, device.NORMAL)]
)
def test_linux_tells_its_memory_pressure(tmp_path: Path, available: int | None, level: int) -> None:
    lines = ["MemTotal:        1000 kB"]
    if available is not None:
        lines.append(f"MemAvailable:     {available * 10} kB")
    (tmp_path / "meminfo").write_text("\n".join(lines) + "\n")
    assert device.linux_pressure(tmp_path / "meminfo") == level
    assert device.linux_pressure(tmp_path / "absent") == device.NORMAL


def test_pressure_makes_the_engine_let_go_of_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    with byte_llama() as llama:
        for seed in range(4):
            llama.generate([seed + 1] * 300, max_tokens=2)
        held = llama.engine.prefix_cache.nbytes
        for level, most in ((device.WARNING, held // 2), (device.CRITICAL, 0)):
            monkeypatch.setattr(engine_module, "memory_pressure", lambda level=level: level)
            llama.engine.call(lambda: setattr(llama.engine, "_checked_pressure_s", 0.0))
            llama.generate([9], max_tokens=1)
            assert llama.engine.prefix_cache.nbytes <= most


def test_memory_is_wired_while_something_runs_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Mac the limit is set when work begins and restored when it ends; here the calls are recorded."""
    limits: list[int] = [0]

    def set_limit(limit: int) -> int:
        limits.append(limit)
        return limits[-2]

    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "set_wired_limit", set_limit)
    monkeypatch.setattr(device, "working_memory_bytes", lambda: 12345)
    with device.wired_memory():
        assert limits[-1] == 12345
    assert limits[-1] == 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from /proc")
def test_freed_memory_goes_back_to_the_system() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    arrays = [mx.full((250_000,), float(n)) for n in range(200)]
    mx.eval(arrays)
    assert resident() > before + 150_000_000
    # The last one stays: what lies below it in the heap can't go by lowering the heap's end.
    last = arrays.pop()
    del arrays
    device.give_back_free_memory()
    assert resident() < before + 50_000_000
    assert last[0].item() == 199


def test_no_other_module_asks_for_the_device() -> None:
    """What differs between back ends is decided in device.py, where all such choices are listed."""
    package = Path(device.__file__).parent
    asking = re.compile(r"\bon_gpu\b|default_device|DeviceType|metal\.is_available|mx\.gpu\b")
    found = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if path.name != "device.py" and asking.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.usefixtures("gpu_branches")
def test_the_back_end_of_a_gpu_can_be_chosen_in_one_place() -> None:
    assert device.back_end() is device.GPU
    assert device.compute_dtype(None, mx.float16, fits_float16=True) == mx.float16
