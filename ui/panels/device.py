"""The device panel: utilization and memory of the GPUs, or of CPU and RAM; one line, which unfolds by run."""

from __future__ import annotations

import json
import re

import gradio as gr

from trainer.common import formatting
from trainer.service import devices
from trainer.service.devices import GpuUsage, Usage
from trainer.service.lab import Lab
from ui.components import component

TEMPLATE = '<details class="device" hidden><summary></summary><table><tbody></tbody></table></details>'
CPU_DIGITS = 1


def build() -> gr.HTML:
    """The panel's component; its prop `usage` is what `content` returns."""
    return component("device_panel.js", TEMPLATE, "device-panel", label="Devices", usage="")


def content(lab: Lab) -> str:
    """JSON for device_panel.js: the line, and the rows below it as lists of texts."""
    usage = devices.usage(lab)
    return json.dumps({"line": " · ".join(_lines(usage)), "rows": _rows(usage)})


def _lines(usage: Usage) -> list[str]:
    if usage.gpus:
        return [f"{_model(gpu)}: {_figures(gpu)}" for gpu in usage.gpus]
    cpu = f"CPU {formatting.percent(usage.cpu)}" if usage.cpu is not None else "CPU –"
    return [cpu, f"RAM {_of(usage.used, usage.total)}"]


def _rows(usage: Usage) -> list[list[str]]:
    rows = []
    for gpu in usage.gpus:
        rows.append([f"{gpu.device} {gpu.load.model}".strip(), _figures(gpu)])
        rows += [[f"  {title}", formatting.size(held)] for title, held in gpu.by_run]
        if gpu.others:
            rows.append(["  Other programs", formatting.size(gpu.others)])
    cpu = f"{usage.cpu * usage.cores:.{CPU_DIGITS}f} of {usage.cores} cores" if usage.cpu is not None else ""
    rows.append(["CPU and RAM", _joined(cpu, _of(usage.used, usage.total))])
    for run in usage.runs:
        cores = f"{run.cpu:.{CPU_DIGITS}f} cores" if run.cpu is not None else ""
        rows.append([f"  {run.title}", _joined(cores, formatting.size(run.memory))])
    return rows


def _figures(gpu: GpuUsage) -> str:
    """`93 % · 61.2 of 80.0 GB · 54 °C · 412 W`."""
    load = gpu.load
    return _joined(
        formatting.percent(load.utilization) if load.utilization is not None else "",
        _of(load.used, load.total) if load.used is not None and load.total else "",
        f"{load.temperature} °C" if load.temperature is not None else "",
        f"{load.power:.0f} W" if load.power is not None else "",
    )


def _model(gpu: GpuUsage) -> str:
    """The GPU's model without its maker: `H100 NVL`."""
    return re.sub(r"^NVIDIA (GeForce )?", "", gpu.load.model) or gpu.device


def _of(used: int, total: int) -> str:
    """`6.1 of 24 GB`."""
    return f"{used / 1e9:.1f} of {total / 1e9:.0f} GB"


def _joined(*parts: str) -> str:
    return " · ".join(filter(None, parts))
