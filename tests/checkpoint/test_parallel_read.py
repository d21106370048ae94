"""Stretches of files, read in one piece and in several threads."""

import os
from pathlib import Path

import numpy as np
import pytest

from llama3_mlx import CheckpointError
from llama3_mlx.checkpoint.parallel_read import read_into


@pytest.mark.parametrize("size", [0, 1, 1000, 4_000_001, 9_999_999])
def test_what_is_read_is_what_stands_there(tmp_path: Path, size: int) -> None:
    data = np.random.default_rng(0).integers(0, 256, 10_000_100, np.uint8)
    (tmp_path / "x").write_bytes(data.tobytes())
    file = os.open(tmp_path / "x", os.O_RDONLY)
    held = np.zeros(size, np.uint8)
    read_into(file, held.data, 100)
    os.close(file)
    np.testing.assert_array_equal(held, data[100 : 100 + size])


@pytest.mark.parametrize("size", [200, 5_000_000])
def test_a_file_that_ends_too_early_is_an_error(tmp_path: Path, size: int) -> None:
    (tmp_path / "x").write_bytes(bytes(size - 50))
    file = os.open(tmp_path / "x", os.O_RDONLY)
    with pytest.raises(CheckpointError, match=rf"the file ended at byte {size - 50} while 50 more were due"):
        read_into(file, np.zeros(size, np.uint8).data, 0)
    os.close(file)
