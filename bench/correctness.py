"""Small and medium problems with awkward edges, on which every kernel must be right."""

from workloads.cases import Case


def _case(name, channels, spatial, kernel, op="conv", batch=2, **geometry) -> Case:
    n = len(spatial)
    full = {"stride": 1, "dilation": 1} | {k: geometry.pop(k) for k in ("stride", "dilation") if k in geometry}
    full = {k: (v,) * n if isinstance(v, int) else v for k, v in full.items()}
    padding = geometry.pop("padding", 0)
    padding = ((padding, padding),) * n if isinstance(padding, int) else padding
    return Case(name, op, batch, *channels, spatial, (kernel,) * n, padding=padding, **full, **geometry)


# Small enough for the interpreter, each with an edge: sizes that no tile divides, channels that no vector does.
SMALL = (
    _case("small_3x3", (16, 16), (9, 7), 3, padding=1),
    _case("small_f16", (8, 24), (6, 10), 3, padding=1, dtype="float16"),
    _case("small_stride_2", (16, 16), (9, 11), 3, padding=1, stride=2),
    _case("small_odd_channels", (3, 5), (8, 8), 3, padding=1, epilogue="bias+relu"),
    _case("small_crop", (8, 8), (9, 9), 3, padding=((-1, 2), (1, -2))),
    _case("small_dilated", (8, 16), (12, 9), 3, padding=2, dilation=2, epilogue="bias+silu"),
    _case("small_no_bias", (40, 8), (5, 5), 1, epilogue=None),
    _case("small_1d_causal", (8, 8), (20,), 3, padding=((8, 0),), dilation=4),
    _case("small_3d", (8, 8), (5, 4, 6), 3, padding=1),
    _case("small_transposed", (8, 8), (5, 4), 3, "conv_transpose", padding=1, stride=2, output_padding=(1, 1)),
    _case("small_grouped", (32, 32), (6, 6), 3, padding=1, groups=2),
    _case("small_depthwise", (16, 16), (9, 8), 3, padding=1, groups=16),
    _case("small_groups_of_3", (12, 12), (9, 8), 3, padding=1, groups=4),
    _case("small_2_in_9_out", (8, 36), (9, 8), 3, padding=1, groups=4),
    _case("small_65_taps", (8, 8), (70,), 65, padding=32),  # for which there is no kernel
    _case("small_f32", (8, 8), (6, 6), 3, padding=1, dtype="float32"),
)
MEDIUM = (
    _case("medium_3x3", (64, 128), (28, 28), 3, batch=8, padding=1),
    _case("medium_stride_2", (128, 128), (29, 27), 3, batch=5, padding=1, stride=2),
    _case("medium_7x7_maps", (256, 512), (7, 7), 3, batch=33, padding=1, epilogue="bias+relu"),
    _case("medium_1x1_s2", (256, 320), (14, 14), 1, batch=9, stride=2),
    _case("medium_stem", (3, 64), (64, 61), 7, batch=4, padding=3, stride=2),
    _case("medium_aspp", (264, 72), (33, 33), 3, batch=3, padding=12, dilation=12),
    _case("medium_f16", (192, 136), (20, 45), 3, batch=3, padding=1, dtype="float16", epilogue="bias+silu"),
    _case("medium_batch_1", (128, 128), (130, 67), 3, batch=1, padding=1),
    _case("medium_5x5", (72, 200), (17, 31), 5, batch=4, padding=2, epilogue=None),
    _case("medium_up", (128, 64), (16, 16), 2, "conv_transpose", batch=4, stride=2),
    _case("medium_3d", (32, 32), (16, 16, 16), 3, padding=1),
    _case("medium_1d", (128, 128), (1024,), 11, padding=25, dilation=5),
    _case("medium_one_image", (64, 64), (33, 33), 3, batch=1, padding=1),
    _case("medium_one_pixel", (128, 256), (1, 1), 4, "conv_transpose", batch=70),
    _case("medium_one_slice", (32, 48), (1, 17, 20), 3, padding=1),
    _case("medium_grouped", (96, 160), (19, 30), 3, batch=3, padding=1, groups=2, epilogue="bias+silu"),
    _case("medium_depthwise", (96, 96), (28, 28), 7, batch=4, padding=3, groups=96),
    _case("medium_f32", (64, 64), (28, 28), 3, batch=4, padding=1, dtype="float32"),
)
