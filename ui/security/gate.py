"""gr.Blocks with one gate for every handler: it validates the inputs, and shows failures as messages."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import utils

from trainer.common.errors import UserError
from ui.handlers import UNEXPECTED, error_message
from ui.security.folder_names import UPLOADS

MAX_TEXT = 1_000_000
MAX_DEPTH = 24
MAX_ITEMS = 50_000


class SafeBlocks(gr.Blocks):
    """The page. Handlers can rely on inputs of bounded size that refer to no file other than an upload."""

    def validate_inputs(self, block_fn: Any, inputs: list[Any]) -> None:
        """Called by Gradio with the request's values before anything else uses them."""
        if block_fn.fn is None or len(inputs) != len(block_fn.inputs):
            raise UserError("This is not how the page calls the app.", "Reload the page.", "data")
        check_values(inputs)
        for block, value in zip(block_fn.inputs, inputs, strict=True):
            check_kind(block, value)

    async def process_api(self, *arguments: Any, **keywords: Any) -> Any:
        try:
            return await super().process_api(*arguments, **keywords)
        except UserError as error:
            raise error_message(str(error)) from error
        except gr.Error as error:
            # Gradio's own errors quote the raw value, and fill the log
            raise (error_message(error.message) if error.print_exception else error) from None
        except (StopAsyncIteration, StopIteration):
            raise
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            raise error_message(UNEXPECTED) from error


def check_values(values: Any) -> None:
    """Raise UserError for values that are too large or too deep, or that name a file which was not uploaded."""
    pending, seen = [(values, 0)], 0
    while pending:
        value, depth = pending.pop()
        seen += 1
        if depth > MAX_DEPTH or seen > MAX_ITEMS or (isinstance(value, str) and len(value) > MAX_TEXT):
            raise UserError("This request is larger or deeper than any the page makes.", "Send less.", "data")
        if isinstance(value, dict):
            _check_file(value)
            pending += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, list | tuple):
            pending += [(item, depth + 1) for item in value]


def _check_file(value: dict[str, Any]) -> None:
    """Gradio treats any object with these keys as a file, and downloads URLs.

    An upload's short name becomes its path.
    """
    if "path" not in value or not ("meta" in value or "url" in value):
        return
    path = value["path"]
    if isinstance(path, str) and path.startswith(f"{UPLOADS}/"):
        value["path"] = str(Path(utils.get_upload_folder(), path.removeprefix(f"{UPLOADS}/")))
    if not is_upload(value):
        raise UserError("This refers to a file that was not uploaded.", "Upload the file.", "data")


def is_upload(value: Any) -> bool:
    """Whether the value is Gradio's description of a file in the uploads folder."""
    if not isinstance(value, dict) or value.get("meta") != {"_type": "gradio.FileData"}:
        return False
    path, url = value.get("path"), value.get("url")
    if not isinstance(path, str) or "\0" in path or len(path) > 4096 or not isinstance(url, str | None):
        return False
    file = Path(path)
    return file.is_file() and Path(utils.get_upload_folder()).resolve() in file.resolve().parents


def check_kind(block: Any, value: Any) -> None:
    """Raise UserError for a value that its component can never have."""
    if isinstance(block, gr.HTML) and isinstance(value, dict):
        value = value.get("value", value)  # gr.HTML may send its value among its properties
    if value is None:
        return
    if isinstance(block, gr.Checkbox):
        fits = isinstance(value, bool)
    elif isinstance(block, gr.UploadButton | gr.DownloadButton | gr.File):
        several = getattr(block, "file_count", "single") == "multiple" and isinstance(value, list)
        fits = all(map(is_upload, value)) if several else is_upload(value)
    elif isinstance(block, gr.Textbox | gr.Dropdown | gr.Radio | gr.HTML):
        fits = isinstance(value, str)
    elif isinstance(block, gr.Number):
        fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53
    else:
        fits = True  # gr.JSON of the endpoints, which validation reads
    if not fits:
        raise UserError(
            f"{block.label or 'This input'} does not take this kind of value.", "Reload the page.", "data"
        )
