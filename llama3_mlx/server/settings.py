"""Settings of the server: each declared once, with its help; flags come from here."""

import ipaddress
import os
from dataclasses import dataclass

from ..distributed.membership import membership
from ..distributed.settings import SPLITS
from ..errors import RequestError
from ..settings import setting, validate

API_KEY_VARIABLE = "LLAMA3_MLX_API_KEY"
LOG_FORMATS = ("text", "json")
GUARDED = ("both", "input", "output")
SHIELD_MODES = ("annotate", "block")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Settings of one server."""

    host: str = setting("127.0.0.1", "address to listen on; beyond loopback an API key is required")
    port: int = setting(8080, "port to listen on (0: any free one)", low=0, high=65535)
    api_key: str | None = setting(None, f"key that requests must carry (better: ${API_KEY_VARIABLE})")
    allow_origin: tuple[str, ...] = setting((), "web origin that may call the server from a browser; repeatable")
    allow_host: tuple[str, ...] = setting((), "further host name that requests may be addressed to; repeatable")
    default_model: str | None = setting(
        None, "model for requests that name none, or one that isn't there (default: the first one, and an error)"
    )
    draft: tuple[str, ...] = setting(
        (), "smaller model or EAGLE-3 head that drafts tokens, as MODEL=DRAFT, or DRAFT for the first model; repeatable"
    )
    memory_gb: float | None = setting(
        None, "memory for models and their contexts, in GB (default: 75%% of what this machine can use)", low=0.001
    )
    keep_alive_s: float = setting(300.0, "seconds an unused model stays in memory (-1: for ever)", low=-1)
    nodes: int | None = setting(
        None, "split each model over so many processes (default: those of mlx.launch, else one)", low=1
    )
    split: str = setting("auto", "split heads and columns (tensor) or whole layers (pipeline)", choices=SPLITS)
    max_running: int = setting(16, "requests of one model that run in one batch", low=1, high=256)
    max_queue: int = setting(64, "requests that may wait in the queue; further ones are refused with 429", low=0)
    max_tokens: int | None = setting(None, "maximum tokens of an answer (default: what the context allows)", low=1)
    max_choices: int = setting(16, "answers that one request may ask for (n, prompts in a list)", low=1)
    timeout_s: float = setting(600.0, "seconds a request may take; its answer ends there", low=0.1)
    body_timeout_s: float = setting(30.0, "seconds that sending a request's body may take", low=0.1)
    max_body_mb: float = setting(16.0, "maximum size of a request's body in MB", low=0.001)
    max_depth: int = setting(64, "maximum nesting of a request's JSON, schemas included", low=4, high=150)
    manage: bool = setting(True, "let requests pull, make, copy and delete models")
    parse_special: bool = setting(
        False, "recognize control tokens in the prompts of /v1/completions and of Ollama's raw mode"
    )
    guard: str | None = setting(
        None,
        "Llama Guard (folder, name or Hub id) that judges requests before answers, and answers before they are sent",
    )
    guard_on: str = setting("both", "what the guard judges: input, output or both", choices=GUARDED)
    guard_every: int = setting(
        200, "characters of a streamed answer from one judgement to the next, and that follow what is passed on", low=1
    )
    shield: str | None = setting(
        None,
        "scan fenced code of answers for weaknesses: annotate adds notes, block leaves insecure code out",
        choices=SHIELD_MODES,
    )
    log_format: str = setting(
        "text", "format of the log on stderr: text, or json (one object a line)", choices=LOG_FORMATS
    )
    log_prompts: bool = setting(False, "write prompts and answers to the log")

    def __post_init__(self) -> None:
        validate(self)
        if not self.on_loopback and not self.key:
            raise RequestError(
                f"listening on {self.host} lets other machines in, so an API key is required: set ${API_KEY_VARIABLE}, "
                "or keep to the default 127.0.0.1"
            )

    @property
    def n_nodes(self) -> int:
        """Over how many processes a model lies."""
        if self.nodes is not None:
            return self.nodes
        member = membership()
        return 1 if member is None else member.size

    @property
    def key(self) -> str | None:
        """The API key: the setting's, else the environment's."""
        return self.api_key or os.environ.get(API_KEY_VARIABLE) or None

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
