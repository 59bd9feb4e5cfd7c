"""What the library computes, written again in plain NumPy: loops over rows, float64, no JAX.

Nothing here is taken from the library, so that one mistake cannot stand on both sides of a test.
"""

import numpy as np


def interpolate(partner, weight, x):
    """Row by row: weight of the row, the rest of its partner."""
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    return np.stack([weight[i] * x[i] + (1 - weight[i]) * x[partner[i]] for i in range(len(x))])


def interpolate_spatial(partner, mask, x):
    """Cell by cell, the mask brought to the grid of x."""
    x = np.asarray(x, np.float64)
    share = area_resample(mask, *x.shape[1:3])
    out = np.empty_like(x)
    for i, a, b in np.ndindex(x.shape[:3]):
        m = share[i, a, b, 0]
        out[i, a, b] = m * x[i, a, b] + (1 - m) * x[partner[i], a, b]
    return out


def area_resample(mask, height, width):
    """By way of the grid that both grids divide: repeat every cell, then average the blocks."""
    mask = np.asarray(mask, np.float64)
    rows, columns = mask.shape[1:3]
    fine = mask.repeat(height, axis=1).repeat(width, axis=2)
    blocks = fine.reshape(len(mask), height, rows, width, columns, 1)
    return blocks.mean((2, 4))


def partners(pairing, batch_size, groups=1, valid=None):
    """The partners under the rules that draw nothing: "roll" and "reverse"."""
    valid = [True] * batch_size if valid is None else valid
    out, size = list(range(batch_size)), batch_size // groups
    for group in range(groups):
        members = [i for i in range(group * size, (group + 1) * size) if valid[i]]
        others = members[::-1] if pairing == "reverse" else members[-1:] + members[:-1]
        for i, j in zip(members, others, strict=True):
            out[i] = j
    return out


def cutmix_mask(weight, centre, height, width):
    """0 inside the box around the centre, pixel by pixel."""
    mask = np.ones((len(weight), height, width, 1))
    for i, (proportion, (row, column)) in enumerate(zip(weight, centre, strict=True)):
        half_height = int(np.floor(height * np.sqrt(1 - proportion))) // 2
        half_width = int(np.floor(width * np.sqrt(1 - proportion))) // 2
        for a, b in np.ndindex(height, width):
            in_rows = row - half_height <= a < row + half_height
            in_columns = column - half_width <= b < column + half_width
            mask[i, a, b, 0] = 0 if in_rows and in_columns else 1
    return mask


def expected_cutmix_weight(size):
    """The mean weight of CutMix at alpha 1 on a square image: a sum over sides and centres."""
    total = 0.0
    for side in range(size):
        # The side is the floor of size * sqrt(u), u uniform.
        probability = ((side + 1) ** 2 - side**2) / size**2
        half = side // 2
        kept = [min(size, c + half) - max(0, c - half) for c in range(size)]
        total += probability * (1 - (np.mean(kept) / size) ** 2)
    return total


def cross_entropy(logits, targets):
    """-sum t log p, a value a row."""
    out = []
    for z, t in zip(np.asarray(logits, np.float64), np.asarray(targets, np.float64), strict=True):
        z = z - z.max()
        out.append(-sum(t[k] * (z[k] - np.log(np.exp(z).sum())) for k in range(len(z))))
    return np.array(out)


def binary_cross_entropy(logits, targets):
    """The mean over classes of -t log s(z) - (1 - t) log(1 - s(z)), a value a row."""
    out = []
    for z, t in zip(np.asarray(logits, np.float64), np.asarray(targets, np.float64), strict=True):
        p = 1 / (1 + np.exp(-z))
        out.append(np.mean(-t * np.log(p) - (1 - t) * np.log(1 - p)))
    return np.array(out)


def squared_error(prediction, targets):
    """The mean over outputs of (p - t)^2, a value a row."""
    p, t = np.asarray(prediction, np.float64), np.asarray(targets, np.float64)
    return np.array(
        [
            np.mean([(a - b) ** 2 for a, b in zip(*row, strict=True)])
            for row in zip(p, t, strict=True)
        ]
    )


def gap(prediction, target, distance, valid=None):
    """The mean over valid rows of a distance between representations."""
    keep = np.ones(len(target), bool) if valid is None else np.asarray(valid)
    p, t = (np.asarray(x, np.float64)[keep] for x in (prediction, target))
    if distance == "cosine":
        cells = zip(p.reshape(-1, p.shape[-1]), t.reshape(-1, p.shape[-1]), strict=True)
        norm = np.linalg.norm
        return np.mean([1 - u @ v / (norm(u) * norm(v)) for u, v in cells])
    power = 1 if distance == "l1" else 2
    result = np.mean([np.mean(np.abs(a - b) ** power) for a, b in zip(p, t, strict=True)])
    if distance == "normalised_mse" and len(t) > 1:
        features = t.reshape(len(t), -1)
        result /= np.mean([np.var(feature) for feature in features.T]) + 1e-6
    return result


def sem_mlp(
    params,
    image,
    label,
    partner,
    weight,
    *,
    mask=None,
    rows=None,
    sem_weight=1.0,
    clean_weight=0.0,
    reduction="sum",
    distance="mse",
    label_loss="ce",
    smoothing=0.0,
):
    """Semantic equivariant mixup of one tanh layer and a linear head, over the rows listed."""
    rows = list(range(len(image))) if rows is None else list(rows)
    w, head = np.float64(params["w"]), np.float64(params["head"])
    target = np.eye(head.shape[1])[label] if np.ndim(label) == 1 else np.float64(label)
    target = (1 - smoothing) * target + smoothing / head.shape[1]
    label_losses = {"ce": cross_entropy, "bce": binary_cross_entropy}[label_loss]

    mix = interpolate(partner, weight, image)
    if mask is not None:
        mix = interpolate_spatial(partner, mask, image)
    clean = np.tanh(np.float64(image).reshape(len(image), -1) @ w)
    mixed = np.tanh(mix.reshape(len(image), -1) @ w)
    mixed_target = interpolate(partner, weight, target)
    mixed_loss = label_losses(mixed @ head, mixed_target)[rows].mean()
    clean_loss = label_losses(clean @ head, target)[rows].mean()
    distances = gap(mixed[rows], interpolate(partner, weight, clean)[rows], distance)
    total = mixed_loss + clean_weight * clean_loss
    if reduction == "mean":
        total /= 1 + clean_weight

    hits = []
    for i in rows:
        guess, own, other = (
            row.argmax() for row in (mixed[i] @ head, target[i], target[partner[i]])
        )
        hits.append(weight[i] * (guess == own) + (1 - weight[i]) * (guess == other))
    return {
        "loss": total + sem_weight * distances,
        "mixed_loss": mixed_loss,
        "clean_loss": clean_loss,
        "gap": distances,
        "accuracy": np.mean(hits),
        "weight": np.mean([weight[i] for i in rows]),
    }


def sgd_steps(params, grads, *, rate, momentum, decay, clip_norm, nesterov=False):
    """Parameters after an SGD step for each dict of gradients: clip, decay of kernels, momentum."""
    params = {name: np.float64(value) for name, value in params.items()}
    velocity = {name: np.zeros_like(value) for name, value in params.items()}
    for grad in grads:
        norm = np.sqrt(sum((np.float64(g) ** 2).sum() for g in grad.values()))
        for name, value in params.items():
            g = np.float64(grad[name]) * min(1.0, clip_norm / norm)
            if value.ndim > 1:
                g = g + decay * value
            velocity[name] = momentum * velocity[name] + g
            step = g + momentum * velocity[name] if nesterov else velocity[name]
            params[name] = value - rate * step
    return params
