#!/usr/bin/env bash
# What ships: each backbone of train.sh trained on, from its release in half precision, by as many samples of 200,000 other images at the
# same peak rate. Resumes where it was stopped.
#
#   results/scenes/train.sh && results/scenes/second.sh [FIRST] [OUT]        default: runs/scenes runs/second
set -euo pipefail
cd "$(dirname "$0")/../.."
first=${1:-runs/scenes} out=${2:-runs/second}
run() { # OBJECTIVE words...
  [ -e "$first/$1.safetensors" ] || levl-pretrain export "$first/$1-1/ckpt.pt" --to release --out "$first/$1.safetensors"
  levl-pretrain objective="$1" model=nano data=scenes scenes_pool=200000 scenes_captions=both scenes_singles=0.5 precision=bf16 \
    batch_size=64 steps=6000 seed=2 threads=1 init_from="$first/$1.safetensors" out="$out/$1" "${@:2}"
  levl-pretrain export "$out/$1/ckpt.pt" --to release --out "$out/$1.safetensors"
}
run levljepa lr=5e-4 predictor_depth=1 &
run clip lr=2.5e-4 &
run siglip lr=2.5e-4 &
for job in $(jobs -p); do wait "$job"; done
