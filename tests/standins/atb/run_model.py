"""Run the stand-in model: `run_model.py [--steps N] [--poison] [--exit CODE]`."""

import argparse
import ctypes
import os
import sys
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=2)
parser.add_argument("--poison", action="store_true")
parser.add_argument("--exit", type=int, default=0)
args = parser.parse_args()

libatb = ctypes.CDLL(str(Path(os.environ["ATB_HOME_PATH"]) / "lib" / "libatb.so"))
device = int(os.environ.get("STANDIN_DEVICE", "0"))
stopped = libatb.standin_run(args.steps, device, int(args.poison))
if stopped:
    sys.stdout.write(f"stopped by overflow in step {stopped - 1}\n")
sys.exit(3 if stopped else args.exit)
