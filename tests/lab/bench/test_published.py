from nmg.lab.bench import published
from nmg.lab.bench.columns import SUITES


def test_every_row_names_its_source_and_has_values_of_the_protocol():
    assert set(published.UNITS) <= set(SUITES["pie"])
    for row in published.PIE_BENCH:
        assert "arXiv" in row.source and row.values and set(row.values) <= set(published.UNITS)
    assert {row.editor for row in published.PIE_BENCH} == {"PromptToPrompt", "MasaCtrl", "Pix2PixZero", "PlugAndPlay"}
    assert [row.values["psnr_outside"] for row in published.rows("MasaCtrl")] == [22.17, 22.64]


def test_the_two_rows_of_nmg_are_by_two_other_papers():
    first, second = (row for row in published.PIE_BENCH if row.method == "NMG")
    assert "2503.02187" in first.source and first.values["structure"] == 13.2 and "mse_outside" not in first.values
    assert "2506.02560" in second.source and second.values["mse_outside"] == 107.95
    # The note's number: the mean MSE over the geometric mean that the PSNR implies.
    implied = 1e4 * 10 ** (-second.values["psnr_outside"] / 10)
    assert f"{second.values['mse_outside'] / implied:.1f} times" in second.note


def test_what_others_reach_is_said_with_what_it_ran_on():
    said = published.anchors()
    assert "on Stable Diffusion 1.4 with Prompt-to-Prompt DCI 29.38, SPDInv 28.60" in said and "on FLUX UniEdit" in said
    assert all("Stable Diffusion" in model or "FLUX" in model for model in published.ANCHORS)
