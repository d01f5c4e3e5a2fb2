"""Weights a run begins with, where they are not drawn: those of an earlier run, whose training is then part of its history."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from levl_eval.backbones.locate import locate
from levl_eval.cards.registry import backbone_card
from levl_eval.core.errors import UsageError
from levl_eval.core.files import sha256_file
from levl_eval.models import checkpoints
from levl_eval.models.config import PretrainConfig, readout_of
from levl_eval.models.towers import build_model


@dataclass(frozen=True)
class Beginning:
    """An earlier run's checkpoint, and where it was read."""

    path: Path
    state: checkpoints.Checkpoint

    def history(self) -> list[dict[str, object]]:
        """The earlier runs, oldest first: the file of each with its SHA-256,
        its updates, and what of its configuration says what it saw."""
        kept = ("objective", "data", "seed", "batch_size", "lr")
        config = self.state["config"]
        last: dict[str, object] = {
            "file": self.path.name, "sha256": sha256_file(self.path), "step": self.state["step"], **{k: config.get(k) for k in kept},
        }  # fmt: skip
        known = self.state.get("known")
        if known is not None:
            # Of an imported model's configuration, what its files told; ``data`` is at least where it came from.
            last = {k: v for k, v in last.items() if k not in kept or k == "data" or k in known}
        return [*self.state.get("earlier", []), last]

    def differences(self, config: PretrainConfig) -> list[str]:
        """A line for each thing that the weights were trained with, that they do not show, and that is otherwise in ``config``."""
        theirs = PretrainConfig.model_validate(self.state["config"])
        was: dict[str, object] = {"text_readout": readout_of(theirs), **self.state["preprocess"]}
        now: dict[str, object] = {"text_readout": readout_of(config), **checkpoints.preprocess_of(config)}
        lines = [
            f"warning: {self.path} was trained with {name}={was[name]}, this run has {now[name]}"
            for name in now
            if name in was and was[name] != now[name]
        ]
        if config.tokenizer not in ("trained", theirs.tokenizer):
            lines.append(f"warning: tokenizer={config.tokenizer} is not read, init_from= brings the one it was trained with")
        return lines


def beginning(config: PretrainConfig) -> Beginning | None:
    """What ``init_from`` names: a file, a run's folder, or the card of a backbone whose weights are one of these;
    None where it names nothing.

    Raises UsageError: none of these, not readable, or of another model than the configuration describes.
    """
    if config.init_from is None:
        return None
    try:
        location = locate(backbone_card(config.init_from))
    except UsageError as e:
        raise UsageError(f"field `init_from`: {e}") from e
    if location.scheme != "levl" or not location.files:
        raise UsageError(
            f"field `init_from`: {config.init_from} is no checkpoint of levl-pretrain; "
            "`levl-pretrain import` makes one of the published forms"
        )
    begun = Beginning(location.files[0], checkpoints.read_any(location.files[0]))
    _check(begun, config)
    return begun


def _check(begun: Beginning, config: PretrainConfig) -> None:
    """Raises UsageError where not every weight has its place,
    and every place its weight, or a tower has other heads, which weights do not show."""
    with torch.device("meta"):  # shapes alone
        model = build_model(config, Tokenizer.from_str(begun.state["tokenizer"]).get_vocab_size())
    described = checkpoints.payload(model.state_dict(), config, "", 0)
    ours, theirs = ({name: tuple(w.shape) for name, w in checkpoints.flat(s).items()} for s in (described, begun.state))
    other = next((name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)), None)
    if other is not None:
        raise UsageError(
            f"field `init_from`: {begun.path} ({begun.state['config'].get('objective')}) is another model than this "
            f"configuration describes ({other} is {theirs.get(other, 'not in it')}, here {ours.get(other, 'there is none')}); "
            "give the objective and sizes it was trained with"
        )
    trained = PretrainConfig.model_validate(begun.state["config"])
    for side in ("vision", "text"):
        was, now = getattr(trained, side).heads, getattr(config, side).heads
        if was != now:
            raise UsageError(
                f"field `init_from`: {begun.path} was trained with {side}.heads={was}, here {now}; give {side}.heads={was}"
            )
