"""The ConvNet and its activation, against their definitions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_distillation.networks import (
    NETWORKS,
    ConvNet,
    Convolution,
    check_size,
    is_body,
    make_network,
    max_pool,
    relu,
    smooth_relu,
)


def by_hand(network, x):
    """The outputs of a ConvNet in NumPy, pixel by pixel."""
    for layer in network.layers:
        weight, p = np.asarray(layer.weight), layer.padding
        x = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
        height, width = x.shape[1] - 2, x.shape[2] - 2
        out = np.zeros((len(x), height, width, weight.shape[-1]))
        for i in range(height):
            for j in range(width):
                patch = x[:, i : i + 3, j : j + 3, :]
                out[:, i, j] = np.einsum("nabc,abco->no", patch, weight)
        x = np.maximum(out + np.asarray(layer.bias), 0)
        n, _, _, c = x.shape
        x = x.reshape(n, height // 2, 2, width // 2, 2, c).mean(axis=(2, 4))
    features = x.reshape(len(x), -1)
    return features, features @ np.asarray(network.head.weight) + np.asarray(network.head.bias)


def random_biases(network):
    """Zero biases would hide a missing one."""
    leaves, structure = jax.tree.flatten(network)
    rng = np.random.default_rng(0)
    leaves = [jnp.asarray(rng.normal(size=a.shape)) if a.ndim == 1 else a for a in leaves]
    return jax.tree.unflatten(structure, leaves)


@pytest.mark.parametrize(("shape", "padding"), [((4, 8, 3), 0), ((6, 6, 1), 1)])
def test_outputs_equal_numpy_convolutions_and_pools(x64, getkey, shape, padding):
    network = ConvNet(shape, 3, width=2, depth=2, padding=padding, key=getkey())
    network = random_biases(network)
    x = np.random.default_rng(1).normal(size=(5, *shape))
    features, outputs = by_hand(network, x)
    np.testing.assert_allclose(network.features(jnp.asarray(x)), features, atol=1e-12)
    np.testing.assert_allclose(network(jnp.asarray(x)), outputs, atol=1e-12)
    both = network.features_and_outputs(jnp.asarray(x))
    np.testing.assert_allclose(both[1], outputs, atol=1e-12)


def test_width_doubles_and_images_halve(getkey):
    network = ConvNet((32, 32, 3), 7, width=4, depth=3, key=getkey())
    shapes = [layer.weight.shape for layer in network.layers]
    assert shapes == [(3, 3, 3, 4), (3, 3, 4, 8), (3, 3, 8, 16)]
    assert network.head.weight.shape == (4 * 4 * 16, 7)
    assert jax.eval_shape(network, jnp.zeros((2, 32, 32, 3))).shape == (2, 7)


def test_padding_makes_32_of_28_in_the_first_layer_alone(getkey):
    network = ConvNet((28, 28, 1), 10, width=2, depth=3, padding=2, key=getkey())
    assert [layer.padding for layer in network.layers] == [3, 1, 1]
    x = jnp.zeros((1, 28, 28, 1))
    assert network.layers[0](x).shape == (1, 32, 32, 2)
    assert network.features(x).shape == (1, 4 * 4 * 8)


def test_weights_are_lecun_normal_and_biases_zero(getkey):
    network = ConvNet((8, 8, 3), 500, width=128, depth=2, key=getkey())
    for weight, inputs in [
        (network.layers[0].weight, 9 * 3),
        (network.layers[1].weight, 9 * 128),
        (network.head.weight, 4 * 256),
    ]:
        # The variance of n normal numbers is right to sqrt(2/n): five times that here.
        slack = 5 * np.sqrt(2 / weight.size)
        assert float(jnp.var(weight)) * inputs == pytest.approx(1, abs=slack)
        assert abs(float(jnp.mean(weight))) < 5 / np.sqrt(inputs * weight.size)
    for layer in (*network.layers, network.head):
        assert not jnp.any(layer.bias)


def test_other_keys_give_other_weights_and_no_two_layers_share_theirs(getkey):
    key = getkey()
    networks = [ConvNet((4, 4, 1), 2, width=2, depth=2, key=k) for k in (key, key, getkey())]
    first, same, other = [net.layers[0].weight for net in networks]
    assert jnp.array_equal(first, same) and not jnp.any(first == other)
    flat = jnp.concatenate([w.ravel() * jnp.sqrt(w.size / w.shape[-1]) for w in (
        networks[0].layers[0].weight, networks[0].layers[1].weight, networks[0].head.weight
    )])  # fmt: skip
    assert len(np.unique(np.asarray(flat))) == flat.size


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ((28, 28, 3, 0), r"^images of 28 x 28 .* padding=0 cannot be halved depth=3 .* 8 divides"),
        ((8, 12, 3, 0), r"^images of 8 x 12 pixels .* 8 divides 12\.$"),
        ((4, 4, 3, 0), r"^images of 4 x 4 pixels .* choose another depth, padding or resolution"),
        ((8, 8, 0, 0), r"^depth=0 leaves no layer: give 1 or more\.$"),
    ],
)
def test_sizes_that_cannot_be_halved_are_said(getkey, size, sentence):
    height, width, depth, padding = size
    with pytest.raises(ValueError, match=sentence) as error:
        check_size(height, width, depth, padding)
    assert str(error.value).count(".") == 1
    with pytest.raises(ValueError, match=sentence):
        ConvNet((height, width, 1), 2, depth=depth, padding=padding, key=getkey())


def test_the_body_is_all_but_the_weight_of_the_head(getkey):
    network = ConvNet((4, 4, 1), 2, width=2, depth=2, key=getkey())
    spec = is_body(network)
    left_out = [
        jax.tree_util.keystr(path)
        for path, kept in jax.tree_util.tree_leaves_with_path(spec)
        if not kept
    ]
    assert left_out == [".head.weight"]
    assert len(jax.tree.leaves(spec)) == len(jax.tree.leaves(network)) == 6


def test_smooth_relu_is_softplus_of_60_x(x64):
    x = jnp.concatenate([jnp.linspace(-0.3, 0.3, 61), jnp.array([0.0, -50.0, 50.0, 1e-9])])

    def expected(x):
        return jax.nn.softplus(60 * x) / 60

    np.testing.assert_allclose(smooth_relu(x), expected(x), rtol=1e-12)
    first, second = jax.grad(smooth_relu), jax.grad(jax.grad(smooth_relu))
    once, twice = jax.grad(expected), jax.grad(jax.grad(expected))
    np.testing.assert_allclose(jax.vmap(first)(x), jax.vmap(once)(x), rtol=1e-12, atol=1e-15)
    # The second derivative of JAX's softplus loses digits to cancellation.
    np.testing.assert_allclose(jax.vmap(second)(x), jax.vmap(twice)(x), rtol=1e-6, atol=1e-12)
    kink = jnp.zeros(())
    assert float(first(kink)) == 0.5 and float(second(kink)) == pytest.approx(15.0)
    np.testing.assert_allclose(jax.jvp(smooth_relu, (x,), (2 * x,))[1], 2 * x * jax.vmap(first)(x))


def test_smooth_relu_does_not_overflow_in_float32():
    x = jnp.array([-1e30, -100.0, 100.0, 1e30], jnp.float32)
    np.testing.assert_array_equal(smooth_relu(x), relu(x))
    np.testing.assert_array_equal(jax.vmap(jax.grad(smooth_relu))(x), [0, 0, 1, 1])


@pytest.mark.parametrize("inputs", [2, 64])
@pytest.mark.parametrize(("size", "stride", "padding"), [(1, 2, 0), (3, 2, 1), (5, 1, 2)])
def test_convolutions_equal_numpy(x64, getkey, size, stride, padding, inputs):
    layer = random_biases(
        Convolution(inputs, 3, size=size, stride=stride, padding=padding, key=getkey())
    )
    x = np.random.default_rng(1).normal(size=(4, 7, 8, inputs))
    around = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = ((side + 2 * padding - size) // stride + 1 for side in (7, 8))
    expected = np.zeros((4, height, width, 3))
    for i in range(height):
        for j in range(width):
            a, b = i * stride, j * stride
            patch = around[:, a : a + size, b : b + size]
            expected[:, i, j] = np.einsum("nabc,abco->no", patch, np.asarray(layer.weight))
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected + np.asarray(layer.bias), atol=1e-12)


def test_maximum_pooling_and_its_derivatives(x64):
    x = np.random.default_rng(1).normal(size=(2, 5, 4, 3))
    expected = x[:, :4].reshape(2, 2, 2, 2, 2, 3).max((2, 4))
    np.testing.assert_array_equal(max_pool(jnp.asarray(x)), expected)

    def gradient(x):
        return jax.grad(lambda x: jnp.sum(max_pool(x) ** 3))(x)

    direction = np.random.default_rng(2).normal(size=x.shape)
    found = jax.jvp(gradient, (jnp.asarray(x),), (jnp.asarray(direction),))[1]
    step = 1e-6
    difference = (gradient(x + step * direction) - gradient(x - step * direction)) / (2 * step)
    np.testing.assert_allclose(found, difference, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "norm"),
    [("convnet", "group"), ("resnet18", "batch"), ("vgg11", "layer"), ("alexnet", "instance")],
)
def test_each_network_has_finite_derivatives_of_second_order(x64, getkey, name, norm):
    network = make_network(name, (8, 8, 3), 4, width=2, depth=2, norm=norm, key=getkey())
    images = jax.random.normal(getkey(), (3, 8, 8, 3))
    moving, rest = eqx.partition(network, eqx.is_inexact_array)

    @jax.jit
    def both(moving, images):
        def loss(moving):
            return jnp.sum(eqx.combine(moving, rest)(images) ** 2)

        return jax.jvp(jax.grad(loss), (moving,), (moving,))

    gradient, product = both(moving, images)
    for tree in (gradient, product):
        leaves = jax.tree.leaves(tree)
        assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in leaves)
    assert bool(jnp.any(gradient.head.weight != 0)) and bool(jnp.any(product.head.weight != 0))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("shape", "padding"), [((32, 32, 3), 0), ((28, 28, 1), 2), ((64, 64, 3), 0), ((8, 8, 1), 0)]
)
def test_each_network_takes_each_usual_size(name, shape, padding):
    def outputs(key, x):
        network = make_network(name, shape, 7, width=2, padding=padding, key=key)
        return network.features_and_outputs(x)

    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    features, out = jax.eval_shape(outputs, jax.random.key(0), x)
    assert out.shape == (2, 7)
    side = shape[0] + 2 * padding
    expected = {
        "convnet": (side // 8) ** 2 * 8,
        "resnet18": 16,
        "vgg11": max(1, side // 32) ** 2 * 16,
        "alexnet": (side // 8) ** 2 * 3,
    }
    assert features.shape == (2, expected[name])


def test_the_usual_widths_and_numbers_of_parameters():
    def parameters(name):
        counts = []

        def count(key):
            network = make_network(name, (32, 32, 3), 10, norm="batch", key=key)
            body = eqx.filter(network, is_body(network))
            counts.append(sum(leaf.size for leaf in jax.tree.leaves(body)))

        jax.eval_shape(count, jax.random.key(0))
        return counts[0]

    # ResNet-18 for small images has 11,173,962: here each convolution has a bias (4,800), and the
    # weight of the last layer is left out (5,120).
    assert parameters("resnet18") == 11_173_962 + 4_800 - 5_120
    # VGG-11 with one linear layer: 9,231,114 with batch normalisation.
    assert parameters("vgg11") == 9_231_114 - 5_120
    assert (
        parameters("alexnet")
        == sum(
            size**2 * i * o + 3 * o
            for size, i, o in (
                (5, 3, 128),
                (5, 128, 192),
                (3, 192, 256),
                (3, 256, 192),
                (3, 192, 192),
            )
        )
        + 10
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(name="vgg"), r"^network='vgg' is not known: choose one of convnet, resnet18, vgg11"),
        (dict(name="vgg11", norm="bn"), r"^norm='bn' is not known: choose one of none, batch"),
        (dict(name="resnet18", shape=(4, 9, 1)), r"^images of 4 x 9 .* padding=0 are too small .*"),
        (dict(name="alexnet", shape=(4, 4, 1), padding=1), r"makes 8 x 8 of them\.$"),
        (dict(name="vgg11", norm="instance"), r"^norm standardises each of 16 channels alone"),
        (dict(name="resnet18", norm="instance"), r"single pixels there: give norm='none', 'batch'"),
        (dict(name="vgg11", padding=-1), r"^padding=-1 is negative: give 0 or more\.$"),
    ],
)
def test_networks_that_cannot_be_are_said(getkey, settings, sentence):
    given = dict(shape=(8, 8, 1)) | settings
    with pytest.raises(ValueError, match=sentence):
        make_network(given.pop("name"), given.pop("shape"), 3, width=2, key=getkey(), **given)
