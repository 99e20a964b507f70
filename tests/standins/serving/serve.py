"""A worker process: `serve.py RUNNER`; prints what the model gave, step by step.

Two requests: `a` of 3 tokens, `b` of 5 that come in two chunks while `a` decodes.
"""

import importlib
import os
import signal
import sys
import time

from vllm.plugins import load_general_plugins

load_general_plugins()
load_general_plugins()

from vllm.scheduled import CachedRequestData, NewRequestData, SchedulerOutput  # noqa: E402

module, name = sys.argv[1].rsplit(".", 1)
runner = getattr(importlib.import_module(module), name)()
runner.load_model()
runner.profile_run()


def step(new=(), cached=(), tokens=None, finished=()):
    ids = CachedRequestData([request for request, _ in cached], [done for _, done in cached])
    output = SchedulerOutput(list(new), ids, tokens, sum(tokens.values()), set(finished))
    result = runner.execute_model(output)
    if result is None:
        result = runner.execute_model_state.hidden_states
    sys.stdout.write(f"{[round(float(x), 5) for x in result.sum(-1)] if tokens else []}\n")


step(new=[NewRequestData("a", [1, 2, 3])], tokens={"a": 3})
if not module.endswith(".model_runner"):
    step(tokens={})
dies = os.environ.get("STANDIN_DIE") == os.environ.get("RANK", "0")
if dies:
    time.sleep(0.5)
b = NewRequestData("b", [4, 5, 6, 7, 8])
step(new=[b], cached=[("a", 3)], tokens={"b": 2, "a": 1})
if dies:
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
step(cached=[("a", 4), ("b", 2)], tokens={"a": 1, "b": 3})
step(cached=[("b", 5)], tokens={"b": 1}, finished=["a"])
