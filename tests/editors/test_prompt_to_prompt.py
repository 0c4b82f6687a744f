import dataclasses
import math

import pytest
import torch
from torch.testing import assert_close

from nmg import (
    CFG,
    Backbone,
    Editor,
    LocalBlend,
    NoiseMap,
    PromptToPrompt,
    Request,
    Trajectory,
    denoise,
    edit,
    prepare,
    steps,
)
from nmg.alignment import find, refinement, replacement, replacement_by_authors, tokenize
from nmg.attention import Site, attention
from nmg.editors.prompt_to_prompt import otsu

SOURCE = "a red cat sitting in the forest, front view"
BLUE, DOG, SMILING = (
    SOURCE.replace("red", "blue"),
    SOURCE.replace("cat", "dog"),
    SOURCE.replace("red cat", "smiling red cat"),
)
CROSS, SELF = Site("cross", "up", True, 0), Site("self", "up", False, 0)


@pytest.fixture
def run(backbone, trajectory):
    """Of a source and two targets."""
    return prepare(backbone, trajectory, [BLUE, SMILING])


def heads(positions, keys, rows=6, seed=0):
    """Random queries, keys and values of a run's doubled rows."""
    random = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(rows, 2, n, 8, generator=random) for n in (positions, keys, keys))


# ---------------------------------------------------------------- the identity


def test_the_base_editor_changes_nothing(run):
    editor, step, x = Editor().prepare(run), run.steps[0], run.start
    assert editor.attend(run, step) is None
    assert editor.steer(run, step, x, run.text) is x and editor.blend(run, step, x) is x


@pytest.mark.parametrize("guidance", [CFG(), NoiseMap()])
def test_prompt_to_prompt_over_no_steps_changes_nothing(sample, guidance):
    nothing = PromptToPrompt(cross_replace=0, self_replace=0)
    assert_close(sample((BLUE,), guidance, nothing), sample((BLUE,), guidance, Editor()))


def test_prompt_to_prompt_without_a_target_changes_nothing(sample):
    assert_close(sample((), editor=PromptToPrompt(cross_replace=1, self_replace=1)), sample((), editor=Editor()))


@pytest.mark.parametrize("editor", [Editor(), PromptToPrompt(), PromptToPrompt(cross_replace=1, self_replace=1)])
def test_a_target_with_the_sources_prompt_is_the_source(sample, editor):
    source, target = sample((SOURCE,), editor=editor)
    assert_close(target, source, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "editor", [PromptToPrompt(), PromptToPrompt(cross_replace=1, self_replace=1, weights={"blue": 4})]
)
def test_the_source_row_takes_nothing_from_the_targets(sample, editor):
    assert_close(sample((BLUE, SMILING), editor=editor)[0], sample(())[0], rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- what it changes


@pytest.mark.parametrize(
    "on", [{"cross_replace": 1.0}, {"self_replace": 1.0}, {"cross_replace": 0.5}, {"self_replace": 0.5}], ids=str
)
@pytest.mark.parametrize("target", [BLUE, SMILING])
def test_each_kind_of_attention_taken_over_changes_the_target(sample, on, target):
    off = {"cross_replace": 0.0, "self_replace": 0.0}
    assert (sample((target,), editor=PromptToPrompt(**{**off, **on})) - sample((target,)))[1].abs().max() > 1e-2


def test_the_aligned_map_and_the_authors_differ_where_a_word_changes_its_length(sample):
    target = SOURCE.replace("red", "maroon")
    aligned, by_authors = (
        sample((target,), editor=PromptToPrompt(word_map=word_map)) for word_map in ("aligned", "authors")
    )
    assert (aligned - by_authors)[1].abs().max() > 1e-3


def test_a_weight_of_1_changes_nothing_and_another_weight_does(sample):
    plain, same, more = (
        sample((BLUE,), editor=PromptToPrompt(weights=weights)) for weights in ({}, {"blue": 1}, {"blue": 5})
    )
    assert torch.equal(same, plain)
    assert (more - plain)[1].abs().max() > 1e-3


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"self_replace": (0.2, 0.9)},
        {"weights": {"blue": 3, "smiling": -1}},
        {"cross_replace": {"default_": 0.9, "dog": 0.3}},
        {"local_blend": True},
    ],
    ids=str,
)
def test_several_targets_together_are_the_same_as_each_alone(sample, options):
    def editor(targets):
        words = [word for target in targets for word in target.split()]
        own = dict(options)
        for name in ("weights", "cross_replace"):
            own = (
                {**own, name: {w: v for w, v in own[name].items() if w in (*words, "default_")}} if name in own else own
            )
        if own.get("local_blend"):
            own["local_blend"] = LocalBlend(
                ["cat", *("dog" if "dog" in target else "cat" for target in targets)], start=0
            )
        return PromptToPrompt(**own)

    targets = (BLUE, DOG, SMILING)
    together = sample(targets, editor=editor(targets))
    for row, target in enumerate(targets, 1):
        alone = sample((target,), editor=editor((target,)))
        assert_close(together[row], alone[1], rtol=1e-5, atol=1e-5)


def test_an_editor_can_be_used_again_with_the_same_result(sample):
    editor = PromptToPrompt(weights={"blue": 2}, local_blend=LocalBlend(["cat", "cat"], start=0))
    assert torch.equal(sample((BLUE,), editor=editor), sample((BLUE,), editor=editor))
    with pytest.raises(dataclasses.FrozenInstanceError):
        editor.self_replace = 0.1


# ---------------------------------------------------------------- the arithmetic of attention


def test_the_null_half_and_the_source_row_are_never_edited(run):
    attend = PromptToPrompt(cross_replace=1, self_replace=1, weights={"blue": 3}).prepare(run).attend(run, run.steps[0])
    for site, keys in ((CROSS, 24), (SELF, 16)):
        q, k, v = heads(16, keys)
        out, plain = attend(site, q, k, v), attention(q, k, v)
        assert_close(out[:4], plain[:4])
        assert (out[4:] - plain[4:]).abs().amax((1, 2, 3)).min() > 1e-3


def test_self_attention_of_the_targets_looks_where_the_source_looks(run):
    q, k, v = heads(16, 16)
    out = PromptToPrompt(self_replace=1).prepare(run).attend(run, run.steps[0])(SELF, q, k, v)
    assert_close(out[4:], attention(q[3:4].expand(2, -1, -1, -1), k[3:4].expand(2, -1, -1, -1), v[4:]))


def test_fine_self_attention_stays_the_targets_own(run):
    q, k, v = heads(17, 17)
    attend = PromptToPrompt(self_replace=1, self_positions=16).prepare(run).attend(run, run.steps[0])
    assert attend(SELF, q, k, v) is None


def edited(run, editor, maps):
    return editor.prepare(run).edited(maps, torch.ones(len(maps) - 1, maps.shape[-1]))


@pytest.mark.parametrize("factor", [1.0, 3.0, -0.5])
def test_a_replaced_word_takes_its_source_words_attention_times_its_weight(backbone, trajectory, factor):
    run = prepare(backbone, trajectory, [BLUE])
    maps = torch.rand(2, 2, 9, 24).softmax(-1)
    out = edited(run, PromptToPrompt(weights={"blue": factor}), maps)
    tokens = tokenize(BLUE, backbone.tokenizer)
    (blue,) = find("blue", tokens)
    others = [j for j in range(24) if j != blue]
    assert_close(out[1, ..., blue], factor * maps[0, ..., blue])
    assert_close(out[1, ..., others], maps[0, ..., others])
    assert torch.equal(out[0], maps[0])


def test_an_added_word_keeps_its_own_attention(backbone, trajectory):
    run = prepare(backbone, trajectory, [SMILING])
    maps = torch.rand(2, 2, 9, 24).softmax(-1)
    out, tokens = edited(run, PromptToPrompt(), maps), tokenize(SMILING, backbone.tokenizer)
    (smiling,), (cat,) = find("smiling", tokens), find("cat", tokens)
    assert_close(out[1, ..., smiling], maps[1, ..., smiling])
    assert_close(out[1, ..., cat], maps[0, ..., cat - 1])


def test_outside_their_steps_words_keep_their_own_attention(run):
    editor = PromptToPrompt(cross_replace={"default_": 1, "blue": (0, 0)}).prepare(run)
    maps = torch.rand(3, 2, 9, 24).softmax(-1)
    out = editor.edited(maps, editor.active[0])
    (blue,) = find("blue", tokenize(BLUE, run.backbone.tokenizer))
    assert_close(out[1, ..., blue], maps[1, ..., blue])
    assert_close(out[1, ..., :blue], maps[0, ..., :blue])


# ---------------------------------------------------------------- prompts and steps


@pytest.mark.parametrize(("target", "align"), [(BLUE, replacement), (DOG, replacement), (SMILING, refinement)])
def test_equally_many_words_are_replaced_and_others_refined(backbone, target, align):
    source, target = (tokenize(prompt, backbone.tokenizer) for prompt in (SOURCE, target))
    chosen, expected = PromptToPrompt().correspondence(source, target), align(source, target)
    assert_close((chosen.weights, chosen.kept), (expected.weights, expected.kept))


def test_a_mode_that_is_given_is_followed(backbone):
    source, target = (tokenize(prompt, backbone.tokenizer) for prompt in (SOURCE, BLUE))
    assert_close(PromptToPrompt(mode="refine").correspondence(source, target).kept, refinement(source, target).kept)
    by_authors = PromptToPrompt(mode="replace", word_map="authors").correspondence(source, target)
    assert_close(by_authors.weights, replacement_by_authors(source, target).weights)


def test_replacing_words_of_unequal_number_is_refused(sample):
    with pytest.raises(ValueError, match='use mode="refine"'):
        sample((SMILING,), editor=PromptToPrompt(mode="replace"))


def test_each_word_has_its_own_steps(backbone):
    targets = [tokenize(prompt, backbone.tokenizer) for prompt in (BLUE, DOG)]
    active = PromptToPrompt(cross_replace={"default_": 0.8, "blue": (0.2, 0.5), "cat": 0.3}).schedule(targets, 10)
    (blue,), (cat,), (forest,) = (find(word, targets[0]) for word in ("blue", "cat", "forest"))
    assert active.shape == (10, 2, 24)
    assert active[:, 0, forest].tolist() == [1] * 8 + [0] * 2
    assert active[:, 0, blue].tolist() == [0] * 2 + [1] * 3 + [0] * 5
    assert active[:, 0, cat].tolist() == [1] * 3 + [0] * 7
    assert active[:, 1, cat].tolist() == [1] * 8 + [0] * 2


def test_self_attention_is_taken_over_in_its_window_alone(run):
    editor = PromptToPrompt(cross_replace=0, self_replace=(0.25, 0.75)).prepare(run)
    q, k, v = heads(16, 16)
    attends = [editor.attend(run, step) for step in run.steps]
    # Nothing else is edited, so that outside of the window the network is left alone.
    assert attends[0] is attends[3] is None
    assert all(attend(SELF, q, k, v) is not None for attend in attends[1:3])


@pytest.mark.parametrize("window", [1.2, -0.1, math.nan, math.inf, (0.8, 0.2), (0, 0.5, 1), (-1, 1), (0.5,)], ids=str)
@pytest.mark.parametrize("name", ["cross_replace", "self_replace"])
def test_a_window_that_is_no_part_of_the_steps_is_refused(name, window, unchecked):
    with pytest.raises(ValueError, match=f"{name}=.* is no part of the steps"):
        PromptToPrompt(**{name: window})


def test_a_words_window_that_is_no_part_of_the_steps_is_refused():
    with pytest.raises(ValueError, match="blue=7 is no part of the steps"):
        PromptToPrompt(cross_replace={"blue": 7})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "swap"}, "replace, refine and None work"),
        ({"word_map": "odd"}, "aligned and authors work"),
        ({"weights": {"blue": math.nan}}, "weight of 'blue' is nan"),
        ({"weights": {"blue": math.inf}}, "give a finite number"),
        ({"self_positions": 0}, "self_positions=0 leaves no self-attention"),
    ],
    ids=str,
)
def test_settings_that_can_not_be_used_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PromptToPrompt(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"weights": {"zebra": 2}},
        {"cross_replace": {"zebra": 0.5}},
        {"local_blend": LocalBlend(["cat", "zebra"])},
        {"local_blend": LocalBlend(["zebra", "cat"])},
        {"local_blend": LocalBlend(["cat", "cat"], subtract=["zebra", "cat"])},
        {"local_blend": LocalBlend([["cat", "zebra"], "cat"])},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_word_that_its_prompt_does_not_hold_is_an_error_that_lists_the_words(sample, options):
    with pytest.raises(ValueError, match="'zebra' does not occur in the prompt .* its words are a, .*cat"):
        sample((BLUE,), editor=PromptToPrompt(**options))


def test_a_layout_that_no_layer_holds_is_refused(sample):
    with pytest.raises(ValueError, match=r"self_positions=1 is less than the \d+ of the smallest layer"):
        sample((BLUE,), editor=PromptToPrompt(self_positions=1))


def test_a_word_of_one_target_need_not_stand_in_the_others(sample):
    assert sample((BLUE, SMILING), editor=PromptToPrompt(weights={"smiling": 2})).isfinite().all()


# ---------------------------------------------------------------- local blend


def blended(backbone, trajectory, blend, targets=(BLUE,)):
    """The final latents and the last mask of a run with a local blend."""
    run = prepare(backbone, trajectory, list(targets))
    running = PromptToPrompt(local_blend=blend).prepare(run)
    *_, (_, x) = denoise(run, CFG(), running)
    return x, running.blending.mask(run.latent_size)


def test_a_blend_everywhere_changes_nothing(backbone, trajectory, sample):
    x, mask = blended(backbone, trajectory, LocalBlend(["cat", "cat"], threshold=0.0, start=0))
    assert mask.all()
    assert_close(x, sample((BLUE,), editor=PromptToPrompt()), rtol=1e-4, atol=1e-4)


def test_a_blend_nowhere_is_the_source(backbone, trajectory):
    x, mask = blended(backbone, trajectory, LocalBlend(["cat", "cat"], threshold=1.0, start=0))
    assert not mask.any()
    assert torch.equal(x[1], x[0])


def test_outside_of_the_mask_the_target_is_the_source(backbone, trajectory):
    x, mask = blended(backbone, trajectory, LocalBlend(["cat", "cat"], threshold=0.8))
    outside = ~mask.expand_as(x)
    assert outside[1].any() and mask[1].any()
    assert torch.equal(x[1][outside[1]], x[0][outside[1]])
    assert (x[1] - x[0])[~outside[1]].abs().max() > 1e-3


def test_a_mask_holds_the_places_of_the_source(backbone, trajectory):
    _, mask = blended(backbone, trajectory, LocalBlend(["cat", "cat", "smiling"], threshold=0.8), (BLUE, SMILING))
    assert (mask[1:] | ~mask[:1]).all()


def test_subtracted_words_only_take_places_away(backbone, trajectory):
    run = prepare(backbone, trajectory, [BLUE])
    maps, masks = torch.rand(2, 2, 64, 24, generator=torch.Generator().manual_seed(0)), []
    for subtract in (None, ["forest", "forest"]):
        blend = LocalBlend(["cat", "cat"], subtract, threshold=(0.8, 0.9))
        blending = PromptToPrompt(local_blend=blend).prepare(run).blending
        blending.add(maps)
        masks.append(blending.mask(run.latent_size))
    plain, less = masks
    assert (plain | ~less).all() and 0 < less.sum() < plain.sum()


@pytest.mark.parametrize("size", [(8, 8), (4, 5)], ids=str)
def test_otsus_threshold_parts_the_values_best(size):
    maps = torch.rand(3, 1, *size, generator=torch.Generator().manual_seed(0)) ** 3
    for row, share in zip(maps.flatten(1), otsu(maps).flatten(), strict=True):
        classes = [(row[row <= cut], row[row > cut]) for cut in row.sort().values[:-1]]
        within = [sum(len(part) * part.var(correction=0) for part in parts) for parts in classes]
        best = classes[torch.stack(within).argmin()][1]
        assert torch.equal(row > share * row.max(), row >= best.min())


@pytest.mark.parametrize("figure", [0.2, 0.5, 0.9])
def test_otsus_threshold_keeps_a_figure_that_a_fixed_share_would_cut(figure):
    """A figure whose map is strong in one place: a share of the maximum leaves out the rest of it."""
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[..., 4:12, 5:10] = True
    maps = 0.02 + figure * mask
    maps[0, 0, 6, 6] = 1
    assert torch.equal(maps / maps.amax() > otsu(maps), mask)


@pytest.mark.parametrize(("threshold", "own"), [("otsu", 0.3), (None, "otsu"), (("otsu", 0.9), 0.3)], ids=str)
def test_the_threshold_may_be_found_from_the_map_or_by_the_model(backbone, trajectory, monkeypatch, threshold, own):
    monkeypatch.setattr(backbone, "settings", dataclasses.replace(backbone.settings, blend_threshold=own))
    run = prepare(backbone, trajectory, [BLUE])
    blending = PromptToPrompt(local_blend=LocalBlend(["cat", "cat"], threshold=threshold)).prepare(run).blending
    blending.add(torch.rand(2, 2, 64, 24, generator=torch.Generator().manual_seed(0)))
    pooled = torch.nn.functional.max_pool2d(blending.sums["chosen"], 3, 1, 1)
    above = pooled > otsu(pooled) * pooled.amax((2, 3), keepdim=True)
    small = blending.mask(tuple(above.shape[2:]))
    assert torch.equal(small, above[:1] | above) and 0 < small.float().mean() < 1


def test_without_a_threshold_it_is_the_papers(backbone, trajectory):
    blend = PromptToPrompt(local_blend=LocalBlend(["cat", "cat"]))
    assert blend.prepare(prepare(backbone, trajectory, [BLUE])).blending.thresholds == (0.3, 0.3)


@pytest.mark.parametrize("threshold", [1.5, "half", (0.1, -0.2)], ids=str)
def test_a_threshold_that_is_no_share_is_refused(threshold):
    with pytest.raises(ValueError, match=r'must be a share of the maximum, 0…1, such as 0\.3, or "otsu"'):
        LocalBlend(["cat", "cat"], threshold=threshold)


def test_blending_starts_with_its_step(backbone, trajectory):
    run = prepare(backbone, trajectory, [BLUE])
    equal = [
        torch.equal(x[1], x[0])
        for _, x in denoise(
            run, CFG(), PromptToPrompt(local_blend=LocalBlend(["cat", "cat"], threshold=1.0, start=0.5))
        )
    ]
    assert equal == [False, False, True, True]


def test_phrases_and_several_words_can_be_blended(backbone, trajectory):
    _, both = blended(backbone, trajectory, LocalBlend([["red cat", "forest"], "blue cat"], threshold=0.8))
    assert both.any()


@pytest.mark.parametrize("words", ["cat", ["cat"], ["cat", "cat", "cat"]], ids=str)
def test_blend_words_go_by_prompt(sample, words):
    with pytest.raises(ValueError, match="a local blend go by prompt: give 2 entries"):
        sample((BLUE,), editor=PromptToPrompt(local_blend=LocalBlend(words)))


@pytest.mark.parametrize(
    ("size", "expected"), [((64, 64), (16, 16)), ((96, 64), (24, 16)), ((32, 32), (8, 8)), ((60, 44), (15, 11))]
)
def test_the_blend_looks_at_a_quarter_of_the_latents_size(sd_shaped, size, expected):
    backbone = Backbone(sd_shaped)
    down = steps(backbone.scheduler, 2)
    trajectory = Trajectory(
        torch.zeros(3, 4, *size), (down[1].there, down[1].here, down[0].here), down, SOURCE, backbone.name
    )
    assert backbone.word_map_size(trajectory.latent_size) == expected


# ---------------------------------------------------------------- settings that act in no step

NONE = "leaves none of the 4 steps"
BLEND = ("cat", "cat")


@pytest.mark.parametrize(
    ("editor", "said"),
    [
        ({"cross_replace": 0, "weights": {"cat": 2}}, f"the weight of 'cat' acts .* cross_replace=0 {NONE}"),
        ({"cross_replace": 0.1, "weights": {"cat": 2}}, f"cross_replace=0.1 {NONE}"),
        ({"cross_replace": {"cat": (0.5, 0.5)}, "weights": {"cat": 2}}, "the weight of 'cat' acts"),
        ({"local_blend": LocalBlend(BLEND, start=1)}, f"LocalBlend: start=1 {NONE}"),
        ({"local_blend": LocalBlend(BLEND, threshold=1)}, "no position lies above threshold=1"),
        ({"local_blend": LocalBlend(BLEND, threshold=(0.3, 1.0))}, r"no position lies above threshold=\(0.3, 1.0\)"),
    ],
    ids=str,
)
def test_a_setting_that_would_act_in_no_step_is_refused(backbone, trajectory, editor, said):
    with pytest.raises(ValueError, match=said):
        edit(backbone, trajectory, targets=[BLUE], guidance=CFG(), editor=PromptToPrompt(**editor), progress=False)


@pytest.mark.parametrize(
    ("editor", "said"),
    [
        ({}, []),
        ({"cross_replace": 0, "self_replace": 0}, []),
        ({"cross_replace": 0.1}, ["cross_replace=0.1 holds none of the 4 steps that are sampled"]),
        ({"self_replace": (0.3, 0.4)}, ["self_replace=(0.3, 0.4) holds none of the 4 steps"]),
        ({"cross_replace": {"cat": 0.1}, "self_replace": 0.2}, ["cat=0.1, self_replace=0.2 holds none"]),
    ],
    ids=str,
)
def test_a_share_that_rounds_to_no_step_is_said(backbone, trajectory, editor, said):
    request = Request(trajectory, trajectory.prompt, [BLUE], steps=4)
    found = PromptToPrompt(**editor).remarks(backbone, request)
    assert [words in remark for words, remark in zip(said, found, strict=True)] == [True] * len(said)


def test_a_share_that_ends_before_the_first_step_that_is_sampled_is_said(backbone, trajectory):
    request = Request(trajectory, trajectory.prompt, [BLUE], steps=4, skip=0.5)
    (said,) = PromptToPrompt(cross_replace=0.8, self_replace=(0.25, 0.5)).remarks(backbone, request)
    assert "self_replace=(0.25, 0.5) holds none of the 2 steps that are sampled" in said
    assert PromptToPrompt(cross_replace=0.8, self_replace=(0.25, 0.75)).remarks(backbone, request) == []
