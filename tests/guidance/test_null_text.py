import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from nmg import (
    CFG,
    Backbone,
    Editor,
    NoiseMap,
    NullText,
    NullTexts,
    denoise,
    edit,
    find_null_texts,
    invert,
    prepare,
    steps,
)
from nmg.run import Run

SOURCE, TARGET = "a red cat sitting in the forest, front view", "a blue cat sitting in the forest, front view"
THOROUGH = {"tolerance": 0.0, "growth": 0.0}
"""No search ends early."""


@pytest.fixture(scope="module")
def trajectory(backbone, picture):
    return invert(backbone, picture, SOURCE, steps=3, progress=False)


@pytest.fixture(scope="module")
def run(backbone, trajectory):
    return prepare(backbone, trajectory, [TARGET])


@pytest.fixture(scope="module")
def texts(backbone, trajectory):
    """What a search of three iterations finds."""
    return find_null_texts(backbone, trajectory, NullText(iterations=3), progress=False)


@pytest.fixture
def losses(monkeypatch):
    """The mean squared distances that the searches look at, by step."""
    seen, text_gradient = {}, Run.text_gradient

    def watched(self, x, step, *given):
        gradient, energy = text_gradient(self, x, step, *given)
        seen.setdefault(step.index, []).append(energy.item() / x.numel())
        return gradient, energy

    monkeypatch.setattr(Run, "text_gradient", watched)
    return seen


def rows_of(run, guidance):
    return [x for _, x in denoise(run, guidance, Editor())]


# ---------------------------------------------------------------- the search


def test_every_steps_loss_falls(run, losses):
    rows_of(run, NullText(**THOROUGH))
    assert [len(seen) for seen in losses.values()] == [10] * 3
    assert all(seen[-1] < seen[0] for seen in losses.values())


def test_a_search_ends_below_its_threshold(run, losses):
    config = NullText(3.0, iterations=200, tolerance=0.05, growth=0.01)
    search = config.search(run)
    rows_of(run, search)
    for step, (_, loss) in zip(run.steps, search.found, strict=True):
        seen = losses[step.index]
        assert len(seen) < 200 and loss == pytest.approx(seen[-1])
        assert seen[-1] < config.limit_at(run, step) <= min(seen[:-1], default=math.inf)


def test_the_source_row_ends_nearer_to_its_maps_than_by_text_guidance_alone(run):
    plain, guided = (rows_of(run, guidance) for guidance in (CFG(), NullText()))
    for step, without, found in zip(run.steps, plain, guided, strict=True):
        far, near = ((x[:1] - run.trajectory.target(step)).square().mean() for x in (without, found))
        assert near < 0.7 * far


def test_the_last_look_of_a_search_is_the_guided_step_before_the_last_update(run, losses):
    """With one iteration the loss is that of the embedding that the search begins with."""
    search = NullText(4.0, iterations=1).search(run)
    rows_of(run, search)
    step = run.steps[0]
    eps = run.predict(run.start, step, torch.cat([run.null[:1], run.text[:1]]))
    ended = run.down(run.start[:1], eps[:1] + 4 * (eps[1:] - eps[:1]), step)
    assert_close(search.found[0][1], F.mse_loss(ended, run.trajectory.target(step)).item(), rtol=1e-3, atol=1e-6)
    assert losses[0] == [pytest.approx(search.found[0][1])]


def algorithm_1(pipe, trajectory, w, inner, rate=1e-2, tolerance=1e-5, growth=2e-5):
    """Null-text inversion as its algorithm 1 has it, for 50 steps or what stands for them: embeddings and latents."""
    alphas, times = pipe.scheduler.alphas_cumprod, [step.timestep for step in trajectory.steps]
    ends = [alphas[t] for t in times[1:]] + [alphas[0]]
    condition, null = (pipe.encode_prompt([prompt], "cpu", 1, False)[0] for prompt in (trajectory.prompt, ""))
    z, found, path = trajectory.maps[-1:], [], []

    def step(z, t, end, null, under):
        without = pipe.unet(z, t, encoder_hidden_states=null).sample
        eps = without + w * (under - without)
        clean = (z - (1 - alphas[t]).sqrt() * eps) / alphas[t].sqrt()
        return end.sqrt() * clean + (1 - end).sqrt() * eps

    for i, (t, end) in enumerate(zip(times, ends, strict=True)):
        target = trajectory.maps[len(times) - 1 - i][None]
        share = 50 * i / len(times)
        with torch.no_grad():
            under = pipe.unet(z, t, encoder_hidden_states=condition).sample
        with torch.enable_grad():
            null = null.detach().clone().requires_grad_()
            adam = torch.optim.Adam([null], lr=rate * (1 - share / 100))
            for _ in range(inner):
                loss = F.mse_loss(step(z, t, end, null, under), target)
                adam.zero_grad()
                loss.backward(inputs=[null])
                adam.step()
                if loss.item() < tolerance + share * growth:
                    break
        with torch.no_grad():
            z = step(z, t, end, null, under)
        found.append(null.detach())
        path.append(z)
    return torch.cat(found), path


@pytest.mark.parametrize(
    ("scale", "iterations", "options"),
    [(7.5, 3, {}), (2.0, 8, {"tolerance": 0.02, "growth": 2e-3, "rate": 0.02})],
    ids=["published", "ends early"],
)
def test_the_search_is_algorithm_1(tiny, backbone, trajectory, scale, iterations, options):
    config = NullText(scale, iterations, **options)
    run = prepare(backbone, trajectory)
    search = config.search(run)
    embeddings, path = algorithm_1(tiny(), trajectory, scale, iterations, **options)
    for x, expected in zip(rows_of(run, search), path, strict=True):
        assert_close(x, expected, rtol=1e-2, atol=1e-2)
    # Adam moves elements whose gradient is near 0 by the sign of its rounding.
    error = (search.texts(run).embeddings - embeddings).abs()
    assert error.quantile(0.98) < 1e-3 and error.mean() < 1e-4


def test_targets_are_guided_by_the_embeddings_too(run):
    search = NullText(5.0, iterations=2).search(run)
    x = run.start
    for step, latents in denoise(run, search, Editor()):
        null = run.null.with_tokens(search.found[step.index][0])
        assert torch.equal(search.null(run, step), null)
        eps = run.predict(torch.cat([x, x]), step, torch.cat([null, run.text]))
        assert_close(latents, run.down(x, CFG(5).combine(run, step, eps), step), rtol=1e-4, atol=1e-4)
        x = latents


def test_a_search_begins_with_the_negative_prompt_and_then_where_the_step_before_ended(run, monkeypatch):
    begun, optimised = [], type(NullText().search(run)).optimised
    monkeypatch.setattr(
        type(NullText().search(run)),
        "optimised",
        lambda self, run, step, z, null: begun.append(null) or optimised(self, run, step, z, null),
    )
    search = NullText(iterations=1).search(run)
    rows_of(run, search)
    assert torch.equal(begun[0], run.null[:1].tokens)
    assert all(torch.equal(start, found) for start, (found, _) in zip(begun[1:], search.found, strict=False))


def test_rates_and_thresholds_are_the_published_ones_at_50_steps(backbone, trajectory):
    longer = dataclasses.replace(trajectory, steps=steps(backbone.scheduler, 50))
    run = dataclasses.replace(prepare(backbone, trajectory), trajectory=longer)
    for i, step in enumerate(run.steps):
        assert NullText().rate_at(run, step) == pytest.approx(1e-2 * (1 - i / 100))
        assert NullText().limit_at(run, step) == pytest.approx(1e-5 + i * 2e-5)


def test_other_numbers_of_steps_go_over_the_same_range(run):
    rates = [NullText().rate_at(run, step) for step in run.steps]
    limits = [NullText().limit_at(run, step) for step in run.steps]
    assert rates == pytest.approx([1e-2 * (1 - share / 2) for share in (0, 1 / 3, 2 / 3)])
    assert limits == pytest.approx([1e-5 + 50 * 2e-5 * share for share in (0, 1 / 3, 2 / 3)])


def test_the_networks_weights_get_no_gradient(backbone, run):
    rows_of(run, NullText(iterations=1))
    assert all(weight.grad is None and weight.requires_grad for weight in backbone.unet.parameters())


def test_a_search_is_fresh_for_every_run(run):
    config = NullText(iterations=2)
    assert config.prepare(run) is not config.prepare(run)
    assert torch.equal(rows_of(run, config)[-1], rows_of(run, config)[-1])


def test_an_unprepared_null_text_says_so(run):
    with pytest.raises(RuntimeError, match=r"prepared for a run before its hooks are called; `nmg\.denoise` does so"):
        NullText().null(run, run.steps[0])


# ---------------------------------------------------------------- null texts that are kept


def test_found_texts_reproduce_the_searchs_run_exactly(run, tmp_path):
    search, path = NullText(iterations=3).search(run), tmp_path / "null.safetensors"
    searched, found = rows_of(run, search), search.texts(run)
    found.save(path)
    for given in (found, path, str(path), NullTexts.load(path)):
        known = rows_of(run, NullText(embeddings=given))
        assert all(torch.equal(a, b) for a, b in zip(known, searched, strict=True))


def test_what_is_saved_is_loaded_exactly(texts, tmp_path):
    texts.save(tmp_path / "null.safetensors")
    loaded = NullTexts.load(tmp_path / "null.safetensors")
    assert torch.equal(loaded.embeddings, texts.embeddings)
    for field in ("losses", "text_scale", "prompt", "model"):
        assert getattr(loaded, field) == getattr(texts, field)


def test_texts_that_were_found_alone_guide_the_source_beside_targets(backbone, trajectory, run, texts):
    alone = rows_of(prepare(backbone, trajectory), NullText(iterations=3))
    together = rows_of(run, NullText(embeddings=texts))
    # A batch of another size rounds otherwise.
    for x, expected in zip(together, alone, strict=True):
        assert_close(x[:1], expected, rtol=1e-2, atol=1e-2)


def test_known_texts_are_not_searched_again(run, texts, losses):
    rows_of(run, NullText(embeddings=texts))
    assert not losses


def test_what_is_found_says_what_it_was_found_for(run, texts, trajectory):
    assert texts.embeddings.shape == (3, *run.text.shape[1:]) and texts.embeddings.dtype == torch.float32
    assert (texts.text_scale, texts.prompt, texts.model) == (7.5, trajectory.prompt, trajectory.model)
    assert len(texts.losses) == 3 and all(math.isfinite(loss) for loss in texts.losses)
    assert not texts.embeddings.requires_grad


def test_a_search_ignores_the_embeddings_of_an_earlier_one(backbone, trajectory, texts):
    again = find_null_texts(backbone, trajectory, NullText(iterations=3, embeddings=texts), progress=False)
    assert torch.equal(again.embeddings, texts.embeddings)


def test_an_edit_takes_found_texts(backbone, trajectory, texts):
    searched, known = (
        edit(backbone, trajectory, guidance=guidance, progress=False).latents
        for guidance in (NullText(iterations=3), NullText(embeddings=texts))
    )
    assert torch.equal(known, searched)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"embeddings": torch.zeros(4, 77, 8), "losses": (0.0,) * 4}, "steps is 4 and the run's is 3; find them again"),
        ({"text_scale": 3.0}, r"text scale is 3\.0 and the run's is 7\.5"),
        ({"prompt": "a dog"}, "source prompt is 'a dog' and the run's is 'a red cat"),
        ({"model": "owner/other", "network": None}, "was made with 'owner/other', and the pipeline is"),
    ],
    ids=["steps", "scale", "prompt", "model"],
)
def test_texts_of_another_run_are_refused(backbone, trajectory, texts, changed, message, tmp_path):
    other = dataclasses.replace(texts, **changed)
    other.save(tmp_path / "null.safetensors")
    for given in (other, tmp_path / "null.safetensors"):
        with pytest.raises(ValueError, match=message):
            edit(backbone, trajectory, guidance=NullText(embeddings=given), progress=False)


def test_files_that_hold_no_texts_are_refused(run, trajectory, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"there is no null texts at .*none.*; make them with nmg.find_null_texts"
    ):
        NullText(embeddings=tmp_path / "none.safetensors").opened()
    trajectory.save(tmp_path / "maps.safetensors")
    with pytest.raises(ValueError, match="holds no null texts of this version; make them with"):
        NullTexts.load(tmp_path / "maps.safetensors")


@pytest.mark.parametrize("iterations", [0, -1, 2.5, True, "10"])
def test_iterations_that_are_no_whole_number_are_refused(iterations, unchecked):
    with pytest.raises(ValueError, match=r"NullText: iterations=.* must be a whole number from 1 on, such as 10"):
        NullText(iterations=iterations)


@pytest.mark.parametrize("name", ["text_scale", "rate", "tolerance", "growth"])
def test_settings_that_are_no_finite_number_are_refused(name):
    with pytest.raises(ValueError, match=f"NullText: {name}=nan must be a finite number"):
        NullText(**{name: math.nan})


def test_the_defaults_are_the_papers():
    assert NullText() == NullText(7.5, 10, 1e-2, 1e-5, 2e-5, None)


# ---------------------------------------------------------------- under noise map guidance


STEERED = NoiseMap(gradient_scale=5.0, text_scale=7.5)


def test_with_noise_map_guidance_the_source_ends_nearer_to_its_maps_than_by_it_alone(run):
    alone, both = (rows_of(run, guidance) for guidance in (STEERED, STEERED + NullText(iterations=5)))
    for step, without, found in zip(run.steps, alone, both, strict=True):
        far, near = ((x[:1] - run.trajectory.target(step)).square().mean() for x in (without, found))
        assert near < far


@pytest.mark.parametrize("order", ["NoiseMap + NullText", "NullText + NoiseMap"])
def test_the_search_starts_where_noise_map_guidance_leads(run, monkeypatch, order):
    begun, kind = [], type(NullText().search(run))
    optimised = kind.optimised
    monkeypatch.setattr(
        kind, "optimised", lambda self, run, step, z, null: begun.append(z) or optimised(self, run, step, z, null)
    )
    guidance = STEERED + NullText(iterations=1) if order[:5] == "Noise" else NullText(iterations=1) + STEERED
    x = run.start
    for step, latents in denoise(run, guidance, Editor()):
        assert_close(begun[step.index], STEERED.steer(run, step, x)[:1])
        x = latents


# ---------------------------------------------------------------- where it runs


def test_a_search_works_in_inference_mode(backbone, trajectory, texts):
    with torch.inference_mode():
        found = find_null_texts(backbone, trajectory, NullText(iterations=3), progress=False)
    assert torch.equal(found.embeddings, texts.embeddings) and found.losses == texts.losses


def test_a_search_works_in_half_precision(build, picture):
    pipe = build().to(torch.bfloat16)
    trajectory = invert(pipe, picture, SOURCE, steps=2, progress=False)
    found = find_null_texts(pipe, trajectory, NullText(iterations=3), progress=False)
    assert found.embeddings.dtype == torch.float32 and found.embeddings.isfinite().all()
    run = prepare(pipe, trajectory, [TARGET])
    searched, known = (rows_of(run, NullText(iterations=3, embeddings=given)) for given in (None, found))
    assert_close(known[-1], searched[-1], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_every_prediction_type_is_searched(tiny, picture, prediction_type):
    backbone = Backbone(tiny(prediction_type=prediction_type))
    trajectory = invert(backbone, picture, SOURCE, steps=1, progress=False)
    first, last = (
        find_null_texts(backbone, trajectory, NullText(iterations=n, **THOROUGH), progress=False).losses[0]
        for n in (1, 4)
    )
    assert last < first
