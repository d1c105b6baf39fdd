#!/usr/bin/env bash
# The whole chain on this machine: from config.json files to simulated latencies, and beside them the real engine.
# Everything it writes goes into a temporary folder; `dooly` and `python` are those of .venv (see Makefile).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

BUDGET_S=60
REQUESTS=200
RATE=4
VALIDATED=40

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export DOOLY_DB="$work/dooly.sqlite"

step() { printf '\n\033[1m== %s\033[0m\n\n' "$1"; }

step "1. One step of Llama-3.1-8B as the engine runs it: every dimension with its origin"
python -m dooly.passes llama-3.1-8b -p annotate-shapes,propagate-taint,expand-opaque,canonicalize --time-passes

step "2. Four models, one table of operations without repetition"
python -m dooly.passes llama-3.1-8b llama-3.1-70b qwen3-8b mixtral-8x7b --time-passes | grep -E '^operation|^  use'

step "3. Measure a small model on this CPU within $BUDGET_S s"
dooly profile tiny-llama --budget "$BUDGET_S"

step "4. A second run measures nothing"
dooly profile tiny-llama --budget 1

step "5. Formulas"
dooly fit
dooly formulas

step "6. One engine step, by operation"
dooly predict tiny-llama --batch 128:0,1:512x7

step "7. Simulate $REQUESTS requests of the shipped trace"
dooly simulate tiny-llama --requests "$REQUESTS" --rate "$RATE"

step "8. The real engine on the first $VALIDATED of them"
dooly validate tiny-llama --requests "$VALIDATED" --rate "$RATE"
