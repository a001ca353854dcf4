#!/usr/bin/env bash
# Train for real on this machine's NVIDIA GPU, with Unsloth beside plain TRL + PEFT, and write the figures:
#   scripts/gpu_check.sh [FILE.json]
# It makes an environment of its own (.venv-gpu, several gigabytes) unless PYTHON names one with Unsloth in it.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu.json}
command -v nvidia-smi >/dev/null || { echo "gpu_check: there is no nvidia-smi, so no NVIDIA GPU and driver here." >&2; exit 2; }
if [ -z "${PYTHON:-}" ]; then
  PYTHON=.venv-gpu/bin/python
  if [ ! -x "$PYTHON" ]; then
    python3 -m venv .venv-gpu
    "$PYTHON" -m pip install --quiet unsloth
    "$PYTHON" -m pip install --quiet --editable '.[loop,train]' 'trl<=1.15'
  fi
fi
exec "$PYTHON" benchmarks/gpu.py --json "$out"
