#!/usr/bin/env bash
# The search behind train.sh: for each objective the same five short runs (four rates, and embeddings of 32 dimensions), judged
# by a linear probe and zero-shot on scenes of another seed than anything is tested on. Resumes where it was stopped.
#
#   results/scenes/search.sh [OUT]        default: runs/search; two cores, half an hour to an hour
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-runs/search}
mkdir -p "$out"
[ -e "$out/validation/scenes.json" ] || levl-eval data make scenes --seed 1 --scale 3 --out "$out/validation"
run() { # NAME words...
  levl-pretrain model=nano data=scenes scenes_pool=100000 scenes_captions=both scenes_singles=0.5 seed=1 precision=bf16 steps=1000 \
    batch_size=64 threads=1 out="$out/$1" "${@:2}"
}
for objective in levljepa clip siglip; do
  for rate in 2.5e-4 5e-4 1e-3 2e-3; do run "$objective-rate-$rate" objective="$objective" lr="$rate"; done
  run "$objective-width-32" objective="$objective" lr=1e-3 embed_dim=32
  levl-eval run --backbone "$(printf '%s,' "$out/$objective"-*/ckpt.pt | sed 's/,$//')" --tasks linear,zeroshot --data "$out/validation" --out "$out/eval"
done
levl-eval leaderboard "$out/eval" --format csv | awk -F, "NR == 1 || \$3 == 1" > results/scenes/search.csv
