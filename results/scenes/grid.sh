#!/usr/bin/env bash
# The shipped backbones on ade20k under the protocols that the paper leaves open: heads of 30 and of 120 epochs, and solved ones.
#
#   results/scenes/grid.sh [OUT]        default: runs/grid; resumes where it was stopped
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-runs/grid}
grid() { # HEAD words...
  levl-eval run --backbone levljepa-nano,clip-nano,siglip-nano --tasks ade20k --data scenes --out "$out" --grid "ade20k.head=$1" \
    --grid ade20k.label_grid=corner,nearest "${@:2}"
}
grid ridge --grid ade20k.standardize=true,false
grid linear --grid ade20k.standardize=true,false --grid ade20k.epochs=30,120
grid linear-bn --grid ade20k.epochs=30,120
levl-eval leaderboard "$out" --format csv | awk -F, 'NR == 1 || $3 == 1' > results/scenes/grid.csv
levl-eval claims "$out" --as levljepa=levljepa-nano --as clip=clip-nano --as siglip=siglip-nano --curve > results/scenes/grid-claims.txt
