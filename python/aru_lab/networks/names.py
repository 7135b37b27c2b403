"""Names of the networks and of their parts, without torch: the command line lists them."""

from __future__ import annotations

# classifier.py builds the models and lists the parameters of the parts.
MODELS = ("arun", "gamma-homogeneous", "gamma-heterogeneous", "relu", "lstm", "gru")
# Those whose gain and saturation, n and s, are parameters.
GAMMA = ("gamma-homogeneous", "gamma-heterogeneous")
# Those with a gain and a saturation.
ADAPTABLE = ("arun", *GAMMA)
# Those whose neurons have one pre-activation, to which a drive is added; the paper defines drives for no others.
DRIVABLE = (*ADAPTABLE, "relu")
PARTS = ("activation", "recurrent", "readout", "encoder")
