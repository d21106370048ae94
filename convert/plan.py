"""What a conversion will write, known before a weight is read: tensors, their bytes, their shards."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from ..dtypes import STORED_DTYPES
from ..errors import ConversionError
from ..model.config import ModelConfig
from ..model.parameters import expected_tensors, stored_tensors
from ..model.quantization import AFFINE_BITS, AFFINE_GROUP_SIZES, Quantization, Scheme

SHARD_BYTES = 5_000_000_000
AFFINE_SCHEMES = tuple(Scheme(bits, size) for bits in AFFINE_BITS for size in AFFINE_GROUP_SIZES)


@dataclass(frozen=True)
class OutputTensor:
    """A tensor to be written: `dtype` as safetensors names it."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return prod(self.shape) * STORED_DTYPES[self.dtype].nbytes


@dataclass(frozen=True)
class Plan:
    """The output of a conversion: the scheme of each quantized module, the others' dtype, tensors by shard file.

    `quantization` is config.json's entry; `indivisible` names the matrices that stay unquantized because a group size
    doesn't divide their rows.
    """

    config: ModelConfig
    quantization: Quantization | None
    schemes: Mapping[str, Scheme]
    indivisible: tuple[str, ...]
    dtype: str
    shards: Mapping[str, tuple[OutputTensor, ...]]

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensors in self.shards.values() for tensor in tensors)

    @property
    def parameters(self) -> int:
        """Number of weights of the model."""
        return sum(map(prod, expected_tensors(self.config).values()))

    @property
    def bits_per_weight(self) -> float:
        """Bits written for each weight, everything counted."""
        return self.total_bytes * 8 / self.parameters

    @property
    def is_mixed(self) -> bool:
        """Whether the matrices have several schemes, or some have none."""
        return len({self.schemes.get(path) for path in matrices(self.config)}) > 1


def make_plan(
    config: ModelConfig, quantization: Quantization | None, dtype: str, shard_bytes: int = SHARD_BYTES
) -> Plan:
    """Lay out the output. A matrix whose rows a group size doesn't divide stays unquantized."""
    schemes = module_schemes(config, quantization)
    tensors = []
    for name, shape in stored_tensors(config, schemes).items():
        path, _, part = name.rpartition(".")
        scheme = schemes.get(path)
        kept = dtype
        if scheme and part == "weight":
            kept = "U32"
        elif scheme and scheme.mode != "affine" and part == "scales":
            kept = "U8"
        tensors.append(OutputTensor(name, kept, shape))
    requested = quantization.scheme_for if quantization else lambda _: None
    indivisible = tuple(path for path in matrices(config) if requested(path) and path not in schemes)
    entry = quantization_entry(config, quantization.default, schemes) if quantization else None
    return Plan(config, entry, schemes, indivisible, dtype, shard_tensors(tensors, shard_bytes))


def module_schemes(config: ModelConfig, quantization: Quantization | None) -> dict[str, Scheme]:
    """Return the scheme of each matrix that will be quantized, by module path."""
    if quantization is None:
        return {}
    shapes, schemes = expected_tensors(config), {}
    for path in matrices(config):
        scheme = quantization.scheme_for(path)
        if scheme and shapes[f"{path}.weight"][1] % scheme.group_size == 0:
            schemes[path] = scheme
    return schemes


def uniform_bits(target_bpw: float) -> int:
    """Return the bits in groups of 64 that come nearest to a target, with 16-bit scales and biases."""
    return min(AFFINE_BITS, key=lambda bits: abs(Scheme(bits=bits, group_size=64).bits_per_weight - target_bpw))


def reachable_bpw(config: ModelConfig, target_bpw: float) -> float:
    """Return the target, or the most that affine schemes can spend on the model if that is less.

    Raises ConversionError where even the fewest bits are more than the target.
    """
    low = high = total = 0.0
    for shape in expected_tensors(config).values():
        fitting = [s.bits_per_weight for s in AFFINE_SCHEMES if len(shape) == 2 and shape[1] % s.group_size == 0]
        size = prod(shape)
        low, high, total = low + size * min(fitting, default=16), high + size * max(fitting, default=16), total + size
    if target_bpw < low / total:
        raise ConversionError(
            f"{target_bpw} bits per weight can't be met: the minimum for this model is {low / total:.2f}"
        )
    return min(target_bpw, high / total)


def matrices(config: ModelConfig) -> list[str]:
    """Return the paths of the modules that have a matrix, in the model's order."""
    return [name.removesuffix(".weight") for name, shape in expected_tensors(config).items() if len(shape) == 2]


def quantization_entry(config: ModelConfig, default: Scheme, schemes: Mapping[str, Scheme]) -> Quantization:
    """Return the config entry that tells loaders every module's scheme, exceptions only where they are needed."""
    return Quantization(default, {p: schemes.get(p) for p in matrices(config) if schemes.get(p) != default})


def shard_tensors(tensors: Iterable[OutputTensor], shard_bytes: int) -> dict[str, tuple[OutputTensor, ...]]:
    """Fill shards in order; the parts of one quantized module stay together."""
    groups: dict[str, list[OutputTensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.name.rpartition(".")[0], []).append(tensor)
    shards: list[list[OutputTensor]] = [[]]
    used = 0
    for group in groups.values():
        size = sum(tensor.nbytes for tensor in group)
        if shards[-1] and used + size > shard_bytes:
            shards.append([])
            used = 0
        shards[-1] += group
        used += size
    if len(shards) == 1:
        return {"model.safetensors": tuple(shards[0])}
    n = len(shards)
    return {f"model-{i:05d}-of-{n:05d}.safetensors": tuple(shard) for i, shard in enumerate(shards, start=1)}
