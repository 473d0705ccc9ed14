"""An earlier name of `d2ue.detector.saved`, for scripts that import it."""

from d2ue.detector.saved import attach, load, load_any, save

__all__ = ["attach", "load", "load_any", "save"]
