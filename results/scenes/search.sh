#!/usr/bin/env bash
# The search behind train.sh: for each objective the same nine short runs (five rates; embeddings of 32 dimensions; two values of the
# constant in its loss and one of its heads, at the best rate), judged by a linear probe and zero-shot on scenes of another seed than
# anything is tested on; LeVLJEPA's predictors with two pretrainings more. Resumes where it was stopped.
#
#   results/scenes/search.sh [OUT]        default: runs/search; two cores, two to four hours
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-runs/search}
mkdir -p "$out"
[ -e "$out/validation/scenes.json" ] || levl-eval data make scenes --seed 1 --scale 3 --out "$out/validation"
run() { # NAME words...
  levl-pretrain model=nano data=scenes scenes_pool=100000 scenes_captions=both scenes_singles=0.5 seed="${seed:-1}" precision=bf16 steps=1000 \
    batch_size=64 threads=1 out="$out/$1" objective="${1%%-*}" "${@:2}"
}
for objective in levljepa clip siglip; do
  for rate in 1.25e-4 2.5e-4 5e-4 1e-3 2e-3; do run "$objective-rate-$rate" lr="$rate"; done
  run "$objective-width-32" lr=1e-3 embed_dim=32
done
for lambda in 0.005 0.05; do run "levljepa-lambda-$lambda" lr=5e-4 lambda_v="$lambda" lambda_t="$lambda"; done
for scale in 5 30; do run "clip-scale-$scale" lr=2.5e-4 logit_scale_init="$scale"; done
for scale in 5 20; do run "siglip-scale-$scale" lr=2.5e-4 logit_scale_init="$scale"; done
run levljepa-predictor-1 lr=5e-4 predictor_depth=1
for seed in 2 3; do
  run "levljepa-predictor-1-seed-$seed" lr=5e-4 predictor_depth=1
  run "levljepa-rate-5e-4-seed-$seed" lr=5e-4
done
unset seed
for objective in clip siglip; do run "$objective-width-256" lr=2.5e-4 embed_dim=256; done
for objective in levljepa clip siglip; do
  levl-eval run --backbone "$(printf '%s,' "$out/$objective"-*/ckpt.pt | sed 's/,$//')" --tasks linear,zeroshot --data "$out/validation" --out "$out/eval"
done
levl-eval leaderboard "$out/eval" --format csv | awk -F, "NR == 1 || \$3 == 1" > results/scenes/search.csv
