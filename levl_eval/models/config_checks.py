"""What a pretraining configuration's fields must be together. Each check raises ValueError with a line that names the fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from levl_eval.models.config import PretrainConfig

_RANGES = ("crop_scale", "crop_ratio", "global_scale", "local_scale", "erasing_scale", "erasing_ratio", "blur_sigma")


def check(config: PretrainConfig) -> None:
    """Raises ValueError where fields do not go together."""
    _objective_fits(config)
    _towers_fit(config)
    _schedule_fits(config)
    _blur_fits(config)
    for name in _RANGES:
        low, high = getattr(config, name)
        if not 0 < low <= high or (name.endswith("scale") and high > 1):
            raise ValueError(
                f"{name} is ({low:g}, {high:g}); expected a range above 0" + (" up to 1" if name.endswith("scale") else "")
            )


def _objective_fits(config: PretrainConfig) -> None:
    c = config
    if "{}" not in c.probe_template:
        raise ValueError(f"probe_template is {c.probe_template!r}; {{}} in it is where the class name goes")
    if (c.attentive_every or c.neighbours) and c.probe is None:
        name = "attentive_every" if c.attentive_every else "neighbours"
        raise ValueError(f"{name} is {getattr(c, name)}, but there is no probe; give probe=DIR or probe=scenes")
    if c.prediction == "direct" and c.objective != "levljepa":
        raise ValueError("prediction=direct is an ablation of objective=levljepa; leave one of them out")
    if c.plus_predicts == "views" and c.objective != "levljepa_plus":
        raise ValueError("plus_predicts=views is a form of objective=levljepa_plus; leave one of them out")
    total = c.lambda_v + c.lambda_t + (c.lambda_multi if c.objective == "levljepa_plus" else 0)
    if total >= 1:
        raise ValueError(f"lambda_v + lambda_t (+ lambda_multi) is {total:g}; the prediction's weight is 1 minus it")


def _towers_fit(config: PretrainConfig) -> None:
    c, patch = config, config.vision.patch or 16
    for side, tower in (("vision", c.vision), ("text", c.text)):
        if tower.width % tower.heads:
            raise ValueError(f"{side}.heads is {tower.heads}, which does not divide {side}.width {tower.width}")
    crops = [("image_size", c.image_size)]
    if c.objective == "levljepa_plus" and c.local_views:
        crops.append(("local_size", local_size(c)))
    for name, side_length in crops:
        if side_length % patch:
            raise ValueError(f"{name} is {side_length}, which vision.patch {patch} does not divide")
    if c.text_readout == "eot" and c.max_length < 2:
        raise ValueError(
            "max_length is 1, which the end-of-text token of text_readout=eot fills: no word of a caption would be read"
        )


def _schedule_fits(config: PretrainConfig) -> None:
    c = config
    if c.schedule == "wsd" and c.warmup + wsd_steps(c) > c.steps:
        raise ValueError(f"warmup {c.warmup} and the decay's {wsd_steps(c)} updates are more than steps {c.steps}")
    if c.extend_to is not None and (c.extend_to <= c.steps or c.final_lr == 0):
        why = "final_lr is 0, so that nothing would be learned" if c.extend_to > c.steps else f"steps is {c.steps}"
        raise ValueError(f"extend_to is {c.extend_to}, but {why}; expected a later update than steps, with a rate above 0")


def _blur_fits(config: PretrainConfig) -> None:
    c, kernel = config, config.blur_kernel
    if kernel is None:
        return
    if kernel % 2 == 0:
        raise ValueError(f"blur_kernel is {kernel}; a blur has an odd side")
    plus = c.objective == "levljepa_plus"
    sides = [c.image_size] if plus or (c.augmentation == "standard" and c.gaussian_blur_prob) else []
    sides += [local_size(c)] if plus and c.local_views else []
    if sides and min(sides) <= kernel // 2:
        raise ValueError(f"blur_kernel {kernel} needs crops of more than {kernel // 2} pixels, found {min(sides)}")


def local_size(config: PretrainConfig) -> int:
    """Side of the local crops: given, or 3/7 of the image (96 of 224) in whole patches."""
    patch = config.vision.patch or 16
    return config.local_size or max(patch, round(config.image_size * 3 / 7 / patch) * patch)


def wsd_steps(config: PretrainConfig) -> int:
    """Updates of wsd's decay."""
    return config.wsd_decay_steps or max(1, round(config.wsd_decay_frac * config.steps))
