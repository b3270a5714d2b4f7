"""Whether the Hub can be reached, and what its refusals mean to a person."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

from anomalyhub.errors import StoreError
from anomalyhub.hub.base import reason

Answer = TypeVar("Answer")
CONNECT_SECONDS = 5.0
_SHOWN = 200
#: Status -> what is wrong and what helps, after "cannot push me/ring: ".
_STATUS = {
    401: "the login is refused; log in again with `hf auth login`, or give a token that is valid",
    402: "the account has no room for it, or needs another plan; free some space there",
    403: "this login may not do that; use a token with the write role, and an owner that you may write to",
    409: "somebody else has changed it meanwhile; push again",
    412: "somebody else has changed it meanwhile; push again",
    413: "it is too large for the account; free some space there, or push less",
    416: "its length is not what it is said to be; try again, and if that does not help, tell its owner",
    429: "too many requests in a short time; wait some minutes and try again",
}


class UnreachableError(StoreError):
    """The Hub does not answer, so that only what is in the cache can be had."""


def answers(url: str) -> bool:
    """Whether a server says anything about a URL, within seconds; the client itself retries for minutes."""
    from huggingface_hub import get_session

    try:
        within(CONNECT_SECONDS + 1.0, lambda: get_session().head(url, timeout=CONNECT_SECONDS))
    except Exception:  # whatever the client raises, the answer is no
        return False
    return True


def within(seconds: float, call: Callable[[], Answer]) -> Answer:
    """What a call returns or raises, or TimeoutError; bounds name resolution too, which no client's timeout covers."""
    future: Future[Answer] = Future()

    def ask() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return future.result(seconds)
    except FutureTimeoutError:
        if future.done():  # the call's own
            raise
        raise TimeoutError(f"no answer within {seconds:.0f} seconds") from None


def refusal(error: BaseException, what: str, endpoint: str, token: str | bool | None) -> StoreError:
    """One sentence for whatever the client raised: what could not be done, why, and what helps.

    what   "push me/ring", after "cannot"
    token  which the sentence does not have in it, whoever said it
    """
    from huggingface_hub import errors

    while isinstance(error, (RuntimeError, errors.LocalEntryNotFoundError)) and error.__cause__ is not None:
        error = error.__cause__  # the reason is below
    if isinstance(error, errors.OfflineModeIsEnabled):
        return offline(what)
    if isinstance(error, errors.LocalTokenNotFoundError):
        return logged_out(what)
    if isinstance(error, errors.GatedRepoError):
        return StoreError(f"cannot {what}: its owner grants access one by one; ask for it on its page, then log in")
    if isinstance(error, errors.RevisionNotFoundError):
        return StoreError(f"cannot {what}: it has no such revision; give a branch, a tag or a commit's id")
    if isinstance(error, errors.EntryNotFoundError):
        return StoreError(f"cannot {what}: {_said(error, token)}; try again")
    if isinstance(error, errors.RepositoryNotFoundError):
        return StoreError(
            f"cannot {what}: {endpoint} has no such repository that this login may read; check the name and the kind, "
            "or log in with `hf auth login`"
        )
    status = getattr(getattr(error, "response", None), "status_code", 0)
    status = 416 if str(error).startswith("Consistency check failed") else status  # an OSError of the client
    if status >= 500:
        return UnreachableError(f"cannot {what}: {endpoint} is in trouble ({status}); try again later")
    if status in _STATUS:
        said = f" ({_said(error, token)})" if getattr(error, "server_message", None) else ""
        status = 413 if status == 403 and "storage" in said.lower() else status  # so the Hub says that it is full
        return StoreError(f"cannot {what}: {_STATUS[status]}{said}")
    if not status and _is_network(error):
        return UnreachableError(
            f"cannot {what}: the connection to {endpoint} broke ({_said(error, token)}); try again, what has been "
            "transferred is kept"
        )
    return StoreError(f"cannot {what}: {_said(error, token)}; put that right and try again")


def logged_out(what: str) -> StoreError:
    return StoreError(
        f"cannot {what}: nobody is logged in; log in with `hf auth login`, set HF_TOKEN, or give a token in the app"
    )


def offline(what: str) -> UnreachableError:
    return UnreachableError(f"cannot {what}: HF_HUB_OFFLINE is set; unset it on a connected machine")


def unreachable(what: str, endpoint: str) -> UnreachableError:
    return UnreachableError(f"cannot {what}: {endpoint} cannot be reached; check the connection, or HF_ENDPOINT")


def _is_network(error: BaseException) -> bool:
    """Whether the client's HTTP library has failed: that library changes, and has errors of its own."""
    modules = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(modules & {"httpx", "httpcore", "requests", "urllib3"}) or isinstance(
        error, (ConnectionError, TimeoutError)
    )


def _said(error: BaseException, token: str | bool | None) -> str:
    """What the server or the client says, on one line and without what must not be shown."""
    said = getattr(error, "server_message", None) or " ".join(str(error).split()) or type(error).__name__
    text = reason(Exception(" ".join(said.split())), token)
    text = "".join(letter for letter in text if letter.isprintable())
    return text.rstrip(".") if len(text) <= _SHOWN else text[:_SHOWN] + "…"
