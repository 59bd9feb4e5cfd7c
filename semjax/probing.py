"""What a policy may ask of the model before it draws: saliency maps and feature maps."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from semjax.hidden import run_model
from semjax.outputs import ApplyFn, Outputs
from semjax.targets import as_targets, label_values


class Probe(Protocol):
    """What a policy that looks at the model is handed; what it does not ask for costs nothing."""

    def saliency(self) -> jax.Array:
        """f32[B, H, W]: how much each pixel moves the label loss of its row."""

    def features(self) -> jax.Array:
        """f32[B, h, w, D]: the feature map of the rows as they are."""

    def images(self) -> jax.Array:
        """[B, H, W, C]: the rows as they are."""

    def fresh(self) -> "Probe":
        """The same probe with nothing remembered, for a branch that is traced apart."""


def _cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    return label_values("ce", logits, as_targets(label, logits))


class ModelProbe:
    """Asks a model on the rows of a batch, without a gradient to its parameters.

    | question | passes over the B rows |
    |---|---|
    | saliency | one forward and one backward |
    | features | one forward |
    | images | none |

    Saliency and features together cost the first alone; asking again costs nothing. The model runs
    in the mode that apply_fn runs in (training, as a rule), and its new state is thrown away.

    Args:
      apply_fn: as for `make_sem_loss`. No hidden layer is mixed.
      params: its parameters.
      batch: `image` floating [B, H, W, C], or a tree of inputs whose first image counts; `label`,
        and optionally `valid`, whose other rows are set to 0.
      key: of the forward pass; consumed.
      label_loss: `f(logits, label) -> f32[B]`, the loss that saliency is the gradient of.
      axis_name: the axis the batch is sharded over, or None; answers are of the global batch.

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> def apply_fn(params, images, rng):
      ...     return semjax.Outputs(logits=images.sum(-1).reshape(len(images), -1) @ params)
      >>> batch = {"image": jnp.ones((2, 2, 2, 3)), "label": jnp.array([0, 1])}
      >>> probe = semjax.ModelProbe(apply_fn, jnp.eye(4), batch, jax.random.key(0))
      >>> probe.saliency().shape
      (2, 2, 2)

    References:
      Simonyan et al. 2013, Deep inside convolutional networks (arXiv:1312.6034), for the gradient;
      Kim et al. 2020, Puzzle Mix (arXiv:2009.06962), section 3.1, for its norm over channels.
    """

    def __init__(
        self,
        apply_fn: ApplyFn,
        params: Any,
        batch: Mapping[str, Any],
        key: jax.Array,
        *,
        label_loss: Callable[[jax.Array, jax.Array], jax.Array] = _cross_entropy,
        axis_name: str | None = None,
    ) -> None:
        """Remembers what to ask; runs nothing."""
        self._arguments = (apply_fn, params, batch, key)
        self._label_loss, self._axis_name = label_loss, axis_name
        self._answers: dict[str, jax.Array] = {}

    def saliency(self) -> jax.Array:
        """The norm over channels of the gradient of each row's label loss, f32[B, H, W].

        Raises:
          ValueError: images that are not [B, H, W, C].
        """
        if "saliency" not in self._answers:
            _, images, put = self._inputs()
            if images.ndim != 4:
                raise ValueError(f"saliency needs images [B, H, W, C]; found shape {images.shape}")
            gradient, outputs = jax.grad(lambda x: self._loss(put(x)), has_aux=True)(images)
            squared = jnp.square(gradient.astype(jnp.float32)).mean(-1)
            self._answers["saliency"] = self._gathered(jnp.sqrt(squared))
            self._remember(outputs)
        return self._answers["saliency"]

    def features(self) -> jax.Array:
        """The feature map of each row, f32[B, h, w, D].

        Raises:
          ValueError: apply_fn returns none, neither as feature_map nor as a representation of rank
            4.
        """
        if "features" not in self._answers:
            _, outputs = self._loss(self._inputs()[0])
            self._remember(outputs)
        if "features" not in self._answers:
            raise ValueError(
                "the policy needs a feature map [B, h, w, D] from apply_fn, as Outputs.feature_map "
                "or as a representation of rank 4; found neither"
            )
        return self._answers["features"]

    def images(self) -> jax.Array:
        """The rows as they are, [B, H, W, C]."""
        return self._gathered(self._inputs()[1])

    def fresh(self) -> "ModelProbe":
        """The same probe with nothing remembered."""
        apply_fn, params, batch, key = self._arguments
        options: dict[str, Any] = {"label_loss": self._label_loss, "axis_name": self._axis_name}
        return ModelProbe(apply_fn, params, batch, key, **options)

    def _inputs(self) -> tuple[Any, jax.Array, Callable[[jax.Array], Any]]:
        """What the model is fed, the images in it, and how to put others in their place."""
        tree = jax.tree.map(self._without_padding, self._arguments[2]["image"])
        leaves, structure = jax.tree.flatten(tree)
        place = next((i for i, leaf in enumerate(leaves) if leaf.ndim == 4), 0)

        def put(images: jax.Array) -> Any:
            return jax.tree.unflatten(structure, [*leaves[:place], images, *leaves[place + 1 :]])

        return tree, leaves[place], put

    def _without_padding(self, x: Any) -> jax.Array:
        x, valid = jnp.asarray(x), self._arguments[2].get("valid")
        if valid is None:
            return x
        # As the loss does it: padding may hold anything, and batch statistics see every row.
        return jnp.where(jnp.asarray(valid).reshape((-1,) + (1,) * (x.ndim - 1)), x, 0)

    def _loss(self, inputs: Any) -> tuple[jax.Array, Outputs]:
        apply_fn, params, batch, key = self._arguments
        # A clone is not consumed: both questions may be asked.
        key = jax.random.clone(key)
        outputs = run_model(apply_fn, jax.lax.stop_gradient(params), inputs, key)
        values = self._label_loss(outputs.logits, self._without_padding(batch["label"]))
        valid = batch.get("valid")
        values = values if valid is None else jnp.where(valid, values, 0.0)
        return values.sum(), outputs

    def _remember(self, outputs: Outputs) -> None:
        features = outputs.feature_map
        if features is None:
            features = outputs.representation
        if features is not None and features.ndim == 4:
            features = jax.lax.stop_gradient(jnp.asarray(features, jnp.float32))
            self._answers["features"] = self._gathered(features)

    def _gathered(self, x: jax.Array) -> jax.Array:
        if self._axis_name is None:
            return x
        return jax.lax.all_gather(x, self._axis_name, tiled=True)


def asked(probe: Any, policy: str) -> Probe:
    """The probe, or a clear error where a policy that needs one got none.

    Args:
      probe: what the policy was handed.
      policy: the policy's name, for the message.

    Returns:
      The probe.

    Raises:
      ValueError: there is none.

    Example:
      >>> from semjax.probing import asked
      >>> asked(None, "saliencymix")
      Traceback (most recent call last):
      ...
      ValueError: saliencymix looks at the model: draw it inside make_sem_loss, or ...
    """
    if probe is None:
        raise ValueError(
            f"{policy} looks at the model: draw it inside make_sem_loss, or hand apply_fn and "
            "params to draw_mix. It cannot be drawn for gradient accumulation, which draws before "
            "any pass"
        )
    return probe
