#!/usr/bin/env bash
# The whole chain on this machine: from config.json files to simulated latencies, and beside them the real engine.
# Everything it writes goes into a temporary folder; `dooly` and `python` are those of .venv (see Makefile).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

BUDGET_S=60
SIMULATED=200
VALIDATED=20
ARRIVALS=(--rate 2 --max-model-len 768)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export DOOLY_DB="$work/dooly.sqlite"

step() { printf '\n\033[1m== %3d s  %s\033[0m\n\n' "$SECONDS" "$1"; }

# One graph of a file that holds several: the text is the interface.
graph() { sed -n "/^graph \"$1\" {\$/,/^}\$/p" "$work/models.ir"; }

step "Capture five models from their config.json: no weights, no GPU, no network"
python -m dooly.passes llama-3.1-8b llama-3.1-70b qwen3-8b mixtral-8x7b tiny-llama \
    -p annotate-shapes,propagate-taint,expand-opaque,canonicalize --time-passes -o "$work/models.ir"
for model in llama-3.1-8b llama-3.1-70b qwen3-8b mixtral-8x7b tiny-llama; do graph "$model" > "$work/$model.ir"; done

step "One step of Llama-3.1-8B: every dimension with its origin"
cat "$work/llama-3.1-8b.ir"

step "Four models, one table of operations without repetition"
python -m dooly.passes "$work"/{llama-3.1-8b,llama-3.1-70b,qwen3-8b,mixtral-8x7b}.ir -o "$work/table.ir"
grep -E '^operation|^  use' "$work/table.ir"

step "Measure tiny-llama on this CPU within $BUDGET_S s"
measure() { dooly profile "$work/tiny-llama.ir" --budget "$BUDGET_S" | tee "$work/profile.txt"; }
measure
for _ in 1 2 3 4; do
    grep -q '^a prediction still lacks' "$work/profile.txt" || break
    step "The machine was too busy for that budget: the same command goes on where it stopped"
    measure
done

step "What is left to measure now, and what reuse saves"
dooly plan "$work/tiny-llama.ir"

step "Formulas, fitted when it was measured"
dooly formulas

step "One engine step by operation: a prompt of 128 tokens and 7 requests that decode"
dooly predict "$work/tiny-llama.ir" --batch 128:0,1:512x7

step "Simulate $SIMULATED requests of the shipped trace"
dooly simulate tiny-llama --requests "$SIMULATED" "${ARRIVALS[@]}"

step "The real engine on the first $VALIDATED of them"
dooly validate tiny-llama --requests "$VALIDATED" "${ARRIVALS[@]}"

step "done"
