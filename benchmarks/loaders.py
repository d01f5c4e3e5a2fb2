"""Processor seconds and memory to load one encoder of each library, and language models: a fresh process each, from files on this disk.

    python benchmarks/loaders.py [--folder DIR] [--llm smollm2-135m-instruct] [--json FILE]

Encoders of timm, open_clip and transformers are a ViT-B/16 with random weights, saved here as each library saves them; `levl:` and
`official:` are the shipped levljepa-nano and its export. Seconds are the processor's, which other work on the machine does not
stretch: those of importing the library stand apart. Memory (of Linux) is the largest resident size of the process, and how much
of it is beyond the imports; the weights' own size stands beside.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

CHILD = """
import json, sys, time
kind, name = sys.argv[1:]

def peak():  # of this program alone: getrusage would count what the process was before it became this program
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) / 1024

import levl_eval.core.third_party as third_party
third_party.repair()
import torch
torch.set_num_threads(1)
if kind == "llm":
    import transformers.models.llama.modeling_llama
    from levl_eval.engines.vlm.language import load_language_model as load
else:
    from levl_eval.backbones import load_backbone as load
    __import__({"levl": "timm", "official": "timm", "hf": "transformers", "random": "timm", "py": "torchvision"}.get(kind, kind))
    if kind == "hf":
        import transformers.models.vit.modeling_vit
before, imports = peak(), time.process_time()
found = load(name)
module = found.model if kind == "llm" else found
size = sum(p.numel() * p.element_size() for p in module.parameters())
print(json.dumps({"imports_s": imports, "load_s": time.process_time() - imports, "peak_mib": peak(), "beyond_mib": peak() - before,
                  "weights_mib": size / 2**20}))
"""


def prepare(folder: Path) -> dict[str, tuple[str, str]]:
    """Name of the row -> (kind, what is loaded); files are written where they are not there."""
    from levl_eval.core.third_party import repair

    repair()
    import open_clip
    import timm
    import torch
    from safetensors.torch import save_file
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    from levl_eval.models.checkpoints import export

    torch.manual_seed(0)
    places = {k: folder / k for k in ("timm", "open_clip", "hf", "official")}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    if not (places["timm"] / "config.json").exists():
        timm.models.save_for_hf(timm.create_model("vit_base_patch16_224"), places["timm"], safe_serialization=True)
    if not (places["open_clip"] / "open_clip_config.json").exists():
        save_file(open_clip.create_model("ViT-B-16").state_dict(), places["open_clip"] / "open_clip_model.safetensors")
        config = {"model_cfg": open_clip.get_model_config("ViT-B-16"), "preprocess_cfg": {"size": [224, 224]}}
        (places["open_clip"] / "open_clip_config.json").write_text(json.dumps(config))
    if not (places["hf"] / "config.json").exists():
        ViTModel(ViTConfig()).save_pretrained(places["hf"])
        ViTImageProcessor().save_pretrained(places["hf"])
    if not (places["official"] / "config.json").exists():
        from levl_eval.cards.registry import ASSETS

        export(ASSETS / "levljepa-nano.safetensors", "safetensors", places["official"])
    (folder / "loaders_own.py").write_text(OWN)
    return {
        "`levl:` (levljepa-nano, with text)": ("levl", "levljepa-nano"),
        "`official:` (the same, exported)": ("official", f"official:{places['official']}"),
        "`timm:` (ViT-B/16)": ("timm", f"timm:local-dir:{places['timm']}"),
        "`open_clip:` (ViT-B/16, with text)": ("open_clip", f"open_clip:local-dir:{places['open_clip']}"),
        "`hf:` (ViT-B/16)": ("hf", f"hf:{places['hf']}"),
        "`random:` (ViT-B/16)": ("random", "random:vit_base_patch16_224"),
        "`py:` (a ResNet-18)": ("py", "py:loaders_own:ResNet"),
        "`--llm scenes-lm`": ("llm", "scenes-lm"),
    }


OWN = """
from levl_eval.backbones.base import Backbone, Features, Preprocess
from torchvision.models import resnet18

class ResNet(Backbone):
    def __init__(self):
        super().__init__()
        self.net, self.preprocess = resnet18(), Preprocess(224)

    def encode(self, images):
        n = self.net
        maps = n.layer4(n.layer3(n.layer2(n.layer1(n.maxpool(n.relu(n.bn1(n.conv1(images))))))))
        return Features(maps.mean((2, 3)), maps.flatten(2).transpose(1, 2), (maps.shape[2], maps.shape[3]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=Path("build/loaders"), help="where the models are written")
    parser.add_argument("--llm", action="append", default=[], metavar="NAME", help="a further language model")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = prepare(args.folder.resolve()) | {f"`--llm {name}`": ("llm", name) for name in args.llm}
    found = {}
    paths = os.pathsep.join(p for p in (str(args.folder.resolve()), *sys.path, os.environ.get("PYTHONPATH", "")) if p)
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    print("| loader | imports, s | loading, s | weights, MiB | largest, MiB | beyond imports, MiB |\n|---|---|---|---|---|---|")
    for title, words in rows.items():
        out = subprocess.run([sys.executable, "-c", CHILD, *words], env=environment, check=True, capture_output=True, text=True)
        found[title] = r = json.loads(out.stdout.splitlines()[-1])
        numbers = (
            f"{r['imports_s']:.1f}",
            f"{r['load_s']:.1f}",
            *(f"{r[k]:,.0f}" for k in ("weights_mib", "peak_mib", "beyond_mib")),
        )
        print(f"| {title} | {' | '.join(numbers)} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
