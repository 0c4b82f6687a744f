import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from nmg import CFG, Backbone, LocalBlend, MasaCtrl, Pix2PixZero, PromptToPrompt, edit
from nmg.alignment import find, refinement, replacement, replacement_by_authors, tokenize

RECORDED = json.loads((Path(__file__).parent / "reference" / "text_align" / "case.json").read_text())["params"]["pairs"]
PAIRS = [tuple(pair["prompts"]) for pair in RECORDED]
REPLACEABLE = [(a, b) for a, b in PAIRS if len(a.split()) == len(b.split())]
PROMPTS = sorted({prompt for pair in PAIRS for prompt in pair})


class WithoutOffsets:
    """A tokenizer as slow ones are: it gives tokens, and no places in the text."""

    is_fast = False

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, prompt):
        return self.tokenizer(prompt)

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


@pytest.fixture(params=["fast", "slow"])
def read(request, sd_shaped):
    """Tokenizes a prompt; "cat" is one token and "tiger" four."""
    tokenizer = sd_shaped.tokenizer if request.param == "fast" else WithoutOffsets(sd_shaped.tokenizer)
    return lambda prompt: tokenize(prompt, tokenizer)


# ---------------------------------------------------------------- tokens and their places


@pytest.mark.parametrize(
    "prompt",
    [
        *PROMPTS,
        "a cat",
        "",
        "  a   cat,sitting  on a  MAT! ",
        "the cat's 12 toys (red & blue)...",
        "a café with a naïve cat",
        "日本の cat 🐱 on a table",
        "a “quoted” cat—sitting",
    ],
)
def test_both_kinds_of_tokenizer_give_the_same_spans(sd_shaped, prompt):
    fast, slow = tokenize(prompt, sd_shaped.tokenizer), tokenize(prompt, WithoutOffsets(sd_shaped.tokenizer))
    text = [[prompt[start:end] for start, end in tokens.spans] for tokens in (fast, slow)]
    assert fast.ids == slow.ids and text[0] == text[1]


def test_the_spans_cover_every_letter_and_no_white_space(read):
    prompt = "a tiger, sitting  on the MAT"
    covered = {i for start, end in read(prompt).spans for i in range(start, end)}
    assert covered == {i for i, letter in enumerate(prompt) if not letter.isspace()}


def test_words_hold_every_token_once(read):
    tokens = read("a tiger, sitting on a table")
    assert [word for word, _ in tokens.words] == ["a", "tiger,", "sitting", "on", "a", "table"]
    assert [i for _, positions in tokens.words for i in positions] == list(range(1, len(tokens.ids) - 1))


def test_the_length_is_the_encoders(read, tiny):
    assert read("a cat").length == 77
    assert tokenize("a cat", tiny().tokenizer).length == 24


# ---------------------------------------------------------------- words to tokens


@pytest.mark.parametrize(
    ("words", "prompt", "expected"),
    [
        ("cat", "a cat sitting on a table", [2]),
        ("tiger", "a tiger sitting on a table", [2, 3, 4, 5]),
        ("a", "a cat sitting on a table", [1, 5]),
        ("cat", "a cat next to a cat", [2, 6]),
        ("oil painting", "a lush field, oil painting", [5, 6]),
        ("Oil  Painting ", "a lush field, oil painting", [5, 6]),
        ("CAT", "a cat", [2]),
        ("field", "a lush field, oil painting", [3]),
        ("field,", "a lush field, oil painting", [3, 4]),
        ("cat", "a catnip and a cat", [11]),
        ("cat", "a café with a cat", [9]),
    ],
    ids=lambda value: str(value),
)
def test_words_are_found_where_they_stand(read, words, prompt, expected):
    assert find(words, read(prompt)) == expected


@pytest.mark.parametrize("words", ["dog", "oil painting", "ca", "cat table", "", "  "])
def test_words_that_do_not_occur_are_an_error_that_lists_the_words(read, words):
    with pytest.raises(ValueError, match="its words are a, cat, on, the, red-brown, table"):
        find(words, read("a cat on the red-brown table."))


def test_an_empty_prompt_holds_no_word(read):
    with pytest.raises(ValueError, match=r"its words are \(none\)"):
        find("cat", read(""))


# ---------------------------------------------------------------- token maps


def weights(prompts, read, align):
    source, target = map(read, prompts)
    return align(source, target).weights, source, target


@pytest.mark.parametrize("prompts", REPLACEABLE, ids=" > ".join)
def test_every_source_token_is_kept_whole_by_replacement(read, prompts):
    found, source, _ = weights(prompts, read, replacement)
    assert_close(found.sum(1), torch.ones(source.length))


@pytest.mark.parametrize("prompts", REPLACEABLE, ids=" > ".join)
def test_replaced_words_read_the_words_in_their_places(read, prompts):
    found, source, target = weights(prompts, read, replacement)
    for (_, old), (_, new) in zip(source.words, target.words, strict=True):
        assert_close(found[old][:, new].sum(), torch.tensor(float(len(old))))


def test_the_word_after_a_longer_one_reads_its_own_source_word_only_when_aligned(read):
    prompts = (
        "a cat sitting on a table next to a vase of flowers",
        "a tiger sitting on a table next to a vase of flowers",
    )
    aligned, source, target = weights(prompts, read, replacement)
    by_authors, _, _ = weights(prompts, read, replacement_by_authors)
    (new,) = find("sitting", target)
    assert aligned[:, new].nonzero().flatten().tolist() == find("sitting", source)
    assert by_authors[:, new].nonzero().flatten().tolist() == find("table", source)
    assert (by_authors.sum(1) == 0).any()


def test_a_word_of_one_token_spreads_evenly_over_four(read):
    found, source, target = weights(("a cat", "a tiger"), read, replacement)
    assert_close(found[find("cat", source)][:, find("tiger", target)], torch.full((1, 4), 0.25))


@pytest.mark.parametrize("align", [replacement, replacement_by_authors, refinement])
@pytest.mark.parametrize("prompt", ["a cat", "a tiger, sitting on a table", "", "word " * 20])
def test_equal_prompts_map_every_token_to_itself(read, align, prompt):
    tokens = read(prompt)
    found = align(tokens, tokens)
    assert_close(found.weights, torch.eye(tokens.length))
    assert_close(found.kept, torch.ones(tokens.length))


@pytest.mark.parametrize("prompts", PAIRS, ids=" > ".join)
def test_refined_tokens_have_a_partner_of_the_same_id_or_none(read, prompts):
    source, target = map(read, prompts)
    found = refinement(source, target)
    assert_close(found.weights.sum(0), found.kept)
    for j in found.kept[: len(target.ids)].nonzero().flatten().tolist():
        (i,) = found.weights[:, j].nonzero().flatten().tolist()
        assert source.ids[i] == target.ids[j]


def test_added_words_keep_their_own_attention_and_the_others_take_the_sources(read):
    source, target = read("a photo of a cat"), read("a photo of a small happy cat")
    found = refinement(source, target)
    added = find("small", target) + find("happy", target)
    assert found.kept[added].tolist() == [0, 0]
    assert found.kept[: len(target.ids)].sum() == len(target.ids) - 2
    assert found.weights[:, find("cat", target)].nonzero()[:, 0].tolist() == find("cat", source)


@pytest.mark.parametrize("align", [replacement, replacement_by_authors])
def test_replacement_of_unequally_many_words_is_refused(read, align):
    with pytest.raises(ValueError, match='equally many words, got 2 .* and 3 .*; use mode="refine"'):
        align(read("a cat"), read("a small cat"))


# ---------------------------------------------------------------- textual inversions of several vectors


@pytest.fixture(scope="module", params=["<thing>", "mything"], ids=["brackets", "none"])
def taught(build, request):
    """A pipeline that was taught a word of three vectors, and the word."""
    pipe = build()
    pipe.load_textual_inversion({request.param: torch.randn(3, 128, generator=torch.Generator().manual_seed(0))})
    return Backbone(pipe), request.param


@pytest.mark.parametrize("prompt", ["a {} in the forest", "{}", "({}, red) beside a {}", "a red cat"])
def test_a_word_of_several_vectors_is_one_word(taught, prompt):
    backbone, word = taught
    tokens, plain = backbone.tokens(prompt.format(word, word)), backbone.tokens(prompt.format("cat", "cat"))
    count = prompt.count("{}")
    assert tokens.prompt == prompt.format(word, word) and len(tokens.ids) == len(plain.ids) + 2 * count
    assert [w for w, _ in tokens.words] == prompt.format(word, word).split()
    if count:
        named = [find(name, tokens) for name in (word, word.strip("<>"), word.upper())]
        assert named == [named[0]] * 3 and len(named[0]) == 3 * count
    found = replacement(plain, tokens).weights
    torch.testing.assert_close(found.sum(1), torch.ones(plain.length))


@pytest.mark.parametrize(
    "editor",
    [
        lambda word: PromptToPrompt(weights={word: 2.0}, cross_replace=1),
        lambda word: PromptToPrompt(cross_replace={word: 0.5, "default_": 1}),
        lambda word: PromptToPrompt(local_blend=LocalBlend(("cat", word))),
        lambda word: MasaCtrl(start_step=1, start_layer=1, words=("cat", word)),
        lambda word: Pix2PixZero(("cat", word)),
    ],
    ids=["weights", "windows", "blend", "MasaCtrl", "direction"],
)
def test_every_editor_takes_a_word_of_several_vectors(taught, picture, editor):
    backbone, word = taught
    targets = [] if isinstance(editor(word), Pix2PixZero) else [f"a red {word} in the forest"]
    source = "a red cat in the forest"
    found = edit(
        backbone,
        picture,
        source,
        targets,
        editor=editor(word),
        guidance=CFG(3),
        steps=2,
        attention=True,
        progress=False,
    )
    assert found.latents.isfinite().all()
    assert found.request.targets == (f"a red {word} in the forest",)


def test_the_words_that_a_prompt_holds_are_named_with_their_brackets(taught):
    backbone, word = taught
    with pytest.raises(ValueError, match=f"its words are a, {word}, front-view"):
        find("dog", backbone.tokens(f"a {word}, front-view"))


def test_a_prompt_that_only_looks_written_out_stays_as_it_is(backbone):
    tokens = tokenize("a cat cat_1", backbone.tokenizer, "a cat cat_1")
    assert [word for word, _ in tokens.words] == ["a", "cat", "cat_1"]
