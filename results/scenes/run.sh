#!/usr/bin/env bash
# Three objectives and random initialisation on the generated world: equal data, samples and steps, three seeds, one table.
#
#   results/scenes/run.sh [MODEL] [STEPS] [BATCH] [OUT]        default: nano 4000 64 runs/scenes
#
# Every part resumes where it was stopped. On a GPU: results/scenes/run.sh small 20000 256 (at 224 pixels). The leaderboard with its
# intervals and the table over seeds are written beside this script; README.md there says how to read them.
set -euo pipefail
cd "$(dirname "$0")/../.."
model=${1:-nano} steps=${2:-4000} batch=${3:-64} out=${4:-runs/scenes}
tasks=gqa,vqav2,pope,ade20k,linear,zeroshot
mkdir -p "$out"
for seed in 1 2 3; do
  for objective in levljepa clip siglip; do
    levl-pretrain objective="$objective" model="$model" data=scenes steps="$steps" batch_size="$batch" seed="$seed" \
      out="$out/$objective-$seed" resume=true
    levl-eval run --backbone "$out/$objective-$seed/ckpt.pt" --tasks "$tasks" --data scenes --seeds "$seed" --out "$out/eval" || true
  done
  levl-eval run --backbone "random:$([ "$model" = nano ] && echo nano || echo "vit_${model}_patch16_224")?seed=$seed" \
    --tasks "${tasks%,zeroshot}" --data scenes --seeds "$seed" --out "$out/eval" || true
done
levl-eval leaderboard "$out/eval" --format csv > results/scenes/leaderboard.csv
levl-eval leaderboard "$out/eval" > results/scenes/leaderboard.txt
python results/scenes/summary.py > results/scenes/table.md
