#!/usr/bin/env bash
# Every task that has a twin among the synthetic scenes: the encoder that knows what was drawn, the shipped ones, random weights, floors.
#
#   results/tasks/run.sh [OUT]        default: runs/tasks; resumes where it was stopped
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-runs/tasks}
global=linear,knn,attentive,linear-path,few-shot,shift,imagenet9,roxford5k
dense=ade20k,ade20k-full,ade20k-incontext,depth,spair71k,davis
questions=gqa,vqav2,pope,tallyqa,vsr,cv-bench-2d,cv-bench-3d,mmbench,chartqa,docvqa,infovqa,ocrbench
words=zeroshot,ade20k-text,sugarcrepe,winoground,aro-attribution,aro-relation,aro-order,mmvp-vlm
levl-eval run --backbone oracle:attributes,levljepa-nano,clip-nano,siglip-nano,random-nano --tasks "$global,$dense,$questions" --data scenes --out "$out"
levl-eval run --backbone oracle:words,levljepa-nano,clip-nano,siglip-nano --tasks "$words" --data scenes --out "$out"
levl-eval leaderboard "$out" --format csv > results/tasks/leaderboard.csv
levl-eval leaderboard "$out" > results/tasks/leaderboard.txt
