import pytest
import torch
from torch.testing import assert_close

from nmg import (
    CFG,
    AttentionRecorder,
    Editor,
    LocalBlend,
    MasaCtrl,
    NoiseMap,
    Pix2PixZero,
    PromptToPrompt,
    denoise,
    edit,
    prepare,
)
from nmg.alignment import find, tokenize
from nmg.attention import probabilities
from nmg.inversion import rise
from nmg.run import hooks

SOURCE = "a red cat sitting in the forest, front view"
BLUE, DOG = SOURCE.replace("red", "blue"), SOURCE.replace("cat", "dog")

EDITORS = [
    Editor(),
    PromptToPrompt(local_blend=LocalBlend(("cat", "cat", "dog"), start=0)),
    MasaCtrl(start_step=1),
    Pix2PixZero(),
]


@pytest.fixture
def recorded(backbone, trajectory):
    """The attention maps of an edit."""

    def recorded(editor, *targets):
        given = {"guidance": NoiseMap(), "progress": False}
        return edit(backbone, trajectory, targets=targets, editor=editor, attention=True, **given).attention

    return recorded


@pytest.mark.parametrize("editor", EDITORS, ids=lambda editor: type(editor).__name__)
def test_recording_changes_nothing(sample, editor):
    recorded, plain = (
        sample((BLUE, DOG), NoiseMap(noise_map_scale=10.0), given) for given in (AttentionRecorder(editor), editor)
    )
    assert_close(recorded, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("editor", EDITORS, ids=lambda editor: type(editor).__name__)
def test_every_step_has_the_maps_of_all_rows_and_tokens(recorded, editor):
    maps = recorded(editor, BLUE, DOG)
    assert maps.steps.shape == (4, 3, 8, 8, 24)
    assert_close(maps.steps.sum(-1), torch.ones(4, 3, 8, 8))
    assert [tokens.prompt for tokens in maps.tokens] == [SOURCE, BLUE, DOG]


def test_along_a_direction_every_row_reads_the_source_prompt(recorded, backbone):
    sides = ("a cat", "a cat in the forest"), ("a dog", "a dog in the forest")
    maps = recorded(Pix2PixZero(sides))
    assert [tokens.prompt for tokens in maps.tokens] == [SOURCE, SOURCE]


def test_the_maps_are_the_text_halfs_mean_over_layers_and_heads(backbone, trajectory):
    run, recorder, layers = prepare(backbone, trajectory, [BLUE]), AttentionRecorder(Editor()), []
    next(denoise(run, CFG(), recorder))

    def attend(site, q, k, v, mask):
        if site.is_cross and q.shape[2] == 64:
            layers.append(probabilities(q, k)[2:].mean(1).unflatten(1, (8, 8)))

    text = torch.cat([run.null, run.text])
    run.predict(torch.cat([run.start, run.start]), run.steps[0], text, attend)
    assert len(layers) == 4
    assert_close(recorder.maps(run).steps[0], torch.stack(layers).mean(0).float(), rtol=1e-3, atol=1e-5)


def test_maps_are_recorded_before_the_editor_changes_them(recorded):
    first = recorded(PromptToPrompt(mode="replace", cross_replace=1, self_replace=0), DOG).steps[0]
    # Changed, the target's maps would be the source's.
    assert (first[1] - first[0]).abs().max() > 1e-3


def test_a_words_map_is_the_mean_over_the_steps(recorded, backbone):
    maps = recorded(PromptToPrompt(), BLUE, DOG)
    for row, (prompt, words) in enumerate(((SOURCE, "red cat"), (BLUE, "blue"), (DOG, "dog"))):
        positions = find(words, tokenize(prompt, backbone.tokenizer))
        assert_close(maps.of(words, row), maps.steps.mean(0)[row][..., positions].sum(-1))
    assert_close(maps.of("cat"), maps.of("cat", 0))


@pytest.mark.parametrize(("size", "quarter"), [((12, 20), (6, 10)), ((9, 17), (5, 9))])
def test_latents_that_are_not_square_have_maps(backbone, size, quarter):
    latents = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(0))
    run, recorder = prepare(backbone, rise(backbone, latents, SOURCE, 2), [BLUE]), AttentionRecorder(PromptToPrompt())
    list(denoise(run, CFG(), recorder))
    assert recorder.maps(run).of("cat", 1).shape == backbone.word_map_size(size) == quarter


def test_every_kind_of_model_has_maps(any_model, picture):
    maps = edit(any_model, picture, SOURCE, [BLUE], attention=True, steps=1, progress=False).attention
    assert maps.of("blue", 1).isfinite().all() and maps.of("blue", 1).min() > 0


def test_a_recorder_is_its_editor_in_every_hook():
    assert (
        AttentionRecorder(Pix2PixZero()).negative(SOURCE) == SOURCE and AttentionRecorder(Editor()).negative("") == ""
    )
    assert AttentionRecorder(Pix2PixZero(("cat", "dog"))).targets(SOURCE) == (DOG,)
    own = {"copies", "source_noise", "attend"}
    for name in set(hooks(Editor)) - own:
        assert getattr(AttentionRecorder, name) is not getattr(Editor, name), name


def test_a_word_that_the_rows_prompt_does_not_hold_is_an_error(recorded):
    with pytest.raises(ValueError, match="'red' does not occur in the prompt .* its words are a, blue"):
        recorded(Editor(), BLUE).of("red", 1)
