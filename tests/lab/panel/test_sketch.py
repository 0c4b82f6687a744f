"""A request at few steps asks for the same."""

import nmg
from nmg.lab.panel.sketch import sketched
from tests.lab.panel.conftest import changed


def test_what_counts_in_steps_is_brought_to_its_share():
    scales = tuple(float(i) for i in range(50))
    asked = changed(guidance=nmg.NoiseMap(noise_map_scale=scales), editor=nmg.MasaCtrl(start_step=10), steps=50)
    few = sketched(asked, 5)
    assert few.steps == 5 and few.editor.start_step == 0.2
    assert few.guidance.noise_map_scale == (0.0, 10.0, 20.0, 30.0, 40.0)
    shares = changed(editor=nmg.MasaCtrl(start_step=0.3), steps=50)
    assert sketched(shares, 5).editor == shares.editor and sketched(shares, 5).guidance == shares.guidance


def test_few_steps_have_no_sketch():
    assert sketched(changed(steps=5), 5) is None
