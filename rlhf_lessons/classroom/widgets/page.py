"""What widgets write on the page: captions, warnings, progress, scripts, and their stand-ins."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets

__all__ = [
    "MESSAGE_STYLE",
    "caption_html",
    "display_bundle",
    "progress_html",
    "script_html",
    "warning_html",
]

_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
MESSAGE_STYLE = "margin:2px 0;line-height:1.5;font-size:13px;color:var(--jp-ui-font-color1,#1a1a1c)"
_WARNING = (
    "margin:4px 0;padding:4px 10px;max-width:700px;line-height:1.5;font-size:13px;"
    "background:#fff4e5;color:#5c2e00;border-left:4px solid #b25e00;white-space:pre-wrap"
)


def caption_html(text: str) -> str:
    """Write a caption in the theme's own text colour; backticks set code.

    Args:
        text: the caption, plain text.

    Returns:
        One `<p>` element, or an empty string for an empty text.
    """
    return f'<p style="{MESSAGE_STYLE};max-width:720px">{html.escape(text)}</p>' if text else ""


def warning_html(text: str) -> str:
    """Write a warning that screen readers announce when it appears.

    Args:
        text: the warning, plain text.

    Returns:
        One element with the role of an alert, or an empty string for an empty text.
    """
    return f'<div role="alert" style="{_WARNING}">{html.escape(text)}</div>' if text else ""


def progress_html(name: str, done: int, total: int | None, width: int) -> str:
    """Write a progress bar that can be read on white and on black.

    The browser's own `<progress>` has a pale track, which looks full on a dark page.

    Args:
        name: what makes progress, for screen readers.
        done: how much of it is done.
        total: how much there is, or None where no one knows: the bar is then striped.
        width: in pixels.

    Returns:
        One element with the role of a progress bar.
    """
    if total is None:
        state, part = "", 100.0
        fill = "repeating-linear-gradient(135deg,#1f5fd6 0 6px,transparent 6px 12px)"
    else:
        state = f'aria-valuemin="0" aria-valuenow="{done}" aria-valuemax="{total}" '
        part, fill = 100.0 * done / max(total, 1), "#1f5fd6"
    return (
        f'<span role="progressbar" aria-label="{html.escape(name, quote=True)}" {state}'
        f'style="display:inline-block;box-sizing:border-box;width:{width}px;height:12px;'
        'vertical-align:middle;overflow:hidden;border:1px solid #8a8a90;border-radius:6px">'
        f'<span style="display:block;width:{part:.4g}%;height:100%;background:{fill}"></span>'
        "</span>"
    )


def script_html(script: str) -> str:
    """Write a script that runs once, when the page shows it: an image that cannot be loaded.

    Args:
        script: JavaScript; `this` is the image, which goes away at the end.

    Returns:
        One `<img>` element without a picture.
    """
    handler = html.escape(f"{script}\nthis.remove();", quote=True)
    return f'<img src="data:," alt="" onerror="{handler}">'


def display_bundle(widget: ipywidgets.Widget, picture: bytes | None, text: str) -> dict[str, Any]:
    """Make what Jupyter displays: the live widget, and what stands in for it without a kernel.

    Args:
        widget: the widget to show.
        picture: a PNG to show where widgets cannot live, or None.
        text: the same in words, for terminals.

    Returns:
        A MIME bundle.
    """
    bundle: dict[str, Any] = {"text/plain": text}
    if picture is not None:
        bundle["image/png"] = picture
    bundle[_WIDGET_VIEW] = {
        "version_major": 2,
        "version_minor": 0,
        "model_id": widget.model_id,
    }
    return bundle
