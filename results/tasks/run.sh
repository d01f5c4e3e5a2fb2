#!/usr/bin/env bash
# Every task that has a twin among the synthetic scenes, on the same few test images: random weights, a shipped encoder, an oracle
# that the renderer tells what the task asks for, and the floors.
#
#   results/tasks/run.sh [OUT] [LIMIT]        default: runs/tasks 200; resumes where it was stopped
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-runs/tasks} limit=${2:-200}
encoders=random-nano,levljepa-nano
run() { levl-eval run --data scenes --out "$out" --limit "$limit" --seeds 0 "$@" || true; } # what an encoder cannot do fails and is said
global=linear,knn,few-shot,attentive,shift@scenes-texture,shift@scenes-colour,shift@scenes-noise,shift@scenes-style,imagenet9,roxford5k
dense=ade20k,ade20k-full,ade20k-incontext,davis
asked=gqa,vqav2,pope,tallyqa
lettered=cv-bench-2d,mmbench,mmvp,realworldqa,seed-image
blink=blink-counting,blink-spatial-relation,blink-object-localization
# What the scenes' first language model has never read: print, letters, sizes, distances, statements and "where".
read_too=chartqa,docvqa,infovqa,ocrbench,refcoco-places,vsr,cv-bench-3d,ai2d,blink-relative-depth
run --backbone "oracle:attributes,$encoders" --tasks "$global,$dense,$asked,$lettered,$blink"
run --backbone "oracle:scene,$encoders" --tasks "$read_too" --llm scenes-reader
run --backbone "oracle:parts,$encoders" --tasks spair71k,navi
run --backbone "oracle:geometry,$encoders" --tasks nyuv2,kitti,sunrgbd,nyuv2-normals
run --backbone oracle:words,levljepa-nano --tasks zeroshot,ade20k-text,sugarcrepe,winoground,aro-attribution,aro-relation,aro-order,mmvp-vlm
levl-eval leaderboard "$out" --format csv | awk -F, 'NR == 1 || $3 == 1 || $2 ~ /^floor_/' > results/tasks/leaderboard.csv
python results/tasks/table.py results/tasks/leaderboard.csv > results/tasks/table.md
