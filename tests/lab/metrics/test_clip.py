import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from nmg.lab import metrics
from tests.lab.metrics.made import LONG, PROMPTS, SIDE


def direct_score(folder, pixels, prompt):
    """The score of one picture: PIL resizes and crops, and the towers are called one by one."""
    from transformers import CLIPModel, CLIPTokenizer

    network = CLIPModel.from_pretrained(folder).eval()
    picture = Image.fromarray((pixels.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    scale = SIDE / min(picture.size)
    picture = picture.resize([int(side * scale) for side in picture.size], Image.Resampling.BICUBIC)
    left, top = (picture.width - SIDE) // 2, (picture.height - SIDE) // 2
    array = np.asarray(picture.crop((left, top, left + SIDE, top + SIDE))) / 255
    array = (array - [0.5, 0.4, 0.3]) / [0.25, 0.3, 0.35]
    image = torch.from_numpy(array).float().permute(2, 0, 1)[None]
    tokens = CLIPTokenizer.from_pretrained(folder)(
        prompt, truncation=True, max_length=16, return_tensors="pt"
    ).input_ids
    u = network.visual_projection(network.vision_model(pixel_values=image).pooler_output)[0]
    v = network.text_projection(network.text_model(input_ids=tokens).pooler_output)[0]
    return 100 * max((u @ v / (u.norm() * v.norm())).item(), 0)


def test_clip_score_is_a_hundred_times_the_cosine(clip, pair):
    score = metrics.ClipScore(clip, "cpu")
    found = set()
    for pictures in pair:
        for prompts in (PROMPTS, PROMPTS[::-1], [LONG, ""]):
            expected = [direct_score(clip, *row) for row in zip(pictures, prompts, strict=True)]
            assert score(pictures, prompts).tolist() == pytest.approx(expected, abs=2e-3)
            found |= {round(value, 2) for value in expected}
    assert len(found) > 4, "the scores are too much alike to tell anything"
    assert max(found) > 1


def test_a_negative_cosine_scores_nothing(clip, pair):
    score = metrics.ClipScore(clip, "cpu")
    from nmg.lab.metrics import clip as module

    projection = module._clip(clip, torch.device("cpu"))[0].text_projection.weight
    scores = score(pair[0], PROMPTS)
    projection.data.neg_()
    negated = score(pair[0], PROMPTS)
    projection.data.neg_()
    assert torch.minimum(scores, negated).tolist() == [0, 0]
    assert torch.maximum(scores, negated).min() > 0


def test_a_regions_clip_score_is_that_of_the_masked_picture(clip, pair, region):
    score = metrics.ClipScore(clip, "cpu")
    torch.testing.assert_close(score(pair[0], PROMPTS, region), score(metrics.masked(pair[0], region), PROMPTS))
    assert not torch.allclose(score(pair[0], PROMPTS, region), score(pair[0], PROMPTS))


def test_weights_are_loaded_once(clip, pair, tmp_path):
    folder = shutil.copytree(clip, tmp_path / "clip")
    first = metrics.ClipScore(str(folder), "cpu")(pair[0], PROMPTS)
    shutil.rmtree(folder)
    torch.testing.assert_close(metrics.ClipScore(str(folder), "cpu")(pair[0], PROMPTS), first)


def test_every_picture_has_its_prompt(clip, pair):
    for prompts in (PROMPTS[:1], "ab"):
        with pytest.raises(ValueError, match="there are 2 pictures and .* for prompts"):
            metrics.ClipScore(clip, "cpu")(pair[0], prompts)


def test_the_direction_is_that_of_the_two_changes(clip, pair):
    from nmg.lab.metrics import clip as module

    network, tokenizer, _ = module._clip(clip, torch.device("cpu"))
    found = metrics.ClipDirection(clip, "cpu")(*pair, PROMPTS, PROMPTS[::-1])
    # Embeddings by the score's own cosines: E(picture) · E(prompt) of unit vectors, and the prompts' own.
    tokens = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    words = torch.nn.functional.normalize(
        network.text_projection(network.text_model(**tokens).pooler_output).detach(), dim=-1
    )
    seen, _ = module._embedded(clip, torch.device("cpu"), torch.cat(pair), [""])
    for row, sign in ((0, 1), (1, -1)):
        moved, said = seen[row] - seen[row + 2], sign * (words[0] - words[1])
        expected = (moved @ said / (moved.norm() * said.norm())).item()
        assert found[row].item() == pytest.approx(expected, abs=1e-3)


def test_nothing_that_changed_has_no_direction(clip, pair):
    score = metrics.ClipDirection(clip, "cpu")
    assert score(pair[0], pair[0], PROMPTS, PROMPTS[::-1]).tolist() == [0, 0]
    assert score(*pair, PROMPTS, PROMPTS).tolist() == [0, 0]
