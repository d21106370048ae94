"""What the Hub's refusals and broken connections mean, in one line each.

The HTTP library below huggingface_hub has changed over its versions; here its errors are told by the hub package's own
classes and their bases, so that none is imported by name.
"""

from ..errors import HubError


def as_hub_error(repo_id: str, revision: str | None, error: Exception, doing: str = "download of") -> HubError:
    """Return the error that says in one line what went wrong and what to do."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, HubError):
        return error
    if isinstance(error, LocalEntryNotFoundError):
        # Raised where the Hub didn't answer and the cache can't stand in for it; the cause is why it didn't.
        cause = error.__cause__
        if not isinstance(cause, Exception):
            return HubError(_not_cached(repo_id))
        error = cause
    work = f"the {doing} {repo_id}"
    refusal = _refusal(repo_id, revision, error)
    if refusal is not None:
        return HubError(refusal)
    if isinstance(error, HfHubHTTPError):
        return HubError(_status_line(work, error))
    if isinstance(error, _connection_errors()) and not _is_local(error):
        if _never_connected(error):
            return HubError(f"{work} failed: the Hub can't be reached ({_one_line(error)}): check the network")
        return HubError(f"the Hub broke off {work}: {_one_line(error)}; run it again: finished files are kept")
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return HubError(f"{work} failed: {error.strerror}{where}; run it again: finished files are kept")
    return HubError(f"{work} failed: {type(error).__name__}: {_one_line(error)}")


def _refusal(repo_id: str, revision: str | None, error: Exception) -> str | None:
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return (
            f"{repo_id} is gated: accept its license at https://huggingface.co/{repo_id}, then log in with "
            "'hf auth login' or set HF_TOKEN"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"there is no folder {repo_id} here and no repository of that name on the Hub, or it is private: check "
            "the name, or log in with 'hf auth login'"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no revision {revision!r}"
    if isinstance(error, HFValidationError):
        return f"{repo_id!r} is not a Hub id: {_one_line(error)}"
    if isinstance(error, OfflineModeIsEnabled):
        return _not_cached(repo_id)
    return None


def _not_cached(repo_id: str) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return (
            f"{repo_id} is not complete in the local cache, and the Hub may not be asked: unset HF_HUB_OFFLINE, or "
            "don't call go_offline()"
        )
    return f"{repo_id} is not in the local cache and the Hub can't be reached: check the network, or name a folder"


def _status_line(work: str, error: Exception) -> str:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    if status == 429:
        wait = response.headers.get("Retry-After") if response is not None else None
        pause = f"{wait} seconds" if wait and wait.isdecimal() else "some minutes"
        return (
            f"the Hub refused {work}: too many requests (HTTP 429); wait {pause}, or log in with 'hf auth login' for a "
            "higher limit"
        )
    if status >= 500:
        return f"the Hub failed at {work} (HTTP {status}): that is a fault of its own, try again later"
    if status == 401:
        return f"the Hub refused {work}: your token isn't valid (HTTP 401); log in with 'hf auth login' or set HF_TOKEN"
    return f"the Hub refused {work}: {_one_line(error)}"


def _connection_errors() -> tuple[type[BaseException], ...]:
    """Return the classes that errors of the HTTP library derive from, whichever it is."""
    from huggingface_hub.errors import HfHubHTTPError

    general = (HfHubHTTPError, Exception, BaseException, object)
    return tuple(kind for kind in HfHubHTTPError.__mro__ if kind not in general)


def _is_local(error: Exception) -> bool:
    """Return whether an OSError is about a file: those of connections name none."""
    return isinstance(error, OSError) and not isinstance(error, ConnectionError) and bool(error.filename or error.errno)


def _never_connected(error: Exception) -> bool:
    name = type(error).__name__
    return isinstance(error, ConnectionRefusedError) or name.startswith(("Connect", "Proxy", "PoolTimeout"))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
