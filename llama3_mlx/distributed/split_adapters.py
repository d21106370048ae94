"""The adapters over a model on several processes: each holds its share of them, and rank 0 says which count."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..adapters.adapter import Adapter
from ..adapters.adapter_set import AdapterSet
from ..adapters.mlx_lm_format import CONFIG, PEFT_WEIGHTS, WEIGHTS, read_adapter
from ..adapters.rescaling import AdapterBase, folder_base
from ..checkpoint.folder import ModelFolder
from ..errors import AdapterError, Llama3MLXError, RequestError
from ..json_types import JsonObject
from ..model.channel_scales import SCALES_NAME
from ..model.transformer import LlamaForCausalLM
from .adapter_share import adapter_share
from .leader import Leader
from .orders import Order
from .shares import Share
from .split_model import LeaderLlama

if TYPE_CHECKING:
    from .loading import Nodes

Mix = str | Mapping[str, float] | None


class ShareAdapters(AdapterSet):
    """The adapters over one process's share. Names, checks and scales are those of the whole model's."""

    def __init__(self, model: LlamaForCausalLM, share: Share, folder: ModelFolder) -> None:
        super().__init__(model)
        self._share, self._whole = share, folder_base(folder)

    def _base(self) -> AdapterBase:
        return self._whole

    def _held(self, adapter: Adapter) -> Adapter:
        return adapter_share(adapter, self._share, self._whole)


class FollowerAdapters(ShareAdapters):
    """A follower's: does what the leader's orders say."""

    def obey(self, request: JsonObject) -> JsonObject:
        """Load or unload; return what is refused, if anything is."""
        name, folder = request["name"], request.get("folder")
        try:
            if folder is None:
                self.unload(name)
            else:
                _check_same(Path(folder), request["digest"])
                self.load(name, folder)
        except Llama3MLXError as error:
            return {"refused": str(error)}
        return {}

    def weigh(self, numbers: Sequence[int]) -> None:
        """Apply the weights that `encode_weights` has written."""
        rows = np.asarray(numbers, np.int32).view(np.float32).reshape(-1, len(self.names)).tolist()
        self._set_weights([dict(zip(self.names, row, strict=True)) for row in rows])


class LeaderAdapters(ShareAdapters):
    """Rank 0's, which stand for those of all: they are loaded everywhere, or nowhere."""

    def __init__(self, model: LlamaForCausalLM, nodes: "Nodes") -> None:
        """`model` is rank 0's end of the model that lies on the nodes."""
        assert isinstance(model, LeaderLlama), "the model lies on these nodes"
        assert nodes.folder is not None, "it was loaded"
        super().__init__(model.share, nodes.shares[0], nodes.folder)
        self._leader: Leader = nodes.leader
        self._order = model.mirror.order
        self._told: list[int] = []

    def load(self, name: str, path: str | Path, *, active: bool = False) -> None:
        """Load an adapter folder, which must be the same on all machines, under a name.

        Raises AdapterError, naming the rank, where one of the others has no such folder or refuses it.
        """
        folder = Path(path).expanduser().resolve()
        super().add(name, read_adapter(folder, self._base()))
        try:
            self._tell({"name": name, "folder": str(folder), "digest": _digest(folder)})
        except AdapterError:
            super().unload(name)
            raise
        self.select(name if active else self._mix)

    def add(self, name: str, adapter: Adapter) -> None:
        """Refuse: the other processes couldn't have it."""
        raise RequestError("a model on several nodes takes adapters from folders, which all machines have: load it")

    def unload(self, name: str) -> None:
        """Forget an adapter everywhere."""
        super().unload(name)
        self._tell({"name": name})
        self.select(self._mix)

    def clear(self) -> None:
        """Take all adapters off."""
        for name in self.names:
            self.unload(name)
        super().clear()

    def select(self, choice: Mix) -> None:
        """Apply one adapter, a mixture {name: weight}, or none, to all rows."""
        super().select(choice)
        self._weigh([choice])

    def select_rows(self, choices: Sequence[Mix]) -> None:
        """Apply to each row of the next batches its own adapter, mixture or none."""
        super().select_rows(choices)
        self._weigh(choices)

    def _weigh(self, choices: Sequence[Mix]) -> None:
        mixes = [self._as_mix(choice) for choice in choices]
        rows = [[mix.get(name, 0.0) for name in self.names] for mix in mixes]
        numbers = np.asarray(rows, np.float32).view(np.int32).reshape(-1).tolist()
        if numbers and numbers != self._told:
            self._order(Order.WEIGH, *numbers)
            self._told = numbers

    def _tell(self, request: JsonObject) -> None:
        """Have all followers load or unload; raises AdapterError, nothing having changed there, where one refuses."""
        self._told = []
        self._leader.tell({"do": "adapter", **request})
        answers = self._leader.answers()
        refusing = [rank for rank, answer in answers.items() if "refused" in answer]
        if not refusing:
            return
        if len(refusing) < len(answers):
            self._leader.tell({"do": "adapter", "name": request["name"]})
            self._leader.answers()
        raise AdapterError(f"{self._leader.name(refusing[0])}: {answers[refusing[0]]['refused']}")


def _check_same(folder: Path, digest: str) -> None:
    if not folder.is_dir():
        raise RequestError(f"{folder} isn't on this machine: an adapter must be in the same folder on all")
    if _digest(folder) != digest:
        raise RequestError(f"{folder} holds another adapter than on rank 0: copy the same one to both")


def _digest(folder: Path) -> str:
    """Return the SHA-256 of an adapter's files."""
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS, PEFT_WEIGHTS, SCALES_NAME):
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
