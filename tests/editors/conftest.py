import pytest

from nmg import Backbone
from tests.families import sd3


@pytest.fixture(scope="package")
def models(backbone, build):
    """A small model that predicts noise, one that predicts a velocity, and a flow; in double precision."""
    velocity, flow = build("v_prediction"), sd3()
    velocity.unet.double()
    flow.transformer.double()
    return {"noise": backbone, "velocity": Backbone(velocity), "flow": Backbone(flow)}


@pytest.fixture(params=["noise", "velocity", "flow"])
def model(request, models):
    return models[request.param]
