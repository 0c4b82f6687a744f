import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.testing import assert_close

import nmg.editors.masactrl as masactrl
from nmg import CFG, Backbone, Editor, MasaCtrl, denoise, edit, invert, prepare, sampling
from nmg.alignment import find, tokenize
from nmg.attention import Site, attention, probabilities, sites
from tests import families

SOURCE = "a red cat sitting in the forest, front view"
JUMPING, DOG, SIDE = (
    SOURCE.replace("sitting", "jumping"),
    SOURCE.replace("cat", "dog"),
    SOURCE.replace("front", "side"),
)
FULL = {"start_step": 0, "start_layer": 0}
CROSS, SELF = Site("cross", "down", True, 0), Site("self", "up", False, 6)

LEFT, TOP = np.zeros((16, 16), bool), np.zeros((16, 16), bool)
LEFT[:, :6], TOP[:10] = True, True
MASKS = {"source_mask": LEFT, "target_mask": TOP}


def named(options):
    return "+".join(options) or "plain"


@pytest.fixture
def run(backbone, trajectory):
    """Of a source and two targets, on a latent of 16×16."""
    return prepare(backbone, trajectory, [JUMPING, DOG])


def heads(positions=256, keys=None, rows=6, seed=0):
    """Random queries, keys and values of a run's doubled rows."""
    random = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(rows, 2, n, 8, generator=random) for n in (positions, keys or positions, keys or positions)]


def attended(run, q, k, v, **options):
    """What an editor makes of one self-attention layer."""
    return MasaCtrl(**{**FULL, **options}).prepare(run).attend(run, run.steps[0])(SELF, q, k, v)


# ---------------------------------------------------------------- identities


def test_without_a_target_nothing_changes(sample):
    assert torch.equal(sample((), editor=MasaCtrl(**FULL)), sample((), editor=Editor()))


def test_a_target_with_the_sources_prompt_is_the_source(sample):
    source, target = sample((SOURCE,), editor=MasaCtrl(**FULL))
    assert_close(target, source, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, MASKS, {"words": ("cat", "cat", "dog"), "threshold": 0.5}], ids=named)
def test_the_source_row_takes_nothing_from_the_targets(sample, options):
    assert_close(sample((JUMPING, DOG), editor=MasaCtrl(**FULL, **options))[0], sample(())[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, MASKS, {"words": ("red cat", "cat", "dog", "cat"), "threshold": 0.5}], ids=named
)
def test_several_targets_together_are_the_same_as_each_alone(sample, options):
    targets = (JUMPING, DOG, SIDE)
    together = sample(targets, editor=MasaCtrl(**FULL, **options))
    for row, target in enumerate(targets, 1):
        own = {**options, "words": (options["words"][0], options["words"][row])} if "words" in options else options
        assert_close(together[row], sample((target,), editor=MasaCtrl(**FULL, **own))[1], rtol=1e-5, atol=1e-5)


def test_words_at_a_threshold_of_0_hold_everything(sample):
    found = MasaCtrl(**FULL, words=("cat", "cat"), threshold=0)
    assert torch.equal(sample((JUMPING,), editor=found), sample((JUMPING,), editor=MasaCtrl(**FULL)))


@pytest.mark.parametrize("options", [{}, MASKS, {"words": ("cat", "cat")}], ids=named)
def test_an_editor_can_be_used_again_with_the_same_result(sample, options):
    editor = MasaCtrl(**FULL, **options)
    assert torch.equal(sample((JUMPING,), editor=editor), sample((JUMPING,), editor=editor))


# ---------------------------------------------------------------- what it changes


@pytest.mark.parametrize(
    "options", [{}, MASKS, {"words": ("cat", "cat"), "threshold": 0.5}, {"start_layer": None}], ids=named
)
def test_it_changes_the_target_from_its_first_step_on(backbone, trajectory, options):
    run = prepare(backbone, trajectory, [JUMPING])
    editor = MasaCtrl(**{**FULL, "start_step": 2, **options})
    pairs = zip(denoise(run, CFG(), editor), denoise(run, CFG(), Editor()), strict=True)
    changes = [(x - plain)[1].abs().max().item() for (_, x), (_, plain) in pairs]
    assert changes[:2] == [0, 0] and min(changes[2:]) > 1e-3


def test_masks_and_words_each_change_what_is_looked_at(sample):
    plain, masked, worded = (
        sample((JUMPING,), editor=MasaCtrl(**FULL, **options))[1]
        for options in ({}, MASKS, {"words": ("cat", "cat"), "threshold": 0.5})
    )
    for first, second in ((plain, masked), (plain, worded), (masked, worded)):
        assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize(("share", "step"), [(0.0, 0), (0.25, 1), (0.6, 2), (0.7, 3)])
def test_a_start_that_is_a_share_of_the_steps_is_its_step(run, share, step):
    by_share, by_step = (
        [editor.attend(run, at) is not None for at in run.steps]
        for editor in (MasaCtrl(start_step=start).prepare(run) for start in (share, step))
    )
    assert by_share == by_step == [index >= step for index in range(4)]


def test_layers_before_the_first_and_cross_attention_stay_the_networks(run):
    attend = MasaCtrl(start_step=0, start_layer=3).prepare(run).attend(run, run.steps[0])
    changed = [attend(Site("self", "up", False, layer), *heads()) is not None for layer in range(6)]
    assert changed == [False] * 3 + [True] * 3
    assert attend(CROSS, *heads(64, 24)) is None


# ---------------------------------------------------------------- the arithmetic of attention


def test_the_targets_look_at_the_source_with_their_own_queries_half_by_half(run):
    q, k, v = heads()
    out = attended(run, q, k, v)
    for source in (0, 3):
        for row in range(source, source + 3):
            keys, values = k[source : source + 1], v[source : source + 1]
            assert_close(out[row : row + 1], attention(q[row : row + 1], keys, values))


@pytest.mark.parametrize("options", [{}, MASKS], ids=named)
def test_the_null_and_the_text_half_know_nothing_of_each_other(run, options):
    first, second = heads(seed=0), heads(seed=1)
    mixed = [torch.cat([a[:3], b[3:]]) for a, b in zip(first, second, strict=True)]
    out = attended(run, *mixed, **options)
    assert_close(out[:3], attended(run, *first, **options)[:3])
    assert_close(out[3:], attended(run, *second, **options)[3:])


def test_a_target_takes_nothing_of_its_own_but_the_queries(run):
    (q, k, v), (_, other_k, other_v) = heads(seed=0), heads(seed=1)
    for rows in ([1, 2], [4, 5]):
        k[rows], v[rows] = other_k[rows], other_v[rows]
    assert_close(attended(run, q, k, v), attended(run, *heads(seed=0)))


def test_masks_part_foreground_from_background(run):
    q, k, v = heads()
    out = attended(run, q, k, v, **MASKS)
    source, target = (torch.from_numpy(mask).flatten() for mask in (LEFT, TOP))
    # [queries, keys]: foreground sees foreground, background background.
    allowed = target[:, None] == source[None, :]
    for own in (0, 3):
        expected = F.scaled_dot_product_attention(q[own], k[own], v[own])
        assert_close(out[own], expected, rtol=1e-4, atol=1e-4)
        for row in (own + 1, own + 2):
            expected = F.scaled_dot_product_attention(q[row], k[own], v[own], attn_mask=allowed)
            assert_close(out[row], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("inside", [True, False])
def test_a_query_depends_on_nothing_of_the_other_ground(run, inside):
    first, (_, other_k, other_v) = heads(seed=0), heads(seed=1)
    q, k, v = (x.clone() for x in first)
    other = torch.from_numpy(LEFT).flatten() != inside
    k[:, :, other], v[:, :, other] = other_k[:, :, other], other_v[:, :, other]
    same = torch.from_numpy(TOP).flatten() == inside
    changed = (attended(run, q, k, v, **MASKS) - attended(run, *first, **MASKS))[[1, 2, 4, 5]].abs()
    assert changed[:, :, same].max() == 0
    assert changed[:, :, ~same].amax((1, 3)).min() > 1e-3


@pytest.mark.parametrize("inside", [True, False])
def test_where_a_layer_is_too_coarse_to_part_them_there_is_no_mask(run, inside):
    speck = np.full((16, 16), inside)
    speck[5, 5] = not inside
    q, k, v = heads(64)
    assert torch.equal(attended(run, q, k, v, source_mask=speck, target_mask=TOP), attended(run, q, k, v))
    q, k, v = heads(256)
    assert not torch.equal(attended(run, q, k, v, source_mask=speck, target_mask=TOP), attended(run, q, k, v))


# ---------------------------------------------------------------- text and picture in one sequence


@pytest.mark.parametrize("picture", [slice(0, 64), slice(-64, None)], ids=["picture first", "text first"])
@pytest.mark.parametrize("padded", [False, True])
def test_in_joint_attention_the_picture_is_parted_and_every_position_attends_to_its_own_text(picture, padded):
    q, k, v = heads(64 + 9, rows=3)
    source, *targets = torch.rand(3, 64, generator=torch.Generator().manual_seed(0)) > 0.5
    allowed = torch.stack([target[:, None] == source for target in targets])[:, None]
    mask = torch.ones(3, 1, 1, 64 + 9, dtype=torch.bool)
    mask[1, ..., 66 if picture.start == 0 else 2] = False
    out = masactrl.joint(q, k, v, mask if padded else None, picture, allowed)
    assert_close(out[0], F.scaled_dot_product_attention(q[0], k[0], v[0]), rtol=1e-4, atol=1e-4)
    for row in (1, 2):
        keys, values = k[row].clone(), v[row].clone()
        keys[:, picture], values[:, picture] = k[0, :, picture], v[0, :, picture]
        seen = mask[row, 0].expand(64 + 9, -1).clone() if padded else torch.ones(64 + 9, 64 + 9, dtype=torch.bool)
        seen[picture, picture] = allowed[row - 1, 0]
        assert_close(out[row], F.scaled_dot_product_attention(q[row], keys, values, seen), rtol=1e-4, atol=1e-4)


WORDS = {"words": ("cat", "dog"), "threshold": 0.5}


@pytest.mark.parametrize("family", [families.sd3, families.qwen, families.flux], ids=lambda family: family.__name__)
def test_masks_and_words_part_the_picture_in_a_transformer_too(family, picture):
    pipe = family()
    trajectory = invert(pipe, picture, SOURCE, steps=2, progress=False)

    def edited(**options):
        editor = MasaCtrl(**FULL, **options)
        return edit(pipe, trajectory, targets=[DOG], guidance=CFG(2.0), editor=editor, progress=False).latents

    named = [WORDS] if Backbone(pipe).has_word_maps else []
    plain, *parted = (edited(**options) for options in ({}, MASKS, *named))
    for one, other in itertools.combinations([plain, *parted], 2):
        assert_close(one[0], other[0], rtol=1e-4, atol=1e-4)
        assert (one[1] - other[1]).abs().max() > 1e-3
    if named:
        assert_close(edited(**WORDS | {"threshold": 0}), plain, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- masks


def cut_out():
    """A white picture that is transparent where the background is."""
    picture = Image.new("RGBA", (16, 16), "white")
    picture.putalpha(Image.fromarray(LEFT).convert("L"))
    return picture


@pytest.fixture
def files(tmp_path):
    Image.fromarray(LEFT).save(tmp_path / "mask.png")
    Image.fromarray(LEFT).convert("RGB").save(tmp_path / "mask.webp", lossless=True)
    cut_out().save(tmp_path / "cut out.png")
    return tmp_path


@pytest.mark.parametrize(
    "given",
    [
        LEFT.astype(float),
        LEFT.astype(np.uint8),
        LEFT.astype(np.uint8) * 255,
        LEFT.astype(np.int64) * 255,
        LEFT[..., None],
        torch.from_numpy(LEFT),
        torch.from_numpy(LEFT)[None, None].half(),
        torch.from_numpy(LEFT).bfloat16(),
        torch.from_numpy(LEFT).byte() * 255,
        Image.fromarray(LEFT),
        Image.fromarray(LEFT).convert("RGBA"),
        Image.fromarray(LEFT.astype(np.uint8)),
        cut_out(),
        "mask.png",
        Path("mask.webp"),
        "cut out.png",
    ],
    ids=lambda given: f"{type(given).__name__} {getattr(given, 'dtype', getattr(given, 'mode', given))}",
)
def test_a_mask_of_every_kind_is_the_same(run, files, given, monkeypatch):
    monkeypatch.chdir(files)
    source, target = MasaCtrl(**FULL, source_mask=given, target_mask=LEFT).prepare(run).masks
    assert torch.equal(source.bool(), torch.from_numpy(LEFT)) and torch.equal(source, target)


@pytest.mark.parametrize("times", [2, 3, 32])
def test_a_mask_may_have_any_size(run, times):
    large = np.kron(LEFT, np.ones((times, times), bool))
    source, target = MasaCtrl(**FULL, source_mask=large, target_mask=LEFT).prepare(run).masks
    assert torch.equal(source, target)


def test_a_mask_of_the_pictures_shape_is_cropped_as_the_picture_is(run):
    wide = np.zeros((32, 48), bool)
    wide[:, 8:20] = True
    source, target = MasaCtrl(**FULL, source_mask=wide, target_mask=LEFT).prepare(run).masks
    assert torch.equal(source, target)


def test_masks_that_are_equal_make_equal_editors():
    assert MasaCtrl(**MASKS) == MasaCtrl(source_mask=torch.from_numpy(LEFT), target_mask=Image.fromarray(TOP))
    assert MasaCtrl(**MASKS) != MasaCtrl(source_mask=TOP, target_mask=TOP)


@pytest.mark.parametrize("size", [(40, 24), (18, 34)])
def test_latents_that_are_not_square_have_masks_and_words(tiny, picture, size):
    def edited(**options):
        editor = MasaCtrl(**FULL, **options)
        given = {"guidance": CFG(), "editor": editor, "steps": 2, "size": size, "progress": False}
        return edit(tiny(), picture, SOURCE, [JUMPING], **given).latents[1]

    plain = edited()
    assert torch.equal(edited(words=("cat", "cat"), threshold=0), plain)
    assert (edited(**MASKS) - plain).abs().max() > 1e-3
    assert (edited(words=("cat", "cat"), threshold=0.5) - plain).abs().max() > 1e-3


# ---------------------------------------------------------------- words


def looks(q, k, tokens):
    """Where each row's cat looks, stretched to 0…1: [rows, positions] of the text half."""
    maps = probabilities(q[3:], k[3:]).mean(1)[..., find("cat", tokens)].sum(-1)
    low, high = maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)
    return (maps - low) / (high - low)


def test_words_find_the_foreground_in_the_cross_attention_before(backbone, trajectory):
    run = prepare(backbone, trajectory, [JUMPING, SIDE])
    q, k, v = heads(64, seed=1)
    cross = heads(64, 24, seed=2)
    attend = MasaCtrl(**FULL, words=("cat", "cat", "cat"), threshold=0.4).prepare(run).attend(run, run.steps[0])
    assert_close(attend(SELF, q, k, v), attended(run, q, k, v))
    attend(CROSS, *cross)
    out = attend(SELF, q, k, v)

    grounds = looks(*cross[:2], tokenize(SOURCE, backbone.tokenizer)) >= 0.4
    for row in (1, 2):
        allowed = grounds[row][:, None] == grounds[0][None, :]
        for own in (0, 3):
            expected = F.scaled_dot_product_attention(q[own + row], k[own], v[own], attn_mask=allowed)
            assert_close(out[own + row], expected, rtol=1e-4, atol=1e-4)


def test_words_look_the_mean_over_the_layers_of_one_size(backbone, trajectory):
    run = prepare(backbone, trajectory, [JUMPING])
    first, second, other = (heads(n, 24, rows=4, seed=seed) for n, seed in ((64, 1), (64, 2), (256, 3)))
    q, k, v = heads(64, rows=4)
    attend = MasaCtrl(**FULL, words=("cat", "cat"), threshold=0.4).prepare(run).attend(run, run.steps[0])
    for layer in (first, second, other):
        attend(CROSS, *layer)
    out = attend(SELF, q, k, v)

    cat = find("cat", tokenize(SOURCE, backbone.tokenizer))
    mean = sum(probabilities(q[2:], k[2:]).mean(1)[..., cat].sum(-1) for q, k, _ in (first, second)) / 2
    source, target = masactrl.foreground(mean.unflatten(1, (8, 8))).flatten(1) >= 0.4
    allowed = target[:, None] == source[None, :]
    for own in (0, 2):
        expected = F.scaled_dot_product_attention(q[own + 1], k[own], v[own], attn_mask=allowed)
        assert_close(out[own + 1], expected, rtol=1e-4, atol=1e-4)


def test_every_step_finds_its_own_foreground(run):
    running = MasaCtrl(**FULL, words=("cat", "cat", "dog")).prepare(run)
    running.attend(run, run.steps[0])(CROSS, *heads(64, 24))
    q, k, v = heads(64)
    assert_close(running.attend(run, run.steps[1])(SELF, q, k, v), attended(run, q, k, v))


@pytest.mark.parametrize("options", [{}, MASKS], ids=named)
def test_no_matrix_of_attention_is_stored_without_words(sample, monkeypatch, options):
    def forbidden(*_):
        raise AssertionError("a matrix was stored")

    monkeypatch.setattr("nmg.backbones.unet.probabilities", forbidden)
    assert sample((JUMPING,), editor=MasaCtrl(**FULL, **options)).isfinite().all()
    with pytest.raises(AssertionError, match="a matrix was stored"):
        sample((JUMPING,), editor=MasaCtrl(**FULL, words=("cat", "cat")))


# ---------------------------------------------------------------- layers


@pytest.mark.parametrize(("count", "layer"), [(16, 10), (70, 44), (7, 4)])
def test_the_start_layer_lies_as_deep_as_in_stable_diffusion(backbone, monkeypatch, count, layer):
    found = {f"{n} {is_cross}": Site("", "up", is_cross, n) for is_cross in (False, True) for n in range(count)}
    monkeypatch.setattr(type(backbone), "sites", found)
    assert MasaCtrl().first_layer(backbone) == layer


def test_stable_diffusion_starts_at_layer_10(sd_shaped):
    assert MasaCtrl().first_layer(Backbone(sd_shaped)) == 10


def test_in_every_kind_of_model_the_start_layer_lies_in_the_decoder(any_model):
    layer = MasaCtrl().first_layer(Backbone(any_model))
    assert [site.place for site in sites(any_model.unet).values() if (site.layer, site.is_cross) == (layer, False)] == [
        "up"
    ]


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("name", ["start_step", "start_layer"])
@pytest.mark.parametrize("value", [-1, True, 1.0, 1.5, -0.5, math.nan, "4"], ids=str)
def test_a_start_that_is_no_whole_number_is_refused(name, value, unchecked):
    with pytest.raises(ValueError, match=f"{name}=.* must be a whole number from 0 on"):
        MasaCtrl(**{name: value})


def test_no_start_step_is_refused(unchecked):
    with pytest.raises(ValueError, match="start_step=None must be"):
        MasaCtrl(start_step=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source_mask": LEFT}, "both masks or none, and target_mask is missing"),
        ({"target_mask": LEFT}, "both masks or none, and source_mask is missing"),
        ({**MASKS, "words": ("cat", "cat")}, "from masks or from words, not from both"),
        ({"source_mask": LEFT[None, None, :, :4, None, None].repeat(3, 0), "target_mask": TOP}, "shape .*give"),
        ({"threshold": 1.5}, "threshold=1.5 must be a share"),
        ({"threshold": math.nan}, "threshold=nan must be a share"),
    ],
    ids=str,
)
def test_settings_that_can_not_be_used_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MasaCtrl(**options)


@pytest.mark.parametrize("start_step", [4, 50, 0.9])
def test_a_start_beyond_the_last_step_is_refused(sample, start_step):
    with pytest.raises(ValueError, match=rf"start_step={start_step} leaves none of the 4 steps.*give an earlier one"):
        sample((JUMPING,), editor=MasaCtrl(start_step=start_step))


@pytest.mark.parametrize("name", ["source_mask", "target_mask"])
@pytest.mark.parametrize(("everywhere", "ground"), [(True, "foreground"), (False, "background")])
def test_a_mask_that_separates_nothing_is_refused(sample, name, everywhere, ground):
    with pytest.raises(ValueError, match=f"a mask is all {ground} at the latent's size 16×16"):
        sample((JUMPING,), editor=MasaCtrl(**FULL, **{**MASKS, name: np.full((64, 64), everywhere)}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_step": 4}, "start_step=4 leaves none of the 4 steps"),
        ({**MASKS, "target_mask": np.zeros((64, 64), bool)}, "a mask is all background"),
    ],
    ids=["start", "mask"],
)
def test_what_fits_no_run_is_refused_before_the_inversion(backbone, picture, monkeypatch, options, message):
    monkeypatch.setattr(sampling, "rise", lambda *_, **__: pytest.fail("the picture was inverted"))
    with pytest.raises(ValueError, match=message):
        edit(backbone, picture, SOURCE, [JUMPING], steps=4, editor=MasaCtrl(**options), progress=False)


def test_a_layer_that_the_network_does_not_have_is_refused(sample):
    with pytest.raises(ValueError, match="start_layer=7 leaves no layer of the network's 7; give 0…6"):
        sample((JUMPING,), editor=MasaCtrl(start_step=0, start_layer=7))


@pytest.mark.parametrize("words", ["cat", ("cat",), ("cat", "cat", "cat")], ids=str)
def test_words_go_by_prompt(sample, words):
    with pytest.raises(ValueError, match="words go by prompt: give 2 of them"):
        sample((JUMPING,), editor=MasaCtrl(start_step=0, words=words))


@pytest.mark.parametrize("words", [("cat", "zebra"), ("zebra", "cat")])
def test_a_word_that_its_prompt_does_not_hold_is_an_error_that_lists_the_words(sample, words):
    with pytest.raises(ValueError, match="'zebra' does not occur in the prompt .* its words are a, red, cat"):
        sample((JUMPING,), editor=MasaCtrl(start_step=0, words=words))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"start_layer": 7}, ValueError, "leaves no layer"),
        ({"words": ("cat", "zebra")}, ValueError, "'zebra' does not occur"),
        ({"source_mask": "none.png", "target_mask": TOP}, FileNotFoundError, r"no picture at 'none\.png'"),
        ({"source_mask": TOP, "target_mask": TOP[:4]}, ValueError, "16×4 pixels; it needs at least 8"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_can_not_be_used_is_found_before_the_inversion(tiny, picture, monkeypatch, options, error, message):
    monkeypatch.setattr("nmg.sampling.rise", lambda *_, **__: pytest.fail("it was inverted"))
    with pytest.raises(error, match=message):
        edit(tiny(), picture, SOURCE, [JUMPING], editor=MasaCtrl(**options), progress=False)
