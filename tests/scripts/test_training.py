"""The trainer fails where a training would fail in silence."""

import json

import pytest
import torch
from torch import nn

from nmg.menagerie import networks
from nmg.menagerie.captions import MAX_TOKENS, caption
from nmg.menagerie.scene import Scene
from scripts.training import losses
from scripts.training.data import Bank, Draw, coverage, tokenized
from scripts.training.muon import Muon, optimizers, orthogonal
from scripts.training.stage import Budget, Stage, compare_gradients, learning_rate, unmoved


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    with torch.enable_grad():
        yield


def stage(folder, network, loss, **options):
    return Stage("net", network, loss, lambda average: {}, folder, (0.01, 0.01), 2, warmup=0, **options)


class Cut(nn.Module):
    """Two layers, of which no gradient reaches the first."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.second(self.first(x).detach())


def squared(network, generator):
    x = torch.randn(2, 4, generator=generator)
    return (network(x) - x).square().mean(), {}


def test_weight_decay_alone_is_no_movement():
    start = {"weight": torch.randn(8, 8), "norm": torch.ones(8), "bias": torch.zeros(8)}
    decayed = {name: 0.9453 * tensor for name, tensor in start.items()}
    assert unmoved(start, decayed) == ["weight", "norm", "bias"]
    trained = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in decayed.items()}
    assert unmoved(start, trained) == []


def test_a_save_refuses_a_network_that_no_gradient_reaches(tmp_path):
    torch.manual_seed(0)
    with pytest.raises(RuntimeError, match=r"2 of 4 tensors did not move.*first\.weight"):
        stage(tmp_path, Cut(), lambda network, generator: (network(torch.ones(2, 4)).square().mean(), {})).run(
            Budget(samples=20)
        )
    assert not (tmp_path / "net.pt").exists()


def test_a_stage_resumes_where_it_ended(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 4))
    first = stage(tmp_path, network, squared)
    first.run(Budget(samples=20))
    again = stage(tmp_path, nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 4)), squared)
    assert again.samples == first.samples == 20
    for one, other in zip(first.average.parameters(), again.average.parameters(), strict=True):
        assert torch.equal(one, other)
    again.run(Budget(samples=40))
    rows = [json.loads(line) for line in (tmp_path / "net.jsonl").read_text().splitlines()]
    assert [row["samples"] for row in rows] == [20, 40]


def test_a_compiled_network_must_have_the_eager_gradients():
    network, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.randn(3, 4)
    compare_gradients(network, lambda: network(x).square().sum(), lambda: network(x).square().sum())
    lossy = lambda: network[1](network[0](x).detach()).square().sum()  # noqa: E731
    with pytest.raises(RuntimeError, match=r"loses the gradient of 2 of 4 parameters \(0\.weight"):
        compare_gradients(network, lambda: network(x).square().sum(), lossy)


def test_muon_steps_have_the_rate_as_their_size():
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(3, 16, 40)))
    assert values.min() > 0.6 and values.max() < 1.3
    assert torch.equal(orthogonal(torch.ones(1, 3, 2)), orthogonal(torch.ones(1, 2, 3)).mT)
    for shape in ((16, 40), (8, 4, 3, 3)):
        parameter = nn.Parameter(torch.zeros(shape).to(memory_format=torch.preserve_format))
        parameter.grad = torch.randn(shape)
        Muon([parameter], lr=0.1).step()
        assert 0.06 < torch.linalg.svdvals(parameter.detach().flatten(1)).mean() < 0.13


def test_muon_trains_hidden_matrices_and_adamw_the_rest():
    unet = networks.build_unet((16, 16))
    muon, adamw = optimizers(unet, (torch.tensor(0.01), torch.tensor(0.001)))
    sizes = {id(p): name for name, p in unet.named_parameters()}
    matrices = {sizes[id(p)] for group in muon.param_groups for p in group["params"]}
    rest = {sizes[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert matrices | rest == set(sizes.values()) and not matrices & rest
    assert "conv_in.weight" in rest and "mid_block.resnets.0.conv1.weight" in matrices


def test_the_rate_warms_up_and_ends_low():
    assert learning_rate(0, 0) < 0.01 and learning_rate(0.01, 10**6) > 0.95
    assert learning_rate(1, 10**6) == pytest.approx(0.03)


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return Bank(tmp_path_factory.mktemp("bank"), 4, 1, torch.device("cpu"))


def test_scenes_are_drawn_from_those_that_are_ready(bank):
    draw, generator = Draw(bank, 200, 2), torch.Generator().manual_seed(0)
    assert draw(generator).unique().tolist() == [0, 1]
    draw.ready.fill_(bank.follow())
    assert draw(generator).unique().tolist() == [0, 1, 2, 3]


def test_a_rendering_that_was_cut_short_goes_on_and_is_kept(tmp_path, monkeypatch):
    whole = Bank(tmp_path / "whole", 4, 1, torch.device("cpu"))
    folder = tmp_path / "cut"
    (folder / "tokenizer").mkdir(parents=True)
    begun = Bank(folder, 4, 1, torch.device("cpu"))
    for name, path in begun.paths.items():
        assert torch.equal(begun.columns[name], whole.columns[name]), name
        path.rename(path.with_suffix(".part"))
    begun.columns["answers"][:2] = 77  # Rows that count as rendered are not drawn again; they are mapped privately.
    (folder / "rendered_4.txt").write_text("4")
    assert Bank(folder, 4, 1, torch.device("cpu")).ready == 4
    assert all(path.exists() for path in begun.paths.values()) and not (folder / "rendered_4.txt").exists()


def test_a_bank_whose_rendering_stopped_says_so(bank):
    bank._rendered = 2
    with pytest.raises(RuntimeError, match="stopped after 2 of 4 scenes"):
        bank.follow(3)
    bank._rendered = 4


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return networks.build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_words_that_look_where_they_name_cost_nothing(tokenizer):
    words = losses.Words(tokenizer, torch.device("cpu"))
    scene = Scene("cat", "orange", "forest", "smiling", seed=3)
    tokens = tokenized(tokenizer, [caption(scene)])
    masks = (torch.from_numpy(coverage(scene))[None] > 127).float()
    figure, head = masks[0].flatten(1)
    maps = torch.zeros(1, 256, MAX_TOKENS) + 1e-6
    vocabulary = tokenizer.get_vocab()
    for word, place in {
        "cat": figure,
        "orange": figure,
        "sitting": figure,
        "smiling": head,
        "forest": 1 - figure,
    }.items():
        maps[0, :, tokens[0].tolist().index(vocabulary[f"{word}</w>"])] = place
    assert words.loss([maps], tokens, masks) < 1e-3
    assert words.loss([torch.ones(1, 256, MAX_TOKENS)], tokens, masks) > 0.5
    # Maps of the right shape and no strength: all of the attention is paid to the padding.
    assert words.loss([1e-3 * maps], tokens, masks) > 1
    spot = torch.zeros(1, 256, MAX_TOKENS) + 1e-3
    spot[0, int(figure.nonzero()[0])] = 1
    assert words.loss([spot], tokens, masks) > 0.5


def test_a_layer_that_gives_all_to_one_token_is_brought_back(tokenizer):
    """A softmax that is saturated has no gradient of its own: the bundled model's 8×8 layers once read nothing."""
    words, scene = losses.Words(tokenizer, torch.device("cpu")), Scene("cat", "orange", "forest", seed=3)
    tokens = tokenized(tokenizer, [caption(scene)])
    scores = torch.zeros(1, 64, MAX_TOKENS)
    scores[..., -1] = 30
    scores.requires_grad_()
    masks = torch.from_numpy(coverage(scene))[None] / 255
    words.loss([scores.softmax(-1)], tokens, masks).backward()
    cat = tokens[0].tolist().index(tokenizer.get_vocab()["cat</w>"])
    inside = torch.nn.functional.avg_pool2d(masks, 2)[0, 0].flatten() > 0.9
    assert scores.grad[0, inside, -1].mean() > 1e-3 and scores.grad[0, inside, cat].mean() < -1e-3


def test_captions_are_none_the_canonical_one_or_another(bank, tokenizer):
    chosen = torch.zeros(4000, dtype=torch.long)
    empty = tokenized(tokenizer, [""])[0]
    texts = losses.drawn_text(Draw(bank, 4000, 4), chosen, empty, torch.Generator().manual_seed(0))
    own = bank.columns["captions"][0].long()
    none = (texts == empty).all(1).float().mean().item()
    canonical = (texts == own[0]).all(1).float().mean().item()
    assert none == pytest.approx(losses.EMPTY, abs=0.02)
    repeated = (own[1:] == own[0]).all(1).float().mean().item()
    share = (1 - losses.EMPTY) * (losses.FULL + (1 - losses.FULL) * repeated)
    assert canonical == pytest.approx(share, abs=0.03)
    assert (texts[:, None] == torch.cat([own, empty[None]])).all(2).any(1).all()


def test_all_of_a_denoiser_gets_a_gradient(bank, tokenizer):
    torch.manual_seed(0)
    denoiser = losses.Denoiser(networks.build_text_encoder(tokenizer), networks.build_unet((16, 16)))
    # Layers that begin at zero hide those before them for one step.
    for parameter in denoiser.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    draw, latents = Draw(bank, 4, 4), torch.randn(4, 8, 16, 16)
    make = losses.denoiser_loss(draw, latents, tokenizer, networks.build_scheduler())
    loss, figures = make(denoiser, torch.Generator().manual_seed(0))
    loss.backward()
    assert figures["looks"] > 0
    assert [name for name, p in denoiser.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_beginning_of_a_training_shows_the_noisier_half_alone(bank, tokenizer):
    asked = []

    def network(latents, timesteps, tokens):
        asked.append(timesteps)
        return latents, [torch.ones(len(latents), 256, MAX_TOKENS) / MAX_TOKENS]

    draw, latents = Draw(bank, 64, 4), torch.randn(4, 8, 16, 16)
    loss = losses.denoiser_loss(draw, latents, tokenizer, networks.build_scheduler(), noisy=0.1)
    for spent in (0.05, 0.5):
        loss.pace(spent)
        loss(network, torch.Generator().manual_seed(0))
    assert asked[0].min() >= 500 and asked[1].min() < 500
