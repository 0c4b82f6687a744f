"""A hyper-parameter is a field and a row: its option, its widget, and how a method is read and turned by it."""

import dataclasses
from dataclasses import dataclass

import pytest

import nmg
from nmg.lab import arguments, controls
from nmg.lab.controls import CONTROLS, EDITORS, GUIDANCES, METHODS, Control, controls_of, made, turned, values_of
from nmg.lab.profile import MENAGERIE
from nmg.lab.values import Number


def parsed(*options):
    return arguments.parser().parse_args(["edit", *options])


@dataclass(frozen=True)
class Calm(nmg.CFG):
    """A guidance with a hyper-parameter of its own."""

    calm: float = 0.25


@pytest.fixture
def calm(monkeypatch) -> Control:
    """What adding a guidance and its hyper-parameter takes: its class, an entry and a row."""
    row = Control((Calm,), "calm", Number(high=2.0), "how calm the edit is", "calmness")
    monkeypatch.setitem(GUIDANCES, "calm", Calm())
    for module in (controls, arguments):
        monkeypatch.setattr(module, "CONTROLS", (*CONTROLS, row))
    return row


def test_a_row_is_an_option(calm, capsys):
    assert made("guidance", parsed("--guidance", "calm", "--calm", "0.5", "--text-scale", "2")) == Calm(2.0, 0.5)
    assert made("guidance", parsed("--guidance", "calm")) == Calm()
    with pytest.raises(ValueError, match="--level belongs to --guidance noise-map or .*, not to calm"):
        made("guidance", parsed("--guidance", "calm", "--level", "end"))
    with pytest.raises(SystemExit):
        parsed("--help")
    assert "--calm F how calm the edit is (default: 0.25)" in " ".join(capsys.readouterr().out.split())


def test_every_row_is_a_field_and_has_a_name_of_its_own():
    names = [row.name for row in CONTROLS]
    assert len(set(names)) == len(names)
    given = parsed()
    for row in CONTROLS:
        fields = [{entry.name for entry in dataclasses.fields(kind)} for kind in row.of]
        assert all(row.field in names for names in fields)
        assert hasattr(given, row.name)


@pytest.mark.parametrize(
    ("role", "options", "expected"),
    [
        ("guidance", "", nmg.NoiseMap()),
        ("guidance", "noise-map --during 0 0.5 --no-jacobian", nmg.NoiseMap(during=(0.0, 0.5), jacobian=False)),
        ("guidance", "noise-map --noise-map-scale 3 2 1", nmg.NoiseMap(noise_map_scale=(3.0, 2.0, 1.0))),
        ("guidance", "noise-map --noise-map-scale 3 --energy l2", nmg.NoiseMap(noise_map_scale=3.0, energy="l2")),
        ("guidance", "noise-map --guard /m.png --outside 0.5", nmg.NoiseMap(mask="/m.png", outside=0.5)),
        ("guidance", "null-text --optimisation-steps 3", nmg.NullText(iterations=3)),
        ("guidance", "negative-prompt --text-scale 4", nmg.NegativePrompt(4.0)),
        (
            "guidance",
            "proximal --quantile 0.75 --proximal soft --pull none --pooled",
            nmg.ProxNegativePrompt(quantile=0.75, threshold="soft", pull="none", pooled=True),
        ),
        ("guidance", "direct", nmg.Direct()),
        ("guidance", "direct+noise-map --energy l2", nmg.Direct(10.0) + nmg.NoiseMap(energy="l2")),
        (
            "guidance",
            "null-text+noise-map --text-scale 5 --optimisation-steps 3",
            nmg.NullText(5.0, iterations=3) + nmg.NoiseMap(text_scale=5.0),
        ),
        ("inversion", "fixed-point --iterations 3 --average 2", nmg.FixedPoint(iterations=3, average=2)),
        ("inversion", "edit-friendly --residual-scale 3", nmg.EditFriendly(text_scale=3.0)),
        ("editor", "none", nmg.Editor()),
        (
            "editor",
            "prompt-to-prompt --weight snow=2 --weight cat=0.5 --cross-replace 0.3 --mode refine",
            nmg.PromptToPrompt("refine", cross_replace=0.3, weights={"snow": 2.0, "cat": 0.5}),
        ),
        (
            "editor",
            "prompt-to-prompt --blend cat fox --subtract snow snow --threshold 0.4",
            nmg.PromptToPrompt(local_blend=nmg.LocalBlend(("cat", "fox"), ("snow", "snow"), 0.4)),
        ),
        (
            "editor",
            "prompt-to-prompt --blend cat fox --threshold otsu",
            nmg.PromptToPrompt(local_blend=nmg.LocalBlend(("cat", "fox"), threshold="otsu")),
        ),
        (
            "editor",
            "masactrl --start-step 0.2 --start-layer 2 --words cat fox --threshold 0.4",
            nmg.MasaCtrl(0.2, 2, words=("cat", "fox"), threshold=0.4),
        ),
        ("editor", "masactrl --start-step 4", nmg.MasaCtrl(4)),
        ("editor", "masactrl --source-mask /a --target-mask /b", nmg.MasaCtrl(source_mask="/a", target_mask="/b")),
        ("editor", "pix2pix-zero --direction cat dog --amount 0.1", nmg.Pix2PixZero(("cat", "dog"), 0.1)),
        ("editor", "pix2pix-zero --direction /saved", nmg.Pix2PixZero("/saved")),
        ("editor", "pix2pix-zero --direction /a.txt dog", nmg.Pix2PixZero(("/a.txt", "dog"))),
    ],
)
def test_a_method_is_made_of_its_options(role, options, expected):
    words = [f"--{role}", *options.split()] if options else []
    assert made(role, parsed(*words)) == expected


@pytest.mark.parametrize("editor", EDITORS)
def test_an_editor_brings_the_guidance_that_suits_it(editor):
    direct = editor in controls.DIRECT.split(", ")
    assert direct == (EDITORS[editor].suits == "direct")
    assert made("guidance", parsed("--editor", editor)) == (nmg.Direct() if direct else nmg.NoiseMap())
    assert made("guidance", parsed("--editor", editor, "--guidance", "none")) == nmg.CFG()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            "--editor masactrl --self-replace 0.4",
            "--self-replace belongs to --editor prompt-to-prompt, not",
        ),
        ("--editor none --threshold 1", "--threshold belongs to --editor prompt-to-prompt or masactrl, not to none"),
        ("--amount 0.1", "--amount belongs to --editor pix2pix-zero, not to prompt-to-prompt"),
        ("--threshold 0.4", "--threshold needs --blend, which says: restrict the edit"),
        ("--subtract a a", "--subtract needs --blend"),
        ("--editor masactrl --threshold 0.4", "--threshold needs --words, which says: find the foreground"),
        ("--outside 0.5", "--outside needs --guard"),
        ("--guidance none --energy l2", r"--energy belongs to --guidance noise-map or null-text\+noise-map or direct"),
        ("--editor pix2pix-zero --direction a red cat", "--direction takes two sides or one file, got 3"),
    ],
)
def test_an_option_that_has_no_place_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        for role in METHODS:
            made(role, parsed(*options.split()))


def test_files_are_kept_with_their_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert made("guidance", parsed("--guard", "mask.png")).mask == str(tmp_path / "mask.png")
    texts = made("guidance", parsed("--guidance", "null-text", "--null-texts", "null.safetensors")).embeddings
    assert texts == str(tmp_path / "null.safetensors")


@pytest.mark.parametrize("options", ["", "--text-scale 2", "--guidance none", "--guidance none --text-scale 2"])
def test_a_model_has_scales_of_its_own_where_none_are_given(options):
    own = MENAGERIE.scales
    method = made("guidance", parsed(*options.split()), own)
    assert method.text_scale == (2.0 if "2" in options else own["text_scale"])
    assert "none" in options or method.noise_map_scale == nmg.NoiseMap().noise_map_scale


# ---------------------------------------------------------------- reading and turning


@pytest.mark.parametrize("table", METHODS.values(), ids=METHODS)
def test_every_method_is_turned_by_what_is_read_of_it(table):
    for name, method in table.items():
        assert turned(method, values_of(method)) == method
        assert controls.name_of(method, table) == name
        assert values_of(method).keys() == {row.name for row in controls_of(method)}


def test_a_control_turns_its_own_field_alone():
    guidance = nmg.NoiseMap(energy="l2", during=(0, 0.5))
    assert turned(guidance, {"noise_map_scale": 5.0, "amount": 1.0}) == dataclasses.replace(
        guidance, noise_map_scale=5.0
    )
    stack = turned(GUIDANCES["direct+noise-map"], {"text_scale": 4.0, "noise_map_scale": 7.0})
    assert stack == nmg.Direct(4.0) + nmg.NoiseMap(noise_map_scale=7.0, text_scale=4.0)
    blend = nmg.PromptToPrompt(local_blend=nmg.LocalBlend(("cat", "cat"), threshold=0.4))
    assert turned(blend, {"blend": ("red", "blue")}).local_blend == nmg.LocalBlend(("red", "blue"), threshold=0.4)
    assert turned(blend, {"blend": ()}).local_blend is None
    assert turned(EDITORS["prompt-to-prompt"], {"threshold": 0.2}).local_blend is None
    assert values_of(blend)["blend"] == ("cat", "cat") and values_of(nmg.PromptToPrompt())["blend"] == ()


def test_a_method_that_is_in_no_table_goes_by_its_class():
    assert controls.name_of(Calm(), GUIDANCES) == "Calm"
