import subprocess
import sys

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from diffusers.callbacks import SDCFGCutoffCallback

import nmg
from nmg.menagerie import Scene
from nmg.menagerie.scene import SIZE
from nmg.pipelines import NoiseMapGuidancePipeline


@pytest.fixture(scope="module")
def pipe():
    pipe = nmg.load("menagerie")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def trajectory(pipe):
    return pipe.invert(Scene("cat", "red").render(), "a red cat", num_inference_steps=3)


def test_load_gives_a_pipeline_that_edits(pipe):
    assert isinstance(pipe, NoiseMapGuidancePipeline)
    assert pipe.unet.dtype == pipe.vae.dtype == pipe.text_encoder.dtype == torch.float32
    assert nmg.Backbone(pipe).name == "menagerie"


def test_a_model_that_is_nowhere_is_an_error(tmp_path):
    for model in (str(tmp_path), "no/where"):
        with pytest.raises(OSError, match="'menagerie', which is bundled"):
            nmg.load(model)


def test_a_folder_of_a_class_that_is_not_installed_is_an_error(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "PipelineOfTomorrow", "_diffusers_version": "9.0"}')
    with pytest.raises(OSError, match=f"can't be read by diffusers {diffusers.__version__} and .*PipelineOfTomorrow"):
        nmg.load(str(tmp_path))


def test_the_call_is_the_functional_core(pipe, trajectory):
    out = pipe("a blue cat", trajectory, guidance_scale=4.0, noise_map_scale=3.0, output_type="latent").images
    guidance = nmg.NoiseMap(noise_map_scale=3.0, text_scale=4.0)
    torch.testing.assert_close(
        out, nmg.edit(pipe, trajectory, targets=["a blue cat"], guidance=guidance, progress=False).latents
    )


def test_every_output_type_shows_the_same_picture(pipe, trajectory):
    pil, array, tensor = (pipe(["a blue cat"], trajectory, output_type=kind).images for kind in ("pil", "np", "pt"))
    assert len(pil) == 2 and array.shape == (2, SIZE, SIZE, 3) and tensor.shape == (2, 3, SIZE, SIZE)
    np.testing.assert_allclose(array, tensor.permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(np.asarray(pil[1]) / 255, array[1], atol=0.5 / 255 + 1e-6)
    assert isinstance(pipe("a blue cat", trajectory, return_dict=False), tuple)
    with pytest.raises(ValueError, match="output_type"):
        pipe("a blue cat", trajectory, output_type="oil")


def test_a_callback_sees_each_step_and_can_change_latents(pipe, trajectory):
    seen = []

    def watch(pipe, index, timestep, given):
        seen.append((index, timestep))
        return {"latents": given["latents"] * 0} if index == 2 else {}

    out = pipe("a blue cat", trajectory, output_type="latent", callback_on_step_end=watch).images
    assert seen == [(step.index, step.timestep) for step in trajectory.steps]
    torch.testing.assert_close(out, torch.zeros_like(out))


def test_a_callback_can_interrupt(pipe, trajectory):
    seen = []

    def stop(pipe, index, timestep, given):
        seen.append(index)
        pipe._interrupt = index == 1
        return {}

    pipe("a blue cat", trajectory, callback_on_step_end=stop, output_type="latent")
    assert seen == [0, 1]


def test_diffusers_own_interface_holds_in_a_callback(pipe, trajectory):
    seen = []

    def watch(pipe, index, timestep, given):
        seen.append((pipe.num_timesteps, pipe.guidance_scale, pipe.do_classifier_free_guidance, pipe.interrupt))
        assert pipe.clip_skip is None and pipe.cross_attention_kwargs is None and set(given) == {"latents"}

    pipe("a blue cat", trajectory, guidance_scale=4.0, callback_on_step_end=watch, output_type="latent")
    assert seen == [(3, 4.0, True, False)] * 3


@pytest.mark.parametrize("guidance", [nmg.CFG(4.0), nmg.NoiseMap(text_scale=4.0), nmg.Direct(4.0) + nmg.CFG(4.0)])
def test_the_cut_off_of_the_text_scale_takes_effect(pipe, trajectory, guidance):
    """diffusers' own callback, after the first step: from then on the text alone is followed."""
    cut = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
    options = {"guidance": guidance, "output_type": "latent"}
    out = pipe("a blue cat", trajectory, callback_on_step_end=cut, **options).images
    assert pipe.guidance_scale == 0

    run = nmg.prepare(pipe, trajectory, ["a blue cat"])
    x = run.start
    for step in run.steps:
        now = (guidance if step.index == 0 else guidance.rescaled(1.0)).prepare(run)
        x = now.steer(run, step, x)
        editor = nmg.PromptToPrompt().prepare(run)
        eps = run.predict(torch.cat([x, x]), step, torch.cat([run.null, run.text]), editor.attend(run, step))
        x = now.correct(run, step, run.down(x, now.combine(run, step, eps), step), eps)
    torch.testing.assert_close(out, x, rtol=1e-3, atol=1e-3)


def test_a_scale_that_a_callback_sets_holds_from_the_next_step_on(pipe, trajectory):
    def turn(pipe, index, timestep, given):
        pipe._guidance_scale = 9.0

    options = {"guidance": nmg.CFG(2.0), "output_type": "latent"}
    turned = pipe("a blue cat", trajectory, callback_on_step_end=turn, **options).images
    low, high = (
        pipe("a blue cat", trajectory, **options | {"guidance": nmg.CFG(scale)}).images for scale in (2.0, 9.0)
    )
    assert min((turned - other).abs().max() for other in (low, high)) > 1e-3


@pytest.mark.parametrize("change", [lambda text: text * 2, lambda text: text[-1:]], ids=["other", "cut"])
def test_another_text_from_a_callback_is_refused(pipe, trajectory, change):
    def other(pipe, index, timestep, given):
        return {"prompt_embeds": change(given["prompt_embeds"])}

    with pytest.raises(ValueError, match="returned another prompt_embeds, and the text of an edit stays the same"):
        pipe(
            "a blue cat",
            trajectory,
            callback_on_step_end=other,
            callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
        )


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"clip_skip": 1}, TypeError, "clip_skip can't be given to an edit: .* encoder with fewer layers"),
        ({"cross_attention_kwargs": {"scale": 0.5}}, TypeError, "set a LoRA's weight by pipe.set_adapters"),
        ({"num_inference_steps": 20}, TypeError, "give it to `invert`"),
        ({"height": 512}, TypeError, r"give size=\(width, height\) to `invert`"),
        ({"eyes": 2}, TypeError, "eyes can't be given to an edit: there is no such argument"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, ValueError, "callbacks can have latents and prompt_embeds"),
    ],
    ids=str,
)
def test_what_an_edit_has_no_use_for_is_refused(pipe, trajectory, given, error, said):
    with pytest.raises(error, match=said):
        pipe("a blue cat", trajectory, **given)


def test_what_is_none_is_not_given(pipe, trajectory):
    options = {"clip_skip": None, "cross_attention_kwargs": None, "output_type": "latent"}
    assert pipe("a blue cat", trajectory, **options).images.isfinite().all()


def test_saved_and_loaded_again_it_edits_the_same(pipe, trajectory, tmp_path):
    import dataclasses

    pipe.save_pretrained(tmp_path)
    again = NoiseMapGuidancePipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    moved = dataclasses.replace(trajectory, model=str(tmp_path))
    options = {"guidance": nmg.NoiseMap(text_scale=3.0), "output_type": "latent"}
    edits = [p("a blue cat", t, **options).images for p, t in ((pipe, trajectory), (again, moved))]
    torch.testing.assert_close(*edits)
    assert type(DiffusionPipeline.from_pretrained(tmp_path)) is StableDiffusionPipeline


@pytest.mark.parametrize("name", ["load", "NoiseMapGuidancePipeline"])
def test_pipelines_come_when_they_are_asked_for(name):
    script = f"import sys, nmg; assert 'diffusers' not in sys.modules; print(nmg.{name}.__name__)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == name, done.stderr


def test_default_scales_follow_the_model(pipe, sd_shaped):
    assert nmg.default_guidance(sd_shaped) == nmg.NoiseMap()
    assert nmg.default_guidance(pipe).text_scale < nmg.NoiseMap().text_scale
    assert nmg.default_guidance(pipe, text_scale=None, noise_map_scale=2.0).noise_map_scale == 2.0


def test_scales_that_are_not_given_are_the_models_own(pipe, trajectory):
    expected = nmg.edit(
        pipe, trajectory, targets=["a blue cat"], guidance=nmg.default_guidance(pipe), progress=False
    ).latents
    torch.testing.assert_close(pipe("a blue cat", trajectory, output_type="latent").images, expected)
    torch.testing.assert_close(nmg.edit(pipe, trajectory, targets=["a blue cat"], progress=False).latents, expected)
    assert nmg.default_guidance(nmg.Backbone(pipe)) == nmg.default_guidance(pipe)
