"""Weights a run begins with, where they are not drawn: those of an earlier run, whose training is then part of its history."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from levl_eval.backbones.locate import locate
from levl_eval.cards.registry import backbone_card
from levl_eval.core.errors import UsageError
from levl_eval.core.files import sha256_file
from levl_eval.models import checkpoints
from levl_eval.models.config import PretrainConfig
from levl_eval.models.towers import DualEncoder


@dataclass(frozen=True)
class Beginning:
    """An earlier run's checkpoint, where it was read, and the configuration of the run that begins with it."""

    config: PretrainConfig
    path: Path
    state: checkpoints.Checkpoint

    def restore(self, model: DualEncoder) -> None:
        """Put its weights into ``model``, all of them and nothing else. Raises UsageError where the configuration describes another model."""
        theirs = {name: tuple(w.shape) for name, w in checkpoints.flat(self.state).items()}
        ours = {
            name: tuple(w.shape)
            for name, w in checkpoints.flat(checkpoints.payload(model.state_dict(), self.config, "", 0)).items()
        }
        other = next((name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)), None)
        if other is not None:
            raise UsageError(
                f"field `init_from`: {self.path} ({self.state['config'].get('objective')}) is another model than this configuration describes "
                f"({other} is {theirs.get(other, 'not in it')}, here {ours.get(other, 'there is none')}); give the objective and sizes it was trained with"
            )
        checkpoints.restore(model, self.state)

    def history(self) -> list[dict[str, object]]:
        """The earlier runs, oldest first: what they were begun with, and how long they were."""
        kept = ("objective", "data", "seed", "batch_size", "lr")
        config = self.state["config"]
        last: dict[str, object] = {
            "file": self.path.name, "sha256": sha256_file(self.path), "step": self.state["step"], **{k: config.get(k) for k in kept},
        }  # fmt: skip
        return [*self.state.get("earlier", []), last]


def beginning(config: PretrainConfig) -> Beginning | None:
    """What ``init_from`` names: a file, a run's folder, or the card of a backbone whose weights are one of these.

    Raises UsageError: none of these, or not readable.
    """
    if config.init_from is None:
        return None
    try:
        location = locate(backbone_card(config.init_from))
    except UsageError as e:
        raise UsageError(f"field `init_from`: {e}") from e
    if location.scheme != "levl" or not location.files:
        raise UsageError(
            f"field `init_from`: {config.init_from} is no checkpoint of levl-pretrain; `levl-pretrain import` makes one of the published forms"
        )
    return Beginning(config, location.files[0], checkpoints.read_any(location.files[0]))
