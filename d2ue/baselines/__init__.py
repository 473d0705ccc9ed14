"""The other rows of Table 1, a file a method, each readable on its own from top to bottom.

Every method has `train(images, preset, job)`, which gives a network, and `score(network, images)`,
which gives image scores and maps, higher = more abnormal. It imports torch, errors and progress
alone; what is kept of it and how tables show it is the business of `d2ue.experiments`.

Two presets: **published** has the networks, sizes, weights and steps of the released code;
**small** is ours, for a laptop: 64 x 64 pixels, and the teacher that comes as a package. Results of
the second are never set beside the paper's numbers.
"""

from d2ue.baselines.blocks import Job
from d2ue.baselines.methods import METHODS, Method, find_method

__all__ = ["METHODS", "Job", "Method", "find_method"]
