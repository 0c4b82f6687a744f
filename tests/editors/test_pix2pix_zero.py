import dataclasses
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

import nmg
import nmg.editors.pix2pix_zero as pix2pix_zero
from nmg import CFG, Backbone, EditDirection, Editor, NoiseMap, Pix2PixZero, denoise, edit, invert, prepare
from nmg.alignment import find, tokenize
from nmg.attention import probabilities
from nmg.editors import directions
from nmg.editors.directions import MOST, exchanged, variations

SOURCE = "a red cat sitting in the forest, front view"
BLUE, DOG, SMILING = (
    SOURCE.replace("red", "blue"),
    SOURCE.replace("cat", "dog"),
    SOURCE.replace("red cat", "smiling red cat"),
)
CATS, DOGS = ("a cat in the snow", "a red cat", "the cat sitting"), ("a dog in the snow", "a dog", "a dog on the beach")
LIKE_PAPER = {"negative": SOURCE}


@pytest.fixture(scope="module")
def trajectory(backbone, picture):
    """The picture inverted in two steps: every target's gradient takes its time."""
    return invert(backbone, picture, SOURCE, steps=2, progress=False)


@pytest.fixture(scope="module")
def sample(backbone, trajectory):
    def sample(targets=(), guidance=None, editor=None, **options):
        run = prepare(backbone, trajectory, list(targets), **options)
        return [x for _, x in denoise(run, guidance or CFG(), editor or Editor())][-1]

    return sample


@pytest.fixture(scope="module")
def direction(backbone):
    return EditDirection.between(backbone, CATS, DOGS)


@pytest.fixture
def run(backbone, trajectory):
    return prepare(backbone, trajectory, [BLUE, DOG], SOURCE)


# ---------------------------------------------------------------- identities


@pytest.mark.parametrize("guidance", [CFG(), NoiseMap()])
@pytest.mark.parametrize("negative", ["", SOURCE])
def test_no_step_along_the_prompts_difference_changes_nothing(sample, guidance, negative):
    still, plain = (
        sample((BLUE, SMILING), guidance, editor, negative=negative) for editor in (Pix2PixZero(amount=0), Editor())
    )
    assert_close(still, plain, rtol=1e-5, atol=1e-5)


def test_without_a_target_nothing_changes(sample):
    assert torch.equal(sample((), editor=Pix2PixZero(), **LIKE_PAPER), sample((), **LIKE_PAPER))


def test_a_target_with_the_sources_prompt_is_the_source(sample):
    # The gradient of equal maps is rounding alone, and two steps take it 25 times as far as 50 do.
    source, target = sample((SOURCE,), editor=Pix2PixZero(), **LIKE_PAPER)
    assert_close(target, source, rtol=1e-4, atol=1e-4)


def test_a_direction_of_no_length_leads_to_the_source(sample, direction):
    nowhere = dataclasses.replace(direction, embedding=torch.zeros_like(direction.embedding))
    source, target = sample((DOG,), editor=Pix2PixZero(nowhere), **LIKE_PAPER)
    assert_close(target, source, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, LIKE_PAPER], ids=str)
@pytest.mark.parametrize("guidance", [CFG(), NoiseMap()])
def test_the_source_row_takes_nothing_from_the_targets(sample, guidance, options):
    edited, plain = sample((BLUE, DOG), guidance, Pix2PixZero(), **options), sample((), guidance, **options)
    assert_close(edited[0], plain[0], rtol=1e-5, atol=1e-5)


def test_the_source_row_follows_its_prompt_alone_at_every_text_scale(sample):
    plain = sample((), CFG(1))
    for scale in (0, 2.5, 7.5):
        edited = sample((BLUE,), CFG(scale), Pix2PixZero(), **LIKE_PAPER)
        assert_close(edited[:1], plain, rtol=1e-5, atol=1e-5)


def test_several_targets_together_are_the_same_as_each_alone(sample):
    targets = (BLUE, DOG, SMILING)
    together = sample(targets, editor=Pix2PixZero(), **LIKE_PAPER)
    for row, target in enumerate(targets, 1):
        alone = sample((target,), editor=Pix2PixZero(), **LIKE_PAPER)[1]
        assert_close(together[row], alone, rtol=1e-4, atol=1e-4)


def test_an_editor_can_be_used_again_with_the_same_result(sample, direction):
    editor = Pix2PixZero(direction)
    assert torch.equal(sample((DOG,), editor=editor), sample((DOG,), editor=editor))


# ---------------------------------------------------------------- the text


def test_the_targets_text_is_the_sources_moved_along_the_direction(backbone, trajectory, direction):
    run = prepare(backbone, trajectory, [BLUE], SOURCE)
    text = Pix2PixZero(direction).prepare(run).text(run, run.steps[0])
    assert torch.equal(text.tokens[0], run.text.tokens[0])
    assert_close(text.tokens[1], run.text.tokens[0] + direction.embedding[0])


def test_without_a_direction_the_text_is_the_prompts(run):
    assert torch.equal(Pix2PixZero().prepare(run).text(run, run.steps[0]), run.text)


def test_under_a_direction_the_target_prompt_is_only_a_name(sample, direction):
    first, second = (sample((target,), editor=Pix2PixZero(direction)) for target in (BLUE, "zebra"))
    assert torch.equal(first, second)
    assert (first - sample((BLUE,), editor=Pix2PixZero()))[1].abs().max() > 1e-3


def test_a_target_prompt_that_words_do_not_lead_to_is_noticed(backbone, picture, recwarn):
    path, words = invert(backbone, picture, SOURCE, steps=1, progress=False), Pix2PixZero(("cat", "dog"))
    with pytest.warns(
        UserWarning, match=f"edits along its direction, to '{DOG}'; the target prompt '{BLUE}' is only a name"
    ):
        words.prepare(prepare(backbone, path, [BLUE]))
    recwarn.clear()
    words.prepare(prepare(backbone, path, [DOG]))
    Pix2PixZero().prepare(prepare(backbone, path, [BLUE]))
    assert not recwarn.list


@pytest.mark.parametrize(
    ("given", "source", "targets"),
    [
        (None, SOURCE, ()),
        (("cat", "dog"), SOURCE, (DOG,)),
        (("red cat", r"\1 dog"), SOURCE, (SOURCE.replace("red cat", r"\1 dog"),)),
        (("at", "on"), SOURCE, (SOURCE,)),
        ((CATS, DOGS), SOURCE, (SOURCE,)),
        ("cat-to-dog.safetensors", SOURCE, (SOURCE,)),
        (("cat", "dog"), "", ("edited",)),
    ],
    ids=str,
)
def test_a_direction_brings_its_target(given, source, targets):
    assert Pix2PixZero(given).targets(source) == targets


def test_a_direction_needs_no_target_prompt(backbone, trajectory, sample, direction):
    result = edit(backbone.pipe, trajectory, guidance=CFG(), editor=Pix2PixZero(direction), progress=False)
    assert len(result.pictures) == 1
    assert_close(result.latents, sample((DOG,), editor=Pix2PixZero(direction), **LIKE_PAPER))


def test_the_null_half_follows_the_source_prompt_unless_another_is_given(backbone, trajectory, sample):
    def edited(**options):
        return edit(
            backbone, trajectory, targets=[BLUE], guidance=CFG(), editor=Pix2PixZero(), progress=False, **options
        ).latents

    own, empty = edited(), edited(negative="")
    assert_close(own, sample((BLUE,), editor=Pix2PixZero(), negative=SOURCE))
    assert_close(empty, sample((BLUE,), editor=Pix2PixZero(), negative=""))
    assert (own - empty).abs().max() > 1e-2
    assert Pix2PixZero().negative(SOURCE) == SOURCE and Editor().negative(SOURCE) == ""


# ---------------------------------------------------------------- the descent


def maps(run, x, text):
    """Cross-attention maps of some rows in the run's first step, layer by layer."""
    looks = []

    def attend(site, q, k, v, mask):
        if site.is_cross:
            looks.append(probabilities(q, k))

    run.predict(x, run.steps[0], text, attend)
    return looks


@pytest.fixture
def descent(backbone, trajectory):
    """What one step of descent does: its distances before and after, by target and copy, and how the latents moved."""
    run = prepare(backbone, trajectory, [BLUE, DOG], "a dog in the snow")
    x = run.start + 0.3 * torch.randn(run.start.shape, generator=torch.Generator().manual_seed(0))
    doubled, text = torch.cat([x, x]), torch.cat([run.null, run.text])

    def descent(amount):
        moved = Pix2PixZero(amount=amount * len(run.steps) / 50).prepare(run).steer(run, run.steps[0], doubled, text)
        before, after = maps(run, doubled, text), maps(run, moved, text)
        distances = [
            [
                pix2pix_zero.distance([m[i : i + 1] for m in looks], [m[own : own + 1] for m in before])
                for looks in (before, after)
            ]
            for own, i in ((0, 1), (0, 2), (3, 4), (3, 5))
        ]
        return torch.tensor(distances), moved - doubled

    return descent


@pytest.mark.parametrize("amount", [0.01, 0.15])
def test_the_descent_brings_every_copy_closer_to_where_the_source_looks(descent, amount):
    distances, _ = descent(amount)
    assert (distances[:, 1] < distances[:, 0]).all() and (distances > 0).all()


def test_the_move_is_down_the_gradient_of_the_distance(descent):
    """To first order a step of length a along the gradient g lowers the distance by a|g|²."""
    amount = 1e-4
    distances, moved = descent(amount)
    # Of the mean over the null and the text copy.
    lowered = (distances[:, 0] - distances[:, 1]) / 2
    slopes = moved[[1, 2, 4, 5]].square().sum((1, 2, 3)) / amount
    assert_close(lowered, slopes, rtol=0.03, atol=0)


def test_the_move_is_proportional_to_the_amount_and_leaves_the_source(descent):
    (_, small), (_, large), (_, back) = descent(0.1), descent(0.2), descent(-0.1)
    assert_close(large, 2 * small, rtol=1e-3, atol=1e-5)
    assert_close(back, -small, rtol=1e-3, atol=1e-5)
    assert small[[0, 3]].abs().max() == 0
    assert small[[1, 2, 4, 5]].abs().amax((1, 2, 3)).min() > 1e-4
    assert (small[[1, 2]] - small[[4, 5]]).abs().amax((1, 2, 3)).min() > 1e-4


def test_the_null_copy_goes_on(run):
    editor = Pix2PixZero().prepare(run)
    step, (_, x) = run.steps[0], next(denoise(run, CFG(2.5), Pix2PixZero()))
    text = torch.cat([run.null, run.text])
    moved = editor.steer(run, step, torch.cat([run.start, run.start]), text)
    null, content = run.predict(moved, step, text).chunk(2)
    assert_close(x, nmg.transfer(moved[:3], null + 2.5 * (content - null), step.here, step.there))


def test_the_distance_is_a_sum_over_layers_positions_and_words_and_a_mean_over_rows_and_heads():
    zeros = [torch.zeros(2, 3, 16, 5), torch.zeros(2, 3, 4, 5)]
    ones = [torch.ones_like(looks) for looks in zeros]
    assert pix2pix_zero.distance(zeros, zeros) == 0
    assert pix2pix_zero.distance(zeros, ones) == 16 * 5 + 4 * 5


def test_an_amount_changes_the_target(sample):
    still, little, much = (sample((DOG,), editor=Pix2PixZero(amount=amount))[1] for amount in (0, 0.15, 0.5))
    assert (little - still).abs().max() > 1e-3 and (much - little).abs().max() > 1e-3


# ---------------------------------------------------------------- what it leaves behind


def state(unet):
    trainable = {name: parameter.requires_grad for name, parameter in unet.named_parameters()}
    return trainable, list(unet.attn_processors.values())


def test_an_edit_leaves_no_gradient_and_no_hook(build, trajectory):
    pipe = build()
    before = state(pipe.unet)
    edit(pipe, trajectory, targets=[BLUE], editor=Pix2PixZero(), progress=False)
    assert state(pipe.unet) == before and all(before[0].values())
    assert all(parameter.grad is None for parameter in pipe.unet.parameters())


@pytest.mark.parametrize("call", [1, 2, 3])
def test_an_exception_in_the_middle_of_the_descent_leaves_nothing_either(build, trajectory, monkeypatch, call):
    pipe, calls = build(), []
    run, before, forward = prepare(pipe, trajectory, [BLUE, DOG]), state(pipe.unet), pipe.unet.mid_block.forward

    def failing(*given, **options):
        calls.append(given)
        if len(calls) == call:
            raise KeyboardInterrupt
        return forward(*given, **options)

    monkeypatch.setattr(pipe.unet.mid_block, "forward", failing)
    with pytest.raises(KeyboardInterrupt):
        next(denoise(run, CFG(), Pix2PixZero()))
    assert state(pipe.unet) == before
    assert all(parameter.grad is None for parameter in pipe.unet.parameters())


@pytest.mark.parametrize("guidance", [CFG(), NoiseMap()])
def test_inference_mode_changes_nothing(backbone, trajectory, sample, guidance):
    expected = sample((BLUE,), guidance, Pix2PixZero())
    with torch.inference_mode():
        assert_close(sample((BLUE,), guidance, Pix2PixZero()), expected)


def test_a_direction_found_in_inference_mode_can_be_used_outside_of_it(build, trajectory):
    pipe, sides = build(), (CATS[:2], DOGS[:2])
    with torch.inference_mode():
        EditDirection.between(pipe, *sides)
    given = {"editor": Pix2PixZero(sides), "progress": False}
    assert edit(pipe, trajectory, targets=[DOG], **given).latents.isfinite().all()


def test_gradient_checkpointing_changes_nothing(build, trajectory, sample):
    pipe = build()
    pipe.unet.enable_gradient_checkpointing()
    run = prepare(pipe, trajectory, [BLUE])
    *_, (_, x) = denoise(run, CFG(), Pix2PixZero())
    assert_close(x, sample((BLUE,), editor=Pix2PixZero()), rtol=1e-3, atol=1e-3)


def test_every_kind_of_model_edits(any_model, picture):
    given = {"editor": Pix2PixZero((CATS, DOGS)), "steps": 2, "progress": False}
    assert edit(any_model, picture, SOURCE, [DOG], **given).latents.isfinite().all()


# ---------------------------------------------------------------- directions


def test_a_direction_is_the_difference_of_the_mean_embeddings(backbone, direction):
    here, there = backbone.text(CATS).tokens, backbone.text(DOGS).tokens
    assert_close(direction.embedding, there.mean(0, keepdim=True) - here.mean(0, keepdim=True))
    assert (direction.source, direction.target) == (CATS, DOGS)
    assert direction.embedding.abs().max() > 0.1


def test_the_way_back_is_the_opposite_direction(backbone, direction):
    assert_close(EditDirection.between(backbone, DOGS, CATS).embedding, -direction.embedding)


def test_more_sentences_than_are_encoded_at_once_are_all_counted(backbone, direction):
    here, there = CATS * 30, DOGS * 30
    whole = EditDirection.between(backbone, here, there)
    assert_close(whole.embedding, direction.embedding, rtol=1e-4, atol=1e-5)


def test_a_direction_is_found_once(backbone, direction, monkeypatch):
    monkeypatch.setattr(directions, "_encoded", lambda *_: pytest.fail("it was found again"))
    for pipe in (backbone.pipe, backbone):
        assert EditDirection.between(pipe, list(CATS), list(DOGS)) is direction
        assert Pix2PixZero((CATS, DOGS)).resolved(Backbone(backbone.pipe)) is direction


def test_other_weights_of_the_text_encoder_are_noticed(build, direction):
    pipe = build()
    first = EditDirection.between(pipe, CATS, DOGS)
    assert first is not direction
    assert_close(first.embedding, direction.embedding)
    weight = next(weight for name, weight in pipe.text_encoder.named_parameters() if "q_proj.weight" in name)
    original = weight.clone()
    weight.mul_(3)
    other = EditDirection.between(pipe, CATS, DOGS)
    assert (other.embedding - first.embedding).abs().max() > 1e-4
    weight.copy_(original)
    assert EditDirection.between(pipe, CATS, DOGS) is first


def test_sentences_come_from_files_too(backbone, direction, tmp_path):
    cats, dogs = tmp_path / "cats.txt", tmp_path / "dogs.txt"
    cats.write_text("\n".join(CATS), encoding="utf-8")
    dogs.write_text("\n\n  ".join(DOGS) + "\n\n", encoding="utf-8")
    assert EditDirection.between(backbone, str(cats), str(dogs)) is direction
    assert EditDirection.between(backbone, cats, DOGS) is direction


def test_a_saved_direction_is_loaded_exactly(sample, direction, tmp_path):
    path = tmp_path / "cat-to-dog.safetensors"
    direction.save(path)
    loaded = EditDirection.load(str(path))
    assert torch.equal(loaded.embedding, direction.embedding)
    for name in ("source", "target", "separation"):
        assert getattr(loaded, name) == getattr(direction, name)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    expected = sample((DOG,), editor=Pix2PixZero(direction))
    for given in (loaded, str(path), path):
        assert torch.equal(sample((DOG,), editor=Pix2PixZero(given)), expected)


# ---------------------------------------------------------------- separation


@pytest.mark.parametrize("seed", range(4))
def test_the_separation_is_the_share_of_pairs_in_order_along_the_other_sentences_direction(seed):
    random = torch.Generator().manual_seed(seed)
    source, target = (torch.randn(n, 2, 3, generator=random) + shift for n, shift in ((8, 0.0), (6, 0.1)))
    ordered = []
    for fold in (0, 1):
        move = target[fold::2].mean(0) - source[fold::2].mean(0)
        others = [(s, t) for s in source[1 - fold :: 2] for t in target[1 - fold :: 2]]
        ordered += [((t - s) * move).sum().item() > 0 for s, t in others]
    assert directions._separation(source, target) == pytest.approx(sum(ordered) / 24)
    assert 0 < sum(ordered) < 24


def test_equal_sides_are_told_apart_by_chance_and_distant_ones_surely():
    same = torch.ones(4, 1, 3)
    assert directions._separation(same, same) == 0.5
    assert directions._separation(same, same + torch.rand(4, 1, 3)) == 1


def test_one_sentence_tells_nothing_of_the_separation(backbone):
    assert math.isnan(EditDirection.between(backbone, CATS[:1], DOGS).separation)


@pytest.mark.parametrize(("source", "target"), [("cat", "dog"), ("dog", "car"), ("car", "fox")])
def test_the_bundled_model_tells_its_creatures_apart(source, target):
    prompt = f"a red {source} sitting in the forest, front view"
    assert EditDirection.between(nmg.load("menagerie"), source, target, prompt).separation > 0.9


# ---------------------------------------------------------------- the prompt's own layout


@pytest.mark.parametrize(
    "prompt",
    [SOURCE, "a photo of a cat", "my cat, asleep on two red books", "Cat", " ".join(["cat", *"abcdefghijklm"])],
)
def test_variations_keep_the_word_where_it_stands(sd_shaped, prompt):
    backbone = Backbone(sd_shaped)
    direction = EditDirection.between(backbone, "cat", "dog", prompt)
    assert 1 <= len(direction.source) == len(set(direction.source)) <= MOST
    assert direction.source[0] == prompt.replace("Cat", "cat")
    places = {tuple(find("cat", tokenize(sentence, backbone.tokenizer))) for sentence in direction.source}
    lengths = {len(tokenize(sentence, backbone.tokenizer).ids) for sentence in direction.source}
    words = {tuple(sorted(sentence.replace(",", "").split())) for sentence in direction.source}
    assert len(places) == len(lengths) == len(words) == 1
    assert [sentence.replace("cat", "dog") for sentence in direction.source] == list(direction.target)


def test_only_content_words_of_equally_many_tokens_change_places(sd_shaped):
    backbone = Backbone(sd_shaped)
    counts = {word: len(tokenize(word, backbone.tokenizer).ids) for word in ("a", "red", "cat", "leopard")}
    assert counts["a"] == counts["red"] == counts["cat"] < counts["leopard"]
    assert variations("a red cat on leopard", backbone) == ("a red cat on leopard", "a cat red on leopard")


@pytest.mark.parametrize(("source", "target"), [("cat", "dog"), ("a red cat", "a blue dog"), ("CAT", "sleeping dog")])
def test_words_give_the_move_of_the_prompt_itself(backbone, source, target):
    direction, prompts = (
        EditDirection.between(backbone, source, target, SOURCE),
        [SOURCE, exchanged(SOURCE, source, target)],
    )
    here, there = backbone.text(prompts).tokens.split(1)
    assert direction.fit(there - here) > 0.9 and direction.fit(here - there) < -0.9
    assert math.isnan(direction.fit(here - here))


def test_a_prompt_of_one_word_gives_exactly_its_move(backbone):
    here, there = backbone.text(["cat", "dog"]).tokens.split(1)
    assert_close(EditDirection.between(backbone, "cat", "dog", "cat").embedding, there - here)


def test_sentences_of_any_layout_fit_a_prompt_less(backbone):
    here, there = backbone.text([SOURCE, DOG]).tokens.split(1)
    published = EditDirection.between(backbone, CATS, DOGS)
    assert published.fit(there - here) < EditDirection.between(backbone, "cat", "dog", SOURCE).fit(there - here)


def test_the_editor_finds_the_direction_of_its_source_prompt(backbone):
    resolved = Pix2PixZero(("cat", "dog")).resolved(backbone, (SOURCE, "edited"))
    assert resolved is EditDirection.between(backbone, "cat", "dog", SOURCE)


def test_a_direction_from_a_word_that_the_prompt_does_not_hold_warns(sample, recwarn):
    sample((SOURCE,), editor=Pix2PixZero(("owl", "dog")))
    assert [f"{SOURCE!r} does not hold 'owl'" in str(warning.message) for warning in recwarn] == [True]


def test_a_direction_to_elsewhere_warns_where_the_target_is_named(sample, backbone, recwarn):
    away = EditDirection.between(backbone, [DOG], [SOURCE])
    sample((SOURCE,), editor=Pix2PixZero(away))
    sample((DOG,), editor=Pix2PixZero(EditDirection.between(backbone, [SOURCE], [DOG])))
    assert not recwarn
    with pytest.warns(UserWarning, match=r"leads elsewhere than from .* \(cosine -1\.00\): give two words"):
        sample((DOG,), editor=Pix2PixZero(away))


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("amount", [math.nan, math.inf, True, "0.1"], ids=str)
def test_an_amount_that_is_no_finite_number_is_refused(amount, unchecked):
    with pytest.raises(ValueError, match="amount=.* must be a finite number"):
        Pix2PixZero(amount=amount)


def test_one_direction_gives_one_picture(sample, direction):
    with pytest.raises(ValueError, match="one direction gives one picture, and there are 2 targets; give one target"):
        sample((BLUE, DOG), editor=Pix2PixZero(direction))


def test_a_direction_of_another_kind_is_refused(unchecked):
    with pytest.raises(TypeError, match=r"direction is a float; give two sides, such as direction=\('cat', 'dog'\)"):
        Pix2PixZero(0.15)


@pytest.mark.parametrize("sides", [("cat",), ("cat", "dog", "fox"), ()], ids=str)
def test_a_direction_has_two_sides(sides, unchecked):
    with pytest.raises(ValueError, match=f"direction has {len(sides)} sides; give two"):
        Pix2PixZero(sides)


@pytest.mark.parametrize(
    ("sides", "error", "message"),
    [
        (("cat", "cat", SOURCE), ValueError, "from 'cat' to 'cat' leads nowhere"),
        ((CATS, list(CATS)), ValueError, "leads nowhere; give two different contents"),
        (("", "dog"), ValueError, "the phrase is empty; give a word or a phrase"),
        (("cat", "  "), ValueError, "the phrase is empty"),
        (("cat", DOGS), ValueError, "words on one side only; give two words, or two lists"),
        (([], DOGS), ValueError, r"\[\] gives no sentence"),
        (("empty.txt", DOGS), ValueError, r"'empty\.txt' gives no sentence; give a word, a file with a sentence"),
        (("none.txt", DOGS), FileNotFoundError, r"no file of sentences at 'none\.txt'; give one"),
        ((["cat " * 30], DOGS), ValueError, "shorten"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_sides_that_can_not_be_used_are_refused(backbone, tmp_path, monkeypatch, sides, error, message):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n \n")
    with pytest.raises(error, match=message):
        EditDirection.between(backbone, *sides)


def test_a_file_that_holds_no_direction_is_refused(direction, trajectory, tmp_path):
    words, foreign, other, half = (tmp_path / name for name in ("words", "foreign", "other", "half"))
    words.write_text("these are words, and quite a lot of them")
    save_file({"embedding": direction.embedding}, foreign)
    trajectory.save(other)
    direction.save(half)
    half.write_bytes(half.read_bytes()[:-100])
    for path, message in (
        (words, "can't be read"),
        (foreign, "holds no direction"),
        (other, "holds no direction"),
        (half, "can't be read .* make one"),
    ):
        with pytest.raises(ValueError, match=message):
            EditDirection.load(path)
    with pytest.raises(FileNotFoundError, match=r"no direction at .*none.*; make one with EditDirection\.between"):
        EditDirection.load(tmp_path / "none")


def test_a_direction_of_another_text_encoder_is_refused(sample, direction):
    other = dataclasses.replace(direction, embedding=torch.zeros(1, 77, 32))
    with pytest.raises(ValueError, match=r"shape \[77, 32\] and the text encoder gives \[24, 128\]"):
        sample((DOG,), editor=Pix2PixZero(other))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((CATS, CATS), ValueError, "leads nowhere"),
        ("cat", FileNotFoundError, "no direction at 'cat'"),
    ],
    ids=["sides", "file"],
)
def test_a_direction_is_looked_for_before_the_inversion(tiny, picture, monkeypatch, given, error, message):
    monkeypatch.setattr("nmg.sampling.rise", lambda *_, **__: pytest.fail("it was inverted"))
    with pytest.raises(error, match=message):
        edit(tiny(), picture, SOURCE, [DOG], editor=Pix2PixZero(given), progress=False)
