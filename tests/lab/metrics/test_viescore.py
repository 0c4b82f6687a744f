import math

import pytest

from nmg.lab import metrics
from nmg.lab.metrics.viescore import scores

PROMPTS = ["a blue cat", "a dog"]


def test_the_score_is_the_geometric_mean_of_the_smaller_judgements(pair, monkeypatch):
    asked = []

    def answer(self, pictures, question):
        asked.append((len(pictures), question))
        return '{"score": [9, 4]}' if len(pictures) == 2 else 'Sure: {"score": [8, 9]}'

    monkeypatch.setattr(metrics.VieScore, "answer", answer)
    found = metrics.VieScore()(*pair, PROMPTS)
    assert found.tolist() == pytest.approx([math.sqrt(4 * 8)] * 2)
    assert [count for count, _ in asked] == [2, 1, 2, 1] and "a blue cat" in asked[0][1]


@pytest.mark.parametrize("answer", ["", "seven", '{"score": [7]}', '{"score": [7, 11]}', '{"other": [1, 2]}'])
def test_an_answer_without_scores_is_said(answer):
    with pytest.raises(metrics.Unreadable, match="the judge gave"):
        scores(answer)


def test_without_its_weights_it_is_missing(pair):
    with pytest.raises(metrics.Missing, match="VIEScore can't .* 'Qwen/Qwen2.5-VL-7B-Instruct'; HF_HUB_OFFLINE"):
        metrics.VieScore(device="cpu")(*pair, PROMPTS)
