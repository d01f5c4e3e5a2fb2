"""The frozen language model behind a connector: engine against `generate`, packing against unpacked, training, floors, bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from levl_eval.cards import ConnectorSpec, PromptSpec, RecipeCard
from levl_eval.errors import UsageError
from levl_eval.features import FeatureSet
from levl_eval.progress import Progress
from levl_eval.vlm import connector as connectors
from levl_eval.vlm.connector import Connector
from levl_eval.vlm.engine import answer_all, answer_batch
from levl_eval.vlm.language import LanguageModel, load_language_model
from levl_eval.vlm.prompts import make_prompt
from levl_eval.vlm.training import Item, packed_loss, train

TEXTS = ["Is there a cat?", "What color is the very small dog on the left?", "How many?", "Is it a bird or a boat?", "Why"]


def tokenizer(path):
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    corpus = [f"\nQuestion: {t}\nAnswer: yes no cat" for t in TEXTS]
    raw.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<pad>", "<bos>", "<eos>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>").save_pretrained(path)
    return raw.get_vocab_size()


def make(kind: str, path, context=256) -> LanguageModel:
    import transformers as t

    vocab = tokenizer(path)
    torch.manual_seed(3)
    common = {"vocab_size": vocab, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    size = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": context,
    }
    if kind == "llama":
        model = t.LlamaForCausalLM(t.LlamaConfig(**common, **size, num_key_value_heads=2, initializer_range=0.3))
    elif kind == "qwen2":
        model = t.Qwen2ForCausalLM(
            t.Qwen2Config(**common, **size, num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.3)
        )
    elif kind == "qwen2-sliding":
        config = t.Qwen2Config(
            **common,
            **size,
            num_key_value_heads=4,
            use_sliding_window=True,
            sliding_window=8,
            max_window_layers=0,
            initializer_range=0.3,
        )
        model = t.Qwen2ForCausalLM(config)
    elif kind == "gemma":
        model = t.GemmaForCausalLM(t.GemmaConfig(**common, **size, num_key_value_heads=1, head_dim=8, initializer_range=0.3))
    else:
        model = t.GPT2LMHeadModel(
            t.GPT2Config(**common, n_embd=32, n_layer=2, n_head=4, n_positions=context, initializer_range=0.3)
        )
    model.save_pretrained(path)
    return load_language_model(str(path))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make("llama", tmp_path_factory.mktemp("llama"))


def one_at_a_time(language, prompt, visual, question):
    """What `generate` says to a single question behind a single image."""
    head = language.embed(torch.tensor(prompt.head))[None]
    tail = language.embed(torch.tensor(prompt.question(language, question)))[None]
    parts = [head] if visual is None else [head, visual[None]]
    out = language.model.generate(
        inputs_embeds=torch.cat([*parts, tail], 1),
        max_new_tokens=prompt.spec.max_new_tokens,
        do_sample=False,
        eos_token_id=language.eos,
        pad_token_id=0,
    )
    return out[0].tolist()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen2-sliding", "gpt2", "gemma"])
def test_shared_prefix_answers_equal_generate(kind, tmp_path):
    language = make(kind, tmp_path)
    prompt = make_prompt(PromptSpec(max_new_tokens=7, stop=[]), language)
    visual = 0.5 * torch.randn(3, 11, 32, generator=torch.Generator().manual_seed(0))
    asked = [TEXTS, TEXTS[1:3], TEXTS[:1]]
    from levl_eval.vlm.engine import _cut

    want = [[_cut(language, one_at_a_time(language, prompt, v, q), []) for q in qs] for v, qs in zip(visual, asked, strict=True)]
    assert len({a for qs in want for a in qs}) > 3  # the models do say different things
    assert answer_batch(language, prompt, visual, asked) == want
    for rows in (1, 3, 100):
        assert answer_all(language, prompt, lambda i: visual[list(i)], asked, lambda n: None, rows=rows) == want
    blind = [[_cut(language, one_at_a_time(language, prompt, None, q), []) for q in qs] for qs in asked]
    assert answer_batch(language, prompt, None, asked) == blind


def test_stop_strings_and_end_tokens_end_an_answer(llama):
    long = make_prompt(PromptSpec(max_new_tokens=12, stop=[]), llama)
    (text,) = answer_batch(llama, long, None, [[TEXTS[0]]])[0]
    mark = text[3:5]
    (cut,) = answer_batch(llama, make_prompt(PromptSpec(max_new_tokens=12, stop=[mark]), llama), None, [[TEXTS[0]]])[0]
    assert cut == text.split(mark)[0].strip()


def test_packed_loss_equals_unpacked(llama):
    prompt = make_prompt(PromptSpec(), llama)
    visual = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(1))
    pairs = [
        (tuple(prompt.question(llama, q)), tuple(prompt.answer(llama, a)))
        for q, a in zip(TEXTS, ("yes", "red", "2", "a bird", "so"), strict=True)
    ]
    items = [Item(0, 0, tuple(pairs[:3])), Item(0, 1, tuple(pairs[3:]))]
    packed = packed_loss(llama, prompt, visual, items)
    total = count = 0.0
    for b, item in enumerate(items):
        for p, a in item.questions:
            ids = torch.tensor([*p, *a])
            x = torch.cat([llama.embed(torch.tensor(prompt.head)), visual[b], llama.embed(ids)])[None]
            logits = llama.model(inputs_embeds=x).logits[0]
            total += torch.nn.functional.cross_entropy(logits[-len(a) - 1 : -1], torch.tensor(a), reduction="sum").item()
            count += len(a)
    assert packed.item() == pytest.approx(total / count, rel=1e-5)


def _features(n=6, tokens=4, dim=5) -> FeatureSet:
    g = np.random.default_rng(0)
    return FeatureSet(
        g.normal(size=(n, dim)),
        (3 * g.normal(size=(n, tokens, dim)) + 1).astype(np.float16),
        tuple(map(str, range(n))),
        (2, 2),
        "k",
        False,
    )


def _recipe(**more) -> RecipeCard:
    return RecipeCard(name="r", data=[], epochs=6, images_per_batch=2, lr=5e-3, **more)


def test_only_the_connector_learns_and_it_is_kept(llama, tmp_path):
    prompt, features = make_prompt(PromptSpec(), llama), _features()
    pair = (tuple(prompt.question(llama, TEXTS[0])), tuple(prompt.answer(llama, "yes")))
    items = [Item(0, i, (pair,)) for i in range(6)]
    before = llama.sha256
    args = (llama, prompt, _recipe(), [features], items, {"a": 1}, tmp_path, torch.device("cpu"), 0, Progress(quiet=True))
    net, notes, hit = train(*args)
    assert not hit and notes["connector_loss"][-1] < 0.8 * notes["connector_loss"][0] and notes["connector_steps"] == 18
    from levl_eval.backbones.common import hash_weights

    assert hash_weights(llama.model) == before
    flat = features.patches.astype(np.float32).reshape(-1, 5)
    assert np.allclose(net.mean, flat.mean(0), atol=1e-3) and np.allclose(net.std, flat.std(0), atol=1e-3)
    again, notes2, hit = train(*args)
    assert (
        hit
        and notes2 == notes
        and all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
    )
    other = train(*args[:5], {"a": 2}, *args[6:])
    assert not other[2] and torch.equal(other[0].map[0].weight, net.map[0].weight)  # same seed, same result


def test_an_interrupted_training_goes_on(llama, tmp_path, monkeypatch):
    import levl_eval.vlm.training as training

    prompt, features = make_prompt(PromptSpec(), llama), _features()
    pair = (tuple(prompt.question(llama, TEXTS[1])), tuple(prompt.answer(llama, "red")))
    items = [Item(0, i, (pair,)) for i in range(6)]

    def args(folder):
        return (llama, prompt, _recipe(), [features], items, {}, folder, torch.device("cpu"), 0, Progress(quiet=True))

    whole = train(*args(tmp_path / "a"))[0]
    clock = iter(range(0, 10**6, 40))
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))  # a state is kept after every step
    calls = 0
    original = training.packed_loss

    def dies(*a):
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return original(*a)

    monkeypatch.setattr(training, "packed_loss", dies)
    with pytest.raises(KeyboardInterrupt):
        train(*args(tmp_path / "b"))
    resumed = train(*args(tmp_path / "b"))[0]
    assert calls == 8 + 18 - 7
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True))
    assert not list((tmp_path / "b").rglob("*.state.pt"))


def test_connector_files(tmp_path):
    net = Connector(ConnectorSpec(), 5, 7, 0.3)
    connectors.save(tmp_path / "c.safetensors", net, {"llm": "x"})
    back, meta = connectors.load(tmp_path / "c.safetensors", ConnectorSpec(), 5, 7, {"llm": "x"})
    x = torch.randn(2, 3, 5)
    assert meta == {"llm": "x"} and torch.equal(back(x), net(x))
    with pytest.raises(UsageError, match="trained for another llm"):
        connectors.load(tmp_path / "c.safetensors", ConnectorSpec(), 5, 7, {"llm": "y"})
    with pytest.raises(UsageError, match="shapes differ"):
        connectors.load(tmp_path / "c.safetensors", ConnectorSpec(), 6, 7)
    (tmp_path / "c.safetensors").write_bytes(b"junk")
    with pytest.raises(UsageError, match="no readable connector"):
        connectors.load(tmp_path / "c.safetensors", ConnectorSpec(), 5, 7)


def test_visual_tokens_start_at_the_size_of_words():
    torch.manual_seed(0)
    out = Connector(ConnectorSpec(), 64, 96, 0.05)(torch.randn(50, 4, 64))
    assert 0.02 < out.pow(2).mean().sqrt() < 0.12


def test_bad_prompts_answers_models_and_contexts(llama, tmp_path):
    for template in ("{question}", "{image} {image} {question}", "{question}{image}"):
        with pytest.raises(UsageError, match=r"prompt\.template"):
            make_prompt(PromptSpec(template=template), llama)
    prompt = make_prompt(PromptSpec(), llama)
    with pytest.raises(UsageError, match="answer is empty"):
        prompt.answer(llama, "  ")
    with pytest.raises(UsageError, match="exceed its context of 256"):
        answer_batch(llama, prompt, torch.zeros(1, 250, 32), [[TEXTS[0]]])
    pair = (tuple(prompt.question(llama, "x")), tuple(prompt.answer(llama, "y")))
    with pytest.raises(UsageError, match="it has 256"):
        train(
            llama,
            prompt,
            _recipe(),
            [_features(tokens=300)],
            [Item(0, 0, (pair,))],
            {},
            tmp_path,
            torch.device("cpu"),
            0,
            Progress(quiet=True),
        )
    with pytest.raises(UsageError, match="did you mean scenes-lm"):
        load_language_model("scene-lm")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError) as e:
        load_language_model(str(tmp_path / "empty"))
    assert "\n" not in str(e.value)


def test_answers_never_merge_with_the_prompt(llama):
    prompt = make_prompt(PromptSpec(), llama)
    whole = llama.tokenizer.decode([*prompt.question(llama, TEXTS[0]), *prompt.answer(llama, "cat")[:-1]])
    assert whole == f"\nQuestion: {TEXTS[0]}\nAnswer: cat"


def test_embedded_model_reads_and_has_a_floor():
    """The shipped model answers what it reads far above what it answers without reading; no picture is involved."""
    from transformers import LlamaForCausalLM

    from levl_eval.registry import ASSETS
    from levl_eval.vlm.scenes_lm import accuracy

    folder = ASSETS / "scenes-lm"
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    table = accuracy(model, Tokenizer.from_file(str(folder / "tokenizer.json")), 12, seed=5)
    assert table["reading"].value > table["text-only"].value + 0.25
    assert table["reading/exist"].value > 0.95
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"


def test_training_text_masks_questions_from_each_other():
    from levl_eval.vlm.scenes_lm import block_mask
    from levl_eval.vlm.scenes_text import corpus, make_example, pack, train_tokenizer

    tok = train_tokenizer(corpus(60), 500)
    batch = pack([make_example(i) for i in range(3)], tok, blind=frozenset({2}))
    m = block_mask(torch.from_numpy(batch.block))[:, 0]
    i, j = (batch.block[0] == 1).nonzero()[0], (batch.block[0] == 2).nonzero()[0]
    d = (batch.block[0] == 0).nonzero()[0]
    assert not m[0][j][:, i].any() and m[0][j][:, d].all() and not m[0][d][:, j].any()
    assert batch.positions[0][i[0]] == batch.positions[0][j[0]] == len(d)
    asked = batch.weights[0] == 1.0
    assert asked.sum() >= 2 * len(make_example(0).questions)  # each answer has a word and its end
    assert (batch.block[2] == 0).sum() == 1
