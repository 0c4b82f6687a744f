import pytest

from nmg.lab import metrics


def test_tifa_is_the_packages(packages, pair):
    question = dict(question="is there a cat?", choices=["yes", "no"], answer="yes")
    questions = [[question], [question, {**question, "question": "is it red?"}]]
    assert metrics.Tifa("vilt")(pair[0], questions).tolist() == [0.25, 0.5]
    assert packages == [
        ("VILT", (80, 64), ["is there a cat?"]),
        ("VILT", (80, 64), ["is there a cat?", "is it red?"]),
    ]
    assert "free_form_vqa" not in question
    with pytest.raises(ValueError, match="2 pictures and 1 for lists of questions"):
        metrics.Tifa("vilt")(pair[0], questions[:1])
    with pytest.raises(ValueError, match="no question"):
        metrics.Tifa("vilt")(pair[0], [[], [question]])
