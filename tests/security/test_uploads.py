"""Uploaded data: capped, streamed, told in sentences, and nothing in it is ever evaluated."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from trainer.common.errors import UserError
from trainer.config.schema import DataConfig
from trainer.data.checking import check
from trainer.data.preparation import rejected_rows_error
from trainer.data.readers import files, hub_datasets, limits, uploads

packed = partial(gzip.compress, mtime=0)
"""The same bytes in every process that collects these tests."""
GOOD = {"instruction": "Where?", "response": "Here."}


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    """The examples of a file. Raises UserError as a run would that is to stop at bad rows."""
    checked = check(DataConfig(source="file", path=name), folder)
    if checked.bad:
        raise rejected_rows_error(checked.bad, checked.account["rows"])
    if not checked.good:
        raise UserError("The data is empty.", cause="data")
    return list(checked.examples())


def told(folder: Path, name: str, content: bytes) -> str:
    """What a person is told of this file: quickly, in few words, with little memory."""
    (folder / name).write_bytes(content)
    began = time.monotonic()
    tracemalloc.start()
    with pytest.raises(UserError) as caught:
        read(folder, name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.monotonic() - began < 30
    assert peak < 40e6
    assert caught.value.cause == "data"
    assert len(str(caught.value)) < 2000
    assert "Traceback" not in str(caught.value)
    return str(caught.value)


def line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


BAD_LINES = {
    b"[" * 100_000 + b"\n": "nested deeper",
    b'{"a":' * 100_000 + b"\n": "nested deeper",
    line({**GOOD, "deep": json.loads("[" * 40 + "]" * 40)}): "nested deeper",
    b'{"a": ' + b"9" * 5000 + b"}\n": "too many digits",
    line({**GOOD, "text": "x" * 1_100_000}): "1,000,000 bytes",
    line({"instruction": "a\0b", "response": "c"}): "NUL",
    line({"a\0b": "c", **GOOD}): "NUL",
    b'{"instruction": "\\ud800", "response": "c"}\n': "half a character",
    b'{"instruction": "\xff", "response": "c"}\n': "not UTF-8",
    line({f"column {number}": "x" for number in range(300)}): "more than 256 columns",
    line({"messages": [[]] * 30_000}): "20,000 values",
    line({"n" * 5000: "x"}): "name is longer",
    b"[1, 2]\n": "not an object",
    b"{'a': 1}\n": "not valid JSON",
    b"\x80\x04\x95K\n": "not UTF-8",
}


@pytest.mark.parametrize(("bad", "reason"), BAD_LINES.items(), ids=list(map(str, BAD_LINES.values())))
def test_a_bad_line_is_named_with_its_reason(bad: bytes, reason: str, tmp_path: Path) -> None:
    sentence = told(tmp_path, "a.jsonl", line(GOOD) + bad + line(GOOD))
    assert "1 of 3 rows" in sentence
    assert "line 2:" in sentence
    assert reason in sentence


def test_all_bad_lines_are_told_together(tmp_path: Path) -> None:
    sentence = told(tmp_path, "a.jsonl", line(GOOD) + b"".join(BAD_LINES))
    assert f"{len(BAD_LINES)} of {len(BAD_LINES) + 1} rows" in sentence


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", json.dumps([GOOD]).encode("utf-16")[:-1], "is not utf-16"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16-le"), "not a text file"),
        ("a.json", b"\x1f\x8b" + bytes(200), "not a text file"),
        ("a.jsonl.gz", line(GOOD), "cannot be unpacked"),
        ("a.jsonl.gz", packed(line(GOOD) * 1000)[:-9], "cannot be unpacked"),
        ("a.jsonl.zst", line(GOOD), "cannot be unpacked"),
        ("a.jsonl.gz", packed(packed(line(GOOD))), "not a text file"),
        ("a.txt.gz", packed(b"x" * 50_000_000), "longer than"),
        ("a.parquet.gz", packed(b"PAR1"), "unknown type"),
        ("a.txt", bytes(range(256)), "not a text file"),
        ("a.json", b"[" * 100_000, "nested deeper"),
        ("a.json", b"[" + b"9" * 5000 + b"]", "too many digits"),
        ("a.json", b'[{"a": "' + b"x" * 50_000_000 + b'"}]', "longer than"),
        ("a.json", json.dumps([GOOD]).encode()[:-1], "a comma or ]"),
        ("a.json", json.dumps([GOOD]).encode() + b"[]", "something follows"),
        ("a.json", b"[{},]", "not valid JSON"),
        ("a.json", b'{"a": 1}', "a is not text"),
        ("a.json", b'{"a": "' + b"x" * 50_000_000 + b'"}', "longer than"),
        ("a.json", b'{"a": [' + b"[]," * 20_000 + b"[]]}", "More than 10,000 rows"),
        ("a.json", b'{"a":' * 100_000, "nested deeper"),
        ("a.json", b"{" + b",".join(b'"%d": "%0100d"' % (n, n) for n in range(12_000)) + b"}", "longer than"),
        ("a.json", b"", "not hold a list"),
        ("a.json", b'["\xff"]', "not UTF-8"),
        ("a.jsonl", b'{"a": "' + b"x" * 50_000_000 + b'"}', "longer than"),
        ("a.txt", b"x" * 50_000_000, "longer than"),
        ("a.csv", b"a,b\n" + b"x" * 50_000_000, "longer than"),
        ("a.csv", b'a,b\n"' + b"x\n" * 5_000_000, "More than 10,000 rows"),
        ("a.csv", b'a,b\nc,"d', "not valid CSV"),
        ("a.csv", b"text,text\na,b\n", "usable columns"),
        ("a.csv", b",".join([b"a%d" % number for number in range(300)]), "usable columns"),
        ("a.csv", b"question,answer\na,b,c\n", "3 fields"),
        ("a.csv", "question,answer\né,b\n".encode() + b"\xff,b\n", "not UTF-8"),
        ("a.tsv", b'question\tanswer\n"a"b\tc\n', "not valid TSV"),
        ("a.parquet", b"PAR1" + bytes(100) + b"PAR1", "not a Parquet file"),
        ("a.parquet", b"", "not a Parquet file"),
        ("a.jsonl", b"", "empty"),
        ("a.csv", b"", "empty"),
        ("a.jsonl", b"\n" * 3, "empty"),
        ("a.pkl", b"cos\nsystem\n(S'echo'\ntR.", "unknown type"),
    ],
)
def test_a_broken_file_gets_one_clear_sentence(name: str, content: bytes, reason: str, tmp_path: Path) -> None:
    assert reason in told(tmp_path, name, content)


def test_a_byte_order_mark_and_quotes_over_lines_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfquestion,answer\r\n"one\ntwo, three","he said ""no"""\r\n')
    assert read(tmp_path, "a.csv")[0]["messages"][0]["content"] == "one\ntwo, three"
    assert read(tmp_path, "a.csv")[0]["messages"][1]["content"] == 'he said "no"'
    for name, content in {"b.jsonl": line(GOOD), "b.json": json.dumps([GOOD]).encode()}.items():
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content)
        assert len(read(tmp_path, name)) == 1


def test_a_long_list_on_one_line_is_read_as_a_stream(tmp_path: Path) -> None:
    rows = 60_000
    (tmp_path / "a.json").write_text("[" + ",".join([json.dumps({"text": "x" * 100})] * rows) + "]")
    tracemalloc.start()
    (file,) = files.find_files("a.json", tmp_path)
    count = sum(1 for _ in file.rows())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == rows
    assert peak < 3e6


def test_columns_named_like_methods_are_columns(tmp_path: Path) -> None:
    row = {"items": "a", "get": "b", "__class__": "c", "keys": "d", "{{ 7*7 }}": "{{ 7*7 }}", "text": "{{ 7*7 }}"}
    (tmp_path / "a.jsonl").write_bytes(line(row))
    assert read(tmp_path, "a.jsonl") == [{"text": "{{ 7*7 }}"}]


def test_nested_columns_of_parquet_are_read_and_capped(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    parquet.write_table(pyarrow.Table.from_pylist([{"messages": chat}] * 40), tmp_path / "a.parquet")
    assert len(read(tmp_path, "a.parquet")) == 40
    parquet.write_table(pyarrow.table({f"c{number}": ["x"] for number in range(300)}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match="too many columns"):
        read(tmp_path, "b.parquet")
    packed = pyarrow.table({"text": ["x" * 2_000_000] * 200})
    parquet.write_table(packed, tmp_path / "c.parquet", compression="zstd")
    assert (tmp_path / "c.parquet").stat().st_size < 1e6
    with pytest.raises(UserError, match="200 of 200 rows"):
        read(tmp_path, "c.parquet")


def test_rows_and_text_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_bytes(line(GOOD) * 20)
    monkeypatch.setattr(limits, "MAX_ROWS", 19)
    with pytest.raises(UserError, match="19 rows"):
        read(tmp_path, "a.jsonl")
    monkeypatch.setattr(limits, "MAX_ROWS", 20)
    assert len(read(tmp_path, "a.jsonl")) == 20
    monkeypatch.setattr(limits, "MAX_TEXT_BYTES", 100)
    (tmp_path / "b.json").write_bytes(json.dumps([GOOD] * 20).encode())
    (tmp_path / "b.txt").write_bytes(b"x" * 101)
    for name, content in {"b.jsonl.gz": gzip.compress(line(GOOD) * 20), "b.jsonl": line(GOOD) * 20}.items():
        (tmp_path / name).write_bytes(content)
    for name in ("b.jsonl", "b.json", "b.txt", "b.jsonl.gz"):
        with pytest.raises(UserError, match="a part of it"):
            read(tmp_path, name)


@pytest.mark.parametrize(
    "path", ["../secret.jsonl", "/etc/passwd", ".hidden.jsonl", "a\0.jsonl", "", "link.jsonl", "a/b.jsonl"]
)
def test_only_uploaded_files_are_read(path: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "a").mkdir(parents=True)
    for file in (tmp_path / "secret.jsonl", folder / ".hidden.jsonl", folder / "a/b.jsonl"):
        file.write_bytes(line(GOOD))
    (folder / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(UserError, match="no data file"):
        read(folder, path)


@pytest.mark.parametrize(
    "name", ["csv", "json", "/etc", "../x/y", "./data", "a/b/c", "a/..", "file://x/y", "runs/data"]
)
def test_a_data_set_is_an_id_of_the_hub_and_no_path(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/data").mkdir(parents=True)
    for loader in ("load_dataset", "load_dataset_builder"):
        monkeypatch.setattr(datasets, loader, lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(UserError):
        hub_datasets.find(DataConfig(source="hub", path=name), "train")


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "..",
        ".bashrc",
        "a b;rm -rf.csv",
        "-rf.jsonl",
        "ü" * 300 + ".jsonl",
        "\x1b[31m.json",
        "x" * 250,
    ],
)
def test_names_are_made_harmless(name: str) -> None:
    safe = uploads.safe_name(name)
    assert files.FILE_NAME.fullmatch(safe)
    assert not safe.startswith(("-", "."))
    assert len(safe) <= 80


@pytest.fixture
def upload(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "upload.jsonl"
    path.write_bytes(line(GOOD) * 10)
    yield path


def test_uploads_have_a_size_and_a_quota(upload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = upload.stat().st_size
    monkeypatch.setattr(uploads, "QUOTA_BYTES", size + 10)
    name = uploads.keep_data(upload, tmp_path / "data")
    assert uploads.keep_data(upload, tmp_path / "data") == name  # kept already
    other = tmp_path / "other.jsonl"
    other.write_bytes(b"x" * 20)
    with pytest.raises(UserError, match="quota"):
        uploads.keep_data(other, tmp_path / "data")
    monkeypatch.setattr(uploads, "MAX_UPLOAD_BYTES", 10)
    with pytest.raises(UserError, match="file of at most"):
        uploads.keep_data(upload, tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == [name]


def test_an_upload_is_moved_not_doubled(upload: Path, tmp_path: Path) -> None:
    assert (tmp_path / "data" / uploads.take_upload(upload, tmp_path / "data")).exists()
    assert not upload.exists()
