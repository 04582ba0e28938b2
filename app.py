"""Start the app: flags and environment -> Settings and Access -> Lab -> page."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import re
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from trainer.common import file_modes, redaction
from trainer.common.errors import UserError
from trainer.common.program import APP
from trainer.service.lab import Lab, Settings

FIRST_PORT = 7860
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MIN_PASSWORD_LENGTH = 8
END_SECONDS = 8.0
"""Seconds from a signal until the app has ended; `docker stop` and others wait 10."""
STOP_RUNS = "LAB_STOP_RUNS"
"""Environment variable: `1` in a container, which ends all of its processes when the app ends."""
HOST_NAME = re.compile(r"[A-Za-z0-9._:-]{1,253}")


@dataclass(frozen=True)
class Access:
    """Who may reach the app."""

    password: str = ""
    """Empty: no password, which is only allowed on a loopback address."""
    hosts: tuple[str, ...] = ()
    """Host names, besides its own address, that browsers may use."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=APP, description="LoRA Module Lab: a page to train LoRA adapters.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, help="port (default: $PORT, else 7860 or the next free one)")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--models-dir", type=Path, default=Path("models"), help="folder of models (default: models)")
    parser.add_argument(
        "--auth",
        nargs="?",
        type=Path,
        const=Path(),
        metavar="FILE",
        help="ask for a password: the first line of FILE, or $LAB_PASSWORD; required on any but a loopback address",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a host name that browsers may use, besides the address it listens on; may be repeated",
    )
    return parser


def read_flags(arguments: list[str] | None = None) -> tuple[Settings, Access]:
    """Settings from the command line and the environment; $PORT is the default of --port. Exits with 2 if unsafe."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    password = _password(options.auth, parser)
    if options.host not in LOOPBACK and not password:
        parser.error(
            f"{options.host} can be reached from other machines, so the app needs a password there: set LAB_PASSWORD "
            "in the environment, or write it into a file and start with --auth FILE. To stay on this machine, leave "
            "--host out"
        )
    for name in (options.host, *options.allow_host):
        if not HOST_NAME.fullmatch(name):
            parser.error(f"{name[:80]!r} is not a host name: write it without http:// and without a port")
    settings = Settings(
        host=options.host,
        port=_port(options.port, parser),
        runs_dir=options.runs_dir,
        models_dir=options.models_dir,
    )
    return settings, Access(password, tuple(name.lower() for name in options.allow_host))


def _port(port: int | None, parser: argparse.ArgumentParser) -> int | None:
    if port is None and os.environ.get("PORT"):
        if not os.environ["PORT"].isdecimal() or len(os.environ["PORT"]) > 5:
            parser.error(f"PORT={os.environ['PORT'][:20]!r} is not a port number")
        port = int(os.environ["PORT"])
    if port is not None and not 0 < port < 65536:
        parser.error(f"{port} is not a port number: choose 1 to 65535")
    return port


def _password(file: Path | None, parser: argparse.ArgumentParser) -> str:
    """The password, removed from the environment so that no child process inherits it; empty if none is set.

    There is no flag for it: every user of the machine can read a command line.
    """
    password = os.environ.pop("LAB_PASSWORD", "")
    if file is not None and file != Path():
        try:
            with file.open(encoding="utf-8") as lines:
                password = lines.readline(1000).rstrip("\r\n")
        except (OSError, UnicodeDecodeError):
            parser.error("--auth: the file cannot be read; its first line should be the password")
    if file is not None and not password:
        parser.error("--auth: no password is set: set LAB_PASSWORD, or name a file: --auth FILE")
    if 0 < len(password) < MIN_PASSWORD_LENGTH:
        parser.error(f"the password is too short: choose one of at least {MIN_PASSWORD_LENGTH} characters")
    redaction.remember(password)
    return password


def free_port(host: str, first: int = FIRST_PORT) -> int:
    """The first free port, starting at `first`."""
    port = next((port for port in range(first, first + 100) if not why_not(host, port)), None)
    return port or refuse(f"No port from {first} to {first + 99} is free on {host}. Choose another one with --port.")


def check_host(host: str) -> None:
    """Exits with 2 if no port at all is available."""
    problem = why_not(host, 0)
    if problem:
        refuse(f"The app cannot listen on {host}: {problem}. Choose an address of this machine with --host.")


def checked_port(host: str, port: int) -> int:
    """The port, if the app can listen on it. Exits with 2 if not."""
    problem = why_not(host, port)
    if problem:
        refuse(f"The app cannot listen on port {port} of {host}: {problem}. Choose another one with --port.")
    return port


def why_not(host: str, port: int) -> str:
    """Why the app cannot listen on `host` and `port`; empty if it can."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""


def refuse(message: str) -> NoReturn:
    """Print why the app cannot start, and exit with 2."""
    print(message, file=sys.stderr)
    sys.exit(2)


def open_lab(settings: Settings) -> Lab:
    """The lab with its folders. Exits with 2 if they cannot be used."""
    try:
        return Lab(settings)
    except UserError as error:
        return refuse(str(error))


def end_on_signals(at_once: bool) -> None:
    """Raise KeyboardInterrupt on SIGTERM as on Ctrl+C, also as process 1, for which the system ignores SIGTERM.

    `at_once`: END_SECONDS after it, the process ends whatever hangs, and prints where.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        if at_once:
            faulthandler.dump_traceback_later(END_SECONDS, file=2, exit=True)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt)


def main() -> None:
    file_modes.keep_private()
    stop_runs = os.environ.get(STOP_RUNS) == "1"
    end_on_signals(at_once=not stop_runs)
    with contextlib.suppress(KeyboardInterrupt):
        run(*read_flags(), stop_runs)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # all is closed, and taking down the interpreter takes seconds on a busy machine


def run(settings: Settings, access: Access, stop_runs: bool) -> None:
    """Serve the page until a signal."""
    redaction.install()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    check_host(settings.host)
    port = checked_port(settings.host, settings.port) if settings.port else free_port(settings.host)
    lab = open_lab(settings)
    import ui

    ui.launch(lab, settings.host, port, access.password, (settings.host, *access.hosts), stop_runs)


if __name__ == "__main__":
    main()
