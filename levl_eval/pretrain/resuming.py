"""What a run may change when it is resumed."""

from __future__ import annotations

from pathlib import Path

from levl_eval.core.errors import UsageError
from levl_eval.models.checkpoints import Checkpoint
from levl_eval.models.config import PretrainConfig

# What a resumed run may have otherwise; steps may not change, the schedule depends on them; extend_to is for that.
_FREE = {
    "resume", "extend_to", "out", "log_every", "save_every", "keep", "diagnose_every",
    "diagnose_images", "probe", "probe_template", "trackers", "threads",
    "device", "max_loss_growth", "max_broken", "broken_shards", "attentive_every", "neighbours",
}  # fmt: skip

_OF_STREAMS = {"workers", "shuffle_buffer", "streaming"}
_OF_SCENES = {"scenes_pool", "captions_per_image", "scenes_singles", "scenes_captions"}


def _moves(config: PretrainConfig, name: str, was: object, now: object) -> bool:
    """Whether another value of a field makes another run of these data: what nobody reads of them moves nothing."""
    if was == now or name in {*_FREE, "preset"}:
        return False
    if config.data.startswith(("wds:", "hf:", "lance:")):
        return name not in _OF_SCENES
    return name not in _OF_STREAMS and (config.data == "scenes" or name not in _OF_SCENES)


def as_it_began(state: Checkpoint, config: PretrainConfig, path: Path) -> PretrainConfig:
    """The configuration to resume with: a run is resumed only as it began, though where it stands and how it logs may change.

    state: the checkpoint's dictionary (checkpoints.read). What an earlier version had no field for stays as that version did it.
    Raises UsageError naming the field that differs, or that there is no optimizer.
    """
    if "optimizer" not in state:
        raise UsageError(
            f"{path}: has weights but no optimizer (imported or released); it cannot be resumed, choose another out="
        )
    old = state["config"]
    kept = {k: v for k, v in old.items() if k in state.get("before", ())}
    config = PretrainConfig.model_validate({**config.model_dump(mode="json"), **kept})
    new = config.model_dump(mode="json")
    # Its size's values for newer fields.
    old = {**PretrainConfig.model_validate({**old, "preset": None}).model_dump(mode="json"), **old}
    other = [k for k in new if _moves(config, k, old[k], new[k])]
    if other:
        longer = other == ["steps"] and new["steps"] > old["steps"]
        further = f", train on with steps={old['steps']} extend_to={new['steps']} once it is finished" if longer else ""
        raise UsageError(
            f"{path}: field `{other[0]}` was {old[other[0]]!r}, now {new[other[0]]!r}; "
            f"resume with the same values{further}, or choose another out="
        )
    return config
