"""Connectors and their training: packing against unpacked, what learns, recipes, resume, stages, checkpointing, processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from levl_eval.backbones.common import hash_weights
from levl_eval.cards import ConnectorSpec, MixSpec, PromptSpec, RecipeCard
from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.data.types import Question
from levl_eval.engines import fit
from levl_eval.engines.vlm import connector as connectors
from levl_eval.engines.vlm import training
from levl_eval.engines.vlm.connector import Connector
from levl_eval.engines.vlm.packing import Item, make_items, packed_loss, packed_terms
from levl_eval.engines.vlm.prompts import make_prompt
from levl_eval.engines.vlm.training import ConnectorTraining, checkpointed, checkpointing_pays, schedule_of, train
from levl_eval.features.store import FeatureSet
from tests.engines.vlm.models import KINDS, TEXTS, make

ANSWERS = ("yes", "red", "2", "a bird", "so")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make("llama", tmp_path_factory.mktemp("llama"))


def _items(language, prompt):
    pairs = [
        (tuple(prompt.question(language, q)), tuple(prompt.answer(language, a))) for q, a in zip(TEXTS, ANSWERS, strict=True)
    ]
    return [Item(0, 0, tuple(pairs[:3])), Item(0, 1, tuple(pairs[3:]), weight=0.5)]


@pytest.mark.parametrize("kind", KINDS)
def test_packed_loss_equals_unpacked(kind, tmp_path):
    language = make(kind, tmp_path)
    prompt = make_prompt(PromptSpec(), language)
    visual = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(1))
    items = _items(language, prompt)
    total = weight = 0.0
    for b, item in enumerate(items):
        for p, a in item.questions:
            ids = torch.tensor([*p, *a])
            x = torch.cat([language.embed(torch.tensor(prompt.head)), visual[b], language.embed(ids)])[None]
            logits = language.model(inputs_embeds=x).logits[0]
            loss = torch.nn.functional.cross_entropy(logits[-len(a) - 1 : -1], torch.tensor(a), reduction="sum").item()
            total, weight = total + item.weight * loss, weight + item.weight * len(a)
    found, counted = packed_terms(language, prompt, visual, items)
    assert counted == pytest.approx(weight)
    assert found.item() == pytest.approx(total, rel=1e-4)
    assert packed_loss(language, prompt, visual, items).item() == pytest.approx(total / weight, rel=1e-4)


def test_checkpointing_changes_memory_and_nothing_else(tmp_path):
    language = make("gpt2", tmp_path)  # the one with dropout, which must stay asleep
    prompt, visual = make_prompt(PromptSpec(), language), torch.randn(2, 6, 32)
    grads = []
    for on in (False, True):
        v = visual.clone().requires_grad_()
        calls = []
        original = type(language.model.transformer.h[0].attn).forward
        handle = language.model.transformer.h[0].attn.register_forward_hook(lambda *a: calls.append(1))  # noqa: B023
        with checkpointed(language.model, on):
            packed_loss(language, prompt, v, _items(language, prompt)).backward()
        handle.remove()
        assert len(calls) == 1 + on  # recomputed in the backward pass
        assert original is type(language.model.transformer.h[0].attn).forward
        grads.append(v.grad)
    assert torch.allclose(*grads, atol=1e-6)
    assert not any(m.training for m in language.model.modules())
    assert checkpointing_pays(language, 32, 400, free=10**6) and not checkpointing_pays(language, 32, 400, free=10**12)


def _features(n=6, tokens=4, dim=5) -> FeatureSet:
    g = np.random.default_rng(0)
    pooled, patches = g.normal(size=(n, dim)), (3 * g.normal(size=(n, tokens, dim)) + 1).astype(np.float16)
    return FeatureSet({"pooled": pooled, "patches": patches}, tuple(map(str, range(n))), (2, 2), {}, False)


def _recipe(**more) -> RecipeCard:
    return RecipeCard(**{"name": "r", "data": [], "epochs": 6, "images_per_batch": 2, "lr": 5e-3, "precision": "fp32", **more})


def _args(language, folder, recipe=None, meta=None, first=None, tokens=4):
    prompt = make_prompt(PromptSpec(), language)
    pair = (tuple(prompt.question(language, TEXTS[0])), tuple(prompt.answer(language, "yes")))
    items = [Item(0, i, (pair,)) for i in range(6)]
    features, cpu, quiet = [_features(tokens=tokens)], torch.device("cpu"), Progress(quiet=True)
    job = ConnectorTraining(language, prompt, recipe or _recipe(), features, cpu, 0, quiet, first)
    return job, items, meta or {"a": 1}, folder


def _equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_only_the_connector_learns_and_it_is_kept(llama, tmp_path):
    before = llama.sha256
    net, notes, hit = train(*_args(llama, tmp_path))
    assert not hit and notes["connector_loss"][-1] < 0.8 * notes["connector_loss"][0] and notes["connector_steps"] == 18
    assert hash_weights(llama.model) == before
    flat = _features().patches.astype(np.float32).reshape(-1, 5)
    assert np.allclose(net.mean, flat.mean(0), atol=1e-3) and np.allclose(net.std, flat.std(0), atol=1e-3)
    again, notes2, hit = train(*_args(llama, tmp_path))
    assert hit and notes2 == notes and _equal(net, again)
    other = train(*_args(llama, tmp_path, meta={"a": 2}))
    assert not other[2] and _equal(other[0], net)  # same seed, same result


def test_muon_moves_the_matrices_alike_in_every_direction_where_adamw_does_not(llama, tmp_path):
    """One step, no warm-up: the change of each matrix has singular values of one size; AdamW's has not."""
    spread = {}
    for optimizer in ("adamw", "muon"):
        recipe = _recipe(optimizer=optimizer, steps=1, warmup=0.0, weight_decay=0.0)
        job, *rest = _args(llama, tmp_path, recipe, {"made with": optimizer})
        change = (train(job, *rest)[0].map[0].weight - job.new().map[0].weight).detach()
        values = torch.linalg.svdvals(change)
        spread[optimizer] = float(values.max() / values.min())
    assert spread["muon"] < 2 < 3 < spread["adamw"]


@pytest.mark.parametrize(
    "spec, tokens_in, tokens_out",
    [
        ({"kind": "linear"}, 4, 4),
        ({"kind": "mlp_norm", "tokens": "cls+patches"}, 5, 5),
        ({"kind": "mlp2x_gelu", "tokens": "cls"}, 1, 1),
        ({"kind": "unshuffle_mlp"}, 4, 1),
        ({"kind": "resampler", "queries": 3, "depth": 1}, 4, 3),
    ],
)
def test_every_connector_learns_and_gives_word_sized_tokens(llama, tmp_path, spec, tokens_in, tokens_out):
    net, notes, _ = train(*_args(llama, tmp_path, _recipe(connector=spec)))
    assert notes["connector_loss"][-1] < notes["connector_loss"][0]
    assert net.count(tokens_in) == tokens_out
    from levl_eval.engines.vlm.tokens import read_tokens

    raw = torch.from_numpy(read_tokens(_features(), [0, 2], ConnectorSpec(**spec)))
    assert raw.shape == (2, tokens_in, 5) and net(raw).shape == (2, tokens_out, 32)
    torch.manual_seed(0)
    fresh = Connector(ConnectorSpec(**spec), 60, 96, 0.05, (2, 2))
    assert 0.01 < fresh(torch.randn(20, tokens_in, 60)).pow(2).mean().sqrt() < 0.15
    assert train(*_args(llama, tmp_path, _recipe(connector=spec)))[2]  # found again, with its shapes


def test_unshuffle_joins_neighbours():
    x = torch.arange(16.0).view(1, 16, 1)
    assert connectors.unshuffle(x, (4, 4), 2)[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    with pytest.raises(UsageError, match="connector.downsample"):
        Connector(ConnectorSpec(kind="unshuffle_mlp"), 5, 7, 1.0, (3, 3))


def test_schedules():
    def rates(**more):
        return [schedule_of(_recipe(warmup=0.2, **more), 10).at(s) for s in range(10)]

    assert rates(schedule="constant") == [0.5, *[1.0] * 9]
    assert rates(schedule="linear")[1:4] == pytest.approx([1.0, 1.0, 7 / 8]) and rates(schedule="linear")[-1] == pytest.approx(
        1 / 8
    )
    assert rates()[2] == pytest.approx(1.0) and rates()[6] == pytest.approx(0.5)


def test_mix_counts_weights_and_limits(llama):
    prompt, features = make_prompt(PromptSpec(), llama), _features()
    questions = [Question(str(i), str(i % 6), f"Q {i}?", "yes") for i in range(30)]
    recipe = _recipe(
        data=[MixSpec(layout="vqa", count=10, weight=2.0), MixSpec(layout="vqa")], max_questions=20, questions_per_image=3
    )
    items = make_items([(questions, features)] * 2, llama, prompt, recipe, seed=0)
    assert sum(len(i.questions) for i in items) == 20 and max(len(i.questions) for i in items) <= 3
    assert {i.weight for i in items if i.source == 0} == {2.0} and {i.weight for i in items if i.source == 1} == {1.0}
    assert sum(len(i.questions) for i in items if i.source == 0) <= 10
    assert items == make_items([(questions, features)] * 2, llama, prompt, recipe, seed=0)
    assert items != make_items([(questions, features)] * 2, llama, prompt, recipe, seed=1)
    with pytest.raises(UsageError, match=r"question 7 \(image 1\): an answer is empty"):
        make_items([([Question("7", "1", "Q?", " ")], features)], llama, prompt, _recipe(), seed=0)


def test_steps_stand_before_epochs_and_a_stage_starts_where_the_first_ended(llama, tmp_path):
    one, notes, _ = train(*_args(llama, tmp_path, _recipe(steps=5)))
    assert notes["connector_steps"] == 5
    two = train(*_args(llama, tmp_path, _recipe(steps=1, lr=0.0), {"b": 1}, one))[0]
    assert _equal(one, two)
    with pytest.raises(UsageError, match="field `first`"):
        train(*_args(llama, tmp_path, _recipe(connector={"kind": "linear"}), {"b": 2}, one))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_interrupted_training_goes_on(llama, tmp_path, monkeypatch, optimizer):
    recipe = _recipe(optimizer=optimizer)
    whole = train(*_args(llama, tmp_path / "a", recipe))[0]
    monkeypatch.setattr(fit, "SAVE_EVERY", -1.0)  # a state is kept after every step
    calls = 0
    original = training.packed_terms

    def dies(*a):
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return original(*a)

    monkeypatch.setattr(training, "packed_terms", dies)
    with pytest.raises(KeyboardInterrupt):
        train(*_args(llama, tmp_path / "b", recipe))
    resumed = train(*_args(llama, tmp_path / "b", recipe))[0]
    assert calls == 8 + 18 - 7 and _equal(whole, resumed)
    assert not list((tmp_path / "b").rglob("*.state.pt"))


WORKER = """
import sys
from pathlib import Path
import torch
from levl_eval.engines import fit
from levl_eval.engines.vlm import training
from levl_eval.engines.vlm.language import load_language_model
from tests.engines.vlm.test_training import _args, _recipe
fit.SAVE_EVERY = -1.0
torch.set_num_threads(1)
train = training.train
recipe = _recipe(epochs=float(sys.argv[3]), optimizer=sys.argv[4])
net, notes, hit = train(*_args(load_language_model(sys.argv[1]), Path(sys.argv[2]), recipe))
print("LOSS", notes["connector_loss"], flush=True)
"""


def _worker(tmp_path, model, out, epochs, extra=(), optimizer="adamw"):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    root = str(Path(__file__).parents[3])
    env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.Popen(
        [sys.executable, *extra, str(script), str(model), str(out), str(epochs), optimizer], env=env, cwd=root, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
def test_killed_with_9_in_the_middle_it_goes_on_to_the_same_connector(llama, tmp_path):
    model = Path(llama.name)
    p = _worker(tmp_path, model, tmp_path / "killed", 300)
    deadline = time.monotonic() + 500
    while not list((tmp_path / "killed").rglob("*.state.pt")) and time.monotonic() < deadline and p.poll() is None:
        time.sleep(0.05)
    assert p.poll() is None, p.communicate()[1]
    os.kill(p.pid, signal.SIGKILL)
    p.communicate()
    assert not list((tmp_path / "killed").rglob("*.safetensors"))
    (state,) = (tmp_path / "killed").rglob("*.state.pt")
    step = torch.load(state, weights_only=True)["step"]
    assert 0 < step < 900
    args = _args(llama, tmp_path / "killed", _recipe(epochs=300.0))
    resumed, notes, hit = train(*args)
    whole = train(*_args(llama, tmp_path / "whole", _recipe(epochs=300.0)))[0]
    assert not hit and notes["connector_steps"] == 900 and _equal(whole, resumed)


@pytest.mark.distributed
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_processes_train_the_connector_of_one(llama, tmp_path, optimizer):
    """Two processes on gloo, through accelerate: the same steps, half of each batch in each process, one file."""
    one = train(*_args(llama, tmp_path / "one", _recipe(epochs=4.0, optimizer=optimizer)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    extra = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    p = _worker(tmp_path, llama.name, tmp_path / "two", 4.0, extra, optimizer)
    out, err = p.communicate(timeout=600)
    assert p.returncode == 0, err[-2000:]
    assert out.count("LOSS") == 2
    (path,) = (tmp_path / "two").rglob("*.safetensors")
    two, meta = connectors.load(path, ConnectorSpec(), 5, 32)
    for a, b in zip(one[0].state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert meta["notes"]["connector_loss"] == pytest.approx(one[1]["connector_loss"], abs=1e-4)
    assert json.loads(json.dumps(meta))["notes"]["connector_steps"] == 12


def test_connector_files(tmp_path):
    net = Connector(ConnectorSpec(), 5, 7, 0.3)
    path = tmp_path / "c.safetensors"
    connectors.save(path, net, {"llm": "x"})
    back, meta = connectors.load(path, ConnectorSpec(), 5, 7, {"llm": "x"})
    x = torch.randn(2, 3, 5)
    assert meta == {"llm": "x"} and torch.equal(back(x), net(x))
    with pytest.raises(UsageError, match="trained for another llm"):
        connectors.load(path, ConnectorSpec(), 5, 7, {"llm": "y"})
    with pytest.raises(UsageError, match="shapes differ"):
        connectors.load(path, ConnectorSpec(), 6, 7)
    path.write_bytes(b"junk")
    with pytest.raises(UsageError, match="no readable connector"):
        connectors.load(path, ConnectorSpec(), 5, 7)


def test_image_tokens_beyond_the_context(llama, tmp_path):
    with pytest.raises(UsageError, match="it has 256") as e:
        train(*_args(llama, tmp_path, tokens=300))
    assert "\n" not in str(e.value)
