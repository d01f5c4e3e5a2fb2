#!/usr/bin/env bash
# The shipped backbones and random weights on the synthetic scenes: heads and connectors at their recipes' length and at four times it.
#
#   results/scenes/run.sh [OUT]        default: runs/shipped; resumes where it was stopped
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-runs/shipped}
backbones=levljepa-nano,clip-nano,siglip-nano,random-nano
run() { levl-eval run --data scenes --out "$out" "$@" || true; } # random-nano has no text encoder: its zeroshot fails, and is said to
run --backbone "$backbones" --tasks gqa,vqav2,pope,ade20k,linear --budget x4
run --backbone "$backbones" --tasks imagenet9,zeroshot
levl-eval leaderboard "$out" --format csv | awk -F, 'NR == 1 || $3 == 1' > results/scenes/leaderboard.csv
levl-eval leaderboard "$out" > results/scenes/leaderboard.txt
levl-eval claims "$out" --as levljepa=levljepa-nano --as clip=clip-nano --as siglip=siglip-nano > results/scenes/claims.txt
