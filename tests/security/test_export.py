"""The zip of an adapter: exactly its files; no pickle, no link, no path of this machine, no token."""

from __future__ import annotations

import json
import os
import re
import struct
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trainer.common import atomic
from trainer.common.errors import UserError
from trainer.config.schema import ModelConfig, RunConfig, Tick, default_config
from trainer.export.adapter_zip import adapter_zip
from trainer.runs import event_log
from trainer.runs.run import Run
from trainer.runs.store import RunStore

TOKEN = "hf_" + "AbCdEfGh12345678" * 2
TITLE = '<img src=x onerror=alert(1)> | [a](javascript:alert(1)) `x` **b**\n# ../../etc & "q"'
VOCABULARY = {"vocab": {"/": 1, "//": 2, "token": 3, "/usr": 4}, "merges": [["/", "usr"], ["/usr", "/bin"]]}
ALWAYS = {"adapter_model.safetensors", "adapter_config.json", "README.md", "run_config.json"}


class NoPlan:
    def to_json(self) -> dict[str, Any]:
        return {
            "trainable": 1,
            "receipts": [{"tick": "q_proj", "treatment": "lora", "note": f"<b>|x|</b> `y` {TOKEN}"}],
        }


def make_run(folder: Path, **changes: Any) -> Run:
    """A finished run whose adapter folder holds more than it should."""
    config = replace(default_config(), title=TITLE, modules=(Tick("q_proj"),), **changes)
    store = RunStore(folder / "runs")
    run = store.create(config, NoPlan())  # type: ignore[arg-type]
    run.adapter.mkdir()
    head = b'{"__metadata__":{"format":"pt"}}'
    (run.adapter / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head)
    adapter = {
        "base_model_name_or_path": str(folder / "models" / "secret"),
        "peft_type": "LORA",
        "r": 4,
        "target_modules": ["model.layers.0.self_attn.q_proj"],
        "auto_mapping": {"base": str(folder), "token": TOKEN, "note": f"x {TOKEN}"},
    }
    atomic.write_json(run.adapter / "adapter_config.json", adapter)
    atomic.write_json(run.adapter / "tokenizer.json", {"model": VOCABULARY, "token": TOKEN})
    atomic.write_json(
        run.adapter / "tokenizer_config.json",
        {"name_or_path": str(folder), "auto_map": {"a": "b.py"}, "token": TOKEN, "x": [str(folder)], "eos": "</s>"},
    )
    (run.adapter / "chat_template.jinja").write_text("{{ messages }}")
    for extra in ("training_args.bin", "optimizer.pt", "README.md", "evil.py", ".env", "tokenizer_evil.json"):
        (run.adapter / extra).write_text(TOKEN)
    (run.adapter / "special_tokens_map.json").symlink_to("/etc/passwd")
    event_log.append(run.folder / "events.jsonl", "state", state="finished", message=f"Bearer {TOKEN}")
    return store.get(run.id)


def files(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == len(set(archive.namelist()))
        assert not any(entry.external_attr >> 28 == 0xA for entry in archive.infolist())  # a link
        return {name: archive.read(name) for name in archive.namelist()}


def test_it_holds_exactly_its_files(tmp_path: Path) -> None:
    assert files(adapter_zip(make_run(tmp_path), tmp_path)).keys() == ALWAYS


def test_with_new_tokens_it_holds_the_tokenizer_too(tmp_path: Path) -> None:
    run = make_run(tmp_path, model=ModelConfig(name="demo", new_tokens=("<|pirate|>",)))
    found = files(adapter_zip(run, tmp_path))
    assert found.keys() == ALWAYS | {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert json.loads(found["tokenizer_config.json"]) == {"eos": "</s>", "x": [None]}
    assert json.loads(found["tokenizer.json"]) == {"model": VOCABULARY}, "its words are words, whatever they say"


@pytest.mark.parametrize(
    ("name", "base"), [("demo", "lora-module-lab-demo"), ("owner/name", "owner/name"), ("phi3", "phi3")]
)
def test_the_base_model_is_a_name_and_no_path_nor_token_is_inside(name: str, base: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, model=ModelConfig(name=name, new_tokens=("<|a|>",)))
    found = files(adapter_zip(run, tmp_path))
    assert json.loads(found["adapter_config.json"])["base_model_name_or_path"] == base
    for content in found.values():
        assert TOKEN.encode() not in content
        assert str(tmp_path).encode() not in content
        assert str(Path.home()).encode() + b"/" not in content


def test_the_card_and_the_file_name_hold_the_title_as_text(tmp_path: Path) -> None:
    path = adapter_zip(make_run(tmp_path), tmp_path)
    assert re.fullmatch(r"[A-Za-z0-9-]+-\d{8}-\d{6}-[0-9a-f]{6}\.zip", path.name)
    assert path.parent == tmp_path
    card = files(path)["README.md"].decode()
    head = card.split("\n## Use")[0]
    assert "<" not in head.replace("<b>", "<")[head.index("# ") :]
    assert "](" not in card
    assert sum(line.startswith("# ") for line in card.splitlines()) == 1 + card.count("\n# model")
    row = next(line for line in card.splitlines() if "q_proj" in line)
    assert row.count("|") == 4


def test_a_configuration_changed_by_hand_cannot_write_into_the_card(tmp_path: Path) -> None:
    evil = 'a/b"]\n---\n# Hello `x` <script>'
    run = make_run(tmp_path, model=ModelConfig(name=evil))
    found = files(adapter_zip(run, tmp_path))
    assert "\n# Hello" not in found["README.md"].decode()
    assert "<script>" not in found["README.md"].decode()
    assert json.loads(found["adapter_config.json"])["base_model_name_or_path"] == "a/b---Helloxscript"


@pytest.mark.parametrize(("name", "wanted"), [("v2.0", "v2.0"), ("main", None), ('v2")\n---\n# Hello', "v2---Hello")])
def test_the_adapter_loads_the_very_revision_that_it_was_trained_on(
    name: str, wanted: str | None, tmp_path: Path
) -> None:
    run = make_run(tmp_path, model=ModelConfig(name="owner/name", revision=name))
    found = files(adapter_zip(run, tmp_path))
    assert json.loads(found["adapter_config.json"])["revision"] == wanted
    keyword = f', revision="{wanted}"' if wanted else ""
    assert f'from_pretrained("owner/name"{keyword})'.encode() in found["README.md"]


@pytest.mark.parametrize("content", [b"", b"\x80\x02c", b"PK\x03\x04" + bytes(50), bytes(8), b"\xff" * 64])
def test_weights_that_are_no_safetensors_are_not_packed(content: bytes, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run.adapter / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        adapter_zip(run, tmp_path)


def test_a_link_in_place_of_the_weights_is_not_followed(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    weights = run.adapter / "adapter_model.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no adapter yet"):
        adapter_zip(run, tmp_path)


def test_run_ids_are_generated_and_titles_never_become_one(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    ids = {store.create(RunConfig(title=f"../../{n}"), NoPlan()).id for n in range(5)}  # type: ignore[arg-type]
    assert len(ids) == 5
    assert all(re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", run_id) for run_id in ids)
    for wrong in (
        "..",
        "../x",
        "/etc",
        "",
        "20260101-000000-abcdef/..",
        "20260101-000000-ABCDEF",
        "a\0",
        "٢" * 8 + "-000000-abcdef",
    ):
        with pytest.raises(UserError):
            store.get(wrong)


def test_exports_do_not_pile_up(tmp_path: Path) -> None:
    """What was exported or uploaded a day ago goes at the app's next start; what is new stays."""
    from ui import DAY, remove_old

    for name in ("old.zip", "new.zip"):
        (tmp_path / name).write_bytes(b"zip")
    (tmp_path / "upload").mkdir()
    for name in ("old.zip", "upload"):
        os.utime(tmp_path / name, (time.time() - DAY - 10,) * 2)
    remove_old(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["new.zip"]
