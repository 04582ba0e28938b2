"""Files in every layout and encoding that people write, read as the same rows."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.support.data_files import keep, lines, read, texts
from trainer.common.errors import UserError
from trainer.config.schema import DataConfig
from trainer.data.checking import check


def test_every_kind_of_file_says_the_same(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [{"question": f"Wo, {n}?", "answer": 'ein "Ding"\n☕ مرحبا'} for n in range(50)]
    table, packed = io.StringIO(), io.BytesIO()
    writer = csv.DictWriter(table, ["question", "answer"])
    writer.writeheader()
    writer.writerows(rows)
    parquet.write_table(pyarrow.Table.from_pylist(rows), packed)
    files = {"a.jsonl": lines(*rows), "a.json": json.dumps(rows).encode(), "a.csv": table.getvalue().encode()}
    files |= {f"{name}.gz": gzip.compress(text) for name, text in files.items()}
    files |= {"a.jsonl.zst": zstandard.compress(lines(*rows)), "b.json": lines(*rows), "a.parquet": packed.getvalue()}
    expected = [[("user", row["question"]), ("assistant", row["answer"])] for row in rows]
    for name, content in files.items():
        assert texts(check(keep(tmp_path, name, content), tmp_path)) == expected, name
    both = check(DataConfig(source="file", path="a.jsonl a.csv.gz"), tmp_path)
    assert texts(both) == expected * 2
    assert both.account["duplicates"] == 50


ROWS = [{"instruction": f"Frage {n}, ä|ö", "output": f"Antwort; „{n}“"} for n in range(20)]
ASKED = [[("user", row["instruction"]), ("assistant", row["output"])] for row in ROWS]


def table(delimiter: str, encoding: str, first: str = "") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["instruction", "output"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return (first + text.getvalue()).encode(encoding)


def frame(orient: str) -> bytes:
    """What pandas writes."""
    import pandas

    return str(pandas.DataFrame(ROWS).to_json(orient=orient)).encode()


def packed(**columns: Any) -> bytes:
    import pyarrow
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
CHATS = [
    [{"from": who, "value": text} for who, text in zip(("human", "gpt"), row.values(), strict=True)] for row in ROWS
]
SIGNS = {"comma": ",", "tab": "\t", "pipe": "|", "semi": ";"}
LAYOUTS: dict[str, bytes] = {
    **{f"{name}.csv": table(by, "utf-8") for name, by in SIGNS.items()},
    "comma.tsv": table(",", "utf-8"),
    "excel.csv": table(";", "utf-8-sig", "sep=;\r\n"),
    "mark.csv": table("\t", "utf-16"),
    "windows.csv": table(";", "cp1252"),
    "list.json": json.dumps(ROWS).encode("utf-16"),
    "list.jsonl": json.dumps(ROWS, indent=1).encode(),
    "concatenated.jsonl": "\n".join(json.dumps(row, indent=1) for row in ROWS).encode(),
    "under a name.json": json.dumps({"version": "1.0", "examples": ROWS, "tags": ["a"]}).encode(),
    "by columns.json": json.dumps(COLUMNS).encode(),
    **{f"{orient}.json": frame(orient) for orient in ("records", "columns", "index", "split", "table")},
    "conversations.json": json.dumps(CHATS).encode(),
    "conversations.jsonl": lines(*CHATS),
    "under data.json": json.dumps({"data": CHATS}).encode(),
    "repr.csv": b"conversations\n" + b"".join(
        ('"' + str(chat).replace('"', '""').replace("}, {", "}\n {") + '"\n').encode() for chat in CHATS),
    "lists.parquet": packed(
        conversations=[{key: [item[key] for item in chat] for key in ("from", "value")} for chat in CHATS]),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_holds_the_same_rows(name: str, tmp_path: Path) -> None:
    found = check(keep(tmp_path, name.replace(" ", "_"), LAYOUTS[name]), tmp_path)
    assert not found.bad and not found.decisions
    assert texts(found) == ASKED
    assumed = [issue["problem"] for issue in found.account["assumed"]]
    assert ("cp1252" in "".join(assumed)) == (name == "windows.csv")


ADVICE: dict[str, tuple[bytes, str, bytes]] = {
    "values.json": (frame("values"), "Write objects", frame("records")),
    "several.json": (json.dumps({"a": ROWS, "b": ROWS}).encode(), "file of its own", json.dumps(ROWS).encode()),
    "uneven.json": (
        json.dumps({**COLUMNS, "output": ["x"]}).encode(), "the same number of values", json.dumps(COLUMNS).encode(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ADVICE)
def test_what_cannot_be_read_comes_with_advice_that_works(name: str, tmp_path: Path) -> None:
    content, fix, followed = ADVICE[name]
    with pytest.raises(UserError) as caught:
        check(keep(tmp_path, name, content), tmp_path)
    assert fix in caught.value.fix
    assert texts(check(keep(tmp_path, name, followed), tmp_path)) == ASKED


def test_damaged_lines_are_no_reason_to_assume_another_encoding(tmp_path: Path) -> None:
    found = check(keep(tmp_path, "a.csv", table(",", "utf-8") + b"\xff,x\n"), tmp_path)
    assert texts(found) == ASKED
    assert [bad.line for bad in found.bad] == [22]
    assert not found.account["assumed"]


def test_a_table_of_one_column_may_hold_commas(tmp_path: Path) -> None:
    found = check(keep(tmp_path, "a.csv", b'text\nOne, two\n"three, ""four"""\n'), tmp_path)
    assert [example["text"] for example in found.examples()] == ["One, two", 'three, "four"']


def test_nulls_of_merged_structs_are_no_arguments(tmp_path: Path) -> None:
    def chat(**arguments: Any) -> list[dict[str, Any]]:
        call = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
        return [{"role": "user", "content": "W?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]

    def tools(*names: str) -> list[dict[str, Any]]:
        return [{"name": "weather", "parameters": {"properties": {name: {"type": "string"} for name in names}}}]

    file = packed(messages=[chat(city="A"), chat(hour=3)], tools=[tools("city"), tools("hour", "city")])
    found = [*check(keep(tmp_path, "a.parquet", file), tmp_path).examples()]
    calls = [example["messages"][1]["tool_calls"][0]["function"]["arguments"] for example in found]
    assert calls == [{"city": "A"}, {"hour": 3}]
    properties = [example["tools"][0]["function"]["parameters"]["properties"] for example in found]
    assert list(map(sorted, properties)) == [["city"], ["city", "hour"]]
    (example,) = read(tmp_path, {"messages": chat(city=None)}).examples()
    assert example["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"city": None}
