"""Which models may load: no code of their own, no pickles, no paths, no shadows."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from trainer.common.errors import UserError
from trainer.config.schema import ModelConfig, RunConfig
from trainer.models import locations
from trainer.models.discovery.discover import discover
from trainer.models.weight_files import INDEX
from trainer.planning.plan import make_plan
from trainer.planning.scenarios import SIX
from trainer.training.loading import load_model

ROOT = Path(__file__).parents[2]
SOURCES = [path for folder in ("trainer", "ui") for path in sorted((ROOT / folder).rglob("*.py"))] + [ROOT / "app.py"]


def folder_with(tmp_path: Path, config: Any, name: str = "model") -> Path:
    (tmp_path / name).mkdir(exist_ok=True)
    text = config if isinstance(config, str) else json.dumps(config)
    (tmp_path / name / "config.json").write_text(text)
    return tmp_path / name


def keywords(path: Path) -> list[tuple[str, ast.expr]]:
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [(item.arg or "", item.value) for call in calls for item in call.keywords]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_call_trusts_remote_code_or_shares_the_page(path: Path) -> None:
    """Both are named to be switched off: where they are left out, libraries ask or decide for themselves."""
    for name, value in keywords(path):
        if name in ("trust_remote_code", "share", "weights_only") and not isinstance(value, ast.Name):
            assert isinstance(value, ast.Constant)
            assert value.value is (name == "weights_only")
        assert not (name == "trust_remote_code" and isinstance(value, ast.Name))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_is_unpickled_or_evaluated(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not called & {"eval", "exec", "compile", "__import__", "torch.load", "os.system"}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not {name.name for node in imports for name in node.names} & {"pickle", "marshal", "shelve", "cloudpickle"}


def test_every_load_of_a_model_names_safetensors_and_no_remote_code() -> None:
    loads, models_loaded = 0, 0
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            given = {item.arg: ast.unparse(item.value) for item in node.keywords}
            source = ast.unparse(node.func)
            if source.lower().startswith("auto") and source.endswith("from_pretrained"):
                loads += 1
                assert given["trust_remote_code"] == "False"
                if "Model" in source or source.startswith("auto_class("):
                    models_loaded += 1
                    assert given["use_safetensors"] == "True"
    assert loads >= 3
    assert models_loaded >= 1


KERNEL = "kernels-community/flash-attn"


@pytest.mark.parametrize(
    "extra",
    [
        {"_attn_implementation": "someone/kernel"},
        {"attn_implementation": f"{KERNEL}@v1:function"},
        {"_attn_implementation_internal": {"": "sdpa", "vision_config": KERNEL}},
        {"_experts_implementation": KERNEL},
        {"text_config": {"attn_implementation": f"paged|{KERNEL}"}},
        {"vision": [{"_attn_implementation": [KERNEL]}]},
    ],
)
def test_a_config_that_names_a_kernel_of_the_hub_is_refused_with_the_reason(
    extra: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    folder_with(tmp_path, {"model_type": "llama", **extra})
    with pytest.raises(UserError, match="run code"):
        locations.load_config(ModelConfig(name="model"), tmp_path)


@pytest.mark.parametrize(
    "extra",
    [
        {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "someone/code--evil.Model"}},
        {"auto_map": ["evil.Tokenizer", None]},
        {"attn_implementation": "eager", "_attn_implementation": "flash_attention_2"},
        {"_attn_implementation": {"": "sdpa", "text_config": "flash_attention_3"}},
        {"_attn_implementation_internal": "x", "_attn_implementation_autoset": True},
        {"experts_implementation": "grouped_mm", "cache_implementation": "hybrid"},
    ],
)
def test_what_a_config_chooses_for_us_is_ignored(extra: dict[str, Any], tmp_path: Path) -> None:
    """Code, attention and experts are this program's choice, in the config and in what lies in it."""
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    size |= {"vocab_size": 99}
    folder_with(tmp_path, {"model_type": "llama", **size, **extra}, "plain")
    inner = {"text_config": {"model_type": "llama", **size, **extra}, "vision_config": {**size, **extra}}
    folder_with(tmp_path, {"model_type": "llava", **inner, **extra}, "wrapper")
    for name in ("plain", "wrapper"):
        config = locations.load_config(ModelConfig(name=name), tmp_path)
        for part in (config, config.get_text_config()):
            assert not hasattr(part, "auto_map")
            assert part._attn_implementation is None
            assert part._experts_implementation is None
        assert discover(config, name).parameters > 0


EVIL = "import pathlib\npathlib.Path({marker!r}).touch()\nclass Evil: ...\n"


def test_no_code_of_a_model_runs(models_dir: Path, tmp_path: Path) -> None:
    """The whole way, config, modules, tokenizer and weights: files that would leave a marker if they were run."""
    folder, marker = tmp_path / "model", tmp_path / "it ran"
    shutil.copytree(models_dir / "phi3", folder)
    (folder / "custom_generate").mkdir()
    for file in ("evil.py", "modeling_evil.py", "__init__.py", "custom_generate/generate.py"):
        (folder / file).write_text(EVIL.format(marker=str(marker)))
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoProcessor")
    code: dict[str, Any] = dict.fromkeys(names, "evil.Evil") | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    for file in ("config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json"):
        value = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
        extra = {"auto_map": code, "custom_generate": str(folder), "text": {"auto_map": code}}
        (folder / file).write_text(json.dumps(value | extra))
    model = ModelConfig(name="model", quantization="none")
    found = discover(locations.load_config(model, tmp_path), "model")
    plan = make_plan(RunConfig(model=model, modules=SIX[4].modules), found)
    loaded = load_model(model, tmp_path, plan, found, lambda *_, **__: None)
    tokenizer = locations.load_tokenizer(model, tmp_path)
    loaded.generate(**tokenizer("the cat", return_tensors="pt"), max_new_tokens=2)
    assert {type(loaded).__module__.split(".")[0], type(tokenizer).__module__.split(".")[0]} == {"transformers"}
    assert not marker.exists()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "evil"}))
    with pytest.raises(UserError, match="needs custom code"):
        locations.load_config(model, tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "config",
    [
        *("", "[]", "null", "{", "[" * 100_000, '{"a":' * 100_000, '{"model_type": ' + "9" * 5000 + "}", "\0"),
        *({}, {"model_type": 3}, {"model_type": ["llama"]}, {"model_type": "clip"}, {"model_type": "x" * 10_000}),
        json.dumps({"model_type": "llama", "a": json.loads('{"b":' * 100 + "1" + "}" * 100)}),
        '{"model_type": "llama"}' + " " * locations.MAX_CONFIG_BYTES,
        {"model_type": "llama", "hidden_size": "x"},
    ],
)
def test_a_config_that_is_none_gets_a_sentence(config: Any, tmp_path: Path) -> None:
    folder_with(tmp_path, config)
    with pytest.raises(UserError) as caught:
        locations.load_config(ModelConfig(name="model"), tmp_path)
    assert "Traceback" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "name",
    [
        *(
            "/etc",
            "/tmp/model",
            "../model",
            "./model",
            "..",
            ".",
            "~",
            "model/../../x",
            "a/../b",
            "models/x/y",
            "c:\\x",
        ),
        *(
            "file:///etc",
            "http://x/y",
            "a/b/c",
            "a//b",
            "-x",
            ".hidden",
            "a\0b",
            "a/.b",
            "model\n",
            "",
            " ",
            "x" * 200,
        ),
    ],
)
def test_a_model_is_named_and_never_a_path(name: str, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    folder_with(tmp_path, {"model_type": "llama"})
    with pytest.raises(UserError):
        source, _ = locations.locate(ModelConfig(name=name), tmp_path / "models")
        assert source == name.strip() == "model"


def test_what_is_listed_can_be_chosen(tmp_path: Path) -> None:
    for name in ("mine", "demo", "my model", ".hidden", "a" * 100):
        folder_with(tmp_path, {"model_type": "llama"}, name)
    assert locations.local_models(tmp_path) == ["mine"]


@pytest.mark.parametrize("revision", ["../../x", "/etc", "a..b", "", "-x", "a b", "x" * 300])
def test_a_revision_is_a_name(revision: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="valid revision"):
        locations.locate(ModelConfig(name="owner/name", revision=revision), tmp_path)


def test_a_folder_in_the_working_folder_cannot_shadow_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert locations.locate(ModelConfig(name="owner/name"), tmp_path / "models")[0] == "owner/name"
    folder_with(tmp_path, {"model_type": "llama"}, "owner")
    (tmp_path / "owner/name").mkdir()
    with pytest.raises(UserError, match="hides"):
        locations.locate(ModelConfig(name="owner/name"), tmp_path / "models")


@pytest.mark.parametrize(
    "name",
    ["pytorch_model-00001.bin", "../../x.safetensors", "/x.safetensors", "a/b.safetensors", "x.safetensors.bin", 3],
)
def test_an_index_may_name_only_safetensors_of_its_own_folder(name: Any, tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"model_type": "llama"})
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / INDEX).write_text(json.dumps(index))
    locations.check_weights(ModelConfig(name="model"), tmp_path)
    index["weight_map"]["b"] = name
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match="own folder"):
        locations.check_weights(ModelConfig(name="model"), tmp_path)


def test_an_adapter_that_leads_to_another_model_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"model_type": "llama"})
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/somewhere/else"}')
    with pytest.raises(UserError, match="adapter"):
        locations.check_weights(ModelConfig(name="model"), tmp_path)


def test_pickled_weights_are_not_loaded(models_dir: Path, tmp_path: Path) -> None:
    """The whole way: a model that has its weights only as a pickle, which would run code when it is read."""
    import torch

    shutil.copytree(models_dir / "phi3", tmp_path / "model")
    (tmp_path / "model/model.safetensors").unlink()
    marker = tmp_path / "it ran"

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (marker,))

    torch.save({"a": Evil()}, tmp_path / "model/pytorch_model.bin")
    model = ModelConfig(name="model", quantization="none")
    found = discover(locations.load_config(model, tmp_path), "model")
    plan = make_plan(RunConfig(model=model, modules=SIX[4].modules), found)
    with pytest.raises(UserError, match="safetensors"):
        load_model(model, tmp_path, plan, found, lambda *_, **__: None)
    assert not marker.exists()
