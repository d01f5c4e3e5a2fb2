"""Cards: YAML files that declare backbones, tasks, recipes and language models, as validated models without heavy imports.

A card says everything that can move a number and was not fixed by the paper (PAPER "UNKNOWN" items are fields here, never
buried constants). ``protocol`` of a task card, hashed, is what two rows must share to be compared.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from levl_eval.card_base import DataSpec, _Strict, _TaskCard
from levl_eval.card_base import HubSource as HubSource
from levl_eval.dense_cards import DepthCard, MMSegCard
from levl_eval.errors import UsageError


class MixSpec(DataSpec):
    """One part of a training mix."""

    weight: float = Field(default=1.0, gt=0)  # of each of its answers in the loss
    count: int | None = Field(default=None, gt=0)  # a fixed random subset of so many questions


class ConnectorSpec(_Strict):
    """The trained bridge between an encoder's tokens and the language model's input space."""

    kind: Literal["linear", "mlp2x_gelu", "mlp_norm", "unshuffle_mlp", "resampler"] = "mlp2x_gelu"  # see vlm/connector.py
    tokens: Literal["patches", "cls+patches", "cls"] = "patches"
    layer: int | Literal["last"] = (
        "last"  # a block's number (0 the first, -2 the last but one), read after the final norm; "last": the encoder's own output
    )
    standardize: bool = True  # features per dimension by the training images' mean and std; part of the connector
    downsample: int = Field(default=2, ge=2)  # unshuffle_mlp: so many by so many neighbouring patches become one token
    queries: int = Field(default=32, ge=1)  # resampler: how many tokens it gives
    depth: int = Field(default=2, ge=1)  # resampler: blocks

    @model_validator(mode="after")
    def _check(self) -> ConnectorSpec:
        if self.kind == "unshuffle_mlp" and self.tokens != "patches":
            raise ValueError("kind unshuffle_mlp joins neighbouring patches; expected tokens: patches")
        return self


class PromptSpec(_Strict):
    """Prompt and decoding. ``{image}`` marks where the image tokens go, ``{question}`` the question."""

    template: str = "{image}\nQuestion: {question}\nAnswer:"
    chat: bool | None = None  # the model's chat template around ``user`` instead of ``template``; None: as the model's card says
    user: str = "{image}\n{question}\nAnswer the question using a single word or phrase."  # the user's turn of a chat
    system: str = ""  # system turn of a chat; "": none
    stop: list[str] = ["\n"]
    max_new_tokens: int = Field(default=8, ge=1)


class RecipeCard(_Strict):
    """How a connector is trained: only it learns, by the loss on the answers."""

    kind: Literal["recipe"] = "recipe"
    name: str
    description: str = ""
    first: RecipeCard | None = None  # an earlier stage, or the name of its recipe: its connector is where this one starts
    data: list[MixSpec]  # concatenated
    max_questions: int | None = None  # a fixed random subset of the mix
    connector: ConnectorSpec = ConnectorSpec()
    prompt: PromptSpec | None = None  # None: the task's
    epochs: float = 1.0
    steps: int | None = Field(default=None, gt=0)  # instead of epochs
    images_per_batch: int = Field(default=32, ge=1)  # over all processes
    questions_per_image: int = Field(
        default=8, ge=1
    )  # at most so many of an image's questions in one step, the rest in later passes
    lr: float = 1e-3
    weight_decay: float = 0.0
    warmup: float = 0.03  # share of the steps
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    clip: float = 1.0
    seed: int | None = None  # None: the run's
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 autocast on a GPU, fp32 on a CPU
    checkpointing: Literal["auto", "on", "off"] = "auto"  # of the language model's activations; changes memory, no number


class VQACard(_TaskCard):
    engine: Literal["vqa"] = "vqa"
    data: DataSpec
    recipe: RecipeCard | str = "vqa-train"
    prompt: PromptSpec = PromptSpec()
    scorer: Literal["gqa", "vqav2", "pope", "exact", "mme", "textvqa", "vizwiz", "letter", "soft"]  # see vlm/scoring.py
    likelihood: list[
        str
    ] = []  # two answers (yes, no) whose likelihoods give average precision and calibration beside the answers
    llm_dtype: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on a GPU, fp32 elsewhere
    floors: list[Literal["text-only", "blank-image", "shuffled-images", "random-vit"]] = ["text-only"]


GENERATION = ("task", "card")
INSTRUCTION = "\nAnswer the question using a single word or phrase."  # lmms-eval's own way of asking for a short answer


class LMMSCard(_TaskCard):
    """A task of the installed lmms-eval, `lmms:NAME` on the command line. Its scores keep lmms-eval's names and scale.

    `--limit N` means N documents here, as lmms-eval counts.
    """

    engine: Literal["lmms"] = "lmms"
    main_metric: str = ""  # "": the first one lmms-eval reports
    task: str  # a task, group or tag of lmms-eval
    include: str | None = None  # folder of further task files, beside lmms-eval's own
    datasets: str | None = None  # folder of hub repositories (OWNER/NAME or NAME); None: DIR/lmms, then the hub or its cache
    recipe: RecipeCard | str = "vqa-train"
    prompt: PromptSpec = PromptSpec()  # around lmms-eval's question
    drop: list[str] = [INSTRUCTION]  # texts taken out of lmms-eval's question, which the prompt says in its own way
    generation: Literal["task", "card"] = "task"  # whose answer length; "task": its stop strings too, beside the prompt's
    llm_dtype: Literal["auto", "fp32", "bf16"] = "auto"


class SegmentationCard(_TaskCard):
    engine: Literal["segmentation"] = "segmentation"
    train: DataSpec
    data: DataSpec
    size: int | None = None  # input side in pixels; None: the backbone's own
    resize: Literal["shortest", "squash"] = "shortest"  # then centre crop; masks follow with nearest neighbour
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"  # of the pictures
    layers: list[int] | None = None  # blocks whose tokens are concatenated, -1 the last; None: the encoder's own output
    window: int | None = None  # side of the sliding windows over the input in pixels; None: the whole input at once
    stride: int | None = None  # between windows; None: the window, without overlap
    flip: bool = False  # every view also mirrored: trains on both, and scores the mean of both
    head: Literal["linear", "linear-bn", "conv", "knn", "ridge"] = "linear"
    standardize: bool = True  # tokens per dimension by all training tokens; linear-bn has its batch norm instead
    std_floor: float = 1e-8  # least standard deviation divided by
    bias: bool = True
    optimizer: Literal["adamw"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    lr: float = 1e-2
    weight_decay: float = 0.0
    sweep_lr: list[float] | None = None  # linear head: every pair with sweep_weight_decay is trained, the best one on
    sweep_weight_decay: list[float] | None = None  # held-out training images is scored; None: lr, weight_decay as they are
    sweep_holdout: float = 0.1  # share of the training images that choose (at least one image), never trained on in a sweep
    conv_width: int = 256  # conv head: channels between its 3x3 and its 1x1 convolution
    ridge_lambda: float = 1.0  # ridge head: penalty on the weights (not on the bias) of the sum of squares to one-hot labels
    knn_k: int = 30  # knn head: neighbours by cosine
    knn_temperature: float = 0.02  # their votes weigh exp(cosine / temperature)
    knn_memory: int = 100_000  # labelled training tokens kept, a random subset
    epochs: int = 30
    # How long: the epochs, as published protocols say; or, for own data, as many as the head's loss needs to stop falling
    # (levl_eval.convergence), at least the epochs.
    until: Literal["epochs", "converged"] = "epochs"
    batch_size: int = 256  # images
    schedule: Literal["constant", "cosine"] = "constant"
    # Labels at token resolution in training: the pixel at each token's centre, the one at its upper left corner (what torch's
    # nearest interpolation takes), or the most frequent label that is not void.
    label_grid: Literal["nearest", "corner", "majority"] = "nearest"
    upsample: Literal["bilinear", "nearest"] = "bilinear"  # of the class logits
    score: Literal["input", "original"] = "input"  # masks scored in the input's geometry, or untouched (resize: squash)
    score_size: int | None = None  # with score: input, the side at which logits and masks are scored; None: the input size


class CarvedSpec(_Strict):
    """A validation set taken out of the training set, for sets that have none: the same images for every backbone.

    Of each class that share, at least one where the class has two images; a class of one image stays in training.
    """

    share: float = Field(default=0.1, gt=0, lt=1)
    seed: int = 0  # of the choice; never the probe's seed


class _ReadoutCard(_TaskCard):
    """How the heads on global features read them."""

    # pooled: the encoder's own pooling; cls: its class token, whatever it pools by; mean-patch: the mean of its patch tokens.
    readout: Literal["pooled", "cls", "mean-patch", "pooled+mean-patch"] = "pooled"
    layers: list[int] | None = (
        None  # blocks whose outputs stand side by side (-1 the last, each after the final norm); None: the last
    )
    standardize: bool = True  # per dimension by the training images' mean and std
    l2_normalize: bool = False  # before it
    seeds: int = Field(1, ge=1)  # run with seeds 0 to seeds - 1 where --seeds is not given; one record each


class _ProbeCard(_ReadoutCard):
    """What the heads on global features have in common."""

    set: str | None = None  # a card of tasks/sets whose train, validation, data and chance are used where this card has none
    train: DataSpec
    data: DataSpec
    validation: DataSpec | CarvedSpec = CarvedSpec()  # for choices only; where none is made, training keeps all its images


class _LinearTraining(_ReadoutCard):
    """How one linear layer is trained (probes.linear.fit), wherever one is."""

    bias: bool = True
    lr: float = 0.1
    weight_decay: float = 1e-4
    epochs: int = 50
    # How long: the epochs, as published protocols say; or, for own data, as many as the head's loss needs to stop falling
    # (levl_eval.convergence), at least the epochs.
    until: Literal["epochs", "converged"] = "epochs"
    batch_size: int = 4096
    schedule: Literal["constant", "cosine"] = "constant"


class LinearProbeCard(_LinearTraining, _ProbeCard):
    engine: Literal["linear"] = "linear"
    keep: Literal["last", "best"] = (
        "last"  # the epoch that is tested; best: of the validation set's accuracy (the paper does not say)
    )
    ece_bins: int = 15
    seeds: int = Field(3, ge=1)


class ZeroShotCard(_TaskCard):
    engine: Literal["zeroshot"] = "zeroshot"
    set: str | None = None
    data: DataSpec
    templates: list[str] | str = ["a photo of a {}."]  # several: an ensemble. "openai": CLIP's 80, from the open_clip package
    class_names: list[str] | str | None = None  # None: the data set's, "_" read as a space; a text file; "openai" (ImageNet)
    readout: str | None = None  # which read-out `top1` is; None: the one the backbone's authors report
    logit_scale: float = 100.0  # of the softmax behind the calibration error; CLIP's, the paper names none
    ece_bins: int = 15


def _one_of(main: str, pattern: str, numbers: list[int]) -> str:
    """The main metric, or the last one measured where it is for a number (of shots, of neighbours) that is not among those set."""
    measured = [pattern.format(n) for n in numbers]
    return measured[-1] if measured and re.fullmatch(pattern.format(r"\d+"), main) and main not in measured else main


class LinearPathCard(_ProbeCard):
    """Logistic regression, C * sum of losses + ||W||^2 / 2 (scikit-learn's scale), over a path of C chosen on validation."""

    engine: Literal["linear-path"] = "linear-path"
    c_powers: tuple[float, float] = (-6.0, 5.0)  # C from 10 ** first to 10 ** last, as DINOv2 sweeps
    c_values: int = Field(45, ge=1)
    tolerance: float = 1e-7  # on the largest gradient entry of the mean loss; more moves accuracies at large C by points
    max_iterations: int = 1000
    refit: bool = True  # the chosen C once more on training and validation together
    ece_bins: int = 15
    shots: list[Annotated[int, Field(ge=1)]] = []  # few-shot: so many training images a class; empty: all
    draws: int = Field(5, ge=1)  # of the few images; accuracies are means over them
    shot_validation: int = Field(4, ge=1)  # few-shot: at most so many validation images a class, and never more than shots

    @model_validator(mode="after")
    def _main_is_measured(self) -> LinearPathCard:
        self.main_metric = _one_of(self.main_metric, "top1_{}shot", self.shots)
        return self


class KNNCard(_ProbeCard):
    engine: Literal["knn"] = "knn"
    k: list[Annotated[int, Field(ge=1)]] = Field([10, 20, 100, 200], min_length=1)  # DINO's
    temperature: float = 0.07
    standardize: bool = False  # DINO compares the features as they are, by cosine

    @model_validator(mode="after")
    def _main_is_measured(self) -> KNNCard:
        self.main_metric = _one_of(self.main_metric, "top1_k{}", self.k)
        return self


class AttentiveCard(_ProbeCard):
    """I-JEPA's attentive pooler and a linear layer on stored patch tokens.

    The published script sees a fresh crop of every image in every epoch: views: 20 does that here, at twenty times the encoding
    and storage; fewer views are taken in turn, and 0 trains on the plain images.
    """

    engine: Literal["attentive"] = "attentive"
    heads: int = 12
    mlp_ratio: float = 4.0
    lr: float = 1e-3
    final_lr: float = 0.01  # share of lr at the end of the cosine
    weight_decay: float = 1e-4
    epochs: int = 20
    batch_size: int = 256  # the published script's is 256 a GPU; their number is not known
    views: int = Field(0, ge=0)  # randomly cropped and flipped versions of each training image, encoded once and stored
    view_scale: tuple[float, float] = (0.08, 1.0)  # share of the image's area, as in the published script
    view_ratio: tuple[float, float] = (0.75, 1.3333)  # width to height of the crop, drawn evenly in its logarithm
    view_flip: float = Field(0.5, ge=0, le=1)  # how often a view is mirrored
    view_seed: int = 0
    report_best: bool = True  # also the best epoch on the test images, as the published script does
    ece_bins: int = 15


class RetrievalCard(_TaskCard):
    engine: Literal["retrieval"] = "retrieval"
    data: DataSpec
    k: list[int] = [1, 5, 10]
    captions_per_image: int | None = 5  # the first so many; None: all
    folds: int = Field(1, ge=1)  # recall within each of so many parts of the images, averaged (COCO 1K: 5 of 1,000)
    readout: str | None = None  # which read-out the main metric is; None: the one the backbone's authors report


class BackgroundsCard(_LinearTraining):
    engine: Literal["backgrounds"] = "backgrounds"
    train: DataSpec  # ROOT/original/SPLIT/CLASS
    data: DataSpec  # ROOT/VARIANT/SPLIT/CLASS
    variants: list[str] = ["original", "mixed_same", "mixed_rand"]
    optional_variants: list[str] = ["mixed_next", "only_fg", "no_fg", "only_bg_b", "only_bg_t"]  # where they are present
    l2_normalize: bool = True
    seeds: int = Field(3, ge=1)


class SetCard(_Strict):
    """Facts of a classification set, shared by every head on it: ``HEAD@SET`` is task card HEAD with the set's fields."""

    kind: Literal["set"] = "set"
    name: str
    description: str = ""
    source: str = ""
    chance: float | None = None
    train: DataSpec | None = None
    validation: DataSpec | CarvedSpec | None = None
    data: DataSpec
    templates: list[str] | str | None = None
    class_names: list[str] | str | None = None


TaskCard = Annotated[
    VQACard
    | SegmentationCard
    | LinearProbeCard
    | ZeroShotCard
    | LinearPathCard
    | KNNCard
    | AttentiveCard
    | RetrievalCard
    | BackgroundsCard
    | LMMSCard
    | MMSegCard
    | DepthCard,
    Field(discriminator="engine"),
]
_TASK: TypeAdapter[Any] = TypeAdapter(TaskCard)


class PreprocessOverride(_Strict):
    """Preprocessing fields a backbone card sets differently from its loader (see backbones.base.Preprocess)."""

    size: int | None = None
    resize: Literal["shortest", "squash"] | None = None
    resize_to: int | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


class LLMCard(_Strict):
    """A named language model: where it comes from and how it wants to be asked."""

    kind: Literal["llm"] = "llm"
    name: str
    repo: str  # hub name or directory
    revision: str | None = None
    chat: bool = False  # ask through its chat template unless the task's prompt says otherwise
    description: str = ""
    licence: str = ""


class BackboneCard(_Strict):
    """Who is measured: a name for a URI, its file's hash, its preprocessing and where it comes from."""

    kind: Literal["backbone"] = "backbone"
    name: str
    uri: str  # "@assets/FILE" in it stands for the package's assets folder
    description: str = ""
    sha256: str | None = None  # of the weights file; checked when it is loaded
    preprocess: PreprocessOverride | None = None
    licence: str = ""
    training_data: str = ""
    citation: str = ""
    baseline: bool = False  # a random-initialised floor


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, loaded safely. Raises UsageError naming the file."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise UsageError(f"{path}: cannot be read ({e.strerror})") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: not valid YAML ({' '.join(str(e).split())})") from e
    if not isinstance(value, dict):
        raise UsageError(f"{path}: a card is a YAML mapping with `name:` and so on, found {type(value).__name__}")
    return value


def near(word: str, known: list[str] | tuple[str, ...]) -> str:
    """' (did you mean ...?)' with the near misses of ``word``, or '' where there are none."""
    hits = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(hits)}?)" if hits else ""


def _models() -> dict[str, type[BaseModel]]:
    cards: tuple[type[BaseModel], ...] = (
        VQACard, SegmentationCard, LinearProbeCard, ZeroShotCard, LinearPathCard, KNNCard, AttentiveCard, RetrievalCard,
        BackgroundsCard, LMMSCard, MMSegCard, DepthCard,
    )  # fmt: skip
    return {c.model_fields["engine"].default: c for c in cards}


def card_fields(engine: Any) -> frozenset[str]:
    """Field names of an engine's card; empty for an unknown engine."""
    model = _models().get(str(engine))
    return frozenset(model.model_fields) if model else frozenset()


def _explain(error: ValidationError, where: str, model: type[BaseModel] | None = None) -> UsageError:
    """One line from pydantic's first complaint: file, field, what was expected."""
    first = error.errors()[0]
    engines = set(_models())
    loc = [str(p) for p in first["loc"] if p not in engines and not str(p).endswith(("Card", "Spec", "str", "list[str]"))]
    field = ".".join(loc) or "(card)"
    expected = first["msg"][0].lower() + first["msg"][1:]
    if first["type"] == "extra_forbidden":
        known = list(model.model_fields) if model and len(loc) == 1 else []
        expected = "no such field" + near(loc[-1], known)
    elif "input" in first and not isinstance(first["input"], dict):
        expected += f", found {first['input']!r}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return UsageError(f"{where}: field `{field}`: {expected}{more}")


def parse_card(value: dict[str, Any], where: str) -> Any:
    """A mapping with ``kind: task | recipe | backbone`` as its card model. Raises UsageError naming ``where`` and the field."""
    kind = value.get("kind", "task")
    try:
        if kind == "backbone":
            return BackboneCard.model_validate(value)
        if kind == "recipe":
            return RecipeCard.model_validate(value)
        if kind == "set":
            return SetCard.model_validate(value)
        if kind == "llm":
            return LLMCard.model_validate(value)
        if kind != "task":
            raise UsageError(f"{where}: field `kind`: expected task, recipe, set, llm or backbone, found {kind!r}")
        engine = value.get("engine")
        if engine not in _models():
            raise UsageError(f"{where}: field `engine`: expected one of {', '.join(_models())}, found {engine!r}")
        return _TASK.validate_python(value)
    except ValidationError as e:
        kinds: dict[str, type[BaseModel]] = {"backbone": BackboneCard, "recipe": RecipeCard, "set": SetCard, "llm": LLMCard}
        model = kinds.get(kind) or _models().get(str(value.get("engine")))
        raise _explain(e, where, model) from e


def load_card(path: Path) -> Any:
    return parse_card(read_yaml(path), str(path))


# Where the files lie on this machine, prose, what is measured beside the metrics, and memory: none moves a number.
_NOT_PROTOCOL = frozenset(
    {"description", "source", "root", "images", "questions", "annotations", "directory", "hub", "chance", "set", "seeds"}
    | {"choices", "floors", "checkpointing"}
    | {"include", "datasets"}
    | {"config", "checkpoint_every"}
)


def protocol_of(card: BaseModel, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """Everything in a task card that can move a number, plus ``extra`` (language model's hash, ...)."""

    def strip(node: Any) -> Any:
        if isinstance(node, dict):
            return {k: strip(v) for k, v in node.items() if k not in _NOT_PROTOCOL}
        return [strip(v) for v in node] if isinstance(node, list) else node

    return {**strip(card.model_dump(mode="json")), **(extra or {})}


def protocol_hash(protocol: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a protocol (sorted keys, no spaces)."""
    text = json.dumps(protocol, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
