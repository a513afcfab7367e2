def convert(model, to="pallas_conv", implementation=None):
    raise NotImplementedError


def convert_report(model):
    raise NotImplementedError
