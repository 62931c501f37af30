"""From a table of normal rows to a bundle: the steps of a fit, in order."""

from anomvae.fitting.fit import FitResult, fit_bundle
from anomvae.fitting.settings import FitSettings, settings_from_toml

__all__ = ["FitResult", "FitSettings", "fit_bundle", "settings_from_toml"]
