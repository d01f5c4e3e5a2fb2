#!/usr/bin/env bash
# Three backbones on equal data, samples and towers, each with the rate, and LeVLJEPA with the predictors, that search.sh found for it.
# Resumes where it was stopped.
#
#   results/scenes/train.sh [SEED] [STEPS] [OUT] [words for levl-pretrain ...]        default: 1 6000 runs/scenes, which is what ships
#   PREDICTOR_DEPTH=4 results/scenes/train.sh ...     LeVLJEPA as it shipped until 2026-12-03, of seeds.csv and long.csv
set -euo pipefail
cd "$(dirname "$0")/../.."
seed=${1:-1} steps=${2:-6000} out=${3:-runs/scenes}
run() { # OBJECTIVE words...
  levl-pretrain objective="$1" model=nano data=scenes scenes_pool=200000 scenes_captions=both scenes_singles=0.5 precision=bf16 \
    batch_size=64 steps="$steps" seed="$seed" threads=1 out="$out/$1-$seed" "${@:2}"
}
run levljepa lr=5e-4 predictor_depth="${PREDICTOR_DEPTH:-1}" "${@:4}" &
run clip lr=2.5e-4 "${@:4}" &
run siglip lr=2.5e-4 "${@:4}" &
for job in $(jobs -p); do wait "$job"; done
