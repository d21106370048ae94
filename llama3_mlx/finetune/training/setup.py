"""The model of a run: its weights, with trainable layers in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...adapters.adapter import from_model, put_into
from ...adapters.mlx_lm_format import read_adapter, save_adapter
from ...adapters.rescaling import adapter_base
from ...checkpoint.loading import load_model
from ...errors import TrainingError
from ...model.config import ModelConfig
from ...model.transformer import LlamaForCausalLM
from ...model.unpacked import unpack_products
from ..layers.attach import attach, unfreeze_full
from ..layers.dropout import Noise
from ..layers.targets import LoRATarget, choose_full, choose_paths, make_targets, read_ranks
from ..settings import TrainSettings
from .job import TextSide


@dataclass(frozen=True)
class AdapterProduct:
    """A run that trains an adapter."""

    text: TextSide
    settings: TrainSettings

    def load(self) -> tuple[LlamaForCausalLM, Noise]:
        """Return the model with trainable layers in it, and the source of their dropout."""
        return load_for_training(self.text, self.settings)

    def save(self, model: LlamaForCausalLM, folder: Path, base: str) -> None:
        """Write the adapter."""
        save_adapter(folder, from_model(model, dropout=self.settings.dropout, base=base), model.config)

    def restore(self, model: LlamaForCausalLM, folder: Path) -> None:
        """Put the folder's adapter into the model."""
        put_into(model, read_adapter(folder, adapter_base(model)))


def load_for_training(text: TextSide, settings: TrainSettings) -> tuple[LlamaForCausalLM, Noise]:
    """Return the model with trainable layers in it, and the source of their dropout."""
    model = load_model(text.folder, dtype=settings.dtype, join=False)
    # Needed even without an adapter: what makes the model unfit for one must not show at the first save.
    base = adapter_base(model)
    start = read_adapter(Path(settings.start_from).expanduser(), base) if settings.start_from else None
    noise = prepare_model(model, lora_targets(text.config, settings), settings)
    if start:
        put_into(model, start)
    return model, noise


def lora_targets(config: ModelConfig, settings: TrainSettings) -> list[LoRATarget]:
    """Return the layers to adapt; raises RequestError for names that the model doesn't have."""
    paths = choose_paths(config, settings.target_names, settings.layers)
    return make_targets(paths, settings.rank, settings.alpha, read_ranks(settings.rank_for), rslora=settings.rslora)


def check_modules(config: ModelConfig, settings: TrainSettings) -> None:
    """Raise RequestError or TrainingError, before any data or weights are read, for modules that can't be trained."""
    if not lora_targets(config, settings) and not choose_full(config, settings.modules_to_save):
        raise TrainingError("nothing is to be trained: name targets or modules_to_save")


def prepare_model(model: LlamaForCausalLM, targets: Sequence[LoRATarget], settings: TrainSettings) -> Noise:
    """Put trainable layers into a loaded model."""
    full = choose_full(model.config, settings.modules_to_save)
    kept = [target for target in targets if target.path not in full]
    unpack_products(model)
    noise = attach(model, kept, dropout=settings.dropout, dora=settings.dora, seed=settings.seed)
    unfreeze_full(model, full)
    if not model.trainable_parameters():
        raise TrainingError("nothing is to be trained: name targets or modules_to_save")
    return noise
