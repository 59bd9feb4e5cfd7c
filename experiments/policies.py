"""From flags to a policy: names joined by +, their options, when they are on, and who is paired."""

import ast
import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import optax

import semjax

POLICIES: dict[str, Callable[..., semjax.Policy]] = {
    "mixup": semjax.mixup,
    "cutmix": semjax.cutmix,
    "fmix": semjax.fmix,
    "resizemix": semjax.resizemix,
    "gridmix": semjax.gridmix,
    "smoothmix": semjax.smoothmix,
    "saliencymix": semjax.saliencymix,
    "attentive_cutmix": semjax.attentive_cutmix,
    "puzzlemix": semjax.puzzlemix,
    "alignmix": semjax.alignmix,
    "manifold_mixup": semjax.manifold_mixup,
    "noisy_feature_mixup": semjax.noisy_feature_mixup,
}
# Those that need to know the group of each row, which few data sets have.
GROUP_POLICIES: dict[str, Callable[..., semjax.Policy]] = {"lisa": semjax.lisa}
# What a policy asks the model for, as passes of B rows.
LOOKS_AT_MODEL = ("saliencymix", "attentive_cutmix", "puzzlemix", "alignmix")
NEEDS_FEATURE_MAP = ("attentive_cutmix", "alignmix")
# The rules whose attributes every labelled data set has, and those that need groups.
PAIRINGS = ("permutation", "derangement", "roll", "reverse", "same_class", "other_class")
GROUP_PAIRINGS = ("same_class_other_group", "other_class_same_group")
_FACTORIES = POLICIES | GROUP_POLICIES


def names(policy: str) -> list[str]:
    """The policies that --policy names; none for `none`.

    Args:
      policy: `none`, or names joined by +.

    Returns:
      The names.

    Raises:
      ValueError: a name that is none.

    Example:
      >>> names("cutmix+mixup")
      ['cutmix', 'mixup']
    """
    if policy == "none":
        return []
    found = policy.split("+")
    for name in found:
        if name not in _FACTORIES:
            near = difflib.get_close_matches(name, _FACTORIES, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(
                f"no policy {name!r}: {hint}allowed are none, or some of {', '.join(_FACTORIES)}, "
                "joined by +"
            )
    if len(set(found)) < len(found):
        raise ValueError("names a policy twice")
    return found


def looks_at_model(policy: str) -> bool:
    """Whether drawing the policy runs the model.

    Args:
      policy: as for `names`.

    Returns:
      A bool.

    Example:
      >>> looks_at_model("mixup+puzzlemix")
      True
    """
    return any(name in LOOKS_AT_MODEL for name in names(policy))


def has_option(name: str, option: str) -> bool:
    """Whether the policy of a name takes an option.

    Args:
      name: one of POLICIES or GROUP_POLICIES.
      option: a keyword of its factory.

    Returns:
      A bool.

    Example:
      >>> has_option("resizemix", "alpha")
      False
    """
    return option in inspect.signature(_FACTORIES[name]).parameters


def needs_groups(flags: Mapping[str, Any]) -> str:
    """What in the flags of a run looks at the group of a row.

    Args:
      flags: as for `build`.

    Returns:
      The flag and its value, or "" where nothing does.

    Example:
      >>> needs_groups({"policy": "lisa", "pairing": "roll", "policy_options": ""})
      '--policy=lisa'
    """
    members = names(flags["policy"])
    options = _options(flags["policy_options"], members)
    for name in members:
        if name in GROUP_POLICIES:
            return f"--policy={flags['policy']}"
        own = options.get(name, {}).get("pairing")
        if own in GROUP_PAIRINGS:
            return f"--policy_options={flags['policy_options']}"
        if own is None and flags["pairing"] in GROUP_PAIRINGS:
            return f"--pairing={flags['pairing']}"
    return ""


def mixed_layers(flags: Mapping[str, Any], hidden_layers: int) -> tuple[int, ...]:
    """The layers that the mixes of a run can be at: 0 the input, k the k-th hidden layer.

    Args:
      flags: as for `build`, which they passed.
      hidden_layers: as for `build`.

    Returns:
      The layers in order, none for `--policy=none`. Where batches are left as they are, by a
      schedule or by probabilities whose sum is below 1, the input is among them.

    Example:
      >>> flags = {"policy": "manifold_mixup", "policy_options": "", "policy_probabilities": ""}
      >>> always = {"mix_from_step": 0, "mix_until_step": 0, "mix_ramp_steps": 0}
      >>> mixed_layers({**flags, **always}, 3)
      (0, 1, 2)
    """
    members = names(flags["policy"])
    options = _options(flags["policy_options"], members)
    layers = {
        layer for name in members for layer in _layers(name, options.get(name, {}), hidden_layers)
    }
    rest = sum(_probabilities(flags["policy_probabilities"], len(members))) if members else 1.0
    if rest < 1 - 1e-6 or (members and _is_scheduled(flags)):
        layers.add(0)
    return tuple(sorted(layers))


def build(flags: Mapping[str, Any], hidden_layers: int) -> semjax.Policy | None:
    """Builds the policy of a run.

    Args:
      flags: its flags by name, the fields of a Config.
      hidden_layers: how many hidden layers the model offers; AlignMix mixes at the last.

    Returns:
      A policy, or None for `--policy=none`.

    Raises:
      ValueError: a flag or an option that cannot be; the message names it.
    """
    members = names(flags["policy"])
    if not members:
        return None
    options = _options(flags["policy_options"], members)
    built = [_member(name, flags, options.get(name, {}), hidden_layers) for name in members]
    shares = _probabilities(flags["policy_probabilities"], len(members))
    policy, scope = built[0], flags["policy_scope"]
    if len(members) > 1 or shares != [1.0]:
        policy = semjax.choose(dict(zip(built, shares, strict=True)), scope=scope)
    ramp = None
    if flags["mix_ramp_steps"]:
        ramp = optax.linear_schedule(0.0, 1.0, flags["mix_ramp_steps"], flags["mix_from_step"])
    if _is_scheduled(flags):
        window = (flags["mix_from_step"], flags["mix_until_step"] or None)
        policy = semjax.scheduled(policy, on=window, ramp=ramp)
    return policy


def _is_scheduled(flags: Mapping[str, Any]) -> bool:
    """Whether there are steps that leave the batch as it is."""
    return any(flags[f"mix_{name}"] for name in ("from_step", "until_step", "ramp_steps"))


def _layers(name: str, options: Mapping[str, Any], hidden_layers: int) -> tuple[int, ...]:
    """The layers that a policy with these options of its own mixes at."""
    known = inspect.signature(_FACTORIES[name]).parameters
    if "layer" in known:
        return (options.get("layer", hidden_layers),)
    default = known["layers"].default if "layers" in known else (0,)
    return tuple(options.get("layers", default))


def _member(
    name: str, flags: Mapping[str, Any], options: dict[str, Any], hidden_layers: int
) -> semjax.Policy:
    factory = _FACTORIES[name]
    known = inspect.signature(factory).parameters
    pairing: Any = flags["pairing"]
    if pairing == "near_label":
        pairing = semjax.near_label(bandwidth=flags["pairing_bandwidth"])
    common: dict[str, Any] = {
        "weight_scope": flags["weight_scope"],
        "probability": flags["mix_probability"],
        "pairing": pairing,
        "groups": flags["pairing_groups"],
    }
    # LISA pairs and weights by rules of its own.
    common = {option: value for option, value in common.items() if option in known}
    if flags["alpha"] and has_option(name, "alpha"):
        common["alpha"] = flags["alpha"]
    if name == "cutmix":
        common["correction"] = flags["correction"]
    if name == "alignmix":
        common["layer"] = hidden_layers
    # Every policy can be mixed at hidden layers and with noise; one that draws its layer does so.
    wrappers = () if "layer" in known else tuple(sorted({"layers", "noise"} - set(known)))
    if unknown := sorted(set(options) - set(known) - set(wrappers)):
        raise ValueError(
            f"--policy_options: {name} has no option {unknown[0]!r}; it has "
            f"{', '.join((*known, *wrappers))}"
        )
    own = {option: value for option, value in options.items() if option not in wrappers}
    try:
        policy = factory(**{**common, **own})
        if "layers" in wrappers and "layers" in options:
            policy = semjax.at_layers(policy, layers=options["layers"])
        if "noise" in wrappers and "noise" in options:
            add, multiply = options["noise"]
            policy = semjax.with_noise(policy, add=add, multiply=multiply)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--policy={name}: {error}") from error
    layers = _layers(name, options, hidden_layers)
    if max(layers) > hidden_layers:
        raise ValueError(
            f"--policy_options: {name} mixes at the layers {layers}; --model={flags['model']} "
            f"offers the layers 0 to {hidden_layers}"
        )
    return policy


def _options(text: str, members: list[str]) -> dict[str, dict[str, Any]]:
    """Options by policy, from `fmix.decay_power=2;manifold_mixup.layers=(0,1)`."""
    options: dict[str, dict[str, Any]] = {}
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        path, equals, value = entry.partition("=")
        name, dot, option = path.strip().partition(".")
        if not (equals and dot and option):
            raise ValueError(f"--policy_options: found {entry!r}; write POLICY.OPTION=VALUE")
        if name not in members:
            raise ValueError(
                f"--policy_options: {name!r} is not part of --policy={'+'.join(members) or 'none'}"
            )
        try:
            options.setdefault(name, {})[option.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:  # nested too deeply
            raise ValueError(
                f"--policy_options: {entry!r}: the value must be a number, True, False, None, a "
                "quoted text or a tuple of these"
            ) from error
    return options


def _probabilities(text: str, count: int) -> list[float]:
    if not text:
        return [1 / count] * count
    try:
        shares = [float(share) for share in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) != count or min(shares) < 0 or sum(shares) > 1 + 1e-6:
        raise ValueError(
            f"--policy_probabilities={text}: must be {count} numbers of at least 0, joined by "
            "commas, one for each policy, with a sum of at most 1"
        )
    return shares
