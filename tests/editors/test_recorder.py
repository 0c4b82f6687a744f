import dataclasses

import pytest
import torch
from torch.testing import assert_close

from nmg import (
    CFG,
    Editor,
    LocalBlend,
    MasaCtrl,
    NoiseMap,
    Pix2PixZero,
    PromptToPrompt,
    Watching,
    denoise,
    edit,
    prepare,
)
from nmg.alignment import find, tokenize
from nmg.attention import probabilities
from nmg.inversion import rise

SOURCE = "a red cat sitting in the forest, front view"
BLUE, DOG = SOURCE.replace("red", "blue"), SOURCE.replace("cat", "dog")

EDITORS = [
    Editor(),
    PromptToPrompt(local_blend=LocalBlend(("cat", "cat", "dog"), start=0)),
    MasaCtrl(start_step=1),
    Pix2PixZero(),
]


@pytest.mark.parametrize("editor", EDITORS, ids=lambda editor: type(editor).__name__)
def test_watching_changes_nothing(sample, editor):
    watched, plain = (sample((BLUE, DOG), NoiseMap(), given) for given in (Watching(editor), editor))
    assert_close(watched, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("editor", EDITORS, ids=lambda editor: type(editor).__name__)
def test_every_step_has_the_maps_of_all_rows_and_tokens(sample, editor):
    watching = Watching(editor)
    sample((BLUE, DOG), editor=watching)
    assert [maps.shape for maps in watching.seen] == [(3, 8, 8, 24)] * 4
    for maps in watching.seen:
        assert_close(maps.sum(-1), torch.ones(3, 8, 8))
    assert [tokens.prompt for tokens in watching.prompts] == [SOURCE, BLUE, DOG]


def test_the_maps_are_the_text_halfs_mean_over_layers_and_heads(backbone, trajectory):
    run, watching, layers = prepare(backbone, trajectory, [BLUE]), Watching(Editor()), []
    next(denoise(run, CFG(), watching))

    def attend(site, q, k, v):
        if site.is_cross and q.shape[2] == 64:
            layers.append(probabilities(q, k)[2:].mean(1).unflatten(1, (8, 8)))

    text = torch.cat([run.null, run.text])
    run.eps(torch.cat([run.start, run.start]), run.steps[0], text, attend)
    assert len(layers) == 4
    assert_close(watching.seen[0], torch.stack(layers).mean(0).float(), rtol=1e-3, atol=1e-5)


def test_rows_are_watched_before_the_editor_changes_them(sample):
    watching = Watching(PromptToPrompt(mode="replace", cross_replace=1, self_replace=0))
    sample((DOG,), editor=watching)
    # Changed, the target's maps would be the source's.
    assert (watching.seen[0][1] - watching.seen[0][0]).abs().max() > 1e-3


def test_a_words_looks_are_the_mean_over_the_steps(sample, backbone):
    watching = Watching(PromptToPrompt())
    sample((BLUE, DOG), editor=watching)
    mean = torch.stack(watching.seen).mean(0)
    for row, (prompt, words) in enumerate(((SOURCE, "red cat"), (BLUE, "blue"), (DOG, "dog"))):
        looks = watching.looks(words, row)
        assert looks.shape == (8, 8)
        assert_close(looks, mean[row][..., find(words, tokenize(prompt, backbone.tokenizer))].sum(-1))
    assert_close(watching.looks("cat"), watching.looks("cat", 0))


def test_a_second_run_starts_anew(sample, backbone, trajectory):
    watching, fresh = Watching(Editor()), Watching(Editor())
    sample((BLUE, DOG), editor=watching)
    sample((DOG,), editor=watching)
    sample((DOG,), editor=fresh)
    assert_close(torch.stack(watching.seen), torch.stack(fresh.seen))
    assert [tokens.prompt for tokens in watching.prompts] == [SOURCE, DOG]

    next(denoise(prepare(backbone, trajectory), CFG(), watching))
    assert [maps.shape for maps in watching.seen] == [(1, 8, 8, 24)]


@pytest.mark.parametrize(("size", "quarter"), [((12, 20), (6, 10)), ((9, 17), (5, 9))])
def test_latents_that_are_not_square_can_be_watched(backbone, size, quarter):
    latents = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(0))
    watching = Watching(PromptToPrompt())
    list(denoise(prepare(backbone, rise(backbone, latents, SOURCE, 2), [BLUE]), CFG(), watching))
    assert watching.looks("cat", 1).shape == backbone.word_map_size(size) == quarter


def test_every_kind_of_model_can_be_watched(any_model, picture):
    watching = Watching(PromptToPrompt())
    edit(any_model, picture, SOURCE, [BLUE], editor=watching, steps=1, progress=False)
    assert watching.looks("blue", 1).isfinite().all() and watching.looks("blue", 1).min() > 0


def test_an_edit_that_is_watched_takes_the_editors_negative_prompt(tiny, trajectory):
    given = {"targets": [BLUE], "guidance": CFG(), "progress": False}
    watched, plain = (
        edit(tiny(), trajectory, editor=editor, **given) for editor in (Watching(Pix2PixZero()), Pix2PixZero())
    )
    assert_close(watched.latents, plain.latents, rtol=1e-3, atol=1e-3)
    assert Watching(Pix2PixZero()).negative(SOURCE) == SOURCE and Watching(Editor()).negative(SOURCE) == ""


def test_an_edit_that_is_watched_takes_the_editors_targets():
    assert Watching(Pix2PixZero(("cat", "dog"))).targets(SOURCE) == (DOG,)
    assert Watching(PromptToPrompt()).targets(SOURCE) == ()


# ---------------------------------------------------------------- errors


def test_looks_before_a_run_are_an_error():
    with pytest.raises(RuntimeError, match=r"nothing was watched yet; give this editor to nmg\.edit"):
        Watching(Editor()).looks("cat")


def test_a_word_that_the_rows_prompt_does_not_hold_is_an_error(sample):
    watching = Watching(Editor())
    sample((BLUE,), editor=watching)
    with pytest.raises(ValueError, match="'red' does not occur in the prompt .* its words are a, blue"):
        watching.looks("red", 1)


def test_the_editors_own_check_is_asked(tiny, picture, monkeypatch):
    monkeypatch.setattr("nmg.sampling.invert", lambda *_, **__: pytest.fail("it was inverted"))
    watching = Watching(MasaCtrl(words=("cat", "zebra")))
    with pytest.raises(ValueError, match="'zebra' does not occur"):
        edit(tiny(), picture, SOURCE, [BLUE], editor=watching, progress=False)


def test_the_editor_can_not_be_exchanged():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Watching(Editor()).editor = PromptToPrompt()
