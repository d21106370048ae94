"""The machine that is measured: chip, system, versions, power, heat, and the bandwidth of its memory."""

import platform
import re
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version

import mlx.core as mx

from ..blas import blas_description
from ..device import device_info, working_memory_bytes
from ..json_types import JsonObject
from ..version import __version__

# GB/s of unified memory as Apple's technical specifications say; where a chip is sold with several, the largest.
PUBLISHED_GB_PER_SECOND = {
    "M1": 68.25,
    "M1 Pro": 200,
    "M1 Max": 400,
    "M1 Ultra": 800,
    "M2": 100,
    "M2 Pro": 200,
    "M2 Max": 400,
    "M2 Ultra": 800,
    "M3": 100,
    "M3 Pro": 150,
    "M3 Max": 400,
    "M3 Ultra": 819,
    "M4": 120,
    "M4 Pro": 273,
    "M4 Max": 546,
    "M5": 153,
}
_COPY_BYTES = 256_000_000


def machine_facts() -> JsonObject:
    """Return what figures depend on and doesn't change while they are measured."""
    chip = chip_name()
    return {
        "device": device_info().get("device_name", "") or chip,
        "chip": chip,
        "blas": blas_description(),
        "system": _system(),
        "memory_bytes": working_memory_bytes(),
        "versions": {
            "llama3-mlx": __version__,
            "python": platform.python_version(),
            **{name: installed(name) for name in ("mlx", "mlx-lm", "xllamacpp")},
        },
    }


def chip_name() -> str:
    """Return the name of the chip, as in `Apple M3 Max`, empty where the system doesn't say."""
    if platform.system() == "Darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string").strip()
    found = re.search(r"^model name\s*: (.+)$", _output("cat", "/proc/cpuinfo"), re.MULTILINE)
    return found[1].strip() if found else platform.processor()


def conditions() -> JsonObject:
    """Return power and heat as they are now: what macOS says, nothing elsewhere."""
    if platform.system() != "Darwin":
        return {}
    return read_conditions(_output("pmset", "-g", "batt"), _output("pmset", "-g"), _output("pmset", "-g", "therm"))


def read_conditions(battery: str, power: str, thermal: str) -> JsonObject:
    """Read the three outputs of `pmset -g batt`, `pmset -g` and `pmset -g therm`."""
    source = re.search(r"drawing from '([^']+)'", battery)
    low = re.search(r"^\s*lowpowermode\s+(\d)", power, re.MULTILINE)
    limit = re.search(r"CPU_Speed_Limit\s*=\s*(\d+)", thermal)
    return {
        "power": source[1] if source else None,
        "low_power_mode": None if low is None else low[1] == "1",
        "cpu_speed_limit_percent": int(limit[1]) if limit else None,
    }


def published_bandwidth(chip: str) -> float | None:
    """Return the published bandwidth of a chip's memory in bytes a second, None for those that aren't Apple's."""
    found = re.search(r"\bM\d( (Pro|Max|Ultra))?\b", chip)
    gigabytes = PUBLISHED_GB_PER_SECOND.get(found[0]) if found and "Apple" in chip else None
    return None if gigabytes is None else gigabytes * 1e9


def measured_bandwidth(rounds: int = 5) -> float:
    """Return how many bytes a second a copy reads and writes, the fastest of several."""
    values = mx.zeros(_COPY_BYTES // 4, mx.float32)
    mx.eval(values)
    seconds = []
    for at in range(rounds + 1):
        began = time.perf_counter()
        mx.eval(values + float(at))
        seconds.append(time.perf_counter() - began)
    return 2 * _COPY_BYTES / min(seconds[1:])


def installed(name: str) -> str | None:
    """Return the version of a package, None if it isn't installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _system() -> str:
    mac = platform.mac_ver()[0]
    return f"macOS {mac} {platform.machine()}" if mac else f"{platform.system()} {platform.machine()}"


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
