"""One split of one configuration of a hub repository as a table: from the cache of `datasets`, or from the repository's own files.

`datasets` alone prepares every split of a configuration, which for VQAv2 are hundreds of gigabytes; here only the files of the wanted
split are fetched and prepared. Without a network both kinds of cache are looked into, under every name the repository has had: tables that
`datasets` has prepared (HF_DATASETS_CACHE), and files as `hf download` leaves them (HF_HUB_CACHE).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from levl_eval.core.errors import UsageError
from levl_eval.core.hub import UNKNOWN_REVISION, UNREACHED, hub, hub_reason
from levl_eval.core.text import printable
from levl_eval.data.fingerprint_cache import active
from levl_eval.data.hub_cells import with_images
from levl_eval.data.hub_files import alike, check_parts, check_tables, files_below, local_state, of_split
from levl_eval.data.places import COMMIT, moved_names

if TYPE_CHECKING:
    from datasets import Dataset

    from levl_eval.cards.base import HubSource


def local_digest(folder: Path) -> str:
    """SHA-256 of a local repository: names and bytes of its files, hidden ones left out, through the cache in use."""
    names = files_below(folder)
    contents = active().hash_files(names)
    return hashlib.sha256(
        "".join(
            f"{p.relative_to(folder).as_posix()}\0{digest}\n" for p, (digest, _) in zip(names, contents, strict=True)
        ).encode()
    ).hexdigest()


def local_cache(folder: Path, parent: str | os.PathLike[str] | None = None) -> str:
    """The folder where `datasets` is to keep its tables of a local repository, below ``parent`` (its own cache by default).

    Left to itself it (5.2) keeps those of every local repository of one name and one list of configurations in one place, and
    takes what lies there, whatever the files of this one hold.
    """
    return _kept(local_digest(folder), parent)


def cache_of_state(folder: Path) -> str:
    """:func:`local_cache` by the names, sizes and times of the files: of repositories that are too large to be read for it."""
    return _kept(local_state(folder))


def _kept(digest: str, parent: str | os.PathLike[str] | None = None) -> str:
    import datasets

    return str(Path(parent or datasets.config.HF_DATASETS_CACHE) / "local" / digest[:32])


@dataclass(frozen=True)
class HubTable:
    """A split that has been read.

    revision: the commit of the repository it is of; "" where none is known (a folder, a table prepared from one). remark: what
    was read in place of the card's pin, and why; "" where that is what was read.
    """

    rows: Dataset
    revision: str = ""
    remark: str = ""


def load_split(source: HubSource, config: str | None) -> HubTable:
    """A configuration's split as a map-style table. Raises UsageError: what the hub refuses, or what its cache lacks, with the remedy."""
    if source.split is None:
        raise UsageError(f"--data hub: {source.repo}: field `hub.split` is not set; name one of its splits")
    here = Path(source.repo).expanduser()
    if here.is_dir():
        if source.revision is not None:
            raise UsageError(
                f"--data hub: {source.repo}: is a folder, of which no revision can be told; "
                "take `hub.revision` out, or give a repository's name"
            )
        with hub(f"--data hub: {source.repo}"):
            patterns = None if source.files is None else [source.files]
            return HubTable(with_images(_of_folder(here, config, source.split, local_cache(here), patterns)))
    failures: list[tuple[str, Exception]] = []
    for repo in names_of(source.repo):
        try:
            table = table_of_repository(repo, config, source)
            return replace(table, rows=with_images(table.rows))
        except Exception as e:  # whatever the libraries raise
            failures.append((repo, e))
    # Of two names one may not exist any more, or not be cached: what the other was refused for is what matters.
    informative = [f for f in failures if not hub_reason(f[1]).startswith(("no such repository", "the hub cannot be reached"))]
    repo, error = (informative or failures)[0]
    if isinstance(error, UsageError):
        raise error
    names = " or ".join(name for name, _ in failures) if not informative else repo
    raise UsageError(f"--data hub: {names}: {hub_reason(error)}") from error


def names_of(repo: str) -> list[str]:
    """The names a repository is tried under: of an organisation that moved the new name, then the old one; those in a cache first.

    Old names redirect, but a cache answers only to the name it was filled under.
    """
    names = moved_names(repo)
    cached = [n for n in names if cached_tables(n) or cached_files(n)]
    return [*cached, *(n for n in names if n not in cached)]


def cached_tables(repo: str, config: str | None = None, split: str | None = None) -> list[Path]:
    """Folders of the cache of `datasets` with tables of a repository (of a configuration, of a split), the newest last.

    A folder is named by the commit it was prepared from.
    """
    import datasets
    from datasets.naming import camelcase_to_snakecase

    owner, _, name = repo.rpartition("/")
    stem = camelcase_to_snakecase(name)
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "___".join(p for p in (owner, stem) if p)
    wanted = "*" if split is None else f"{stem}-{_bare(split)}*.arrow"
    return sorted({p.parent for p in folder.glob(f"{config or '*'}/*/*/{wanted}")}, key=lambda p: (p.stat().st_mtime, p))


def cached_files(repo: str) -> list[Path]:
    """Snapshots of a repository in the hub's own cache: folders named by their commits, the newest last."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"datasets--{repo.replace('/', '--')}" / "snapshots"
    return sorted({p.parent for p in folder.glob("*/*")}, key=lambda p: (p.stat().st_mtime, p))


def _bare(split: str) -> str:
    return split.split("[")[0]


def table_of_repository(repo: str, config: str | None, source: HubSource) -> HubTable:
    """The split at the revision that the source names, or that its card was written against (``pinned``), or the newest.

    A pin is a preference: where the hub has it no more, or cannot be reached and another revision is all that is cached, that one is
    read, which the table's ``remark`` says. ``revision`` is none.
    """
    assert source.split is not None
    wanted = source.revision or source.pinned
    prepared = cached_tables(repo, config, source.split) if source.files is None else []
    for folder in prepared:
        if folder.name == wanted:
            return HubTable(_prepared(folder, repo, source.split), folder.name)
    if wanted is None and prepared:
        return _by_datasets(repo, config, source.split, None)
    try:
        return _of_files(repo, config, source, wanted)
    except Exception as e:
        why = hub_reason(e)
        if source.revision is not None or wanted is None or not why.startswith((UNREACHED, UNKNOWN_REVISION)):
            raise
        there = _another(repo, config, source, prepared)
        if there is None:
            raise
        known = f"revision {there.revision[:12]}" if COMMIT.fullmatch(there.revision) else "a revision of unknown number"
        lost = "which the hub has no more" if why.startswith(UNKNOWN_REVISION) else "which is not cached"
        return replace(there, remark=f"{known} was read in place of the card's {wanted[:12]}, {lost}")


def _another(repo: str, config: str | None, source: HubSource, prepared: list[Path]) -> HubTable | None:
    """Whatever other revision of a repository can be read; None where there is none.

    Raises UsageError where one is there that lacks the configuration, the split or files of it.
    """
    assert source.split is not None
    if prepared:
        return HubTable(_prepared(prepared[-1], repo, source.split), prepared[-1].name)
    refused: UsageError | None = None
    for revision in (None, *(p.name for p in reversed(cached_files(repo)))):
        try:
            return _of_files(repo, config, source, revision)
        except UsageError as e:
            refused = refused or e
        except Exception:  # not there, or not whole: the next one
            continue
    if refused is not None:
        raise refused
    return None


def _prepared(folder: Path, repo: str, split: str) -> Dataset:
    """The split of tables that `datasets` has prepared in a folder of its cache (ROOT/OWNER___NAME/CONFIG/VERSION/COMMIT)."""
    from datasets.packaged_modules.cache.cache import Cache

    config, version, commit = folder.parts[-3:]
    root = str(folder.parents[3])
    name = folder.parts[-4].rpartition("___")[2]
    return Cache(cache_dir=root, dataset_name=name, config_name=config, version=version, hash=commit, repo_id=repo).as_dataset(
        split
    )


def _by_datasets(repo: str, config: str | None, split: str, revision: str | None) -> HubTable:
    """As `datasets` finds it, which prepares all splits of a configuration where it has not yet."""
    import datasets

    with alike(f"--data hub: {repo}"):
        table = datasets.load_dataset(repo, config, split=split, revision=revision)
    files = [Path(str(f["filename"])) for f in table.cache_files]
    return HubTable(table, files[0].parent.name if files and COMMIT.fullmatch(files[0].parent.name) else "")


def _of_files(repo: str, config: str | None, source: HubSource, revision: str | None) -> HubTable:
    """The split from the repository's own files at a revision (None: the newest), fetched or from the hub's cache."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    assert source.split is not None
    split, patterns = source.split, None if source.files is None else [source.files]
    if patterns is None:
        try:
            readme = Path(hf_hub_download(repo, "README.md", repo_type="dataset", revision=revision))
            patterns = _patterns(readme, repo, config, split)
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            patterns = None
    if patterns is None:  # its card says nothing of files: `datasets` finds out, and prepares all splits
        return _by_datasets(repo, config, split, revision)
    allowed = ["README.md", *(q for p in patterns for q in (p, f"{p}/*"))]
    folder = Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=allowed))
    files = sorted({f for p in patterns for f in folder.glob(p)})
    _check_whole(files, folder, repo, split, patterns)
    state = hashlib.sha256(f"{repo}@{folder.name} {config} {split} {source.files or ''}".encode())
    for f in files:
        s = f.stat()
        state.update(f"{f.relative_to(folder).as_posix()}\0{s.st_size} {s.st_mtime_ns}\n".encode())
    return HubTable(_of_folder(folder, config, split, _kept(state.hexdigest()), patterns), folder.name)


def _check_whole(files: list[Path], folder: Path, repo: str, split: str, patterns: list[str]) -> None:
    """Raises UsageError where a cache filled without a network's help holds a part of the split's files only."""
    fetch = f"hf download {repo} --repo-type dataset --include '{patterns[0]}'"
    if not files:
        raise UsageError(
            f"--data hub: {repo}: its cache holds no file of split {_bare(split)}; where there is a network: {fetch}"
        )
    names = (f.relative_to(folder).as_posix() for f in files)
    check_parts(
        names, f"--data hub: {repo}", f"files of split {_bare(split)} are not in its cache", f"where there is a network: {fetch}"
    )
    check_tables(files, f"--data hub: {repo}")


def _patterns(readme: Path, repo: str, config: str | None, split: str) -> list[str] | None:
    """Patterns of a split's files, as the repository's card lists them; None where it lists none. Raises UsageError: none of that name."""
    from datasets.data_files import sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    configs = MetadataConfigs.from_dataset_card_data(DatasetCard.load(str(readme)).data)
    if not configs:
        return None
    name = config or configs.get_default_config_name()
    listed = ", ".join(map(printable, configs))
    if name is None:
        raise UsageError(
            f"--data hub: {repo}: has several configurations ({listed}); name one of them by `hub.questions` or `hub.images`"
        )
    if name not in configs:
        raise UsageError(
            f"--data hub: {repo}: has no such configuration: {printable(str(name))}; it has {listed}; "
            "correct `hub.questions` or `hub.images`"
        )
    listed_files = configs[name].get("data_files")
    if not listed_files:
        return None
    by_split = {str(k): [str(p) for p in v] for k, v in sanitize_patterns(listed_files).items()}
    if _bare(split) not in by_split:
        raise UsageError(
            f"--data hub: {repo}: has no such split: {printable(_bare(split))}; "
            f"it has {', '.join(map(printable, by_split))}; correct `hub.split`"
        )
    return by_split[_bare(split)]


def _of_folder(folder: Path, config: str | None, split: str, cache: str, patterns: list[str] | None = None) -> Dataset:
    """The split of a repository's files in a folder, prepared alone below ``cache``.

    patterns: of its files; None: as its card lists them.
    """
    import datasets

    readme = folder / "README.md"
    if patterns is None and readme.is_file():
        patterns = _patterns(readme, str(folder), config, split)
    elif patterns is not None:
        config = None  # whose files the patterns are
    check_folder(folder, split, patterns, f"--data hub: {folder}")
    files = None if patterns is None else {_bare(split): patterns}
    with alike(f"--data hub: {folder}"):
        if files is None:
            return datasets.load_dataset(str(folder), config, split=split, cache_dir=cache)
        return datasets.load_dataset(
            str(folder), config, split=split, data_files=files, cache_dir=cache, verification_mode="no_checks"
        )


def check_folder(folder: Path, split: str, patterns: list[str] | None, what: str) -> None:
    """Raises UsageError where a local repository holds no files (of ``patterns``), a part of a split's only, or tables that are none."""
    if any("://" in p or p.startswith("/") for p in patterns or ()):  # files elsewhere
        return
    files = files_below(folder) if patterns is None else sorted({f for p in patterns for f in folder.glob(p)})
    if not files:
        place = f"no file {printable(patterns[0])[:200]}" if patterns else "no files"
        raise UsageError(f"{what}: holds {place}; give the folder of the whole repository")
    names = {f.relative_to(folder).as_posix(): f for f in files}
    wanted = of_split(names, _bare(split)) if patterns is None else list(names)
    check_parts(wanted, what, "files are missing", "copy them there, or download the repository again")
    check_tables((names[n] for n in wanted), what)
