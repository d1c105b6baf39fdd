#!/usr/bin/env bash
# Measure on every GPU of this machine at once: scripts/measure_gpus.sh SWEEP.ir DATABASE SECONDS
# The processes divide the points of one database between them.  What they say goes to DATABASE.GPU.log.
set -euo pipefail
for gpu in $(nvidia-smi --query-gpu=index --format=csv,noheader); do
    CUDA_VISIBLE_DEVICES=$gpu python3 -m dooly.cli profile "$1" --db "$2" --budget "$3" \
        --max-tokens 8192 --max-requests 256 --max-context 16384 > "$2.$gpu.log" 2>&1 &
done
wait
