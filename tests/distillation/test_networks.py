"""The ConvNet and its activation, against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_distillation.networks import ConvNet, check_size, is_body, relu, smooth_relu


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
