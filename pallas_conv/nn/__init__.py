"""The documented layers: `equinox`; `inox`, which needs that package and is imported as `pallas_conv.inox`; `convert`."""
