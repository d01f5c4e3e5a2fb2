#!/usr/bin/env bash
# Several pretraining seeds: each trained by train.sh and evaluated with heads of the same seed, then one table over seeds.
#
#   results/scenes/seeds.sh [SEEDS] [STEPS] [OUT] [words for levl-pretrain ...]        default: "1 2 3" 6000 runs/scenes
#
# Every part resumes where it was stopped. On a GPU: results/scenes/seeds.sh "1 2 3 4 5" 20000 runs/small model=small image_size=224
set -euo pipefail
cd "$(dirname "$0")/../.."
seeds=${1:-1 2 3} steps=${2:-6000} out=${3:-runs/scenes}
tasks=gqa,vqav2,pope,ade20k,linear,zeroshot
for seed in $seeds; do
  results/scenes/train.sh "$seed" "$steps" "$out" "${@:4}"
  for objective in levljepa clip siglip; do
    levl-eval run --backbone "$out/$objective-$seed/ckpt.pt" --tasks "$tasks" --data scenes --seeds "$seed" --out "$out/eval" || true
  done
  levl-eval run --backbone "random:nano?seed=$seed" --tasks "${tasks%,zeroshot}" --data scenes --seeds "$seed" --out "$out/eval" || true
done
levl-eval leaderboard "$out/eval" --format csv | awk -F, 'NR == 1 || $3 == 1' > "$out/seeds.csv"
python results/scenes/summary.py "$out/seeds.csv"
roles() { for seed in $seeds; do echo -n "$1-$seed,"; done | sed 's/,$//'; }
levl-eval claims "$out/eval" --as "levljepa=$(roles levljepa)" --as "clip=$(roles clip)" --as "siglip=$(roles siglip)"
