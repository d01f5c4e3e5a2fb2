"""A real trained Llama (260 thousand parameters, llama2.c's layout) converted and used as the frozen language model."""

from __future__ import annotations

import torch

from levl_eval.cards import PromptSpec
from levl_eval.engines.vlm.engine import answer_alone, answer_batch, score_batch
from levl_eval.engines.vlm.language import load_language_model
from levl_eval.engines.vlm.prompts import make_prompt
from levl_eval.engines.vlm.training import train
from tests.engines.vlm.stories import convert
from tests.engines.vlm.test_training import _args, _features, _recipe


def test_a_trained_model_in_another_layout(shared, tmp_path):
    language = load_language_model(str(convert(shared / "stories260k", tmp_path / "llm")))
    start = "Once upon a time, there was a little"
    assert language.tokenizer.decode(language.ids(start)) == start and len(language.ids(start)) < 14
    ids = torch.tensor([[*language.bos, *language.ids(start)]])
    told = language.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
    assert language.tokenizer.decode(told[0], skip_special_tokens=True).startswith(f"{start} girl named")

    # It speaks English: a sentence is far likelier than the same words turned round.
    prompt = make_prompt(PromptSpec(template="{image}{question}", max_new_tokens=12, stop=["."]), language)
    nothing = torch.zeros(1, 0, language.width)
    words = "She went to the park with her mom and they saw a big dog"
    choices = [words, " ".join(words.split()[::-1])]
    forth, back = score_batch(language, prompt, nothing, [["Lily was happy."]], choices)[0][0]
    assert forth > back + 30

    # Seen through a connector: shared prefixes change nothing, and training lowers the loss of the frozen model.
    net, notes, _ = train(*_args(language, tmp_path, _recipe(epochs=20.0, lr=1e-2)))
    assert notes["connector_loss"][-1] < 0.5 * notes["connector_loss"][0]
    visual = net(torch.from_numpy(_features().patches[:2]).float()).detach()
    asked = [["Where is the dog?", "Who?"], ["Is it a big red ball?"]]
    alone = [[answer_alone(language, prompt, v, q) for q in qs] for v, qs in zip(visual, asked, strict=True)]
    assert answer_batch(language, prompt, visual, asked) == alone
    assert len({a for row in alone for a in row}) > 1
