"""Trials of the page in a browser, for docs/reliability.md. A failed check ends them with 1.

python benchmarks/trials_page.py ipv6      the app on ::1, and on :: with a password
python benchmarks/trials_page.py tls       behind a proxy that ends TLS: cookie, page, stream, upload, origin
python benchmarks/trials_page.py tabs      two tabs editing at once, and pages of two apps on one runs folder
python benchmarks/trials_page.py pages [--minutes 20] [--speed 10]
                                           six open pages on a live run; timers run `speed` times as fast
python benchmarks/trials_page.py refreshes [--hours 8]
                                           the requests that six open pages make in so many hours, without browsers
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np  # noqa: E402
import psutil  # noqa: E402
from playwright.sync_api import Browser, Page, sync_playwright  # noqa: E402

from app import free_port  # noqa: E402
from tests.browser import chromium  # noqa: E402
from tests.runs import damage  # noqa: E402
from trainer.common import file_locks  # noqa: E402
from trainer.runs import event_log  # noqa: E402

PASSWORD = "a long password"  # noqa: S105
NAME = "lab.example"
PATIENCE = 240_000
PAGES = 6
RUN = "20260101-000000-aaaaaa"
SEEN = 1
"""Place of what the page shows among the inputs of its refresh."""
RATE = "#training-learning_rate"
FASTER = """for (const name of ["setInterval", "setTimeout"]) {
  const real = window[name]
  window[name] = (action, delay, ...rest) => real(action, delay >= 900 ? delay / SPEED : delay, ...rest)
}"""
"""Makes the page's timers, but not its short pauses, SPEED times as fast."""
FLAGS = ["--no-sandbox", "--disable-gpu", f"--host-resolver-rules=MAP {NAME} 127.0.0.1"]


@contextmanager
def app(folder: Path, *options: str, password: str = "") -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The app in a process of its own: its port, and the process."""
    port, log = free_port("127.0.0.1", 10_000 + os.getpid() % 20_000), folder / f"log-{time.monotonic_ns()}"
    environment = os.environ | {"LAB_DEVICE_LOCKS": str(folder / "locks")}
    environment |= {"LAB_PASSWORD": password} if password else {}
    command = [sys.executable, "app.py", "--port", str(port), "--runs-dir", str(folder / "runs")]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *options], cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        while "running on" not in log.read_text() and process.poll() is None:
            time.sleep(0.1)
        assert process.poll() is None, log.read_text()
        yield port, process
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        process.terminate()
        process.wait()


@contextmanager
def browser() -> Iterator[Browser]:
    path = chromium.find()
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


def open_page(browser: Browser, address: str, password: str = "", script: str = "") -> Page:
    """The page in a context of its own, once its timer is answered."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, ignore_https_errors=True)
    context.set_default_timeout(PATIENCE)
    if script:
        context.add_init_script(script)
    page = context.new_page()
    page.goto(address)
    if password:
        page.fill("input[type=password]", password)
        page.press("input[type=password]", "Enter")
    page.wait_for_selector("#live-card")
    page.wait_for_event("response", lambda answer: "/gradio_api/" in answer.url and answer.status == 200)
    return page


def ipv6(folder: Path) -> None:
    with browser() as opened:
        with app(folder, "--host", "::1") as (port, _):
            open_page(opened, f"http://[::1]:{port}/")
            print(f"::1, Host [::1]:{port}: the page is complete; statuses by Host: {_statuses('::1', port)}")
        with app(folder, "--host", "::", password=PASSWORD) as (port, _):
            open_page(opened, f"http://[::1]:{port}/", PASSWORD)
            print("::, with a password, from [::1]: logged in, the page is complete")
            print(f"::, from 127.0.0.1: {_refused(port)}")


def _refused(port: int) -> str:
    """What IPv4 gets from an app that listens on all IPv6 addresses."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/robots.txt")
        return f"status {connection.getresponse().status}"
    except OSError as error:
        return str(error.strerror).lower()


def _statuses(address: str, port: int) -> dict[str, int]:
    found = {}
    for host in (f"[::1]:{port}", "[::1]", f"localhost:{port}", "[::2]", "evil.example"):
        connection = http.client.HTTPConnection(address, port, timeout=30)
        connection.request("GET", "/robots.txt", headers={"Host": host})
        found[host.replace(str(port), "PORT")] = connection.getresponse().status
        connection.close()
    return found


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """One request: its head with the proxy's headers, then bytes both ways until the app closes."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = [line for line in head[:-4].split(b"\r\n") if not line.lower().startswith(b"connection:")]
        lines += [b"Connection: close", b"X-Forwarded-Proto: https", b"X-Forwarded-For: 203.0.113.9"]
        there, back = await asyncio.open_connection("127.0.0.1", port)
        back.write(b"\r\n".join(lines) + b"\r\n\r\n")
        upstream = asyncio.create_task(_pump(reader, back))
        await _pump(there, writer)
        upstream.cancel()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while part := await reader.read(65536):
        writer.write(part)
        await writer.drain()


def tls_proxy(folder: Path, port: int) -> int:
    """Serve https in a thread, forwarding to `port`; returns its own port."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={NAME}"]
    subprocess.run([*command, "-keyout", folder / "key", "-out", folder / "cert"], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "cert", folder / "key")
    own = free_port("127.0.0.1", 31_000)

    async def serve() -> None:
        server = await asyncio.start_server(lambda r, w: _forward(r, w, port), "127.0.0.1", own, ssl=tls)
        await server.serve_forever()

    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
    return own


def tls(folder: Path) -> None:
    rows = [{"instruction": f"Say {number}.", "response": f"Aye, {number}!"} for number in range(64)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with app(folder, "--auth", "--allow-host", NAME, password=PASSWORD) as (port, _), browser() as opened:
        own = tls_proxy(folder, port)
        page = open_page(opened, f"https://{NAME}:{own}/", PASSWORD)
        cookie = next(item for item in page.context.cookies() if item["name"] == "lab_session")
        assert cookie["secure"] and cookie["httpOnly"] and cookie["sameSite"] == "Strict", cookie
        page.locator("#data-source label", has_text="File").click()
        with page.expect_file_chooser() as chooser:
            page.locator("#data-upload").click()
        with page.expect_response(lambda answer: "/gradio_api/upload" in answer.url) as uploaded:
            chooser.value.set_files(folder / "rows.jsonl")
        assert uploaded.value.ok, uploaded.value.status
        while not list((folder / "runs" / "data").glob("*rows.jsonl")):  # checked and kept by the app
            page.wait_for_timeout(200)
        insecure = page.evaluate(
            "performance.getEntriesByType('resource').filter(entry => !entry.name.startsWith('https:')).length"
        )
        foreign = _post(port, f"https://{NAME}:{own}", "https://evil.example")
        print(f"cookie secure, HttpOnly, SameSite=Strict; page, live stream and an upload work; {insecure} requests")
        print(f"without https; a post from another origin is answered with {foreign}")


def _post(port: int, host: str, origin: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Host": host.removeprefix("https://"), "Origin": origin, "Content-Length": "2"}
    connection.request("POST", "/login", b"{}", headers)
    return connection.getresponse().status


def tabs(folder: Path) -> None:
    """What one tab enters is not seen in the other; both pages of two apps list and open the same runs."""
    damage.finished_run(folder / "runs" / RUN, "A shared run")
    with app(folder) as (first, _), app(folder) as (second, _), browser() as opened:
        pages = [open_page(opened, f"http://127.0.0.1:{port}/") for port in (first, first, second)]
        for number, page in enumerate(pages):
            field = page.locator(RATE).get_by_role("textbox")
            field.fill(f"0.000{number + 1}")
            field.press("Tab")
        for page in pages:
            page.wait_for_timeout(3000)
        values = [float(page.locator(RATE).get_by_role("textbox").input_value()) for page in pages]
        assert values == [0.0001, 0.0002, 0.0003], values
        for page in pages:
            page.get_by_role("tab", name="Runs").click()
            page.locator("text=A shared run >> visible=true").first.wait_for()  # the Train tab names it, too
        print(f"learning rates entered in three tabs at once stay {values}; both apps list the shared run")


def pages(folder: Path, minutes: float, speed: float) -> None:
    """Memory, threads and open files of the app while six pages follow a run that writes five steps a second."""
    run = folder / "runs" / RUN
    damage.finished_run(run, "A live run")
    stop = threading.Event()
    thread = threading.Thread(target=_train_on, args=(run, stop))
    thread.start()
    faster = FASTER.replace("SPEED", str(speed))
    try:
        with app(folder) as (port, process), browser() as opened:
            followed = [open_page(opened, f"http://127.0.0.1:{port}/", script=faster) for _ in range(PAGES)]
            requests = [0]
            for page in followed:
                page.on("request", lambda _: requests.__setitem__(0, requests[0] + 1))
            _sample(psutil.Process(process.pid), followed, minutes, requests)
    finally:
        stop.set()
        thread.join()


def refreshes(folder: Path, hours: float) -> None:
    """The same figures while the requests of hours of open pages arrive one after another, without browsers."""
    run = folder / "runs" / RUN
    damage.finished_run(run, "A live run")
    stop = threading.Event()
    thread = threading.Thread(target=_train_on, args=(run, stop))
    thread.start()
    try:
        with app(folder) as (port, process):
            with browser() as opened:
                asked = [_refresh_of(open_page(opened, f"http://127.0.0.1:{port}/")) for _ in range(PAGES)]
            connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in asked]
            measured = psutil.Process(process.pid)
            count = round(hours * 3600 * PAGES)
            for number in range(count + 1):
                place = number % PAGES
                _ask_again(connections[place], *asked[place])
                if number % (count // 20) == 0:
                    print(f"{number:8,} requests  {measured.memory_info().rss / 1e6:6.1f} MB  "
                          f"{measured.num_threads()} threads  {measured.num_fds()} files", flush=True)  # fmt: skip
    finally:
        stop.set()
        thread.join()


def _refresh_of(page: Page) -> tuple[str, dict[str, Any]]:
    """Path and body of the request that the live panel's timer makes every second."""
    with page.expect_request(lambda request: RUN in (request.post_data or "")) as caught:
        pass
    return urllib.parse.urlsplit(caught.value.url).path, json.loads(caught.value.post_data or "{}")


def _ask_again(connection: http.client.HTTPConnection, path: str, body: dict[str, Any]) -> None:
    """One refresh. The next one says what this one has shown."""
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = json.loads(answer.read())
    assert answer.status == 200, content
    if isinstance(content["data"][-1], str):
        body["data"][SEEN] = content["data"][-1]


def _train_on(run: Path, stop: threading.Event) -> None:
    """A worker's events: it holds the run's lock."""
    lock = file_locks.acquire(run / "lock")
    writer = event_log.EventWriter(run / "events.jsonl", figures=True)
    writer.write("state", state="running", steps=1_000_000, examples=1000)
    step = 20
    while not stop.wait(0.2):
        step += 1
        writer.write("metrics", step=step, loss=3 / step, elapsed=float(step), tokens=100.0 * step, memory=9000)
    writer.close()
    assert lock is not None
    lock.close()


def _sample(process: psutil.Process, followed: list[Page], minutes: float, requests: list[int]) -> None:
    rows, started = [], time.monotonic()
    while time.monotonic() - started < minutes * 60:
        followed[0].wait_for_timeout(5000)
        children = process.children(recursive=True)
        memory = process.memory_info().rss
        rows.append((time.monotonic() - started, memory, process.num_threads(), process.num_fds(), len(children)))
        print(f"{rows[-1][0]:6.0f} s  {memory / 1e6:6.1f} MB  {rows[-1][2]} threads  {rows[-1][3]} files  "
              f"{len(children)} children  {requests[0]} requests", flush=True)  # fmt: skip
    table = np.array(rows)
    settled = table[len(table) // 4 :]
    hours = (settled[-1, 0] - settled[0, 0]) / 3600
    print(f"{requests[0]:,} requests in {minutes:.0f} min, as many as {PAGES} pages make in "
          f"{requests[0] / PAGES / 3600 / 2:.1f} to {requests[0] / PAGES / 3600:.1f} h")  # fmt: skip
    for column, (name, unit) in enumerate((("memory", 1e6), ("threads", 1), ("open files", 1), ("children", 1)), 1):
        values = settled[:, column] / unit
        slope = np.polyfit(settled[:, 0] / 3600, values, 1)[0]
        print(f"{name:12} {values[0]:.1f} to {values[-1]:.1f}, slope {slope:+.2f} per hour over {hours:.2f} h")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", choices=["ipv6", "tls", "tabs", "pages", "refreshes"])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--speed", type=float, default=10)
    parser.add_argument("--hours", type=float, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if options.trial == "pages":
            pages(place, options.minutes, options.speed)
        elif options.trial == "refreshes":
            refreshes(place, options.hours)
        else:
            {"ipv6": ipv6, "tls": tls, "tabs": tabs}[options.trial](place)


if __name__ == "__main__":
    main()
