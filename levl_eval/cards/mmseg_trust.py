"""What an mmseg config may name where the user has not vouched for it: a config from a card or a record.

mmengine builds whatever a config's ``type`` names, by import where no registry knows it, so ``type="os.system"`` runs a command.
Without trust only names in the registries of mmseg, mmengine and mmcv pass, and none of those that load files or code of their own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NoReturn

from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.third_party import repair_mmseg

_SCOPES = ("mmseg", "mmengine", "mmcv")
_PACKAGES = (*_SCOPES, "torch")  # mmcv and mmengine register torch's layers and optimisers
_LOADING = ("mmseg.models.backbones", "mmseg.models.text_encoder", "mmseg.models.decode_heads.san_head")  # checkpoints, or code
_OURS = frozenset({"LevlLabels", "LevlLinearHead"})
_HARMLESS_IMPORTS = frozenset({"levl_eval.engines.segmentation.mmseg_backbone"})  # imported anyway
_FILES = frozenset({"pretrained", "checkpoint", "checkpoint_file", "load_from", "resume_from"})
REMEDY = "say --trust if you know who wrote it"


def registered() -> frozenset[str]:
    """Names that mmseg, mmengine and mmcv themselves register for models, transforms, optimisers and schedules."""
    repair_mmseg()
    from mmseg import registry
    from mmseg.utils import register_all_modules

    register_all_modules()
    kinds = (
        registry.MODELS, registry.TRANSFORMS, registry.OPTIMIZERS, registry.OPTIM_WRAPPERS, registry.OPTIM_WRAPPER_CONSTRUCTORS,
        registry.PARAM_SCHEDULERS, registry.TASK_UTILS, registry.WEIGHT_INITIALIZERS,
    )  # fmt: skip
    out = set(_OURS)
    for kind in kinds:
        node = kind
        while node is not None:
            for name, class_of_name in node.module_dict.items():
                module = str(getattr(class_of_name, "__module__", ""))
                if module.partition(".")[0] in _PACKAGES and not module.startswith(_LOADING):
                    out.add(name)
            node = node.parent
    return frozenset(out - {"Pretrained"})  # an initialisation from a checkpoint's file


def check_config(value: dict[str, object], where: str) -> None:
    """Raises UsageError for the first thing in the used parts of a config that could execute or load something of others."""
    imports = value.get("custom_imports") or {}
    named: object = imports.get("imports") if isinstance(imports, dict) else imports
    for module in named if isinstance(named, (list, tuple, set)) else [named] if named else []:
        if not isinstance(module, str) or module not in _HARMLESS_IMPORTS:
            raise UsageError(f"{where}: `custom_imports` names {module!r}, which would run here; {REMEDY}")
    known = registered()
    model = value.get("model")
    if isinstance(model, dict):  # the backbone is the run's, and a checkpoint for the whole model is not used
        model = {k: v for k, v in model.items() if k not in ("backbone", "pretrained", "init_cfg")}
    loaders = [value.get(k) for k in ("train_dataloader", "val_dataloader", "test_dataloader")]
    for part in (model, *map(_pipelines, loaders), value.get("optim_wrapper"), value.get("param_scheduler")):
        _walk(part, known, where, "")


def _pipelines(node: object) -> list[object]:
    """The pipelines of a data loader; the data sets themselves are not used."""
    if isinstance(node, dict):
        return [v if k == "pipeline" else _pipelines(v) for k, v in node.items()]
    return [_pipelines(v) for v in node] if isinstance(node, (list, tuple)) else []


def _walk(node: object, known: frozenset[str], where: str, parent: str) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "constructor" or (key == "type" and not (parent == "clip_grad" and value in ("norm", "value"))):
                _name(value, known, where)
            elif key == "_scope_" and value not in _SCOPES:
                raise UsageError(f"{where}: `_scope_` names {value!r}; only {', '.join(_SCOPES)} are known; {REMEDY}")
            elif key in _FILES and value:
                raise UsageError(f"{where}: `{key}` names {value!r}, a file of its own to load; {REMEDY}")
            else:
                _walk(value, known, where, str(key))
    elif isinstance(node, (list, tuple)):
        for value in node:
            _walk(value, known, where, parent)


def _name(value: object, known: frozenset[str], where: str) -> None:
    scope, dot, name = value.rpartition(".") if isinstance(value, str) else ("", "", None)
    if name not in known or (dot and scope not in _SCOPES):
        raise UsageError(f"{where}: names the type {value!r}, which mmseg, mmengine and mmcv do not register; {REMEDY}")


@contextlib.contextmanager
def no_imports_by_name(trusted: bool) -> Iterator[None]:
    """Meanwhile mmengine's registries give what they hold and import nothing by a dotted name, unless ``trusted``.

    Behind ``check_config``: whatever a type's own arguments might name.
    """
    if trusted:
        yield
        return
    from mmengine.registry import registry

    def refuse(name: str) -> NoReturn:
        raise LevlError(f"mmseg: the type {name!r} is in no registry; {REMEDY}")

    before = registry.get_object_from_string
    registry.get_object_from_string = refuse
    try:
        yield
    finally:
        registry.get_object_from_string = before
