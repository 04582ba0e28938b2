"""Folders that are really damaged, each in its way: what is said of them, before a run exists."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.support.lab import PATIENCE, open_lab
from trainer.cli import main as command_line
from trainer.common.errors import InvalidConfig, UserError
from trainer.config.schema import ModelConfig, RunConfig, Tick, default_config
from trainer.models.base_model import Base, BaseModels
from trainer.models.discovery.discover import discover
from trainer.models.locations import load_config, locate
from trainer.models.weight_files import INDEX, SINGLE
from trainer.service import experiments, planning, runs
from trainer.service.experiments import Request

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 134408\n"


@pytest.fixture
def folder(models_dir: Path, tmp_path: Path) -> Path:
    """A model in three shards, beside nothing else."""
    made = tmp_path / "models" / "mine"
    shutil.copytree(models_dir / "llama", made)
    shard(made)
    return made


def shard(folder: Path) -> None:
    """Spread model.safetensors over three files and an index."""
    tensors = load_file(folder / SINGLE)
    places = {name: f"model-{number % 3 + 1:05}-of-00003.safetensors" for number, name in enumerate(sorted(tensors))}
    for file in sorted(set(places.values())):
        save_file({name: tensors[name] for name in tensors if places[name] == file}, folder / file, {"format": "pt"})
    total = sum(tensor.nbytes for tensor in tensors.values())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": places}))
    (folder / SINGLE).unlink()


def examined(folder: Path) -> Base:
    model = ModelConfig(name=folder.name)
    found = discover(load_config(model, folder.parent), folder.name)
    return BaseModels(folder.parent).examine(model, found)


def short(config: RunConfig) -> RunConfig:
    """A configuration that the tiny model can train."""
    training = replace(config.training, max_length=64, optim="adamw_torch")
    model = replace(config.model, quantization="none")
    return replace(config, model=model, modules=(Tick("q_proj"),), training=training)


def told(folder: Path) -> str:
    return "\n".join(map(str, examined(folder).issues))


def test_whole_folders_have_nothing_to_mend(folder: Path, models_dir: Path) -> None:
    assert examined(folder) == Base()
    for kind in ("phi3", "llama", "gpt2", "moe"):
        assert examined(models_dir / kind) == Base()


def test_checkpoints_of_other_layouts_are_whole(models_dir: Path, tmp_path: Path) -> None:
    """Without the base model's prefix, a head for the tied embedding, experts as transformers 5 stacks them."""
    for kind, change in (
        ("gpt2", lambda tensors: {key.removeprefix("transformer."): value for key, value in tensors.items()}),
        ("llama", lambda tensors: {key.replace("model.embed_tokens", "lm_head"): tensors[key] for key in tensors}),
    ):
        shutil.copytree(models_dir / kind, tmp_path / kind)
        rewritten(change)(tmp_path / kind)
        assert (
            AutoModelForCausalLM.from_pretrained(tmp_path / kind, output_loading_info=True)[1]["missing_keys"]
            == set()
        )
        assert told(tmp_path / kind) == ""
    experts = AutoModelForCausalLM.from_pretrained(models_dir / "moe")
    shutil.copytree(models_dir / "moe", tmp_path / "moe")
    experts.save_pretrained(tmp_path / "moe", save_original_format=False)
    assert told(tmp_path / "moe") == ""
    without(O_PROJ, "lm_head.weight")(tmp_path / "moe")
    assert f"lack {O_PROJ}, lm_head.weight" in told(tmp_path / "moe")


def only(ending: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in folder.glob("*.safetensors*"):
            path.unlink()
        (folder / ending).write_bytes(b"weights")

    return change


def cut(folder: Path) -> None:
    path = folder / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-5000])


def cut_in_header(folder: Path) -> None:
    path = folder / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def lengthen(folder: Path) -> None:
    path = folder / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes() + b"more")


def write(name: str, content: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(content)

    return change


def remove(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def half_downloaded(folder: Path) -> None:
    (folder / "model-00003-of-00003.safetensors").unlink()
    place = folder / ".cache" / "huggingface" / "download"
    place.mkdir(parents=True)
    (place / "abc.4d7a.incomplete").write_bytes(b"half")


def other_vocabulary(folder: Path) -> None:
    value = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(value | {"vocab_size": 320}))


def more_layers(folder: Path) -> None:
    value = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(value | {"num_hidden_layers": 5}))


def foreign_shard(folder: Path) -> None:
    shutil.copy(folder / "model-00001-of-00003.safetensors", folder / "model-00002-of-00003.safetensors")


def pickled_by_config(folder: Path) -> None:
    value = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(value | {"transformers_weights": "adapter_model.bin"}))


def rewritten(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    """The model in one file, with other tensors."""

    def damage(folder: Path) -> None:
        tensors = {key: value for file in folder.glob("*.safetensors") for key, value in load_file(file).items()}
        remove(*(path.name for path in folder.glob("model*")))(folder)
        save_file(change(tensors), folder / SINGLE, {"format": "pt"})

    return damage


def without(*names: str) -> Callable[[Path], None]:
    return rewritten(lambda tensors: {key: value for key, value in tensors.items() if key not in names})


def renamed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.replace("model.", "transformer."): value for key, value in tensors.items()}


def transposed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {DOWN: tensors[DOWN].T.contiguous()}


def dangling(folder: Path) -> None:
    """As a copy of a snapshot from the hub's cache without its blobs."""
    remove(*(path.name for path in folder.glob("model*")))(folder)
    (folder / SINGLE).symlink_to("../../blobs/4d7a")


def folder_for_weights(folder: Path) -> None:
    remove(*(path.name for path in folder.glob("model*")))(folder)
    (folder / SINGLE).mkdir()


def into_subfolder(folder: Path) -> None:
    (folder / "inner").mkdir()
    for path in list(folder.glob("model*")):
        path.rename(folder / "inner" / path.name)


def with_token(token: str) -> Callable[[Path], None]:
    """The tokenizer with this token at 1279."""

    def change(folder: Path) -> None:
        value = json.loads((folder / "tokenizer.json").read_text())
        added = [item for item in value["added_tokens"] if item["content"] == token]
        (added[0] if added else {})["id"] = 1279
        value["model"]["vocab"][token] = 1279
        (folder / "tokenizer.json").write_text(json.dumps(value))

    return change


ONE = "model-00002-of-00003.safetensors"
O_PROJ = "model.layers.0.self_attn.o_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"
DAMAGES: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "pytorch": (only("pytorch_model.bin"), ["pytorch_model.bin only", "Convert"]),
    "pth": (only("model.pth"), ["model.pth only"]),
    "gguf": (only("mine-Q8_0.gguf"), ["mine-Q8_0.gguf only", "gguf_file='mine-Q8_0.gguf'"]),
    "consolidated": (only("consolidated.safetensors"), ["consolidated.safetensors only", "vendor"]),
    "another name": (only("weights.safetensors"), ["weights.safetensors only", "rename weights.safetensors"]),
    "adapter": (only("adapter_model.safetensors"), ["adapter"]),
    "missing shards": (remove(ONE, "model-00003-of-00003.safetensors"), ["2 of its 3", ONE]),
    "no index": (remove(INDEX), [f"lacks {INDEX}", f"Download {INDEX}"]),
    "broken index": (write(INDEX, '{"weight_map": '), [INDEX, "damaged"]),
    "index of pickles": (write(INDEX, '{"weight_map": {"a": "x.bin"}}'), ["not safetensors"]),
    "pointer": (write(ONE, POINTER), [ONE, "Git LFS pointer", "git lfs pull"]),
    "pointer of a tokenizer": (write("tokenizer.json", POINTER), ["tokenizer.json", "Git LFS pointer"]),
    "half downloaded": (half_downloaded, ["1 of its 3", "unfinished"]),
    "truncated": (cut, [ONE, "cut off"]),
    "truncated in its header": (cut_in_header, [ONE, "100 B"]),
    "too long": (lengthen, [f"{ONE} holds", "header"]),
    "empty": (write(ONE, ""), [f"{ONE} is empty"]),
    "a page": (write(ONE, "<!doctype html><html>Not found</html>"), [ONE, "web page"]),
    "noise": (write(ONE, "\x01" * 500), [ONE, "not a safetensors"]),
    "no tokenizer": (remove("tokenizer.json", "tokenizer_config.json"), ["no tokenizer"]),
    "other vocabulary": (other_vocabulary, ["model.embed_tokens.weight", "300 × 32", "320 × 32"]),
    "more layers": (more_layers, ["lack model.layers.3.", "14 more"]),
    "foreign shard": (foreign_shard, ["lack model.layers."]),
    "one weight less": (without(O_PROJ), [f"lack {O_PROJ},"]),
    "no last norm": (without("model.norm.weight"), ["lack model.norm.weight,"]),
    "no embedding": (without("model.embed_tokens.weight", O_PROJ), ["model.embed_tokens.weight", O_PROJ]),
    "other names": (rewritten(renamed), ["llama", "transformer.embed_tokens.weight"]),
    "transposed": (rewritten(transposed), ["transposed", DOWN, "48 × 32", "32 × 48"]),
    "half a tokenizer": (write("tokenizer.json", "{"), ["tokenizer.json", "not valid JSON"]),
    "no byte of it": (write("tokenizer.json", ""), ["tokenizer.json", "empty"]),
    "half its config": (write("tokenizer_config.json", '{"a'), ["tokenizer_config.json", "not valid JSON"]),
    "another tokenizer": (with_token("zebra"), ["1,279", "300 rows"]),
    "padding beyond": (with_token("<pad>"), ["1,279", "300 rows"]),
    "some shards, no index": (remove(INDEX, ONE), ["2 of 3 shards", INDEX]),
    "a broken link": (dangling, [SINGLE, "link", "../.."]),
    "a folder": (folder_for_weights, [SINGLE, "folder"]),
    "a subfolder": (into_subfolder, ["subfolder", f"inner/{ONE[:6]}"]),
    "a pickle by config": (pickled_by_config, ["adapter_model.bin"]),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_wrong_is_said(name: str, folder: Path) -> None:
    damage, words = DAMAGES[name]
    assert told(folder) == ""
    damage(folder)
    found = told(folder)
    assert all(word in found for word in words), found


def test_all_that_is_wrong_is_said_at_once(folder: Path) -> None:
    cut(folder)
    (folder / "model-00001-of-00003.safetensors").write_text(POINTER)
    (folder / "model-00003-of-00003.safetensors").unlink()
    remove("tokenizer.json", "tokenizer_config.json")(folder)
    found = told(folder)
    for part in ("1 of its 3", "cut off", "Git LFS pointer", "no tokenizer"):
        assert part in found


@pytest.mark.parametrize(
    ("content", "word"), [(POINTER, "Git LFS pointer"), ("", "empty"), ("{", r"not valid JSON: .*char 1\)")]
)
def test_a_config_that_is_none_is_said(content: str, word: str, folder: Path) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=f"config.json of mine.*{word}"):
        load_config(ModelConfig(name="mine"), folder.parent)


def test_an_added_token_that_texts_need_not_use_is_a_warning(folder: Path) -> None:
    """As in Gemma 3 1B, whose tokenizer has the token of images and whose embedding has not."""
    with_token("<|user|>")(folder)
    found = examined(folder)
    assert found.issues == ()
    assert "<|user|>" in found.warnings[0].problem


def test_an_index_that_is_a_pointer_is_said_once(folder: Path) -> None:
    (folder / INDEX).write_text(POINTER)
    (issue,) = examined(folder).issues
    assert issue.field == "model.name" and INDEX in issue.problem and "git lfs pull" in issue.fix


def test_an_index_that_counts_other_weights_is_a_warning(folder: Path) -> None:
    value = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(value | {"metadata": {"total_size": 9_900_000_000}}))
    found = examined(folder)
    assert found.issues == ()
    assert "9.90 GB" in found.warnings[0].problem


def test_links_and_folders_that_are_never_read_do_no_harm(folder: Path) -> None:
    (folder / "README.md").symlink_to("../../blobs/1b2c")
    (folder / "pytorch_model.bin").symlink_to("../../blobs/3d4e")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.bin").write_bytes(b"weights")
    assert examined(folder) == Base()


def test_finished_downloads_may_leave_traces(folder: Path) -> None:
    half_downloaded(folder)
    shutil.rmtree(folder / ".cache" / "huggingface" / "download")
    assert "unfinished" not in told(folder)


def test_no_run_is_queued_on_a_model_without_weights(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only("pytorch_model.bin")(folder)
    lab = open_lab(tmp_path, folder.parent)
    try:
        config = short(default_config("mine"))
        assert "pytorch_model.bin only" in str(planning.plan(lab, config).issues[0])
        with pytest.raises(InvalidConfig, match=r"pytorch_model\.bin only"):
            runs.start(lab, config, planning.plan(lab, config))
        with pytest.raises(UserError, match=r"pytorch_model\.bin only"):
            experiments.start(lab, config, Request("six"))
        (tmp_path / "run.json").write_text(json.dumps(config.to_json()))
        places = ["--runs-dir", str(lab.settings.runs_dir), "--models-dir", str(folder.parent)]
        assert command_line.main([*places, "scenarios", str(tmp_path / "run.json")]) == 2
        assert "pytorch_model.bin only" in capsys.readouterr().err
        assert lab.store.ids() == [] and lab.experiments.ids() == []
    finally:
        lab.close()


def test_an_experiment_whose_model_lost_its_weights_is_not_queued_again(folder: Path, tmp_path: Path) -> None:
    lab = open_lab(tmp_path, folder.parent)
    made = experiments.start(lab, short(default_config("mine")), Request("six"))
    runs.stop(lab, made.id)
    lab.store.delete(made.runs[-1])
    only("pytorch_model.bin")(folder)
    with pytest.raises(InvalidConfig, match=r"pytorch_model\.bin only"):
        experiments.resume(lab, made.id)
    assert {row["state"] for row in lab.store.summaries()} == {"stopped"}
    lab.close()


def test_a_config_alone_can_be_planned_and_not_trained(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folder.iterdir():
        if path.name != "config.json":
            path.unlink()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(short(default_config("mine")).to_json()))
    assert command_line.main(["plan", "run.json", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["trainable"] > 0
    weights, tokenizer = (issue["problem"] for issue in plan["issues"])
    assert "weights" in weights and "tokenizer" in tokenizer
    assert command_line.main(["train", "run.json"]) == 2
    for damage in (only("pytorch_model.bin"), dangling, folder_for_weights):
        for path in folder.glob("*model*"):
            path.unlink()
        damage(folder)
        assert command_line.main(["plan", "run.json", "--json"]) == 2


def test_an_unknown_name_says_where_it_was_looked_for_and_what_is_alike(folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        locate(ModelConfig(name="Mein"), folder.parent)
    assert str(folder.parent.resolve()) in caught.value.problem
    assert "mine?" in caught.value.fix


def test_the_advice_to_convert_works(models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very command that is shown, on weights that are a pickle, run where the app runs."""
    import subprocess
    import sys

    made = tmp_path / "models" / "mine"
    shutil.copytree(models_dir / "llama", made)
    torch.save(load_file(made / SINGLE), made / "pytorch_model.bin")
    (made / SINGLE).unlink()
    monkeypatch.chdir(tmp_path)  # the app's working folder
    advice = told(Path("models/mine"))
    assert "from_pretrained('models/mine'" in advice
    code = advice.split('python -c "')[1].split('" and put')[0]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert told(tmp_path / "converted") == ""
