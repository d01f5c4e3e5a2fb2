"""How lmms-eval finds our model: its entry point, and its command after our repairs of third-party imports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from levl_eval.core.third_party import repair

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """Entry point of the group ``lmms_eval.models``: `lmms-eval --model levl` finds our model by it."""
    from lmms_eval.models.registry_v2 import ModelManifest

    repair()  # before lmms-eval's tasks import torchvision
    return ModelManifest(model_id="levl", simple_class_path="levl_eval.engines.lmms.model.Levl")


def main() -> int:
    """`python -m levl_eval.lmms ...` is `lmms-eval ...` after our repairs of third-party imports, and with our model."""
    repair()
    import lmms_eval.models
    from lmms_eval.cli.dispatch import main as command

    # also where it is not installed, only on the path
    lmms_eval.models.MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)
    return int(command() or 0)
