"""What the events of all tabs share: which queue they wait in, and how errors become messages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import gradio as gr

from anomalyhub.errors import AnomalyHubError, Cancelled

log = logging.getLogger(__name__)

#: Heavy work of all visitors runs one at a time; reading uploads may overlap it.
WORK = {"concurrency_id": "work", "concurrency_limit": 1}
READ = {"concurrency_id": "read", "concurrency_limit": 2}
#: Watching a job, which works elsewhere; more watchers than jobs, as one may be watched from several pages.
FOLLOW = {"concurrency_id": "follow", "concurrency_limit": 24, "show_progress": "hidden"}
#: Light work waits for nobody.
LIGHT = {"queue": False, "show_progress": "hidden"}
#: Light work that may fail: the page shows errors of events in the queue only.
QUICK = {"concurrency_limit": None, "show_progress": "hidden"}
#: Begins although the page has not heard yet that the former run, which was cancelled, has ended.
AGAIN = {"trigger_mode": "multiple"}
#: Only keeps the page up to date.
UNLISTED = {"api_visibility": "undocumented", **LIGHT}


def show_after(event: Any, show: Callable[..., list], inputs: Any, outputs: Any, api_name: str) -> Any:
    """After an event, whether it went well or not, show where the visitor stands; returns that event."""
    options = {"fn": errors_shown()(show), "inputs": inputs, "outputs": outputs, **UNLISTED}
    event.failure(**options, api_name=f"{api_name}_after_error")
    return event.then(**options, api_name=api_name)


@contextmanager
def errors_shown() -> Iterator[None]:
    """Turn errors into messages for the visitor; what nobody foresaw goes to the log in full."""
    try:
        yield
    except AnomalyHubError as error:
        known = isinstance(error, Cancelled)  # to the visitor, who has pressed Cancel
        text = escape(str(error), quote=False)  # the page takes it for HTML, and names in it may be a stranger's
        raise gr.Error(text, duration=15, visible=not known, print_exception=False) from error
    except gr.Error:  # of the machine that the app runs on, such as a GPU that cannot be had now
        raise
    except Exception as error:
        log.exception("a callback of the app failed")
        message = "Something went wrong, and it is our fault: the log of the app has the details. Please try again."
        raise gr.Error(message, print_exception=False) from error
