"""One encoder, one connector and one language model together: save, load, answer."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image

from levl_eval.backbones import load_backbone
from levl_eval.backbones.base import Backbone
from levl_eval.cards import ConnectorSpec, DataSpec, PromptSpec, RecipeCard
from levl_eval.cards.registry import backbone_card, recipe_card
from levl_eval.cards.twins import check_backbone
from levl_eval.core.errors import UsageError
from levl_eval.core.files import atomic_write
from levl_eval.core.hashing import digest
from levl_eval.core.progress import Progress
from levl_eval.data.rgb import to_rgb
from levl_eval.engines.vlm import connector as connectors
from levl_eval.engines.vlm.connector import Connector
from levl_eval.engines.vlm.engine import answer_batch
from levl_eval.engines.vlm.language import LanguageModel, load_language_model, pick_dtype
from levl_eval.engines.vlm.prompts import make_prompt
from levl_eval.engines.vlm.recipe import VQAResources, get_or_train_connector
from levl_eval.engines.vlm.tokens import check_layer, encode_tokens, width_of
from levl_eval.features.store import FeatureStore


class VLM:
    """A frozen encoder that a frozen language model sees through a trained connector.

    uri, llm: what to load backbone and language model by again.
    """

    def __init__(
        self, backbone: Backbone, connector: Connector, language: LanguageModel, prompt: PromptSpec, uri: str, llm: str
    ) -> None:
        self.backbone, self.connector, self.language, self.spec = backbone, connector.eval(), language, prompt
        self.uri, self.llm = uri, llm
        self.prompt = make_prompt(prompt, language)

    @torch.inference_mode()
    def encode_tokens(self, image: Image.Image) -> torch.Tensor:
        """Visual tokens [1, M, width] of an image."""
        preprocessed = self.backbone.preprocess(image)[None].to(self.language.device)
        out: torch.Tensor = self.connector(encode_tokens(self.backbone, preprocessed, self.connector.spec))
        return out

    def answer(self, image: Image.Image | str | Path, question: str) -> str:
        """The greedy answer to one question about an image or its file."""
        return self.answers(image, [question])[0]

    def answers(self, image: Image.Image | str | Path, questions: list[str]) -> list[str]:
        """Answers to several questions about one image, which is looked at once. Raises LevlError for an unreadable file."""
        from levl_eval.data.images import open_rgb

        preprocessed = image if isinstance(image, Image.Image) else open_rgb(Path(image))
        return answer_batch(self.language, self.prompt, self.encode_tokens(to_rgb(preprocessed)), [questions])[0]

    def save(self, folder: str | Path) -> Path:
        """Write vlm.json and connector.safetensors; encoder and language model are named by their hashes, not copied."""
        folder = Path(folder)
        spec = self.connector.spec
        meta = {**made_for(self.backbone, self.language), **_asked_with(spec, self.spec)}
        connectors.save(folder / "connector.safetensors", self.connector, meta)
        card = {
            "backbone": self.uri,
            "llm": self.llm,
            "connector": spec.model_dump(),
            "prompt": self.spec.model_dump(),
            **{"sha256": meta},
        }
        atomic_write(folder / "vlm.json", json.dumps(card, indent=1) + "\n")
        return folder


def made_for(backbone: Backbone, language: LanguageModel) -> dict[str, str]:
    """What a saved connector may be used with, by content. A library's release does not enter: a saved model outlives it."""
    parts = language.parts()
    code = {k: v for k, v in backbone.code.items() if k in ("source", "constants", "factory")}
    return {
        "weights": backbone.weights_sha256, "llm": language.sha256, "preprocess": digest(backbone.preprocess.describe()),
        "code": digest(code), "tokenizer": digest([parts[k] for k in ("tokenizer", "template", "settings")]),
    }  # fmt: skip


def _asked_with(spec: ConnectorSpec, prompt: PromptSpec) -> dict[str, str]:
    """What vlm.json says of a connector beside what it was made for: of two files that were written apart, one may be an earlier one."""
    return {"connector": digest(spec.model_dump()), "prompt": digest(prompt.model_dump())}


def load(
    folder: str | Path, backbone: str | None = None, llm: str | None = None, device: str = "cpu", trust: bool = False
) -> VLM:
    """A saved VLM. backbone, llm: where the same ones lie now, if elsewhere. trust: its `py:` backbone may run.

    Raises UsageError: not a VLM folder; an encoder or language model other than the connector was trained for.
    """
    folder = Path(folder)
    try:
        card = json.loads((folder / "vlm.json").read_text(encoding="utf-8"))
        spec, prompt = ConnectorSpec(**card["connector"]), PromptSpec(**card["prompt"])
        uri, name = backbone or str(card["backbone"]), llm or str(card["llm"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UsageError(f"{folder}: no saved model ({type(e).__name__}: vlm.json); give the folder of VLM.save") from e
    check_backbone(uri, str(folder / "vlm.json"), trust or backbone is not None)
    encoder = load_backbone(uri)
    check_layer(encoder, spec)
    language = load_language_model(name, device)
    recorded = card.get("sha256") if isinstance(card.get("sha256"), dict) else {}
    # earlier files told less
    parts = {**made_for(encoder, language), **_asked_with(spec, prompt)}
    expect = {k: v for k, v in parts.items() if k in ("weights", "llm") or k in recorded}
    file = folder / "connector.safetensors"
    net, _ = connectors.load(file, spec, width_of(encoder, spec), language.width, expect, encoder.grid)
    return VLM(encoder.to(device), net.to(device), language, prompt, uri, name)


def _parts(recipe: RecipeCard) -> list[DataSpec]:
    """The sets of a recipe and of its earlier stages."""
    return [*recipe.data, *(_parts(recipe.first) if recipe.first is not None else [])]


def assemble(
    backbone: str, llm: str, recipe: str | None, data: str, seed: int, device: torch.device, cache: Path, progress: Progress
) -> VLM:
    """The model of (backbone, language model, recipe), its connector reused where a run has trained it, trained where not.

    recipe: None takes `scenes` for the generated world, else `vqa-train`. Raises UsageError for what is not known or not there.
    """
    from levl_eval.data.sources import reads_scenes, resolve_data
    from levl_eval.scenes.export import world_folder

    card = recipe_card(recipe or ("scenes" if data == "scenes" else "vqa-train"))
    who = backbone_card(backbone)
    encoder = load_backbone(who.uri, card=who).to(device)
    language = load_language_model(llm, device, pick_dtype("auto", device))
    own = data == "scenes" and not any(map(reads_scenes, _parts(card)))  # then the scenes are not drawn
    folder = str(world_folder(cache)) if own else resolve_data(data, cache, progress)
    resources = VQAResources(encoder, language, folder, FeatureStore(cache / "features"), cache, device, progress)
    prompt = card.prompt or PromptSpec()
    return VLM(encoder, get_or_train_connector(resources, card, prompt, seed).connector, language, prompt, who.uri, llm)
