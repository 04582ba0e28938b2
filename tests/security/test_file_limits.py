"""No data file is held in memory, however large it is or however much it unfolds to: each is read in a process of
its own, and the most that this ever held is measured."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

ROW = "The quick brown fox jumps over the lazy dog. " * 1000
BLOCK, BLOCKS = 2**20, 96
PEAK = 64 * 2**20
"""Bytes for reading any text: a row may have a megabyte, and is held in several forms."""
READ = """
import json, os, resource, sys
from pathlib import Path
from trainer.common.errors import UserError
from trainer.data.readers.files import DataFile
import pyarrow.parquet
from trainer.data.readers.limits import PROBLEM

def read(path):
    rows, last = 0, ""
    try:
        for _, row in DataFile(path, path.name).rows():
            rows += PROBLEM not in row
            last = row.get(PROBLEM, last)
    except UserError as error:
        last = str(error)
    return rows, last

for name in sys.argv[1:]:
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    if os.fork() == 0:
        rows, last = read(Path(name))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        print(json.dumps([Path(name).name, rows, last, peak]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""
GOOD = {
    ".csv": ("text,more\n", f"{ROW},x\n", ""),
    ".tsv": ("text\tmore\n", f"{ROW}\tx\n", ""),
    ".json": ("[", json.dumps({"text": ROW}) + ",", '{"text": "x"}]'),
    ".jsonl": ("", json.dumps({"text": ROW}) + "\n", ""),
    ".txt": ("", f"{ROW}\n\n", ""),
}
BOMBS = {
    "line.jsonl.gz": ('{"text": "', "x", "", "longer than"),
    "line.txt.zst": ("", "x", "", "longer than"),
    "string.json.gz": ('[{"text": "', "x", '"}]', "longer than"),
    "number.json.gz": ("[", "9", "]", "too many digits"),
    "fraction.json.gz": ("[0.", "1", "]", "longer than"),
    "spaces.json.gz": ('[{"a": ', " ", "1}]", "longer than"),
    "nested.json.gz": ("", "[", "", "nested deeper"),
    "objects.json.zst": ("", '{"a":', "", "nested deeper"),
    "name.json.gz": ('{"', "x", '": 1}', "longer than"),
    "field.csv.gz": ('a,b\n"', "x", '",c\n', "longer than"),
    "header.csv.gz": ("", "a,", "\n", "usable columns"),
    "header.tsv.zst": ("", "x", "\n", "usable columns"),
    "zeros.jsonl.gz": ("", "\0", "", "not a text file"),
}
Pack = Callable[[bytes], bytes]
PACKS: dict[str, Pack] = {"": bytes, ".gz": lambda data: gzip.compress(data, 1), ".zst": zstandard.compress}


def measured(files: dict[Path, tuple[str, str, str]], encoding: str = "utf-8") -> dict[str, tuple[int, str, int]]:
    """Rows, last reason and peak of each file; its middle part is repeated until it has BLOCKS megabytes."""
    for path, (start, middle, end) in files.items():
        pack = PACKS[path.suffix if path.suffix in PACKS else ""]
        block = pack((middle * (BLOCK // len(middle))).encode(encoding))
        with path.open("wb") as file:
            file.write(pack(start.encode(encoding)) if start else b"")
            for _ in range(BLOCKS):
                file.write(block)
            file.write(pack(end.encode(encoding)) if end else b"")
    return peaks(list(files))


def peaks(paths: list[Path]) -> dict[str, tuple[int, str, int]]:
    result = subprocess.run(
        [sys.executable, "-c", READ, *map(str, paths)], capture_output=True, text=True, check=True
    )
    return {name: (rows, last, peak) for name, rows, last, peak in map(json.loads, result.stdout.splitlines())}


def test_a_large_file_of_any_format_is_never_held_in_memory(tmp_path: Path) -> None:
    files = {tmp_path / f"a{kind}{pack}": parts for kind, parts in GOOD.items() for pack in PACKS}
    for name, (rows, last, peak) in measured(files).items():
        assert (rows >= BLOCKS * (BLOCK // len(ROW) - 1), last) == (True, ""), name
        assert peak < PEAK, f"{name}: {peak:,}"


@pytest.mark.full
def test_a_large_parquet_file_of_one_row_group_is_never_held_in_memory(tmp_path: Path) -> None:
    import numpy
    import pyarrow
    from pyarrow import parquet

    rows = 16_384
    random = numpy.random.default_rng(0).integers(97, 123, rows * 2**14, numpy.uint8)
    offsets = pyarrow.py_buffer(numpy.arange(0, random.size + 1, 2**14, dtype=numpy.int32))
    texts = pyarrow.StringArray.from_buffers(rows, offsets, pyarrow.py_buffer(random))
    for compression in ("none", "zstd"):
        path = tmp_path / f"{compression}.parquet"
        parquet.write_table(pyarrow.table({"text": texts}), path, compression=compression, row_group_size=rows)
    for name, found in peaks(sorted(tmp_path.iterdir())).items():
        assert found[:2] == (rows, ""), name
        assert found[2] < 160 * 2**20, f"{name}: {found[2]:,}"  # of 256


def test_what_unfolds_without_end_is_refused_in_a_sentence(tmp_path: Path) -> None:
    found = measured({tmp_path / name: (start, middle, end) for name, (start, middle, end, _) in BOMBS.items()})
    assert found.keys() == BOMBS.keys()
    for name, (_, last, peak) in found.items():
        assert BOMBS[name][3] in last, f"{name}: {last}"
        assert peak < PEAK, f"{name}: {peak:,}"


def test_utf_16_is_read_as_a_stream(tmp_path: Path) -> None:
    found = measured({tmp_path / "a.csv.gz": ("\ufefftext,more\n", f"{ROW},x\n", "")}, "utf-16-le")
    rows, last, peak = found["a.csv.gz"]
    assert (rows > 0, last, peak < PEAK) == (True, "", True)


PARQUET_PEAK = 1_100_000_000


@pytest.mark.parametrize(
    "names", ["text nulls", pytest.param("late nested late_nulls booleans page", marks=pytest.mark.full)]
)
def test_small_parquet_files_that_unfold_to_gigabytes_are_refused(names: str, tmp_path: Path) -> None:
    import numpy
    import pyarrow
    from pyarrow import parquet

    def repeated(values: list[str], numbers: Any) -> Any:
        return pyarrow.DictionaryArray.from_arrays(pyarrow.array(numpy.array(numbers, numpy.int32)), values)

    def in_one_row(items: Any, rows: int = 1) -> Any:
        offsets = numpy.full(rows + 1, len(items), numpy.int32)
        offsets[: max(rows // 2, 1)] = 0
        return pyarrow.ListArray.from_arrays(pyarrow.array(offsets), items)

    late = [0] * 2000 + [1] * 18_000
    chat = pyarrow.StructArray.from_arrays([repeated(["a", "b" * 900_000], late)], ["content"])
    kinds = {
        "text": (lambda: repeated(["x" * 900_000], [0] * 20_000), "unfolds to far more"),
        "late": (lambda: repeated(["a", "b" * 50_000_000], late), "unfolds to far more"),
        "nested": (
            lambda: pyarrow.ListArray.from_arrays(pyarrow.array(range(20_001), pyarrow.int32()), chat),
            "far more",
        ),
        "nulls": (lambda: in_one_row(pyarrow.nulls(10**8, pyarrow.int8())), "20,000 values"),
        "late_nulls": (lambda: in_one_row(pyarrow.nulls(5 * 10**7), 10_000), "20,000 values"),
        "booleans": (lambda: pyarrow.array(numpy.zeros(5 * 10**7, bool)), "10,000,000 rows"),
        "page": (lambda: pyarrow.array(["x" * 10**8] * 10), "to decode a few rows"),
    }
    for name in names.split():
        table = pyarrow.table({"column": kinds[name][0]()})
        parquet.write_table(
            table,
            tmp_path / f"{name}.parquet",
            use_dictionary=name != "page",
            compression="zstd",
            store_schema=name == "nested",
            data_page_size=2**30,
        )
        assert (tmp_path / f"{name}.parquet").stat().st_size < 1e6
    for name, (_, last, peak) in peaks(sorted(tmp_path.iterdir())).items():
        assert kinds[name.removesuffix(".parquet")][1] in last, f"{name}: {last}"
        assert peak < PARQUET_PEAK, f"{name}: {peak:,}"


@pytest.mark.parametrize("column", ["many", "groups"])
def test_parquet_files_of_countless_parts_are_read_or_refused_at_once(column: str, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / f"{column}.parquet"
    if column == "many":
        parquet.write_table(pyarrow.table({f"c{n}": pyarrow.nulls(1, pyarrow.int8()) for n in range(20_000)}), path)
    else:
        parquet.write_table(pyarrow.table({"text": ["x"] * 5000}), path, row_group_size=1)
    ((rows, last, peak),) = peaks([path]).values()
    assert (rows, "too many columns" in last) == ((0, True) if column == "many" else (5000, False))
    assert peak < 2 * PEAK
