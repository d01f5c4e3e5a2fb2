"""Failures of the hub, and of libraries that read from it, told in one line with what to do. No heavy imports."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from levl_eval.core.errors import UsageError
from levl_eval.core.text import printable

# What libraries say where there is no network, or none may be used.
_OFFLINE = (
    "connect", "offline", "resolve", "LocalEntry", "couldn't find", "Max retries", "Name or service", "cached", "timed out", "timeout",
)  # fmt: skip
UNREACHED = (
    "the hub cannot be reached and its cache holds no copy; "
    "give a local directory, or fill the cache (HF_HOME) and set HF_HUB_OFFLINE=1"
)

UNKNOWN_REVISION = "has no such revision; correct `hub.revision`, or leave it out"


@contextlib.contextmanager
def hub(uri: str) -> Iterator[None]:
    """Hub and file errors of a library as one line: gated, missing, limited, no such configuration, split or revision, offline."""
    try:
        yield
    except UsageError:
        raise
    except Exception as e:
        raise UsageError(f"{uri}: {hub_reason(e)}") from e


def hub_reason(error: BaseException) -> str:
    """What a library's error means, and the remedy. The causes of an error are looked at too: libraries wrap the hub's own."""
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in chain and len(chain) < 8:
        chain.append(one)
        one = one.__cause__ or one.__context__
    names = {type(e).__name__ for e in chain}
    text = " ".join(" ".join(str(e).split()) for e in chain)
    low = text.lower()
    status = next((s for e in chain if isinstance(s := getattr(getattr(e, "response", None), "status_code", None), int)), 0)
    if "GatedRepoError" in names or "gated dataset" in low or "gated repo" in low:
        return "is gated: accept its terms on huggingface.co and log in (hf auth login, or HF_TOKEN), or give a local directory"
    if status == 429 or ("429" in text and "too many" in low):
        return "the hub limits requests (429): wait some minutes, log in (HF_TOKEN) for a higher limit, or fill the cache once (HF_HOME)"
    if status in (401, 403) and "RepositoryNotFoundError" not in names:
        return f"the hub refuses access ({status}): log in with a token that may read it (hf auth login, or HF_TOKEN)"
    if status >= 500:
        return f"the hub fails ({status}): try again later, or give a local directory"
    if "builderconfig" in low or "config name is missing" in low:
        return f"has no such configuration: {_cut(str(chain[0]))}; correct `hub.questions` or `hub.images`"
    if "unknown split" in low or "bad split" in low:
        return f"has no such split: {_cut(str(chain[0]))}; correct `hub.split`"
    if "RevisionNotFoundError" in names or ("DatasetNotFoundError" in names and low.startswith("revision ")):
        return UNKNOWN_REVISION
    if "RepositoryNotFoundError" in names or (
        "DatasetNotFoundError" in names and "doesn't exist on the hub or cannot be accessed" in low
    ):
        return "no such repository on the hub, or it is private: correct the name, or log in (hf auth login, or HF_TOKEN)"
    if "SafetensorError" in names:
        return f"its weights are no whole safetensors file ({_cut(str(error))}): cut short, or a Git LFS pointer; copy them again"
    if "ignore_mismatched_sizes" in low:
        return "its weights have other shapes than its config.json says; the two are of different models"
    if "can't load image processor" in low:
        return "holds no preprocessor_config.json that transformers can read; copy it from the model's repository"
    if "couldn't instantiate the backend tokenizer" in low or "either model_file or model_proto" in low:
        return "holds no tokenizer that transformers can read; copy tokenizer.json, or its vocabulary's files, from the model's repository"
    if "repo id must" in low:
        return "neither a directory nor a name of the hub (OWNER/NAME); correct it"
    if any(w.lower() in (text + " ".join(names)).lower() for w in _OFFLINE):
        return UNREACHED
    # Of itself `datasets` says only that an error occurred; its cause says which.
    shown = next((e for e in chain if not type(e).__name__.startswith("DatasetGeneration")), error)
    return f"cannot be loaded ({type(shown).__name__}: {_cut(str(shown))})"


def _cut(text: str) -> str:
    return printable(" ".join(text.split()))[:200]
