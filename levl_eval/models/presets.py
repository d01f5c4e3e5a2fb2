"""Sizes and whole published configurations, as values of config.PretrainConfig's fields.

What a size or a preset does not name keeps the field's default, whose source stands beside it in config.py. Sources: May, the
first published code (docs/paper.md); July, the second (C2); OpenCLIP, open_clip_train of open_clip 3.3.0.
"""

from __future__ import annotations

# base, small and tiny: the published codes' model configurations. nano has its own, made for CPUs and for the synthetic scenes,
# and keeps what it was made with where the published codes differ: 64 px, few and small layers, crops only (captions of scenes say
# left and right), bicubic resizing, a rate that begins at lr / warmup, no decay of gains and biases, a blur that grows with the crop.
TOWERS: dict[str, dict[str, dict[str, int]]] = {
    "nano": {"vision": {"width": 192, "depth": 4, "heads": 3, "patch": 8}, "text": {"width": 128, "depth": 2, "heads": 4}},
    "tiny": {"vision": {"width": 192, "depth": 12, "heads": 3, "patch": 16}, "text": {"width": 192, "depth": 12, "heads": 3}},
    "small": {"vision": {"width": 384, "depth": 12, "heads": 6, "patch": 16}, "text": {"width": 384, "depth": 12, "heads": 6}},
    "base": {"vision": {"width": 768, "depth": 12, "heads": 12, "patch": 16}, "text": {"width": 768, "depth": 12, "heads": 12}},
}
SIZES: dict[str, dict[str, object]] = {
    "nano": {
        "image_size": 64, **TOWERS["nano"],
        "embed_dim": 128, "head_width": 512, "predictor_width": 256, "sigreg_slices": 1024, "max_length": 32, "positions": None,
        "vocab_size": 1024, "batch_size": 64, "lr": 1e-3, "warmup": 100, "steps": 2000, "augmentation": "crop",
        "interpolation": "bicubic", "warmup_start_factor": None, "weight_decay_on": "matrices", "blur_kernel": None,
    },
    "tiny": {"image_size": 224, **TOWERS["tiny"], "embed_dim": 192},
    "small": {"image_size": 224, **TOWERS["small"], "embed_dim": 384},
    "base": {"image_size": 224, **TOWERS["base"], "embed_dim": 768},
}  # fmt: skip

_LEVLJEPA: dict[str, object] = {
    "objective": "levljepa", "model": "base", "tokenizer": "gpt2", "max_length": 77, "positions": 1024, "steps": 50_000, "lr": 2e-4,
    "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "weight_decay_on": "all", "schedule": "cosine", "final_lr": 0.1,
    "warmup": 1000, "clip": 1.0, "lambda_v": 0.02, "lambda_t": 0.02, "align_loss": "mse", "sigreg_slices": 4096, "sigreg_knots": 17,
    "sigreg_t_max": 3.0, "sigreg_scope": "local", "sigreg_directions": "separate", "head_width": 2048, "pre_proj_depth": 1,
    "predictor_width": 2048, "predictor_depth": 4, "dropout": 0.0, "head_dropout": 0.0, "precision": "bf16", "seed": 1,
}  # fmt: skip

_OPENCLIP: dict[str, object] = {
    "model": "base", "tokenizer": "gpt2", "max_length": 77, "positions": 1024, "embed_dim": 512, "head_width": 2048, "text_readout": "eot",
    "lr": 5e-4, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.2,
    "weight_decay_on": "matrices", "schedule": "cosine", "final_lr": 0.0,
    "warmup": 10_000, "warmup_start_factor": None, "clip": None, "batch_size": 4096, "steps": 200_000, "augmentation": "standard",
    "crop_scale": (0.9, 1.0), "flip_prob": 0.0, "color_jitter_prob": 0.0, "grayscale_prob": 0.0, "precision": "bf16",
}  # fmt: skip

PRESETS: dict[str, dict[str, object]] = {
    # May's configs/levljepa.yaml; the batch is that of its results, 8 processes of 256 (docs/paper.md).
    "levljepa-may": {
        **_LEVLJEPA, "batch_size": 2048, "text_readout": "pad77", "augmentation": "none", "resize": "squash", "interpolation": "bilinear",
        "warmup_start_factor": 0.0,
    },
    # July's configs/levljepa.yaml: one device of 256. The released run's 4,096 and 200k steps are known, its other values are not.
    "levljepa-july": {
        **_LEVLJEPA, "batch_size": 256, "text_readout": "eot", "augmentation": "standard", "warmup_start_factor": 0.01,
        "crop_scale": (0.8, 1.0), "crop_ratio": (0.75, 4 / 3), "flip_prob": 0.5, "color_jitter": (0.2, 0.2, 0.2, 0.02),
        "color_jitter_prob": 0.3, "grayscale_prob": 0.05, "gaussian_blur_prob": 0.0, "random_erasing_prob": 0.0,
    },
    # The paper's baselines: its towers and heads (d 512, 200k steps of 4,096) under OpenCLIP's defaults (docs/paper.md); their own
    # training code is not public.
    "clip-openclip": {**_OPENCLIP, "objective": "clip", "logit_scale_init": 1 / 0.07},
    "siglip": {**_OPENCLIP, "objective": "siglip", "logit_scale_init": 10.0, "logit_bias_init": -10.0},
}  # fmt: skip

# What runs of earlier versions did where they had no field for it; checkpoints.read fills these in.
BEFORE: dict[str, object] = {
    "pad77_attends": "all", "last_dropout": False, "weight_decay_on": "matrices", "wsd_decay": "linear", "strip_captions": True,
    "interpolation": "bicubic", "blur_kernel": None, "crops": "resized", "bf16_blocks": "separate",
}  # fmt: skip
