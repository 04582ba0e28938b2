"""Start the app: flags and environment -> Settings -> Lab -> page."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path

from trainer.lab import Lab, Settings

FIRST_PORT = 7860


def read_settings(arguments: list[str] | None = None) -> Settings:
    """Settings from the command line; PORT in the environment stands in for --port."""
    parser = argparse.ArgumentParser(prog="app.py", description="LoRA Module Lab: a page to train LoRA adapters.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, help="port (default: $PORT, else 7860 or the next free one)")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--models-dir", type=Path, default=Path("models"), help="folder of models (default: models)")
    chosen = parser.parse_args(arguments)
    port = chosen.port
    if port is None and os.environ.get("PORT"):
        if not os.environ["PORT"].isdigit():
            parser.error(f"PORT={os.environ['PORT']!r} is no port number")
        port = int(os.environ["PORT"])
    if port is not None and not 0 < port < 65536:
        parser.error(f"{port} is no port number: choose 1 to 65535")
    if chosen.host not in ("127.0.0.1", "localhost", "::1"):
        parser.error(f"{chosen.host}: the app has no passwords yet, so it listens on this machine only (127.0.0.1)")
    return Settings(host=chosen.host, port=port, runs_dir=chosen.runs_dir, models_dir=chosen.models_dir)


def free_port(host: str, first: int = FIRST_PORT) -> int:
    """The first free port from `first` on."""
    for port in range(first, first + 100):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    sys.exit(f"No port from {first} to {first + 99} is free: choose one with --port.")


def main() -> None:
    settings = read_settings()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    lab = Lab(settings)
    lab.start()  # before gradio's import, so that the helper warms up beside it
    import ui

    try:
        ui.launch(lab, settings.host, settings.port or free_port(settings.host))
    finally:
        lab.close()


if __name__ == "__main__":
    main()
